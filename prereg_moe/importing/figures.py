"""The figures of a report on evidence made elsewhere, laid out from what its templates see.

margin-BLOCK    a summary: how far each claim is from the bar of a rule, with the rounding of what was printed
printed         a summary: the printed effects with their intervals and bars
cells           items: the mean of every cell, with its interval and its interval clustered
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from prereg_moe.report.drawing import WIDTH, Dot, Drawing, Label, Line, Mark, Rects, file_name, shorten
from prereg_moe.report.figures import Scale, span

__all__ = ["draw"]

_ROW, _LOW_ROW = 24.0, 15.0
_LEFT, _FAR_LEFT = 96.0, 150.0
_WORD = 82.0  # the longest reading
_MOST_CELLS = 120  # more rows than these are a table
_LONGEST = 30
_INK = {"TRUE": "on", "FALSE": "off", "UNDECIDABLE": "muted"}
_Entry = Mapping[str, Any]


def draw(seen: Mapping[str, Any]) -> tuple[Drawing, ...]:
    """Return the figures of what templates see (:func:`prereg_moe.importing.context`), in the order of a report."""
    if "cells" in seen:
        return (_cells(seen),) if len(seen["cells"]) <= _MOST_CELLS else ()
    margins = (_margins(block) for block in seen["blocks"])
    return (*filter(None, margins), *([_printed(seen)] if any(map(_on, seen["claims"])) else ()))


def _margins(block: _Entry) -> Drawing | None:
    """Return what the margins of a block can be, None where nothing bounds any of them."""
    readings = block["readings"]
    known = [end for one in readings for end in one["margin"] or () if end is not None]
    if not known:
        return None
    scale = Scale.over((*known, 0.0), _LEFT, WIDTH - _WORD)
    top, bottom = 8.0, 8.0 + _ROW * len(readings)
    marks: list[Mark] = list(scale.marks(top, bottom, "distance to the bar, + where the rule holds"))
    for number, one in enumerate(readings):
        y, ink = top + _ROW * (number + 0.5), _INK[one["reading"]]
        low, high = one["margin"] or (None, None)
        left = scale.left if low is None else scale(low)
        right = scale.right if high is None else scale(high)
        marks.append(Line(left, y, right, y, ink, 3.0 if None not in (low, high) else 1.5, dashed=None in (low, high)))
        marks += [Dot(scale(end), y, 3.0, ink) for end in (low, high) if end is not None]
        marks.append(Label(0, y, shorten(one["claim"]), bold=True))
        marks.append(Label(WIDTH, y, one["reading"].lower() + (" (tie)" if one["tie"] else ""), ink, "end", 10))
    caption = (
        f"What the distance of each claim to the bar of rule {block['id']} can be, for every value the printed numbers"
        f" stand for; n = {len(readings)} claims. The rule holds to the right of 0. A dashed line has an end that"
        " nothing printed bounds. These are bounds by the rounding, not confidence intervals."
    )
    return Drawing(
        file_name("margin", block["id"]), f"Margins, {block['id']}", caption, WIDTH, bottom + 34, tuple(marks)
    )


def _number(claim: _Entry, quantity: str) -> float | None:
    printed = claim["printed"].get(quantity)
    return None if printed is None else float(printed)


def _on(claim: _Entry) -> float | None:
    return _number(claim, "on.est")


def _effect(claim: _Entry, part: str) -> dict[str, float | None]:
    return {
        key: _number(claim, f"{part}.{short}") for key, short in (("estimate", "est"), ("low", "lo"), ("high", "hi"))
    }


def _printed(seen: Mapping[str, Any]) -> Drawing:
    claims = [claim for claim in seen["claims"] if _on(claim) is not None]
    values = [
        value
        for claim in claims
        for value in (*_effect(claim, "on").values(), *_effect(claim, "off").values(), _number(claim, "null.band"))
        if value is not None
    ]
    scale = Scale.over((*values, 0.0), _LEFT, WIDTH - 8)
    top, bottom = 22.0, 22.0 + _ROW * len(claims)
    marks: list[Mark] = [*_printed_key(claims), *scale.marks(top, bottom, "effect as printed, + is harm")]
    for number, claim in enumerate(claims):
        y = top + _ROW * (number + 0.5)
        off, band = _effect(claim, "off"), _number(claim, "null.band")
        if band is not None:
            marks.append(Line(scale(band), y - 8, scale(band), y + 8, "null", 1.5))
        if off["estimate"] is not None:
            marks += span(off, scale, y + 5, "off", hollow=True)
        marks += [*span(_effect(claim, "on"), scale, y - 4, "on"), Label(0, y, shorten(claim["claim"]), bold=True)]
    caption = (
        f"The printed effects of the {len(claims)} claims with a printed on-target effect, in the unit of the source, +"
        " is harm: on-target (disc) with its printed interval, worst off-target (ring), and the null band (upright"
        " line), each where it was printed."
    )
    return Drawing("printed", "The printed numbers", caption, WIDTH, bottom + 34, tuple(marks))


def _printed_key(claims: list[_Entry]) -> Iterator[Mark]:
    yield Dot(4, 9, 3, "on")
    yield Label(12, 9, "on-target", "muted", size=10)
    yield Dot(84, 9, 3, "off", hollow=True)
    yield Label(92, 9, "worst off-target", "muted", size=10)
    if any(_number(claim, "null.band") is not None for claim in claims):
        yield Line(190, 3, 190, 15, "null", 1.5)
        yield Label(196, 9, "null band", "muted", size=10)


def _cells(seen: Mapping[str, Any]) -> Drawing:
    cells = seen["cells"]
    clustered = any(cell["clustered"] for cell in cells.values())
    shown = [entry for cell in cells.values() for entry in (cell["interval"], cell["clustered"]) if entry]
    ends = (entry[end] for entry in shown for end in ("estimate", "low", "high"))
    scale = Scale.over((*(end for end in ends if end is not None), 0.0), _FAR_LEFT, WIDTH - 8)
    high = _ROW if clustered else _LOW_ROW
    top, bottom = 20.0 * clustered + 4, 20.0 * clustered + 4 + high * len(cells)
    marks: list[Mark] = list(scale.marks(top, bottom, "mean difference, + is harm"))
    if clustered:
        marks += [Dot(4, 9, 3, "on"), Label(12, 9, "over items", "muted", size=10)]
        marks += [Dot(90, 9, 3, "off", hollow=True), Label(98, 9, "clustered", "muted", size=10)]
    for number, (name, cell) in enumerate(cells.items()):
        y = top + high * (number + 0.5)
        if number % 2:
            marks.insert(0, Rects(((0, y - high / 2, WIDTH, high),), "grid", faint=True))
        marks.append(Label(0, y, name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…", size=8.5))
        marks += span(cell["interval"], scale, y - 4 * clustered, "on")
        if cell["clustered"]:
            marks += span(cell["clustered"], scale, y + 5, "off", hollow=True)
    n = sorted({cell["items"] for cell in cells.values()})
    caption = (
        f"Mean difference in each of {len(cells)} cells, in the unit of the source, + is harm, with {seen['level']}"
        f" intervals over items (disc){' and clustered (ring)' if clustered else ''};"
        f" n = {n[0] if len(n) == 1 else f'{n[0]} to {n[-1]}'} items a cell."
        " Nothing here is corrected for the number of cells."
    )
    return Drawing("cells", "Every cell", caption, WIDTH, bottom + 34, tuple(marks))
