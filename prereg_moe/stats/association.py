"""Association and agreement of ranks: does a routing statistic predict importance, do replications concur?

Ranks are doubled and centred, hence integers, so that every sum below is exact.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from prereg_moe.errors import Invalid, Problem
from prereg_moe.stats.intervals import Sides, bootstrap
from prereg_moe.stats.multiplicity import stepdown_maxt
from prereg_moe.stats.nulls import FEW_UNITS, ZERO_VARIANCE
from prereg_moe.stats.resample import FloatArray, IntArray, Stream, matrix, permutations, stream, vector
from prereg_moe.stats.resample import blocks as ranges

__all__ = ["Association", "Concordance", "centred_ranks", "concordance", "spearman", "spearman_many"]

_FEW_UNITS, _ENUMERATE = 30, 9
_TIE = 1e-12


@dataclass(frozen=True, slots=True)
class Association:
    """A rank correlation.

    Attributes:
        estimate: Spearman's ρ; within blocks, pooled, where blocks were given.
        low: lower end of the BCa interval.
        high: its upper end.
        p: permutation p.
        p_maxt: step-down max-T p over the statistics tested together (p itself for one).
        level: coverage.
        sides: ``two``, ``lower`` (H1: positive) or ``upper`` (H1: negative).
        method: what was computed.
        n: pairs.
        units: what the interval resampled: pairs, or blocks.
        resamples: permutations besides the observed one.
        flags: what limits the result.
    """

    estimate: float
    low: float
    high: float
    p: float
    p_maxt: float
    level: float
    sides: Sides
    method: str
    n: int
    units: int
    resamples: int
    flags: tuple[str, ...]


def centred_ranks(values: FloatArray, block: IntArray | None = None) -> FloatArray:
    """Return twice the mid-rank minus (size + 1), within blocks: integers that sum to 0 in each block."""
    if block is not None:
        result = np.empty(values.size)
        for b in np.unique(block):
            result[block == b] = centred_ranks(values[block == b])
        return result
    _, member, count = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(count)
    return np.asarray((2.0 * last - count - values.size)[member], dtype=np.float64)


def spearman(
    x: ArrayLike,
    y: ArrayLike,
    *,
    blocks: Sequence[Any] | None = None,
    sides: Sides = "two",
    resamples: int = 9999,
    seed: int | str = 0,
    level: float = 0.95,
    labels: Sequence[str] = (),
) -> Association:
    """Return Spearman's rank correlation with a permutation p and a BCa interval.

    Estimand: ρ of ranks; with ``blocks`` (layers) the pooled correlation of ranks taken within blocks,
    Σ_b S_xy / √(Σ_b S_xx · Σ_b S_yy), which differences between blocks cannot fake. H0: given its block, y is
    exchangeable. Formula: p = (1 + #{ρ* ≥ ρ}) / (1 + resamples), y permuted within blocks; all n! - 1
    permutations for n ≤ 9 without blocks. Interval: BCa over pairs, or over whole blocks.
    Assumptions: pairs (or, for the interval, blocks) independent.
    Source: Spearman 1904; Good 2005, ch. 3 (restricted permutation); Efron 1987.

    Raises:
        Invalid: lengths that differ, fewer than three pairs, labels that do not fit, a single block.

    R's ``cor.test`` on the data of Hollander & Wolfe 1973 (exact):

    >>> x = [44.4, 45.9, 41.9, 53.3, 44.7, 44.1, 50.7, 45.2, 60.1]
    >>> y = [2.6, 3.1, 2.5, 5.0, 3.6, 4.0, 5.2, 2.8, 3.8]
    >>> got = spearman(x, y)
    >>> round(got.estimate, 4), round(got.p, 8)
    (0.6, 0.09679784)
    """
    return spearman_many(
        vector(x, "x", least=3)[None],
        y,
        blocks=blocks,
        sides=sides,
        resamples=resamples,
        seed=seed,
        level=level,
        labels=labels,
    )[0]


def spearman_many(
    x: ArrayLike,
    y: ArrayLike,
    *,
    blocks: Sequence[Any] | None = None,
    sides: Sides = "two",
    resamples: int = 9999,
    seed: int | str = 0,
    level: float = 0.95,
    labels: Sequence[str] = (),
) -> tuple[Association, ...]:
    """Return the rank correlations of several statistics with one outcome, max-T over the statistics.

    As ``spearman``, row by row  # x (m, n), y (n,); all rows see the same permutations of y.

    Raises:
        Invalid: as ``spearman``.

    The data of ``spearman`` and the same upside down (R: ρ = .6, p = .0968):

    >>> x = [44.4, 45.9, 41.9, 53.3, 44.7, 44.1, 50.7, 45.2, 60.1]
    >>> y = [2.6, 3.1, 2.5, 5.0, 3.6, 4.0, 5.2, 2.8, 3.8]
    >>> [(round(one.estimate, 4), round(one.p, 4)) for one in spearman_many([x, [-value for value in x]], y)]
    [(0.6, 0.0968), (-0.6, 0.0968)]
    """
    rows, outcome = matrix(x, "x", columns=3), vector(y, "y", least=3)
    n = outcome.size
    if rows.shape[1] != n or (blocks is not None and len(blocks) != n):
        raise Invalid(Problem("spearman", f"x has {rows.shape[1]} values, y {n}", "pair them, one block label a pair"))
    block = None if blocks is None else np.unique(np.asarray(blocks), return_inverse=True)[1].astype(np.int64)
    if block is not None and block.max() == 0:
        raise Invalid(Problem("blocks", "are all the same", "leave them out, or give two"))
    a = np.stack([centred_ranks(row, block) for row in rows], axis=1)  # (n, m)
    b = centred_ranks(outcome, block)
    norm = np.sqrt((a * a).sum(axis=0) * (b @ b))
    source = stream(seed, "permutations", *labels)
    sums = _permuted(a, b, block, source, resamples)
    turn = {"two": np.abs, "lower": np.positive, "upper": np.negative}[sides]
    observed, null = turn(b @ a), turn(sums)
    scale = np.where(norm > 0, norm, 1.0)
    p_maxt = stepdown_maxt(observed / scale, null / scale, tolerance=_TIE)
    p = (1 + (null >= observed).sum(axis=0)) / (1 + null.shape[0])
    ends = [_interval(row, outcome, (a[:, j], b), block, level, seed, labels) for j, row in enumerate(rows)]
    return tuple(
        Association(
            estimate=float(b @ a[:, j] / scale[j]),
            low=ends[j][0],
            high=ends[j][1],
            p=float(p[j]) if norm[j] else 1.0,
            p_maxt=float(p_maxt[j]) if norm[j] else 1.0,
            level=level,
            sides=sides,
            method="Spearman" + (" within blocks" if blocks is not None else "") + ", permutation p, BCa interval",
            n=n,
            units=ends[j][2],
            resamples=null.shape[0],
            flags=((FEW_UNITS,) if ends[j][2] < _FEW_UNITS else ()) + (() if norm[j] else (ZERO_VARIANCE,)),
        )
        for j in range(len(rows))
    )


def _permuted(a: FloatArray, b: FloatArray, block: IntArray | None, source: Stream, resamples: int) -> FloatArray:
    """Return Σ a·b for permutations of b  # (resamples, m), or every one but the identity for few pairs."""
    n = b.size
    if block is None and n <= _ENUMERATE:
        table = np.array(list(itertools.permutations(range(n))))[1:]
        return np.asarray(b[table] @ a)
    group = np.zeros(n, dtype=np.int64) if block is None else block
    parts = [b[permutations(source, group, start, stop)] @ a for start, stop in ranges(resamples, 512)]
    return np.concatenate(parts)


def _interval(
    x: FloatArray,
    y: FloatArray,
    ranks: tuple[FloatArray, FloatArray],
    block: IntArray | None,
    level: float,
    seed: int | str,
    labels: Sequence[str],
) -> tuple[float, float, int]:
    """Return a BCa interval over pairs, or over whole blocks, and the number of units."""
    if block is None:
        got = bootstrap(
            np.stack([x, y], axis=1), _weighted_spearman, interval="bca", seed=seed, level=level, labels=labels
        )
    else:
        a, b = ranks
        products = np.stack([a * b, a * a, b * b], axis=1)
        sums = np.stack([products[block == g].sum(axis=0) for g in range(int(block.max()) + 1)])
        got = bootstrap(sums, _pooled, interval="bca", seed=seed, level=level, labels=labels)
    return got.low, got.high, got.units


def _pooled(sums: FloatArray, counts: FloatArray) -> FloatArray:
    """Return Σ S_xy / √(Σ S_xx · Σ S_yy) of resampled blocks."""
    xy, xx, yy = (counts @ sums).T
    return _over(xy, xx * yy)


def _weighted_spearman(values: FloatArray, counts: FloatArray) -> FloatArray:
    """Return Spearman's ρ of resampled pairs: the ranks of each resample, not of the sample."""
    x, y = _weighted_ranks(values[:, 0], counts), _weighted_ranks(values[:, 1], counts)
    return _over((counts * x * y).sum(axis=1), (counts * x * x).sum(axis=1) * (counts * y * y).sum(axis=1))


def _weighted_ranks(values: FloatArray, counts: FloatArray) -> FloatArray:
    """Return centred double mid-ranks where unit i occurs counts[b, i] times  # (B, n)"""
    _, first, member = np.unique(np.sort(values), return_index=True, return_inverse=True)
    order = np.argsort(values, kind="stable")
    size = np.add.reduceat(counts[:, order], first, axis=1)
    centre = 2.0 * np.cumsum(size, axis=1) - size - counts.sum(axis=1, keepdims=True)
    result = np.empty_like(counts)
    result[:, order] = centre[:, member]
    return result


def _over(numerator: FloatArray, squared: FloatArray) -> FloatArray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(squared > 0, numerator / np.sqrt(squared), np.nan)


@dataclass(frozen=True, slots=True)
class Concordance:
    """How far K replications order and sign m effects alike.

    Attributes:
        estimate: Kendall's W, 0 (no agreement) to 1 (one order), corrected for ties.
        p: permutation p of H0 W as of random orders.
        mean_spearman: mean ρ over pairs of replications, (K·W - 1) / (K - 1).
        sign_agreement: share of effects with one sign in all replications.
        replications: K.
        n: effects m.
        resamples: permutations.
        method: what was computed.
        flags: what limits the result.
    """

    estimate: float
    p: float
    mean_spearman: float
    sign_agreement: float
    replications: int
    n: int
    resamples: int
    method: str = "Kendall's W, permutation p"
    flags: tuple[str, ...] = ()


def concordance(effects: ArrayLike, *, resamples: int = 9999, seed: int | str = 0) -> Concordance:
    """Return the agreement between replications (corpora, seeds, models) of the same effects.

    Estimand: Kendall's W of the replications' rankings. H0: each replication's order is random. Formula:
    W = Σ_j R_j² / (K·Σ_k Σ_j r_kj²) with centred ranks r and their sums R over replications;
    p = (1 + #{W* ≥ W}) / (1 + resamples), every replication permuted. Assumptions: replications independent.
    Source: Kendall & Babington Smith 1939.

    Args:
        effects: # (K, m)
        resamples: permutations.
        seed: the registered seed.

    Raises:
        Invalid: fewer than two replications or three effects.

    Three raters of twenty subjects, the example of R's DescTools and irr (W = .54):

    >>> got = concordance([[3, 3, 3, 4, 5, 5, 2, 3, 5, 2, 2, 6, 1, 5, 2, 2, 1, 2, 4, 3],
    ...                    [3, 6, 4, 6, 2, 4, 2, 4, 3, 3, 2, 3, 3, 3, 2, 2, 1, 3, 3, 4],
    ...                    [2, 1, 4, 4, 3, 2, 1, 6, 1, 1, 1, 2, 3, 3, 1, 1, 3, 3, 2, 2]])
    >>> round(got.estimate, 2), got.p < 0.05
    (0.54, True)
    """
    data = matrix(effects, "effects", rows=2, columns=3)
    K, m = data.shape
    ranks = np.stack([centred_ranks(row) for row in data])
    total = float((ranks * ranks).sum()) * K
    agree = float(((data > 0).all(axis=0) | (data < 0).all(axis=0)).mean())
    if (ranks == 0).all(axis=1).any():
        return Concordance(0.0, 1.0, 0.0, agree, K, m, 0, flags=(ZERO_VARIANCE,))
    observed = float((ranks.sum(axis=0) ** 2).sum())
    free = np.zeros(m, dtype=np.int64)
    hits = 0
    for start, stop in ranges(resamples, 512):
        drawn = sum(row[permutations(stream(seed, "concordance", k), free, start, stop)] for k, row in enumerate(ranks))
        hits += int(((np.asarray(drawn) ** 2).sum(axis=1) >= observed).sum())
    W = observed / total
    return Concordance(W, (1 + hits) / (1 + resamples), (K * W - 1) / (K - 1), agree, K, m, resamples)
