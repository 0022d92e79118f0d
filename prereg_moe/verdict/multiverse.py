"""The multiverse: a registered block judged under every specification of its grid, by the code of `decide`.

:func:`explore` returns what stands under ``multiverse`` in verdict.json, one entry a claim of every
registered entry::

    id, block, claim, model, family, axis
    tier            "exploratory": a multiverse decides nothing and changes no verdict
    verdict         the claim's registered verdict
    specifications  [{measure, rule, correction, interval, null, gates, registered, changes,
                      comparable, estimate, low, high, p, p_adjusted, margin, verdict, reasons}]
    confirmed, refuted   how many specifications
    share           confirmed / specifications
    comparable      how many have the registered measure's metric and divisor, so one unit
    median, low, high    of the estimates of these
    joint           [{null, analyses, draws, statistic, p}], one a kind of random sets
    joint_p         the largest of these p; None where no rule compares with random sets
    fragility       {statement, distance, flips: [{dimension, choice, verdict}],
                     levels: [{dimension, choice, registered, specifications, confirmed, refuted, flipped, alone}]}

A specification's choices are null where they cannot matter to its rule. ``changes`` counts the choices
that differ from the registered ones; exactly one specification is ``registered`` (0 changes), and it has
the registered verdict. The others' verdicts are outcomes of the multiverse: what the verdict would have
been, never a claim of its own. Specifications and levels stand in an order that the order of the
registered lists cannot change.

``estimate``, ``low`` and ``high`` are the effect on the family's own axis in the unit of the
specification's measure, the interval by the specification's method (the registered one where none
matters). ``flipped`` counts specifications of a level with another verdict than the registered one;
``alone`` is the verdict where only this choice is changed (null where it cannot matter to the registered rule).

Joint p. Estimand: none. H0, for each kind of random sets: the family is exchangeable with its random
sets under all (measure, gates) analyses of the grid together, that is, intervening on it harms its own axis
like intervening on any random set. Statistic: the median over the analyses of the family's leave-one-out
studentised effect among the sets (:func:`prereg_moe.stats.joint_null`), with its sign turned where the block
claims little harm. Sets matched by size and by mass
are different sets, so each kind is tested by itself and the larger p is joint: it is for "exchangeable with at
least one kind". Rules, corrections and intervals do not enter, and selectivity is not tested.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cache
from typing import Any, TypeAlias, cast

import numpy as np

from prereg_moe import stats
from prereg_moe.evidence import Evidence
from prereg_moe.registration import Registration, Specification, registered, spares, specifications, vary
from prereg_moe.registration.grid import DIMENSIONS
from prereg_moe.registration.schema import Claims, Correction, Multiverse
from prereg_moe.stats.resample import exact_mean
from prereg_moe.verdict.decide import decide, tested
from prereg_moe.verdict.decision import CONFIRMED, REFUTED, Decision, gated
from prereg_moe.verdict.estimate import Effects, effects

__all__ = ["explore"]

Measured: TypeAlias = Callable[[Specification], Effects]


def explore(evidence: Evidence, failed: tuple[str, ...], alpha: Mapping[str, float]) -> list[dict[str, Any]]:
    """Return the multiverse of a study, as the module's docstring says.

    Args:
        evidence: complete evidence, which holds what every specification needs.
        failed: controls that failed: they gate every specification as they gate the claim.
        alpha: the level each block of claims is judged at.
    """
    return [
        entry
        for multiverse in evidence.frozen.registration.multiverse or ()
        for entry in _explored(evidence, multiverse, failed, alpha[multiverse.claims])
    ]


def _explored(
    evidence: Evidence, multiverse: Multiverse, failed: tuple[str, ...], alpha: float
) -> Iterator[dict[str, Any]]:
    registration = evidence.frozen.registration
    claims = next(claims for claims in registration.claims if claims.id == multiverse.claims)
    authored = registered(registration, claims)
    grid = specifications(registration, multiverse)
    measured, test = _remembered(evidence, claims), cache(tested)

    def decisions(specification: Specification) -> dict[str, Decision]:
        varied, block = vary(registration, claims, specification)
        return decide(
            measured(specification),
            varied.rules[block.rule],
            registration.inference,  # intervals are made; what is left of it is the same everywhere
            alpha,
            cast(Correction, specification.correction or "max_t"),
            test=test,
        )

    decided = {one: decisions(one) for one in grid}
    for family in evidence.frozen.families_of(claims):
        rows = [
            _row(registration, authored, one, measured(one), family, _gated(claims, decided[one][family], failed))
            for one in grid
        ]
        yield {
            "id": multiverse.id,
            "block": claims.id,
            "claim": f"{claims.id}.{family}",
            "model": claims.model,
            "family": family,
            "axis": evidence.frozen.axis_of(family),
            "tier": "exploratory",
            **_summary(grid, authored, rows),
            **_joint(grid, measured, family, less=spares(registration, claims)),
            "specifications": rows,
        }


def _remembered(evidence: Evidence, claims: Claims) -> Measured:
    """Return what measures a specification; specifications that share measure, null, gates and interval share it."""

    @cache
    def measure(representative: Specification) -> Effects:
        varied, block = vary(evidence.frozen.registration, claims, representative)
        return effects(replace(evidence, frozen=evidence.frozen.under(varied)), block)

    first: dict[tuple[str | None, ...], Specification] = {}

    def measured(one: Specification) -> Effects:
        return measure(first.setdefault((one.measure, one.null, one.gates, one.interval), one))

    return measured


def _gated(claims: Claims, decision: Decision, failed: tuple[str, ...]) -> Decision:
    return decision if claims.tier == "control" else gated(decision, failed)


def _row(
    registration: Registration,
    authored: Specification,
    specification: Specification,
    measured: Effects,
    family: str,
    decision: Decision,
) -> dict[str, Any]:
    changes = specification.changes(authored)
    on = measured.intervals[family][measured.axis[family]]
    here, there = (registration.measures[one.measure] for one in (authored, specification))
    return {
        **specification.choices(),
        "registered": not changes,
        "changes": len(changes),
        "comparable": (here.metric, here.per) == (there.metric, there.per),
        "estimate": on.estimate,
        "low": on.low,
        "high": on.high,
        "p": decision.p,
        "p_adjusted": decision.p_adjusted,
        "margin": decision.margin,
        "verdict": decision.verdict,
        "reasons": list(decision.reasons),
    }


def _summary(grid: tuple[Specification, ...], authored: Specification, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what a claim's specifications come to."""
    chosen = authored.choices()
    place = next(index for index, row in enumerate(rows) if row["registered"])
    curve = stats.specification_curve(
        [
            stats.Specification(
                tuple((name, str(choice or chosen[name])) for name, choice in one.choices().items()),
                row["verdict"],
                row["estimate"] if row["comparable"] else None,
            )
            for one, row in zip(grid, rows, strict=True)
        ],
        registered=place,
        success=CONFIRMED,
    )
    verdict = rows[place]["verdict"]
    alone = {
        next(iter(one.changes(authored).items())): row["verdict"]
        for one, row in zip(grid, rows, strict=True)
        if row["changes"] == 1
    }
    alone |= {(name, choice): verdict for name, choice in grid[place].choices().items() if choice is not None}
    counts = dict(curve.outcomes)
    return {
        "verdict": verdict,
        "confirmed": counts.get(CONFIRMED, 0),
        "refuted": counts.get(REFUTED, 0),
        "share": curve.share,
        "comparable": curve.comparable,
        "median": curve.median,
        "low": curve.low,
        "high": curve.high,
        "fragility": {
            "statement": curve.fragility,
            "distance": curve.distance,
            "flips": [
                {"dimension": dimension, "choice": choice, "verdict": outcome}
                for dimension, choice, outcome in curve.flips
            ],
            "levels": _levels(rows, chosen, verdict, alone),
        },
    }


