"""Take hold of a model's forward between its layers, without knowing its architecture.

Inside `Ports`, the model's own forward can be run in parts: it can keep what enters or leaves a decoder
layer, start at a layer with states it is given, run one routed block on chosen tokens, hand out the states
that enter the head, or run the head alone. Everything runs in the model's own code, between its own
embedding and its own last step, under whatever session is open. Which of this is exact for a model is for
`probe` to find out.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from prereg_moe.errors import Problem
from prereg_moe.lab.models import MoE, Unsupported

__all__ = ["Ports", "Run"]


@dataclass(eq=False)
class Run:
    """What one forward does otherwise than usual, and what it leaves behind.

    Args:
        start: layers before it pass on what they are given.
        stop: so do layers from it on.
        states: what enters layer ``start``, instead of what the layers before would give.
        block: instead of all of layer ``start``, run its routed block on ``states`` and add this; ``left`` has the sum.
        inputs: layers whose input is kept.
        blocks: layers whose routed block's input and the layer's output less the block's are kept.
        picks: positions of the flattened batch whose final states are kept.
        head: states to run the head on, instead of the final ones.
    """

    start: int = 0
    stop: int | None = None
    states: Tensor | None = None
    block: Tensor | None = None
    inputs: frozenset[int] = frozenset()
    blocks: frozenset[int] = frozenset()
    picks: Tensor | None = None
    head: Tensor | None = None
    entered: dict[int, Tensor] = field(default_factory=dict)
    left: dict[int, Tensor] = field(default_factory=dict)
    given: dict[int, Tensor] = field(default_factory=dict)
    rest: dict[int, Tensor] = field(default_factory=dict)
    chosen: dict[int, Tensor] = field(default_factory=dict)
    final: Tensor | None = None


class Ports:
    """A model whose forward can be run in parts, between ``with`` and its end; install it before any session.

    Raises:
        Unsupported: the model's decoder layers or its head cannot be told.
    """

    def __init__(self, moe: MoE) -> None:
        self.model: Any = moe.model
        embeddings: Any = getattr(moe.model, "get_output_embeddings", None)
        head = embeddings() if callable(embeddings) else None
        self.layers: Sequence[nn.Module] = _decoder_layers(moe)
        if not isinstance(head, nn.Module):
            raise Unsupported(
                Problem(type(self.model).__name__, "has no head of its own", "the stock engine needs none")
            )
        self._head = head
        self.classes = 1  # of the head, once it has run
        self.direct = False  # whether nothing comes after the head
        self._routed = {layer.index: layer for layer in moe.layers}
        self._run: Run | None = None
        self._extra: dict[int, int] = {}  # how many further values a layer returns
        self._held: list[tuple[nn.Module, Any]] = []

    def __enter__(self) -> Ports:
        for index, layer in enumerate(self.layers):
            self._replace(layer, functools.partial(self._layer, index))
        for index, routed in self._routed.items():
            if routed.block is not self.layers[index]:
                self._replace(routed.block, functools.partial(self._block, index))
            self._replace(routed.experts, functools.partial(self._experts, index))
        self._replace(self._head, self._final)
        return self

    def __exit__(self, *_: object) -> None:
        while self._held:
            module, before = self._held.pop()
            if before is None:
                del module.__dict__["forward"]
            else:
                module.__dict__["forward"] = before

    def _replace(self, module: nn.Module, forward: Callable[..., Any]) -> None:
        original: Callable[..., Any] = module.forward

        @functools.wraps(original)
        def replaced(*args: Any, **kwargs: Any) -> Any:
            return original(*args, **kwargs) if self._run is None else forward(original, *args, **kwargs)

        self._held.append((module, module.__dict__.get("forward")))
        module.__dict__["forward"] = replaced

    @contextmanager
    def _running(self, run: Run) -> Iterator[None]:
        self._run = run
        try:
            yield
        finally:
            self._run = None

    def forward(self, run: Run, ids: Tensor, *, positions: Tensor | None = None, mask: Tensor | None = None) -> Run:
        """Run the model on token ids (rows, width) as ``run`` says, and return it filled."""
        device = self.model.device
        options: dict[str, Any] = {"use_cache": False}
        if positions is not None:
            options["position_ids"] = positions.to(device)
        if mask is not None:
            options["attention_mask"] = mask.to(device)
        with self._running(run):
            self.model(input_ids=ids.to(device), **options)
        return run

    def logits(self, states: Tensor) -> Tensor:
        """Return the logits (n, vocabulary) of final states (n, hidden), in float32, by the model's own last steps."""
        if self.direct:
            straight: Tensor = self._head(states)
            return straight.float()
        ids = torch.zeros(1, 1, dtype=torch.long, device=self.model.device)
        with self._running(Run(start=len(self.layers), head=states)):
            logits: Tensor = self.model(input_ids=ids, use_cache=False).logits
        return logits[0].float()

    def _layer(self, index: int, original: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        run = self._now()
        named = not args
        hidden: Tensor = kwargs["hidden_states"] if named else args[0]
        if index < run.start or (run.stop is not None and index >= run.stop):
            return self._shaped(index, hidden)
        if index == run.start and run.states is not None:
            hidden = run.states
        if run.block is not None:
            run.left[index] = run.block + _first(self._routed[index].block(hidden)).view_as(hidden)
            return self._shaped(index, run.left[index])
        if index in run.inputs:
            run.entered[index] = hidden
        out = original(**{**kwargs, "hidden_states": hidden}) if named else original(hidden, *args[1:], **kwargs)
        self._extra[index] = len(out) - 1 if isinstance(out, tuple) else -1
        if index in run.blocks:
            run.left[index] = _first(out)
            run.rest[index] = run.left[index] - run.rest[index].view_as(run.left[index])
        return out

    def _block(self, index: int, original: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        run = self._now()
        out = original(*args, **kwargs)
        if index in run.blocks and run.block is None:
            run.given[index] = args[0] if args else kwargs["hidden_states"]
            run.rest[index] = _first(out)
        return out

    def _experts(self, index: int, original: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Note which experts were selected, where experts are told: int (tokens, k)."""
        for one in args[1:]:
            if isinstance(one, Tensor) and not one.is_floating_point():
                self._now().chosen[index] = one
        return original(*args, **kwargs)

    def _final(self, original: Callable[..., Any], hidden: Tensor, /, *args: Any, **kwargs: Any) -> Any:
        run = self._now()
        if run.head is not None:
            return original(run.head[None], *args, **kwargs)
        flat = hidden.reshape(-1, hidden.shape[-1])
        run.final = flat if run.picks is None else flat[run.picks.to(flat.device)]
        return hidden[..., :1]  # nobody reads these logits

    def _shaped(self, index: int, hidden: Tensor) -> Any:
        """Return states as this layer returns them."""
        extra = self._extra.get(index, -1)
        return hidden if extra < 0 else (hidden, *[None] * extra)

    def _now(self) -> Run:
        if self._run is None:
            raise TypeError("no run")
        return self._run


def _first(out: Any) -> Tensor:
    first: Tensor = out[0] if isinstance(out, tuple) else out
    return first


def _decoder_layers(moe: MoE) -> Sequence[nn.Module]:
    """Return the list of decoder layers that the routed blocks lie in."""
    prefixes = {match[0] for layer in moe.layers if (match := re.match(r".*?(?=\.\d+(\.|$))", layer.path))}
    layers = moe.model.get_submodule(prefixes.pop()) if len(prefixes) == 1 else None
    if not isinstance(layers, nn.ModuleList):
        found = "does not keep its routed layers in one list"
        raise Unsupported(Problem(type(moe.model).__name__, found))
    return list(layers)
