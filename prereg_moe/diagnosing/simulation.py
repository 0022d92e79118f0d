"""Harm per unit of a simulated study, a pure function of its number: keyed streams, no state.

The streams are those of `stats.resample`; a study's words depend on the seed, the scenario, the block and the
study's number, and not on the truth, so that truths are compared on the same luck.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from prereg_moe.diagnosing.design import (
    DRAW_CV,
    SCENARIOS,
    Block,
    Design,
    Scenario,
    Spread,
    Truth,
    harms,
    lognormal_variance,
)
from prereg_moe.registration.schema import ScenarioName
from prereg_moe.stats.resample import stream

__all__ = ["Simulated", "simulate"]

Array = NDArray[np.float64]

_SHARED, _OWN = 0.16, 0.36  # log-scale variances of the standard scenario, docs/calibration.md
_CV = math.sqrt(math.expm1(_SHARED + _OWN))
_SHARE = _SHARED / (_SHARED + _OWN)
_RUN = 5  # items of a cluster nobody registered
_DF = 4  # of the heavy-tailed scenario
_DRAW_SIGMA = math.sqrt(math.log1p(DRAW_CV**2))


@dataclass(frozen=True, slots=True)
class Simulated:
    """One block of a simulated study.

    Attributes:
        truth: family -> axis -> mean harm.
        deltas: family -> axis -> harm per unit  # (units,)
        null: family -> harm of each random set on the family's own axis  # (draws, units)
    """

    truth: Mapping[str, Mapping[str, float]]
    deltas: Mapping[str, Mapping[str, Array]]
    null: Mapping[str, Array] | None


def simulate(design: Design, block: Block, name: ScenarioName, truth: Truth, study: int) -> Simulated:
    """Return a block of study number ``study`` under a truth.

    Args:
        design: what all studies share.
        block: the block of claims.
        name: the scenario.
        truth: what is true of every family.
        study: its number, from 0.
    """
    made = _Maker(design, block, name, study)
    axes = tuple(design.registration.axes)
    means = harms(block, truth, axes)
    if truth.kind == "random":
        drawn = made.draw_effects("families", len(means))
        means = {family: dict.fromkeys(axes, float(drawn[f])) for f, family in enumerate(means)}
    deltas = {
        family: {
            axis: made.units(axis, made.harm(axis, mean, on=axis == block.axis[family], label=family))
            for axis, mean in by_axis.items()
        }
        for family, by_axis in means.items()
    }
    return Simulated(means, deltas, made.null() if block.draws else None)


class _Maker:
    """Makes the harms of one block of one study."""

    def __init__(self, design: Design, block: Block, name: ScenarioName, study: int) -> None:
        self._design, self._block, self._scenario = design, block, SCENARIOS[name]
        self._key = (design.seed, "diagnose", name, block.claims.id, study)
        measure = design.registration.measures[block.claims.measure]
        self._sizes = design.cluster_sizes.get(block.claims.measure)
        self._items = measure.items
        self._common: dict[str, tuple[Array, Array]] = {}

    def harm(self, axis: str, mean: float, *, on: bool, label: str) -> Array:
        """Return the harm of one condition on one axis  # (items,)"""
        own = self._normal((self._items,), "own", label, axis)
        noise = self._normal((self._items,), "noise", label, axis)
        return self._around(np.array(mean), axis, on=on, own=self._tails(own, "own", label, axis), noise=noise)

    def null(self) -> dict[str, Array]:
        """Return family -> harm of its random sets on its own axis  # (draws, units)"""
        null = self._design.registration.controls.null
        matched = null is not None and null.match == "mass"  # then every family has draws of its own
        made: dict[str, Array] = {}
        for family, axis in self._block.axis.items():
            label = family if matched else axis
            if label not in made:
                made[label] = self.units(axis, self._draws(axis, label, family if matched else "all"))
        return {family: made[family if matched else axis] for family, axis in self._block.axis.items()}

    def _draws(self, axis: str, label: str, pool: str) -> Array:
        shape = (self._block.draws, self._items)
        own, noise = self._normal(shape, "draws", label), self._normal(shape, "draws noise", label)
        rho = self._scenario.draw_correlation
        if rho:
            own = math.sqrt(rho) * self._normal((self._items,), "draws common", label) + math.sqrt(1 - rho) * own
        effects = self.draw_effects(pool, self._block.draws)[:, None]
        return self._around(effects, axis, on=True, own=self._tails(own, "draws", label), noise=noise)

    def draw_effects(self, pool: str, count: int) -> Array:
        """Return the effects of random expert sets: lognormal, or the planned mean with the pilot's spread."""
        z = self._normal((count,), "draw effects", pool)
        mean, scales = self._block.effects.random, self._design.scales
        spread = DRAW_CV * mean if scales is None or scales.draws_sd is None else scales.draws_sd
        return mean + spread * np.expm1(_DRAW_SIGMA * z - _DRAW_SIGMA**2 / 2) / DRAW_CV

    def units(self, axis: str, values: Array) -> Array:
        """Return items averaged to the registered clusters  # (..., items) -> (..., units)"""
        if self._sizes is None:
            return values
        sizes = np.array(self._sizes[axis])
        starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
        return np.asarray(np.add.reduceat(values, starts, axis=-1) / sizes)

    def _around(self, mean: Array, axis: str, *, on: bool, own: Array, noise: Array) -> Array:
        shared, cluster = self._of_items(axis)
        scales = self._design.scales
        spread = None if scales is None else (scales.on if on else scales.off)[axis]
        deviation, sd = _multiplier(self._scenario, spread, on=on, shared=shared, own=own, cluster=cluster)
        if spread is None:
            return mean + mean * deviation + self._block.effects.on / 12 * noise
        sign = -1.0 if self._scenario.shape == "pilot" and spread.skew < 0 else 1.0
        return mean + sign * spread.sd / sd * deviation

    def _of_items(self, axis: str) -> tuple[Array, Array]:
        """Return what every condition of an axis shares: the items' normals and their clusters' factors."""
        if axis not in self._common:
            sigma = self._scenario.cluster_sigma
            cluster = np.ones(self._items)
            if sigma:
                registered = None if self._sizes is None else self._sizes[axis]
                sizes = registered or tuple(min(_RUN, self._items - at) for at in range(0, self._items, _RUN))
                factor = np.exp(sigma * self._normal((len(sizes),), "clusters", axis) - sigma**2 / 2)
                cluster = np.repeat(factor, sizes)
            self._common[axis] = (self._normal((self._items,), "items", axis), cluster)
        return self._common[axis]

    def _tails(self, own: Array, *labels: str) -> Array:
        """Return Student t of variance 1 instead of normals, where the scenario asks for heavy tails."""
        if self._scenario.shape != "t":
            return own
        chi2 = -2 * np.log(self._uniform((_DF // 2, *own.shape), "tails", *labels)).sum(axis=0)
        return np.asarray(own / np.sqrt(chi2 / (_DF - 2)))

    def _normal(self, shape: tuple[int, ...], *labels: str) -> Array:
        return np.asarray(ndtri(self._uniform(shape, *labels)))

    def _uniform(self, shape: tuple[int, ...], *labels: str) -> Array:
        words = stream(*self._key, *labels).words(0, math.prod(shape))
        return np.asarray(((words >> np.uint64(11)).astype(np.float64) + 0.5).reshape(shape) * 2.0**-53)


def _multiplier(
    scenario: Scenario, spread: Spread | None, *, on: bool, shared: Array, own: Array, cluster: Array
) -> tuple[Array, float]:
    """Return m - 1 and the standard deviation of m."""
    if scenario.shape in ("normal", "t"):
        centred = _CV * (math.sqrt(_SHARE) * shared + math.sqrt(1 - _SHARE) * own)
        return (1 + centred) * cluster - 1, _sd(_CV**2, scenario)
    common, single = _SHARED, (scenario.u_on if on else scenario.u_off) ** 2
    if scenario.shape == "pilot" and spread is not None:
        total = lognormal_variance(spread.skew)
        common, single = _SHARE * total, (1 - _SHARE) * total
    log = math.sqrt(common) * shared + math.sqrt(single) * own - (common + single) / 2
    return np.exp(log) * cluster - 1, _sd(math.expm1(common + single), scenario)


def _sd(variance: float, scenario: Scenario) -> float:
    return math.sqrt((1 + variance) * math.exp(scenario.cluster_sigma**2) - 1)
