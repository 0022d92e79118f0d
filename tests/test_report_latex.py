"""The LaTeX report in a two-column paper: no warning, no box too full, tables and figures that can be taken out."""

from __future__ import annotations

import copy
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from browser import need
from synthetic import enlarged

from prereg_moe import canonical, render, rendering, templating
from prereg_moe.report import draw

ROOT = Path(__file__).parents[1]
TEXT = "Experts are chosen by a router, and a claim about them is only as good as what it was compared with. " * 12
PAPER = r"""\documentclass[twocolumn]{article}
\usepackage[T1]{fontenc}
\usepackage{lmodern}
\usepackage{booktabs,graphicx}
\raggedbottom
\begin{document}
\section{Results}
%(text)s

%(body)s

%(text)s
{\raggedright
\bibliographystyle{plain}
\bibliography{report}
}
\end{document}
"""


@pytest.fixture(scope="module")
def document() -> Any:
    return canonical.read(ROOT / "reports/testbed/verdict.json")


def run(folder: Path, *command: str) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace", timeout=120)
    assert done.returncode == 0, done.stdout[-2000:]
    return done.stdout


def compiled(folder: Path, body: str) -> str:
    """Return the log of the last of the passes a paper takes."""
    latex = (need("pdflatex"), "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", "paper.tex")
    (folder / "paper.tex").write_text(PAPER % {"text": TEXT, "body": body}, "utf-8")
    run(folder, *latex)
    if "\\cite" in body or "\\input" in body:
        assert "Warning" not in run(folder, need("bibtex"), "paper")
    run(folder, *latex)
    run(folder, *latex)
    return (folder / "paper.log").read_text("utf-8", "replace")


def complaints(log: str) -> list[str]:
    return re.findall(r"^.*(?:Warning|Overfull|Underfull|undefined).*$", log, re.MULTILINE)


def write(folder: Path, document: Any, *, figures: bool) -> str:
    for format_ in ("tex", "bib"):
        template = templating.reports()[f"report.{format_}.j2"]
        (folder / f"report.{format_}").write_text(render(document, template, format_), "utf-8")
    if figures:
        (folder / "figures").mkdir()
        for name, made in draw(document, ["pdf"]).items():
            if "modular" in name or "curve-" in name:
                (folder / name).write_bytes(made)
    return (folder / "report.tex").read_text("utf-8")


@pytest.mark.parametrize("figures", [True, False])
def test_a_two_column_paper_takes_the_whole_report(figures: bool, document: Any, tmp_path: Path) -> None:
    if figures:
        pytest.importorskip("matplotlib")
    write(tmp_path, document, figures=figures)
    log = compiled(tmp_path, r"\input{report}")
    assert complaints(log) == []
    assert ("forest-modular.pdf" in log) == figures


def test_a_two_column_paper_takes_a_report_on_published_numbers_with_its_figures(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    document = canonical.read(ROOT / "reports/command-a-plus/verdict.json")
    text = rendering.render(document, templating.reports("summary")["report.tex.j2"], "tex")
    (tmp_path / "report.tex").write_text(text, "utf-8")
    (tmp_path / "report.bib").write_text("@misc{none, key = {none}, title = {None}}\n", "utf-8")
    (tmp_path / "figures").mkdir()
    for name, made in rendering.draw(document, ["pdf"]).items():
        (tmp_path / name).write_bytes(made)
    log = compiled(tmp_path, r"\input{report}\nocite{none}")
    assert complaints(log) == []
    assert all(f"{name}.pdf" in log for name in ("margin-point", "margin-ci", "printed"))


def test_one_table_can_be_copied_out(document: Any, tmp_path: Path) -> None:
    text = write(tmp_path, document, figures=False)
    table = re.search(r"\\begin\{table\*\}.*?\\end\{table\*\}", text, re.DOTALL)
    fit = re.search(r"\\providecommand\{\\preregfit\}.*", text)
    assert table is not None
    assert fit is not None
    assert complaints(compiled(tmp_path, f"{fit[0]}\n{table[0]}\n\\nocite{{*}}\\cite{{prereg-holm}}")) == []


def test_a_hundred_families_continue_in_another_table(document: Any, tmp_path: Path) -> None:
    text = write(tmp_path, enlarged(document, axes=90, layers=2, experts=8, size=1, draws=99), figures=False)
    assert text.count("(Continued.)") == 4 * 2  # ninety rows in three tables, four blocks
    assert complaints(compiled(tmp_path, r"\input{report}")) == []


def test_long_names_shrink_a_table_and_never_leave_the_page(document: Any, tmp_path: Path) -> None:
    document = copy.deepcopy(document)
    for entry in document["verdicts"]:
        entry["family"] = f"the family of {entry['family']} in the third of the registered layers"
    write(tmp_path, document, figures=False)
    assert complaints(compiled(tmp_path, r"\input{report}")) == []
