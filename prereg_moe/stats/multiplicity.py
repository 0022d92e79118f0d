"""Many hypotheses: adjusted p-values, step-down max-T, fixed sequence and partial conjunction.

An adjusted p-value is the smallest level at which its hypothesis is rejected by the whole procedure;
comparing it with the registered level decides. All functions return adjusted p-values in input order.

The five one-line procedures are written here because a verdict must not wait five seconds for statsmodels
to load; Hommel's is statsmodels's. Tests compare all six with statsmodels and with R's ``p.adjust``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike

from prereg_moe.errors import Invalid, Problem
from prereg_moe.stats.resample import FloatArray, IntArray, blocks, vector

__all__ = ["Adjustment", "adjust", "fixed_sequence", "partial_conjunction", "stepdown_maxt"]

Adjustment = Literal["bonferroni", "holm", "hochberg", "hommel", "bh", "by"]


def _probabilities(p: ArrayLike) -> FloatArray:
    array = vector(p, "p", least=1)
    if not ((array >= 0) & (array <= 1)).all():
        raise Invalid(Problem("p", "holds a value outside 0..1", "pass p-values"))
    return array


def adjust(p: ArrayLike, method: Adjustment | str = "holm") -> FloatArray:
    """Return adjusted p-values, in input order.

    Estimand: none; a p-value of each hypothesis is turned into its adjusted p-value. H0: each hypothesis's own.
    Controls, and assumptions: ``bonferroni`` and ``holm`` the family-wise error under any dependence;
    ``hochberg`` and ``hommel`` the same when the p-values are independent or positively dependent; ``bh`` the
    false discovery rate under independence or positive dependence, ``by`` under any dependence.
    Formula, with p sorted ascending and i from 1 to m: Holm ``max_{j≤i} (m-j+1)·p_j``; Hochberg
    ``min_{j≥i} (m-j+1)·p_j``; BH ``min_{j≥i} m·p_j/j``; BY is BH times ``Σ 1/j``.
    Source: Holm 1979; Hochberg 1988; Hommel 1988; Benjamini & Hochberg 1995; Benjamini & Yekutieli 2001.

    Raises:
        Invalid: an unknown method, no p-value, or one outside 0..1.

    The Holm values R's ``p.adjust`` gives for six p-values:

    >>> adjust([0.0021, 0.0098, 0.0105, 0.0350, 0.0412, 0.2270], "holm").round(4).tolist()
    [0.0126, 0.049, 0.049, 0.105, 0.105, 0.227]
    """
    values = _probabilities(p)
    if method == "hommel":
        from statsmodels.stats.multitest import multipletests  # five seconds to import

        return np.asarray(multipletests(values, method="hommel")[1], dtype=np.float64)
    order = np.argsort(values, kind="stable")
    result = np.empty_like(values)
    result[order] = np.minimum(_stepwise(values[order], method), 1.0)
    return result


def _stepwise(p: FloatArray, method: str) -> FloatArray:
    """Return the adjusted values of ascending p, not yet capped at 1."""
    rank = np.arange(1, p.size + 1)
    down = p * (p.size - rank + 1)
    up = p * p.size / rank
    if method == "bonferroni":
        return p * p.size
    if method == "holm":
        return np.maximum.accumulate(down)
    if method == "hochberg":
        return np.minimum.accumulate(down[::-1])[::-1]
    if method in {"bh", "by"}:
        factor = 1.0 if method == "bh" else float(np.sum(1.0 / rank))
        return np.minimum.accumulate(factor * up[::-1])[::-1]
    raise Invalid(Problem("method", f"is {method!r}", f"use one of {', '.join(get_args(Adjustment))}"))


def fixed_sequence(p: ArrayLike) -> FloatArray:
    """Return adjusted p-values of hypotheses tested in the registered order until one fails.

    Estimand: none. H0: each hypothesis's own. Controls the family-wise error; assumptions: none on dependence,
    but the order is registered. Formula: ``max_{j≤i} p_j``, i in registered order.
    Source: Maurer, Hothorn & Lehmacher 1995; Westfall & Krishen 2001.

    Raises:
        Invalid: no p-value, or one outside 0..1.

    >>> fixed_sequence([0.01, 0.04, 0.02]).tolist()
    [0.01, 0.04, 0.04]
    """
    return np.maximum.accumulate(_probabilities(p))


def stepdown_maxt(observed: ArrayLike, null: ArrayLike, *, tolerance: float = 0.0, block: int = 4096) -> FloatArray:
    """Return step-down max-T adjusted p-values, in input order.

    Estimand: none. H0 of each hypothesis: its statistic is distributed like its column of ``null``; large
    values speak against it. Controls the family-wise error strongly, using the dependence in ``null``.
    Formula: hypotheses sorted by falling statistic; ``p_(i) = (1 + #{b: max_{j≥i} null_b(j) ≥ t_(i)}) / (1 + B)``
    made monotone from the first on. The observed data count as one of the B+1 draws, so p is never 0.
    Assumptions: subset pivotality (the joint null of a subset does not depend on which others are true);
    ties are counted against the claim, so make statistics from exact sums or give a tolerance.
    Source: Westfall & Young 1993, algorithm 4.1; Romano & Wolf 2005.

    Args:
        observed: statistics  # (m,)
        null: statistics under the null, the observed ones left out  # (B, m)
        tolerance: draws this much below the observed statistic, relative to it (at least to 1), are ties.
        block: rows of ``null`` handled at a time.

    Raises:
        Invalid: shapes that do not fit, B = 0, or a NaN (infinities are ordered like numbers).

    NRejections 1.2.0, example of ``adj_Wstep`` (small p are large statistics, hence the signs):

    >>> p = [0.00233, 0.47037, 0.00290]
    >>> null = [[0.3085, 0.1167, 0.4150], [0.5173, 0.0732, 0.5135], [0.6865, 0.7703, 0.5712],
    ...         [0.6373, 0.3844, 0.6281], [0.1068, 0.0434, 0.4902]]
    >>> stepdown_maxt([-x for x in p], [[-x for x in row] for row in null]).round(4).tolist()
    [0.1667, 0.8333, 0.1667]
    """
    t, draws = np.asarray(observed, dtype=np.float64), np.asarray(null, dtype=np.float64)
    if t.ndim != 1 or draws.ndim != 2 or draws.shape[1] != t.size or not draws.size:
        problem = f"observed has shape {t.shape} and null {draws.shape}"
        raise Invalid(Problem("stepdown_maxt", problem, "pass (m,) and (B, m) with B and m at least 1"))
    if np.isnan(t).any() or np.isnan(draws).any():
        raise Invalid(Problem("stepdown_maxt", "a statistic is NaN", "decide before what a degenerate one counts as"))
    order = np.argsort(-t, kind="stable")
    slack = np.where(np.isfinite(t), tolerance * np.clip(np.abs(t), 1.0, 1e300), 0.0)
    bar = t - slack
    exceed = np.zeros(t.size, dtype=np.int64)
    for start, stop in blocks(draws.shape[0], block):
        exceed += exceedances(bar[order], draws[start:stop, order])
    result = np.empty(t.size)
    result[order] = np.maximum.accumulate((1 + exceed) / (1 + draws.shape[0]))
    return result


def exceedances(falling: FloatArray, null: FloatArray) -> IntArray:
    """Return how many rows of ``null`` reach each statistic with the largest value from its place on."""
    rest = np.maximum.accumulate(null[:, ::-1], axis=1)[:, ::-1]
    return np.asarray((rest >= falling).sum(axis=0), dtype=np.int64)


def partial_conjunction(p: ArrayLike, u: int | None = None) -> float:
    """Return a p-value for "at least u of the K hypotheses are false" (default u = K: all of them).

    Estimand: none. H0: fewer than u of the K nulls (corpora, metrics) are false.
    Formula: ``(K - u + 1) · p_(u)``, capped at 1. Assumptions: each p is valid; any dependence.
    Source: Benjamini & Heller 2008, Biometrics 64:1215, eq. 2.

    Raises:
        Invalid: u outside 1..K.

    >>> partial_conjunction([0.01, 0.02, 0.05], 2), partial_conjunction([0.01, 0.02, 0.05])
    (0.04, 0.05)
    """
    values: Sequence[float] = np.sort(_probabilities(p)).tolist()
    k = len(values)
    least = k if u is None else u
    if not 1 <= least <= k:
        raise Invalid(Problem("u", f"is {u} of {k}", f"use 1..{k}"))
    return min(1.0, (k - least + 1) * values[least - 1])
