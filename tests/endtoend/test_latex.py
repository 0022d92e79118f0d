"""The LaTeX report, as a paper would take it: `\\input` into two columns, without a warning."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

PAPER = r"""\documentclass[twocolumn]{article}
\usepackage[T1]{fontenc}
\usepackage{lmodern}
\usepackage{booktabs}
\begin{document}
Verdicts: Table~\ref{tab:testbed-modular}.
\input{report.tex}
\end{document}
"""


def test_the_latex_report_compiles_without_warnings(demo: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    if shutil.which("pdflatex") is None:
        assert "CI" not in os.environ, "continuous integration installs TeX"
        pytest.skip("pdflatex is not installed")
    shutil.copy(Path(demo[1]["report_file"]).with_suffix(".tex"), tmp_path)
    (tmp_path / "paper.tex").write_text(PAPER, "utf-8")
    for _ in range(2):  # the second pass knows the labels
        arguments = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
        done = subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stdout[-2000:]
    log = (tmp_path / "paper.log").read_text("latin-1")
    said = [line for line in log.splitlines() if line.startswith(("LaTeX Warning", "Overfull", "Underfull", "! "))]
    assert said == []
    assert (tmp_path / "paper.pdf").stat().st_size > 10_000
