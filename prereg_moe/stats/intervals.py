"""Intervals of a mean, a paired contrast or any smooth statistic, by the bootstrap.

Five kinds, all for a one-sided level 1 - α at each end, with s_k the k-th smallest of B replicates:

- ``percentile``: θ*_(k); ``basic``: 2θ̂ - θ*_(B+1-k); both with k = ⌊α(B+1)⌋.
- ``bca``: the percentile at Φ(z0 + (z0 + z_α) / (1 - a(z0 + z_α))), z0 the normal quantile of the share of
  replicates below θ̂ (ties half), a = Σ L³ / (6 (Σ L²)^1.5), L the influence of each unit.
- ``bootstrap_t``: θ̂ - ŝe·t*_(B+1-k), t* = (θ* - θ̂) / se*, for means and contrasts. The default.
- ``hall_t``: Hall's cubic transformation, which removes the skewness of t analytically; no random numbers.

The ends are order statistics, so an interval excludes 0 exactly when the p-value reported beside it,
``(1 + #) / (B + 1)``, is at most α (BCa: up to interpolation between replicates).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtr, ndtri, stdtr, stdtrit

from prereg_moe.errors import Invalid, Problem
from prereg_moe.stats.nulls import FEW_UNITS, ZERO_VARIANCE
from prereg_moe.stats.resample import (
    FloatArray,
    Stream,
    blocks,
    cluster_means,
    exact_mean,
    exact_sum,
    exact_variance,
    matrix,
    multinomial_counts,
    on_grid,
    resampled_moments,
    stream,
    vector,
)

__all__ = [
    "DEGENERATE_RESAMPLES",
    "FEW_RESAMPLES",
    "Estimate",
    "IntervalKind",
    "Sides",
    "bootstrap",
    "bootstrap_many",
    "weighted_correlation",
]

IntervalKind = Literal["percentile", "basic", "bca", "bootstrap_t", "hall_t"]
Sides = Literal["two", "lower", "upper"]
Statistic: TypeAlias = Callable[[FloatArray, FloatArray], FloatArray]

FEW_RESAMPLES, DEGENERATE_RESAMPLES = "FEW_RESAMPLES", "DEGENERATE_RESAMPLES"
_FEW_UNITS = 30


@dataclass(frozen=True, slots=True)
class Estimate:
    """A quantity with its interval.

    Attributes:
        estimate: the quantity, in units of the measure.
        low: lower end; -inf for an upper bound, or where the resamples cannot give one.
        high: upper end; inf for a lower bound, or where the resamples cannot give one.
        p: p of the quantity being 0 (two), at most 0 (lower) or at least 0 (upper).
        se: standard error, None where the method has none.
        level: coverage of the interval.
        sides: ``two``, ``lower`` (a lower bound) or ``upper``.
        method: what was computed.
        n: items.
        units: what was resampled; differs from n in clustered designs.
        resamples: B, 0 where none are needed.
        flags: what limits the result.
    """

    estimate: float
    low: float
    high: float
    p: float | None
    se: float | None
    level: float
    sides: Sides
    method: str
    n: int
    units: int
    resamples: int
    flags: tuple[str, ...] = ()


def bootstrap(
    values: ArrayLike,
    statistic: Literal["mean"] | Sequence[float] | Statistic = "mean",
    *,
    interval: IntervalKind = "bootstrap_t",
    resamples: int = 9999,
    seed: int | str,
    clusters: Sequence[Any] | None = None,
    level: float = 0.95,
    sides: Sides = "two",
    labels: Sequence[str] = (),
    block: int = 512,
) -> Estimate:
    """Return a quantity with its bootstrap interval.

    Estimand: the mean of ``values``; or Σ_c w_c·mean(values[:, c]) for a contrast of paired columns; or a
    smooth statistic. H0 of p: it is 0. Formulas: the module's docstring. Assumptions: units independent;
    for ``bca`` a smooth statistic. Never bootstrap-t for sparse binary differences (69% coverage): see
    ``mcnemar``. Source: Efron 1987 (BCa,
    influence by the infinitesimal jackknife); Hall 1992; Davison & Hinkley 1997, ch. 5.

    Args:
        values: one row a unit  # (n,) or (n, c)
        statistic: ``"mean"``; weights of the columns; or ``f(values, counts)`` that gives the statistic for
            every row of ``counts``  # (B, n) -> (B,), such as ``weighted_correlation``
        interval: one of ``percentile basic bca bootstrap_t hall_t``.
        resamples: B.
        seed: the registered seed.
        clusters: each item's cluster; items are averaged to clusters, the units.
        level: coverage.
        sides: ``two`` ends, or only the ``lower`` or ``upper`` bound.
        labels: further names of the stream, such as the axis.
        block: replicates handled at a time; cannot change a result.

    Raises:
        Invalid: input that is not finite numbers, fewer than two units, an unknown interval, a studentised
            interval of a statistic that has no standard error.

    The law school correlation (Efron & Tibshirani 1993, table 3.1); R's ``boot`` gives .776 [.32, .94]:

    >>> lsat = [576, 635, 558, 578, 666, 580, 555, 661, 651, 605, 653, 575, 545, 572, 594]
    >>> gpa = [3.39, 3.30, 2.81, 3.03, 3.44, 3.07, 3.00, 3.43, 3.36, 3.13, 3.12, 2.74, 2.76, 2.88, 2.96]
    >>> got = bootstrap(list(zip(lsat, gpa)), weighted_correlation, interval="bca", resamples=99999, seed=1)
    >>> round(got.estimate, 3), round(got.low, 2), round(got.high, 2)
    (0.776, 0.32, 0.94)
    """
    if callable(statistic):
        raw = matrix(values, "values", rows=2)
        plan = _Plan(interval, level, sides, resamples, raw.shape[0], labels, seed, block)
        return _smooth(plan, _units(raw, clusters), statistic)
    array = matrix(values, "values", rows=2) if np.ndim(values) == 2 else vector(values, "values")
    if isinstance(statistic, str) and statistic != "mean":
        raise Invalid(Problem("statistic", f"is {statistic!r}", 'use "mean", weights or a function'))
    if array.ndim == 2:
        weights = [1.0] if isinstance(statistic, str) else list(statistic)
        if len(weights) != array.shape[1]:
            raise Invalid(Problem("statistic", f"{array.shape[1]} columns", "give one weight a column"))
        array = sum((w * array[:, c] for c, w in enumerate(weights)), start=np.zeros(array.shape[0]))
    return bootstrap_many(
        array[:, None],
        interval=interval,
        resamples=resamples,
        seed=seed,
        clusters=clusters,
        level=level,
        sides=sides,
        labels=labels,
        block=block,
    )[0]


def bootstrap_many(
    values: ArrayLike,
    *,
    interval: IntervalKind = "bootstrap_t",
    resamples: int = 9999,
    seed: int | str,
    clusters: Sequence[Any] | None = None,
    level: float = 0.95,
    sides: Sides = "two",
    labels: Sequence[str] = (),
    block: int = 512,
) -> tuple[Estimate, ...]:
    """Return the means of many columns that share their units, and hence their resamples, with intervals.

    Estimand: each column's mean. H0 of p, formula, assumptions, source: as ``bootstrap`` with ``"mean"``,
    column by column  # values (n, C) -> C estimates.

    Raises:
        Invalid: as ``bootstrap``.

    R's sleep data: the extra hours under either drug are .75 and 2.33.

    >>> first = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
    >>> second = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]
    >>> got = bootstrap_many(list(zip(first, second)), seed=1)
    >>> [round(one.estimate, 2) for one in got], [one.low < 0 for one in got]
    ([0.75, 2.33], [True, False])
    """
    raw = matrix(values, "values", rows=2)
    plan = _Plan(interval, level, sides, resamples, raw.shape[0], labels, seed, block)
    data = _units(raw, clusters)
    mean = exact_mean(data)
    deviation = data - mean
    se = np.sqrt(exact_variance(data, mean) / data.shape[0])
    if interval == "hall_t":
        third, second = exact_mean(deviation**3), exact_mean(deviation**2)
        return tuple(
            _hall(plan, data.shape[0], *map(float, column)) for column in zip(mean, se, third, second, strict=True)
        )
    shift, squared = resampled_moments(data, plan.stream(), resamples=resamples, block=block)
    third, second = exact_sum(deviation**3), exact_sum(deviation**2)
    return tuple(
        _resampled(
            plan,
            data.shape[0],
            float(mean[c]),
            float(se[c]),
            _studentised(shift[:, c], squared[:, c]) if interval == "bootstrap_t" else shift[:, c].copy(),
            float(third[c]) / (6 * float(second[c]) * math.sqrt(second[c])) if se[c] else 0.0,
        )
        for c in range(mean.size)
    )


def weighted_correlation(values: FloatArray, counts: FloatArray) -> FloatArray:
    """Return Pearson's correlation of two columns for every row of counts, NaN where one does not vary.

    Estimand: the correlation; a statistic for ``bootstrap``. Formula: from exact sums, those of x, y, x², y² and
    xy, centred first, weighted by the counts. Source: Efron & Tibshirani 1993, section 3.2.

    The law schools' .776 (see ``bootstrap``):

    >>> lsat = [576, 635, 558, 578, 666, 580, 555, 661, 651, 605, 653, 575, 545, 572, 594]
    >>> gpa = [3.39, 3.30, 2.81, 3.03, 3.44, 3.07, 3.00, 3.43, 3.36, 3.13, 3.12, 2.74, 2.76, 2.88, 2.96]
    >>> weighted_correlation(np.array([lsat, gpa]).T, np.ones((1, 15))).round(3).tolist()
    [0.776]
    """
    centred = values - exact_mean(values)
    x, y = (centred / np.maximum(np.abs(centred).max(axis=0), 1e-300)).T
    data, g = on_grid(np.stack([x, y, x * x, y * y, x * y], axis=1), int(counts.sum(axis=1).max()))
    sx, sy, sxx, syy, sxy = np.ldexp(counts @ data, -g).T / counts.sum(axis=1)
    vx, vy = sxx - sx * sx, syy - sy * sy
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where((vx > 1e-12) & (vy > 1e-12), (sxy - sx * sy) / np.sqrt(vx * vy), np.nan)


# ------------------------------------------------------------------ from replicates to an interval


@dataclass(frozen=True, slots=True)
class _Plan:
    """What was asked for: everything of an interval but the data."""

    interval: IntervalKind
    level: float
    sides: Sides
    resamples: int
    n: int
    labels: Sequence[str]
    seed: int | str
    block: int

    def __post_init__(self) -> None:
        problems = []
        if self.interval not in get_args(IntervalKind):
            problems.append(Problem("interval", f"is {self.interval!r}", f"use one of {get_args(IntervalKind)}"))
        if self.sides not in get_args(Sides):
            problems.append(Problem("sides", f"is {self.sides!r}", f"use one of {get_args(Sides)}"))
        if not 0 < self.level < 1:
            problems.append(Problem("level", f"is {self.level}", "use a coverage between 0 and 1"))
        if self.resamples < 1:
            problems.append(Problem("resamples", f"is {self.resamples}", "use at least 1"))
        if problems:
            raise Invalid(problems)

    @property
    def tail(self) -> float:
        """Probability left out at each end."""
        return (1 - self.level) / (2 if self.sides == "two" else 1)

    def stream(self) -> Stream:
        return stream(self.seed, "bootstrap", *self.labels)

    def estimate(
        self,
        units: int,
        value: float,
        se: float | None,
        ends: tuple[float, float],
        tails: tuple[float, float],
        *flags: str,
    ) -> Estimate:
        """Return the result; ``tails`` are p of H0 ≤ 0 and of H0 ≥ 0."""
        small = (FEW_UNITS,) if units < _FEW_UNITS else ()
        return Estimate(
            estimate=value,
            low=-math.inf if self.sides == "upper" else ends[0],
            high=math.inf if self.sides == "lower" else ends[1],
            p={"two": min(1.0, 2 * min(tails)), "lower": tails[0], "upper": tails[1]}[self.sides],
            se=se,
            level=self.level,
            sides=self.sides,
            method=self.interval,
            n=self.n,
            units=units,
            resamples=0 if self.interval == "hall_t" else self.resamples,
            flags=small + flags,
        )

    def unknown(self, units: int, value: float) -> Estimate:
        """Return the result for units that do not vary: nothing bounds the quantity, nothing is shown."""
        return self.estimate(units, value, 0.0, (-math.inf, math.inf), (1.0, 1.0), ZERO_VARIANCE)


def _units(values: FloatArray, clusters: Sequence[Any] | None) -> FloatArray:
    return values if clusters is None else cluster_means(values, clusters)


def _studentised(shift: FloatArray, squared: FloatArray) -> FloatArray:
    """Return t*, NaN for replicates without spread."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(squared > 0, shift / np.sqrt(squared), np.nan)


