"""How torch code compares experts: its linear maps and its selections, one reading for all of them.

A router is some linear map onto E classes, something monotone, and a comparison: `topk`, `max`,
`argmax`, `sort` or `argsort` over an axis of E experts, or of groups × experts per group. Reading
those calls is enough to know a router and to edit it; what lies between them is never touched.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import torch
import torch.nn.functional as F  # noqa: N812  torch's own abbreviation
from torch import Tensor, nn

__all__ = ["LINEAR", "SCORES", "Selection", "device_of", "read_selection"]

LINEAR: Final[frozenset[Any]] = frozenset(
    {F.linear, torch.matmul, torch.mm, torch.addmm, torch.einsum, Tensor.matmul, Tensor.mm, Tensor.__matmul__}
    | {torch.bmm, torch.baddbmm, torch.inner, torch.tensordot, Tensor.bmm, Tensor.baddbmm, Tensor.addmm, Tensor.inner}
)
"""Functions whose result can be router logits."""

SCORES: Final[Mapping[Any, str]] = {
    F.softmax: "softmax",
    torch.softmax: "softmax",
    Tensor.softmax: "softmax",
    torch.sigmoid: "sigmoid",
    Tensor.sigmoid: "sigmoid",
    F.sigmoid: "sigmoid",
    F.softplus: "softplus",
    torch.tanh: "tanh",
    Tensor.tanh: "tanh",
    F.tanh: "tanh",
}
"""Functions that turn logits into scores; only named in descriptions."""

_KINDS: Final[Mapping[Any, str]] = {
    function: name
    for name in ("topk", "max", "argmax", "sort", "argsort")
    for function in (getattr(torch, name), getattr(Tensor, name))
}
_PARAMETERS: Final[Mapping[str, tuple[str, ...]]] = {
    "topk": ("input", "k", "dim", "largest", "sorted"),
    "max": ("input", "dim", "keepdim"),
    "argmax": ("input", "dim", "keepdim"),
    "sort": ("input", "dim", "descending"),
    "argsort": ("input", "dim", "descending"),
}


@dataclass(frozen=True, slots=True)
class Selection:
    """A comparison along the last axis of ``keys``, as it was called.

    ``k`` is how many it picks: 1 for max and argmax, 0 for a sort, which leaves the cut to later code.
    """

    kind: str
    keys: Tensor
    k: int
    options: Mapping[str, Any]

    def run(self, keys: Tensor) -> tuple[Tensor | None, Tensor]:
        """Return the values (None for argmax and argsort) and the indices the call gives on ``keys``."""
        function: Callable[..., Any] = getattr(torch, self.kind)
        out = function(keys, **self.options)
        return (None, out) if isinstance(out, Tensor) else (out[0], out[1])

    def pack(self, values: Tensor | None, index: Tensor) -> Any:
        """Return values and indices in the type the call promises."""
        return index if values is None else getattr(torch.return_types, self.kind)((values, index))

    def picking(self, k: int) -> Selection:
        """Return the same ``topk``, picking k."""
        return replace(self, k=k, options={**self.options, "k": k})

    def axis(self, classes: int) -> str:
        """Return "flat" where the last axis is the classes, "grouped" where the last two are, else ""."""
        shape = self.keys.shape
        if shape[-1] == classes:
            return "flat"
        return "grouped" if len(shape) >= 3 and shape[-1] * shape[-2] == classes else ""


def read_selection(function: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Selection | None:
    """Return the comparison a torch call makes along its last axis, or None if it makes none.

    None for every other function, for an elementwise ``torch.max(a, b)``, a reduction over all
    elements, integer keys, another axis, and for picking the smallest.
    """
    kind = _KINDS.get(function)
    if kind is None:
        return None
    named = dict(zip(_PARAMETERS[kind], args, strict=False)) | dict(kwargs)
    keys = named.pop("input", None)
    if not isinstance(keys, Tensor) or not keys.is_floating_point() or keys.dim() < 2:
        return None
    dim = named.get("dim", None if kind in {"max", "argmax"} else -1)
    if not isinstance(dim, int) or dim % keys.dim() != keys.dim() - 1 or named.get("largest", True) is False:
        return None
    return Selection(kind, keys, int(named.get("k", 0 if "sort" in kind else 1)), named)


def device_of(module: nn.Module) -> torch.device:
    """Return the device a module's inputs go to: that of its first weight that is not offloaded, else main memory."""
    return next((weight.device for weight in module.parameters() if not weight.is_meta), torch.device("cpu"))
