"""Maps of a model's experts, layer by layer: which the families are, and where the atlas saw tokens routed."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, TypeVar

from prereg_moe.report.drawing import OUTLINE, WIDTH, Drawing, Label, Mark, Rects, file_name, shorten

__all__ = ["atlas", "by_model", "families"]

_Entry = Mapping[str, Any]
_Value = TypeVar("_Value")
_MULTIPLES = (1 / 8, 1 / 2, 1.0, 2.0, 4.0, 8.0)  # of the uniform share, at which the ink changes
_SHADES = ("help2", "help1", "harm0", "harm1", "harm2", "harm3", "harm4")


def by_model(seen: Mapping[str, Any]) -> dict[str, list[_Entry]]:
    """Return model -> its families that hold a cell."""
    found: dict[str, list[_Entry]] = {}
    for family in seen["document"]["families"]:
        if family["cells"]:
            found.setdefault(family["model"], []).append(family)
    return found


def families(model: str, families: Sequence[_Entry], seen: Mapping[str, Any]) -> Drawing:
    """Return the map of a model's families."""
    layers = sorted({layer for family in families for layer, _ in family["cells"]})
    experts = 1 + max((expert for family in families for _, chosen in family["cells"] for expert in chosen), default=0)
    left, top = 44.0, 16.0 + 14 * math.ceil(len(families) / 5)
    wide = (WIDTH - left) / experts
    high = min(18.0, max(4.0, 400 / len(layers)))
    row = {layer: top + high * number for number, layer in enumerate(layers)}
    holders = _holders(families)
    marks: list[Mark] = [Rects(((left, top, WIDTH - left, high * len(layers)),), "grid", faint=True)]
    for number, family in enumerate(families):
        ink = f"series{number % 10}"
        boxes = []
        for layer, chosen in family["cells"]:
            for expert in chosen:
                those = holders[layer, expert]
                part = wide / len(those)
                boxes.append((left + wide * expert + part * those.index(number), row[layer] + 0.5, part, high - 1))
        marks.append(Rects(tuple(boxes), ink))
        x, y = left + 66 * (number % 5), 7 + 14 * (number // 5)
        marks += [Rects(((x, y - 4, 8, 8),), ink), Label(x + 12, y, shorten(family["name"])[:9], "text", size=9.5)]
    for number, layer in enumerate(layers):
        if number % max(1, math.ceil(len(layers) / 16)) == 0:
            marks.append(Label(left - 5, row[layer] + high / 2, str(layer), "muted", "end", 9))
    marks.append(Label(8, top + high * len(layers) / 2, "layer", "muted", "middle", 10, upright=True))
    bottom = top + high * len(layers)
    marks += _experts(experts, left, bottom)
    caption = (
        f"The experts {seen['words'].done} for each family of model {model}: {len(families)} families over"
        f" {len(layers)} layers, experts 0 to {experts - 1}. A cell shared by families is divided between them."
    )
    title = f"Where the families are ({model})"
    return Drawing(file_name("families", model), title, caption, WIDTH, bottom + 32, tuple(marks))


def _holders(families: Sequence[_Entry]) -> dict[tuple[int, int], list[int]]:
    """Return (layer, expert) -> the places of the families that hold it."""
    found: dict[tuple[int, int], list[int]] = {}
    for number, family in enumerate(families):
        for layer, chosen in family["cells"]:
            for expert in chosen:
                found.setdefault((layer, expert), []).append(number)
    return found


def _experts(experts: int, left: float, bottom: float) -> Iterator[Mark]:
    """Yield the numbers of experts, about eight of them, and the axis's title."""
    wide = (WIDTH - left) / experts
    for expert in range(0, experts, max(1, 2 ** math.ceil(math.log2(max(1, experts / 8))))):
        yield Label(left + wide * (expert + 0.5), bottom + 9, str(expert), "muted", "middle", 9)
    yield Label((left + WIDTH) / 2, bottom + 23, "expert", "muted", "middle", 10)


def atlas(model: str, routing: _Entry, seen: Mapping[str, Any]) -> Drawing:
    """Return the heat maps of a model's routing: a panel an axis, the cells of its families outlined."""
    layers, experts, left, top = routing["layers"], routing["experts"], 44.0, 36.0
    high = max(2.6, min(10.0, 96 / len(layers)))
    step = high * len(layers) + 18
    marks: list[Mark] = [*_atlas_key()]
    for number, (axis, table) in enumerate(routing["axes"].items()):
        own = _own_cells(seen["document"]["families"], model, axis)
        marks += _panel(axis, table, layers, own, (left, top + step * number + 14, (WIDTH - left) / experts, high))
    bottom = top + step * len(routing["axes"]) - 4
    sampled = seen["study"]["atlas"]
    caption = (
        f"The share of an axis's gate mass that each expert takes in its layer, as a multiple of the uniform share"
        f" 1/{experts}; one panel an axis, one row a layer. Model {model}, routing of n = {sampled['items']} items an"
        f" axis of corpus {sampled['corpus']}; shares are exact for these items and have no interval. Blue is more than"
        " uniform, orange less than half of it, in the steps of the key. Outlined: the experts of the axis's family."
    )
    return Drawing(
        file_name("atlas", model),
        f"Routing atlas ({model})",
        caption,
        WIDTH,
        bottom + 32,
        (*marks, *_experts(experts, left, bottom)),
    )


def _lifted(times: float) -> str:
    """Return the ink of a share that is this many times the uniform one."""
    return _SHADES[bisect_right(_MULTIPLES, times)]


def _atlas_key() -> Iterator[Mark]:
    wide, left = 28.0, 44.0
    for number, ink in enumerate(_SHADES):
        yield Rects(((left + wide * number, 4, wide, 9),), ink)
    yield Rects(((left, 4, wide * len(_SHADES), 9),), "grid", hollow=True)
    for number, times in enumerate(("1/8", "1/2", "1", "2", "4", "8"), start=1):
        yield Label(left + wide * number, 20, times, "muted", "middle", 9)
    yield Label(0, 9, "× 1/E", "muted", size=9.5)
    yield Rects(((258, 4, 12, 9),), "text", hollow=True)
    yield Label(275, 9, "the axis's family", "muted", size=10)


def _panel(
    axis: str,
    table: Sequence[Sequence[float]],
    layers: Sequence[int],
    own: Mapping[int, set[int]],
    place: tuple[float, float, float, float],
) -> Iterator[Mark]:
    """Yield one axis's heat map; ``place`` is its left and top, and a cell's width and height."""
    left, top, wide, high = place
    experts = len(table[0])
    boxes: dict[str, list[tuple[float, float, float, float]]] = {}
    outlined: list[tuple[float, float, float, float]] = []
    for number, (layer, row) in enumerate(zip(layers, table, strict=True)):
        y, inset = top + high * number, OUTLINE / 2
        for ink, first, count in _runs([_lifted(share * experts) for share in row]):
            boxes.setdefault(ink, []).append((left + wide * first, y, wide * count, high))
        for mine, first, count in _runs([expert in own.get(layer, ()) for expert in range(experts)]):
            if mine:
                x = left + wide * first + inset
                outlined.append((x, y + inset, wide * count - OUTLINE, high - OUTLINE))
        if number % math.ceil(len(layers) / max(1, int(high * len(layers) / 10))) == 0:
            yield Label(left - 5, y + high / 2, str(layer), "muted", "end", 9)
    for ink in _SHADES:
        if ink in boxes and ink != "harm0":  # which is the page
            yield Rects(tuple(boxes[ink]), ink)
    yield Rects(((left, top, wide * experts, high * len(layers)),), "grid", hollow=True)
    if outlined:
        yield Rects(tuple(outlined), "text", hollow=True)
    yield Label(left, top - 8, axis, bold=True, size=10)
    yield Label(8, top + high * len(layers) / 2, "layer", "muted", "middle", 9, upright=True)


def _runs(values: Sequence[_Value]) -> Iterator[tuple[_Value, int, int]]:
    """Yield (value, first place, count) of every run of equal values."""
    first = 0
    for value, those in groupby(values):
        count = len(list(those))
        yield value, first, count
        first += count


def _own_cells(families: Sequence[_Entry], model: str, axis: str) -> dict[int, set[int]]:
    """Return layer -> experts of the families of an axis."""
    found: dict[int, set[int]] = {}
    for family in families:
        if (family["model"], family["axis"]) == (model, axis):
            for layer, chosen in family["cells"]:
                found.setdefault(layer, set()).update(chosen)
    return found