def _resampled(
    plan: _Plan, units: int, value: float, se: float | None, null: FloatArray, acceleration: float
) -> Estimate:
    """Return the interval from ``null``: replicates minus estimate, or t*; NaN counts against either end."""
    if se == 0 or not np.nanmax(null, initial=-np.inf) > np.nanmin(null, initial=np.inf):
        return plan.unknown(units, value)
    degenerate = np.isnan(null)
    downward, upward = np.where(degenerate, -np.inf, null), np.where(degenerate, np.inf, null)
    B = null.size
    scale = se if plan.interval == "bootstrap_t" and se is not None else 1.0
    k = math.floor(plan.tail * (B + 1) + 1e-9)
    if plan.interval == "bca":
        ends, tails = _bca(value, downward, upward, acceleration, plan.tail)
    elif k < 1:
        ends, tails = (-math.inf, math.inf), _tails(plan, value / scale, downward, upward)
    else:
        smallest = float(np.partition(downward, k - 1)[k - 1])
        largest = float(np.partition(upward, B - k)[B - k])
        reflected = plan.interval != "percentile"
        ends = (value - scale * largest, value - scale * smallest) if reflected else (value + smallest, value + largest)
        tails = _tails(plan, value / scale, downward, upward)
    held = {DEGENERATE_RESAMPLES: degenerate.any(), FEW_RESAMPLES: k < 1}
    return plan.estimate(units, value, se, ends, tails, *(flag for flag, holds in held.items() if holds))


