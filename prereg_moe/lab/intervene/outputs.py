"""Change what selected experts contribute, without changing who is selected.

A block's output is Σ gate · expert(hidden) over a token's slots. Every operator here is a rewriting
of that sum with the experts' own code: a factor is a factor of the gate; a replaced output is the
same slot with gate 0 and its replacement added, weighted by the gate it had.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from prereg_moe.errors import Problem
from prereg_moe.lab.intervene.guards import NeverFired, NotFinite
from prereg_moe.lab.intervene.operators import Mean, Noise, Resample, Scale, Scope, SkipSlots
from prereg_moe.lab.intervene.plan import Edit, LayerPlan
from prereg_moe.lab.intervene.tokens import Tokens
from prereg_moe.lab.models import MoELayer

__all__ = ["run_dense", "run_experts"]


def run_experts(
    experts: Callable[[Tensor, Tensor, Tensor], Tensor],
    hidden: Tensor,
    index: Tensor,
    gates: Tensor,
    *,
    plan: LayerPlan,
    tokens: Tokens,
) -> tuple[Tensor, Tensor]:
    """Return the block's routed output under a plan, and which slots were changed: bool (T, k).

    Args:
        experts: (hidden, index, gates) -> output, shaped like hidden.
        hidden: (T, hidden), or (rows, width, hidden).
        index: (T, k) selected experts.
        gates: (T, k) their weights.
        plan: what to do at this layer.
        tokens: the tokens of this forward.

    Raises:
        NeverFired: a resample finds no other token to draw from.
        NotFinite: a changed gate is NaN or infinite.
    """
    changed = torch.zeros_like(index, dtype=torch.bool)
    for edit in plan.skips:
        gates, dropped = _skip(gates, edit, tokens)
        changed |= dropped
    added: list[Tensor] = []
    for edit in plan.edits:
        slots = _slots(edit, index, tokens, plan.layer)
        if not bool(slots.any()):
            continue  # adding nothing must not even turn −0 into 0
        changed |= slots
        operator = edit.operator
        if isinstance(operator, Scale):
            gates = torch.where(slots, gates * operator.factor, gates)
            continue
        taken = torch.where(slots, gates, torch.zeros_like(gates))
        if isinstance(operator, Noise):
            added.append(_noise(operator, edit, taken, hidden, tokens, plan.layer))
            continue
        gates = torch.where(slots, torch.zeros_like(gates), gates)
        if isinstance(operator, Mean):
            added.append(_mean(operator, taken, index, hidden, plan.layer))
        elif isinstance(operator, Resample):
            donors = _donors(operator, edit, tokens, plan.layer).to(hidden.device)
            given = hidden.reshape(-1, hidden.shape[-1])[donors].view_as(hidden)
            added.append(experts(given, index, taken))
    _finite(gates, plan.layer)
    out = experts(hidden, index, gates)
    for one in added:
        out = out + one.view_as(out).to(out.dtype)
    return out, changed


def run_dense(
    experts: Callable[[Tensor], Tensor], inputs: Tensor, *, index: Tensor, plan: LayerPlan, tokens: Tokens
) -> tuple[Tensor, Tensor]:
    """Return the output rows of experts that take (experts · T, hidden) gated inputs, and the slots changed.

    Only factors are exact here; compile_plan has refused the rest.

    Raises:
        NotFinite: a changed output is NaN or infinite.
    """
    out = experts(inputs)
    changed = torch.zeros_like(index, dtype=torch.bool)
    for edit in plan.edits:
        operator = edit.operator
        slots = _slots(edit, index, tokens, plan.layer)
        if not isinstance(operator, Scale) or not bool(slots.any()):
            continue
        changed |= slots
        marked = torch.zeros(len(index), plan.layer.n_experts, dtype=torch.bool, device=index.device)
        marked.scatter_(1, index, slots)
        rows = out.view(plan.layer.n_experts, len(index), -1)
        out = torch.where(marked.T[..., None], rows * operator.factor, rows).reshape(out.shape)
        _finite(out, plan.layer)
    return out, changed


def _finite(changed: Tensor, layer: MoELayer) -> None:
    if not bool(torch.isfinite(changed).all()):
        found = "what an operator changed is NaN or infinite"
        raise NotFinite(Problem(f"layer {layer.index}", found, "use a smaller factor, or do not renormalise"))


def _slots(edit: Edit, index: Tensor, tokens: Tokens, layer: MoELayer) -> Tensor:
    """Return the slots an edit acts on: bool (T, k)."""
    if edit.cells is None:
        raise TypeError("an edit of cells has none")
    slots = edit.cells.to(index.device)[index.clamp(max=layer.n_experts - 1)] & (index < layer.n_experts)
    inside = tokens.inside(edit.scope, edit.condition)
    return slots if inside is None else slots & inside.to(index.device)[:, None]


def _skip(gates: Tensor, edit: Edit, tokens: Tokens) -> tuple[Tensor, Tensor]:
    """Return gates with the lowest or highest slots at 0, and which were dropped."""
    operator = edit.operator
    if not isinstance(operator, SkipSlots):
        raise TypeError("not SkipSlots")
    order = gates.argsort(dim=-1, descending=operator.which == "highest", stable=True)
    dropped = torch.zeros_like(gates, dtype=torch.bool).scatter(-1, order[:, : operator.slots], value=True)
    inside = tokens.inside(edit.scope, edit.condition)
    if inside is not None:
        dropped &= inside.to(gates.device)[:, None]
    kept = gates.masked_fill(dropped, 0)
    if operator.gates == "renorm":
        grown = kept * (gates.sum(-1, keepdim=True) / kept.sum(-1, keepdim=True))
        kept = torch.where(dropped.any(-1, keepdim=True), grown, kept)
    return kept, dropped


def _mean(operator: Mean, taken: Tensor, index: Tensor, hidden: Tensor, layer: MoELayer) -> Tensor:
    """Return Σ gate · mean over the taken slots: (T, hidden)."""
    means = torch.tensor(operator.means[layer.index], dtype=torch.float64)
    wide = torch.float64 if hidden.dtype == torch.float64 else torch.float32
    weight = torch.zeros(len(index), layer.n_experts, dtype=wide, device=index.device)
    weight.scatter_add_(1, index.clamp(max=layer.n_experts - 1), taken.to(wide))
    with torch.autocast(weight.device.type, enabled=False):
        return (weight @ means.to(weight)).to(hidden.dtype)


def _noise(operator: Noise, edit: Edit, taken: Tensor, hidden: Tensor, tokens: Tokens, layer: MoELayer) -> Tensor:
    """Return the noise the taken slots add up to: (T, hidden). A sum of normals is drawn as one."""
    source = tokens.generator("noise", operator.seed, layer.index, _named(edit))
    normal = tokens.normal(source, hidden.shape[-1]).to(taken.device)
    spread = taken.float().pow(2).sum(-1, keepdim=True).sqrt() * operator.sigma
    return (normal * spread).to(hidden.dtype)


def _donors(operator: Resample, edit: Edit, tokens: Tokens, layer: MoELayer) -> Tensor:
    """Return, for each token, another one that is not padding and lives under the edit's condition: int (T)."""
    everyone = torch.arange(tokens.count, device="cpu")
    inside = [one for one in (tokens.real, tokens.inside(Scope(), edit.condition)) if one is not None]
    real = everyone[torch.stack(inside).all(0).cpu()] if inside else everyone
    if len(real) < 2:
        found = "a resample has no second token to draw from"
        raise NeverFired(Problem(f"layer {layer.index}", found, "use batches of more tokens, or another operator"))
    source = tokens.generator("resample", operator.seed, layer.index, _named(edit))
    order = torch.randperm(len(real), generator=source, device="cpu")
    ring = real[order]  # each draws from the next: nobody from itself
    donors = everyone.clone()
    donors[ring] = ring.roll(-1)
    return donors


def _named(edit: Edit) -> Any:
    """Return the experts an edit names, so that two edits of one seed draw apart."""
    return None if edit.cells is None else edit.cells.nonzero().flatten().tolist()
