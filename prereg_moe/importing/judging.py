"""Judging evidence made elsewhere: one canonical document with readings, or with verdicts, and their cap.

The cap says what evidence of a kind can support at most; it stands in the document, so every
report shows it. A summary gets readings and never a verdict.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from prereg_moe import canonical, stats
from prereg_moe.importing.deciding import Cell, decide_cells, describe
from prereg_moe.importing.frozen import FrozenImport
from prereg_moe.importing.schema import VERDICT_SCHEMA, Block, Imported, Inference, Samples, Summary, names
from prereg_moe.importing.summary import readings
from prereg_moe.registration import schema
from prereg_moe.registration.schema import SelectiveRule
from prereg_moe.verdict import control_outcomes
from prereg_moe.verdict.decide import decide, worst
from prereg_moe.verdict.decision import Decision, gated
from prereg_moe.verdict.estimate import Effects, Interval

__all__ = ["CAPS", "judge"]

CAPS = {
    "summary": "Published numbers, read. They can show that a statement follows from what was printed or contradicts "
    "it, and never that it is true: no item was seen, no interval recomputed, and nothing here proves that the "
    "intervention happened. The reading was registered after the numbers were published.",
    "rows": "Scores of items made elsewhere. The verdicts follow from these rows by the registered rules. That the "
    "rows come from the model and the intervention their makers name, that no row was left out before the file was "
    "written, and that the rules were chosen before the scores were seen rests on their makers' word.",
    "lm-eval": "Samples of lm-evaluation-harness made elsewhere. The verdicts follow from these samples by the "
    "registered rules, and baseline and ablations answered the same requests. Which weights were loaded, and that the "
    "ablation happened inside the model, rests on their makers' word: no guard counted it.",
}


def judge(frozen: FrozenImport, imported: Mapping[str, Any], diagnosis: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the verdict document, the same bytes wherever it is judged.

    Args:
        frozen: the registration.
        imported: what ``imported.json`` holds.
        diagnosis: the sealed error rates of a summary's rules, None where there are none.
    """
    document = frozen.registration
    found = {
        "schema": VERDICT_SCHEMA,
        "kind": document.evidence.kind,
        "registration": frozen.digest,
        "evidence": canonical.digest(dict(imported)),
        "study": frozen.document["registration"],
        "cap": CAPS[document.evidence.kind],
        "sources": imported["sources"],
        "made": imported["made"],
        "checks": imported["checks"],
        "error_rates": diagnosis,
    }
    if isinstance(document.evidence, Summary):
        claims = imported["evidence"]["claims"]
        return {**found, "printed": claims, "readings": readings(document, claims)}
    return {**found, **_verdicts(document, imported["evidence"]["cells"])}


def _verdicts(document: Imported, table: Mapping[str, Any]) -> dict[str, Any]:
    inference = document.inference
    assert inference is not None  # noqa: S101 - a registration without it is refused
    cells = {
        name: Cell(np.array(entry["deltas"], dtype=np.float64), entry["clusters"]) for name, entry in table.items()
    }
    decided = {block.id: _block(document, inference, block, cells) for block in document.claims}
    controls = control_outcomes(document.controls, decided)
    failed = tuple(f"{control['name'].upper()}_CONTROL_FAILED" for control in controls if not control["holds"])
    return {
        "cells": {name: describe(cell, inference, name) for name, cell in cells.items()},
        "controls": controls,
        "verdicts": [
            _entry(document, inference, block, name, decision if block.tier == "control" else gated(decision, failed))
            for block in document.claims
            for name, decision in decided[block.id].items()
        ],
    }


def block_alpha(document: Imported, inference: Inference, block: Block) -> float:
    """Return the level of one block: confirmatory blocks share alpha where that is registered."""
    confirmatory = sum(one.tier == "confirmatory" for one in document.claims)
    shared = block.tier == "confirmatory" and inference.between == "bonferroni"
    return inference.alpha / (confirmatory if shared else 1)


def _block(document: Imported, inference: Inference, block: Block, cells: Mapping[str, Cell]) -> dict[str, Decision]:
    rule, alpha = document.rules[block.rule], block_alpha(document, inference, block)
    about = names(document, block) or ()
    if isinstance(rule, SelectiveRule):
        return _selective(document, inference, block, rule, alpha, cells)
    assert not isinstance(rule, schema.ExpressionRule)  # noqa: S101 - a registration with it is refused
    chosen = {name: cells[name] for name in about}
    return decide_cells(chosen, rule, inference, alpha, control=document.controls.positive is not None)


def _selective(
    document: Imported,
    inference: Inference,
    block: Block,
    rule: SelectiveRule,
    alpha: float,
    cells: Mapping[str, Cell],
) -> dict[str, Decision]:
    """Judge ablations as families by the rule of a study that was run here, on the deltas of their cells."""
    evidence = document.evidence
    assert isinstance(evidence, Samples)  # noqa: S101 - a registration with another kind is refused
    about = names(document, block) or ()
    axis = {name: evidence.ablations[name].axis or "" for name in about}
    deltas = {name: {one: cells[f"{name}/{one}"].deltas for one in evidence.axes} for name in about}
    effects = Effects(
        claims=schema.Claims(
            id=block.id,
            hypothesis=block.hypothesis,
            tier=block.tier,
            model="imported",
            families=about,
            measure="imported",
            off="all",
            rule=block.rule,
        ),
        families=about,
        axis=axis,
        off={name: tuple(one for one in evidence.axes if one != axis[name]) for name in about},
        deltas=deltas,
        null=None,
        intervals={
            name: {one: _interval(values, inference, f"{name}/{one}") for one, values in by_axis.items()}
            for name, by_axis in deltas.items()
        },
    )
    registered = schema.Inference(
        alpha=inference.alpha,
        interval=inference.interval,
        resamples=inference.resamples,
        escalation=inference.resamples,
        seed=inference.seed,
        few_units=inference.few_units,
    )
    decided = decide(effects, rule, registered, alpha)
    return {
        name: replace(
            decision,
            flags=("IMPORTED", *decision.flags),
            parts={
                **decision.parts,
                "on": {"axis": axis[name], **effects.intervals[name][axis[name]].to_json()},
                "worst_off": {"axis": worst(effects, name)[0], **worst(effects, name)[1].to_json()},
            },
        )
        for name, decision in decided.items()
    }


def _interval(values: Any, inference: Inference, name: str) -> Interval:
    made = stats.bootstrap(
        values,
        interval=inference.interval.kind,
        level=inference.interval.level,
        resamples=inference.resamples,
        seed=inference.seed,
        labels=("interval", name),
    )
    return Interval.of(made)


def _entry(document: Imported, inference: Inference, block: Block, name: str, decision: Decision) -> dict[str, Any]:
    return {
        "claim": f"{block.id}.{name}",
        "block": block.id,
        "about": name,
        "rule": block.rule,
        "tier": block.tier,
        "alpha": block_alpha(document, inference, block),
        **decision.to_json(),
        "parts": dict(decision.parts),
    }
