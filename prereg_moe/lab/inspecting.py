"""What can be done to a model, found before anything is downloaded, loaded or registered.

Everything here follows from the model's code and configuration: `outline` builds it without weights,
`discover` reads how it routes, and every operator is tried on every layer as a session would compile it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import numpy as np

from prereg_moe.errors import Invalid, PreregError, Problem
from prereg_moe.hub import cached
from prereg_moe.lab.intervene.operators import (
    Force,
    Gates,
    Intervention,
    KeepOnly,
    Mask,
    Mean,
    Noise,
    Resample,
    RouterNoise,
    Scale,
    Scope,
    SkipSlots,
    TopK,
)
from prereg_moe.lab.intervene.plan import compile_plan
from prereg_moe.lab.models import MoE, MoELayer, discover, read_outline
from prereg_moe.registry import find_source

__all__ = ["find_model", "inspect"]

_GATES: Final[tuple[Gates, ...]] = ("renorm", "original")
_HUB_NAME: Final = re.compile(r"\w[\w.-]*/[\w.-]+")


def inspect(model: str) -> dict[str, Any]:
    """Return what can be done to a model of this machine: its layers, routers, operators, sizes.

    Args:
        model: a folder, a source as registrations name one, or ORG/NAME of the hub's local cache.

    Raises:
        Invalid: no such model here, one that could not be run, or one without a layer that can be observed exactly.
    """
    folder = find_model(model)
    outlined, complete = read_outline(folder)
    moe = discover(outlined)
    config = outlined.config
    layers = [{**layer.describe(), **_possible(moe, layer)} for layer in moe.layers]
    choice = outlined._can_set_experts_implementation()  # noqa: SLF001  transformers has no public name for it
    return {
        **moe.describe(),
        "model_type": config.model_type,
        "folder": str(folder),
        "weights": complete,
        "quantisation": dict(getattr(config, "quantization_config", None) or {}).get("quant_method"),
        "experts_implementations": ["grouped_mm", "batched_mm", "eager"] if choice else ["eager"],
        "size": _size(moe, folder),
        "dense_layers": _dense(moe),
        "layers": layers,
        "maskable_layers": [layer["layer"] for layer in layers if layer["gates"]],
    }


def find_model(model: str) -> Path:
    """Return the folder a user means; nothing is downloaded.

    Raises:
        Invalid: nothing of that name is on this machine.
    """
    folder = Path(model)
    if not folder.exists() and model.startswith(("hf:", "testbed:")):
        folder = find_source(model, Path.cwd(), Path.cwd())
    elif not folder.exists() and _HUB_NAME.fullmatch(model):
        folder = cached(model) or folder
    if folder.is_dir():
        return folder
    if folder.exists():
        raise Invalid(Problem(model, "is a file", "give the folder that holds it"))
    found, todo = "is not a folder here", "give the folder of a model, or its ORG/NAME in the hub's local cache"
    if model.startswith("hf:") or _HUB_NAME.fullmatch(model):
        name, _, commit = model.removeprefix("hf:").partition("@")
        command = f"hf download {name} config.json" + (f" --revision {commit}" if commit else "")
        found = "is neither a folder here nor one model in the hub's local cache"
        todo = f"nothing is downloaded here, and config.json is enough to inspect it: {command}"
    raise Invalid(Problem(model, found, todo))


def _possible(moe: MoE, layer: MoELayer) -> dict[str, Any]:
    """Return the gate rules a mask of a layer may have, and for each operator "" or why it is refused there."""
    at, size = layer.index, layer.n_experts
    cells = {at: [0]}
    trials: tuple[Intervention, ...] = (
        Mask(cells, "original"),
        KeepOnly({at: range(1, size)}, "original"),
        Force(cells),
        TopK(2 if layer.top_k < 2 else layer.top_k - 1),
        RouterNoise(1.0),
        Scale(cells),
        Mean(cells, {at: np.zeros((size, 1))}),
        Resample(cells),
        Noise(cells, 1.0),
        SkipSlots(),
    )
    alone = MoE(moe.model, (layer,))
    return {
        "gates": [gates for gates in _GATES if not _refused(alone, Mask(cells, gates))],
        "operators": {type(trial).__name__: _refused(alone, trial) for trial in trials},
    }


def _dense(moe: MoE) -> list[int]:
    """Return the decoder layers that do not route."""
    decoder = re.split(r"\.\d+(?:\.|$)", moe.layers[0].path)[0]
    return [int(name) for name, _ in moe.model.get_submodule(decoder).named_children() if int(name) not in moe.indices]


def _refused(moe: MoE, trial: Intervention) -> str:
    """Return why a session would refuse an operator, or ""."""
    try:
        compile_plan(moe, [trial], Scope())
    except PreregError as error:
        return error.problems[0].found.removeprefix(f"{type(trial).__name__} is ")
    return ""


def _size(moe: MoE, folder: Path) -> dict[str, Any]:
    """Return parameters, in all, in experts and at most at work on a token, and bytes, as stored and when loaded."""
    total = _count(moe.model.parameters())
    experts = [_count(layer.experts.parameters()) for layer in moe.layers]
    working = sum(
        count * min(layer.top_k, layer.n_experts) // layer.n_experts
        for layer, count in zip(moe.layers, experts, strict=True)
    )
    return {
        "parameters": total,
        "in_experts": sum(experts),
        "active": total - sum(experts) + working,
        "stored_bytes": sum(path.stat().st_size for path in folder.glob("*.safetensors")) or None,
        "bfloat16_bytes": 2 * total,
        "float32_bytes": 4 * total,
    }


def _count(parameters: Iterable[Any]) -> int:
    return sum(one.numel() for one in parameters)
