"""From effects to verdicts: the rules.

``modular`` is the default rule of the package, an intersection-union test: a claim's p is the
largest of

1. randomisation: the family's effect among those of R random expert sets;
2. the same, step-down max-T over the families of the block;
3. items x draws: the excess over the mean random set is above the registered minimum effect, and
   the effect itself is above zero (where random sets help, a family that helps less is no module);
4. selectivity: on - kappa * off > 0 for every off-target axis, bootstrap-t on the binding axis,
   step-down max-T over the families, floored by the largest marginal p.

CONFIRMED where it is at most alpha. REFUTED where parts 1 to 3 hold and some axis is shown to
be harmed more than on / kappa, or where the excess is shown to lie inside the minimum effect.
INCONCLUSIVE otherwise. ``selective`` is the same without random sets (part 3 becomes the effect
itself). ``noninferiority`` claims little harm (:mod:`~prereg_moe.verdict.noninferiority`).
``expression`` evaluates a registered line; it has no error control and says so.

Step-down max-T is the registered correction. A specification of a multiverse may name another:
then a claim's p is the largest of its parts, each for the claim alone (part 4 with its floor), and
is adjusted over the block's families by ``stats.adjust``, or not at all. What refutes is corrected
alike in all.

Every decision is made on unrounded values.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr

from prereg_moe import rules, stats
from prereg_moe.registration.schema import (
    Correction,
    ExpressionRule,
    Inference,
    ModularRule,
    NoninferiorityRule,
    Rule,
    SelectiveRule,
)
from prereg_moe.stats.resample import exact_mean, exact_variance
from prereg_moe.stats.selectivity import FamilySelectivity, Selective
from prereg_moe.verdict.decision import (
    CONFIRMED,
    INCONCLUSIVE,
    REFUTED,
    Decision,
    adjusted,
    in_place,
    near,
)
from prereg_moe.verdict.estimate import Effects, Interval, summary
from prereg_moe.verdict.noninferiority import noninferior

__all__ = ["Tests", "decide", "tested", "worst"]

_PUBLISHED = 0.005  # half a unit of the second decimal


def decide(
    effects: Effects,
    rule: Rule,
    inference: Inference,
    alpha: float,
    correction: Correction = "max_t",
    *,
    test: Test | None = None,
) -> dict[str, Decision]:
    """Return family -> decision for one block of claims.

    Args:
        effects: what was measured.
        rule: the registered rule.
        inference: the registered inference.
        alpha: the block's family-wise level.
        correction: over the families; anything but max-T is a multiverse's.
        test: :func:`tested`, or a version of it that remembers.
    """
    if effects.units < 2:
        return {family: Decision(INCONCLUSIVE, ("TOO_FEW_UNITS",), ("FEW_UNITS",)) for family in effects.families}
    if isinstance(rule, ExpressionRule):
        return {family: _expression(effects, family, rule) for family in effects.families}

    def concluded(resamples: int) -> dict[str, Decision]:
        if isinstance(rule, NoninferiorityRule):
            return noninferior(effects, rule, inference, alpha, correction, resamples)
        tests = (test or tested)(effects, rule, inference, alpha, resamples)
        return _concluded(tests, effects, rule, inference, alpha, correction)

    decisions = concluded(inference.resamples)
    doubtful = any("MONTE_CARLO" in decision.flags for decision in decisions.values())
    if doubtful and inference.escalation > inference.resamples:
        decisions = concluded(inference.escalation)
    return decisions


# ------------------------------------------------------------------ modular and selective


@dataclass(frozen=True, slots=True)
class _OnTarget:
    """Parts 1 to 3 of the rule, arrays (family,): does the family's own axis suffer enough?

    The p-values of the parts are named by the reason they give where they do not hold.
    """

    alone: Mapping[str, NDArray[np.float64]]  # each claim alone
    corrected: Mapping[str, NDArray[np.float64]]  # as registered: max-T, Holm
    effect: NDArray[np.float64]  # the effect itself
    excess: NDArray[np.float64]  # what is compared with the minimum effect
    p_nothing: NDArray[np.float64]  # corrected: the excess lies inside the minimum effect
    parts: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True, slots=True, eq=False)
class Tests:
    """Every test of a block, before anything is corrected over its families in another way than registered.

    Attributes:
        on: parts 1 to 3.
        spared: part 4.
        resamples: resamples behind them.
    """

    on: _OnTarget
    spared: Selective
    resamples: int


Test: TypeAlias = Callable[[Effects, ModularRule | SelectiveRule, Inference, float, int], Tests]


def tested(
    effects: Effects, rule: ModularRule | SelectiveRule, inference: Inference, alpha: float, resamples: int
) -> Tests:
    """Return the tests of a block; this is what takes time, and it depends on no correction."""
    families = effects.families
    own = [effects.deltas[family][effects.axis[family]] for family in families]
    if isinstance(rule, ModularRule):
        on = _beyond_random(effects, own, rule, inference, alpha, resamples)
    else:
        on = _beyond_minimum(effects, own, rule, inference, alpha, resamples)
    spared = stats.selective(
        own,
        [{axis: effects.deltas[family][axis] for axis in effects.off[family]} for family in families],
        kappa=rule.kappa,
        on_axes=[effects.axis[family] for family in families],
        labels=families,
        resamples=resamples,
        seed=inference.seed,
        alpha=alpha,
        linked=inference.linked_items,
        absolute=rule.absolute,
    )
    return Tests(on, spared, resamples)


def _concluded(
    tests: Tests,
    effects: Effects,
    rule: ModularRule | SelectiveRule,
    inference: Inference,
    alpha: float,
    correction: Correction,
) -> dict[str, Decision]:
    corrected = _correct(tests, correction)
    return {
        family: _combine(tests, corrected, index, effects, rule, inference, alpha)
        for index, family in enumerate(effects.families)
    }


@dataclass(frozen=True, slots=True)
class _Corrected:
    """What a correction makes of the tests, arrays (family,)."""

    parts: Mapping[str, NDArray[np.float64]]  # reason -> p of the part; the largest decides
    alone: NDArray[np.float64]  # largest p of the parts, each claim alone
    on: NDArray[np.float64]  # parts 1 to 3 together
    welch: NDArray[np.float64]  # part 4 by Welch's t


def _correct(tests: Tests, correction: Correction) -> _Corrected:
    on, spared = tests.on, tests.spared
    if correction == "max_t":
        return _Corrected(
            {**on.corrected, "NOT_SELECTIVE": spared.p},
            np.maximum.reduce([*on.alone.values(), np.array([family.p_marginal for family in spared.families])]),
            np.maximum.reduce(list(on.corrected.values())),
            spared.p_welch_holm,
        )
    alone = {**on.alone, "NOT_SELECTIVE": np.array([family.p_floor for family in spared.families])}
    claim = np.maximum.reduce(list(alone.values()))
    return _Corrected(
        {reason: in_place(p, claim, correction) for reason, p in alone.items()},
        claim,
        adjusted(np.maximum.reduce(list(on.alone.values())), correction),
        adjusted(np.array([family.p_welch for family in spared.families]), correction),
    )


def _beyond_random(
    effects: Effects, own: Sequence[Any], rule: ModularRule, inference: Inference, alpha: float, resamples: int
) -> _OnTarget:
    null = effects.null or {}
    beats = stats.beats_null(
        own,
        [null[family] for family in effects.families],
        labels=effects.families,
        min_effect=rule.minimum_effect,
        seed=inference.seed,
        assignments=resamples,
        level=inference.interval.level,
    )
    mean, se, df = _moments(own)
    harm = stdtr(df, -np.divide(mean, se, out=np.full_like(mean, -np.inf), where=se > 0))
    harm_adjusted = np.asarray(stats.adjust(harm, "holm"))
    parts = tuple(
        {
            "null": summary(null[family]),
            "excess": {
                "estimate": float(beats.contrast[f]),
                "low": float(beats.low[f]),
                "high": float(beats.high[f]),
                "se": float(beats.se[f]),
            },
            "p_randomisation": float(beats.p_randomisation[f]),
            "p_max_t": float(beats.p_maxt[f]),
            "p_items": float(beats.p_items_adjusted[f]),
            "p_harm": float(harm_adjusted[f]),
        }
        for f, family in enumerate(effects.families)
    )
    return _OnTarget(
        alone={
            "NOT_BEYOND_RANDOM": beats.p_randomisation,
            "NOT_HARMED": harm,
            "NOT_BEYOND_MINIMUM": beats.p_items,
        },
        corrected={
            "NOT_BEYOND_RANDOM": np.maximum(beats.p_randomisation, beats.p_maxt),
            "NOT_HARMED": harm_adjusted,
            "NOT_BEYOND_MINIMUM": beats.p_items_adjusted,
        },
        effect=mean,
        excess=beats.contrast,
        p_nothing=_nothing(effects, own, rule, inference, alpha, resamples),
        parts=parts,
    )


def _beyond_minimum(
    effects: Effects, own: Sequence[Any], rule: SelectiveRule, inference: Inference, alpha: float, resamples: int
) -> _OnTarget:
    above = [
        stats.bootstrap(
            delta - rule.minimum_effect,
            resamples=resamples,
            seed=inference.seed,
            sides="lower",
            labels=("minimum effect", effects.axis[family]),
        )
        for family, delta in zip(effects.families, own, strict=True)
    ]
    p = np.array([1.0 if made.p is None else made.p for made in above])
    adjusted = np.asarray(stats.adjust(p, "holm"))
    mean = _moments(own)[0]
    return _OnTarget(
        # an effect above a minimum that is not negative is above zero
        alone={"NOT_HARMED": p, "NOT_BEYOND_MINIMUM": p},
        corrected={"NOT_HARMED": adjusted, "NOT_BEYOND_MINIMUM": adjusted},
        effect=mean,
        excess=mean,
        p_nothing=_nothing(effects, own, rule, inference, alpha, resamples),
        parts=tuple({"p_items": float(value)} for value in adjusted),
    )


def _moments(own: Sequence[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return mean, standard error and degrees of freedom of each family's own effect."""
    mean = np.array([float(exact_mean(delta)) for delta in own])
    se = np.array([math.sqrt(float(exact_variance(delta)) / delta.size) for delta in own])
    return mean, se, np.array([delta.size - 1.0 for delta in own])


