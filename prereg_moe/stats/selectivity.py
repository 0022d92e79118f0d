"""Is the harm confined to the family's own axis? Selectivity by intersection-union (E2 of the default rule).

A family is selective when its effect on its own axis exceeds κ times its effect on **every** other axis of
the domain. No ratio is formed: each off-axis o gives a contrast ψ_o = on - κ·off_o, and the claim is that all
of them are positive. The axis with the smallest studentised contrast is the **binding axis**.

From these parts the method can be written again:

- t_o = ψ̂_o / √(v_on + κ²·v_off), v the squared standard errors; with items linked across axes the variance
  is that of the per-item contrast.
- Bootstrap: the units of an axis are resampled together for all families (stream ``("items", "axis <name>")``, or
  ``("items", "linked")``); t*_o = (ψ*_o - ψ̂_o) / √(v*_on + κ²·v*_off).
- p of a family: step-down max-T over the families, on the null t* of each family's binding axis. The null
  of min_o t*_o would be wrong: it passes 29% of boundary cases.
- It is never below the floor (1 + 30/n)·P(max_o t*_o ≥ t of the binding axis), n the fewest units. The floor
  is at least the largest marginal p over the off-axes. It matters where few families are tested: a single
  one with heavy left tails passes 9-13% of boundary cases on the marginal p alone, because samples in which
  the tail was not seen look harmless. The bootstrap-t errs by O(1/n), hence the factor.
- A resample without any spread counts against what is being shown, in either direction.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import stdtr

from prereg_moe.errors import Invalid, Problem
from prereg_moe.stats.multiplicity import adjust, stepdown_maxt
from prereg_moe.stats.nulls import FEW_UNITS, ZERO_VARIANCE
from prereg_moe.stats.resample import (
    SMALL_SAMPLE,
    FloatArray,
    cluster_means,
    exact_mean,
    exact_sum,
    exact_variance,
    resampled_moments,
    stream,
    vector,
)

__all__ = ["FEW_RESAMPLES", "SKEW", "Contrast", "FamilySelectivity", "Selective", "selective"]

SKEW, FEW_RESAMPLES = "SKEW", "FEW_RESAMPLES"
_FEW_UNITS, _SKEW_GUARD = 30, 0.2
_LARGEST_KAPPA = 1e6  # as in a registration


@dataclass(frozen=True, slots=True)
class Contrast:
    """One contrast ψ = on - κ·sign·off of a family.

    Attributes:
        axis: the off-target axis.
        sign: 1, or -1 where the registered |off| asks for on + κ·off as well.
        on: mean delta on the family's own axis.
        off: mean delta on the off-target axis.
        psi: the contrast, in units of the measure.
        se: its standard error.
        t: psi / se (0.0 when nothing varies).
        p_marginal: bootstrap-t p of H0 ψ ≤ 0, this contrast alone.
        p_welch: Welch-t p of the same.
        p_below: bootstrap-t p of H0 ψ ≥ 0, this contrast alone.
        lower: one-sided lower bound at 1 - α/F; p ≤ α/F exactly where it is above 0.
        upper: one-sided upper bound at 1 - α/(F·k), k the number of the family's contrasts.
        skew: skewness g of the estimate's influence, Σ L³ / (Σ L²)^1.5.
    """

    axis: str
    sign: int
    on: float
    off: float
    psi: float
    se: float
    t: float
    p_marginal: float
    p_welch: float
    p_below: float
    lower: float
    upper: float
    skew: float


@dataclass(frozen=True, slots=True)
class FamilySelectivity:
    """The selectivity of one family: its contrasts and what follows from them.

    Attributes:
        label: the family.
        on_axis: its own axis.
        contrasts: one for each off-axis (two with ``absolute``), sorted by axis.
        binding: the contrast with the smallest t.
        p: max of p_maxt and p_floor.
        p_maxt: step-down max-T over the families, on the binding axis.
        p_floor: (1 + 30/n)·P(max over the off-axes t* ≥ t of the binding axis), at least p_marginal.
        p_marginal: largest marginal bootstrap-t p over the contrasts.
        p_welch: largest Welch-t p over the contrasts.
        p_refute: p of H0 "every ψ_o ≥ 0", to be compared with α/F: the smallest over the contrasts of the
            larger of (1 + 30/n)·k·p_below (Holm over the k contrasts, with the floor's small-sample
            factor) and step-down max-T over all contrasts of all families, divided by F.
        skew: skewness g of the binding contrast.
        flags: what limits the result.
    """

    label: str
    on_axis: str
    contrasts: tuple[Contrast, ...]
    binding: Contrast
    p: float
    p_maxt: float
    p_floor: float
    p_marginal: float
    p_welch: float
    p_refute: float
    skew: float
    flags: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Selective:
    """The selectivity of F families, in the order they were given.

    ``p``, ``p_maxt``, ``p_welch_holm`` … are arrays (F,), or numbers (shape ()) when a single family was
    passed as bare arrays.

    Attributes:
        families: the results one by one.
        p: max of step-down max-T and the floor.
        p_welch_holm: Welch-t version, largest over the axes, Holm over the families.
        p_refute: p against ψ_o ≥ 0 for every o; compare with α/F.
        estimate: the binding contrast ψ̂.
        kappa: κ.
        alpha: α of the bounds.
        n: items of each axis.
        units: units of each axis.
        resamples: B.
        flags: everything flagged in any family.
        method: what was computed.
    """

    families: tuple[FamilySelectivity, ...]
    p: FloatArray
    p_welch_holm: FloatArray
    p_refute: FloatArray
    estimate: FloatArray
    kappa: float
    alpha: float
    n: tuple[tuple[str, int], ...]
    units: tuple[tuple[str, int], ...]
    resamples: int
    flags: tuple[str, ...]
    method: str = "intersection-union, binding-axis step-down max-T bootstrap-t, small-sample floor over the axes"


def selective(
    on: Sequence[ArrayLike] | ArrayLike,
    off: Sequence[Mapping[str, ArrayLike]] | Mapping[str, ArrayLike] | Sequence[ArrayLike],
    *,
    kappa: float = 3.0,
    on_axes: Sequence[str] | None = None,
    labels: Sequence[str] | None = None,
    resamples: int = 9999,
    seed: int | str,
    alpha: float = 0.05,
    linked: bool = False,
    absolute: bool = False,
    clusters: Mapping[str, Sequence[Any]] | None = None,
    block: int = 512,
) -> Selective:
    """Return whether families harm their own axis more than κ times every other one.

    Estimand: ψ_o = E[on] - κ·E[off_o] for every off-axis o (and on + κ·off_o with ``absolute``).
    H0: some ψ_o ≤ 0. Formulas and method: the module's docstring.
    Assumptions: units independent within an axis, axes independent unless ``linked``. The binding-axis null
    is asymptotic (only one axis at its bound, or the others clearly above theirs); its error rates are
    simulated in calibration.md, not proved. Heavy left tails inflate them: see the flag SKEW (-g > 0.2).
    Source: Berger 1982 (intersection-union); Hall 1992, ch. 3 (bootstrap-t); Westfall & Young 1993;
    statistics.md E2.

    Args:
        on: for each family its deltas on its own axis, + is harm  # F × (n_f,); or one family's  # (n,)
        off: for each family a mapping from off-axis to its deltas there; for one family also a sequence.
        kappa: how many times larger the effect on the own axis has to be.
        on_axes: each family's own axis (default "on" for a single family). Axes with one name share their
            units and therefore their resamples.
        labels: names of the families (default: their own axes).
        resamples: B.
        seed: the registered seed.
        alpha: level of the reported bounds.
        linked: items are the same on all axes (parallel text): resample them together.
        absolute: |off| is registered: harm and help on another axis both count against the family.
        clusters: for axes whose items are clustered, each item's cluster; items are averaged to clusters.
        block: replicates handled at a time; cannot change a result.

    Raises:
        Invalid: no off-axis, a unit count that differs within an axis, fewer than two units, κ ≤ 0.

    >>> import math
    >>> wave = [math.sin(i) for i in range(40)]
    >>> result = selective([1.2 + .1 * w for w in wave], {"fr": [.1 + .1 * w for w in wave]}, seed=1)
    >>> float(result.p), result.families[0].binding.axis, result.flags
    (0.000175, 'fr', ())

    Against an axis without any effect, Welch's p is that of R's one-sided t-test of the sleep data (.00283 / 2):

    >>> sleep = [1.2, 2.4, 1.3, 1.3, 0.0, 1.0, 1.8, 0.8, 4.6, 1.4]
    >>> round(selective(sleep, {"fr": [0.0] * 10}, seed=1).families[0].p_welch, 6)
    0.001416
    """
    single = on_axes is None
    families = _families(on, off, on_axes, labels, clusters or {})
    if not 0 < kappa <= _LARGEST_KAPPA or resamples < 1:
        todo = f"both must be positive, and kappa at most {_LARGEST_KAPPA:g}"
        raise Invalid(Problem("selective", f"kappa is {kappa}, resamples {resamples}", todo))
    pool = _Pool()
    plans = [_plans(family, pool, kappa, linked=linked, absolute=absolute) for family in families]
    axes = {axis: _axis(columns, axis, seed, resamples, block) for axis, columns in pool.columns.items()}
    share = alpha / len(families)
    computed = [[_contrast(plan, axes, share, share / len(family)) for plan in family] for family in plans]
    p_maxt, p_below = _over_families(computed), _over_contrasts(computed)
    results = tuple(
        _family(family, contrasts, float(p), below, families=len(families), fine=share * (resamples + 1) >= 1)
        for family, contrasts, p, below in zip(families, computed, p_maxt, p_below, strict=True)
    )
    return _assembled(results, families, single=single, kappa=kappa, alpha=alpha, resamples=resamples)


# ------------------------------------------------------------------ input


@dataclass(frozen=True, slots=True)
class _Family:
    """A family's deltas, averaged to units: on its own axis and on every off-axis, sorted by name."""

    label: str
    on_axis: str
    on: FloatArray
    off: dict[str, FloatArray]
    items: dict[str, int]


