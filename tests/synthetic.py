"""Verdict documents of other sizes, made from the committed one by repeating what is in it."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np


def enlarged(document: Any, *, axes: int, layers: int, experts: int, size: int, draws: int = 99) -> Any:
    """Return a document of one model with a family of ``size`` experts a layer for each axis."""
    document = copy.deepcopy(document)
    study = document["study"]
    names = [f"axis-{number}" for number in range(axes)]
    study["axes"] = {name: {"domain": "language", "title": name} for name in names}
    study["controls"]["null"]["draws"] = draws
    study["controls"]["positive"]["at_least"] = axes
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
    document["atlas"] = {model: _routing(names, layers, experts) for model in ("standard", "planted", "randomised")}
    kinds = {entry["block"]: entry for entry in document["verdicts"]}
    document["verdicts"] = [_entry(like, name, names, draws) for like in kinds.values() for name in names]
    like = document["replications"][0]
    document["replications"] = [{**like, "family": name} for name in names]
    return document


def _routing(axes: list[str], layers: int, experts: int) -> Any:
    """Return routing as uneven as a trained router's, so that neighbouring cells differ."""
    mass = np.random.default_rng(1).gamma(0.5, size=(len(axes), layers, experts))
    shares = (mass / mass.sum(axis=2, keepdims=True)).tolist()
    rounded = [[[float(f"{value:.6g}") for value in row] for row in table] for table in shares]
    return {"layers": list(range(layers)), "experts": experts, "axes": dict(zip(axes, rounded, strict=True))}


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
