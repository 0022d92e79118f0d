"""Random expert sets: what a family's effect is compared with.

Matched by **size**, a null draw is uniform over the sets of the family's unit and size. Families
are used more than random experts are (z = +4.6 to +8.2 for those of arXiv 2606.25092), so part of
what masking them does may be due to their mass alone. Matched by **mass**, a draw also takes the
family's share of its own axis's routing, within a registered tolerance.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from prereg_moe.atlas.routing import Cells, Layout, RoutingAtlas, cells_of, share
from prereg_moe.errors import Invalid, Problem
from prereg_moe.stats.resample import sample, stream

__all__ = ["MatchedDraw", "draw_matched", "draw_nulls", "size_of"]

_GRID = 2**40  # shares are compared as integers: their sums do not depend on their order
_ATTEMPTS = 10  # starting sets tried before a share counts as out of reach
_PROPOSALS, _LEAST = 20, 1000  # swaps proposed: so many a member, and at least so many


def draw_nulls(
    layout: Layout, *, unit: str, size: int, draws: int, seed: str, model: str
) -> tuple[dict[int, tuple[int, ...]], ...]:
    """Return ``draws`` random expert sets of a family's size, each uniform over the sets of its unit.

    The sets depend on (seed, model, unit, size, number of the draw) only; families of one size
    share them. In ``cells`` a set that would leave a layer fewer than k experts is drawn again.
    """
    return tuple(_draw(layout, unit, size, (seed, "null", model, unit, str(size), str(draw))) for draw in range(draws))


@dataclass(frozen=True, slots=True)
class MatchedDraw:
    """A random set that takes about a family's share of an axis's routing.

    Attributes:
        cells: the set.
        share: its share, mean over the family's layers.
    """

    cells: dict[int, tuple[int, ...]]
    share: float


def draw_matched(
    atlas: RoutingAtlas,
    family: Cells,
    axis: str,
    *,
    unit: str,
    tolerance: float,
    draws: int,
    seed: str,
    labels: tuple[str, str],
) -> tuple[MatchedDraw, ...]:
    """Return ``draws`` random sets of a family's unit, size and share of the axis's routing.

    Estimand: uniform over the sets of the unit and size, in the family's layers (``cells``: in any),
    whose share S of the axis's routing satisfies ``|S - S_family| <= tolerance * S_family``. The
    family is one of them, as under the hypothesis that it is like any other set of its share.

    Algorithm: start from the size-matched draw of the same seed and number; propose swaps of a
    member, uniform, for a non-member it may be exchanged with, uniform (the same id set in every
    layer for ``global_id``, inside the layer for ``per_layer``, anywhere for ``cells``, where no
    layer may be left fewer than k experts). Outside the tolerance a swap is made when it brings
    S closer; inside, when S stays inside (a Metropolis walk whose stationary law is the uniform
    one above; 20 swaps a member are proposed, at least 1000). A walk that never gets inside
    starts again from another set. Shares are rounded to 2^-40, so sums are exact.

    Most sets have a share near 1/E times the size, so most of those inside the tolerance lie at its
    near edge: a draw for a family of high share typically takes ``tolerance`` less than it. Register
    a small one (0.02).

    A family that takes nearly the largest share its size allows has few such sets, and they
    overlap with it: the comparison is then conservative, and it cannot be made otherwise.

    Args:
        labels: (model, family), which key the streams.

    Raises:
        Invalid: the atlas lacks the axis, or ten walks stayed outside the tolerance.
    """
    if axis not in atlas.axes:
        raise Invalid(Problem("controls.null", f"the atlas has no axis {axis!r} to match mass on", "use match: size"))
    pool, size = _Pool.of(atlas, family, axis, unit), size_of(family, unit)
    target = sum(pool.weights[slot] for slot in pool.slots(family))
    band = int(tolerance * target)
    made = []
    for draw in range(draws):
        nearest = None
        for attempt in range(_ATTEMPTS):
            number = str(draw) if attempt == 0 else f"{draw}.{attempt}"
            start = _draw(pool.layout, unit, size, (seed, "null", labels[0], unit, str(size), number))
            slots, gap = _walk(pool, pool.slots(start), target, band, (seed, "mass", *labels, number))
            nearest = gap if nearest is None or abs(gap) < abs(nearest) else nearest
            if abs(gap) <= band:
                made.append(MatchedDraw(pool.cells(slots), (target + gap) / _GRID / len(pool.layout.layers)))
                break
        else:
            off = abs(nearest or 0) / max(target, 1)
            raise Invalid(
                Problem(
                    "controls.null",
                    f"no random set found within {tolerance:g} of the family's routing share: the nearest is {off:.2g} "
                    "away",
                    "register a larger tolerance, a smaller family or match: size",
                )
            )
    return tuple(made)


def size_of(cells: Cells, unit: str) -> int:
    """Return the size a random set must match: experts a layer (``global_id``, ``per_layer``) or cells.

    Raises:
        Invalid: layers hold different numbers of experts under a per-layer unit.
    """
    sizes = {len(experts) for experts in cells.values()}
    if unit == "cells":
        return sum(len(experts) for experts in cells.values())
    if len(sizes) != 1:
        raise Invalid(
            Problem("families", f"a family has {sorted(sizes)} experts in different layers", "register unit: cells")
        )
    return sizes.pop()


def _draw(layout: Layout, unit: str, size: int, labels: tuple[str, ...]) -> dict[int, tuple[int, ...]]:
    seed, *rest = labels
    if unit == "global_id":
        return dict.fromkeys(layout.layers, sample(seed, *rest, population=layout.experts, size=size))
    if unit == "per_layer":
        return {layer: sample(seed, *rest, str(layer), population=layout.experts, size=size) for layer in layout.layers}
    for attempt in range(1000):
        population = len(layout.layers) * layout.experts
        cells = cells_of(sample(seed, *rest, str(attempt), population=population, size=size), layout)
        if not layout.check(cells, "null draw"):
            return cells
    raise Invalid(
        Problem("controls.null", f"sets of {size} cells almost always starve a layer", "register smaller families")
    )


@dataclass(frozen=True, slots=True)
class _Pool:
    """What a walk chooses from: numbered slots, each exchangeable with those of its group.

    Attributes:
        layout: the layers sets are drawn in.
        unit: ``global_id`` (a slot is an id), ``per_layer`` or ``cells`` (a slot is a cell).
        weights: integer mass of each slot, in 2^-40 of a layer's routing.
        group: slots exchangeable with a slot: those of the same number of whole groups.
    """

    layout: Layout
    unit: str
    weights: list[int]
    group: int

    @classmethod
    def of(cls, atlas: RoutingAtlas, family: Cells, axis: str, unit: str) -> _Pool:
        layout = atlas.layout
        table = np.rint(share(atlas.mass)[atlas.axes.index(axis)] * _GRID).astype(np.int64)  # (layer, expert)
        if unit != "cells":
            table = table[[layout.layers.index(layer) for layer in sorted(family)]]
            layout = Layout(tuple(sorted(family)), layout.experts, layout.top_k)
        weights = table.sum(axis=0) if unit == "global_id" else table.ravel()
        return cls(layout, unit, weights.tolist(), len(weights) if unit == "cells" else layout.experts)

    def slots(self, cells: Cells) -> list[int]:
        if self.unit == "global_id":
            return list(cells[self.layout.layers[0]])
        rows = {layer: row for row, layer in enumerate(self.layout.layers)}
        return [rows[layer] * self.layout.experts + expert for layer, ids in cells.items() for expert in ids]

    def cells(self, slots: list[int]) -> dict[int, tuple[int, ...]]:
        if self.unit == "global_id":
            return dict.fromkeys(self.layout.layers, tuple(sorted(slots)))
        return cells_of(slots, self.layout)


def _walk(pool: _Pool, members: list[int], target: int, band: int, labels: tuple[str, ...]) -> tuple[list[int], int]:
    """Return the members of a set after a walk, and its mass minus the target.

    A proposal is one 64-bit word: its high half chooses the member, its low half the slot.
    """
    weights, group, experts = pool.weights, pool.group, pool.layout.experts
    inside = set(members)
    gap = sum(weights[slot] for slot in members) - target
    masked = dict.fromkeys(range(len(pool.layout.layers)), 0)
    for slot in members if pool.unit == "cells" else ():
        masked[slot // experts] += 1
    room = experts - pool.layout.top_k if pool.unit == "cells" else experts
    seed, *rest = labels
    for word in stream(seed, *rest).words(0, max(_LEAST, _PROPOSALS * len(members))).tolist():
        place = ((word >> 32) * len(members)) >> 32
        out = members[place]
        new = out - out % group + (((word & 0xFFFFFFFF) * group) >> 32)
        moved = gap + weights[new] - weights[out]
        accepted = abs(moved) <= band if abs(gap) <= band else abs(moved) < abs(gap)
        if not accepted or new in inside:
            continue
        if pool.unit == "cells" and new // experts != out // experts:
            if masked[new // experts] >= room:
                continue
            masked[new // experts] += 1
            masked[out // experts] -= 1
        inside.remove(out)
        inside.add(new)
        members[place], gap = new, moved
    return members, gap
