"""The report of any verdict document, of a study that was run here or of evidence made elsewhere.

A template that is not this package's own was written by somebody else. The sandbox keeps it from
files, code and chance, but not from counting for ever; so it is filled in by a process that may
take :data:`SECONDS` of a processor and :data:`BYTES` of memory, and nothing else is different.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Collection, Mapping
from typing import Any

from prereg_moe import importing, report, templating
from prereg_moe.errors import Invalid, PreregError, Problem, Tampered, shaped

__all__ = ["BYTES", "SECONDS", "draw", "render"]

SECONDS = 10
BYTES = 2 << 30


def render(document: Mapping[str, Any], template: str, format_: str) -> str:
    """Return the report a template makes of a verdict document, whoever wrote the template.

    Raises:
        Invalid: the template fails, or takes more time or memory than a report needs.
        Tampered: it is no verdict document.
    """
    name = report.template_name(format_)
    if template in templating.own(name):
        return _render(document, template, format_)
    bounds = {"seconds": SECONDS, "bytes": BYTES}
    request = json.dumps({"document": document, "template": template, "format": format_, "bounds": bounds})
    done = subprocess.run(  # noqa: S603 - this interpreter, this module
        [sys.executable, "-m", __name__], input=request.encode(), capture_output=True, check=False
    )
    try:
        answer = json.loads(done.stdout)
    except ValueError as error:
        found = f"takes more than {SECONDS} seconds or {BYTES} bytes to render"
        raise Invalid(Problem(name, found, "mend the template, or restore the frozen one")) from error
    if "text" in answer:
        return str(answer["text"])
    kind = Tampered if answer["exit_code"] == Tampered.exit_code else Invalid
    raise kind([Problem(*problem) for problem in answer["problems"]])


def draw(document: Mapping[str, Any], suffixes: Collection[str]) -> dict[str, bytes]:
    """Return the figures of a verdict document, as :func:`prereg_moe.report.draw` does.

    Raises:
        Invalid: matplotlib is needed and not installed.
        Tampered: it is no verdict document.
    """
    return report.draw(document, suffixes, _contents(document))


def _contents(document: Mapping[str, Any]) -> report.Contents:
    """Return by what a template sees a document of its kind."""
    with shaped("verdict.json"):
        return importing.context if document.get("schema") == importing.VERDICT_SCHEMA else report.context


def _render(document: Mapping[str, Any], template: str, format_: str) -> str:
    return report.render(document, template, format_, _contents(document))


def _answer() -> None:
    """Render what is asked for on standard input, within the bounds that come with it."""
    asked = json.load(sys.stdin)
    seconds, size = asked["bounds"]["seconds"], asked["bounds"]["bytes"]
    seconds += int(resource.getrusage(resource.RUSAGE_SELF).ru_utime)  # to start and to read
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_AS, (size, size))
    try:
        answer: dict[str, Any] = {"text": _render(asked["document"], asked["template"], asked["format"])}
    except PreregError as error:
        answer = {"exit_code": error.exit_code, "problems": [[p.where, p.found, p.todo] for p in error.problems]}
    except MemoryError:
        return
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    _answer()
