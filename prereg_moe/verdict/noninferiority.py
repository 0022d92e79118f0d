"""The rule that claims little harm: what it tests, and what it makes of that.

A claim's p is the largest of

1. margin: the mean harm to the family's own axis is below the registered margin, one-sided, by bootstrap-t and
   by Hall's skewness-corrected t, of which the larger p counts (a few items that suffer much make Student's t
   believe too soon that little is lost);
2. with ``better_than_random``: the family's harm among those of R random expert sets under the same operator,
   where less harm is better; and the same, step-down max-T over the families of the block.

Part 1 is corrected by Holm's method over the families. CONFIRMED where the p is at most alpha. REFUTED where
the mean harm is shown to be above the margin, by both tests at the same corrected level. INCONCLUSIVE
otherwise: not being shown to harm is no evidence of sparing. Harms that are all equal show nothing.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from prereg_moe import stats
from prereg_moe.registration.schema import Correction, Inference, IntervalKind, NoninferiorityRule
from prereg_moe.stats.resample import exact_mean, exact_sum
from prereg_moe.verdict.decision import CONFIRMED, INCONCLUSIVE, REFUTED, Decision, adjusted, in_place, near
from prereg_moe.verdict.estimate import Effects, summary

__all__ = ["noninferior"]

Array = NDArray[np.float64]
_TESTS: tuple[IntervalKind, ...] = ("bootstrap_t", "hall_t")
_SIDES: dict[str, Literal["lower", "upper"]] = {"below": "upper", "above": "lower"}  # what bounds the mean


def noninferior(
    effects: Effects,
    rule: NoninferiorityRule,
    inference: Inference,
    alpha: float,
    correction: Correction,
    resamples: int,
) -> dict[str, Decision]:
    """Return family -> decision for one block of claims.

    Args:
        effects: what was measured, + is harm; with random sets where the rule compares with them.
        rule: the registered rule.
        inference: the registered inference.
        alpha: the block's family-wise level.
        correction: over the families; anything but max-T is a multiverse's.
        resamples: resamples, and random assignments.
    """
    families = effects.families
    own = [effects.deltas[family][effects.axis[family]] for family in families]
    labels = [effects.axis[family] for family in families]
    tables = [_margin(delta, rule.margin, axis, inference, resamples) for delta, axis in zip(own, labels, strict=True)]
    parts: list[dict[str, Any]] = [{"margin": rule.margin, "p": table} for table in tables]
    alone = {"NOT_INSIDE_MARGIN": _larger(tables, "below")}
    over = adjusted(_larger(tables, "above"), "holm")
    corrected = {"NOT_INSIDE_MARGIN": adjusted(alone["NOT_INSIDE_MARGIN"], "holm")}
    if rule.better_than_random:
        alone["NOT_BEYOND_RANDOM"], corrected["NOT_BEYOND_RANDOM"] = _random(effects, own, inference, resamples, parts)
    claim = np.maximum.reduce(list(alone.values()))
    if correction != "max_t":
        corrected = {reason: in_place(p, claim, correction) for reason, p in alone.items()}
    found = {}
    for index, family in enumerate(families):
        p = float(max(part[index] for part in corrected.values()))
        verdict, reasons = _verdict({reason: float(part[index]) for reason, part in corrected.items()}, alpha)
        if verdict != CONFIRMED and over[index] <= alpha:
            verdict, reasons = REFUTED, ("OUTSIDE_MARGIN",)
        held = {
            "FEW_UNITS": effects.units < inference.few_units,
            "SKEW": _skew(own[index]) > inference.skew_guard,
            **near(p, alpha, resamples),
        }
        bars = [rule.margin, *([parts[index]["null"]["mean"]] if rule.better_than_random else [])]
        found[family] = Decision(
            verdict,
            reasons,
            tuple(flag for flag, holds in held.items() if holds),
            p=float(claim[index]),
            p_adjusted=p,
            margin=min(bars) - float(exact_mean(own[index])),
            parts=parts[index],
        )
    return found


def _margin(
    delta: Array, margin: float, axis: str, inference: Inference, resamples: int
) -> dict[str, dict[str, float]]:
    """Return, for a mean below and above the margin, the p of each test; 1 where nothing varies."""
    found: dict[str, dict[str, float]] = {"below": {}, "above": {}}
    for test in _TESTS:
        for side, sides in _SIDES.items():
            made = stats.bootstrap(
                delta - margin,
                interval=test,
                resamples=resamples,
                seed=inference.seed,
                sides=sides,
                labels=("margin", axis),
            )
            found[side][test] = 1.0 if made.p is None else made.p
    return found


def _skew(delta: Array) -> float:
    """Return the skewness of the mean, which is that of the items over the root of their number."""
    centred = delta - exact_mean(delta)
    spread = float(exact_sum(centred**2))
    return float(exact_sum(centred**3)) / spread**1.5 if spread > 0 else 0.0


def _larger(tables: list[dict[str, dict[str, float]]], side: str) -> Array:
    return np.array([max(table[side].values()) for table in tables])


def _random(
    effects: Effects, own: list[Array], inference: Inference, resamples: int, parts: list[dict[str, Any]]
) -> tuple[Array, Array]:
    """Return the p of less harm than random sets do, alone and corrected; what stands behind it is added to parts."""
    null = effects.null or {}
    beats = stats.beats_null(
        [-delta for delta in own],
        [-null[family] for family in effects.families],
        labels=effects.families,
        min_effect=0.0,
        seed=inference.seed,
        assignments=resamples,
        level=inference.interval.level,
    )
    for index, family in enumerate(effects.families):
        parts[index] |= {
            "null": summary(null[family]),
            "excess": {
                "estimate": -float(beats.contrast[index]),
                "low": -float(beats.high[index]),
                "high": -float(beats.low[index]),
                "se": float(beats.se[index]),
            },
            "p_randomisation": float(beats.p_randomisation[index]),
            "p_max_t": float(beats.p_maxt[index]),
        }
    return beats.p_randomisation, np.maximum(beats.p_randomisation, beats.p_maxt)


def _verdict(p: dict[str, float], alpha: float) -> tuple[str, tuple[str, ...]]:
    if max(p.values()) <= alpha:
        return CONFIRMED, ("ALL_PARTS_HOLD",)
    return INCONCLUSIVE, tuple(reason for reason, value in p.items() if value > alpha)