def _families(
    on: Any,
    off: Any,
    on_axes: Sequence[str] | None,
    labels: Sequence[str] | None,
    clusters: Mapping[str, Sequence[Any]],
) -> list[_Family]:
    """Return the families one by one, whichever way they were passed."""
    if on_axes is None:
        on, off, on_axes = [on], [off], ["on"]
    labels = list(on_axes) if labels is None else labels
    if not len(on) == len(off) == len(on_axes) == len(labels) or not len(labels):
        found = f"{len(on)} on, {len(off)} off, {len(on_axes)} on_axes, {len(labels)} labels"
        raise Invalid(Problem("selective", found, "give one of each for each family"))
    return [_one_family(*parts, clusters) for parts in zip(labels, on_axes, on, off, strict=True)]


def _one_family(label: str, on_axis: str, on: Any, off: Any, clusters: Mapping[str, Sequence[Any]]) -> _Family:
    named = off if isinstance(off, Mapping) else {f"off{i}": values for i, values in enumerate(off)}
    if not named:
        raise Invalid(Problem(f"off[{label}]", "names no axis", "a family is selective only against another axis"))
    if on_axis in named:
        raise Invalid(Problem(f"off[{label}]", f"holds the own axis {on_axis}", "leave it out"))

    def units(axis: str, values: FloatArray) -> FloatArray:
        return cluster_means(values, clusters[axis]) if axis in clusters else values

    raw = {axis: vector(named[axis], f"off[{label}].{axis}") for axis in sorted(named)}
    own = vector(on, f"on[{label}]")
    items = {axis: values.size for axis, values in {on_axis: own, **raw}.items()}
    return _Family(label, on_axis, units(on_axis, own), {a: units(a, values) for a, values in raw.items()}, items)


