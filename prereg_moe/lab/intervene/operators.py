"""What can be done to routing and to experts, as frozen values.

Cells are plain data: a mapping from decoder layer index to expert ids. Operators act on the router
(`Mask`, `KeepOnly`, `Force`, `TopK`, `RouterNoise`) or on what selected experts contribute
(`Scale`, `Mean`, `Resample`, `Noise`, `SkipSlots`). Laws of composition:

* The order of router operators does not matter. Masks unite; `KeepOnly` masks the complement in the
  layers it names and leaves other layers alone. An expert both masked and forced is an error, as are
  two gate rules on one layer, and two values of k.
* Router operators act before expert operators, whatever the order they are given in.
* At most one expert operator acts on a cell at a token, so their order does not matter either. One
  that acts on a masked cell could never fire and is an error. `SkipSlots` acts first, on gates.
* No intervention, and an operator without cells, is the identity, bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import numpy as np

from prereg_moe.errors import Invalid, Problem

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from prereg_moe.lab.models import MoE

__all__ = [
    "ByRow",
    "Cells",
    "Force",
    "Gates",
    "Intervention",
    "KeepOnly",
    "Mask",
    "Mean",
    "Noise",
    "Resample",
    "RouterNoise",
    "Scale",
    "Scope",
    "SkipSlots",
    "TopK",
    "cells_of",
]

Cells: TypeAlias = Mapping[int, Sequence[int]]
"""{decoder layer index: expert ids}."""

Gates: TypeAlias = Literal["renorm", "original"]
"""Where gates come from once experts are masked.

