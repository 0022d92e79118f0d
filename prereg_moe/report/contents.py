"""What a template sees, computed from the verdict document alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prereg_moe import canonical
from prereg_moe.registration import parse
from prereg_moe.report import figures, methods
from prereg_moe.report.drawing import shade
from prereg_moe.report.words import WORDS
from prereg_moe.verdict.decision import REASONS

__all__ = ["FLAGS", "RECORD", "context"]

RECORD = ("amendments", "deviations", "looks", "sees", "claim_space", "starts")

FLAGS = {
    "FEW_UNITS": "fewer units than the registration asks for",
    "SKEW": "skewed against the rule",
    "METHOD": "the Welch-t version of the rule disagrees",
    "MONTE_CARLO": "p is within three Monte-Carlo standard errors of alpha",
    "KNIFE_EDGE": "the verdict hangs on the last digits",
    "UNCORRECTED": "the rule controls no error rate",
}


def context(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a template sees.

    ``document``
        the verdict document, ``study`` its registration with every default.
    ``blocks``
        blocks of claims with their verdicts; ``tests`` those with error control, ``expressions`` the others;
        each with its ``unit``, ``kappa``, ``minimum_effect``, ``margin``, ``units`` (n) and, in ``others``, what
        other rules say of the same families.
    ``by_rule``, ``matrices``, ``controls``, ``counts``, ``replications``, ``routing``
        tables of a report.
    ``words``
        what the registered intervention is called: ``doing``, ``done``, ``effects``.
    ``figures``
        drawings by name, each with ``title``, ``caption`` and ``svg``.
    ``methods``, ``references``
        sentences with the keys they cite, and the works by key in the order of their citation.
    ``record``
        what the ledger says beside the evidence (amendments, deviations, looks, claim space, starts); a part
        that has nothing to say is an empty list.
    ``reasons``, ``flags``
        the codes that occur, with their meaning.
    """
    whole = parse(document["study"]).model_dump(mode="json", by_alias=True)  # what was left out is None here
    study = canonical.loads(canonical.dumps(whole))
    verdicts = document["verdicts"]
    blocks = [_block(block, study, verdicts) for block in study["claims"]]
    for block in blocks:
        block["others"] = _others(block, blocks)
    used = {reason for entry in [*verdicts, *document["replications"]] for reason in entry["reasons"]}
    flags = {flag for entry in verdicts for flag in entry["flags"]}
    confirmatory = [entry for entry in verdicts if entry["tier"] == "confirmatory"]
    sentences, words = methods.write(document, study), WORDS[study["intervention"]["kind"]]
    seen = {
        "document": document,
        "study": study,
        "words": words,
        "blocks": blocks,
        "tests": [block for block in blocks if block["kind"] != "expression"],
        "expressions": [block for block in blocks if block["kind"] == "expression"],
        "by_rule": _by_rule(blocks),
        "matrices": _matrices(blocks, list(study["axes"])),
        "controls": [_control(control, blocks, document) for control in document["controls"]],
        "counts": _counts(confirmatory),
        "by_verdict": _by_verdict(confirmatory),
        "routing": _routing(document),
        "replications": document["replications"],
        "record": dict.fromkeys(RECORD, ()) | dict(document.get("record", {})),
        "reasons": {code: said.replace("masking", words.doing) for code, said in REASONS.items() if code in used},
        "flags": {flag: FLAGS[flag] for flag in FLAGS if flag in flags},
        "interval_kind": study["inference"]["interval"]["kind"].replace("_", "-"),
        "level": f"{100 * study['inference']['interval']['level']:.6g}%",
        "methods": sentences,
        "references": {key: methods.REFERENCES[key] for sentence in sentences for key in sentence.cites},
    }
    return seen | {"figures": {drawing.name: drawing for drawing in figures.draw(seen)}}


def _block(block: Mapping[str, Any], study: Mapping[str, Any], verdicts: list[Mapping[str, Any]]) -> dict[str, Any]:
    rule, measure = study["rules"][block["rule"]], study["measures"][block["measure"]]
    return {
        **block,
        "verdicts": [entry for entry in verdicts if entry["block"] == block["id"]],
        "kind": rule["kind"],
        "kappa": rule.get("kappa"),
        "minimum_effect": rule.get("minimum_effect"),
        "margin": rule.get("margin"),
        "unit": _unit(measure),
        "items": measure.get("items"),
    }


def _unit(measure: Mapping[str, Any]) -> str:
    """Return what a measure's numbers are in: ``nats per token``, ``acc per item``."""
    metric, per = measure.get("metric", "units of the measure"), measure.get("per")
    named = "nats" if per == "token" and str(metric) in ("nll", "loglikelihood") else str(metric)
    return f"{named} per {per}" if per else named