class _Pool:
    """The columns to be resampled, by the axis whose stream they follow; columns of an axis share units."""

    def __init__(self) -> None:
        self.columns: dict[str, list[FloatArray]] = {}

    def add(self, axis: str, values: FloatArray) -> int:
        """Return the place of a column among its axis's."""
        held = self.columns.setdefault(axis, [])
        if held and held[0].size != values.size:
            found = f"has {held[0].size} units for one family and {values.size} for another"
            raise Invalid(Problem(f"axis {axis}", found, "families share the units of an axis"))
        held.append(values)
        return len(held) - 1


_LINKED = "linked"


@dataclass(frozen=True, slots=True)
class _Plan:
    """How a contrast is made: coefficient × column of an axis, summed."""

    axis: str
    sign: int
    on: float
    off: float
    parts: tuple[tuple[str, int, float], ...]


def _plans(family: _Family, pool: _Pool, kappa: float, *, linked: bool, absolute: bool) -> list[_Plan]:
    """Return the contrasts of a family; their columns are added to the pool."""
    own = float(exact_mean(family.on))
    place = None if linked else pool.add(f"axis {family.on_axis}", family.on)
    plans = []
    for axis, values in family.off.items():
        column = None if linked else pool.add(f"axis {axis}", values)
        for sign in (1, -1) if absolute else (1,):
            parts: tuple[tuple[str, int, float], ...]
            if place is None or column is None:
                parts = ((_LINKED, pool.add(_LINKED, _linked(family, axis, values, kappa * sign)), 1.0),)
            else:
                parts = ((f"axis {family.on_axis}", place, 1.0), (f"axis {axis}", column, -kappa * sign))
            plans.append(_Plan(axis, sign, own, float(exact_mean(values)), parts))
    return plans


