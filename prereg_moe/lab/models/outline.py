"""A model of any size from its configuration alone: the modules are real, the weights are not.

How a model routes is in its code and its configuration; what its weights say changes where tokens go, not how.
So it can be learned before 90 GB are downloaded, and on a machine that could never hold them.
"""

from __future__ import annotations

from typing import Any

import torch
import transformers
from torch import Tensor, nn

__all__ = ["outline"]


def outline(config: Any) -> Any:
    """Return the causal language model a configuration describes, with random weights and experts that give nothing.

    Its routers compute as they would, in float32, on hidden states that differ from token to token. Every weight is a
    window on a short vector of random numbers, so that memory does not grow with the model. Experts return zeros: they
    hold nearly all of the weights and come after everything that discovery reads.

    Args:
        config: a transformers configuration that has a causal language model.

    Returns:
        The model, in evaluation mode. Its answers mean nothing.
    """
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    source = torch.Generator().manual_seed(0)
    windows: dict[int, nn.Parameter] = {}  # a tied weight stays one
    for module in list(model.modules()):
        for name, weight in module.named_parameters(recurse=False, remove_duplicate=False):
            module._parameters[name] = windows.setdefault(id(weight), _window(weight, source))  # noqa: SLF001
        for name, buffer in module.named_buffers(recurse=False):
            module._buffers[name] = torch.zeros_like(buffer, device="cpu")  # noqa: SLF001
        if isinstance(experts := getattr(module, "experts", None), nn.Module):
            experts.__dict__["forward"] = _nothing
    model.initialize_weights()  # fills buffers that follow from the configuration, as loading does
    return model


def _window(weight: Tensor, source: torch.Generator) -> nn.Parameter:
    """Return random numbers of a weight's shape and of unit gain, in the memory of the sum of its sides."""
    if not weight.is_floating_point():
        numbers = torch.zeros(1, dtype=weight.dtype).expand(weight.shape)
    elif weight.dim() < 2:
        numbers = torch.ones(weight.shape)
    else:
        vector = torch.randn(sum(weight.shape), generator=source) * weight.shape[-1] ** -0.5
        numbers = vector.as_strided(weight.shape, (1,) * weight.dim())
    window = nn.Parameter(numbers, requires_grad=False)
    window._is_hf_initialized = True  # type: ignore[attr-defined] # noqa: SLF001  transformers leaves it alone
    return window


def _nothing(hidden: Tensor, *_: Any, **__: Any) -> Tensor:
    return torch.zeros_like(hidden)