"renorm": masked logits are −∞ before the router's own scores, so the other gates grow where the
scores are a softmax. "original": masked experts lose the comparison only, and every other gate is
what it would have been; a token that selected no masked expert is not changed at all.
"""

_GATES: Final = ("renorm", "original")


@dataclass(frozen=True, slots=True)
class Scope:
    """Which tokens an intervention acts on: all of them by default.

    Args:
        layers: decoder layer indices; None for every layer the intervention names.
        positions: positions in the sequence, from 0, padding not counted; None for all.
        segment: one of {"all", "prompt", "generated"}.
    """

    layers: tuple[int, ...] | None = None
    positions: tuple[int, ...] | None = None
    segment: Literal["all", "prompt", "generated"] = "all"

    def __post_init__(self) -> None:
        for name in ("layers", "positions"):
            value = getattr(self, name)
            if value is None:
                continue
            ids = tuple(sorted(_ids(f"scope.{name}", value)))
            if not ids:
                raise Invalid(Problem(f"scope.{name}", "is empty", "leave it out to mean all"))
            object.__setattr__(self, name, ids)
        if self.segment not in {"all", "prompt", "generated"}:
            raise Invalid(Problem("scope.segment", f"is {self.segment!r}", "use all, prompt or generated"))

    @property
    def everywhere(self) -> bool:
        """Whether every token is in scope."""
        return self.positions is None and self.segment == "all"

    def holds(self, position: int | None, segment: str) -> bool:
        """Return whether a token at a position (None: one that is never named) of a segment is in scope."""
        return self.segment in {"all", segment} and (self.positions is None or position in self.positions)

    def meets(self, other: Scope) -> bool:
        """Return whether a token can be in both scopes."""
        if "all" not in {self.segment, other.segment} and self.segment != other.segment:
            return False
        return self.positions is None or other.positions is None or bool(set(self.positions) & set(other.positions))


@dataclass(frozen=True, slots=True)
class Mask:
    """Make experts unselectable: the router chooses among the others.

    Args:
        cells: experts to mask.
        gates: "renorm" or "original".
        scope: tokens to act on; None takes the session's.
    """

    cells: Cells
    gates: Gates = "renorm"
    scope: Scope | None = None

    def __post_init__(self) -> None:
        _freeze(self)
        _check_gates(self.gates)


@dataclass(frozen=True, slots=True)
class KeepOnly:
    """Make all experts but these unselectable, in the layers named: deployment of a subset.

    Args:
        cells: experts to keep. A layer that is not named keeps all of its experts.
        gates: "renorm" or "original".
        scope: tokens to act on; None takes the session's.
    """

    cells: Cells
    gates: Gates = "renorm"
    scope: Scope | None = None

    def __post_init__(self) -> None:
        _freeze(self)
        _check_gates(self.gates)


@dataclass(frozen=True, slots=True)
class Force:
    """Make the router select experts, with the gates it gives them itself."""

    cells: Cells
    scope: Scope | None = None

    def __post_init__(self) -> None:
        _freeze(self)


@dataclass(frozen=True, slots=True)
class TopK:
    """Make the router select k experts a token. Its scope may name layers only."""

    k: int
    scope: Scope | None = None

    def __post_init__(self) -> None:
        if not _whole(self.k):
            raise Invalid(Problem("top-k", f"k is {self.k!r}", "use a whole number from 1"))


@dataclass(frozen=True, slots=True)
class RouterNoise:
    """Add independent normal noise to router logits.

    Args:
        sigma: standard deviation, in logits.
        seed: noise is a function of the seed, the layer and the batch's tokens, not of what ran before.
        scope: tokens and layers to act on; None takes the session's.
    """

    sigma: float
    seed: int = 0
    scope: Scope | None = None

    def __post_init__(self) -> None:
        _finite("sigma", self.sigma, low=0.0)


@dataclass(frozen=True, slots=True)
class Scale:
    """Multiply what experts contribute by a factor; gates and selection stay. 0 is zero ablation."""

    cells: Cells
    factor: float = 0.0
    scope: Scope | None = None

    def __post_init__(self) -> None:
        _freeze(self)
        _finite("factor", self.factor)


@dataclass(frozen=True, slots=True, eq=False)
class Mean:
    """Replace experts' outputs by constant vectors, weighted by the gates as before.

    Args:
        cells: experts to replace.
        means: {decoder layer index: array-like (experts, hidden)}, as `Recorder.output_means` returns.
        scope: tokens to act on; None takes the session's.
    """

    cells: Cells
    means: Mapping[int, Any]
    scope: Scope | None = None

    def __post_init__(self) -> None:
        _freeze(self)
        means = {}
        for layer, values in self.means.items():
            array = np.array(values, dtype=np.float64)
            if array.ndim != 2 or not np.isfinite(array).all():
                raise Invalid(Problem(f"means of layer {layer}", "are not finite vectors", "use (experts, hidden)"))
            array.flags.writeable = False
            means[layer] = array
        object.__setattr__(self, "means", MappingProxyType(means))


@dataclass(frozen=True, slots=True)
class Resample:
    """Replace an expert's output on a token by the same expert's output on another token of the batch.

    Donors are drawn among the tokens that are not padding; no token is its own donor. The draw is a
    function of the seed, the layer and the batch's tokens.
    """

    cells: Cells
    seed: int = 0
    scope: Scope | None = None

    def __post_init__(self) -> None:
        _freeze(self)


@dataclass(frozen=True, slots=True)
class Noise:
    """Add independent normal noise to experts' outputs, weighted by the gates as they are.

    Args:
        cells: experts whose outputs get noise.
        sigma: standard deviation, in units of the hidden state.
        seed: noise is a function of the seed, the layer and the batch's tokens.
        scope: tokens to act on; None takes the session's.
    """

    cells: Cells
    sigma: float
    seed: int = 0
    scope: Scope | None = None

    def __post_init__(self) -> None:
        _freeze(self)
        _finite("sigma", self.sigma, low=0.0)


@dataclass(frozen=True, slots=True)
class SkipSlots:
    """Drop slots of each token by the size of their gates, after the router has selected.

    Args:
        slots: how many of the k slots to drop, fewer than k.
        which: drop those with the "lowest" or the "highest" gates.
        gates: "original" leaves the other gates; "renorm" scales them to the sum they had together.
        scope: tokens and layers to act on; None takes the session's.
    """

    slots: int = 1
    which: Literal["lowest", "highest"] = "lowest"
    gates: Gates = "original"
    scope: Scope | None = None

    def __post_init__(self) -> None:
        if not _whole(self.slots):
            raise Invalid(Problem("skip-slots", f"slots is {self.slots!r}", "use a whole number from 1"))
        if self.which not in {"lowest", "highest"}:
            raise Invalid(Problem("skip-slots", f"which is {self.which!r}", "use lowest or highest"))
        _check_gates(self.gates)


Intervention: TypeAlias = Mask | KeepOnly | Force | TopK | RouterNoise | Scale | Mean | Resample | Noise | SkipSlots
"""Any one operator."""


@dataclass(frozen=True, slots=True)
class ByRow:
    """Several conditions in one batch: each row of a batch lives under one of them.

    Args:
        conditions: the interventions of each condition; an empty one is the baseline.

    Which row has which condition is said with ``session.batch(rows=...)``; without it the batch
    must have as many rows as there are conditions. A cell operator acts on the rows of its condition
    only. `TopK` changes the shape of a whole batch, so it stands outside.
    """

    conditions: tuple[tuple[Intervention, ...], ...] = field(default=())

    def __post_init__(self) -> None:
        conditions = tuple(tuple(one) for one in self.conditions)
        if not conditions:
            raise Invalid(Problem("by-row", "has no conditions", "give at least one, which may be empty"))
        for number, condition in enumerate(conditions):
            for one in condition:
                if isinstance(one, TopK) or not isinstance(one, Intervention):
                    found = f"holds {type(one).__name__}, which cannot differ by row"
                    raise Invalid(Problem(f"conditions[{number}]", found, "give it to intervene() beside ByRow"))
        object.__setattr__(self, "conditions", conditions)


def cells_of(moe: MoE, mask: ArrayLike) -> dict[int, tuple[int, ...]]:
    """Return the cells of a boolean array (MoE layers in order, experts).

    Raises:
        Invalid: the array is not boolean or not of that shape.
    """
    array: NDArray[Any] = np.asarray(mask)
    shape = (len(moe.layers), moe.n_experts)
    if array.dtype != np.bool_:
        raise Invalid(Problem("mask", f"has dtype {array.dtype}", "use booleans"))
    if array.shape != shape:
        raise Invalid(Problem("mask", f"has shape {array.shape}", f"use (MoE layers, experts) = {shape}"))
    return {
        layer.index: tuple(int(expert) for expert in np.flatnonzero(row))
        for layer, row in zip(moe.layers, array, strict=True)
        if row.any()
    }


def _freeze(operator: Any) -> None:
    """Replace an operator's cells by a read-only copy with sorted ids."""
    if not isinstance(operator.cells, Mapping):
        found = f"are a {type(operator.cells).__name__}"
        raise Invalid(Problem("cells", found, "use {layer: [expert, ...]}; cells_of() reads a boolean array"))
    cells = {}
    for layer in _ids("cells", operator.cells):
        experts = _ids(f"cells of layer {layer}", operator.cells[layer])
        if len(set(experts)) != len(experts):
            raise Invalid(Problem(f"cells of layer {layer}", "name an expert twice", "name each once"))
        cells[layer] = tuple(sorted(experts))
    object.__setattr__(operator, "cells", MappingProxyType(dict(sorted(cells.items()))))


def _ids(where: str, values: Iterable[Any]) -> tuple[int, ...]:
    """Return whole numbers from 0 as ints, numpy's included.

    Raises:
        Invalid: not an iterable, or something else among them.
    """
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise Invalid(Problem(where, f"is {values!r}", "use a sequence of whole numbers"))
    ids = tuple(values)
    for one in ids:
        if isinstance(one, (bool, np.bool_)) or not isinstance(one, (int, np.integer)) or one < 0:
            raise Invalid(Problem(where, f"holds {one!r}", "use whole numbers from 0"))
    return tuple(int(one) for one in ids)


def _check_gates(gates: str) -> None:
    if gates not in _GATES:
        raise Invalid(Problem("gates", f"is {gates!r}", "use renorm or original"))


def _finite(where: str, value: float, *, low: float = -np.inf) -> None:
    if not _number(value) or not np.isfinite(value) or value < low:
        raise Invalid(Problem(where, f"is {value!r}", f"use a finite number{' from 0' if low == 0 else ''}"))


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