def _others(block: Mapping[str, Any], blocks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return, for the blocks that judge the same effects by another rule, family -> entry."""
    return [
        {"id": other["id"], "rule": other["rule"], "found": {entry["family"]: entry for entry in other["verdicts"]}}
        for other in blocks
        if other["id"] != block["id"] and all(other[key] == block[key] for key in ("model", "measure", "off"))
    ]


def _matrices(blocks: list[dict[str, Any]], axes: list[str]) -> list[dict[str, Any]]:
    """Return, for each model and measure, what intervening on each family does to each axis; None was not judged."""
    tables: dict[tuple[str, str], dict[str, Any]] = {}
    for block in blocks:
        if not block["verdicts"]:
            continue
        key = (block["model"], block["measure"])
        table = tables.setdefault(
            key, {"model": key[0], "measure": key[1], "unit": block["unit"], "axes": axes, "found": {}, "minimum": 0.0}
        )
        table["minimum"] = max(table["minimum"], block["minimum_effect"] or block["margin"] or 0.0)
        for entry in block["verdicts"]:
            cells = {entry["axis"]: entry["estimates"]["on"], **entry["estimates"].get("off", {})}
            row = table["found"].setdefault(
                entry["family"], {"family": entry["family"], "axis": entry["axis"]} | {"at": {}}
            )
            row["at"] |= cells
    return [_matrix(table) for table in tables.values()]


def _matrix(table: dict[str, Any]) -> dict[str, Any]:
    known = [cell for row in table["found"].values() for cell in row["at"].values()]
    largest = max([table["minimum"], *(abs(cell["estimate"]) for cell in known)])  # below the minimum nothing glows
    units = sorted({cell["units"] for cell in known})
    rows = [
        {
            "family": row["family"],
            "axis": row["axis"],
            "cells": [row["at"].get(axis) for axis in table["axes"]],
            "shades": [_shade(row["at"].get(axis), largest) for axis in table["axes"]],
        }
        for row in table["found"].values()
    ]
    n = f"{units[0]}" if len(units) == 1 else f"{units[0]} to {units[-1]}"
    return {key: table[key] for key in ("model", "measure", "unit", "axes")} | {
        "rows": rows,
        "largest": largest,
        "units": n,
    }


def _shade(cell: Mapping[str, Any] | None, largest: float) -> str:
    return "" if cell is None else shade(cell["estimate"], largest)


def _by_verdict(entries: list[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """Return verdict -> the claims that have it, where there are any."""
    order = ("CONFIRMED", "REFUTED", "INCONCLUSIVE", "INVALID")
    found = {verdict: [entry for entry in entries if entry["verdict"] == verdict] for verdict in order}
    return {verdict: those for verdict, those in found.items() if those}


def _counts(entries: list[Mapping[str, Any]]) -> dict[str, int]:
    order = ("CONFIRMED", "REFUTED", "INCONCLUSIVE", "INVALID")
    return {verdict: sum(entry["verdict"] == verdict for entry in entries) for verdict in order}


def _by_rule(blocks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return, where effects are judged by expressions too, one row a family with its verdict under each rule."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for block in blocks:
        groups.setdefault((block["model"], block["measure"]), []).append(block)
    tables = []
    for (model, measure), group in groups.items():
        if not any(block["kind"] == "expression" for block in group):
            continue
        found = {block["id"]: {entry["family"]: entry for entry in block["verdicts"]} for block in group}
        families = dict.fromkeys(entry["family"] for block in group for entry in block["verdicts"])
        rows = [{"family": family, "cells": [found[block["id"]].get(family) for block in group]} for family in families]
        tables.append({"model": model, "measure": measure, "blocks": group, "rows": rows})
    return tables


def _control(control: Mapping[str, Any], blocks: list[dict[str, Any]], document: Mapping[str, Any]) -> dict[str, Any]:
    """Return a control with what its block measured, so that a reader sees why it came out as it did."""
    block = next(block for block in blocks if block["id"] == control["claims"])
    on = [entry["estimates"]["on"]["estimate"] for entry in block["verdicts"]]
    routing = [row for row in _routing(document) if row["model"] == block["model"]]
    bound = f"at least {control['at_least']}" if control["at_least"] is not None else f"at most {control['at_most']}"
    return {
        **control,
        "model": block["model"],
        "bound": bound,
        "on_min": min(on),
        "on_max": max(on),
        "routing": routing[0] if routing else None,
    }


def _routing(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return, model by model, how much of an axis's routing its family takes, beside the uniform share."""
    rows = []
    for model in dict.fromkeys(entry["model"] for entry in document["families"]):
        shares = [entry["share"] for entry in document["families"] if entry["model"] == model]
        uniform = next(entry["uniform"] for entry in document["families"] if entry["model"] == model)
        rows.append({"model": model, "low": min(shares), "high": max(shares), "uniform": uniform})
    return rows