def _linked(family: _Family, axis: str, off: FloatArray, kappa: float) -> FloatArray:
    if off.size != family.on.size:
        found = f"{off.size} units on {axis}, {family.on.size} on {family.on_axis}"
        raise Invalid(Problem(f"off[{family.label}]", found, "linked axes have the same items"))
    return family.on - kappa * off


# ------------------------------------------------------------------ computation


@dataclass(frozen=True, slots=True, eq=False)
class _Axis:
    """Sample and bootstrap moments of an axis's columns; ``shift`` and ``variance`` are (B, C)."""

    n: int
    mean: FloatArray
    squared_se: FloatArray
    third: FloatArray  # Σ (x - mean)³ / n³
    shift: FloatArray
    variance: FloatArray


def _axis(columns: list[FloatArray], axis: str, seed: int | str, resamples: int, block: int) -> _Axis:
    values = np.stack(columns, axis=1)
    n = values.shape[0]
    mean = exact_mean(values)
    shift, variance = resampled_moments(values, stream(seed, "items", axis), resamples=resamples, block=block)
    third = exact_sum((values - mean) ** 3) / n**3
    return _Axis(n, mean, exact_variance(values, mean) / n, third, shift, variance)


_Tested: TypeAlias = tuple[Contrast, FloatArray]


def _contrast(plan: _Plan, axes: Mapping[str, _Axis], below: float, above: float) -> _Tested:
    """Return a contrast with bounds at 1 - below and 1 - above, and its null t* (NaN for degenerate ones)."""
    parts = [(axes[axis], column, weight) for axis, column, weight in plan.parts]
    psi = float(sum(weight * axis.mean[c] for axis, c, weight in parts))
    pieces = [float(weight**2 * axis.squared_se[c]) for axis, c, weight in parts]
    variance = sum(pieces)
    se = math.sqrt(variance)
    t = psi / se if se > 0 else 0.0
    null = _null_t(parts, se)
    upward = np.where(np.isnan(null), np.inf, null)
    downward = np.sort(np.where(np.isnan(null), -np.inf, null))
    B = null.size
    df = variance**2 / sum(v**2 / (axis.n - 1) for v, (axis, _, _) in zip(pieces, parts, strict=True)) if se > 0 else 1
    spread = sum(v * (axis.n - 1) / axis.n for v, (axis, _, _) in zip(pieces, parts, strict=True))
    third = sum(float(weight**3 * axis.third[c]) for axis, c, weight in parts)
    k_low, k_high = math.floor(below * (B + 1) + 1e-9), math.floor(above * (B + 1) + 1e-9)
    contrast = Contrast(
        axis=plan.axis,
        sign=plan.sign,
        on=plan.on,
        off=plan.off,
        psi=psi,
        se=se,
        t=t,
        p_marginal=(1 + int((upward >= t).sum())) / (B + 1),
        p_welch=float(stdtr(df, -t)) if se > 0 else 1.0,
        p_below=(1 + int(np.searchsorted(downward, t, side="right"))) / (B + 1),
        lower=psi - se * float(np.sort(upward)[B - k_low]) if se > 0 and k_low else -math.inf,
        upper=psi - se * float(downward[k_high - 1]) if se > 0 and k_high else math.inf,
        skew=third / spread**1.5 if se > 0 else 0.0,
    )
    return contrast, null


