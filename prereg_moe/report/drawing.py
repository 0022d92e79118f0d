"""A drawing: a few kinds of marks in a coordinate system, and the SVG they are.

Marks name inks, not colours: a standalone file has the colours of :data:`INKS`, and a page that
shows the drawing inline can restyle the classes ``f-INK`` (filled) and ``s-INK`` (stroked) for a
dark screen. One unit is a pixel on a screen and a point on paper; y points down. The bytes follow
from the marks alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from markupsafe import Markup, escape

__all__ = [
    "FONT",
    "INKS",
    "OUTLINE",
    "WIDTH",
    "Dot",
    "Dots",
    "Drawing",
    "Label",
    "Line",
    "Mark",
    "Rects",
    "file_name",
    "number",
    "shade",
    "shorten",
    "svg",
]

FONT = "DejaVu Sans"
INKS = {
    "text": "#1b2330",
    "muted": "#5a6474",
    "grid": "#d5dae2",
    "paper": "#ffffff",
    "on": "#0b5cad",
    "off": "#b4460f",
    "null": "#7a8494",
    "CONFIRMED": "#0a6b45",
    "REFUTED": "#b3261e",
    "INCONCLUSIVE": "#7a5800",
    "INVALID": "#6b3fa0",
    **{f"series{n}": colour for n, colour in enumerate(("#0b5cad", "#b4460f", "#0a6b45", "#8a3ffc", "#b3261e"))},
    **{f"series{n + 5}": colour for n, colour in enumerate(("#7a5800", "#006d77", "#9c1f6b", "#4b5320", "#3b4a8f"))},
    **{f"harm{n}": colour for n, colour in enumerate(("#ffffff", "#e4eefa", "#bcd6f2", "#86b4e4", "#4688cb"))},
    **{f"help{n}": colour for n, colour in enumerate(("#ffffff", "#fdecdf", "#f9cfae", "#f0a878", "#dd7c42"))},
}
_CONTROL = dict.fromkeys(range(32)) | {127: None, 0xFFFE: None, 0xFFFF: None}
_SIZE = 11.0
_LONGEST = 13
WIDTH = 372.0  # of a figure: one column of a paper, or a phone
OUTLINE = 0.6  # width of the lines of hollow rectangles


@dataclass(frozen=True, slots=True)
class Line:
    """A straight line."""

    x1: float
    y1: float
    x2: float
    y2: float
    ink: str
    width: float = 1.0
    dashed: bool = False


@dataclass(frozen=True, slots=True)
class Dot:
    """A disc, or a ring where it is hollow."""

    x: float
    y: float
    radius: float
    ink: str
    hollow: bool = False


@dataclass(frozen=True, slots=True)
class Dots:
    """Many discs of one ink and size: (x, y) each."""

    places: tuple[tuple[float, float], ...]
    radius: float
    ink: str


@dataclass(frozen=True, slots=True)
class Rects:
    """Rectangles of one ink: (x, y, width, height) each; only their outlines where they are hollow."""

    boxes: tuple[tuple[float, float, float, float], ...]
    ink: str
    faint: bool = False
    hollow: bool = False


@dataclass(frozen=True, slots=True)
class Label:
    """Text on one line; y is its middle. ``upright`` text is turned to read upwards."""

    x: float
    y: float
    text: str
    ink: str = "text"
    anchor: Literal["start", "middle", "end"] = "start"
    size: float = _SIZE
    bold: bool = False
    upright: bool = False


Mark = Line | Dot | Dots | Rects | Label


@dataclass(frozen=True, slots=True)
class Drawing:
    """A figure of a report.

    Attributes:
        name: its file name without the suffix.
        title: what it shows, in a phrase.
        caption: what, units, n and interval, in sentences; also what a reader who cannot see it is told.
        width: in units.
        height: in units.
        marks: what is drawn, the first at the bottom.
    """

    name: str
    title: str
    caption: str
    width: float
    height: float
    marks: tuple[Mark, ...]

    @property
    def svg(self) -> Markup:
        """The drawing as an element of a page."""
        return svg(self)


def svg(drawing: Drawing) -> Markup:
    """Return a drawing as one SVG element, described for who cannot see it."""
    size = f"{number(drawing.width)} {number(drawing.height)}"
    title, caption = _text(drawing.title), _text(drawing.caption)
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size}" width="{number(drawing.width)}"'
        f' height="{number(drawing.height)}" role="img" aria-label="{title}"'
        f' font-family="{FONT}, Verdana, sans-serif" font-size="{number(_SIZE)}">'
    )
    parts = [head, f"<title>{title}</title><desc>{caption}</desc>", *_elements(drawing.marks), "</svg>"]
    return Markup("\n".join(parts))  # noqa: S704 - every text in it went through `_text`


def number(value: float) -> str:
    """Return a coordinate to two decimals, as short as it can be written."""
    return f"{round(value, 2) + 0.0:.2f}".rstrip("0").rstrip(".")  # + 0.0: no minus zero


def shade(value: float, largest: float) -> str:
    """Return the ink of an effect among effects of at most ``largest``: four steps of harm, four of help."""
    step = 0 if largest <= 0 else min(4, int(5 * abs(value) / largest))
    return f"{'harm' if value >= 0 else 'help'}{step}"


def file_name(*parts: str) -> str:
    """Return a file name that stays in its folder whatever the document says."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", "-".join(parts))


