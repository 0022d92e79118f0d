"""Read a model and its tokenizer from a local folder, whole or not at all.

Nothing is downloaded, no code from the folder runs, weights are read from safetensors only, and a
checkpoint that lacks a weight is refused: transformers would fill the gap with random numbers and
go on.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import torch
import transformers

from prereg_moe.errors import Invalid, Problem
from prereg_moe.lab.models.outline import outline

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["load_model", "read_outline"]

_DTYPES: Final = {
    "float64": torch.float64,
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
_IMPLEMENTATIONS: Final = ("eager", "grouped_mm", "batched_mm")
_PARTS: Final = {
    "AutoConfig": ("config.json", f"give a model that transformers {transformers.__version__} knows by itself"),
    "AutoModelForCausalLM": ("weights", "get the whole checkpoint, as safetensors"),
    "AutoTokenizer": ("tokenizer", "get the checkpoint's tokenizer files too"),
}


def load_model(
    folder: Path,
    *,
    dtype: str = "float32",
    experts_implementation: str = "grouped_mm",
    device: str = "cpu",
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Return the causal language model and the tokenizer that a local folder holds.

    Args:
        folder: a folder with config.json, safetensors weights and a tokenizer.
        dtype: one of {float64, float32, bfloat16, float16}; weights are cast to it.
        experts_implementation: one of {eager, grouped_mm, batched_mm}. A model whose experts have
            one implementation only is loaded with that one.
        device: a torch device; ``auto`` lets accelerate spread the layers over all devices there are, and main memory.

    Returns:
        The model, in evaluation mode, and its tokenizer.

    Raises:
        Invalid: no such folder, an unknown dtype or implementation, code of its own to run, weights that are missing,
            of another shape or not safetensors, or a folder transformers cannot read.
    """
    if dtype not in _DTYPES:
        raise Invalid(Problem("dtype", f"{dtype!r} is not a dtype", f"use one of {', '.join(_DTYPES)}"))
    config = _read_config(folder)
    _choose_experts(folder, config, experts_implementation)
    model = _read_weights(folder, config, _DTYPES[dtype], "auto" if device == "auto" else None)
    tokenizer = _read_tokenizer(folder)
    if device == "auto":
        if any(weight.is_meta for weight in model.get_input_embeddings().parameters()):
            raise Invalid(
                Problem("device", "no device can hold even the embedding", "free memory, or use another machine")
            )
        return model.eval(), tokenizer
    try:
        return model.to(torch.device(device)).eval(), tokenizer
    except (RuntimeError, AssertionError) as error:
        raise Invalid(Problem("device", f"{device!r} cannot hold the model ({_line(error)})")) from error


def read_outline(folder: Path) -> tuple[Any, bool]:
    """Return the model that a local folder describes, without its weights, and whether they are there.

    Weights and tokenizer that lie in the folder are held against the model by name and shape; no weight is read.

    Returns:
        An `outline`, and False where the folder holds no weights at all.

    Raises:
        Invalid: as `load_model`, but that a folder without any weights has neither them nor a tokenizer is no fault.
    """
    config = _read_config(folder)
    _choose_experts(folder, config, "grouped_mm")
    with _reading(folder, "AutoConfig"):
        model = outline(config)
    complete = any(folder.glob("*.safetensors*")) or any(folder.glob("pytorch_model*"))
    if complete:
        _read_weights(folder, config, "auto", {"": "meta"})
        _read_tokenizer(folder)
    return model, complete


def _read_config(folder: Path) -> Any:
    """Return the configuration a folder holds.

    Raises:
        Invalid: it holds none, one that cannot be read, or one that needs code of its own.
    """
    path = folder / "config.json"
    if not path.is_file():
        found = "has no config.json" if folder.is_dir() else "is not a folder"
        raise Invalid(Problem(str(folder), found, "give the folder that save_pretrained or a download wrote"))
    with _reading(folder, "AutoConfig"):
        written = json.loads(path.read_bytes())
        own = isinstance(written, dict) and "auto_map" in written
        if own and written.get("model_type") not in transformers.CONFIG_MAPPING:
            raise ValueError("it needs code of its own (auto_map), which prereg-moe never runs")
    return _read(folder, transformers.AutoConfig)


