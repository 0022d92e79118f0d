"""Per-item rows: a table made elsewhere becomes cells with one paired difference an item, exactly those registered."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from itertools import product
from typing import Any

from prereg_moe.errors import Deviated, Invalid, NotCheckable, Problem
from prereg_moe.importing.schema import Imported, Rows
from prereg_moe.importing.tables import number, read_table, require_columns

__all__ = ["read_rows"]

_SHOWN = 5  # problems of one kind that are named


def read_rows(document: Imported, data: bytes, name: str) -> dict[str, Any]:
    """Return the registered cells: name -> items, clusters (or null) and differences, + is harm.

    Items stand in the order of their names. A cell that is not registered is `Deviated`, one that
    is missing or has too few items `NotCheckable`; rows are never dropped.

    Args:
        document: the registration; its evidence is the mapping.
        data: the table's bytes.
        name: its name; the ending says the format.

    Raises:
        Invalid: columns are missing, an item repeats in a cell, a score is no finite number.
        NotCheckable: a registered cell is missing, or has another number of items.
        Deviated: a cell that is not registered.
    """
    evidence = document.evidence
    if not isinstance(evidence, Rows):
        raise Invalid(Problem("evidence.kind", f"is {evidence.kind}", f"use `prereg-moe import {evidence.kind}`"))
    rows = read_table(data, name)
    scored = [evidence.delta] if evidence.delta is not None else [evidence.baseline, evidence.ablated]
    columns = [*evidence.cells, evidence.item, *([evidence.cluster] if evidence.cluster else [])]
    require_columns(rows, [*columns, *(column for column in scored if column is not None)], name)
    cells: dict[str, list[tuple[str, str | None, float]]] = {
        "/".join(values): [] for values in product(*evidence.cells.values())
    }
    strange: Counter[str] = Counter()
    problems: list[Problem] = []
    for line, row in enumerate(rows, 1):
        cell = "/".join(str(row[column]) for column in evidence.cells)
        if cell not in cells:
            strange[cell] += 1
            continue
        try:
            cells[cell].append(_item(evidence, row, f"{name}, row {line}"))
        except Invalid as error:
            problems += error.problems
    if problems:
        raise Invalid(problems[:_SHOWN])
    _refuse(evidence, cells, strange, name)
    return {"cells": {cell: _cell(evidence, items) for cell, items in cells.items()}}


def _item(evidence: Rows, row: Mapping[str, Any], where: str) -> tuple[str, str | None, float]:
    sign = 1.0 if evidence.harm == "increase" else -1.0
    if evidence.delta is not None:
        delta = number(row, evidence.delta, where)
    else:
        delta = number(row, evidence.ablated or "", where) - number(row, evidence.baseline or "", where)
    cluster = None
    if evidence.cluster is not None:
        cluster = "" if row[evidence.cluster] is None else str(row[evidence.cluster])
        if not cluster:
            raise Invalid(Problem(where, f"has no {evidence.cluster}", "every item names its cluster"))
    return str(row[evidence.item]), cluster, sign * delta + 0.0


def _refuse(
    evidence: Rows, cells: Mapping[str, list[tuple[str, str | None, float]]], strange: Counter[str], name: str
) -> None:
    if strange:
        raise Deviated(
            [
                Problem(
                    name, f"holds the cell {cell} ({count} rows)", "it is not registered: register it, or remove it"
                )
                for cell, count in list(strange.items())[:_SHOWN]
            ]
        )
    repeated = [
        Problem(name, f"{cell} has the item {item!r} {count} times", "an item is one unit: give it one row")
        for cell, items in cells.items()
        for item, count in Counter(item for item, _, _ in items).items()
        if count > 1
    ]
    if repeated:
        raise Invalid(repeated[:_SHOWN])
    wanted = evidence.items
    missing = [
        Problem(name, f"{cell} has {len(items)} items", f"{wanted or 'at least two'} are registered")
        for cell, items in cells.items()
        if (wanted is not None and len(items) != wanted) or len(items) < 2
    ]
    if missing:
        raise NotCheckable(missing[:_SHOWN])


def _cell(evidence: Rows, items: list[tuple[str, str | None, float]]) -> dict[str, Any]:
    items = sorted(items)
    return {
        "items": [item for item, _, _ in items],
        "clusters": [cluster for _, cluster, _ in items] if evidence.cluster is not None else None,
        "deltas": [delta for _, _, delta in items],
    }