def _tails(plan: _Plan, value: float, downward: FloatArray, upward: FloatArray) -> tuple[float, float]:
    """Return p of H0 ≤ 0 and of H0 ≥ 0, which agree with the ends of the interval."""
    B = downward.size
    if plan.interval == "percentile":
        return (1 + int((downward <= -value).sum())) / (B + 1), (1 + int((upward >= -value).sum())) / (B + 1)
    return (1 + int((upward >= value).sum())) / (B + 1), (1 + int((downward <= value).sum())) / (B + 1)


def _bca(
    value: float, downward: FloatArray, upward: FloatArray, acceleration: float, tail: float
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return the BCa ends and tails; its place between two replicates is interpolated linearly."""
    B = downward.size
    below = ((downward < 0).sum() + 0.5 * (downward == 0).sum()) / B
    if not 0 < below < 1:
        return (-math.inf, math.inf), (1.0, 1.0)
    z0 = float(ndtri(below))

    def place(z: float) -> float:
        return (B + 1) * float(ndtr(z0 + (z0 + z) / (1 - acceleration * (z0 + z))))

    def p(count: int) -> float:
        """Return the tail at which the end would be 0: the formula above, solved for z."""
        w = float(ndtri((1 + count) / (B + 2))) - z0
        return float(ndtr(w / (1 + acceleration * w) - z0))

    z = float(ndtri(tail))
    ends = (value + _at(downward, place(z)), value + _at(upward, place(-z)))
    return ends, (p(int((downward <= -value).sum())), 1 - p(int((upward < -value).sum())))


def _at(values: FloatArray, place: float) -> float:
    """Return the order statistic at a real-valued place 1..B, ±inf outside it."""
    k = math.floor(place)
    if k < 1 or place > values.size:
        return -math.inf if k < 1 else math.inf
    low, high = np.partition(values, [k - 1, min(k, values.size - 1)])[[k - 1, min(k, values.size - 1)]]
    if low == high or math.isinf(low) or place == k:
        return float(low)
    return float(low + (place - k) * (high - low))


def _hall(plan: _Plan, units: int, value: float, se: float, third: float, second: float) -> Estimate:
    """Return Hall's (1992, JRSS B 54:221) interval with Student quantiles.

    ``g(S) = S + γS²/3 + γ²S³/27 + γ/(6n)``, S = √n-free t; its inverse is ``3/γ·((1 + γ(y - γ/6n))^⅓ - 1)``.
    """
    if se == 0:
        return plan.unknown(units, value)
    gamma = third / math.sqrt(second) ** 3
    scale = se * math.sqrt(units)

    def inverse(y: float) -> float:
        if abs(gamma) < 1e-8:
            return y
        return 3 / gamma * (math.cbrt(1 + gamma * (y - gamma / (6 * units))) - 1)

    S = value / scale
    g = S + gamma * S**2 / 3 + gamma**2 * S**3 / 27 + gamma / (6 * units)
    above = float(stdtr(units - 1, -math.sqrt(units) * g))
    quantile = float(stdtrit(units - 1, 1 - plan.tail)) / math.sqrt(units)
    ends = (value - scale * inverse(quantile), value - scale * inverse(-quantile))
    return plan.estimate(units, value, se, ends, (above, 1 - above))


def _smooth(plan: _Plan, data: FloatArray, statistic: Statistic) -> Estimate:
    """Return the interval of ``statistic(data, counts)``."""
    if plan.interval in {"bootstrap_t", "hall_t"}:
        raise Invalid(Problem("interval", f"{plan.interval} needs a standard error", "use percentile, basic or bca"))
    n = data.shape[0]
    value = float(statistic(data, np.ones((1, n)))[0])
    if not math.isfinite(value):
        return plan.unknown(n, value)
    source = plan.stream()
    null = np.concatenate(
        [
            statistic(data, multinomial_counts(source, n, start, stop))
            for start, stop in blocks(plan.resamples, plan.block)
        ]
    )
    influence = np.concatenate([_influence(data, statistic, *rows) for rows in blocks(n, plan.block)])
    return _resampled(plan, n, value, None, null - value, _acceleration(influence))


def _influence(data: FloatArray, statistic: Statistic, start: int, stop: int) -> FloatArray:
    """Return, up to a factor, what a little more weight on each of units start..stop does to the statistic.

    The infinitesimal jackknife by central differences of 1/16 of a unit's weight; counts stay integers, so
    that sums stay exact.
    """
    more = np.eye(data.shape[0])[start:stop]
    return statistic(data, 16.0 + more) - statistic(data, 16.0 - more)


def _acceleration(influence: FloatArray) -> float:
    """Return a = Σ L³ / (6 (Σ L²)^1.5), 0.0 where an influence is undefined or none is felt."""
    total = float((influence**2).sum())
    return float((influence**3).sum()) / (6 * total * math.sqrt(total)) if math.isfinite(total) and total > 0 else 0.0
