"""The figures of a report, laid out from what its templates see.

    forest-BLOCK    effects with intervals, beside random expert sets and the bar others must not pass
    null-BLOCK      every random expert set, and the family's place among them
    matrix-MODEL-MEASURE  what intervening on each family does to each axis
    families-MODEL  which experts of which layers the families are
    atlas-MODEL     where each axis's tokens are routed, with its families outlined, where an atlas is registered
    curve-MULTIVERSE-FAMILY  a specification curve over its registered grid, where a multiverse is registered

Widths suit one column of a paper and a phone. A figure of a claim that measured nothing is left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prereg_moe.report import maps
from prereg_moe.report.drawing import WIDTH, Dot, Dots, Drawing, Label, Line, Mark, Rects, file_name, shade, shorten
from prereg_moe.report.numbers import effect

__all__ = ["Scale", "draw", "span"]

_ROW = 26.0
_WORD = 74.0  # the longest verdict
_LETTER = 6.2
_Entry = Mapping[str, Any]


def draw(seen: Mapping[str, Any]) -> tuple[Drawing, ...]:
    """Return the figures of what templates see (:func:`prereg_moe.report.context`), in the order of a report."""
    return (
        *(_forest(block, seen) for block in seen["tests"] if block["verdicts"]),
        *(_nulls(block, seen["words"].doing) for block in seen["tests"] if _compared(block)),
        *(_matrix(table, seen) for table in seen["matrices"]),
        *(maps.families(model, families, seen) for model, families in maps.by_model(seen).items()),
        *(maps.atlas(model, routing, seen) for model, routing in seen["document"].get("atlas", {}).items()),
        *(_curve(entry, seen) for entry in seen["document"].get("multiverse", ()) if _shown(entry)),
    )


@dataclass(frozen=True, slots=True)
class Scale:
    """A linear axis: values to places on the page."""

    low: float
    high: float
    left: float
    right: float

    @classmethod
    def over(cls, values: Iterable[float | None], left: float, right: float) -> Scale:
        """Return the scale that holds all values and zero."""
        known = [0.0, *(value for value in values if value is not None)]
        low, high = min(known), max(known)
        room = 0.04 * (high - low) or 1.0
        return cls(low - (room if low < 0 else 0), high + room, left, right)

    def __call__(self, value: float) -> float:
        """Return where a value lies on the page."""
        return self.left + (value - self.low) / (self.high - self.low) * (self.right - self.left)

    def ticks(self) -> list[float]:
        """Return round values, about four of them."""
        raw = (self.high - self.low) / 4
        power = 10.0 ** math.floor(math.log10(raw))
        step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw)
        return [n * step for n in range(math.ceil(self.low / step), math.floor(self.high / step) + 1)]

    def marks(self, top: float, bottom: float, title: str) -> Iterator[Mark]:
        """Yield the grid, the line at zero, the ticks and the axis's title."""
        for tick in self.ticks():
            x = self(tick)
            yield Line(x, top, x, bottom, "muted" if tick == 0 else "grid")
            yield Label(x, bottom + 10, f"{tick:.6g}".replace("-", "−"), "muted", "middle", 10)
        yield Label((self.left + self.right) / 2, bottom + 25, title, "muted", "middle", 10)


def _forest(block: _Entry, seen: Mapping[str, Any]) -> Drawing:
    entries = block["verdicts"]
    left, right = _left(entries), WIDTH - _WORD
    scale = Scale.over((value for entry in entries for value in _extent(entry)), left, right)
    top = 30.0
    bottom = top + _ROW * len(entries)
    marks: list[Mark] = list(scale.marks(top, bottom, f"effect, {block['unit']}"))
    for number, entry in enumerate(entries):
        marks += _forest_row(entry, block, scale, top + _ROW * (number + 0.5))
    return Drawing(
        file_name("forest", block["id"]),
        f"Effects of {seen['words'].effects}, {block['id']} ({block['model']})",
        _forest_caption(block, seen),
        WIDTH,
        bottom + 34,
        (*_forest_key(block), *marks),
    )