def _nothing(
    effects: Effects,
    own: Sequence[Any],
    rule: ModularRule | SelectiveRule,
    inference: Inference,
    alpha: float,
    resamples: int,
) -> NDArray[np.float64]:
    """Return the corrected p of each family's excess (its effect, without random sets) lying inside the minimum."""
    null = effects.null if isinstance(rule, ModularRule) else None
    draws = None if null is None else [null[family] for family in effects.families]
    return stats.within_margin(
        own if draws is None else [delta - exact_mean(draw) for delta, draw in zip(own, draws, strict=True)],
        None if draws is None else [exact_mean(draw.T) for draw in draws],
        margin=rule.minimum_effect,
        axes=[effects.axis[family] for family in effects.families],
        alpha=alpha,
        resamples=resamples,
        seed=inference.seed,
    )


def _combine(
    tests: Tests,
    corrected: _Corrected,
    index: int,
    effects: Effects,
    rule: ModularRule | SelectiveRule,
    inference: Inference,
    alpha: float,
) -> Decision:
    on, family = tests.on, tests.spared.families[index]
    p_adjusted = float(max(p[index] for p in corrected.parts.values()))
    welch = float(corrected.welch[index])
    flags = _flags(effects, family, p_adjusted, welch, inference, alpha, tests.resamples)
    verdict, reasons = _verdict(tests, corrected, index, alpha, p_adjusted)
    if verdict == CONFIRMED and "SKEW" in flags and welch > alpha:
        verdict, reasons = INCONCLUSIVE, ("SKEW_UNCONFIRMED",)
    return Decision(
        verdict,
        reasons,
        flags,
        p=float(corrected.alone[index]),
        p_adjusted=p_adjusted,
        margin=float(min(on.excess[index] - rule.minimum_effect, on.effect[index], family.binding.psi)),
        parts={**on.parts[index], "selectivity": _selectivity(family, welch)},
    )


