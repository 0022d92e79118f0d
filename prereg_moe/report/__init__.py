"""Reports: one verdict document in, text and figures out, by the templates frozen with the registration.

A template sees only :func:`context`, which is computed from the verdict document alone, through
a sandbox (:mod:`prereg_moe.templating`); the same inputs give the same bytes. Numbers are
rounded in :mod:`prereg_moe.report.numbers`, by one rule. Nothing is typed into a template.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from prereg_moe import templating
from prereg_moe.errors import Invalid, Problem, shaped
from prereg_moe.report.contents import FLAGS, context
from prereg_moe.report.numbers import FILTERS, cell, csv, effect, interval, p_value, share, tex
from prereg_moe.report.plotting import plot, plotter

__all__ = [
    "FIGURES",
    "FLAGS",
    "FORMATS",
    "PLOTTED",
    "Contents",
    "cell",
    "context",
    "csv",
    "draw",
    "effect",
    "interval",
    "p_value",
    "plotter",
    "render",
    "share",
    "template_name",
    "tex",
]

FORMATS = ("md", "html", "tex", "bib", "csv")  # each by a template
PLOTTED = ("pdf", "png")  # figures drawn by matplotlib
FIGURES = ("svg", *PLOTTED)
Contents = Callable[
    [Mapping[str, Any]], Mapping[str, Any]
]  # verdict document -> what templates see, with its `figures`


def template_name(format_: str) -> str:
    """Return the template that makes a format.

    Raises:
        Invalid: there is no such format.
    """
    if format_ not in FORMATS:
        raise Invalid(Problem("--format", f"{format_!r} is not a format", f"choose among {', '.join(FORMATS)}"))
    return f"report.{format_}.j2"


def render(document: Mapping[str, Any], template: str, format_: str = "md", contents: Contents = context) -> str:
    """Return the report a template makes of a verdict document.

    Args:
        document: the verdict document.
        template: the template's text.
        format_: what it makes; in html, text is escaped unless it is markup already.
        contents: what the template sees of it.

    Raises:
        Invalid: the template fails.
        Tampered: it is no verdict document.
    """
    with shaped("verdict.json"):
        values = contents(document)
    return templating.fill(template, values, FILTERS, escape=format_ == "html")


def draw(document: Mapping[str, Any], suffixes: Collection[str], contents: Contents = context) -> dict[str, bytes]:
    """Return file name -> bytes of every figure of a verdict document, in every format out of :data:`FIGURES`.

    Raises:
        Invalid: matplotlib is needed and not installed.
        Tampered: it is no verdict document.
    """
    with shaped("verdict.json"):
        drawings = contents(document)["figures"].values() if suffixes else ()
    return {
        f"figures/{drawing.name}.{suffix}": f"{drawing.svg}\n".encode() if suffix == "svg" else plot(drawing, suffix)
        for drawing in drawings
        for suffix in suffixes
    }
