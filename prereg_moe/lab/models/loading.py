"""Read a model and its tokenizer from a local folder, whole or not at all.

Nothing is downloaded, no code from the folder runs, weights are read from safetensors only, and a
checkpoint that lacks a weight is refused: transformers would fill the gap with random numbers and
go on.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

import torch
import transformers

from prereg_moe.errors import Invalid, Problem

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["load_model"]

_DTYPES: Final = {
    "float64": torch.float64,
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
_IMPLEMENTATIONS: Final = ("eager", "grouped_mm", "batched_mm")


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
    if not (folder / "config.json").is_file():
        found = "has no config.json" if folder.is_dir() else "is not a folder"
        raise Invalid(Problem(str(folder), found, "give the folder that save_pretrained or a download wrote"))
    options = {"local_files_only": True, "trust_remote_code": False}
    config = _read(folder, transformers.AutoConfig, **options)
    _choose_experts(folder, config, experts_implementation)
    model, report = _read(
        folder,
        transformers.AutoModelForCausalLM,
        config=config,
        dtype=_DTYPES[dtype],
        use_safetensors=True,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # reported below, with their names
        device_map="auto" if device == "auto" else None,
        **options,
    )
    _complete(folder, report)
    tokenizer = _read(folder, transformers.AutoTokenizer, **options)
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


def _read(folder: Path, auto: Any, **options: Any) -> Any:
    """Call ``auto.from_pretrained`` and turn whatever it raises about the folder into our error."""
    noisy = logging.getLogger("transformers.modeling_utils")
    level, bars = noisy.level, transformers.utils.logging.is_progress_bar_enabled()
    noisy.setLevel(logging.ERROR)  # its report of missing keys is our error below
    transformers.utils.logging.disable_progress_bar()
    try:
        return auto.from_pretrained(folder, **options)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, ImportError) as error:
        what = auto.__name__.removeprefix("Auto")
        raise Invalid(Problem(str(folder), f"{what} cannot be read ({_line(error)})")) from error
    except Exception as error:  # safetensors raises a bare Exception of its own
        raise Invalid(Problem(str(folder), f"weights cannot be read ({_line(error)})")) from error
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
    """Return the first line of an error's message."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
