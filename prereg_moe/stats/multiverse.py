"""The multiverse: what a claim's outcome would have been under every registered way to analyse it.

A specification is one choice for each registered dimension (measure, corpus, rule, correction, interval,
null matching). The curve does not decide a claim; it says how much of the outcome is the choice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from prereg_moe.errors import Invalid, Problem
from prereg_moe.stats.resample import FloatArray, vector

__all__ = ["Specification", "SpecificationCurve", "specification_curve"]


@dataclass(frozen=True, slots=True)
class Specification:
    """One way to analyse a claim and what it gave.

    Attributes:
        choices: (dimension, choice) pairs, such as ("corpus", "B").
        estimate: the estimate, in a unit all specifications share.
        confirmed: whether the claim is confirmed; None where it could not be judged.
    """

    choices: tuple[tuple[str, str], ...]
    estimate: float
    confirmed: bool | None


@dataclass(frozen=True, slots=True)
class SpecificationCurve:
    """The outcomes of a claim over its specifications.

    Attributes:
        specifications: how many.
        confirmed: how many confirm.
        undecided: how many could not be judged; they count as not confirming.
        share: confirmed / specifications.
        median: median estimate.
        low: smallest estimate.
        high: largest estimate.
        order: places of the specifications, by rising estimate: the curve.
        p: joint p of the median under the shared null draws, None without them.
        flips: choices that, changed alone from the registered specification, change the outcome.
        distance: fewest changes of choice that change the outcome, None if none does.
        fragility: the same in a sentence.
        resamples: null draws.
    """

    specifications: int
    confirmed: int
    undecided: int
    share: float
    median: float
    low: float
    high: float
    order: tuple[int, ...]
    p: float | None
    flips: tuple[tuple[str, str], ...]
    distance: int | None
    fragility: str
    resamples: int


def specification_curve(
    specifications: Sequence[Specification | Mapping[str, Any]],
    *,
    registered: int = 0,
    null: ArrayLike | None = None,
) -> SpecificationCurve:
    """Return a claim's specification curve and how fragile the registered outcome is.

    Estimand: the median estimate over the grid, and the share of it that confirms. H0 (of p): no effect in
    any specification. Formula: p = (1 + #{b: median_b ≥ median}) / (1 + B), where row b of ``null`` holds
    the estimates of all specifications on one data set drawn under H0 (the same for all, so their
    dependence is kept). Assumptions: the grid was registered; its specifications ask one question.
    Source: Simonsohn, Simmons & Nelson 2020, Nat. Hum. Behav. 4:1208.

    Args:
        specifications: at least one; mappings have the keys ``choices``, ``estimate``, ``confirmed``.
        registered: place of the registered specification.
        null: # (B, specifications)

    Raises:
        Invalid: no specification, dimensions that differ, a specification given twice, an estimate that is
            not finite, a ``registered`` that is not there, a null of another shape.

    >>> grid = [Specification((("corpus", c), ("rule", r)), e, e > 0.1)
    ...         for c, r, e in [("B", "default", 0.3), ("A", "default", 0.05), ("B", "ci", 0.2)]]
    >>> print(specification_curve(grid).fragility)
    confirmed in 2 of 3 specifications; one change alters it: corpus=A
    """
    grid = [_specification(item, i) for i, item in enumerate(specifications)]
    _check(grid, registered)
    estimates = vector([item.estimate for item in grid], "estimates", least=1)
    outcomes = [item.confirmed is True for item in grid]
    changed = [
        dict(set(item.choices) - set(grid[registered].choices))
        for item, outcome in zip(grid, outcomes, strict=True)
        if outcome != outcomes[registered]
    ]
    distance = min(map(len, changed), default=None)
    flips = tuple(sorted(next(iter(change.items())) for change in changed if len(change) == 1))
    median = float(np.median(estimates))
    p, resamples = (None, 0) if null is None else _joint(median, np.asarray(null, dtype=np.float64), len(grid))
    return SpecificationCurve(
        specifications=len(grid),
        confirmed=sum(outcomes),
        undecided=sum(item.confirmed is None for item in grid),
        share=sum(outcomes) / len(grid),
        median=median,
        low=float(estimates.min()),
        high=float(estimates.max()),
        order=tuple(np.argsort(estimates, kind="stable").tolist()),
        p=p,
        flips=flips,
        distance=distance,
        fragility=_sentence(sum(outcomes), len(grid), distance, flips),
        resamples=resamples,
    )


def _specification(item: Specification | Mapping[str, Any], place: int) -> Specification:
    if isinstance(item, Specification):
        return item
    try:
        choices = tuple(sorted((str(key), str(value)) for key, value in dict(item["choices"]).items()))
        return Specification(choices, float(item["estimate"]), item["confirmed"])
    except (KeyError, TypeError, ValueError) as error:
        found = f"is not a specification ({error})"
        raise Invalid(Problem(f"specifications[{place}]", found, "give choices, estimate, confirmed")) from error


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


def _joint(median: float, null: FloatArray, width: int) -> tuple[float, int]:
    """Return the joint p of the median and the number of null draws."""
    if null.ndim != 2 or null.shape[1] != width or not null.shape[0] or not np.isfinite(null).all():
        raise Invalid(Problem("null", f"has shape {null.shape}", f"give finite (B, {width})"))
    return (1 + int((np.median(null, axis=1) >= median).sum())) / (1 + null.shape[0]), null.shape[0]


def _sentence(confirmed: int, total: int, distance: int | None, flips: tuple[tuple[str, str], ...]) -> str:
    start = f"confirmed in {confirmed} of {total} specifications"
    if distance is None:
        return f"{start}; no specification alters it"
    if distance > 1:
        return f"{start}; no single change alters it, {distance} together do"
    return f"{start}; one change alters it: " + ", ".join(f"{key}={value}" for key, value in flips)
