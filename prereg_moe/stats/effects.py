"""Effect sizes and means with design-based standard errors, ratios, and rates of rare events.

Every result is an ``Estimate``; what was divided by what (ddof, correction) is part of its ``method``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import betaincinv, nctdtr, nctdtrinc, ndtri, stdtr, stdtrit

from prereg_moe.errors import Invalid, Problem
from prereg_moe.stats.intervals import Estimate, Sides
from prereg_moe.stats.nulls import FEW_UNITS, ZERO_VARIANCE
from prereg_moe.stats.resample import exact_mean, exact_sum, exact_variance, matrix, number, vector

__all__ = ["clustered_mean", "cohen_dz", "crossed_mean", "event_rate", "fieller", "hedges_gz"]

_FEW_UNITS = 30


def student(value: float, se: float, df: float, level: float, method: str, n: int, units: int) -> Estimate:
    """Return a two-sided Student-t estimate; a standard error of 0 bounds nothing."""
    flags = ((FEW_UNITS,) if units < _FEW_UNITS else ()) + ((ZERO_VARIANCE,) if se == 0 else ())
    half = float(stdtrit(df, 0.5 + level / 2)) * se if se > 0 else math.inf
    p = 2 * float(stdtr(df, -abs(value) / se)) if se > 0 else 1.0
    return Estimate(value, value - half, value + half, p, se, level, "two", method, n, units, 0, flags)


def cohen_dz(values: ArrayLike, *, ddof: Literal[0, 1] = 1, level: float = 0.95) -> Estimate:
    """Return Cohen's d_z of paired differences with its noncentral-t interval.

    Estimand: mean over standard deviation of the differences. H0 of p: it is 0 (the paired t-test).
    Formula: d = mean / sd(ddof); the interval holds the noncentralities δ of a t with n - 1 degrees of
    freedom that put the observed t between their α/2 and 1 - α/2 quantiles, divided by √n.
    Assumptions: normal differences. Source: Cumming & Finch 2001; Goulet-Pelletier & Cousineau 2018.

    Raises:
        Invalid: not at least two finite numbers.

    R's sleep data:

    >>> got = cohen_dz([1.2, 2.4, 1.3, 1.3, 0.0, 1.0, 1.8, 0.8, 4.6, 1.4])
    >>> round(got.estimate, 4), round(got.low, 4), round(got.high, 4), got.method
    (1.2846, 0.4146, 2.118, 'd_z[ddof=1]')
    """
    data = vector(values, "values")
    sd = math.sqrt(float(exact_variance(data)))
    n, flags = data.size, (FEW_UNITS,) if data.size < _FEW_UNITS else ()
    name = f"d_z[ddof={ddof}]"
    if sd == 0:
        return Estimate(0.0, -math.inf, math.inf, 1.0, None, level, "two", name, n, n, 0, (*flags, ZERO_VARIANCE))
    t = float(exact_mean(data)) / sd * math.sqrt(n)
    scale = math.sqrt(n / (n - 1)) if ddof == 0 else 1.0
    ends = [_noncentrality(n - 1, tail, t) / math.sqrt(n) * scale for tail in (0.5 + level / 2, 0.5 - level / 2)]
    p = 2 * float(stdtr(n - 1, -abs(t)))
    return Estimate(t / math.sqrt(n) * scale, ends[0], ends[1], p, None, level, "two", name, n, n, 0, flags)


def _noncentrality(df: int, tail: float, t: float) -> float:
    """Return the noncentrality that puts t at its ``tail`` quantile: scipy's, which has seven digits, bisected."""
    start = float(nctdtrinc(df, tail, t))
    low, high = start - 1e-3, start + 1e-3
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if nctdtr(df, middle, t) > tail else (low, middle)
    return (low + high) / 2


def hedges_gz(values: ArrayLike, *, level: float = 0.95) -> Estimate:
    """Return Hedges' g_z: d_z (ddof 1) without its small-sample bias.

    Formula: g = J·d, J = Γ(ν/2) / (√(ν/2)·Γ((ν-1)/2)), ν = n - 1; the interval is J times that of d_z.
    Estimand, H0, assumptions: as ``cohen_dz``. Source: Hedges 1981.

    Raises:
        Invalid: fewer than three finite numbers.

    >>> round(hedges_gz([1.2, 2.4, 1.3, 1.3, 0.0, 1.0, 1.8, 0.8, 4.6, 1.4]).estimate, 4)
    1.1739
    """
    d = cohen_dz(vector(values, "values", least=3), level=level)
    half = (d.n - 1) / 2
    J = math.exp(math.lgamma(half) - math.lgamma(half - 0.5)) / math.sqrt(half)
    method = "g_z[ddof=1, exact J]"
    return Estimate(J * d.estimate, J * d.low, J * d.high, d.p, None, level, "two", method, d.n, d.units, 0, d.flags)