def _verdict(
    tests: Tests, corrected: _Corrected, index: int, alpha: float, p_adjusted: float
) -> tuple[str, tuple[str, ...]]:
    if p_adjusted <= alpha:
        return CONFIRMED, ("ALL_PARTS_HOLD",)
    share = alpha / len(tests.spared.families)
    if corrected.on[index] <= alpha and tests.spared.p_refute[index] <= share:
        return REFUTED, ("HARMS_ANOTHER_AXIS",)
    if tests.on.p_nothing[index] <= alpha:
        return REFUTED, ("NO_EFFECT",)
    return INCONCLUSIVE, tuple(reason for reason, p in corrected.parts.items() if p[index] > alpha)


def _flags(
    effects: Effects,
    family: FamilySelectivity,
    p: float,
    welch: float,
    inference: Inference,
    alpha: float,
    resamples: int,
) -> tuple[str, ...]:
    held = {
        "FEW_UNITS": effects.units < inference.few_units,
        "SKEW": -family.skew > inference.skew_guard,
        "METHOD": (family.p <= alpha) != (welch <= alpha),
        **near(p, alpha, resamples),
    }
    return tuple(flag for flag, holds in held.items() if holds)


def _selectivity(family: FamilySelectivity, welch: float) -> dict[str, Any]:
    def finite(value: float) -> float | None:
        return value if math.isfinite(value) else None

    return {
        "binding": family.binding.axis,
        "p": family.p,
        "p_welch": welch,
        "p_refute": family.p_refute,
        "skew": family.skew,
        "contrasts": [
            {
                "axis": one.axis,
                "sign": one.sign,
                "estimate": one.psi,
                "t": finite(one.t),
                "lower": finite(one.lower),
                "upper": finite(one.upper),
            }
            for one in family.contrasts
        ],
    }


