"""Rendering by a template somebody else wrote: apart, with bounded time and memory.

The sandbox keeps a template from files, code and chance, but not from counting for ever. So a
template that is not this package's own is filled in by a process that may take
:data:`SECONDS` of a processor and :data:`BYTES` of memory, and nothing else is different.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prereg_moe import report
from prereg_moe.errors import Invalid, PreregError, Problem, Tampered

__all__ = ["BYTES", "SECONDS", "render_apart"]

SECONDS = 10
BYTES = 2 << 30
_OWN = Path(__file__).parent.parent / "templates"


def render_apart(document: Mapping[str, Any], template: str, format_: str) -> str:
    """Return the report a template makes, as :func:`prereg_moe.report.render` does, whoever wrote the template.

    Raises:
        Invalid: the template fails, or takes more time or memory than a report needs.
        Tampered: it is no verdict document.
    """
    own = _OWN / report.template_name(format_)
    if own.exists() and own.read_text("utf-8") == template:
        return report.render(document, template, format_)
    request = json.dumps({"document": document, "template": template, "format": format_})
    done = subprocess.run(  # noqa: S603 - this interpreter, this module
        [sys.executable, "-m", __name__], input=request.encode(), capture_output=True, check=False
    )
    try:
        answer = json.loads(done.stdout)
    except ValueError as error:
        found = f"takes more than {SECONDS} seconds or {BYTES} bytes to render"
        raise Invalid(Problem(own.name, found, "mend the template, or restore the frozen one")) from error
    if "text" in answer:
        return str(answer["text"])
    kind = Tampered if answer["exit_code"] == Tampered.exit_code else Invalid
    raise kind([Problem(*problem) for problem in answer["problems"]])


def _answer() -> None:
    """Render what is asked for on standard input, within the limits."""
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (BYTES, BYTES))
    asked = json.load(sys.stdin)
    try:
        answer: dict[str, Any] = {"text": report.render(asked["document"], asked["template"], asked["format"])}
    except PreregError as error:
        answer = {"exit_code": error.exit_code, "problems": [[p.where, p.found, p.todo] for p in error.problems]}
    except MemoryError:
        return
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    _answer()
