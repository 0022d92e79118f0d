"""Reports on evidence made elsewhere, from the verdict document alone, by templates frozen with the registration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prereg_moe import canonical, report
from prereg_moe.importing import figures
from prereg_moe.importing.deciding import FLAGS, REASONS
from prereg_moe.importing.schema import parse
from prereg_moe.verdict.decision import REASONS as RULE_REASONS

__all__ = ["context"]

_WORST = {
    "estimate": "the off-target axis with the largest estimate",
    "upper_bound": "the off-target axis with the largest upper bound",
}
_FOLLOWS = {
    (True, "TRUE"): "follows from the printed numbers",
    (False, "FALSE"): "follows from the printed numbers",
    (True, "FALSE"): "contradicted by the printed numbers",
    (False, "TRUE"): "contradicted by the printed numbers",
}
_OPEN = "not decided by the printed numbers"


def context(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a template sees: the document, its study, its claims by block, and figures by name."""
    whole = parse(document["study"]).model_dump(mode="json", by_alias=True)  # what was left out is None here
    study = canonical.loads(canonical.dumps(whole))
    shared = {"document": document, "study": study, "checks": document["checks"], "made": document["made"]}
    seen = {**shared, **(_summary if document["kind"] == "summary" else _items)(document, study)}
    return seen | {"figures": {drawing.name: drawing for drawing in figures.draw(seen)}}


def _summary(document: Mapping[str, Any], study: Mapping[str, Any]) -> dict[str, Any]:
    blocks = [
        {
            **block,
            "readings": [
                {**entry, "says": _says(entry)} for entry in document["readings"] if entry["block"] == block["id"]
            ],
        }
        for block in study["claims"]
    ]
    for block in blocks:
        first = block["readings"][0]
        block.update(expression=first["expression"], worst=_WORST[first["worst_off"]])
        block["by_reading"] = {
            word: [entry["claim"] for entry in block["readings"] if entry["reading"] == word]
            for word in ("TRUE", "FALSE", "UNDECIDABLE")
        }
    claims = [
        {
            "claim": claim,
            **entry,
            "readings": [one for block in blocks for one in block["readings"] if one["claim"] == claim],
        }
        for claim, entry in document["printed"].items()
    ]
    rates = document["error_rates"]
    return {
        "blocks": blocks,
        "claims": claims,
        "rates": _rates(rates) if rates else [],
        "settings": rates and rates["settings"],
    }


def _says(entry: Mapping[str, Any]) -> str | None:
    if entry["said"] is None:
        return None
    return _FOLLOWS.get((entry["said"], entry["reading"]), _OPEN)


def _rates(diagnosis: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {"rule": rule, "expression": diagnosis["expressions"][rule], "scenario": scenario, **truths}
        for rule, scenarios in diagnosis["rules"].items()
        for scenario, truths in scenarios.items()
    ]


def _items(document: Mapping[str, Any], study: Mapping[str, Any]) -> dict[str, Any]:
    blocks = [
        {
            **block,
            "kind": study["rules"][block["rule"]]["kind"],
            "settings": study["rules"][block["rule"]],
            "verdicts": [entry for entry in document["verdicts"] if entry["block"] == block["id"]],
        }
        for block in study["claims"]
    ]
    for block in blocks:
        block["counts"] = {
            word: sum(entry["verdict"] == word for entry in block["verdicts"])
            for word in ("CONFIRMED", "REFUTED", "INCONCLUSIVE", "INVALID")
        }
    used = {reason for entry in document["verdicts"] for reason in entry["reasons"]}
    raised = {flag for entry in document["verdicts"] for flag in entry["flags"]}
    reasons, flags = {**RULE_REASONS, **REASONS}, {**report.FLAGS, **FLAGS}
    return {
        "blocks": blocks,
        "cells": document["cells"],
        "controls": document["controls"],
        "reasons": {name: text for name, text in reasons.items() if name in used},
        "flags": {name: text for name, text in flags.items() if name in raised},
        "level": f"{100 * study['inference']['interval']['level']:.6g}%",
    }