def _levels(
    rows: list[dict[str, Any]],
    chosen: Mapping[str, str | None],
    verdict: str,
    alone: Mapping[tuple[str, str], str],
) -> list[dict[str, Any]]:
    """Return what the specifications of each choice come to, for every dimension with more than one choice."""
    found = []
    for name in DIMENSIONS:
        choices = sorted({row[name] for row in rows} - {None})
        for choice in choices if len(choices) > 1 else ():
            counts = Counter(row["verdict"] for row in rows if row[name] == choice)
            found.append(
                {
                    "dimension": name,
                    "choice": choice,
                    "registered": choice == chosen[name],
                    "specifications": counts.total(),
                    "confirmed": counts[CONFIRMED],
                    "refuted": counts[REFUTED],
                    "flipped": counts.total() - counts[verdict],
                    "alone": alone.get((name, choice)),
                }
            )
    return found


def _joint(grid: tuple[Specification, ...], measured: Measured, family: str, *, less: bool) -> dict[str, Any]:
    """Return the joint tests of a family against every kind of random sets in the grid, of more harm or of less."""
    kinds: dict[str, dict[tuple[str, str | None], Effects]] = {}
    for one in grid:
        if one.null is not None:
            kinds.setdefault(one.null, {}).setdefault((one.measure, one.gates), measured(one))
    found = [
        {"null": kind, **_test(list(analyses.values()), family, less=less)} for kind, analyses in sorted(kinds.items())
    ]
    return {"joint": found, "joint_p": max((one["p"] for one in found), default=None)}


def _test(analyses: list[Effects], family: str, *, less: bool) -> dict[str, Any]:
    own = np.array([float(exact_mean(one.deltas[family][one.axis[family]])) for one in analyses])
    draws = np.stack([exact_mean((one.null or {})[family].T) for one in analyses], axis=1)  # (draws, analyses)
    made = stats.joint_null(-own, -draws) if less else stats.joint_null(own, draws)
    return {"analyses": made.analyses, "draws": made.draws, "statistic": made.statistic, "p": made.p}
