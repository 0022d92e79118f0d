"""The routing atlas: which experts an axis's tokens are routed to, and what is derived from that.

The atlas is a table of **mass**, shape (axis, layer, expert): the sum over an axis's tokens of
the gate weight the router gives each selected expert, gates scaled to sum to one per token, so
that each (axis, layer) row sums to the number of tokens. `lab.capture` fills it; everything
derived from it (lift, families, null draws) is here, without torch, so that an audit derives
them again.

Experts are named by **cells**: decoder layer -> sorted expert ids.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from prereg_moe.errors import Invalid, Problem, Tampered
from prereg_moe.registration.schema import ExclusionRule, ExplicitFamily, TopLift
from prereg_moe.stats.resample import sample

__all__ = ["Cells", "Layout", "RoutingAtlas", "build_family", "draw_nulls", "lift", "share", "size_of"]

Cells: TypeAlias = "Mapping[int, tuple[int, ...]]"
Array: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Layout:
    """Where a model's experts are.

    Attributes:
        layers: decoder indices of the MoE layers, ascending.
        experts: experts in each of them.
        top_k: experts the router selects per token.
    """

    layers: tuple[int, ...]
    experts: int
    top_k: int

    def check(self, cells: Cells, where: str) -> list[Problem]:
        """Return what forbids masking these cells: a layer or expert that is not there, too few left."""
        problems = []
        for layer, experts in cells.items():
            place = f"{where}, layer {layer}"
            if layer not in self.layers:
                problems.append(
                    Problem(place, "is not an MoE layer", f"MoE layers: {', '.join(map(str, self.layers))}")
                )
            outside = [expert for expert in experts if not 0 <= expert < self.experts]
            if outside:
                problems.append(
                    Problem(place, f"experts {outside} do not exist", f"experts are 0 to {self.experts - 1}")
                )
            if self.experts - len(experts) < self.top_k:
                problems.append(
                    Problem(
                        place, f"masks {len(experts)} of {self.experts} experts", f"the router needs {self.top_k} left"
                    )
                )
        return problems


@dataclass(frozen=True, slots=True)
class RoutingAtlas:
    """The routing mass of one model on its atlas corpus.

    Attributes:
        axes: names of the first dimension.
        layout: the model's layers and experts.
        mass: shape (axis, layer, expert), in tokens.
    """

    axes: tuple[str, ...]
    layout: Layout
    mass: Array

    @classmethod
    def from_json(cls, document: Mapping[str, Any], where: str = "atlas.json") -> RoutingAtlas:
        """Return the atlas a JSON document holds.

        Raises:
            Tampered: the table is not finite, not non-negative, or not of the shape it says.
        """
        try:
            layout = Layout(tuple(document["layers"]), document["experts"], document["top_k"])
            axes = tuple(document["mass"])
            mass = np.array([document["mass"][axis] for axis in axes], dtype=np.float64)
        except (KeyError, TypeError, ValueError) as error:
            raise Tampered(Problem(where, f"is not a routing atlas ({error})")) from error
        expected = (len(axes), len(layout.layers), layout.experts)
        if mass.shape != expected or not np.isfinite(mass).all() or (mass < 0).any():
            raise Tampered(
                Problem(
                    where, f"has a mass table of shape {mass.shape}", f"expected {expected}, finite and not negative"
                )
            )
        return cls(axes, layout, mass)

    def to_json(self) -> dict[str, Any]:
        """Return the atlas as plain JSON; ``from_json(to_json())`` is the same atlas."""
        return {
            "layers": list(self.layout.layers),
            "experts": self.layout.experts,
            "top_k": self.layout.top_k,
            "mass": {axis: self.mass[index].tolist() for index, axis in enumerate(self.axes)},
        }


def share(mass: Array) -> Array:
    """Return each expert's share of its layer's mass, shape (axis, layer, expert).

    A row sums to one, or to zero where nothing was routed.
    """
    total = mass.sum(axis=2, keepdims=True)
    shares: Array = np.divide(mass, total, out=np.zeros_like(mass), where=total > 0)
    return shares


def lift(table: Array) -> Array:
    """Return how many times its mean share over axes (own included) an expert has on each axis.

    Args:
        table: shares, shape (axis, ...).

    Returns:
        The same shape; 0 where an expert is never used. Source: arXiv 2606.25092, derived from
        its released tables (mean lift of 11 of 11 families exact).
    """
    mean = table.mean(axis=0, keepdims=True)
    times: Array = np.divide(table, mean, out=np.zeros_like(table), where=mean > 0)
    return times


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
    return _cells(_top(scores.ravel(), size, axis), atlas.layout)


def draw_nulls(
    layout: Layout, *, unit: str, size: int, draws: int, seed: str, model: str
) -> tuple[dict[int, tuple[int, ...]], ...]:
    """Return ``draws`` random expert sets of a family's size, each uniform over the sets of its unit.

    The sets depend on (seed, model, unit, size, number of the draw) only; families of one size
    share them. In ``cells`` a set that would leave a layer fewer than k experts is drawn again.
    """
    return tuple(_draw(layout, unit, size, (seed, "null", model, unit, str(size), str(draw))) for draw in range(draws))


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
        cells = _cells(sample(seed, *rest, str(attempt), population=population, size=size), layout)
        if not layout.check(cells, "null draw"):
            return cells
    raise Invalid(
        Problem("controls.null", f"sets of {size} cells almost always starve a layer", "register smaller families")
    )


def _excluded(rule: ExclusionRule, table: Array, *, pooled: bool) -> NDArray[np.bool_]:
    """Return which experts no family may hold: shape (expert,) when pooled over layers, else (layer, expert)."""
    table = table.mean(axis=1) if pooled else table
    if rule.kind == "ids":
        barred = np.zeros(table.shape[-1], dtype=bool)
        barred[[expert for expert in rule.ids if 0 <= expert < table.shape[-1]]] = True
        return np.broadcast_to(barred, table.shape[1:])
    if rule.kind == "shared_core":
        core: NDArray[np.bool_] = table.min(axis=0) >= rule.at_least / table.shape[-1]
        return core
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


def _cells(flat: Sequence[int], layout: Layout) -> dict[int, tuple[int, ...]]:
    cells: dict[int, list[int]] = {}
    for index in flat:
        row, expert = divmod(int(index), layout.experts)
        cells.setdefault(layout.layers[row], []).append(expert)
    return {layer: tuple(sorted(experts)) for layer, experts in sorted(cells.items())}
