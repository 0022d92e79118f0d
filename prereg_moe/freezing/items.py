"""The items of corpora: read line by line, and listed by id, which is how a frozen document names them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from prereg_moe.errors import Invalid, NotCheckable, Problem
from prereg_moe.registration import Registration
from prereg_moe.registration.schema import TaskMeasure
from prereg_moe.registry import find_source

__all__ = ["cluster_of", "list_items", "read_items"]

_MAX_LINE = 1 << 24


def list_items(registration: Registration, folder: Path, root: Path) -> dict[str, Any]:
    """Return the ids of the items every measure scores, and their clusters, as a frozen document lists them.

    Raises:
        NotCheckable: a corpus file cannot be read.
        Invalid: a corpus does not hold the registered items.
    """
    items: dict[str, dict[str, list[str]]] = {}
    clusters: dict[str, dict[str, list[str]] | None] = {}
    for name, measure in registration.measures.items():
        found = {axis: _measured(registration, measure, axis, folder, root) for axis in registration.axes}
        items[name] = {axis: [item["id"] for item in axis_items] for axis, axis_items in found.items()}
        clusters[name] = None
        if measure.unit == "cluster":
            clusters[name] = {
                axis: [cluster_of(measure, item) for item in axis_items] for axis, axis_items in found.items()
            }
    return {"items": items, "clusters": clusters}


def _measured(
    registration: Registration, measure: TaskMeasure, axis: str, folder: Path, root: Path
) -> list[dict[str, Any]]:
    corpus = registration.corpora[measure.corpus]
    path = find_source(corpus.source, folder, root) / corpus.file.replace("{axis}", axis)
    return read_items(path, measure.skip, measure.items)


def read_items(path: Path, skip: int, count: int) -> list[dict[str, Any]]:
    """Return ``count`` items of a corpus file behind the first ``skip``, each with a text ``id``.

    Raises:
        NotCheckable: the file cannot be read.
        Invalid: a line is no JSON object with an id, an id repeats, or there are too few.
    """
    items: list[dict[str, Any]] = []
    file = "/".join(path.parts[-2:])  # files of several corpora have one name
    seen: set[str] = set()
    for number, line in enumerate(islice(_lines(path), skip + count), start=1):
        try:
            item = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise Invalid(Problem(f"{file}:{number}", "is not JSON", "write one object a line")) from error
        name = item.get("id") if isinstance(item, dict) else None
        if not isinstance(name, str) or not name or name in seen:
            raise Invalid(Problem(f"{file}:{number}", f"has the id {name!r}", "every item needs its own text id"))
        seen.add(name)
        if number > skip:
            items.append(item)
    if len(items) < count:
        raise Invalid(Problem(file, f"has {len(items)} items behind the first {skip}", f"{count} are registered"))
    return items


def cluster_of(measure: TaskMeasure, item: Mapping[str, Any]) -> str:
    """Return the cluster an item names.

    Raises:
        Invalid: it names none.
    """
    value = item.get(measure.cluster or "")
    if not isinstance(value, str) or not value:
        raise Invalid(Problem(item["id"], f"has no text field {measure.cluster!r}", "every item names its cluster"))
    return value


def _lines(path: Path) -> Iterator[str]:
    """Yield the lines of a corpus that are not blank, however long the file is."""
    try:
        with path.open("rb") as file:
            while line := file.readline(_MAX_LINE):
                if text := line.decode("utf-8", "replace").strip():
                    yield text
    except OSError as error:
        raise NotCheckable(Problem(str(path), f"cannot be read ({error.strerror})")) from error
