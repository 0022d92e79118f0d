"""Families of experts, derived from the atlas by a stated rule.

A family is the experts of highest lift for an axis, outside an exclusion rule. What an expert is
(an id pooled over layers, an id in one layer, a cell) is part of the rule.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from prereg_moe.atlas.routing import Array, RoutingAtlas, cells_of, lift, share
from prereg_moe.errors import Invalid, Problem
from prereg_moe.registration.schema import ExclusionRule, ExplicitFamily, TopLift

__all__ = ["build_family", "needed_exclusions", "shared_core"]


def build_family(build: TopLift | ExplicitFamily, axis: str, atlas: RoutingAtlas) -> dict[int, tuple[int, ...]]:
    """Return the cells of the family a rule builds for an axis.

    Ties in lift go to the lower layer, then the lower expert id.

    Raises:
        Invalid: the atlas lacks the axis, or too few experts are left to choose from.
    """
    if isinstance(build, ExplicitFamily):
        return {int(layer): tuple(sorted(experts)) for layer, experts in build.cells.items() if experts}
    if axis not in atlas.axes:
        raise Invalid(Problem("atlas", f"has no axis {axis!r}", "make the atlas again"))
    table = share(atlas.mass)
    scores = lift(table.mean(axis=1) if build.unit == "global_id" else table)[atlas.axes.index(axis)]
    scores = np.where(_excluded(build.exclude, table, pooled=build.unit == "global_id"), -np.inf, scores)
    layers, size = atlas.layout.layers, build.size
    if build.unit == "global_id":
        ids = _top(scores, size, axis)
        return dict.fromkeys(layers, ids)
    if build.unit == "per_layer":
        return {layer: _top(scores[row], size, axis) for row, layer in enumerate(layers)}
    return cells_of(_top(scores.ravel(), size, axis), atlas.layout)


def shared_core(table: Array, at_least: float = 1.0) -> NDArray[np.bool_]:
    """Return which experts take at least ``at_least`` times the uniform share 1/E on *every* axis.

    Args:
        table: shares, shape (axis, ..., expert).

    Returns:
        Shape (..., expert). On the routing mass released with arXiv 2606.25092, pooled over
        layers, ``at_least`` 1 gives its published shared core: ids 66 and 102.
    """
    core: NDArray[np.bool_] = table.min(axis=0) >= at_least / table.shape[-1]
    return core


def needed_exclusions(scores: Array, families: Mapping[int, Sequence[int]]) -> tuple[int, ...]:
    """Return the ids that must be excluded if the families given are the top ids by score of what is left.

    An id is needed where it scores above the weakest member of a family that does not hold it.
    Excluding exactly these ids gives every family back, unless one of them is itself a member.

    Args:
        scores: shape (axis, expert).
        families: row of the axis -> ids.
    """
    needed: set[int] = set()
    for row, ids in families.items():
        above = np.flatnonzero(scores[row] > scores[row, list(ids)].min())
        needed |= {int(expert) for expert in above} - set(ids)
    return tuple(sorted(needed))


def _excluded(rule: ExclusionRule, table: Array, *, pooled: bool) -> NDArray[np.bool_]:
    """Return which experts no family may hold: shape (expert,) when pooled over layers, else (layer, expert)."""
    table = table.mean(axis=1) if pooled else table
    if rule.kind == "ids":
        barred = np.zeros(table.shape[-1], dtype=bool)
        barred[[expert for expert in rule.ids if 0 <= expert < table.shape[-1]]] = True
        return np.broadcast_to(barred, table.shape[1:])
    if rule.kind == "shared_core":
        return shared_core(table, rule.at_least)
    return np.zeros(table.shape[1:], dtype=bool)


def _top(scores: Array, size: int, axis: str) -> tuple[int, ...]:
    order = np.argsort(-scores, kind="stable")[:size]
    if len(order) < size or not np.isfinite(scores[order]).all():
        raise Invalid(
            Problem(
                "families",
                f"fewer than {size} experts are left for {axis!r}",
                "register a smaller size or exclude fewer",
            )
        )
    return tuple(sorted(int(expert) for expert in order))
