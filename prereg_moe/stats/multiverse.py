"""The multiverse: what a claim's outcome would have been under every registered way to analyse it.

A specification is one choice for each registered dimension (measure, rule, correction, interval, null
matching, gates). The curve does not decide a claim; it says how much of the outcome is the choice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from prereg_moe.errors import Invalid, Problem
from prereg_moe.stats.nulls import leave_one_out_z
from prereg_moe.stats.resample import matrix, vector

__all__ = ["JointNull", "Specification", "SpecificationCurve", "joint_null", "specification_curve"]

_LARGEST = 1e300  # an infinite distance, so that a median of two stays a number


@dataclass(frozen=True, slots=True)
class Specification:
    """One way to analyse a claim and what it gave.

    Attributes:
        choices: (dimension, choice) pairs, such as ("measure", "nll_b").
        outcome: what the claim's outcome was, any word; None where it could not be judged.
        estimate: the estimate; None where it is in another unit than the registered specification's.
    """

    choices: tuple[tuple[str, str], ...]
    outcome: str | None
    estimate: float | None = None


@dataclass(frozen=True, slots=True)
class SpecificationCurve:
    """The outcomes of a claim over its specifications.

    Attributes:
        specifications: how many.
        outcomes: (outcome, how often), alphabetical; those that could not be judged are None's, last.
        share: share of the specifications with the outcome asked about.
        comparable: how many have an estimate in the registered specification's unit.
        median: median of those estimates, None without any; so are ``low`` and ``high``.
        low: smallest estimate.
        high: largest estimate.
        order: places of the specifications that have an estimate, by rising estimate: the curve.
        flips: (dimension, choice, outcome) of the choices that, changed alone from the registered
            specification, change the outcome.
        distance: fewest changes of choice that change the outcome, None if none does.
        fragility: the same in a sentence.
    """

    specifications: int
    outcomes: tuple[tuple[str | None, int], ...]
    share: float
    comparable: int
    median: float | None
    low: float | None
    high: float | None
    order: tuple[int, ...]
    flips: tuple[tuple[str, str, str | None], ...]
    distance: int | None
    fragility: str


def specification_curve(
    specifications: Sequence[Specification | Mapping[str, Any]], *, registered: int = 0, success: str = "CONFIRMED"
) -> SpecificationCurve:
    """Return a claim's specification curve and how fragile the registered outcome is.

    Estimand: the median estimate over the grid, and the share of it that succeeds. H0: none is tested here,
    see :func:`joint_null`. Formula: counts and the median.
    Assumptions: the grid was registered; its specifications ask one question.
    Source: Simonsohn, Simmons & Nelson 2020, Nat. Hum. Behav. 4:1208; Steegen et al. 2016,
    Perspect. Psychol. Sci. 11:702.

    Args:
        specifications: at least one; mappings have the keys ``choices``, ``outcome`` and, or not, ``estimate``.
        registered: place of the registered specification.
        success: the outcome whose share is taken.

    Raises:
        Invalid: no specification, dimensions that differ, a specification given twice, an estimate that is
            not finite, a ``registered`` that is not there.

    >>> grid = [Specification((("measure", m), ("rule", r)), "CONFIRMED" if e > 0.1 else "INCONCLUSIVE", e)
    ...         for m, r, e in [("b", "default", 0.3), ("a", "default", 0.05), ("b", "ci", 0.2)]]
    >>> print(specification_curve(grid).fragility)
    CONFIRMED in 2 of 3 specifications; one change alters the registered CONFIRMED: measure=a (INCONCLUSIVE)
    """
    grid = [_specification(item, i) for i, item in enumerate(specifications)]
    _check(grid, registered)
    known = {place: item.estimate for place, item in enumerate(grid) if item.estimate is not None}
    places, estimates = list(known), vector(list(known.values()), "estimates", least=0)
    here = grid[registered]
    changed = [(dict(set(item.choices) - set(here.choices)), item) for item in grid if item.outcome != here.outcome]
    flips = sorted((*next(iter(change.items())), item.outcome) for change, item in changed if len(change) == 1)
    counts = {outcome: sum(item.outcome == outcome for item in grid) for outcome in {item.outcome for item in grid}}
    return SpecificationCurve(
        specifications=len(grid),
        outcomes=tuple(sorted(counts.items(), key=lambda count: (count[0] is None, count[0]))),
        share=counts.get(success, 0) / len(grid),
        comparable=len(places),
        median=float(np.median(estimates)) if places else None,
        low=float(estimates.min()) if places else None,
        high=float(estimates.max()) if places else None,
        order=tuple(places[place] for place in np.argsort(estimates, kind="stable").tolist()),
        flips=tuple(flips),
        distance=min((len(change) for change, _ in changed), default=None),
        fragility=_sentence(grid, counts.get(success, 0), success, here.outcome, changed, flips),
    )


@dataclass(frozen=True, slots=True)
class JointNull:
    """A family among random expert sets, over all analyses at once.

    Attributes:
        statistic: the family's median studentised effect.
        p: joint p.
        analyses: how many the median is over.
        draws: random sets.
    """

    statistic: float
    p: float
    analyses: int
    draws: int


def joint_null(observed: ArrayLike, null: ArrayLike) -> JointNull:
    """Return whether a family stands out among random sets over all analyses together.

    Estimand: none. H0: the family is exchangeable with the draws, its effects under all analyses taken
    together with theirs (so the dependence between analyses, which share items and models, is kept).
    Formula: in each analysis the family and its R draws are studentised leaving one out,
    ``z_i = (T_i - mean_{-i}) / sd_{-i}``, which has no unit; the statistic of each is the median of its z over
    the analyses; ``p = (1 + #{r: median_r ≥ median}) / (1 + R)``. The statistic treats family and draws alike,
    so p is exact under H0. Assumptions: the same draws in every analysis, in the same order; draws of one pool,
    matched to the family as registered. It says nothing about selectivity.
    Source: Simonsohn, Simmons & Nelson 2020 (inference over a specification curve); Phipson & Smyth 2010 (the +1).

    Args:
        observed: the family's mean effect in each analysis, each in its own unit  # (S,)
        null: the draws' mean effects  # (R, S)

    Raises:
        Invalid: shapes that do not fit, fewer than two draws, a value that is not finite.

    >>> joint_null([0.5, 30.0], [[0.01 * r, 0.5 * (r % 7)] for r in range(19)]).p
    0.05
    """
    effect = vector(observed, "observed", least=1)
    draws = matrix(null, "null", rows=2, columns=1)
    if draws.shape[1] != effect.size:
        raise Invalid(Problem("null", f"has shape {draws.shape}", f"give (R, {effect.size})"))
    z = np.clip(leave_one_out_z(np.concatenate([draws, effect[None]])), -_LARGEST, _LARGEST)
    medians = np.median(z, axis=1)
    p = (1 + int((medians[:-1] >= medians[-1]).sum())) / (1 + draws.shape[0])
    return JointNull(float(medians[-1]), p, effect.size, draws.shape[0])


def _specification(item: Specification | Mapping[str, Any], place: int) -> Specification:
    if isinstance(item, Specification):
        return item
    try:
        choices = tuple(sorted((str(key), str(value)) for key, value in dict(item["choices"]).items()))
        estimate = item.get("estimate")
        return Specification(choices, item["outcome"], None if estimate is None else float(estimate))
    except (KeyError, TypeError, ValueError) as error:
        found = f"is not a specification ({error})"
        raise Invalid(Problem(f"specifications[{place}]", found, "give choices, outcome, estimate")) from error


def _check(grid: list[Specification], registered: int) -> None:
    problems = []
    if not 0 <= registered < len(grid):
        problems.append(Problem("registered", f"is {registered} of {len(grid)}", "give the registered one's place"))
    if len({tuple(sorted(key for key, _ in item.choices)) for item in grid}) > 1:
        problems.append(Problem("specifications", "have different dimensions", "make every choice in each"))
    if len({tuple(sorted(item.choices)) for item in grid}) < len(grid):
        problems.append(Problem("specifications", "hold one twice", "give each once"))
    if problems:
        raise Invalid(problems)


def _sentence(
    grid: list[Specification],
    successes: int,
    success: str,
    here: str | None,
    changed: list[tuple[dict[str, str], Specification]],
    flips: list[tuple[str, str, str | None]],
) -> str:
    start = f"{success} in {successes} of {len(grid)} specifications"
    if not changed:
        return f"{start}; none alters the registered {here}"
    if not flips:
        distance = min(len(change) for change, _ in changed)
        return f"{start}; no single change alters the registered {here}, {distance} together do"
    listed = ", ".join(f"{dimension}={choice} ({outcome})" for dimension, choice, outcome in flips)
    return f"{start}; one change alters the registered {here}: {listed}"
