"""The main job on real models, real text and real lm-eval, from one command to an audited report."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

import prereg_moe.lab.testbed as testbed
from tests.endtoend.studies import command, evidence_digests

FIELDS = {"claim", "model", "family", "axis", "measure", "rule", "tier", "verdict", "reasons", "flags", "estimates"}
FIELDS |= {"p", "p_adjusted", "margin"}


@pytest.fixture(scope="module")
def document(demo: tuple[Path, dict[str, Any]]) -> dict[str, Any]:
    return json.loads(Path(demo[1]["verdict_file"]).read_bytes())


def block(document: dict[str, Any], name: str) -> list[dict[str, Any]]:
    return [entry for entry in document["verdicts"] if entry["block"] == name]


def test_the_last_line_names_registration_head_and_verdict(demo: tuple[Path, dict[str, Any]]) -> None:
    root, summary = demo
    document = json.loads(Path(summary["verdict_file"]).read_bytes())
    assert document["registration"] == summary["registration"]
    assert summary["head"].startswith("sha256:")
    assert json.loads(command("status", "--root", root, "--json").stdout)["head"] == summary["head"]


def test_every_verdict_has_the_documented_fields(document: dict[str, Any]) -> None:
    assert len(document["verdicts"]) == 48
    assert all(set(entry) >= FIELDS for entry in document["verdicts"])


def test_the_planted_modules_are_all_confirmed(document: dict[str, Any]) -> None:
    assert [entry["verdict"] for entry in block(document, "planted")] == ["CONFIRMED"] * 8


def test_the_atlas_gives_the_planted_families_exactly(document: dict[str, Any]) -> None:
    axes = testbed.AXES  # the order they were planted in
    families = {entry["name"]: entry["cells"] for entry in document["families"] if entry["model"] == "planted"}
    truth = {
        axis: [[layer, list(range(4 * index, 4 * index + 4))] for layer in range(4)] for index, axis in enumerate(axes)
    }
    assert families == truth


def test_nothing_is_confirmed_where_routing_was_random(document: dict[str, Any]) -> None:
    assert all(entry["verdict"] != "CONFIRMED" for entry in block(document, "randomised"))


def test_the_controls_hold_and_the_subject_is_judged(document: dict[str, Any]) -> None:
    assert [control["holds"] for control in document["controls"]] == [True, True]
    assert all(entry["verdict"] != "INVALID" for entry in document["verdicts"])
    on = [entry["estimates"]["on"] for entry in block(document, "modular")]
    assert all(one["low"] < one["estimate"] < one["high"] for one in on)


def test_the_report_says_why_the_randomised_routing_means_nothing(demo: tuple[Path, dict[str, Any]]) -> None:
    text = Path(demo[1]["report_file"]).read_text("utf-8")
    assert "its routing looks specialised, and masking shows that nothing depends on it" in text


def test_replication_counts_blocks_that_confirm(document: dict[str, Any]) -> None:
    found = {entry["family"]: entry for entry in document["replications"]}
    both = {
        name: {entry["family"]: entry["verdict"] for entry in block(document, name)}
        for name in ("modular", "replication")
    }
    for family, entry in found.items():
        assert entry["confirmed"] == sum(verdicts[family] == "CONFIRMED" for verdicts in both.values())
        assert (entry["verdict"] == "CONFIRMED") == (entry["confirmed"] == 2)


def test_a_second_run_does_nothing(demo: tuple[Path, dict[str, Any]]) -> None:
    root, summary = demo
    before = evidence_digests(root, "testbed")
    done = command("run", "testbed", "--root", root, "--json")
    said = json.loads(done.stdout)
    assert (said["computed"], said["head"]) == (0, summary["head"])
    assert evidence_digests(root, "testbed") == before


def test_the_audit_needs_only_the_folder_and_the_head(demo: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    root, summary = demo
    shutil.copytree(root, tmp_path / "copy")
    done = command("audit", tmp_path / "copy", "--head", summary["head"], "--json")
    assert done.returncode == 0, done.stdout
    findings = json.loads(done.stdout)["registrations"][0]["findings"]
    assert [finding["outcome"] for finding in findings] == ["holds"] * 9


PAPER = r"""\documentclass[twocolumn]{article}
\usepackage[T1]{fontenc}
\usepackage{lmodern}
\usepackage{booktabs,graphicx}
\raggedbottom
\begin{document}
Verdicts: Table~\ref{tab:testbed-modular}.
\input{report.tex}
{\raggedright
\bibliographystyle{plain}
\bibliography{report}
}
\end{document}
"""


def test_the_latex_report_compiles_without_warnings(demo: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    if shutil.which("pdflatex") is None:
        assert "CI" not in os.environ, "continuous integration installs TeX"
        pytest.skip("pdflatex is not installed")
    for suffix in (".tex", ".bib"):
        shutil.copy(Path(demo[1]["report_file"]).with_suffix(suffix), tmp_path)
    (tmp_path / "paper.tex").write_text(PAPER, "utf-8")
    latex = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    for arguments in (latex, ["bibtex", "paper"], latex, latex):  # citations, then their labels
        done = subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stdout[-2000:]
    log = (tmp_path / "paper.log").read_text("latin-1")
    said = [line for line in log.splitlines() if line.startswith(("LaTeX Warning", "Overfull", "Underfull", "! "))]
    assert said == []
    assert (tmp_path / "paper.pdf").stat().st_size > 10_000