def crossed_mean(values: ArrayLike, *, level: float = 0.95) -> Estimate:
    """Return the mean of a crossed design, items × draws, both random.

    Estimand: the mean effect of a random draw on a random item. H0 of p: it is 0. Formula:
    se² = var_draws(mean over items)/R + var_items(mean over draws)/n, t on min(R, n) - 1 degrees of
    freedom; the interaction is counted twice, which errs on the safe side. An interval over items alone
    covers 60–78%. Assumptions: items and draws independent samples.
    Source: Cameron, Gelbach & Miller 2011; Owen 2007.

    Args:
        values: deltas  # (R, n)
        level: coverage.

    Raises:
        Invalid: fewer than two draws or items.

    Draws that all agree leave R's paired t-test of the sleep data, 1.58 [.7001, 2.4599], p = .00283:

    >>> got = crossed_mean([[1.2, 2.4, 1.3, 1.3, 0.0, 1.0, 1.8, 0.8, 4.6, 1.4]] * 10)
    >>> round(got.estimate, 4), round(got.low, 4), round(got.high, 4), round(got.p, 5)
    (1.58, 0.7001, 2.4599, 0.00283)
    """
    data = matrix(values, "values", rows=2, columns=2)
    R, n = data.shape
    over_draws, over_items = exact_mean(data), exact_mean(np.ascontiguousarray(data.T))
    se = math.sqrt(float(exact_variance(over_items)) / R + float(exact_variance(over_draws)) / n)
    return student(float(exact_mean(over_draws)), se, min(R, n) - 1, level, "crossed items × draws, t", n, min(R, n))


def clustered_mean(
    values: ArrayLike, clusters: Sequence[Any], *, correction: Literal["CR0", "CR1"] = "CR1", level: float = 0.95
) -> Estimate:
    """Return the mean over items with a cluster-robust standard error.

    Estimand: the mean over items (a large cluster weighs more; compare ``bootstrap(clusters=)``, which
    weighs clusters alike). H0 of p: it is 0. Formula: se² = c·Σ_g (Σ_{i∈g} (y_i - ȳ))² / n², c = 1 (CR0)
    or G/(G-1) (CR1); t on G - 1 degrees of freedom. Assumptions: clusters independent, not few.
    Source: Liang & Zeger 1986; R package sandwich.

    Raises:
        Invalid: fewer than two clusters, or not one label an item.

    >>> y, g = [1, 0, 1, 1, 0, 0, 1, 1, 1, 1, 0, 0, 1], [1, 1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 4, 4]
    >>> round(clustered_mean(y, g).se, 7)
    0.1031692
    """
    data = vector(values, "values")
    names, member = np.unique(np.asarray(clusters), return_inverse=True)
    if member.size != data.size or names.size < 2:
        found = f"{member.size} labels of {names.size} clusters for {data.size} items"
        raise Invalid(Problem("clusters", found, "give one label an item and at least two clusters"))
    mean, G = float(exact_mean(data)), names.size
    sums = np.array([float(exact_sum(data[member == g] - mean)) for g in range(G)])
    factor = G / (G - 1) if correction == "CR1" else 1.0
    varies = float(exact_variance(data)) > 0
    se = math.sqrt(factor * float(exact_sum(sums**2))) / data.size if varies else 0.0
    return student(mean, se, G - 1, level, f"item mean, {correction}, t", data.size, G)


def fieller(
    numerator: float, se_numerator: float, denominator: float, se_denominator: float, *, level: float = 0.95
) -> tuple[float, float]:
    """Return Fieller's interval of a ratio of two independent means; (-inf, inf) where it has no ends.

    Estimand: numerator / denominator. Formula: the ratios r with (a - r·b)² ≤ z²(s_a² + r²·s_b²). It has
    ends only if the denominator differs from 0 (g = z²·s_b²/b² < 1). Contrasts, not ratios, decide claims
    here; the ratio is for readers. Assumptions: normal, independent. Source: Fieller 1954.

    Raises:
        Invalid: a negative standard error, or what is no finite number.

    >>> [round(end, 4) for end in fieller(0.43, 0.03, 1.29, 0.033)]
    [0.2856, 0.3828]
    """
    if se_numerator < 0 or se_denominator < 0:
        raise Invalid(Problem("fieller", "a standard error is negative", "give standard errors"))
    numerator, denominator = number(numerator, "numerator"), number(denominator, "denominator")
    se_numerator, se_denominator = number(se_numerator, "se_numerator"), number(se_denominator, "se_denominator")
    z2 = float(ndtri(0.5 + level / 2)) ** 2
    a = denominator**2 - z2 * se_denominator**2
    if a <= 0:
        return -math.inf, math.inf
    b, c = numerator * denominator, numerator**2 - z2 * se_numerator**2
    root = math.sqrt(max(b * b - a * c, 0.0))
    return (b - root) / a, (b + root) / a


def event_rate(events: int, n: int, *, level: float = 0.95, sides: Sides = "upper") -> Estimate:
    """Return the rate of a rare event with its exact (Clopper–Pearson) bound.

    Estimand: the probability of an event a trial. Formula: quantiles of Beta(k, n-k+1) and Beta(k+1, n-k);
    with no event the upper bound is 1 - α^(1/n), about 3/n. No p: no rate was hypothesised.
    Assumptions: independent trials. Source: Clopper & Pearson 1934; Hanley & Lippman-Hand 1983.

    Raises:
        Invalid: events outside 0..n, or no trial.

    >>> round(event_rate(0, 100).high, 4)
    0.0295
    """
    if not 0 <= events <= n or n < 1:
        raise Invalid(Problem("events", f"{events} of {n}", "give 0..n events and at least one trial"))
    tail = (1 - level) / (2 if sides == "two" else 1)
    low = float(betaincinv(events, n - events + 1, tail)) if events and sides != "upper" else 0.0
    high = float(betaincinv(events + 1, n - events, 1 - tail)) if events < n and sides != "lower" else 1.0
    flags = ("ZERO_EVENTS",) if events == 0 else ()
    return Estimate(events / n, low, high, None, None, level, sides, "Clopper–Pearson", n, n, 0, flags)
