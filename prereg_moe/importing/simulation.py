"""What published rules do where the truth is known: their error rates under the published design.

The design is written as a registration whose rules are the published expressions, its studies are
simulated and judged by the code of `prereg_moe.diagnosing`. Three truths, each of every family:

* ``boundary``: the claim is false, one off-target axis lies exactly at on/kappa, the others at half of it or less;
* ``random``: the family is one more random expert set, and only the part of the rule that compares it
  with random sets is judged;
* ``planned``: the claim is true, with the registered effects.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import prereg_moe
from prereg_moe import canonical, rules
from prereg_moe.diagnosing import figures
from prereg_moe.diagnosing.design import Design as Simulated
from prereg_moe.diagnosing.design import Truth, blocks_of
from prereg_moe.diagnosing.study import Task, run
from prereg_moe.errors import Invalid, Problem
from prereg_moe.importing.frozen import DIAGNOSIS
from prereg_moe.importing.schema import Design, Imported
from prereg_moe.registration import Registration, expand
from prereg_moe.registration import parse as parse_registration
from prereg_moe.registration.schema import ExpressionRule

__all__ = ["diagnose", "registration_of"]

_CHUNK = 10

Progress = Callable[[int, int, str], None]


def diagnose(document: Imported, *, studies: int | None = None, progress: Progress | None = None) -> dict[str, Any]:
    """Return the error rates of a summary's rules, as plain JSON.

    ``rules`` holds, for every rule and scenario, the rates ``boundary`` and ``random`` (any family of
    a domain passes; each family passes) and ``planned`` (each family passes), with Clopper-Pearson
    intervals.

    Args:
        document: the registration; its ``design`` is simulated.
        studies: simulated studies for each scenario and truth; default: as registered.
        progress: called with (done, total, label).

    Raises:
        Invalid: no design is registered, or it cannot be simulated.
    """
    design = document.design
    if design is None:
        raise Invalid(Problem("design", "is missing", "say what is known of the published design to simulate it"))
    count = studies or design.studies
    texts = _texts(document)
    jobs = list(_jobs(design, texts))
    found: dict[str, Any] = {name: {} for name in texts}
    for number, (name, scenario, truth, text) in enumerate(jobs):
        if progress is not None:
            progress(number, len(jobs), f"{name}, {scenario}, {truth}")
        if text is not None:
            found[name].setdefault(scenario, {})[truth] = _rates(design, text, scenario, truth, count)
    if progress is not None:
        progress(len(jobs), len(jobs), "done")
    return {
        "schema": DIAGNOSIS,
        "software": {"prereg-moe": prereg_moe.__version__},
        "registration": canonical.digest(expand(document)),
        "settings": {"studies": count, "design": design.model_dump(mode="json")},
        "expressions": texts,
        "rules": found,
    }


def registration_of(design: Design, domain: str, text: str) -> Registration:
    """Return one domain of a published design as a registration that can be simulated.

    Raises:
        Invalid: it is none.
    """
    part = design.domains[domain]
    return parse_registration(
        {
            "schema": "prereg-moe/1",
            "id": "published",
            "title": "A published design",
            "question": "How often does its rule err?",
            "authors": ["prereg-moe"],
            "foreknowledge": "The design was published.",
            "models": {"model": {"source": "./model"}},
            "corpora": {"corpus": {"source": "./corpus"}},
            "axes": {axis: {"domain": domain} for axis in part.axes},
            "measures": {
                "nll": {
                    "kind": "task",
                    "tasks": "./tasks",
                    "task": "nll",
                    "metric": "nll",
                    "per": "token",
                    "harm": "increase",
                    "corpus": "corpus",
                    "items": part.items,
                }
            },
            "atlas": {"corpus": "corpus", "items": 1},
            "families": [{"axes": list(part.families), "build": {"kind": "explicit", "cells": {"0": [0]}}}],
            "intervention": {"kind": "mask", "gates": "renorm"},
            "controls": {"null": {"kind": "random_sets", "draws": design.draws, "seed": design.seed}},
            "rules": {"published": {"kind": "expression", "confirm": text}},
            "claims": [
                {
                    "id": "published",
                    "hypothesis": "The published rule holds.",
                    "tier": "confirmatory",
                    "model": "model",
                    "families": "all",
                    "measure": "nll",
                    "off": "all",
                    "rule": "published",
                }
            ],
            "inference": {
                "alpha": 0.05,
                "seed": design.seed,
                "resamples": design.resamples,
                "escalation": design.resamples,
                "interval": design.interval.model_dump(mode="json"),
            },
            "diagnosis": {
                "studies": design.studies,
                "scenarios": list(design.scenarios),
                "effects": {"nll": design.effects.model_dump(mode="json")},
            },
        }
    )


def _texts(document: Imported) -> dict[str, str]:
    """Return the different expressions of the registration, each under the first rule that has it."""
    found: dict[str, str] = {}
    for name, rule in document.rules.items():
        if isinstance(rule, ExpressionRule):
            text = rules.parse(rule.confirm).text
            if text not in found.values():
                found[name] = text
    return found


def _jobs(design: Design, texts: dict[str, str]) -> Iterator[tuple[str, Any, str, str | None]]:
    for name, text in texts.items():
        for scenario in design.scenarios:
            yield name, scenario, "boundary", text
            yield name, scenario, "random", _null_part(text)
            yield name, scenario, "planned", text


def _null_part(text: str) -> str | None:
    """Return the parts of a conjunction that compare with random sets; None where there is none."""
    tree = ast.parse(text, mode="eval").body
    parts = tree.values if isinstance(tree, ast.BoolOp) and isinstance(tree.op, ast.And) else [tree]
    kept = [ast.unparse(part) for part in parts if "null." in ast.unparse(part)]
    return " and ".join(kept) or None


def _rates(design: Design, text: str, scenario: Any, truth: str, studies: int) -> dict[str, Any]:
    """Return how often the rule holds for any family of the design, and for each."""
    kind: Any = {"boundary": "selectivity"}.get(truth, truth)
    passed = np.concatenate(
        [_passed(registration_of(design, name, text), scenario, Truth(kind), studies) for name in design.domains],
        axis=1,
    )
    return {
        "any": figures.rate(float(passed.any(axis=1).sum()), studies),
        "each": figures.shares(passed),
    }


def _passed(registration: Registration, scenario: Any, truth: Truth, studies: int) -> Any:
    """Return whether the rule holds  # (studies, families)"""
    design = Simulated(registration, registration.inference.seed, registration.inference.resamples)
    blocks = blocks_of(registration)
    parts = [
        run(design, Task(scenario, truth, blocks, start, min(start + _CHUNK, studies)))["published"].verdict
        for start in range(0, studies, _CHUNK)
    ]
    return np.concatenate(parts) > 0
