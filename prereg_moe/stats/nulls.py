"""Does a family matter more than random experts do? The random-null comparison (E1 of the default rule).

A family is ablated, and so are R random expert sets of the same size; each gives one delta an item of the
family's own axis. Three questions are answered, and a claim needs all three:

- is the family's mean delta extreme among the draws' (randomisation, no assumption but exchangeability)?
- is it extreme over all families at once (step-down max-T on leave-one-out studentised effects)?
- is its excess over the mean draw larger than the registered minimum effect, items and draws both random?
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import stdtr, stdtrit

from prereg_moe.errors import Invalid, Problem
from prereg_moe.stats.multiplicity import adjust, stepdown_maxt
from prereg_moe.stats.resample import (
    FloatArray,
    IntArray,
    Stream,
    exact_mean,
    exact_variance,
    matrix,
    number,
    stream,
    vector,
)

__all__ = ["FEW_DRAWS", "FEW_UNITS", "ZERO_VARIANCE", "BeatsNull", "beats_null", "leave_one_out_z"]

FEW_UNITS, FEW_DRAWS, ZERO_VARIANCE = "FEW_UNITS", "FEW_DRAWS", "ZERO_VARIANCE"
_FEW_UNITS, _FEW_DRAWS = 30, 19  # max-T cannot reach .05 below 19 draws
_TIE = 1e-12


@dataclass(frozen=True, slots=True, eq=False)
class BeatsNull:
    """The random-null comparison of F families; every array is (F,), in the order the families were given.

    Attributes:
        labels: the families.
        effect: mean delta of the family, in units of the measure.
        null_mean: mean over the draws of the draws' mean deltas.
        null_sd: their standard deviation (ddof = 1).
        z: the family's leave-one-out studentised effect among the draws.
        p_randomisation: (1 + #{draws at least as large}) / (R + 1).
        p_maxt: step-down max-T over the families.
        contrast: mean over items of the family's delta minus the draws' mean delta.
        se: its standard error, items and draws crossed.
        df: degrees of freedom, min(units, draws) - 1.
        low: lower end of the two-sided interval of the contrast at ``level``.
        high: its upper end.
        p_items: one-sided p of H0 contrast ≤ min_effect.
        p_items_adjusted: the same, Holm over the families.
        p: the largest of the three adjusted p: an intersection-union test.
        level: level of the interval.
        min_effect: the registered minimum effect.
        n: items, which here are units.
        draws: R.
        assignments: random assignments behind ``p_maxt``.
        flags: for each family, what limits the result.
        method: what was computed.
    """

    labels: tuple[str, ...]
    effect: FloatArray
    null_mean: FloatArray
    null_sd: FloatArray
    z: FloatArray
    p_randomisation: FloatArray
    p_maxt: FloatArray
    contrast: FloatArray
    se: FloatArray
    df: FloatArray
    low: FloatArray
    high: FloatArray
    p_items: FloatArray
    p_items_adjusted: FloatArray
    p: FloatArray
    level: float
    min_effect: float
    n: tuple[int, ...]
    draws: int
    assignments: int
    flags: tuple[tuple[str, ...], ...]
    method: str = "random null: randomisation, step-down max-T, crossed items × draws"


def beats_null(
    on: Sequence[ArrayLike],
    null: Sequence[ArrayLike],
    *,
    labels: Sequence[str],
    min_effect: float,
    seed: int | str,
    assignments: int = 9999,
    level: float = 0.95,
) -> BeatsNull:
    """Return how families compare with random expert sets on their own axes.

    Estimand: the excess of the family's mean effect over the mean effect of a random set of experts.
    H0 (randomisation, max-T): the family is exchangeable with the draws. H0 (items): the excess is at most
    ``min_effect`` (δ0).
    Formulas: ``p = (1 + #{T_r ≥ T_f}) / (R + 1)``; leave-one-out ``z_i = (T_i - mean_{-i}) / sd_{-i}`` over
    the R draws and the family; in each assignment every family receives a different random draw, or keeps
    its own value with probability 1/(R+1), and the step-down max-T of the assigned z is the null;
    ``t = (mean_i(D_fi - mean_r D_ri) - δ0) / √(s²/n + var_r(T_r)/R)`` on min(n, R) - 1 degrees of freedom.
    Assumptions: draws of one pool, matched to the families as registered; units independent.
    Source: Phipson & Smyth 2010 (the +1); Westfall & Young 1993 (max-T); Cameron, Gelbach & Miller 2011
    (two-way variance, of which this is the conservative sum); statistics.md E1 for measured error rates.

    Args:
        on: for each family its deltas on its own axis, + is harm  # F × (n_f,)
        null: for each family the draws' deltas on that axis, the same draws in the same order  # F × (R, n_f)
        labels: names of the families; they fix the order of random choices, so the order of arguments does not.
        min_effect: δ0, in units of the measure.
        seed: the registered seed.
        assignments: random assignments of draws to families.
        level: level of the reported interval of the excess.

    Raises:
        Invalid: shapes that do not fit, fewer than two units, two draws, or fewer draws than families; a minimum
            effect that is no finite number.

    With 19 draws the smallest p is 1/20:

    >>> draws = [[0.01 * r, 0.02] for r in range(19)]
    >>> beats_null([[1.0, 1.2]], [draws], labels=["ar"], min_effect=0.0, seed=1).p_randomisation.tolist()
    [0.05]

    Draws without any effect leave R's one-sided t-test of the sleep data (p = .00283 / 2):

    >>> sleep = [1.2, 2.4, 1.3, 1.3, 0.0, 1.0, 1.8, 0.8, 4.6, 1.4]
    >>> beats_null([sleep], [np.zeros((19, 10))], labels=["ar"], min_effect=0.0, seed=1).p_items.round(6).tolist()
    [0.001416]
    """
    own, draws = _checked(on, null, labels)
    min_effect = number(min_effect, "min_effect")
    place = np.argsort(np.array(labels), kind="stable")
    contrast = [item - exact_mean(draw) for item, draw in zip(own, draws, strict=True)]
    effect = np.array([float(exact_mean(item)) for item in own])
    pool = np.stack([_draw_means(draw, float(e)) for draw, e in zip(draws, effect, strict=True)], axis=1)  # (R, F)
    R = pool.shape[0]
    z = leave_one_out_z(np.concatenate([pool, effect[None]]))
    source = stream(seed, "null assignments", *sorted(labels))
    p_maxt = np.empty(len(own))
    p_maxt[place] = _assigned_maxt(z[:, place], pool[:, place], source, assignments)
    p_randomisation = (1 + (pool >= effect).sum(axis=0)) / (R + 1)

    n = np.array([item.size for item in own])
    difference = np.array([float(exact_mean(item)) for item in contrast])
    null_variance = exact_variance(pool)
    se = np.sqrt(np.array([float(exact_variance(item)) for item in contrast]) / n + null_variance / R)
    df = np.minimum(n, R) - 1.0
    p_items = _upper_tail(difference - min_effect, se, df)
    adjusted = adjust(p_items, "holm")
    half = stdtrit(df, 0.5 + level / 2) * se
    return BeatsNull(
        labels=tuple(labels),
        effect=effect,
        null_mean=exact_mean(pool),
        null_sd=np.sqrt(null_variance),
        z=z[-1],
        p_randomisation=p_randomisation,
        p_maxt=p_maxt,
        contrast=difference,
        se=se,
        df=df,
        low=difference - half,
        high=difference + half,
        p_items=p_items,
        p_items_adjusted=adjusted,
        p=np.maximum.reduce([p_randomisation, p_maxt, adjusted]),
        level=level,
        min_effect=min_effect,
        n=tuple(int(k) for k in n),
        draws=R,
        assignments=assignments,
        flags=tuple(_flags(int(k), R, float(s)) for k, s in zip(n, se, strict=True)),
    )


def _draw_means(draws: FloatArray, effect: float) -> FloatArray:
    """Return the draws' means; one that differs from the family's by rounding only is a tie, and set equal."""
    means = exact_mean(draws.T)
    return np.where(np.abs(means - effect) <= _TIE * max(np.abs(draws).max(), abs(effect)), effect, means)


def _checked(
    on: Sequence[ArrayLike], null: Sequence[ArrayLike], labels: Sequence[str]
) -> tuple[list[FloatArray], list[FloatArray]]:
    """Return the deltas as arrays, or every problem they have."""
    if not len(on) == len(null) == len(labels) or not labels:
        found = f"{len(on)} families, {len(null)} nulls, {len(labels)} labels"
        raise Invalid(Problem("beats_null", found, "give one null and one label for each family"))
    own = [vector(item, f"on[{f}]") for f, item in enumerate(on)]
    draws = [matrix(item, f"null[{f}]", rows=2) for f, item in enumerate(null)]
    problems = [
        Problem(f"null[{f}]", f"has {draw.shape[1]} units, the family {item.size}", "pair the same units")
        for f, (item, draw) in enumerate(zip(own, draws, strict=True))
        if draw.shape[1] != item.size
    ]
    sizes = {draw.shape[0] for draw in draws}
    if len(sizes) > 1:
        problems.append(Problem("null", f"has {sorted(sizes)} draws", "score every draw on every axis"))
    if min(sizes) < len(own):
        problems.append(Problem("null", f"has {min(sizes)} draws for {len(own)} families", "draw more"))
    if len(set(labels)) < len(labels):
        problems.append(Problem("labels", "are not all different", "name each family once"))
    if problems:
        raise Invalid(problems)
    return own, draws


def leave_one_out_z(values: FloatArray) -> FloatArray:
    """Return each value's distance from the mean of the others of its column, in their standard deviations.

    ``S_{-i}² = (SS - m/(m-1)·d_i²) / (m-2)`` and ``T_i - mean_{-i} = m/(m-1)·d_i`` with deviations d from
    the column mean. Where the others do not vary the result is ±inf, or 0.0 if the value agrees with them.
    """
    m = values.shape[0]
    deviation = values - exact_mean(values)
    total = exact_variance(values) * (m - 1)
    others = total - m / (m - 1) * deviation**2
    others = np.where(others <= 1e-12 * total, 0.0, others)
    gap = m / (m - 1) * np.where(np.abs(deviation) <= 1e-12 * np.abs(values).max(axis=0), 0.0, deviation)
    with np.errstate(divide="ignore", invalid="ignore"):
        z = gap / np.sqrt(others / (m - 2))
    return np.where(np.isnan(z), 0.0, z)


def _assigned_maxt(z: FloatArray, pool: FloatArray, source: Stream, assignments: int) -> FloatArray:
    """Return step-down max-T p-values of the last row of z under random assignment of the rows above it.

    Draws are first put in the order of their effects, so the order they were given in cannot matter.
    """
    R, families = pool.shape
    pick = assigned_draws(source, R, families, assignments)
    null = z[np.append(np.lexsort(pool.T), R)][pick, np.arange(families)]
    return stepdown_maxt(z[R], null)


def assigned_draws(source: Stream, R: int, families: int, assignments: int) -> IntArray:
    """Return for each assignment and family a draw's number, or R where the family keeps its own value.

    Draws within an assignment differ (partial Fisher-Yates); 2·F words an assignment.
    """
    words = source.words(0, assignments * 2 * families).reshape(assignments, 2, families)
    cards = np.tile(np.arange(R), (assignments, 1))
    row = np.arange(assignments)
    for f in range(families):
        j = f + (((words[:, 0, f] >> np.uint64(32)) * np.uint64(R - f)) >> np.uint64(32)).astype(np.int64)
        cards[row, f], cards[row, j] = cards[row, j], cards[row, f]
    own = words[:, 1] < np.uint64(2**64 // (R + 1))
    return np.where(own, R, cards[:, :families])


def _upper_tail(gap: FloatArray, se: FloatArray, df: FloatArray) -> FloatArray:
    """Return one-sided p of t = gap / se; 1.0 where nothing varies, because then nothing was measured."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(se > 0, stdtr(df, -gap / se), 1.0)


def _flags(n: int, R: int, se: float) -> tuple[str, ...]:
    held = {FEW_UNITS: n < _FEW_UNITS, FEW_DRAWS: R < _FEW_DRAWS, ZERO_VARIANCE: se == 0}
    return tuple(flag for flag, holds in held.items() if holds)
