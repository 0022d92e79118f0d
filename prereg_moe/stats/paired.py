"""Paired and two-group tests that assume little: exact McNemar, sign flips, permutation of groups.

Sign flips and permutations enumerate every arrangement where there are no more than ``resamples``, and draw
them from keyed streams otherwise; either way the observed one is counted, and ties count against the claim.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import bdtr, ndtr, ndtri

from prereg_moe.errors import Invalid, Problem
from prereg_moe.stats.intervals import Estimate, Sides
from prereg_moe.stats.multiplicity import stepdown_maxt
from prereg_moe.stats.nulls import FEW_UNITS, ZERO_VARIANCE
from prereg_moe.stats.resample import (
    FloatArray,
    blocks,
    cluster_means,
    exact_mean,
    exact_sum,
    matrix,
    on_grid,
    permutations,
    sign_table,
    signs,
    stream,
    vector,
)

__all__ = ["NO_DISCORDANT", "RandomisationTest", "mcnemar", "permute_groups", "sign_flip", "signed_rank"]

NO_DISCORDANT = "NO_DISCORDANT"
_FEW_UNITS, _TOLERANCE = 30, 1e-9


def mcnemar(
    first: ArrayLike,
    second: ArrayLike | None = None,
    *,
    exact: bool = True,
    level: float = 0.95,
    sides: Sides = "two",
) -> Estimate:
    """Return the change of a paired binary outcome: exact McNemar p, Bonett–Price interval.

    Estimand: P(second) - P(first). H0 of p: no change (two), no increase (lower), no decrease (upper).
    Formulas: with n01 pairs that gained and n10 that lost, exact p is binomial(n01 + n10, ½);
    χ² = (|n01 - n10| - 1)² / (n01 + n10) otherwise. Interval: with q = (n + 1)/(N + 2) for both counts,
    (q01 - q10) ± z·√((q01 + q10 - (q01 - q10)²) / (N + 2)).
    Assumptions: pairs independent. A bootstrap-t interval covers 69% here: never use it.
    Source: McNemar 1947; Bonett & Price 2012, J. Educ. Behav. Stat. 37:479.

    Args:
        first: 0/1 outcomes before  # (n,); or, alone, the table [[both, first only], [second only, neither]].
        second: 0/1 outcomes after, the same items  # (n,)
        exact: binomial p; else χ² with continuity correction, two-sided.
        level: coverage.
        sides: which p and bounds.

    Raises:
        Invalid: values other than 0 and 1, lengths that differ, an empty table, a one-sided χ².

    Approval ratings (Agresti 2013, section 11.1):

    >>> got = mcnemar([[794, 86], [150, 570]])
    >>> round(got.estimate, 4), round(got.low, 4), round(got.high, 4), f"{got.p:.3e}"
    (0.04, 0.0212, 0.0587, '3.716e-05')
    """
    both, lost, gained, neither = _table(first, second)
    n, changed = both + lost + gained + neither, lost + gained
    if exact:
        down, up = float(bdtr(gained, changed, 0.5)), float(bdtr(lost, changed, 0.5))
        p = {"two": min(1.0, 2 * min(down, up)), "lower": up, "upper": down}[sides]
    elif sides != "two":
        raise Invalid(Problem("sides", f"is {sides!r} for the χ² version", "use the exact one"))
    else:
        p = 2 * float(ndtr(-max(abs(gained - lost) - 1, 0) / math.sqrt(changed))) if changed else 1.0
    q_gained, q_lost = (gained + 1) / (n + 2), (lost + 1) / (n + 2)
    centre = q_gained - q_lost
    se = math.sqrt((q_gained + q_lost - centre**2) / (n + 2))
    half = float(ndtri(0.5 + level / 2 if sides == "two" else level)) * se
    flags = ((FEW_UNITS,) if n < _FEW_UNITS else ()) + ((NO_DISCORDANT,) if not changed else ())
    return Estimate(
        estimate=(gained - lost) / n,
        low=-math.inf if sides == "upper" else centre - half,
        high=math.inf if sides == "lower" else centre + half,
        p=p,
        se=se,
        level=level,
        sides=sides,
        method=f"McNemar {'exact' if exact else 'χ²'}, Bonett–Price",
        n=n,
        units=n,
        resamples=0,
        flags=flags,
    )


def _table(first: ArrayLike, second: ArrayLike | None) -> tuple[int, int, int, int]:
    """Return the counts (both, first only, second only, neither)."""
    if second is None:
        table = matrix(first, "table", rows=2, columns=2)
        if table.shape != (2, 2) or (table < 0).any() or (table != np.rint(table)).any() or not table.sum():
            raise Invalid(Problem("table", f"is {table.tolist()}", "give 2 × 2 counts"))
        (a, b), (c, d) = table.astype(int).tolist()
        return a, b, c, d
    before, after = vector(first, "first", least=1), vector(second, "second", least=1)
    if before.size != after.size or not np.isin(np.concatenate([before, after]), [0, 1]).all():
        raise Invalid(Problem("mcnemar", "outcomes are not 0/1 of the same items", "pair them by item"))
    a = int((before * after).sum())
    lost, gained = int(before.sum()) - a, int(after.sum()) - a
    return a, lost, gained, before.size - a - lost - gained


def signed_rank(values: ArrayLike, *, sides: Sides = "two") -> float:
    """Return the p-value of Wilcoxon's signed-rank test.

    Estimand: none, the sum of ranks. H0: differences are distributed symmetrically around 0.
    Formula: the sum of the ranks of positive differences; zeros are dropped, ties get mean ranks; exact for at
    most 50 differences without ties or zeros, else normal with the tie correction and without continuity
    correction (scipy's ``wilcoxon``). 1.0 where every difference is 0. Assumptions: differences independent.
    Source: Wilcoxon 1945; Pratt & Gibbons 1981.

    Args:
        values: paired differences  # (n,)
        sides: ``two``, ``lower`` (H1: above 0) or ``upper`` (H1: below 0).

    Raises:
        Invalid: not at least two finite numbers.

    Darwin's maize, crossed minus self-fertilised heights (R: wilcox.test gives V = 96, p = 0.0413):

    >>> maize = [49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48]
    >>> round(signed_rank(maize), 4)
    0.0413
    """
    from scipy.stats import wilcoxon  # scipy.stats takes seconds to import

    data = vector(values, "values")
    if not data.any():
        return 1.0
    alternatives: dict[Sides, Literal["two-sided", "greater", "less"]]
    alternatives = {"two": "two-sided", "lower": "greater", "upper": "less"}
    return float(wilcoxon(data, zero_method="wilcox", alternative=alternatives[sides], method="auto").pvalue)


@dataclass(frozen=True, slots=True, eq=False)
class RandomisationTest:
    """Tests of m hypotheses that share their units; arrays are (m,), in input order.

    Attributes:
        estimate: mean, or difference of means.
        statistic: its t.
        p: each hypothesis alone.
        p_maxt: step-down max-T over the m hypotheses.
        sides: ``two``, ``lower`` (H1: greater) or ``upper`` (H1: less).
        method: what was computed; says whether all arrangements were enumerated.
        n: items.
        units: units.
        resamples: arrangements besides the observed one.
        flags: what limits the result.
    """

    estimate: FloatArray
    statistic: FloatArray
    p: FloatArray
    p_maxt: FloatArray
    sides: Sides
    method: str
    n: int
    units: int
    resamples: int
    flags: tuple[str, ...]


def sign_flip(
    values: ArrayLike,
    *,
    sides: Sides = "two",
    resamples: int = 9999,
    seed: int | str = 0,
    clusters: Sequence[Any] | None = None,
    labels: Sequence[str] = (),
    block: int = 1024,
) -> RandomisationTest:
    """Return sign-flip tests of the means of m columns.

    Estimand: the means. H0: each column is distributed symmetrically around 0 (jointly, so that one sign
    a unit may be flipped in all columns). Formula: t of every arrangement of signs; p = (1 + #{t* ≥ t}) /
    (1 + resamples); step-down max-T for the family. Assumptions: units (or clusters) independent.
    Source: Fisher 1935; Westfall & Young 1993.

    Args:
        values: deltas  # (n,) or (n, m)
        sides: direction of the alternative.
        resamples: arrangements; all 2^units - 1 where these are no more.
        seed: the registered seed.
        clusters: each item's cluster: items are averaged to clusters, which flip whole.
        labels: further names of the stream.
        block: arrangements handled at a time; cannot change a result.

    Raises:
        Invalid: not finite numbers, or fewer than two units.

    All 64 arrangements, as multtest 2.54.0 enumerates them:

    >>> values = [[1.2, 0.3, 2.0, -0.1], [0.7, -0.2, -1.0, 0.4], [1.9, 0.8, 0.5, 0.2],
    ...           [0.4, 0.1, 1.5, -0.3], [1.1, 0.6, -0.7, 0.1], [0.9, -0.1, 0.2, 0.05]]
    >>> got = sign_flip(values, sides="lower")
    >>> got.p.tolist(), got.p_maxt.tolist()
    ([0.015625, 0.125, 0.234375, 0.3125], [0.015625, 0.265625, 0.4375, 0.4375])
    """
    raw = _columns(values, rows=2)
    data = raw if clusters is None else cluster_means(raw, clusters)
    n = data.shape[0]
    exact = 2**n - 1 <= resamples
    q, g = on_grid(data, n)
    squares = exact_sum(data * data)

    def t(flips: FloatArray) -> FloatArray:
        sums = np.ldexp(flips @ q, -g)
        spread = np.maximum(squares - sums**2 / n, 0.0)
        return _ratio(sums / n, np.sqrt(np.where(spread <= 1e-12 * squares, 0.0, spread) / (n - 1) / n))

    observed = t(np.ones((1, n)))[0]
    source = stream(seed, "sign flips", *labels)
    null = t(sign_table(n)[1:]) if exact else _stack(lambda a, b: t(signs(source, n, a, b)), resamples, block)
    method = f"sign flips, t, {'all arrangements' if exact else 'random arrangements'}"
    return _tested(exact_mean(data), observed, null, sides, method, raw.shape[0], n)


def permute_groups(
    values: ArrayLike,
    groups: Sequence[Any],
    *,
    strata: Sequence[Any] | None = None,
    sides: Sides = "two",
    resamples: int = 9999,
    seed: int | str = 0,
    labels: Sequence[str] = (),
    block: int = 1024,
) -> RandomisationTest:
    """Return permutation tests of the difference of two groups, first minus second in sorted order.

    Estimand: difference of means. H0: the groups have one distribution (within each stratum). Formula:
    Welch's t of every reassignment; p = (1 + #{t* ≥ t}) / (1 + resamples); step-down max-T.
    Assumptions: units exchangeable under H0. Source: Janssen 1997 (studentised); Westfall & Young 1993.

    Args:
        values: one row a unit  # (n,) or (n, m)
        groups: two different labels  # (n,)
        strata: units are reassigned within these only.
        sides: direction of the alternative (``lower``: the first group is greater).
        resamples: reassignments; all of them where these are no more and there are no strata.
        seed: the registered seed.
        labels: further names of the stream.
        block: reassignments handled at a time; cannot change a result.

    Raises:
        Invalid: not two groups of at least two units each, or labels that do not fit.

    All 70 arrangements, as multtest 2.54.0 enumerates them:

    >>> values = [[5.1, 1.0, 3.3, 0.2], [4.8, 2.0, 2.9, 0.9], [6.0, 1.5, 3.8, 0.4], [5.5, 1.7, 3.1, 0.3],
    ...           [7.9, 1.9, 3.0, 1.6], [8.3, 2.5, 3.6, 1.1], [7.2, 2.2, 3.2, 2.0], [8.8, 1.4, 3.4, 0.8]]
    >>> got = permute_groups(values, [0] * 4 + [1] * 4)
    >>> got.p.round(4).tolist(), got.p_maxt.round(4).tolist()
    ([0.0286, 0.2286, 1.0, 0.0571], [0.0286, 0.4, 1.0, 0.0857])
    """
    data = _columns(values, rows=4)
    names, member = np.unique(np.asarray(groups), return_inverse=True)
    n = data.shape[0]
    if names.size != 2 or member.size != n or min(np.bincount(member)) < 2:
        raise Invalid(
            Problem("groups", f"{member.size} labels of {names.size} groups", "give two groups of two or more")
        )
    first = (member == 0).astype(np.float64)
    n1 = int(first.sum())
    exact = strata is None and math.comb(n, n1) - 1 <= resamples
    centred = data - exact_mean(data)
    q, g = on_grid(np.concatenate([centred, centred * centred], axis=1), n)

    def t(chosen: FloatArray) -> FloatArray:
        inside = chosen @ q
        (m1, v1), (m2, v2) = _moments(np.ldexp(inside, -g), n1), _moments(np.ldexp(q.sum(axis=0) - inside, -g), n - n1)
        return _ratio(m1 - m2, np.sqrt(v1 / n1 + v2 / (n - n1)))

    observed = t(first[None])[0]
    if exact:
        null = t(_choices(n, n1, first))
    else:
        stratum = np.zeros(n, dtype=np.int64) if strata is None else np.unique(strata, return_inverse=True)[1]
        source = stream(seed, "permutations", *labels)
        null = _stack(lambda a, b: t(first[permutations(source, stratum, a, b)]), resamples, block)
    method = f"permutation of groups, Welch t, {'all' if exact else 'random'} arrangements"
    difference = exact_mean(data[member == 0]) - exact_mean(data[member == 1])
    return _tested(difference, observed, null, sides, method, n, n)


def _columns(values: ArrayLike, rows: int) -> FloatArray:
    return (
        vector(values, "values", least=rows)[:, None] if np.ndim(values) == 1 else matrix(values, "values", rows=rows)
    )


def _moments(sums: FloatArray, n: int) -> tuple[FloatArray, FloatArray]:
    """Return means and variances from sums of values and of squares, side by side  # (B, 2m)"""
    half = sums.shape[1] // 2
    mean, square = sums[:, :half] / n, sums[:, half:] / n
    variance = square - mean**2
    return mean, np.where(variance <= 1e-12 * square, 0.0, variance) * n / (n - 1)


def _choices(n: int, size: int, observed: FloatArray) -> FloatArray:
    """Return every choice of ``size`` of n as rows of 0 and 1, the observed one left out."""
    chosen = list(itertools.combinations(range(n), size))
    rows = np.zeros((len(chosen), n))
    np.put_along_axis(rows, np.array(chosen), 1.0, axis=1)
    others: FloatArray = rows[(rows != observed).any(axis=1)]
    return others


def _ratio(gap: FloatArray, se: FloatArray) -> FloatArray:
    """Return t; ±inf where only the standard error is 0, 0.0 where the gap is, too."""
    with np.errstate(divide="ignore", invalid="ignore"):
        t = gap / se
    return np.asarray(np.where(np.isnan(t), 0.0, t))


def _stack(make: Callable[[int, int], FloatArray], resamples: int, block: int) -> FloatArray:
    return np.concatenate([make(start, stop) for start, stop in blocks(resamples, block)])


def _tested(
    estimate: FloatArray, observed: FloatArray, null: FloatArray, sides: Sides, method: str, n: int, units: int
) -> RandomisationTest:
    """Return p-values of statistics under their arrangements, in the direction of ``sides``."""
    turn = {"two": np.abs, "lower": np.positive, "upper": np.negative}[sides]
    t, draws = turn(observed), turn(null)
    held = {FEW_UNITS: units < _FEW_UNITS, ZERO_VARIANCE: bool(((null == 0).all(axis=0) & (observed == 0)).any())}
    return RandomisationTest(
        estimate=estimate,
        statistic=observed,
        p=np.array([stepdown_maxt(t[[j]], draws[:, [j]], tolerance=_TOLERANCE)[0] for j in range(t.size)]),
        p_maxt=stepdown_maxt(t, draws, tolerance=_TOLERANCE),
        sides=sides,
        method=method,
        n=n,
        units=units,
        resamples=null.shape[0],
        flags=tuple(flag for flag, holds in held.items() if holds),
    )
