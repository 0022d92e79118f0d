"""Find out, on a study's own requests, what can be shared in a model without changing an answer.

Every way of sharing is tried against the model's plain forward; one that fails, or differs by more than
rounding, is not used, and says so. Nothing is known of architectures here: a sliding window, a recurrent
layer, a block whose output is rescaled, a router whose gates feel unselected experts all show in figures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from prereg_moe.errors import PreregError
from prereg_moe.lab.engines.base import Request
from prereg_moe.lab.engines.ports import Ports, Run
from prereg_moe.lab.engines.rows import Batch, Row, lay_out
from prereg_moe.lab.intervene import ByRow, Intervention, KeepOnly, intervene
from prereg_moe.lab.models import MoE, MoELayer
from prereg_moe.lab.models.ops import read_selection

__all__ = ["Exact", "probe"]

_CLOSE: Final = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 0.06, torch.float16: 0.01}
_FAULTS: Final = (
    RuntimeError,
    ValueError,
    TypeError,
    IndexError,
    KeyError,
    AttributeError,
    AssertionError,
    PreregError,
)
_TOKENS: Final = 64


@dataclass(frozen=True, slots=True)
class Exact:
    """What is exact in a model.

    Attributes:
        parts: its head can be run alone, on the states that enter it.
        causal: a token changes nothing before it.
        resumed: a forward can start at any layer.
        blocks: layers whose routed block can be run token by token and adds to the layer's output.
        local: layers where masking experts a token did not select leaves its gates, with gates "renorm".
        trees: continuations can share their context.
        notes: what is not shared, and why, in words.
    """

    parts: bool = False
    causal: bool = False
    resumed: bool = False
    blocks: frozenset[int] = frozenset()
    local: frozenset[int] = frozenset()
    trees: bool = False
    notes: tuple[str, ...] = ()


@torch.inference_mode()
def probe(moe: MoE, ports: Ports, requests: Sequence[Request], max_length: int) -> Exact:
    """Return what is exact in a model for these requests. ``ports`` must be installed."""
    return _Probe(moe, ports, requests, max_length).exact()


class _Probe:
    def __init__(self, moe: MoE, ports: Ports, requests: Sequence[Request], max_length: int) -> None:
        self.moe, self.ports, self.requests, self.max_length = moe, ports, requests, max_length
        rows = sorted(lay_out(requests, max_length, trees=False), key=lambda row: -len(row.ids))
        self.batch = Batch([rows[0], rows[-1]])
        self.ids = self.batch.ids
        self.notes: list[str] = []

    def exact(self) -> Exact:
        if not self._holds("the head alone", self._parts):
            return Exact(notes=tuple(self.notes))
        causal = self._holds("tokens before a changed one", self._causal)
        resumed = self._holds("layers before a changed one", self._resumed)
        blocks = self._blocks() if resumed else frozenset()
        if resumed and len(blocks) < len(self.moe.layers):
            self.notes.append(
                "a layer's attention is not shared: its block's output does not simply add, or not by token"
            )
        local = self._local()
        if len(local) < len(self.moe.layers):
            found = "gates feel masks of unselected experts" if local or not self.notes else "gates feel masks"
            self.notes.append(
                f"untouched tokens are not shared under gates renorm: {found}, or experts take no indices"
            )
        tree = self._tree()
        trees = tree is not None and self._holds("contexts of several choices", lambda: self._trees(tree))
        return Exact(True, causal, resumed, blocks, local, trees, tuple(self.notes))

    def _holds(self, what: str, test: Callable[[], bool]) -> bool:
        """Return whether a test passes; note it if not."""
        try:
            if test():
                return True
            reason = "the answers differ"
        except _FAULTS as error:
            reason = f"{type(error).__name__}"
        self.notes.append(f"{what}: not shared, {reason}")
        return False

    def _close(self, one: Tensor, two: Tensor) -> bool:
        two = two.to(one.device)  # a model spread over devices gives its logits on the first, its head on the last
        scale = float(two.abs().max())
        return one.shape == two.shape and float((one.double() - two.double()).abs().max()) <= self._tolerance * scale

    @property
    def _tolerance(self) -> float:
        return _CLOSE[self.ports.model.dtype]

    def _parts(self) -> bool:
        """The head, run alone on the states that enter it, gives the model's logits."""
        plain = self.ports.model(input_ids=self.ids.to(self.ports.model.device), use_cache=False).logits
        self.final = self._final(Run())
        logits = self.ports.logits(self.final)
        self.ports.classes = logits.shape[-1]
        self.ports.direct = True
        self.ports.direct = torch.equal(self.ports.logits(self.final), logits)
        return self._close(logits, plain.reshape(-1, plain.shape[-1]).float())

    def _final(self, run: Run, ids: Tensor | None = None) -> Tensor:
        final = self.ports.forward(run, self.ids if ids is None else ids).final
        if final is None:
            raise RuntimeError("the head was not reached")
        return final

    def _causal(self) -> bool:
        """Other tokens in the second half of the rows change nothing in the first."""
        half = self.ids.shape[1] // 2
        other = self.ids.clone()
        other[:, half:] = (other[:, half:] + 1) % int(self.ids.max() + 1)
        shape = (*self.ids.shape, -1)
        now, before = self._final(Run(), other).view(shape), self.final.view(shape)
        return half > 0 and self._close(now[:, :half], before[:, :half])

    def _layers(self) -> list[int]:
        """Return the first, the middle and the last routed layer."""
        indices = self.moe.indices
        return sorted({indices[0], indices[len(indices) // 2], indices[-1]})

    def _resumed(self) -> bool:
        """A forward started at a layer, with what entered it, ends as the whole one."""
        kept = self.ports.forward(Run(inputs=frozenset(self._layers())), self.ids).entered
        return all(self._close(self._final(Run(start=one, states=kept[one])), self.final) for one in self._layers())

    def _blocks(self) -> frozenset[int]:
        """Return the layers whose block, run on single tokens and moved by a constant, moves the layer's output so."""
        good: set[int] = set()
        try:
            run = self.ports.forward(Run(blocks=frozenset(self.moe.indices)), self.ids)
            for layer in self.moe.layers:
                index = layer.index
                given, left, rest = (
                    one[index].reshape(-1, one[index].shape[-1]) for one in (run.given, run.left, run.rest)
                )
                ones = torch.zeros(len(given), 1, dtype=torch.long)
                again = Run(start=index, stop=index + 1, states=given[:, None], block=rest[:, None])
                same = self._close(self.ports.forward(again, ones).left[index][:, 0], left)
                if same and self._adds(index, left):
                    good.add(index)
        except _FAULTS as error:
            self.notes.append(f"routed blocks alone: not run, {type(error).__name__}")
        return frozenset(good)

    def _adds(self, index: int, left: Tensor) -> bool:
        """Return whether moving the block's output moves the layer's output by as much."""
        block = self.moe.layer(index).block
        shift = float(left.abs().max())

        def moved(_: object, __: object, out: Tensor | tuple[Tensor, ...]) -> Tensor | tuple[Tensor, ...]:
            return (out[0] + shift, *out[1:]) if isinstance(out, tuple) else out + shift

        handle = block.register_forward_hook(moved)
        try:
            run = self.ports.forward(Run(blocks=frozenset({index})), self.ids)
        finally:
            handle.remove()
        return self._close(run.left[index].reshape(left.shape) - shift, left)

    def _local(self) -> frozenset[int]:
        """Return the layers where masking experts a token did not select leaves its experts, their gates and the order.

        Tried with all others masked, and with every second: where a bias is added to a softmax, say, masks change
        who comes next. Routers that choose among groups are not tried: masks change which groups are searched.
        """
        able = [layer for layer in self.moe.layers if layer.takes == "indices" and layer.groups == 1]
        ids = torch.unique(self.ids[self.batch.real])[:_TOKENS, None]
        try:
            chosen, plain = self._routed(able, ids, ())
            good = {layer.index for layer in able}
            for skip in (1, 2):
                kept = [
                    (KeepOnly({one.index: _kept(chosen[one.index][row], one.n_experts, skip) for one in able}),)
                    for row in range(len(ids))
                ]
                _, masked = self._routed(able, ids, tuple(kept))
                good &= {one.index for one in able if self._same_choice(plain[one.index], masked[one.index])}
        except _FAULTS as error:
            self.notes.append(f"gates under masks: not known, {type(error).__name__}")
            return frozenset()
        odd = {type(one.router) for one in able if one.index not in good}  # what one shows, its like may do elsewhere
        return frozenset(one.index for one in able if type(one.router) not in odd)

    def _routed(
        self, layers: Sequence[MoELayer], ids: Tensor, kept: tuple[tuple[Intervention, ...], ...]
    ) -> tuple[dict[int, Tensor], dict[int, list[Tensor]]]:
        """Return who is selected in each layer, and there the gate of every class and the keys routers compare."""
        seen: dict[int, list[Tensor]] = {}
        keys = _Keys()
        hooks = [
            layer.experts.register_forward_pre_hook(
                lambda _, args, layer=layer: seen.__setitem__(
                    layer.index, [_gate_table(args, layer.classes), *keys.taken(layer.classes)]
                )
            )
            for layer in layers
        ]
        try:
            with keys:
                if not kept:
                    return self.ports.forward(Run(), ids).chosen, seen
                with intervene(self.moe, ByRow(kept)) as session:
                    session.batch(rows=range(len(ids)))
                    return self.ports.forward(Run(), ids).chosen, seen
        finally:
            for hook in hooks:
                hook.remove()

    def _same_choice(self, plain: Sequence[Tensor], masked: Sequence[Tensor]) -> bool:
        """Return whether gates agree and the keys of experts that are not masked stand in one order."""
        if len(plain) != len(masked) or len(plain) < 2 or not self._close(masked[0], plain[0]):
            return False
        for before, after in zip(plain[1:], masked[1:], strict=True):
            live = torch.isfinite(before) & torch.isfinite(after)
            order = before.masked_fill(~live, float("-inf")).argsort(-1, descending=True)
            ranked, alive = after.gather(-1, order), live.gather(-1, order)
            rise = (ranked[:, 1:] - ranked[:, :-1])[alive[:, 1:]]
            if len(rise) and float(rise.max()) > self._tolerance * float(after[live].abs().max()):
                return False
        return True

    def _tree(self) -> Row | None:
        """Return the longest shared row of the plan."""
        rows = [row for row in lay_out(self.requests, self.max_length, trees=True) if row.starts]
        return max(rows, key=lambda row: len(row.ids), default=None)

    def _trees(self, row: Row) -> bool:
        """Every continuation of a shared row ends in the states it has alone."""
        batch = Batch([row])
        everything = torch.zeros(1, dtype=torch.long)
        positions, mask = (
            batch.positions(everything, batch.width),
            batch.mask(everything, batch.width, self.ports.model.dtype),
        )
        shared = self.ports.forward(Run(), batch.ids, positions=positions, mask=mask).final
        alone = Batch(lay_out([self.requests[number] for number in row.requests], self.max_length, trees=False))
        single = self._final(Run(), alone.ids).view(len(alone.rows), alone.width, -1)
        if shared is None:
            return False
        pairs = zip(row.scored(), alone.rows, single, strict=True)
        return all(
            self._close(shared[where], states[len(one.ids) - len(where) : len(one.ids)])
            for (_, where), one, states in pairs
        )


class _Keys(TorchFunctionMode):
    """Keeps the keys of comparisons, as they are made under any session inside it."""

    def __init__(self) -> None:
        super().__init__()
        self._made: list[Tensor] = []

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        selection = read_selection(func, args, kwargs or {})
        if selection is not None:
            self._made.append(selection.keys)
        return func(*args, **(kwargs or {}))

    def taken(self, classes: int) -> list[Tensor]:
        """Return and forget the keys compared over so many classes since the last call."""
        made, self._made = self._made, []
        return [keys.reshape(-1, classes) for keys in made if keys.shape[-1] == classes]


def _kept(chosen: Tensor, count: int, skip: int) -> list[int]:
    """Return the experts a token selected and, with ``skip`` 2, every second other one."""
    own = {int(one) for one in chosen.tolist() if one < count}
    others = [one for one in range(count) if one not in own]
    return sorted(own | set(others[1::2] if skip > 1 else ()))


def _gate_table(args: tuple[Tensor, ...], classes: int) -> Tensor:
    """Return the gate of every class at every token, from what experts are handed: (tokens, classes)."""
    index, gates = (args[2], args[1]) if args[1].is_floating_point() else (args[1], args[2])
    table = torch.zeros(len(index), classes, dtype=gates.dtype, device=gates.device)
    return table.scatter_add_(1, index.clamp(max=classes - 1), gates)