def _forest_row(entry: _Entry, block: _Entry, scale: Scale, y: float) -> Iterator[Mark]:
    estimates = entry["estimates"]
    on, null = estimates["on"], estimates.get("null")
    if null is not None:
        start, end = scale(min(null["draws"])), scale(max(null["draws"]))
        yield Rects(((start, y - 8, max(end - start, 1.0), 16),), "null", faint=True)
        yield Line(scale(null["mean"]), y - 8, scale(null["mean"]), y + 8, "null", 1.5)
    if block["kappa"] is not None and on["estimate"] > 0:
        bar = scale(on["estimate"] / block["kappa"])
        yield Line(bar, y - 10, bar, y + 10, "on", 1.0, dashed=True)
    if "worst_off" in estimates:
        yield from span(estimates["worst_off"], scale, y + 5, "off", hollow=True)
    yield from span(on, scale, y - 4, "on")
    yield Label(0, y, shorten(entry["family"]), bold=True)
    yield Label(WIDTH, y, entry["verdict"].lower() + _edge(entry), entry["verdict"], "end", 10)


def span(entry: _Entry, scale: Scale, y: float, ink: str, *, hollow: bool = False) -> Iterator[Mark]:
    """Yield an estimate and, where it has two ends, its interval."""
    if entry["low"] is not None and entry["high"] is not None:
        yield Line(scale(entry["low"]), y, scale(entry["high"]), y, ink, 2.0)
    yield Dot(scale(entry["estimate"]), y, 3.0, ink, hollow)


def _forest_key(block: _Entry) -> Iterator[Mark]:
    yield Dot(4, 9, 3, "on")
    yield Label(12, 9, "on-target", "muted", size=10)
    yield Dot(72, 9, 3, "off", hollow=True)
    yield Label(80, 9, "worst off-target", "muted", size=10)
    if block["kappa"] is not None:
        yield Line(174, 3, 174, 15, "on", 1.0, dashed=True)
        yield Label(180, 9, "on-target / κ", "muted", size=10)
    if _compared(block):
        yield Rects(((258, 3, 12, 12),), "null", faint=True)
        yield Line(264, 3, 264, 15, "null", 1.5)
        yield Label(276, 9, "random sets", "muted", size=10)


def _forest_caption(block: _Entry, seen: Mapping[str, Any]) -> str:
    draws = _draws(block)
    sentences = [
        f"Effect of {seen['words'].doing} each family of model {block['model']}, {block['unit']}, + is harm: on its own"
        " axis",
        "(disc) and on the worst other axis (ring).",
        f"Lines are {seen['level']} {seen['interval_kind']} intervals; n = {_n(block['verdicts'])} an axis.",
        f"Grey: range and mean of {draws} random expert sets on the family's axis." if draws else "",
        f"Dashed: on-target effect / κ with κ = {block['kappa']:g}." if block["kappa"] is not None else "",
        "‡: knife-edge." if any(map(_edge, block["verdicts"])) else "",
    ]
    return " ".join(filter(None, sentences))


def _nulls(block: _Entry, doing: str) -> Drawing:
    spares = block["kind"] == "noninferiority"
    entries = [entry for entry in block["verdicts"] if "null" in entry["estimates"]]
    left, right = _left(entries), WIDTH - _WORD
    values = [[*entry["estimates"]["null"]["draws"], entry["estimates"]["on"]["estimate"]] for entry in entries]
    scale = Scale.over((value for row in values for value in row), left, right)
    top, bottom = 22.0, 22.0 + _ROW * len(entries)
    marks: list[Mark] = [Label(WIDTH, 9, f"place from the {'bottom' if spares else 'top'}", "muted", "end", 10)]
    marks += [Dot(4, 9, 3, "on"), Label(12, 9, "the family", "muted", size=10)]
    marks += [Dot(82, 9, 2, "null"), Label(90, 9, "a random expert set", "muted", size=10)]
    marks += scale.marks(top, bottom, f"effect on the family's own axis, {block['unit']}")
    for number, entry in enumerate(entries):
        y = top + _ROW * (number + 0.5)
        draws, on = entry["estimates"]["null"]["draws"], entry["estimates"]["on"]["estimate"]
        marks.append(Dots(tuple((scale(value), y + _spread(n)) for n, value in enumerate(draws)), 1.6, "null"))
        marks += [Dot(scale(on), y, 3.5, "on"), Label(0, y, shorten(entry["family"]), bold=True)]
        place = 1 + sum(draw <= on if spares else draw >= on for draw in draws)
        marks.append(Label(WIDTH, y, f"{place} of {len(draws) + 1}", "text", "end", 10))
    caption = (
        f"Effect on the family's own axis, {block['unit']}, + is harm, of {doing} the family (large disc) and each of"
        f" {_draws(block)} random expert sets of its size (small discs, spread vertically to be told apart) in model"
        f" {block['model']}; each is a mean over n = {_n(entries)}, without an interval. A family is compared with its"
        " random sets by its place among them."
    )
    title = f"Random expert sets, {block['id']} ({block['model']})"
    return Drawing(file_name("null", block["id"]), title, caption, WIDTH, bottom + 34, tuple(marks))