def shorten(text: str) -> str:
    """Return a name as it fits beside a figure."""
    text = " ".join(text.split())
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def _elements(marks: Iterable[Mark]) -> Iterator[str]:
    for mark in marks:
        match mark:
            case Line():
                dashes = ' stroke-dasharray="4 3"' if mark.dashed else ""
                ends = " ".join(
                    f'{name}="{number(at)}"'
                    for name, at in (("x1", mark.x1), ("y1", mark.y1), ("x2", mark.x2), ("y2", mark.y2))
                )
                yield f'<line {ends} {_stroke(mark.ink)} stroke-width="{number(mark.width)}"{dashes}/>'
            case Dot():
                ink = _ring(mark.ink) if mark.hollow else _fill(mark.ink)
                yield f'<circle cx="{number(mark.x)}" cy="{number(mark.y)}" r="{number(mark.radius)}" {ink}/>'
            case Dots():  # lines of no length with round ends
                path = "".join(f"M{number(x)} {number(y)}h0" for x, y in mark.places)
                width = number(2 * mark.radius)
                yield f'<path d="{path}" {_stroke(mark.ink)} stroke-width="{width}" stroke-linecap="round"/>'
            case Rects():
                path = "".join(
                    f"M{number(x)} {number(y)}h{number(w)}v{number(h)}h{number(-w)}z" for x, y, w, h in mark.boxes
                )
                ink = _outline(mark.ink) if mark.hollow else _fill(mark.ink)
                yield f'<path d="{path}" {ink}{_FAINT if mark.faint else ""}/>'
            case Label():
                yield _label(mark)


_FAINT = ' fill-opacity=".28"'


def _label(mark: Label) -> str:
    anchor = "" if mark.anchor == "start" else f' text-anchor="{mark.anchor}"'
    size = "" if mark.size == _SIZE else f' font-size="{number(mark.size)}"'
    bold = ' font-weight="bold"' if mark.bold else ""
    turn = f' transform="rotate(-90 {number(mark.x)} {number(mark.y)})"' if mark.upright else ""
    place = f'x="{number(mark.x)}" y="{number(mark.y)}" dy=".35em"'
    return f"<text {place}{anchor}{size}{bold}{turn} {_fill(mark.ink)}>{_text(mark.text)}</text>"


def _stroke(ink: str) -> str:
    return f'class="s-{ink}" stroke="{INKS[ink]}"'


def _fill(ink: str) -> str:
    return f'class="f-{ink}" fill="{INKS[ink]}"'


def _ring(ink: str) -> str:
    return f'class="s-{ink} f-paper" stroke="{INKS[ink]}" stroke-width="1.5" fill="{INKS["paper"]}"'


def _outline(ink: str) -> str:
    return f'class="s-{ink}" stroke="{INKS[ink]}" stroke-width="{number(OUTLINE)}" fill="none"'


def _text(text: str) -> str:
    return str(escape(" ".join(text.split()).translate(_CONTROL)))
