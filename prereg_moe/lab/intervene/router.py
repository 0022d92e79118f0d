"""Run a router's own code with two things changed: its logits and the keys of its comparisons.

R1: in the result of the one linear map onto the classes, masked classes become −∞ (gates "renorm").
R2: in the keys of every `topk`, `max`, `argmax`, `sort` and `argsort` over the classes, or over groups
of them, masked classes become −∞ and forced ones +∞. With gates "original" groups are scored as ever
and only the comparison that picks is edited, so that tokens that picked no masked expert do not change.

R1 alone leaks: a sigmoid of −∞ plus a bias can win, and a softmax can underflow to ties. R2 alone
leaves every gate as it was. What the router computes in between, and after, is its own.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from prereg_moe.errors import Problem
from prereg_moe.lab.intervene.guards import Unreadable
from prereg_moe.lab.intervene.operators import RouterNoise
from prereg_moe.lab.intervene.plan import LayerPlan, Rule
from prereg_moe.lab.intervene.tokens import Tokens
from prereg_moe.lab.models.ops import LINEAR, Selection, read_selection

__all__ = ["RouterMode"]

_NEVER: Final = float("-inf")
_ALWAYS: Final = float("inf")


class RouterMode(TorchFunctionMode):
    """Edits the torch calls of one router for one forward.

    ``phase`` is "router" (R1 and R2), "after" (the router was left, the experts not entered: R2) or "off".
    Afterwards ``logits`` are the router's, edited; ``picked`` is the index of its last comparison over all
    classes, ``comparisons`` their number; ``masked`` and ``forced``, bool (T or 1, classes) or None, what was
    asked for.
    """

    def __init__(self, plan: LayerPlan, tokens: Tokens, phase: str = "router") -> None:
        super().__init__()
        self.phase = phase
        self.plan = plan
        self.tokens = tokens
        self.masked = _union(plan.masks, tokens)
        self.forced = _union(plan.forced, tokens)
        self._local = plan.renorm != plan.masks  # some masks have gates "original"
        self._renorm = _union(plan.renorm, tokens) if self._local else self.masked
        self.logits: Tensor | None = None
        self.picked: Tensor | None = None
        self.maps = 0
        self.comparisons = 0

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if self.phase == "off":
            return func(*args, **kwargs)
        selection = read_selection(func, args, kwargs)
        if selection is not None:
            axis = selection.axis(self.plan.layer.classes)
            if axis:
                return self._select(selection, grouped=axis == "grouped")
        out = func(*args, **kwargs)
        layer = self.plan.layer
        if self.phase == "router" and not layer.no_logits and func in LINEAR and out.shape[-1] == layer.classes:
            self.maps += 1
            self.logits = out = self._edit_logits(out)
        return out

    def _edit_logits(self, logits: Tensor) -> Tensor:
        """R1, after any noise."""
        layer = self.plan.layer
        for edit in self.plan.noises:
            operator = edit.operator
            if not isinstance(operator, RouterNoise):
                continue
            source = self.tokens.generator("router noise", operator.seed, layer.index)
            noise = self.tokens.normal(source, layer.classes) * operator.sigma
            inside = self.tokens.inside(edit.scope, edit.condition)
            if inside is not None:
                noise *= inside.to(noise.device)[:, None]
            logits = logits + noise.to(logits).view_as(logits)
        if self._renorm is None:
            return logits
        return logits.masked_fill(self._fit(self._renorm, logits, grouped=False), _NEVER)

    def _select(self, asked: Selection, *, grouped: bool) -> Any:
        """R2: compare as asked, with masked classes last and forced ones first."""
        final = not grouped and self.comparisons == self.plan.layer.cut
        self.comparisons += not grouped
        if final and self.plan.top_k is not None:
            asked = asked.picking(self.plan.top_k)
        own = keys = asked.keys
        marked = self._renorm if grouped else self.masked
        masked = None if marked is None else self._fit(marked, own, grouped=grouped)
        if masked is not None:
            keys = keys.masked_fill(masked, _NEVER)
        forced = None
        if self.forced is not None:  # one already picked or ruled out by the router is at −∞ and stays there
            forced = self._fit(self.forced, own, grouped=grouped) & (own > _NEVER)
            keys = keys.masked_fill(forced, _ALWAYS)
        values, index = asked.run(keys)
        if final and self._local and masked is not None and forced is None and values is not None:
            values, index = _keep_untouched(asked, masked, values, index)
        if not grouped and asked.k:
            self.picked = index
        if values is None:
            return index
        flat = index.dim() < own.dim()
        if forced is not None:  # a forced expert keeps its own score
            values = own.gather(-1, index.unsqueeze(-1) if flat else index).view_as(values)
            if masked is not None:
                gone = masked.expand_as(own).gather(-1, index.unsqueeze(-1) if flat else index).view_as(values)
                values = values.masked_fill(gone, _NEVER)
        if grouped:
            values = _group_votes(values, masked, forced, flat=flat)
        return asked.pack(values, index)

    def _fit(self, marked: Tensor, like: Tensor, *, grouped: bool) -> Tensor:
        """Return a (T or 1, classes) table in the shape of the router's tensor."""
        marked = marked.to(like.device)
        if len(marked) == 1:
            return marked[0].view(like.shape[-2:]) if grouped else marked[0]
        if marked.numel() != like.numel():
            found = f"its router compares {like.numel() // marked.shape[-1]} tokens, the batch has {len(marked)}"
            raise Unreadable(Problem(f"layer {self.plan.layer.index}", found))
        return marked.reshape(like.shape)


def _union(rules: tuple[Rule, ...], tokens: Tokens) -> Tensor | None:
    """Return the classes any rule marks: bool (T or 1, classes), or None where there is no rule."""
    marked: Tensor | None = None
    for rule in rules:
        one = rule.at(tokens)
        marked = one if marked is None else marked | one
    return marked


def _keep_untouched(asked: Selection, masked: Tensor, values: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """Return the masked selection, but the router's own for tokens whose own selection holds no masked class.

    Both are the same set; the order of ties, and of ``sorted=False``, may differ, and with it the last bit.
    """
    own_values, own = asked.run(asked.keys)
    if own_values is None or own.dim() != asked.keys.dim():
        return values, index
    hit = masked.expand_as(asked.keys).gather(-1, own).any(-1, keepdim=True)
    return torch.where(hit, values, own_values), torch.where(hit, index, own)


def _group_votes(values: Tensor, masked: Tensor | None, forced: Tensor | None, *, flat: bool) -> Tensor:
    """Return the best scores of each group, as its members would give them if masked ones did not exist.

    A masked expert adds 0 to a group that has others, a group without others scores −∞, and a group
    with a forced expert is always kept. ``flat``: the values have no last axis of votes.
    """

    def spread(of_group: Tensor) -> Tensor:
        """Give each vote what is true of its group."""
        return (of_group if flat else of_group.unsqueeze(-1)).expand_as(values)

    if masked is not None:
        alive = spread((~masked).any(-1))
        values = torch.where((values == _NEVER) & alive, torch.zeros_like(values), values)
    if forced is not None:
        values = values.masked_fill(spread(forced.any(-1)), _ALWAYS)
    return values