# ------------------------------------------------------------------ expressions


def _expression(effects: Effects, family: str, rule: ExpressionRule) -> Decision:
    on = effects.intervals[family][effects.axis[family]]
    off = worst(effects, family, rule.worst_off)[1]
    values: dict[str, float | None] = {
        **{f"on.{name}": value for name, value in _named(on)},
        **{f"off.{name}": value for name, value in _named(off)},
    }
    parts: dict[str, Any] = {}
    if effects.null is not None:
        parts["null"] = summary(effects.null[family])
        values |= {f"null.{name}": parts["null"][name] for name in ("mean", "sd", "max")}
    confirm = rules.parse(rule.confirm)
    refute = rules.parse(rule.refute) if rule.refute is not None else None
    outcome = confirm.evaluate(values)
    verdict = CONFIRMED if outcome.truth else INCONCLUSIVE
    reason = f"EXPRESSION_{'UNKNOWN' if outcome.truth is None else str(outcome.truth).upper()}"
    if verdict != CONFIRMED and refute is not None and refute.evaluate(values).truth:
        verdict, reason = REFUTED, "REFUTING_EXPRESSION_TRUE"
    rounded = {
        name: None if value is None else (value - _PUBLISHED, value + _PUBLISHED) for name, value in values.items()
    }
    flags = ["UNCORRECTED"]
    if outcome.truth is not None and confirm.evaluate(rounded).truth is None:
        flags.append("KNIFE_EDGE")
    known = outcome.margin is not None and all(map(math.isfinite, outcome.margin))
    margin = float(outcome.margin[0]) if outcome.margin is not None and known else None
    return Decision(verdict, (reason,), tuple(flags), margin=margin, parts={**parts, "expression": confirm.text})


def worst(effects: Effects, family: str, by: str = "estimate") -> tuple[str, Interval]:
    """Return the off-target axis with the largest estimate (or upper bound), and its interval."""
    table = effects.intervals[family]

    def size(axis: str) -> float:
        value = table[axis].high if by == "upper_bound" else table[axis].estimate
        return math.inf if value is None else value

    axis = max(effects.off[family], key=size)
    return axis, table[axis]


def _named(interval: Interval) -> list[tuple[str, float | None]]:
    return [("est", interval.estimate), ("lo", interval.low), ("hi", interval.high)]