def _spread(place: int) -> float:
    """Return a draw's vertical place, so that equal values do not hide each other."""
    return float((place * 5) % 13 - 6)


def _matrix(table: _Entry, seen: Mapping[str, Any]) -> Drawing:
    rows, axes = table["rows"], table["axes"]
    left = _LETTER * max(len(shorten(row["family"])) for row in rows) + 10
    wide = max(34.0, min(46.0, (WIDTH - left) / len(axes)))
    top, high = 22 + _LETTER * max(len(shorten(axis)) for axis in axes) * (wide < 40), 20.0
    marks: list[Mark] = []
    for column, axis in enumerate(axes):
        x = left + wide * (column + 0.5)
        upright = wide < 40
        marks.append(Label(x, top - 8, shorten(axis), "muted", "start" if upright else "middle", 10, upright=upright))
    for number, row in enumerate(rows):
        y = top + high * number
        marks.append(Label(0, y + high / 2, shorten(row["family"]), bold=True))
        for column, cell in enumerate(row["cells"]):
            if cell is None:
                continue
            box = (left + wide * column + 0.5, y + 0.5, wide - 1, high - 1)
            ink = shade(cell["estimate"], table["largest"])
            marks.append(Rects((box,), ink))
            text = f"{cell['estimate']:.2f}".replace("-", "−") if wide < 42 else effect(cell["estimate"])
            own = axes[column] == row["axis"]
            marks.append(Label(box[0] + wide / 2, y + high / 2, text, "text", "middle", 9.5, bold=own))
    caption = (
        f"Mean effect of {seen['words'].doing} the family of each row on the axis of each column, {table['unit']}, + is"
        " harm; model"
        f" {table['model']}, measure {table['measure']}, n = {table['units']} an axis. Bold: the family's own axis."
        f" Blue is harm, orange help, in four steps up to {effect(table['largest'])}. The intervals"
        f" ({seen['level']} {seen['interval_kind']}) are in the table of the report."
    )
    return Drawing(
        file_name("matrix", table["model"], table["measure"]),
        f"On-target and off-target effects ({table['model']}, {table['measure']})",
        caption,
        max(WIDTH, left + wide * len(axes)),
        top + high * len(rows) + 4,
        tuple(marks),
    )


_DIMENSIONS = ("measure", "rule", "correction", "interval", "null", "gates")
_VERDICTS = ("CONFIRMED", "REFUTED", "INCONCLUSIVE", "INVALID")


def _shown(entry: _Entry) -> list[_Entry]:
    """Return the specifications in the registered measure's unit, by rising estimate."""
    known = [one for one in entry["specifications"] if one["comparable"] and one["estimate"] is not None]
    return sorted(known, key=lambda one: float(one["estimate"]))


