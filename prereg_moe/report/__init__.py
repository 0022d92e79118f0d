"""Reports: one verdict document in, text and figures out, by the templates frozen with the registration.

A template sees only :func:`context`, which is computed from the verdict document alone, through
a sandbox (:mod:`prereg_moe.templating`); the same inputs give the same bytes. Numbers are
rounded in :mod:`prereg_moe.report.numbers`, by one rule. Nothing is typed into a template.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prereg_moe import templating
from prereg_moe.errors import Invalid, Problem
from prereg_moe.report.contents import FLAGS, context
from prereg_moe.report.numbers import FILTERS, cell, effect, interval, p_value, share, tex

__all__ = [
    "FLAGS",
    "FORMATS",
    "cell",
    "context",
    "effect",
    "interval",
    "p_value",
    "render",
    "share",
    "template_name",
    "tex",
]

FORMATS = ("md", "html", "tex", "bib", "csv")


def template_name(format_: str) -> str:
    """Return the template that makes a format.

    Raises:
        Invalid: there is no such format.
    """
    if format_ not in FORMATS:
        raise Invalid(Problem("--format", f"{format_!r} is not a format", f"choose among {', '.join(FORMATS)}"))
    return f"report.{format_}.j2"


def render(document: Mapping[str, Any], template: str, format_: str = "md") -> str:
    """Return the report a template makes of a verdict document.

    Args:
        document: the verdict document.
        template: the template's text.
        format_: what it makes; in html, text is escaped unless it is markup already.

    Raises:
        Invalid: the template fails.
    """
    return templating.fill(template, context(document), FILTERS, escape=format_ == "html")
