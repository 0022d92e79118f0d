"""Published estimates: each printed number is its rounding interval, each claim gets a reading.

A reading is TRUE or FALSE where the rule is so for every value the printed numbers can stand for,
UNDECIDABLE otherwise. It is never a verdict: nobody here saw the items.

What was not printed is known by order alone: an interval holds its estimate, so ``off.hi`` is at
least ``off.est``. Which off-target axis ``off`` is matters: where it is the one with the largest
upper bound (``worst_off: upper_bound``), its estimate is at most the largest estimate, which is
what a paper prints, and its upper bound is at least that of any other axis.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from itertools import pairwise
from typing import Any

from prereg_moe import rules
from prereg_moe.errors import Invalid, Problem
from prereg_moe.importing.schema import BAND, Block, Imported, Summary, expression
from prereg_moe.importing.tables import read_table, require_columns
from prereg_moe.registration.schema import ExpressionRule
from prereg_moe.stats.readings import published

__all__ = ["QUANTITIES", "known_values", "read_summary", "readings"]

QUANTITIES = {
    **rules.QUANTITIES,
    "off.est": "the estimate of the worst off-target effect",
    "off.lo": "the lower bound of the worst off-target effect",
    "off.hi": "the upper bound of the worst off-target effect",
    "on.lo": "the lower bound of the on-target effect",
    "on.hi": "the upper bound of the on-target effect",
    BAND: "null mean + 2 sd, published as one number",
}
_WORDS = {True: "TRUE", False: "FALSE", None: "UNDECIDABLE"}
_SAID = {"yes": True, "true": True, "no": False, "false": False}

End = float | Fraction
Known = Mapping[str, tuple[End, End]]


def read_summary(document: Imported, data: bytes, name: str) -> dict[str, Any]:
    """Return the printed numbers of every claim, as text.

    Args:
        document: the registration; its evidence says which column is what.
        data: the CSV file's bytes.
        name: its name.

    Raises:
        Invalid: a column or row is missing, a cell is no number; with every problem found.
    """
    evidence = document.evidence
    if not isinstance(evidence, Summary):
        raise Invalid(Problem("evidence.kind", f"is {evidence.kind}", f"use `prereg-moe import {evidence.kind}`"))
    rows = read_table(data, name)
    said = [block.said for block in document.claims if block.said is not None]
    worst = [evidence.worst_axis] if evidence.worst_axis is not None else []
    require_columns(rows, [evidence.claim, *evidence.columns.values(), *said, *worst], name)
    problems: list[Problem] = []
    claims: dict[str, Any] = {}
    for line, row in enumerate(rows, 2):
        claim = str(row[evidence.claim] or "")
        if not claim or claim in claims:
            problems.append(Problem(f"{name}:{line}", f"the claim is {claim!r}", "every row names its own"))
        printed = {quantity: row[column] or None for quantity, column in evidence.columns.items()}
        problems += _not_printed(printed, f"{name}:{line}")
        problems += [
            Problem(f"{name}:{line}", f"{column} is {row[column]!r}", "write yes or no")
            for column in said
            if str(row[column]).lower() not in _SAID
        ]
        claims[claim] = {
            "printed": printed,
            "worst_axis": (row[evidence.worst_axis] or None) if evidence.worst_axis is not None else None,
            "said": {column: _SAID.get(str(row[column]).lower()) for column in said},
        }
    for index, block in enumerate(document.claims):
        missing = [about for about in block.about if about not in claims] if block.about != "all" else []
        problems += [Problem(f"claims[{index}].about", f"{about!r} is not in {name}") for about in missing]
    if problems:
        raise Invalid(problems)
    return {"claims": claims}


def _not_printed(printed: Mapping[str, Any], where: str) -> list[Problem]:
    problems = []
    for text in printed.values():
        try:
            if text is not None:
                published(text)
        except Invalid as error:
            problems += [Problem(where, one.found, one.todo) for one in error.problems]
    if not problems:
        for group in ("on", "off"):
            ends = [printed.get(f"{group}.{name}") for name in ("lo", "est", "hi")]
            given = [published(text) for text in ends if text is not None]
            if any(low.low > high.high for low, high in pairwise(given)):
                problems.append(
                    Problem(where, f"{group}: {', '.join(map(str, ends))}", "an interval holds its estimate")
                )
    return problems


def known_values(printed: Mapping[str, str | None], worst_off: str) -> dict[str, tuple[End, End]]:
    """Return what printed numbers say of every quantity: quantity -> closed interval, one end perhaps infinite.

    Args:
        printed: quantity -> number as printed, None where it was not.
        worst_off: which off-target axis ``off`` is, ``estimate`` or ``upper_bound``.
    """
    known: dict[str, tuple[End, End]] = {}
    for quantity, text in printed.items():
        if text is not None:
            value = published(text)
            known[quantity] = (value.low, value.high)
    if worst_off == "upper_bound":
        largest = known.pop("off.est", None)
        if largest is not None:
            known["off.est"] = (-math.inf, largest[1])
            known.setdefault("off.hi", (largest[0], math.inf))
    for group in ("on", "off"):
        _order(known, group)
    return known


def _order(known: dict[str, tuple[End, End]], group: str) -> None:
    """Bound what was not printed by lower end <= estimate <= upper end."""
    estimate = known.get(f"{group}.est")
    if estimate is None:
        return
    if math.isfinite(estimate[1]):
        known.setdefault(f"{group}.lo", (-math.inf, estimate[1]))
    if math.isfinite(estimate[0]):
        known.setdefault(f"{group}.hi", (estimate[0], math.inf))


def readings(document: Imported, claims: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the reading of every claim under every block's rule.

    An entry has ``reading``, ``margin`` (what the rule's margin can be; an end that is not bounded is
    null), ``tie`` (whether equality at the end of the rounding is all that leaves it open),
    ``missing`` (quantities that were not published and would decide it) and ``said`` (what its
    authors said, null where they did not).
    """
    return [
        _reading(document, block, claim, claims[claim])
        for block in document.claims
        for claim in (tuple(claims) if block.about == "all" else block.about)
    ]


def _reading(document: Imported, block: Block, claim: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    rule = document.rules[block.rule]
    if not isinstance(rule, ExpressionRule) or not isinstance(document.evidence, Summary):
        raise Invalid(Problem(f"rules.{block.rule}", "is no expression"))
    line = expression(rule.confirm, band=BAND in document.evidence.columns)
    known = known_values(entry["printed"], rule.worst_off)
    outcome = line.evaluate(known)
    open_ = outcome.truth is None
    missing = [
        name for name in sorted(line.names) if open_ and not all(map(math.isfinite, known.get(name, (math.inf,))))
    ]
    return {
        "claim": claim,
        "block": block.id,
        "rule": block.rule,
        "worst_off": rule.worst_off,
        "expression": line.text,
        "printed": {name: entry["printed"].get(name) for name in sorted(line.names)},
        "worst_axis": entry["worst_axis"],
        "reading": _WORDS[outcome.truth],
        "margin": _margin(outcome.margin),
        "tie": open_ and not missing and outcome.margin is not None and 0 in outcome.margin,
        "missing": [{"quantity": name, "what": QUANTITIES[name]} for name in missing],
        "said": entry["said"].get(block.said) if block.said is not None else None,
    }


def _margin(margin: Sequence[End] | None) -> list[float | None] | None:
    return None if margin is None else [float(end) if math.isfinite(end) else None for end in margin]