def _curve(entry: _Entry, seen: Mapping[str, Any]) -> Drawing:
    shown = _shown(entry)
    unit = next(block["unit"] for block in seen["blocks"] if block["id"] == entry["block"])
    left, top, high = 104.0, 22.0, 120.0
    step = (WIDTH - left) / len(shown)
    xs = [left + step * (n + 0.5) for n in range(len(shown))]
    scale = Scale.over((one[end] for one in shown for end in ("estimate", "low", "high")), top + high, top)
    marks: list[Mark] = [*_curve_key(shown)]
    for tick in scale.ticks():
        marks.append(Line(left, scale(tick), WIDTH, scale(tick), "muted" if tick == 0 else "grid"))
        marks.append(Label(left - 6, scale(tick), f"{tick:.6g}".replace("-", "−"), "muted", "end", 10))
    marks.append(Label(8, top + high / 2, f"effect, {unit}", "muted", "middle", 10, upright=True))
    registered = next((x for x, one in zip(xs, shown, strict=True) if one["registered"]), None)
    rows = _choices(shown)
    bottom = top + high + 12 + 13.0 * len(rows)
    if registered is not None:
        marks.append(Line(registered, top - 4, registered, bottom, "text", 0.8, dashed=True))
    for verdict in _VERDICTS:
        those = [(x, one) for x, one in zip(xs, shown, strict=True) if one["verdict"] == verdict]
        if those:
            marks += _curve_points(those, scale, rows, top + high + 12, verdict, min(2.2, max(0.6, step / 2.6)))
    for number, (dimension, choice) in enumerate(rows):
        first = number == 0 or rows[number - 1][0] != dimension
        y = top + high + 12 + 13.0 * (number + 0.5)
        marks.append(Label(left - 6, y, shorten(choice), "text", "end", 9))
        if first:
            marks.append(Label(0, y, dimension, "muted", size=9))
    return Drawing(
        file_name("curve", entry["id"], entry["family"]),
        f"Specification curve, {entry['family']} ({entry['id']})",
        f"Effect on the family's own axis, {unit}, + is harm, of claim {entry['claim']} in the {len(shown)} of"
        f" {len(entry['specifications'])} registered specifications that share the registered measure's unit, by rising"
        f" effect, with {seen['level']} intervals; below, the choices of each, in the colour of its verdict. The dashed"
        f" line is the registered one. {entry['fragility']['statement']}.",
        WIDTH,
        bottom + 6,
        tuple(marks),
    )


def _curve_points(
    those: Sequence[tuple[float, _Entry]],
    scale: Scale,
    rows: Sequence[tuple[str, str]],
    top: float,
    verdict: str,
    radius: float,
) -> Iterator[Mark]:
    thin = max(0.4, radius * 0.5)
    bars = tuple(
        (x - thin / 2, scale(one["high"]), thin, scale(one["low"]) - scale(one["high"]))
        for x, one in those
        if one["low"] is not None and one["high"] is not None
    )
    if bars:
        yield Rects(bars, verdict, faint=True)
    yield Dots(tuple((x, scale(one["estimate"])) for x, one in those), radius, verdict)
    chosen = tuple(
        (x, top + 13.0 * (number + 0.5))
        for x, one in those
        for number, (dimension, choice) in enumerate(rows)
        if one[dimension] == choice
    )
    if chosen:
        yield Dots(chosen, radius, verdict)


def _curve_key(shown: Sequence[_Entry]) -> Iterator[Mark]:
    x = 4.0
    for verdict in _VERDICTS:
        count = sum(one["verdict"] == verdict for one in shown)
        if count:
            text = f"{verdict.lower()} ({count})"
            yield Dot(x, 9, 3, verdict)
            yield Label(x + 8, 9, text, "muted", size=10)
            x += 24 + 5.6 * len(text)


def _choices(shown: Sequence[_Entry]) -> list[tuple[str, str]]:
    """Return the (dimension, choice) pairs the specifications differ by."""
    found = {name: sorted({one[name] for one in shown if one.get(name) is not None}) for name in _DIMENSIONS}
    return [(name, choice) for name, choices in found.items() if len(choices) > 1 for choice in choices]


def _compared(block: _Entry) -> bool:
    return any("null" in entry["estimates"] for entry in block["verdicts"])


def _draws(block: _Entry) -> int:
    return max((len(e["estimates"]["null"]["draws"]) for e in block["verdicts"] if "null" in e["estimates"]), default=0)


def _extent(entry: _Entry) -> Iterator[float | None]:
    estimates = entry["estimates"]
    for part in (estimates["on"], estimates.get("worst_off")):
        if part is not None:
            yield from (part["estimate"], part["low"], part["high"])
    if "null" in estimates:
        yield from (min(estimates["null"]["draws"]), max(estimates["null"]["draws"]))


def _n(entries: Sequence[_Entry]) -> str:
    units = sorted({entry["estimates"]["on"]["units"] for entry in entries})
    return f"{units[0]}" if len(units) == 1 else f"{units[0]} to {units[-1]}"


def _edge(entry: _Entry) -> str:
    return " ‡" if "KNIFE_EDGE" in entry["flags"] else ""


def _left(entries: Sequence[_Entry]) -> float:
    return _LETTER * 1.1 * max(len(shorten(entry["family"])) for entry in entries) + 8