def _null_t(parts: list[tuple[_Axis, int, float]], se: float) -> FloatArray:
    """Return the studentised replicates, NaN where a replicate, or the sample itself, has no spread."""
    numerator = sum((weight * axis.shift[:, c] for axis, c, weight in parts), start=np.float64(0))
    variance = sum((weight**2 * axis.variance[:, c] for axis, c, weight in parts), start=np.float64(0))
    usable = variance > 0 if se > 0 else np.zeros(np.shape(variance), dtype=bool)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(usable, numerator / np.sqrt(variance), np.nan)


def _binding(contrasts: Sequence[_Tested]) -> _Tested:
    return min(contrasts, key=lambda one: one[0].t)


def _over_families(computed: Sequence[Sequence[_Tested]]) -> FloatArray:
    """Return step-down max-T over the families on their binding axes' nulls."""
    bound = [_binding(contrasts) for contrasts in computed]
    null = np.stack([draws for _, draws in bound], axis=1)
    return stepdown_maxt([contrast.t for contrast, _ in bound], np.where(np.isnan(null), np.inf, null))


def _over_contrasts(computed: Sequence[Sequence[_Tested]]) -> list[FloatArray]:
    """Return, by family, step-down max-T p of H0 ψ ≥ 0 over all contrasts of all families."""
    every = [one for contrasts in computed for one in contrasts]
    null = np.stack([-draws for _, draws in every], axis=1)
    p = stepdown_maxt([-contrast.t for contrast, _ in every], np.where(np.isnan(null), np.inf, null))
    return np.split(p, np.cumsum([len(contrasts) for contrasts in computed])[:-1])


def _floor(contrasts: Sequence[_Tested], n: int) -> float:
    """Return (1 + 30/n)·P(max over the off-axes t* ≥ the binding axis's t), at most 1."""
    null = np.stack([np.where(np.isnan(draws), np.inf, draws) for _, draws in contrasts]).max(axis=0)
    reached = int((null >= _binding(contrasts)[0].t).sum())
    return min(1.0, (1 + SMALL_SAMPLE / n) * (1 + reached) / (1 + int(null.size)))


def _family(
    family: _Family, computed: Sequence[_Tested], p_maxt: float, p_below: FloatArray, *, families: int, fine: bool
) -> FamilySelectivity:
    """Return a family's result; ``fine`` says whether B resamples can reach α/F."""
    contrasts, binding = tuple(contrast for contrast, _ in computed), _binding(computed)[0]
    smallest = min(units.size for units in (family.on, *family.off.values()))
    p_floor = _floor(computed, smallest)
    below = [(1 + SMALL_SAMPLE / smallest) * len(contrasts) * contrast.p_below for contrast in contrasts]
    held = {
        FEW_RESAMPLES: not fine,
        FEW_UNITS: smallest < _FEW_UNITS,
        SKEW: -binding.skew > _SKEW_GUARD,
        ZERO_VARIANCE: any(contrast.se == 0 for contrast in contrasts),
    }
    return FamilySelectivity(
        label=family.label,
        on_axis=family.on_axis,
        contrasts=contrasts,
        binding=binding,
        p=max(p_maxt, p_floor),
        p_maxt=p_maxt,
        p_floor=p_floor,
        p_marginal=max(contrast.p_marginal for contrast in contrasts),
        p_welch=max(contrast.p_welch for contrast in contrasts),
        p_refute=min(1.0, float(np.min(np.maximum(below, p_below / families)))),
        skew=binding.skew,
        flags=tuple(flag for flag, holds in held.items() if holds),
    )


def _assembled(
    results: tuple[FamilySelectivity, ...],
    families: list[_Family],
    *,
    single: bool,
    kappa: float,
    alpha: float,
    resamples: int,
) -> Selective:
    def column(values: Sequence[float] | FloatArray) -> FloatArray:
        return np.array(values[0] if single else values, dtype=np.float64)

    units = {
        axis: values.size for family in families for axis, values in {family.on_axis: family.on, **family.off}.items()
    }
    items = {axis: n for family in families for axis, n in family.items.items()}
    return Selective(
        families=results,
        p=column([result.p for result in results]),
        p_welch_holm=column(adjust([result.p_welch for result in results], "holm")),
        p_refute=column([result.p_refute for result in results]),
        estimate=column([result.binding.psi for result in results]),
        kappa=kappa,
        alpha=alpha,
        n=tuple(sorted(items.items())),
        units=tuple(sorted(units.items())),
        resamples=resamples,
        flags=tuple(sorted({flag for result in results for flag in result.flags})),
    )
