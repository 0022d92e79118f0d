"""Simulated studies with a known truth, for calibration: the scenarios of the statistics page.

Six families, each with its own axis, and three off-target axes (the next three in a circle). The delta of
item i on an axis under a condition with effect θ is

    θ · s_i · c_k · exp(u·N - u²/2) + 0.1·N,    s_i = exp(0.4·N - 0.08),

s shared by all conditions of an axis, c a lognormal factor of the item's cluster (1 without clusters), u
the condition's own skewness. At the boundary the effect is 1.2 on the own axis and 0.4, 0.1, 0.1 off it:
one off-axis exactly at 1.2 / κ with κ = 3. For power the off-axes are at 0.2. A random draw of experts has
an effect of 0.1 times a lognormal factor with coefficient of variation 0.4, on every axis.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

__all__ = ["BOUNDARY", "E1_NULL", "POWER", "SCENARIOS", "Scenario", "Study", "simulate"]

BOUNDARY, POWER = (0.4, 0.1, 0.1), (0.2, 0.2, 0.2)
E1_NULL = 0.0  # an effect that means: the family is one more random draw
_CV = 0.4
_SIGMA = math.sqrt(math.log(1 + _CV**2))


@dataclass(frozen=True, slots=True)
class Scenario:
    """What is simulated; ``cluster_size`` items share a cluster factor (1: none)."""

    name: str
    u_on: float
    u_off: float
    on: float = 1.2
    off: tuple[float, ...] = BOUNDARY
    n: int = 80
    families: int = 6
    draws: int = 0
    cluster_size: int = 1
    cluster_sigma: float = 0.0
    null_effect: float = 0.1


SCENARIOS = (
    Scenario("equal skew", 0.6, 0.6),
    Scenario("off-axis heavy", 0.3, 1.2),
    Scenario("on-axis heavy", 1.2, 0.3),
    Scenario("clustered", 0.4, 0.4, n=150, cluster_size=5, cluster_sigma=0.6),
)


@dataclass(frozen=True, slots=True, eq=False)
class Study:
    """A simulated study in the form ``prereg_moe.stats`` takes: one entry a family, deltas by item."""

    axes: tuple[str, ...]
    on: list[np.ndarray]
    off: list[dict[str, np.ndarray]]
    null: list[np.ndarray]  # (R, n) on the family's own axis
    clusters: dict[str, np.ndarray] | None


def simulate(scenario: Scenario, rng: np.random.Generator) -> Study:
    """Return a study of a scenario."""
    count = max(scenario.families, len(scenario.off) + 1)
    axes = tuple(f"axis {a}" for a in range(count))
    shared = {axis: _items(scenario, rng) for axis in axes}
    draws = scenario.null_effect * np.exp(_SIGMA * rng.standard_normal(scenario.draws) - _SIGMA**2 / 2)
    on, off, null = [], [], []
    for f in range(scenario.families):
        effect = scenario.on
        if effect == E1_NULL:
            effect = scenario.null_effect * math.exp(_SIGMA * rng.standard_normal() - _SIGMA**2 / 2)
        on.append(_deltas(effect, shared[axes[f]], scenario.u_on, rng))
        others = [axes[(f + 1 + k) % count] for k in range(len(scenario.off))]
        off.append({o: _deltas(e, shared[o], scenario.u_off, rng) for o, e in zip(others, scenario.off, strict=True)})
        null.append(np.array([_deltas(e, shared[axes[f]], scenario.u_on, rng) for e in draws]).reshape(-1, scenario.n))
    labels = np.arange(scenario.n) // scenario.cluster_size
    clusters = dict.fromkeys(axes, labels) if scenario.cluster_size > 1 else None
    return Study(axes[: scenario.families], on, off, null, clusters)


def at(scenario: Scenario, **changes: object) -> Scenario:
    """Return the scenario with another n, another number of families, other effects."""
    return replace(scenario, **changes)  # type: ignore[arg-type] # the fields are checked by the dataclass


def _items(scenario: Scenario, rng: np.random.Generator) -> np.ndarray:
    """Return what all conditions of an axis share: the items' and clusters' factors."""
    item = np.exp(0.4 * rng.standard_normal(scenario.n) - 0.08)
    if scenario.cluster_size == 1:
        return item
    clusters = -(-scenario.n // scenario.cluster_size)
    sigma = scenario.cluster_sigma
    factor = np.exp(sigma * rng.standard_normal(clusters) - sigma**2 / 2)
    return item * np.repeat(factor, scenario.cluster_size)[: scenario.n]


def _deltas(effect: float, shared: np.ndarray, u: float, rng: np.random.Generator) -> np.ndarray:
    own = np.exp(u * rng.standard_normal(shared.size) - u * u / 2)
    return effect * shared * own + 0.1 * rng.standard_normal(shared.size)
