"""What must be true of an intervention, found out without the code under test.

The spy hooks the experts' call; poison puts NaN into the weights of masked experts, so that any use
of them shows; deletion removes experts from the weights and builds a smaller model.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from tiny_configs import build
from torch import Tensor, nn

Cells = Mapping[int, Sequence[int]]


def sites(model: nn.Module) -> dict[int, nn.Module]:
    """Return the block of each routed layer by the first number in its path."""
    found = {}
    for path, module in model.named_modules():
        children = dict(module.named_children())
        if "experts" in children and ("gate" in children or "router" in children):
            found[next(int(part) for part in path.split(".") if part.isdigit())] = module
    return found


def expert_count(experts: nn.Module) -> int:
    return next(
        getattr(experts, name)
        for name in ("num_routed_experts", "num_experts", "num_local_experts")
        if hasattr(experts, name)
    )


class Spy:
    """Counts what the experts of each layer are called with: slots[layer] is a list of (tokens, experts) 0/1 tables."""

    def __init__(self) -> None:
        self.slots: dict[int, list[Tensor]] = {}

    def used(self) -> dict[int, Tensor]:
        """How often each expert is selected, by layer."""
        return {layer: torch.cat(tables).sum(0) for layer, tables in self.slots.items()}

    def leaks(self, cells: Cells) -> int:
        """How many selected slots are among the cells."""
        return int(sum(self.used()[layer][list(experts)].sum() for layer, experts in cells.items()))


@contextmanager
def spying(model: nn.Module) -> Iterator[Spy]:
    spy, handles = Spy(), []
    for layer, block in sites(model).items():

        def hook(module: nn.Module, args: tuple[Any, ...], layer: int = layer) -> None:
            count = expert_count(module)
            if len(args) == 1:  # gated inputs, expert by expert
                table = (args[0].view(count, -1, args[0].shape[-1]) != 0).any(-1).T.long()
            else:
                index, gates = args[1:] if not args[1].is_floating_point() else args[:0:-1]
                real = (index < count) & ((gates != 0) | (index > 0))  # a skipped slot is expert 0 with gate 0
                table = torch.zeros(len(index), count + 1, dtype=torch.long)
                table.scatter_add_(1, torch.where(real, index, count), torch.ones_like(index))
                table = table[:, :count]
            spy.slots.setdefault(layer, []).append(table)

        handles.append(block.experts.register_forward_pre_hook(hook))
    try:
        yield spy
    finally:
        for handle in handles:
            handle.remove()


def selected(model: nn.Module, **call: Any) -> dict[int, Tensor]:
    """How often each expert is selected in one call, by layer."""
    with torch.no_grad(), spying(model) as spy:
        model(**call)
    return spy.used()


def most_used(model: nn.Module, count: int, **call: Any) -> dict[int, list[int]]:
    """The most selected experts of each layer."""
    return {
        layer: used.argsort(descending=True, stable=True)[:count].tolist()
        for layer, used in selected(model, **call).items()
    }


def unused(model: nn.Module, **call: Any) -> dict[int, list[int]]:
    """The experts of each layer that no token selects."""
    return {layer: (used == 0).nonzero().flatten().tolist() for layer, used in selected(model, **call).items()}


def filled(model: nn.Module, cells: Cells, value: float) -> Any:
    """A copy of a model with all weights of some experts at one value."""
    changed = copy.deepcopy(model)
    blocks = sites(changed)
    with torch.no_grad():
        for layer, experts in cells.items():
            count = expert_count(blocks[layer].experts)
            for parameter in blocks[layer].experts.parameters():
                if parameter.dim() == 2 and parameter.shape[0] != count:
                    parameter.view(count, -1, parameter.shape[-1])[list(experts)] = value
                elif parameter.dim() >= 2:
                    parameter[list(experts)] = value
    return changed


def deleted(name: str, model: nn.Module, cells: Cells, **changes: Any) -> Any:
    """A smaller model: the same weights without some experts, as many in each layer."""
    gone = len(next(iter(cells.values())))
    count = expert_count(next(iter(sites(model).values())).experts)
    key = next(
        (
            one
            for one in ("n_routed_experts", "num_experts", "num_local_experts", "moe_num_experts")
            if hasattr(model.config, one)
        ),
        None,
    )
    smaller = (
        {key: count - gone}
        if key
        else {"ffn_config": {**model.config.ffn_config.to_dict(), "moe_num_experts": count - gone}}
    )
    if "ffn_config" in smaller:
        smaller["ffn_config"].pop("model_type", None)
    small = build(name, dtype=next(model.parameters()).dtype, implementation="eager", **{**changes, **smaller})
    ours, theirs = dict(model.state_dict()), small.state_dict()
    layers = {id(block): layer for layer, block in sites(small).items()}
    prefix = {path: layers[id(module)] for path, module in small.named_modules() if id(module) in layers}
    with torch.no_grad():
        for path, target in theirs.items():
            source = ours[path]
            if source.shape != target.shape:
                layer = next(prefix[part] for part in prefix if path.startswith(part))
                axis = next(i for i in range(source.dim()) if source.shape[i] != target.shape[i])
                kept = [one for one in range(count) if one not in cells[layer]]
                extra = source.shape[axis] % count if source.shape[axis] < 2 * count else 0
                kept += list(range(count, count + extra))
                if source.shape[axis] >= 2 * count:  # experts stacked in rows
                    source = (
                        source.unflatten(axis, (count, -1))
                        .index_select(axis, torch.tensor(kept))
                        .flatten(axis, axis + 1)
                    )
                else:
                    source = source.index_select(axis, torch.tensor(kept))
            target.copy_(source)
    return small


def fingerprint(model: nn.Module) -> str:
    """A digest of a model's weights, of its modules' attributes, and of its hooks."""
    digest = hashlib.sha256()
    for path, tensor in model.state_dict().items():
        digest.update(path.encode())
        digest.update(tensor.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    for path, module in model.named_modules():
        hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks)
        forward = module.__dict__.get("forward")
        digest.update(repr((path, sorted(module.__dict__), id(forward), [len(one) for one in hooks])).encode())
    return digest.hexdigest()
