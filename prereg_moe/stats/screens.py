"""Thousands of conditions at once: a screen, which finds candidates and confirms none.

Axes are read one after the other, and replicates in blocks, so memory does not grow with the number of
resamples. Each axis has its own units and its own stream; within an axis all conditions share them, which
is what makes max-T less strict than Bonferroni.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtr

from prereg_moe.errors import Invalid, Problem
from prereg_moe.stats.intervals import Sides
from prereg_moe.stats.multiplicity import adjust
from prereg_moe.stats.nulls import FEW_UNITS, ZERO_VARIANCE
from prereg_moe.stats.resample import (
    FloatArray,
    IntArray,
    blocks,
    exact_mean,
    exact_variance,
    matrix,
    on_grid,
    poisson_counts,
    stream,
)

__all__ = ["Screen", "ScreenedAxis", "screen"]

_FEW_UNITS, _SLICE, _CANDIDATES = 30, 256, 16
_Float = TypeVar("_Float", np.float32, np.float64)


@dataclass(frozen=True, slots=True, eq=False)
class ScreenedAxis:
    """The conditions of one axis; arrays are (m,), in input order.

    Attributes:
        axis: its name.
        estimate: mean delta.
        se: its standard error.
        t: estimate / se, 0.0 where nothing varies.
        p: Student-t p of each condition alone.
        p_adjusted: over all conditions of all axes.
        n: units.
        flags: what limits the result.
    """

    axis: str
    estimate: FloatArray
    se: FloatArray
    t: FloatArray
    p: FloatArray
    p_adjusted: FloatArray
    n: int
    flags: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Screen:
    """A screen over axes; ``method`` says what the adjusted p-values control.

    Attributes:
        axes: the axes, in input order.
        conditions: how many were screened in all.
        sides: direction of the alternative.
        method: ``maxt`` (family-wise), ``bh`` or ``by`` (false discoveries).
        resamples: B, 0 for ``bh`` and ``by``.
    """

    axes: tuple[ScreenedAxis, ...]
    conditions: int
    sides: Sides
    method: str
    resamples: int


def screen(
    deltas: Mapping[str, ArrayLike] | Iterable[tuple[str, ArrayLike]],
    *,
    method: Literal["maxt", "bh", "by"] = "maxt",
    sides: Sides = "lower",
    resamples: int = 9999,
    seed: int | str = 0,
    block: int = 512,
) -> Screen:
    """Return which of thousands of conditions have an effect, adjusted over all of them.

    Estimand: each condition's mean. H0: it is 0 (two), at most 0 (lower) or at least 0 (upper). Formula:
    t = mean / se; ``maxt``: p = (1 + #{b: max over all conditions t*_b ≥ t}) / (1 + B), with
    t* = Σ (w - 1)(x - x̄) / (n·se), w independent Poisson(1) weights shared by the conditions of an axis;
    single-step. ``bh``, ``by``: adjusted Student-t p. Assumptions: units independent and many (from
    hundreds on: se is not resampled); axes independent. Source: Westfall & Young 1993;
    Chernozhukov, Chetverikov & Kato 2013 (many means); Benjamini & Yekutieli 2001.

    Args:
        deltas: for each axis its matrix  # (n units, m conditions); an iterable of pairs is read one by one,
            so that axes need not be in memory together.
        method: ``maxt bh by``.
        sides: direction of the alternative; ``lower`` looks for harm.
        resamples: B of ``maxt``.
        seed: the registered seed.
        block: replicates handled at a time; cannot change a result.

    Raises:
        Invalid: no axis, a repeated one, fewer than two units, or values that are not finite numbers.

    Three conditions with correlation 1/2 and t = 2.5, 2, 1; R's mvtnorm gives p of .0168, .0575, .3222:

    >>> noise = np.random.default_rng(0).normal(size=(2000, 4))
    >>> apart = np.linalg.qr(noise - noise.mean(axis=0))[0]
    >>> deltas = (apart[:, :1] + apart[:, 1:]) * np.sqrt(1999 / 2) + np.array([2.5, 2.0, 1.0]) / np.sqrt(2000)
    >>> got = screen({"ar": deltas}).axes[0]
    >>> got.t.round(6).tolist(), got.p_adjusted.round(2).tolist()
    ([2.5, 2.0, 1.0], [0.02, 0.06, 0.33])
    """
    if method not in {"maxt", "bh", "by"}:
        raise Invalid(Problem("method", f"is {method!r}", "use maxt, bh or by"))
    parts: list[ScreenedAxis] = []
    largest = np.full(resamples if method == "maxt" else 0, -np.inf)
    for axis, values in deltas.items() if isinstance(deltas, Mapping) else deltas:
        if axis in {part.axis for part in parts}:
            raise Invalid(Problem(f"deltas.{axis}", "is given twice", "give each axis once"))
        parts.append(_screened(axis, matrix(values, f"deltas.{axis}", rows=2), sides, seed, largest, block))
    if not parts:
        raise Invalid(Problem("deltas", "hold no axis", "give at least one"))
    adjusted = _adjusted(parts, method, sides, largest)
    ends = np.cumsum([part.t.size for part in parts])[:-1]
    axes = tuple(
        ScreenedAxis(part.axis, part.estimate, part.se, part.t, part.p, p, part.n, part.flags)
        for part, p in zip(parts, np.split(adjusted, ends), strict=True)
    )
    return Screen(axes, adjusted.size, sides, method, largest.size)


def _screened(
    axis: str, values: FloatArray, sides: Sides, seed: int | str, largest: FloatArray, block: int
) -> ScreenedAxis:
    """Return an axis's own results, and raise ``largest`` to the maximum of its null statistics."""
    n, m = values.shape
    mean, se, q, g = np.empty(m), np.empty(m), np.empty((m, n)), np.empty(m, dtype=np.int64)
    rough = np.empty((n, m), dtype=np.float32)
    for start in range(0, m, _SLICE):
        part = slice(start, start + _SLICE)
        mean[part], se[part], scaled = _standardised(values[:, part])
        rough[:, part] = scaled
        exact, g[part] = on_grid(scaled, 4 * n + 64)  # Σ |w - 1| of Poisson weights stays far below 4·n + 64
        q[part] = exact.T
    t = np.where(se > 0, mean / np.where(se > 0, se, 1.0), 0.0)
    source = stream(seed, "screen", axis)
    for start, stop in blocks(largest.size, block):
        weights = poisson_counts(source, n, start, stop)
        weights -= 1.0
        reached = _largest(weights, rough, q, g, sides)
        largest[start:stop] = np.maximum(largest[start:stop], reached)
    one = stdtr(n - 1, -_turned(t, sides))
    p = np.where(se > 0, 2 * one if sides == "two" else one, 1.0)
    held = {FEW_UNITS: n < _FEW_UNITS, ZERO_VARIANCE: bool((se == 0).any())}
    return ScreenedAxis(axis, mean, se, t, p, p, n, tuple(flag for flag, holds in held.items() if holds))


def _standardised(values: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return mean, standard error, and (x - mean) / (n·se), 0 where nothing varies."""
    n = values.shape[0]
    mean = exact_mean(values)
    se = np.sqrt(exact_variance(values, mean) / n)
    return mean, se, np.where(se > 0, (values - mean) / np.where(se > 0, n * se, 1.0), 0.0)


def _largest(
    weights: NDArray[np.float32], rough: NDArray[np.float32], q: FloatArray, g: IntArray, sides: Sides
) -> FloatArray:
    """Return the largest null statistic of every replicate, exact although most of the work is in single precision.

    A product of n terms errs by at most γ·Σ|w - 1||x|, γ = (n + 2)·u / (1 - (n + 2)·u) and u = 2**-24, in whatever
    order it is summed (Higham 2002, section 3.1), and Σ|w - 1||x| ≤ ‖w - 1‖ because Σx² < 1. Only conditions that
    come so near to the largest can be it; those are summed again on the dyadic grid.

    Args:
        weights: w - 1  # (b, n)
        rough: standardised deviations x  # (n, m)
        q: the same as integers, by condition  # (m, n)
        g: their exponents  # (m,)
        sides: direction of the alternative.
    """
    unit = (weights.shape[1] + 2) * 2.0**-24
    near = _turned(weights @ rough, sides)
    error = unit / (1 - unit) * np.sqrt(np.einsum("bn,bn->b", weights, weights))
    row, column = np.nonzero(near >= (near.max(axis=1) - 2.1 * error)[:, None])  # 2, and room for their own rounding
    if row.size > _CANDIDATES * len(weights):
        return np.asarray(_turned(np.ldexp(weights.astype(np.float64) @ q.T, -g), sides).max(axis=1))
    largest = np.full(len(weights), -np.inf)
    for start in range(0, row.size, _SLICE):
        b, j = row[start : start + _SLICE], column[start : start + _SLICE]
        exact = np.ldexp(np.einsum("pn,pn->p", weights[b].astype(np.float64), q[j]), -g[j])
        np.maximum.at(largest, b, _turned(exact, sides))
    return largest


def _turned(t: NDArray[_Float], sides: Sides) -> NDArray[_Float]:
    """Return t so that large values speak for the alternative."""
    return {"two": np.abs, "lower": np.positive, "upper": np.negative}[sides](t)


def _adjusted(parts: list[ScreenedAxis], method: str, sides: Sides, largest: FloatArray) -> FloatArray:
    p = np.concatenate([part.p for part in parts])
    if method != "maxt":
        return adjust(p, method)
    t = _turned(np.concatenate([part.t for part in parts]), sides)
    below = np.searchsorted(np.sort(largest), t, side="left")
    varies = np.concatenate([part.se for part in parts]) > 0
    return np.where(varies, (1 + largest.size - below) / (1 + largest.size), 1.0)
