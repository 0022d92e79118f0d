"""Routing, counted exactly while a model runs: streaming, additive, padding never counted.

A `Recorder` is given to a session and sees, for every routed layer of every forward, which experts
were selected with which gates. It keeps sums only, so its memory does not depend on the number of
tokens. Shares and probabilities are rounded to multiples of 2^-32 and summed as integers: sums do
not depend on the order of batches, and the sums of shards add up to the sum of the whole, bit for
bit. Routing is recorded as the router decided it, under the router interventions of the session;
what expert interventions do to the contributions afterwards is not routing.

Shapes: G groups (labels of batch rows), L routed layers in decoder order, E experts of the widest
layer. Layers with fewer experts have zeros at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np
import torch
from torch import Tensor

from prereg_moe.errors import Invalid, NotCheckable, Problem, Stopped
from prereg_moe.lab.models.ops import device_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from prereg_moe.lab.models import MoE, MoELayer

__all__ = ["Recorder", "Routing", "Totals"]

_ONE: Final = 1 << 32
_NORM_ONE: Final = 1 << 20

Array: TypeAlias = "NDArray[Any]"


@dataclass(frozen=True, slots=True, eq=False)
class Routing:
    """The routing of the real tokens of one layer in one forward: N tokens, k slots.

    ``row`` and ``column`` (N) say where a token stands in the batch, ``position`` (N) where in its
    sequence, padding not counted. ``experts`` (N, k) are selected with ``gates`` (N, k).
    """

    layer: int
    forward: int
    row: Array
    column: Array
    position: Array
    experts: Array
    gates: Array


@dataclass(frozen=True, slots=True, eq=False)
class Totals:
    """Sums over all real tokens seen; two of them add up.

    Args:
        layers: decoder layer indices (L).
        experts: experts of each layer (L).
        tokens: tokens seen, int (G, L).
        counts: how often an expert was selected, int (G, L, E).
        void: slots given to no-op classes, int (G, L).
        mass: renormalised gate mass in units of 2^-32, int (G, L, E).
        void_mass: the part of it that no-op classes took, int (G, L).
        gates: gate mass as the model applied it in units of 2^-32, int (G, L, E).
        softmax: probability under the softmax of all router logits in units of 2^-32, int (G, L, E), or None.
        entropy: entropy of that softmax, nats, in units of 2^-32, int (G, L), or None.
        pairs: how often two experts were selected together, int (L, E, E), diagonal = counts, or None.
        norms: sum of the L2 norms of experts' outputs, before the gate, in units of 2^-20, int (L, E), or None.
        outputs: sum of experts' outputs, before the gate, float64 (L, E, hidden), or None. The one sum
            whose last bits depend on the order of batches.
    """

    layers: tuple[int, ...]
    experts: tuple[int, ...]
    tokens: Array
    counts: Array
    void: Array
    mass: Array
    void_mass: Array
    gates: Array
    softmax: Array | None = None
    entropy: Array | None = None
    pairs: Array | None = None
    norms: Array | None = None
    outputs: Array | None = None

    def __post_init__(self) -> None:
        for one in fields(self)[2:]:
            values = getattr(self, one.name)
            if one.name != "outputs" and values is not None and np.min(values, initial=0) < 0:
                raise Invalid(Problem(one.name, "has a sum below 0: it overflowed", "keep the parts apart"))

    def __add__(self, other: Totals) -> Totals:
        """Return the sums over both.

        Raises:
            Invalid: other layers, groups, or statistics, or a sum does not fit into 64 bits.
        """
        values: dict[str, Any] = {"layers": self.layers, "experts": self.experts}
        for one in fields(self)[2:]:
            mine, theirs = getattr(self, one.name), getattr(other, one.name)
            same = (mine is None) == (theirs is None) and np.shape(mine) == np.shape(theirs)
            if not same or (self.layers, self.experts) != (other.layers, other.experts):
                raise Invalid(Problem(one.name, "does not match", "add what was recorded of one model in one way"))
            values[one.name] = None if mine is None else mine + theirs
        return Totals(**values)

    def arrays(self) -> dict[str, Array]:
        """Return everything recorded as arrays by name, to be stored; `from_arrays` reads them back."""
        stored = {one.name: getattr(self, one.name) for one in fields(self)}
        return {name: np.asarray(value) for name, value in stored.items() if value is not None}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array]) -> Totals:
        """Return what `arrays` stored."""
        values: dict[str, Any] = dict(arrays)
        for name in ("layers", "experts"):
            values[name] = tuple(int(one) for one in values[name])
        return cls(**values)


@dataclass(eq=False)
class Recorder:
    """Adds up the routing of a session. Use it again in later sessions of the same model to go on adding.

    Args:
        groups: number of labels; ``session.batch(labels=...)`` gives the label of each row.
        softmax: record softmax mass and entropy too.
        pairs: record co-activation too.
        outputs: record norms and sums of experts' outputs too; runs the experts twice more.
        sink: called with the `Routing` of every layer of every forward that counts, for records per token.
    """

    groups: int = 1
    softmax: bool = False
    pairs: bool = False
    outputs: bool = False
    sink: Callable[[Routing], None] | None = None
    _sums: dict[str, Tensor] = field(default_factory=dict, init=False, repr=False)
    _pending: dict[str, Tensor] = field(default_factory=dict, init=False, repr=False)
    _routings: list[Routing] = field(default_factory=list, init=False, repr=False)
    _layers: tuple[MoELayer, ...] = field(default=(), init=False, repr=False)

    def __post_init__(self) -> None:
        if self.groups < 1:
            raise Invalid(Problem("recorder.groups", f"is {self.groups!r}", "use a whole number from 1"))

    def start(self, moe: MoE) -> None:
        """Make room for a model's routing; called by the session.

        Raises:
            Invalid: it already holds the routing of a model with other layers, or outputs cannot be read.
        """
        if self._layers:
            if [(one.index, one.n_experts) for one in self._layers] != [
                (one.index, one.n_experts) for one in moe.layers
            ]:
                raise Invalid(Problem("recorder", "holds the routing of another model", "use a new one"))
            return
        unknown = [layer for layer in moe.layers if layer.no_logits]
        if self.softmax and unknown:
            found = f"its logits cannot be told: {unknown[0].no_logits}"
            raise Invalid(Problem(f"layer {unknown[0].index}", found, "record without softmax"))
        dense = [layer for layer in moe.layers if layer.no_outputs]
        if self.outputs and dense:
            found = f"outputs before the gate do not exist: {dense[0].no_outputs}"
            raise Invalid(Problem(f"layer {dense[0].index}", found, "record without outputs"))
        device = device_of(moe.model)
        shape = (self.groups, len(moe.layers), moe.n_experts)
        shapes: dict[str, tuple[int, ...]] = {"tokens": shape[:2], "void": shape[:2], "void_mass": shape[:2]}
        shapes |= {"counts": shape, "mass": shape, "gates": shape}
        if self.softmax:
            shapes |= {"softmax": shape, "entropy": shape[:2]}
        if self.pairs:
            shapes["pairs"] = (shape[1], shape[2], shape[2])
        if self.outputs:
            shapes["norms"] = shape[1:]
        self._sums = {name: torch.zeros(size, dtype=torch.int64, device=device) for name, size in shapes.items()}
        self._layers = moe.layers  # last: an interruption before has started nothing

    def begin(self) -> None:
        """Start a forward; what it adds counts once it is committed."""
        self._pending = {name: torch.zeros_like(value) for name, value in self._sums.items()}
        self._routings = []

    def commit(self) -> None:
        """Count the forward that was begun, all of it or, where anything fails, nothing.

        Raises:
            Stopped: a sum does not fit into 64 bits, or a gate was negative.
        """
        sums = dict(self._sums)
        for name, value in self._pending.items():
            sums[name] = sums[name] + value if name in sums else value
            if name != "outputs" and bool((sums[name] < 0).any()):
                found = f"the sum of {name} is below 0: it overflowed, or a gate is negative"
                raise Stopped(Problem("recorder", found, "use a new recorder for the texts that follow"))
        if self.sink is not None:
            for routing in self._routings:
                self.sink(routing)
        self._sums, self._pending, self._routings = sums, {}, []

    def add_tokens(self, routing: Routing) -> None:
        """Add the records per token of one layer of one forward; the sink gets them once the forward counts."""
        self._routings.append(routing)

    def add_routing(
        self, place: int, index: Tensor, gates: Tensor, logits: Tensor | None, labels: Tensor | None
    ) -> None:
        """Add the real tokens of one layer of one forward.

        Args:
            place: the layer's place among the routed layers.
            index: (N, k) selected experts; at or beyond the layer's experts are no-op classes.
            gates: (N, k) weights.
            logits: (N, classes) router logits; needed for softmax mass.
            labels: (N) group of each token; None for the first group.
        """
        layer, sums = self._layers[place], self._pending
        device = sums["tokens"].device
        index, gates = index.to(device), gates.detach().to(device, torch.float64)
        group = torch.zeros(len(index), dtype=torch.int64, device=device) if labels is None else labels.to(device)
        width = sums["counts"].shape[-1]
        real = index < layer.n_experts
        if layer.classes > layer.n_experts:  # some routers hand a no-op slot to expert 0 with gate 0
            real &= gates != 0
        # One more column takes what no-op classes get.
        cell = (group[:, None] * (width + 1) + torch.where(real, index, width)).reshape(-1)
        size = self.groups * (width + 1)

        def add(name: str, values: Tensor, void: str) -> None:
            total = torch.zeros(size, dtype=torch.int64, device=device).index_add_(0, cell, values.reshape(-1))
            total = total.view(self.groups, width + 1)
            sums[name][:, place] += total[:, :width]
            if void:
                sums[void][:, place] += total[:, width]

        add("counts", torch.ones_like(cell), "void")
        add("mass", _shares(gates), "void_mass")
        add("gates", _fixed(gates), "")
        sums["tokens"][:, place] += torch.bincount(group, minlength=self.groups)
        if self.softmax:
            self._add_softmax(place, logits, group, layer)
        if self.pairs:
            hot = torch.zeros(len(index), width + 1, device=device, dtype=torch.float64)  # which autocast leaves alone
            hot.scatter_(1, torch.where(real, index, width), 1.0)
            sums["pairs"][place] += (hot.T @ hot)[:width, :width].long()

    def _add_softmax(self, place: int, logits: Tensor | None, group: Tensor, layer: MoELayer) -> None:
        if logits is None:
            raise TypeError("no logits to add")
        log_p = torch.log_softmax(logits.detach().to(group.device, torch.float64), -1)
        p = log_p.exp()
        entropy = -torch.where(p > 0, p * log_p, torch.zeros_like(p)).sum(-1)
        mass = self._pending["softmax"][:, place, : layer.n_experts]
        mass += torch.zeros_like(mass).index_add_(0, group, _fixed(p[:, : layer.n_experts]))
        self._pending["entropy"][:, place].index_add_(0, group, _fixed(entropy))

    def add_outputs(self, place: int, index: Tensor, outputs: Tensor) -> None:
        """Add what one slot's experts gave, before the gate: index (N), outputs (N, hidden)."""
        layer, sums = self._layers[place], self._pending
        device = sums["norms"].device
        real = (index < layer.n_experts).to(device)
        index, outputs = index.to(device)[real], outputs.detach().to(device, torch.float64)[real]
        if "outputs" not in sums:
            shape = (*sums["norms"].shape, outputs.shape[-1])
            sums["outputs"] = torch.zeros(shape, dtype=torch.float64, device=device)
        sums["norms"][place].index_add_(0, index, (outputs.norm(dim=-1) * _NORM_ONE).round().long())
        sums["outputs"][place].index_add_(0, index, outputs)

    def totals(self) -> Totals:
        """Return the sums so far, as arrays of their own.

        Raises:
            NotCheckable: nothing was recorded.
        """
        if not self._layers:
            raise NotCheckable(Problem("recorder", "has recorded nothing", "give it to a session first"))
        arrays = {name: value.cpu().numpy().copy() for name, value in self._sums.items()}
        if self.outputs and "outputs" not in arrays:
            raise NotCheckable(Problem("recorder", "has seen no expert outputs", "run the model inside the session"))
        layers = tuple(layer.index for layer in self._layers)
        return Totals(layers, tuple(layer.n_experts for layer in self._layers), **arrays)

    def mass(self) -> NDArray[np.float64]:
        """Return renormalised gate mass: (G, L, E).

        Each token's gates are divided by their sum over its selected slots, so that a token is worth 1:
        a row sums to its group's tokens (less what no-op classes took).
        """
        return _units(self.totals().mass)

    def gate_mass(self) -> NDArray[np.float64]:
        """Return gate mass as the model applied it: (G, L, E)."""
        return _units(self.totals().gates)

    def counts(self) -> NDArray[np.int64]:
        """Return how often each expert was selected: (G, L, E). A row sums to tokens × k, less no-op slots."""
        counts: NDArray[np.int64] = self.totals().counts
        return counts

    def load(self) -> NDArray[np.float64]:
        """Return the share of a group's slots that each expert took: (G, L, E); NaN where a group has no tokens."""
        counts = self.counts().astype(np.float64)
        total = counts.sum(-1, keepdims=True)
        share: NDArray[np.float64] = np.divide(counts, total, out=np.full_like(counts, np.nan), where=total > 0)
        return share

    def softmax_mass(self) -> NDArray[np.float64]:
        """Return the summed softmax of all router logits: (G, L, E).

        Raises:
            Invalid: it was not recorded.
        """
        return _units(_given(self.totals().softmax, "softmax"))

    def entropy(self) -> NDArray[np.float64]:
        """Return the mean entropy of that softmax, in nats: (G, L); NaN where a group has no tokens.

        Raises:
            Invalid: it was not recorded.
        """
        totals = self.totals()
        total = _units(_given(totals.entropy, "softmax"))
        mean: NDArray[np.float64] = np.divide(
            total, totals.tokens, out=np.full_like(total, np.nan), where=totals.tokens > 0
        )
        return mean

    def coactivation(self) -> NDArray[np.int64]:
        """Return how many tokens selected both experts: (L, E, E); the diagonal is the counts.

        Raises:
            Invalid: it was not recorded.
        """
        return _given(self.totals().pairs, "pairs")

    def output_norms(self) -> NDArray[np.float64]:
        """Return the mean L2 norm of each expert's output before the gate: (L, E); NaN where it never ran.

        Raises:
            Invalid: it was not recorded.
        """
        totals = self.totals()
        norms: NDArray[np.float64] = _given(totals.norms, "outputs") / float(_NORM_ONE)
        counts = totals.counts.sum(0)
        mean: NDArray[np.float64] = np.divide(norms, counts, out=np.full_like(norms, np.nan), where=counts > 0)
        return mean

    def output_means(self) -> dict[int, NDArray[np.float64]]:
        """Return the mean output of each expert before the gate: {layer: (experts, hidden)}; 0 where it never ran.

        Raises:
            Invalid: it was not recorded.
        """
        totals = self.totals()
        sums = _given(totals.outputs, "outputs")
        counts = np.maximum(totals.counts.sum(0), 1)[..., None]
        means = sums / counts
        return {layer: means[place, : totals.experts[place]] for place, layer in enumerate(totals.layers)}


def _fixed(values: Tensor) -> Tensor:
    """Return values as whole multiples of 2^-32."""
    return (values * _ONE).round().long()


def _shares(gates: Tensor) -> Tensor:
    """Return each token's gates divided by their sum, in units of 2^-32, adding up to exactly 1.

    The rounding, below k · 2^-33, goes to the first slot. A token whose gates are all 0 counts for the first.
    """
    total = gates.sum(-1, keepdim=True)
    shares = _fixed(torch.where(total == 0, torch.zeros_like(gates), gates / total))
    shares[:, 0] += _ONE - shares.sum(-1)
    return shares


def _units(values: Array) -> NDArray[np.float64]:
    units: NDArray[np.float64] = values / float(_ONE)
    return units


def _given(values: Array | None, option: str) -> Array:
    if values is None:
        raise Invalid(Problem("recorder", "did not record this", f"make it with Recorder({option}=True)"))
    return values