def _read_weights(folder: Path, config: Any, dtype: Any, device_map: Any) -> Any:
    """Return the model with the folder's weights, every one of them.

    Raises:
        Invalid: a weight is missing, of another shape or cannot be read.
    """
    model, report = _read(
        folder,
        transformers.AutoModelForCausalLM,
        config=config,
        dtype=dtype,
        use_safetensors=True,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # reported below, with their names
        device_map=device_map,
    )
    _complete(folder, report)
    return model


def _read_tokenizer(folder: Path) -> Any:
    """Return the folder's tokenizer.

    Raises:
        Invalid: it cannot be read, or knows no words: transformers makes an empty one up where the files are missing.
    """
    tokenizer = _read(folder, transformers.AutoTokenizer)
    if not tokenizer("text", add_special_tokens=False).input_ids:
        raise Invalid(Problem(str(folder), "its tokenizer turns text into no tokens", _PARTS["AutoTokenizer"][1]))
    return tokenizer


def _read(folder: Path, auto: Any, **options: Any) -> Any:
    """Return what ``auto.from_pretrained`` makes of a folder, by its bytes alone."""
    with _reading(folder, auto.__name__):
        return auto.from_pretrained(folder, local_files_only=True, trust_remote_code=False, **options)


@contextmanager
def _reading(folder: Path, part: str) -> Iterator[None]:
    """Turn whatever transformers raises about a part of a folder into our error, and keep it quiet."""
    noisy = logging.getLogger("transformers.modeling_utils")
    level, bars = noisy.level, transformers.utils.logging.is_progress_bar_enabled()
    noisy.setLevel(logging.ERROR)  # its report of missing keys is our error below
    transformers.utils.logging.disable_progress_bar()
    try:
        yield
    except Exception as error:  # libraries below raise what they like, safetensors a bare Exception
        what, todo = _PARTS[part]
        raise Invalid(Problem(str(folder), f"its {what} cannot be read ({_line(error)})", todo)) from error
    finally:
        noisy.setLevel(level)
        if bars:
            transformers.utils.logging.enable_progress_bar()


def _choose_experts(folder: Path, config: Any, implementation: str) -> None:
    """Set how experts are computed, where the architecture leaves a choice."""
    if implementation not in _IMPLEMENTATIONS:
        found = f"{implementation!r} is not an implementation"
        raise Invalid(Problem("experts_implementation", found, f"use one of {', '.join(_IMPLEMENTATIONS)}"))
    kind = transformers.MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    if kind is None:
        raise Invalid(Problem(str(folder), f"{config.model_type} has no causal language model", "give another folder"))
    # transformers refuses the choice where there is none, and has no public name for either
    if kind._can_set_experts_implementation():  # noqa: SLF001
        config._experts_implementation = implementation  # noqa: SLF001


def _complete(folder: Path, report: dict[str, Any]) -> None:
    """Raise Invalid unless every weight of the model came from the folder."""
    problems = []
    for kind in ("missing_keys", "mismatched_keys"):
        keys = sorted(str(key[0] if isinstance(key, tuple) else key) for key in report.get(kind, ()))
        if keys:
            found = f"{len(keys)} weights are {kind.removesuffix('_keys')}, the first is {keys[0]}"
            problems.append(Problem(str(folder), found, "transformers would invent them; get the whole checkpoint"))
    if report.get("error_msgs"):
        problems.append(Problem(str(folder), f"weights do not load ({report['error_msgs'][0]})"))
    if problems:
        raise Invalid(problems)


def _line(error: BaseException) -> str:
    """Return the first line of an error's message, and what it announces."""
    lines = (str(error).strip() or type(error).__name__).splitlines()
    return " ".join(line.strip() for line in lines[: 1 + lines[0].endswith(":")])
