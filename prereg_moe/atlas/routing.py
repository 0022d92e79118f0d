"""The table of routing mass: which experts an axis's tokens are routed to.

The atlas is a table of **mass**, shape (axis, layer, expert): the sum over an axis's tokens of
the gate weight the router gives each selected expert, gates scaled to sum to one per token, so
that each (axis, layer) row sums to the number of tokens. `lab.capture` fills it; everything
derived from it is in this package, without torch, so that an audit derives it again.

Experts are named by **cells**: decoder layer -> sorted expert ids. A **global id** is the same
number in every layer.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from prereg_moe.errors import Problem, Tampered

__all__ = ["Array", "Cells", "Layout", "RoutingAtlas", "cells_of", "family_share", "lift", "pooled", "share"]

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

    def check(self, cells: Cells, where: str, *, kept: bool = False) -> list[Problem]:
        """Return what forbids masking these cells (or all others of their layers, where they are kept):
        a layer or expert that is not there, too few left, nothing masked."""
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
            left = len(experts) if kept else self.experts - len(experts)
            count = f"{len(experts)} of {self.experts} experts"
            if left < self.top_k:
                found = f"{'keeps' if kept else 'masks'} {count}"
                problems.append(Problem(place, found, f"the router needs {self.top_k} left"))
            if kept and left == self.experts:
                problems.append(Problem(place, f"keeps {count}", "keep fewer, or leave the layer out"))
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
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise Tampered(Problem(where, f"is not a routing atlas ({error!r:.200})")) from error
        sizes = (*layout.layers, layout.experts, layout.top_k)
        if not all(type(size) is int and size >= 0 for size in sizes) or len(set(layout.layers)) < len(layout.layers):
            raise Tampered(Problem(where, "has a layout that no model has", "layers, experts and top_k are counts"))
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


def pooled(mass: Array) -> Array:
    """Return the mean over layers of each global id's share, shape (axis, expert).

    Source: ``G`` of arXiv 2606.25092, derived from its released tables. It gives an id a meaning
    across layers only if ids have one; :func:`~prereg_moe.atlas.layer_shuffle` checks that.
    """
    table: Array = share(mass).mean(axis=1)
    return table


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


def family_share(atlas: RoutingAtlas, axis: str, cells: Cells) -> tuple[float, float] | None:
    """Return (a family's share of an axis's routing in its layers, the share of as many average experts).

    None where the atlas lacks the axis or a layer.
    """
    if axis not in atlas.axes or not set(cells) <= set(atlas.layout.layers):
        return None
    table = share(atlas.mass)[atlas.axes.index(axis)]
    taken = [float(table[atlas.layout.layers.index(layer), list(experts)].sum()) for layer, experts in cells.items()]
    size = sum(len(experts) for experts in cells.values())
    return math.fsum(taken) / len(taken), size / len(cells) / atlas.layout.experts


def cells_of(flat: Iterable[int], layout: Layout) -> dict[int, tuple[int, ...]]:
    """Return the cells numbered ``row of the layer × experts + expert``."""
    cells: dict[int, list[int]] = {}
    for index in flat:
        row, expert = divmod(int(index), layout.experts)
        cells.setdefault(layout.layers[row], []).append(expert)
    return {layer: tuple(sorted(experts)) for layer, experts in sorted(cells.items())}
