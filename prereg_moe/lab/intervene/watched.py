"""One routed layer inside a session: its router under our mode, its experts behind our checks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from prereg_moe.errors import Problem
from prereg_moe.lab.capture import Routing
from prereg_moe.lab.intervene.guards import Leak, NeverFired, NotFinite, Unreadable
from prereg_moe.lab.intervene.outputs import run_dense, run_experts
from prereg_moe.lab.intervene.plan import LayerPlan
from prereg_moe.lab.intervene.router import RouterMode
from prereg_moe.lab.intervene.tokens import Tokens

if TYPE_CHECKING:
    from prereg_moe.lab.capture import Recorder
    from prereg_moe.lab.models import MoELayer

__all__ = ["Host", "Watched"]


class Host(Protocol):
    """What a layer needs of its session."""

    recorder: Recorder | None
    conditions: int
    forwards: int

    def current(self, layer: MoELayer) -> Tokens:
        """Return the tokens of the running forward."""


class Watched:
    """Runs one layer's router and experts, edits and checks them. ``fired`` counts its runs in this forward.

    ``width`` is the number of slots of a token, ``edited`` the slots changed in this forward, by condition.
    """

    def __init__(self, host: Host, place: int, plan: LayerPlan) -> None:
        self.plan = plan
        self.fired = 0
        self.width = plan.layer.top_k
        self.edited = [0] * host.conditions
        self._host = host
        self._place = place
        self._mode: RouterMode | None = None
        self._outputs: tuple[Any, ...] = ()
        recorder = host.recorder
        dense = plan.layer.takes != "indices"
        self._reads_router = plan.routes or dense or (recorder is not None and recorder.softmax)

    def forwards(self) -> Iterator[tuple[nn.Module, Callable[..., Any]]]:
        """Yield the modules to wrap, each with its new forward, which is handed the original first."""
        layer = self.plan.layer
        if self._reads_router:
            if layer.selects == "block":
                yield layer.block, self._block
            yield layer.router, self._router
        yield layer.experts, self._experts

    def reset(self) -> None:
        """Forget the last forward."""
        self.fired = 0
        self.edited = [0] * self._host.conditions
        self._mode, self._outputs = None, ()

    def _block(self, original: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        with RouterMode(self.plan, self._host.current(self.plan.layer), "off") as self._mode:
            return original(*args, **kwargs)

    def _router(self, original: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        layer = self.plan.layer
        if layer.selects == "block":
            if self._mode is None:
                raise NeverFired(Problem(f"layer {layer.index}", "its router ran outside its block"))
            mode = self._mode
            mode.phase = "router"
            out = original(*args, **kwargs)
            mode.phase = "after"
        else:
            with RouterMode(self.plan, self._host.current(layer)) as mode:
                out = original(*args, **kwargs)
            self._mode = mode
        if mode.maps != (not layer.no_logits):
            found = f"its router made {mode.maps} linear maps onto {layer.classes} classes, not as when discovered"
            raise NeverFired(Problem(f"layer {layer.index}", found, "discover again"))
        self._outputs = out if isinstance(out, tuple) else (out,)
        return out

    def _experts(self, original: Callable[..., Any], /, *args: Any) -> Any:
        layer, mode = self.plan.layer, self._mode
        tokens = self._host.current(layer)
        if mode is not None:
            mode.phase = "off"
        elif self._reads_router:
            raise NeverFired(Problem(f"layer {layer.index}", "its experts ran, its router did not"))
        self.fired += 1
        if layer.takes == "indices":
            out, index, gates, changed = self._run(original, args, tokens)
        else:
            index, gates = self._dense_slots(tokens)
            self._check(index, gates, tokens)
            out, changed = run_dense(original, args[0], index=index, plan=self.plan, tokens=tokens)
        self._record(index, gates, tokens)
        self.width = index.shape[-1]
        self._count(changed, tokens)
        return out

    def _run(
        self, original: Callable[..., Any], args: tuple[Any, ...], tokens: Tokens
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Check and run experts that take indices; return (output, indices, gates, slots changed)."""
        hidden, one, two = args
        swapped = one.is_floating_point()
        index, gates = (two, one) if swapped else (one, two)
        self._check(index, gates, tokens)
        recorder = self._host.recorder

        def call(hidden: Tensor, index: Tensor, gates: Tensor) -> Tensor:
            out: Tensor = original(hidden, gates, index) if swapped else original(hidden, index, gates)
            return out

        if recorder is not None and recorder.outputs:
            self._record_outputs(recorder, call, hidden, index, gates, tokens)
        if not (self.plan.edits or self.plan.skips):
            return original(*args), index, gates, None
        out, changed = run_experts(call, hidden, index, gates, plan=self.plan, tokens=tokens)
        return out, index, gates, changed

    def _dense_slots(self, tokens: Tokens) -> tuple[Tensor, Tensor]:
        """Return (indices, gates), each (T, k), of a layer whose experts are handed gated inputs."""
        layer, mode = self.plan.layer, self._mode
        if mode is None or mode.picked is None:
            raise NeverFired(Problem(f"layer {layer.index}", "its router compared nothing"))
        index = mode.picked.reshape(tokens.count, -1)
        gates: Tensor = self._outputs[layer.gate_output]
        return index, gates.gather(-1, index)

    def _check(self, index: Tensor, gates: Tensor, tokens: Tokens) -> None:
        """Raise unless what the experts are handed is what was asked for."""
        layer, mode = self.plan.layer, self._mode
        where = f"layer {layer.index} ({type(layer.router).__name__})"
        if index.shape != gates.shape or index.shape[0] != tokens.count:
            shapes = f"{tuple(index.shape)} slots with {tuple(gates.shape)} gates"
            found = f"its experts are handed {shapes}, the batch has {tokens.count} tokens"
            raise Unreadable(Problem(where, found))
        if not bool(torch.isfinite(gates).all()):
            raise NotFinite(Problem(where, "a gate is NaN or infinite", "mask fewer experts, or use gates='original'"))
        asked = self.plan.top_k or layer.top_k
        if index.shape[-1] != asked:
            found = f"it selected {index.shape[-1]} experts, not {asked}"
            raise Leak(Problem(where, found, "its k is fixed in its code, or differs from when it was discovered"))
        if bool((index < 0).any()):
            found = "it selected experts below 0"
            raise Unreadable(Problem(where, found, "routers that leave slots empty are not supported"))
        if mode is None:
            return
        if mode.comparisons != layer.cut + 1:
            found = f"its router compared experts {mode.comparisons} times, {layer.cut + 1} times when discovered"
            raise NeverFired(Problem(where, found, "routers that depend on the batch are not supported"))
        handed = index if layer.classes == layer.n_experts else torch.where(gates != 0, index, layer.classes - 1)
        if mode.masked is not None:
            picked = handed if mode.picked is None else torch.cat([handed, mode.picked.reshape(len(index), -1)], 1)
            leaks = int(mode.masked.expand(len(index), -1).gather(1, picked.to(mode.masked.device)).sum())
            if leaks:
                raise Leak(Problem(where, f"masked experts were selected {leaks} times", "it cannot be masked exactly"))
        if mode.forced is not None:
            got = torch.zeros(len(index), layer.classes, dtype=torch.bool, device=index.device)
            got.scatter_(1, handed, value=True)
            missed = int((mode.forced.to(got.device) & ~got).sum())
            if missed:
                raise Leak(Problem(where, f"forced experts were not selected {missed} times"))

    def _record(self, index: Tensor, gates: Tensor, tokens: Tokens) -> None:
        """Hand the real tokens to the recorder."""
        recorder = self._host.recorder
        if recorder is None or tokens.real is None or tokens.positions is None:
            return
        real = tokens.real.to(index.device)
        logits = None
        if recorder.softmax and self._mode is not None and self._mode.logits is not None:
            logits = self._mode.logits.reshape(tokens.count, -1)[real]
        labels = None
        if tokens.labels is not None:
            labels = tokens.labels.repeat_interleave(tokens.width).to(index.device)[real]
        recorder.add_routing(self._place, index[real], gates[real], logits, labels)
        if recorder.sink is not None:
            place = torch.arange(tokens.count, device=index.device)[real]
            parts = (place // tokens.width, place % tokens.width, tokens.positions.to(index.device)[real], index[real])
            arrays = [one.cpu().numpy() for one in (*parts, gates.detach()[real].double())]
            recorder.add_tokens(Routing(self.plan.layer.index, self._host.forwards, *arrays))

    def _record_outputs(
        self,
        recorder: Recorder,
        call: Callable[[Tensor, Tensor, Tensor], Tensor],
        hidden: Tensor,
        index: Tensor,
        gates: Tensor,
        tokens: Tokens,
    ) -> None:
        """Run each slot's experts alone, with gate 1, and hand what they give to the recorder.

        Each slot is given twice, with gates 1 and 0: some experts cannot run with one slot.
        """
        if tokens.real is None:
            return
        real = tokens.real.to(index.device)
        once = torch.cat([torch.ones_like(gates[:, :1]), torch.zeros_like(gates[:, :1])], 1)
        for slot in range(index.shape[-1]):
            out = call(hidden, index[:, [slot, slot]], once).reshape(tokens.count, -1)
            void = torch.full_like(index[:, slot], self.plan.layer.n_experts)
            chosen = index[:, slot]
            if self.plan.layer.classes > self.plan.layer.n_experts:
                chosen = torch.where(gates[:, slot] != 0, chosen, void)
            recorder.add_outputs(self._place, chosen[real], out[real])

    def _count(self, changed: Tensor | None, tokens: Tokens) -> None:
        """Count the slots changed, by condition."""
        if changed is None:
            return
        rows = changed.view(tokens.rows, -1).sum(1)
        if tokens.conditions is None:
            self.edited[0] += int(rows.sum())
            return
        by = torch.zeros(self._host.conditions, dtype=rows.dtype, device=rows.device)
        by.index_add_(0, tokens.conditions.to(rows.device), rows)
        self.edited = [one + two for one, two in zip(self.edited, by.tolist(), strict=True)]
