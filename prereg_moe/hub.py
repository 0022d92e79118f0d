"""The Hugging Face hub's local cache: where it lies, and which data sets tasks read that are not in it.

A study is run from what is on the machine, and nothing is downloaded. A task whose data set is not here is
refused before anything is loaded: the libraries would try the network for half a minute.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

from prereg_moe.errors import Problem
from prereg_moe.registration import Registration, task_name
from prereg_moe.taskfiles import read_tasks

__all__ = ["cached", "missing_data", "snapshot"]

_FORMATS: Final = frozenset(  # what `datasets` reads without the hub
    {"arrow", "audiofolder", "cache", "csv", "hdf5", "imagefolder", "json", "pandas", "parquet", "sql", "text", "xml"}
)


def snapshot(model: str, commit: str) -> Path:
    """Return where the cache keeps one commit of a model."""
    return _model(model) / "snapshots" / commit


def cached(model: str) -> Path | None:
    """Return the one copy of a model in the cache, its main branch where there are several; None where it is not one.

    For looking at a model. A study names a commit.
    """
    main = _model(model) / "refs" / "main"
    copies = sorted(path for path in _model(model).glob("snapshots/*") if path.is_dir())
    named = [path for path in copies if main.is_file() and path.name == main.read_text("utf-8", "replace").strip()]
    found = named or copies
    return found[0] if len(found) == 1 else None


def _model(model: str) -> Path:
    return Path(os.environ.get("HF_HUB_CACHE", _home() / "hub")) / f"models--{model.replace('/', '--')}"


def missing_data(registration: Registration, find: Callable[[str], Path]) -> list[Problem]:
    """Return a problem for every data set that a registration's tasks read and that is not on this machine.

    Args:
        registration: the study.
        find: where a source lies on this machine.
    """
    found: dict[str, tuple[str, set[str]]] = {}
    for name, measure in registration.measures.items():
        tasks = [task_name(measure, axis) for axis in registration.axes]
        for data, part in _read_by(find(measure.tasks), tasks):
            found.setdefault(data, (f"measures.{name}.task", set()))[1].add(part)
    return [
        Problem(
            where,
            f"reads {', '.join([data, *sorted(parts - {''})])} of the hub, which is not in the local cache",
            "nothing is downloaded here: load it once with datasets.load_dataset where there is a network",
        )
        for data, (where, parts) in found.items()
        if not _cached(data)
    ]


def _read_by(folder: Path, tasks: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield (data set, its configuration or nothing) of tasks that read one of the hub's."""
    known = read_tasks(folder)
    for found in (known[task] for task in tasks if task in known):
        data, part = found.get("dataset_path"), found.get("dataset_name")
        local = "custom_dataset" in found or "class" in found
        if isinstance(data, str) and not local and data not in _FORMATS and not Path(data).exists():
            yield data, part if isinstance(part, str) else ""


def _cached(data: str) -> bool:
    """Return whether the cache of `datasets` holds a data set in some configuration."""
    cache = Path(os.environ.get("HF_DATASETS_CACHE", _home() / "datasets"))
    name = _letters(data.replace("/", "___"))
    return any(_letters(path.name) == name and any(path.glob("*/*/*/")) for path in cache.glob("*/"))


def _letters(name: str) -> str:
    """Return a name as far as the cache keeps it: it writes CamelCase as snake_case."""
    return re.sub(r"(?<!_)_(?!_)", "", name).lower()


def _home() -> Path:
    return Path(os.environ.get("HF_HOME", Path.home() / ".cache" / "huggingface")).expanduser()
