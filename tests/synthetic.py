"""Verdict documents of other sizes, made from the committed one by repeating what is in it."""

from __future__ import annotations

import copy
from typing import Any


def enlarged(document: Any, *, axes: int, layers: int, experts: int, size: int, draws: int = 99) -> Any:
    """Return a document of one model with a family of ``size`` experts a layer for each axis."""
    document = copy.deepcopy(document)
    study = document["study"]
    names = [f"axis-{number}" for number in range(axes)]
    study["axes"] = {name: {"domain": "language", "title": name} for name in names}
    study["controls"]["null"]["draws"] = draws
    document["families"] = [
        {
            "model": model,
            "name": name,
            "axis": name,
            "cells": [[layer, [(7 * k + number + layer) % experts for k in range(size)]] for layer in range(layers)],
            "share": 0.5,
            "uniform": size / experts,
        }
        for model in ("standard", "planted", "randomised")
        for number, name in enumerate(names)
    ]
    kinds = {entry["block"]: entry for entry in document["verdicts"]}
    document["verdicts"] = [_entry(like, name, names, draws) for like in kinds.values() for name in names]
    like = document["replications"][0]
    document["replications"] = [{**like, "family": name} for name in names]
    return document


def _entry(like: Any, name: str, names: list[str], draws: int) -> Any:
    entry = copy.deepcopy(like) | {"family": name, "axis": name, "claim": f"{like['block']}.{name}"}
    estimates = entry["estimates"]
    worst = {key: value for key, value in estimates["worst_off"].items() if key != "axis"}
    others = [other for other in names if other != name]
    estimates["off"] = dict.fromkeys(others, worst)
    estimates["worst_off"]["axis"] = others[-1]
    if "null" in estimates:
        estimates["null"]["draws"] = [0.1 + 0.001 * number for number in range(draws)]
    return entry
