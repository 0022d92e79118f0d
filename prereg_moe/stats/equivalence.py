"""Showing that an effect is small: equivalence, non-inferiority and absence.

"p > .05" never shows absence. An effect is shown to be small by rejecting, one-sided, that it lies beyond a
margin registered before the data (TOST: on both sides). Absence asks for more: that the study could have
seen an effect (power gate), and that its positive control was seen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypedDict, Unpack

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import nctdtr, stdtr, stdtrit

from prereg_moe.errors import Invalid, Problem
from prereg_moe.stats.intervals import bootstrap
from prereg_moe.stats.multiplicity import stepdown_maxt
from prereg_moe.stats.nulls import FEW_UNITS, ZERO_VARIANCE
from prereg_moe.stats.resample import (
    SMALL_SAMPLE,
    FloatArray,
    cluster_means,
    exact_mean,
    exact_variance,
    number,
    resampled_moments,
    stream,
    vector,
)

__all__ = [
    "Absence",
    "Equivalence",
    "absence",
    "detectable",
    "noninferior",
    "power_equivalence",
    "power_t",
    "tost",
    "within_margin",
]

_FEW_UNITS = 30


class How(TypedDict, total=False):
    """How a mean is compared with its margin: the arguments of ``tost`` that its relatives pass on."""

    level: float
    interval: Literal["t", "bootstrap_t"]
    clusters: Sequence[Any] | None
    resamples: int
    seed: int | str
    labels: Sequence[str]


@dataclass(frozen=True, slots=True)
class Equivalence:
    """A mean compared with a margin.

    Attributes:
        estimate: the mean.
        low: lower end of the interval with one-sided level ``level`` at each tested end.
        high: its upper end.
        p: the larger of p_low and p_high.
        p_low: one-sided p of H0 mean ≤ margin_low (0.0 for a margin of -inf).
        p_high: one-sided p of H0 mean ≥ margin_high (0.0 for a margin of inf).
        se: standard error.
        margin_low: the lower margin, -inf when there is none.
        margin_high: the upper margin, inf when there is none.
        level: 1 - α of each one-sided test.
        method: what was computed.
        n: items.
        units: units.
        resamples: B, 0 for the t version.
        flags: what limits the result.
    """

    estimate: float
    low: float
    high: float
    p: float
    p_low: float
    p_high: float
    se: float
    margin_low: float
    margin_high: float
    level: float
    method: str
    n: int
    units: int
    resamples: int
    flags: tuple[str, ...] = ()

    @property
    def holds(self) -> bool:
        """Whether the mean is shown, at this level, to lie inside the margin."""
        return self.p <= 1 - self.level


def tost(
    values: ArrayLike,
    *,
    low: float,
    high: float,
    level: float = 0.95,
    interval: Literal["t", "bootstrap_t"] = "t",
    clusters: Sequence[Any] | None = None,
    resamples: int = 9999,
    seed: int | str = 0,
    labels: Sequence[str] = (),
) -> Equivalence:
    """Return whether a mean lies inside (low, high): two one-sided tests.

    Estimand: the mean. H0: mean ≤ low or mean ≥ high. Formula: p = max of the one-sided p of
    (mean - low) / se and (high - mean) / se, on n - 1 degrees of freedom or by bootstrap-t; the interval
    at 2·level - 1 lies inside the margin exactly when p ≤ 1 - level. Assumptions: units independent; for t
    roughly normal means. Source: Schuirmann 1987; Lakens 2017.

    Args:
        values: deltas  # (n,)
        low: the lower margin; -inf tests the upper one only.
        high: the upper margin; inf tests the lower one only.
        level: 1 - α.
        interval: ``t`` or ``bootstrap_t``, which holds its level better for skewed deltas.
        clusters: each item's cluster; items are averaged to clusters.
        resamples: B of ``bootstrap_t``.
        seed: its seed.
        labels: further names of its stream.

    Raises:
        Invalid: low not below high, no finite margin, or values that are not finite numbers.

    R's sleep data, margin ±2.5 (t-tests; statsmodels agrees):

    >>> result = tost([1.2, 2.4, 1.3, 1.3, 0.0, 1.0, 1.8, 0.8, 4.6, 1.4], low=-2.5, high=2.5)
    >>> round(result.p_high, 5), round(result.p_low, 8), result.holds
    (0.02112, 1.2e-06, True)
    """
    if not low < high or not (math.isfinite(low) or math.isfinite(high)):
        raise Invalid(Problem("margin", f"is ({low}, {high})", "give low below high, one of them finite"))
    raw = vector(values, "values")
    data = raw if clusters is None else cluster_means(raw, clusters)
    mean, se = float(exact_mean(data)), math.sqrt(float(exact_variance(data)) / data.size)
    flags = ((FEW_UNITS,) if data.size < _FEW_UNITS else ()) + ((ZERO_VARIANCE,) if se == 0 else ())
    if se == 0:
        ends, p_low, p_high = (-math.inf, math.inf), 1.0, 1.0
    elif interval == "t":
        half = float(stdtrit(data.size - 1, level)) * se
        ends = (mean - half, mean + half)
        p_low, p_high = (float(stdtr(data.size - 1, gap / se)) for gap in (low - mean, mean - high))
    else:
        ends, p_low, p_high = _bootstrap_tails(data, low, high, level, resamples, seed, labels)
    return Equivalence(
        estimate=mean,
        low=ends[0],
        high=ends[1],
        p=max(p_low, p_high),
        p_low=p_low,
        p_high=p_high,
        se=se,
        margin_low=low,
        margin_high=high,
        level=level,
        method=f"TOST, {interval}",
        n=raw.size,
        units=data.size,
        resamples=resamples if interval == "bootstrap_t" else 0,
        flags=flags,
    )


def _bootstrap_tails(
    data: FloatArray,
    low: float,
    high: float,
    level: float,
    resamples: int,
    seed: int | str,
    labels: Sequence[str],
) -> tuple[tuple[float, float], float, float]:
    """Return the two-sided bootstrap-t interval and both one-sided p-values; an infinite margin has p 0."""

    def shifted(margin: float, side: Literal["lower", "upper"]) -> tuple[float, float]:
        at = margin if math.isfinite(margin) else 0.0
        one = bootstrap(data - at, resamples=resamples, seed=seed, labels=labels, level=level, sides=side)
        end = one.low if side == "lower" else one.high
        return end + at, one.p if math.isfinite(margin) and one.p is not None else 0.0

    (bottom, p_low), (top, p_high) = shifted(low, "lower"), shifted(high, "upper")
    return (bottom, top), p_low, p_high


def noninferior(values: ArrayLike, *, margin: float, **how: Unpack[How]) -> Equivalence:
    """Return whether harm stays below a margin: the upper half of ``tost``.

    Estimand: the mean harm. H0: mean ≥ margin. Formula, assumptions, ``how``: as ``tost``.
    Source: CONSORT extension for non-inferiority, Piaggio et al. 2012.

    Raises:
        Invalid: as ``tost``.

    The upper half of R's test of the sleep data:

    >>> got = noninferior([1.2, 2.4, 1.3, 1.3, 0.0, 1.0, 1.8, 0.8, 4.6, 1.4], margin=2.5)
    >>> round(got.p, 5), got.holds
    (0.02112, True)
    """
    return tost(values, low=-math.inf, high=margin, **how)


def power_t(n: int, effect: float, sd: float, *, alpha: float = 0.05, sides: Literal[1, 2] = 1) -> float:
    """Return the power of the one-sample t-test at a true mean.

    Estimand: P(p ≤ α) at the mean ``effect``. H0 tested: the mean is 0. Assumptions: normal units.
    Formula: P(T > t_{1-α/sides}) of the noncentral t with n - 1 degrees of freedom and noncentrality
    √n·effect/sd (the far tail of the two-sided test included). Source: Cohen 1988, ch. 2.

    Raises:
        Invalid: fewer than two units, or sd not positive.

    Cohen's classical d = .5, n = 34, two-sided: power .81.

    >>> round(power_t(34, 0.5, 1.0, sides=2), 2)
    0.81
    """
    if n < 2 or not sd > 0:
        raise Invalid(Problem("power", f"n is {n}, sd {sd}", "give two units and a positive sd"))
    critical = float(stdtrit(n - 1, 1 - alpha / sides))
    shift = math.sqrt(n) * effect / sd
    upper = 1 - float(nctdtr(n - 1, shift, critical))
    return upper + (float(nctdtr(n - 1, shift, -critical)) if sides == 2 else 0.0)


def detectable(n: int, *, power: float = 0.8, alpha: float = 0.05, sides: Literal[1, 2] = 2) -> float:
    """Return the smallest true effect, in standard deviations, that the one-sample t-test finds with this power.

    Estimand: d. H0 tested, assumptions: as ``power_t``. Formula: the d with ``power_t(n, d, 1) = power``, by
    bisection. Source: Cohen 1988, ch. 2.

    Raises:
        Invalid: fewer than two units, or a power that is not between alpha and 1.

    >>> round(detectable(200, alpha=0.0025), 3), round(detectable(200, alpha=0.01), 3), round(detectable(200), 3)
    (0.276, 0.244, 0.199)
    """
    if not alpha < power < 1:
        raise Invalid(Problem("power", f"is {power}", f"between alpha ({alpha}) and 1"))
    low, high = 0.0, 1.0
    while power_t(n, high, 1.0, alpha=alpha, sides=sides) < power:
        low, high = high, 2 * high
    for _ in range(60):
        middle = (low + high) / 2
        if power_t(n, middle, 1.0, alpha=alpha, sides=sides) < power:
            low = middle
        else:
            high = middle
    return high


def power_equivalence(n: int, sd: float, *, low: float, high: float, alpha: float = 0.05) -> float:
    """Return a lower bound of the power of ``tost`` when the true mean is 0.

    Estimand: P(p ≤ α) at a mean of 0. H0 tested: that of ``tost``. Assumptions: normal units.
    Formula: 1 - β_low - β_high, one noncentral-t error at each margin (Bonferroni; exact as power nears 1).
    Source: Schuirmann 1987; Julious 2004, section 5.

    Raises:
        Invalid: 0 is not inside the margin, or as ``power_t``.

    A margin of d = ±.3 takes 96 pairs for a power of 80% (R package TOSTER, ``powerTOSTpaired``):

    >>> round(power_equivalence(96, 1.0, low=-0.3, high=0.3), 2)
    0.8
    """
    if not low < 0 < high:
        raise Invalid(Problem("margin", f"is ({low}, {high})", "absence is equivalence to 0: put 0 inside"))
    miss = sum(1 - power_t(n, abs(m), sd, alpha=alpha) for m in (low, high) if math.isfinite(m))
    return max(0.0, 1 - miss)


@dataclass(frozen=True, slots=True)
class Absence:
    """Whether an effect is absent: all three parts must hold.

    Attributes:
        equivalence: the TOST inside the margin.
        power: power of that TOST at a true effect of 0.
        power_gate: the registered least power.
        positive_control: whether the positive control was seen.
        p: the TOST's p where both gates hold, else 1.0.
        failed: the parts that do not hold: ``equivalence``, ``power``, ``positive_control``.
    """

    equivalence: Equivalence
    power: float
    power_gate: float
    positive_control: bool
    p: float
    failed: tuple[str, ...]

    @property
    def holds(self) -> bool:
        """Whether absence is shown."""
        return not self.failed


def absence(
    values: ArrayLike,
    *,
    low: float,
    high: float,
    positive_control: bool,
    power_gate: float = 0.8,
    sd: float | None = None,
    **how: Unpack[How],
) -> Absence:
    """Return whether an effect is absent: equivalent to 0, in a study that could have told.

    Estimand: the mean. H0: mean outside (low, high). Formula: the p of ``tost`` where both gates hold, else 1.
    Gates: power of the TOST at 0 is at least ``power_gate``, and the positive control was confirmed.
    Assumptions: as ``tost``; ``sd`` registered from a pilot, since power at the observed sd follows the data.
    Source: Altman & Bland 1995; Lakens 2017.

    Args:
        values: deltas  # (n,)
        low: lower margin, below 0.
        high: upper margin, above 0.
        positive_control: whether the registered positive control was confirmed.
        power_gate: least power.
        sd: unit standard deviation the power is computed from (default: the observed one).
        how: as ``tost``.

    Raises:
        Invalid: 0 is not inside the margin, or as ``tost``.

    R's sleep data are equivalent to 0 within ±2.5 (p = .02112), by a study that could have told:

    >>> sleep = [1.2, 2.4, 1.3, 1.3, 0.0, 1.0, 1.8, 0.8, 4.6, 1.4]
    >>> got = absence(sleep, low=-2.5, high=2.5, positive_control=True)
    >>> round(got.p, 5), got.power > 0.99, got.holds
    (0.02112, True, True)
    """
    shown = tost(values, low=low, high=high, **how)
    spread = shown.se * math.sqrt(shown.units) if sd is None else sd
    power = power_equivalence(shown.units, spread, low=low, high=high, alpha=1 - shown.level) if spread > 0 else 0.0
    parts = {"equivalence": shown.holds, "power": power >= power_gate, "positive_control": positive_control}
    failed = tuple(name for name, holds in parts.items() if not holds)
    gated = parts["power"] and parts["positive_control"]
    return Absence(shown, power, power_gate, positive_control, shown.p if gated else 1.0, failed)


# ------------------------------------------------------------------ several families


def within_margin(
    values: Sequence[ArrayLike],
    draws: Sequence[ArrayLike] | None = None,
    *,
    margin: float,
    axes: Sequence[str],
    alpha: float,
    resamples: int = 9999,
    seed: int | str,
    block: int = 512,
) -> FloatArray:
    """Return, for F families, the p of "the mean lies inside ±margin", adjusted over the families.

    Estimand: each family's mean effect, or its mean excess over the mean of random draws. H0: it is at least
    ``margin`` from 0, on either side. Formula: with se² = s²/n (+ var_r/R with draws), the largest of

    - F times the p of two one-sided t tests, on n - 1 (with draws min(n, R) - 1) degrees of freedom;
    - F·(1 + 30/n) times their bootstrap-t p, items and draws resampled apart;
    - step-down max-T over the families on the same resamples, either side.

    A t test alone calls an effect small too often where harm has a heavy right tail: samples without the tail have
    a small mean and a small standard error. Bootstrap-t helps, max-T makes the heaviest family set the bar for all;
    calibration.md has the error rates. Families whose t tests all fail are not resampled.
    Assumptions: units (and draws) independent. Source: Schuirmann 1987; Hall 1992, ch. 3; Westfall & Young 1993.

    Args:
        values: for each family its deltas, or their excess over the mean draw  # F × (n_f,)
        draws: for each family the mean effects of the same R random draws  # F × (R,)
        margin: δ, in units of the measure.
        axes: each family's axis; families of one axis share their units and therefore their resamples.
        alpha: level the p will be compared with.
        resamples: B.
        seed: the registered seed.
        block: replicates handled at a time; cannot change a result.

    Raises:
        Invalid: a margin that is no finite number, fewer than two units or draws, or a unit count that differs
            within an axis.

    One family, R's sleep data and ±2.5: the t test's p is .0211, that of bootstrap-t, times 1 + 30/10, larger.

    >>> sleep = [1.2, 2.4, 1.3, 1.3, 0.0, 1.0, 1.8, 0.8, 4.6, 1.4]
    >>> within_margin([sleep], margin=2.5, axes=["sleep"], alpha=0.01, seed=1).round(5).tolist()
    [0.02112]
    >>> bool(within_margin([sleep], margin=2.5, axes=["sleep"], alpha=0.05, seed=1)[0] > 0.05)
    True
    """
    margin = number(margin, "margin")
    own = [vector(item, f"values[{f}]") for f, item in enumerate(values)]
    pool = None if draws is None else np.stack([vector(item, f"draws[{f}]") for f, item in enumerate(draws)], axis=1)
    F, n = len(own), np.array([item.size for item in own])
    mean = np.array([float(exact_mean(item)) for item in own])
    variance = np.array([float(exact_variance(item)) for item in own]) / n
    df = n - 1.0
    if pool is not None:
        variance += exact_variance(pool) / len(pool)
        df = np.minimum(df, len(pool) - 1.0)
    se = np.sqrt(variance)
    with np.errstate(divide="ignore", invalid="ignore"):
        gaps = np.where(se > 0, np.stack([margin - mean, margin + mean]) / se, 0.0)  # below the upper, above the lower
    p = np.where(se > 0, np.minimum(F * stdtr(df, -gaps).max(axis=0), 1.0), 1.0)
    if (p > alpha).all():
        return p
    t = _null_t(own, pool, axes, resamples, seed, block)
    for gap, null in zip(gaps, (-t, t), strict=True):
        against = np.where(np.isnan(null), np.inf, null)
        alone = (1 + (against >= gap).sum(axis=0)) / (1 + resamples)
        p = np.maximum.reduce([p, F * (1 + SMALL_SAMPLE / n) * alone, stepdown_maxt(gap, against)])
    return np.minimum(p, 1.0)


def _null_t(
    own: list[FloatArray], pool: FloatArray | None, axes: Sequence[str], resamples: int, seed: int | str, block: int
) -> FloatArray:
    """Return the studentised replicates of each family's mean, NaN where one has no spread  # (B, F)"""
    shift, variance = np.empty((resamples, len(own))), np.empty((resamples, len(own)))
    for axis in dict.fromkeys(axes):
        there = [f for f, other in enumerate(axes) if other == axis]
        if len({own[f].size for f in there}) > 1:
            raise Invalid(Problem(f"axis {axis}", "has another number of units for another family", "share the units"))
        source = stream(seed, "within margin", f"axis {axis}")
        table = np.stack([own[f] for f in there], axis=1)
        shift[:, there], variance[:, there] = resampled_moments(table, source, resamples=resamples, block=block)
    if pool is not None:
        source = stream(seed, "within margin", "draws")
        drawn, spread = resampled_moments(pool, source, resamples=resamples, block=block)
        shift, variance = shift - drawn, variance + spread
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(variance > 0, shift / np.sqrt(variance), np.nan)
