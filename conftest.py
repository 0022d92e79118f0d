"""Examples are tests: the Python in README.md, docs/*.md and docstrings, and every step of the tutorial.

A page's examples run in order, in one temporary folder; those of README.md in this one. In the tutorial, in caught.md
and in interventions.md a fenced block

* ``bash`` is run, and must succeed;
* ``text`` is what the block before it printed; ``...`` stands for any text, alone on a line for any lines;
* of any language with ``title="FILE"`` is written to that file.

Only standard output is compared; a step that shows an error says ``2>&1``.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sybil import Sybil
from sybil.evaluators.python import PythonEvaluator
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser
from sybil.parsers.markdown.lexers import RawFencedCodeBlockLexer
from sybil.parsers.rest import DocTestParser
from sybil.sybil import SybilCollection

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pytest
    from sybil import Document, Example, Region

_STEP_SECONDS = 300
_TITLED = re.compile(r'\w+ title="(?P<title>[^"\n]+)"$\n', re.MULTILINE)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let generated files be written again."""
    parser.addoption("--update", action="store_true", help="write generated files again instead of comparing them")


def enter(namespace: dict[str, Any]) -> None:
    """Give a page a folder of its own."""
    folder = tempfile.TemporaryDirectory(prefix="prereg-moe-docs-")
    namespace["_page"] = {"folder": folder, "before": Path.cwd(), "printed": ""}
    os.chdir(folder.name)


def enter_here(namespace: dict[str, Any]) -> None:
    """Let a page read this repository."""
    enter(namespace)
    os.chdir(Path(__file__).parent)


def leave(namespace: dict[str, Any]) -> None:
    """Go back to where the tests were started."""
    os.chdir(namespace["_page"]["before"])
    namespace["_page"]["folder"].cleanup()


def shell(example: Example) -> str | None:
    """Run a block as a reader would, and keep what it prints."""
    environment = {
        **os.environ,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "COLUMNS": "110",
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    done = subprocess.run(  # noqa: S603 - our own page
        ["bash", "-euo", "pipefail", "-c", str(example.parsed)],  # noqa: S607 - the bash of this machine
        env=environment,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=_STEP_SECONDS,
        check=False,
    )
    example.namespace["_page"]["printed"] = done.stdout
    return f"exit code {done.returncode}\n{done.stdout}{done.stderr}" if done.returncode else None


def python(example: Example) -> None:
    """Run a block in the page's namespace, and keep what it prints."""
    printed = StringIO()
    with redirect_stdout(printed):
        PythonEvaluator()(example)
    example.namespace["_page"]["printed"] = printed.getvalue()


def compare(example: Example) -> str | None:
    """Compare what the block before this one printed with what the page shows."""
    shown, printed = (_even(text) for text in (str(example.parsed), example.namespace["_page"]["printed"]))
    return None if _pattern(shown).fullmatch(printed) else f"the page shows\n{shown}\nbut it printed\n{printed}"


def write(example: Example) -> None:
    """Write a block to the file it is titled with."""
    path = Path(example.region.lexemes["title"])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(str(example.parsed), encoding="utf-8")


def files(document: Document) -> Iterable[Region]:
    """Find the blocks that are files."""
    for region in RawFencedCodeBlockLexer(_TITLED)(document):
        region.parsed, region.evaluator = region.lexemes["source"], write
        yield region


def _pattern(shown: str) -> re.Pattern[str]:
    lines = (
        r"(?:.*\n)*?" if line == "...\n" else ".*?".join(map(re.escape, line.split("...")))
        for line in shown.splitlines(keepends=True)
    )
    return re.compile("".join(lines))


def _even(text: str) -> str:
    """Return text without blank lines and without blanks at the ends of lines."""
    return "".join(f"{line.rstrip()}\n" for line in text.splitlines() if line.strip())


_readme = Sybil([PythonCodeBlockParser()], patterns=["README.md"], setup=enter_here, teardown=leave)
_pages = Sybil(
    [PythonCodeBlockParser()],
    patterns=["docs/*.md"],
    excludes=["tutorial.md", "caught.md", "interventions.md", "rows.md"],
    setup=enter,
    teardown=leave,
)
_tutorial = Sybil(
    [files, CodeBlockParser("bash", shell), CodeBlockParser("python", python), CodeBlockParser("text", compare)],
    patterns=["docs/tutorial.md", "docs/caught.md", "docs/interventions.md", "docs/rows.md"],
    setup=enter,
    teardown=leave,
)
_docstrings = Sybil([DocTestParser()], patterns=["prereg_moe/**/*.py", "prereg_moe/*.py"])

pytest_collect_file = SybilCollection((_readme, _pages, _tutorial, _docstrings)).pytest()
