"""From evidence to effects: what each family's ablation did to each axis, signed so that + is harm.

    delta[family, axis, unit] = sign * (score under ablation - score of the baseline)

Items stand in the order of their ids and, where the measure registers clusters, are averaged
to clusters, which are then the units. Every family of a block is measured on the same units.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prereg_moe import stats
from prereg_moe.evidence import Evidence
from prereg_moe.frozen import Condition
from prereg_moe.registration import Registration, family_names, needs_null, off_axes
from prereg_moe.registration.schema import Claims
from prereg_moe.stats.resample import exact_mean, exact_variance

__all__ = ["Effects", "Interval", "assemble", "effects", "summary"]

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean effect with its registered interval; ``low`` and ``high`` are None where no interval exists.

    Attributes:
        estimate: mean over units, in units of the measure.
        low: lower end.
        high: upper end.
        units: how many units were resampled.
    """

    estimate: float
    low: float | None
    high: float | None
    units: int

    @classmethod
    def of(cls, made: stats.Estimate) -> Interval:
        """Return the interval of an estimate; an end that is not finite is none."""
        low, high = (end if math.isfinite(end) else None for end in (made.low, made.high))
        return cls(made.estimate, low, high, made.units)

    def to_json(self) -> dict[str, Any]:
        """Return the interval as plain JSON."""
        return {"estimate": self.estimate, "low": self.low, "high": self.high, "units": self.units}


@dataclass(frozen=True, slots=True, eq=False)
class Effects:
    """The effects one block of claims is judged by; they are the same only if they are the same object.

    Attributes:
        claims: the block.
        families: its families; everything below is keyed by them.
        axis: family -> its own axis.
        off: family -> its off-target axes.
        deltas: family -> axis -> harm per unit  # (units,)
        null: family -> harm of each null draw on the family's own axis  # (draws, units)
        intervals: family -> axis -> mean effect and interval.
    """

    claims: Claims
    families: tuple[str, ...]
    axis: Mapping[str, str]
    off: Mapping[str, tuple[str, ...]]
    deltas: Mapping[str, Mapping[str, Array]]
    null: Mapping[str, Array] | None
    intervals: Mapping[str, Mapping[str, Interval]]

    @property
    def units(self) -> int:
        """The smallest number of units of any axis."""
        return min(delta.size for axes in self.deltas.values() for delta in axes.values())


def effects(evidence: Evidence, claims: Claims) -> Effects:
    """Return the effects of a block of claims.

    Args:
        evidence: complete evidence.
        claims: the block.
    """
    frozen = evidence.frozen
    families = frozen.families_of(claims)
    units = _Units(evidence, claims)
    deltas = {family: units.harm(frozen.ablation(claims, family)) for family in families}
    null = None
    if needs_null(frozen.registration, claims):
        null = {
            family: np.stack([units.harm(draw)[frozen.axis_of(family)] for draw in frozen.draws(claims, family)])
            for family in families
        }
    return assemble(frozen.registration, claims, deltas, null)


def assemble(
    registration: Registration,
    claims: Claims,
    deltas: Mapping[str, Mapping[str, Array]],
    null: Mapping[str, Array] | None,
    *,
    intervals: bool = True,
) -> Effects:
    """Return the effects that deltas are, with the registered intervals.

    Args:
        registration: the study; its inference makes the intervals.
        claims: the block.
        deltas: family -> axis -> harm per unit, every axis of the registration  # (units,)
        null: family -> harm of each null draw on the family's own axis  # (draws, units)
        intervals: whether to make them; without them only rules that need none can decide.
    """
    names = family_names(registration)
    axis = {family: names[family][0] for family in deltas}
    off = {family: off_axes(registration, claims, axis[family]) for family in deltas}
    made = _intervals(registration, deltas) if intervals else {}
    return Effects(claims, tuple(deltas), axis, off, deltas, null, made)


def summary(table: Array) -> dict[str, Any]:
    """Return what the null draws did to a family's own axis  # table (draws, units)."""
    draws = exact_mean(table.T)
    sd = math.sqrt(float(exact_variance(draws))) if draws.size > 1 else None
    return {
        "mean": float(exact_mean(draws)),
        "sd": sd,
        "max": float(draws.max()),
        "draws": [float(value) for value in draws],
    }


class _Units:
    """Turns a condition's scores into harm per unit, always the same units in the same order."""

    def __init__(self, evidence: Evidence, claims: Claims) -> None:
        frozen = evidence.frozen
        self._values = evidence.values
        self._sign = 1.0 if frozen.registration.measures[claims.measure].harm == "increase" else -1.0
        self._baseline = evidence.values[frozen.baseline(claims).digest]
        clusters = frozen.clusters(claims.measure)
        self._groups = {
            axis: _groups(clusters[axis] if clusters is not None else ids)
            for axis, ids in frozen.items(claims.measure).items()
        }
        self._made: dict[str, dict[str, Array]] = {}

    def harm(self, condition: Condition) -> dict[str, Array]:
        digest = condition.digest
        if digest not in self._made:
            scores = self._values[digest]
            self._made[digest] = {
                axis: _means(self._sign * (scores[axis] - self._baseline[axis]), groups)
                for axis, groups in self._groups.items()
            }
        return self._made[digest]


def _groups(names: list[str]) -> list[list[int]]:
    """Return the positions of each unit's items, units in the order of their names."""
    groups: dict[str, list[int]] = {}
    for position, name in enumerate(names):
        groups.setdefault(name, []).append(position)
    return [groups[name] for name in sorted(groups)]


def _means(delta: Array, groups: list[list[int]]) -> Array:
    if all(len(group) == 1 for group in groups):
        return delta[[group[0] for group in groups]]
    return np.array([math.fsum(delta[group]) / len(group) for group in groups])


def _intervals(registration: Registration, deltas: Mapping[str, Mapping[str, Array]]) -> dict[str, dict[str, Interval]]:
    inference = registration.inference
    found: dict[str, dict[str, Interval]] = {family: {} for family in deltas}
    for axis in registration.axes:
        table = np.stack([axes[axis] for axes in deltas.values()], axis=1)  # (units, families)
        if len(table) < 2:
            made_here = [Interval(float(mean), None, None, len(table)) for mean in exact_mean(table)]
        else:
            made_here = [
                Interval.of(made)
                for made in stats.bootstrap_many(
                    table,
                    interval=inference.interval.kind,
                    level=inference.interval.level,
                    resamples=inference.resamples,
                    seed=inference.seed,
                    labels=("interval", axis),
                )
            ]
        for family, estimate in zip(deltas, made_here, strict=True):
            found[family][axis] = estimate
    return found
