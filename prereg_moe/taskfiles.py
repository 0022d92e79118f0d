"""The task files of lm-evaluation-harness, read without it: which tasks a folder has, and what each reports.

As much is read as `check` needs, and nothing is followed into Python: what a task's own code alone can tell is
left for lm-eval to refuse.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import yaml

__all__ = ["DEFAULT_METRICS", "metrics", "read_tasks"]

DEFAULT_METRICS: Final[
    Mapping[str, tuple[str, ...]]
] = {  # output type -> what lm-eval reports of a task that lists none
    "loglikelihood": ("perplexity", "acc"),
    "loglikelihood_rolling": ("word_perplexity", "byte_perplexity", "bits_per_byte"),
    "multiple_choice": ("acc", "acc_norm"),
    "generate_until": ("exact_match",),
}


class _Loader(yaml.SafeLoader):
    """YAML with lm-eval's ``!function`` tags, which are not followed."""


_CODE: Final = object()  # what a tag stands for
_Loader.add_multi_constructor("!", lambda *_: _CODE)


def read_tasks(folder: Path) -> dict[str, dict[str, Any]]:
    """Return task name -> its settings, of every task in a folder; of two files with one name the first counts."""
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.rglob("*.yaml")):
        settings = _settings(path)
        if isinstance(name := settings.get("task"), str):
            found.setdefault(name, settings)
    return found


def metrics(task: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Return the metrics a task lists, or else reports by its kind; None where only code can tell."""
    listed = task.get("metric_list")
    if "class" in task or (listed is None and task.get("process_results") is _CODE):
        return None
    if listed is None:
        return DEFAULT_METRICS.get(str(task.get("output_type", "generate_until")))
    entries = listed if isinstance(listed, list) else []
    names = [entry.get("metric") for entry in entries if isinstance(entry, dict) and not entry.get("hf_evaluate")]
    if len(names) < len(entries) or not all(isinstance(name, str) for name in names):
        return None
    return tuple(map(str, names)) or None


def _settings(path: Path, seen: frozenset[Path] = frozenset()) -> dict[str, Any]:
    """Return a task file's settings on top of those it includes; nothing where it cannot be read."""
    if path in seen:
        return {}
    try:
        own = yaml.load(path.read_bytes(), Loader=_Loader)  # noqa: S506 - a safe loader
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return {}
    if not isinstance(own, dict):
        return {}
    listed = own.get("include", [])
    settings: dict[str, Any] = {}
    for name in listed if isinstance(listed, list) else [listed]:
        settings |= _settings((path.parent / str(name)).resolve(), seen | {path})
    return settings | own
