"""Rules over cells of paired differences: what each test says of a cell, and what the rule makes of it.

A cell is an array of differences, one an item, + is harm. Every rule gives a p-value; the p-values
of a block are corrected together and compared with the block's alpha. CONFIRMED where the corrected
p is at most alpha, REFUTED where the opposite is shown at the same level, INCONCLUSIVE otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prereg_moe import stats
from prereg_moe.importing.schema import (
    AbsenceRule,
    CellRule,
    DualTestRule,
    EquivalenceRule,
    Inference,
    NoninferiorityRule,
    SuperiorityRule,
)
from prereg_moe.stats.resample import exact_mean, exact_variance
from prereg_moe.verdict.decision import CONFIRMED, INCONCLUSIVE, REFUTED, Decision

__all__ = ["FLAGS", "REASONS", "Cell", "decide_cells", "describe"]

Array = NDArray[np.float64]

REASONS = {
    "TESTS_AGREE": "every test the rule names holds at its corrected level",
    "TESTS_DISAGREE": "some of the tests hold at their corrected level, and not all",
    "NOT_SHOWN": "not shown at the corrected level, which is no evidence of absence",
    "OPPOSITE_SHOWN": "a difference in the other direction is shown",
    "INSIDE_MARGIN": "the mean is shown to lie inside the registered margin",
    "OUTSIDE_MARGIN": "the mean is shown to lie outside the registered margin",
    "NOT_INSIDE_MARGIN": "the mean is not shown to lie inside the registered margin",
    "LOW_POWER": "with so few units the rule could not have shown absence were it true",
    "TOO_FEW_UNITS": "fewer than two units",
}
FLAGS = {
    "IMPORTED": "the scores were made elsewhere; see the cap",
    "FEW_UNITS": "fewer units than the registration asks for",
    "ZERO_VARIANCE": "every difference is the same, so nothing can be tested",
    "NO_POSITIVE_CONTROL": "absence is claimed and no positive control is registered",
}


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell's differences.

    Attributes:
        deltas: one an item, + is harm  # (items,)
        clusters: each item's cluster, None where none is registered.
    """

    deltas: Array
    clusters: Sequence[str] | None

    @property
    def units(self) -> int:
        """Items, or clusters where they are registered."""
        return len(self.deltas) if self.clusters is None else len(set(self.clusters))


def describe(cell: Cell, inference: Inference, name: str) -> dict[str, Any]:
    """Return what can be said of a cell under any rule: mean, intervals over items and clusters, tests, effect size."""
    size = stats.cohen_dz(cell.deltas, ddof=inference.ddof, level=inference.interval.level)
    tests: dict[str, Any] = {test: _p(test, cell, inference, name, "two") for test in ("t", "wilcoxon")}
    found = {
        "items": len(cell.deltas),
        "mean": float(exact_mean(cell.deltas)),
        "sd": math.sqrt(float(exact_variance(cell.deltas))),
        "interval": _interval(_bootstrap(cell, inference, name)),
        "d_z": {**_interval(size), "ddof": inference.ddof},
        "tests": tests,
        "clustered": None,
    }
    if cell.clusters is not None and cell.units > 1:
        clustered = stats.clustered_mean(cell.deltas, cell.clusters, level=inference.interval.level)
        found["clustered"] = {**_interval(clustered), "clusters": cell.units}
        tests["clustered_t"] = clustered.p
    return found


def _bootstrap(cell: Cell, inference: Inference, name: str) -> stats.Estimate:
    return stats.bootstrap(
        cell.deltas,
        interval=inference.interval.kind,
        level=inference.interval.level,
        resamples=inference.resamples,
        seed=inference.seed,
        labels=("interval", name),
    )


def _interval(estimate: stats.Estimate) -> dict[str, Any]:
    return {"estimate": estimate.estimate, "low": _finite(estimate.low), "high": _finite(estimate.high)}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


# ------------------------------------------------------------------ rules


@dataclass(frozen=True, slots=True)
class _Tested:
    """One cell under one rule, before correction.

    Attributes:
        p: p of the claim.
        opposite: p of what would refute it; 1 where nothing would.
        margin: distance to the bar, + is on the claim's side.
        tests: p of each test.
        parts: other numbers behind it.
    """

    p: float
    opposite: float
    margin: float
    tests: Mapping[str, float]
    parts: Mapping[str, Any]


def decide_cells(
    cells: Mapping[str, Cell], rule: CellRule, inference: Inference, alpha: float, *, control: bool
) -> dict[str, Decision]:
    """Return cell -> decision for one block.

    Args:
        cells: the block's cells.
        rule: its rule.
        inference: the registered inference; its ``method`` corrects over the cells.
        alpha: the block's level.
        control: whether a positive control is registered (absence says so where none is).
    """
    each = alpha / (len(cells) if inference.method != "none" else 1)
    tested = {name: _tested(cell, rule, inference, name, each) for name, cell in cells.items()}
    adjusted = _adjusted([one.p for one in tested.values()], inference)
    opposite = _adjusted([one.opposite for one in tested.values()], inference)
    return {
        name: _decision(cells[name], one, rule, inference, alpha, each, p, against, control=control)
        for (name, one), p, against in zip(tested.items(), adjusted, opposite, strict=True)
    }


def _adjusted(p: Sequence[float], inference: Inference) -> list[float]:
    if inference.method == "none":
        return list(p)
    return [float(value) for value in stats.adjust(list(p), inference.method)]


def _tested(cell: Cell, rule: CellRule, inference: Inference, name: str, alpha: float) -> _Tested:
    if isinstance(rule, SuperiorityRule):
        return _one_sided(cell, (rule.test,), rule.bound, inference, name)
    if isinstance(rule, DualTestRule) and rule.sides == "greater":
        return _one_sided(cell, rule.tests, 0.0, inference, name)
    if isinstance(rule, DualTestRule):
        tests: dict[str, float] = {test: _p(test, cell, inference, name, "two") for test in rule.tests}
        return _Tested(max(tests.values()), 1.0, abs(float(exact_mean(cell.deltas))), tests, {})
    return _inside(cell, rule, alpha)


def _one_sided(cell: Cell, names: Sequence[str], bound: float, inference: Inference, name: str) -> _Tested:
    moved = Cell(cell.deltas - bound, cell.clusters)
    above = {test: _p(test, moved, inference, name, "lower") for test in names}
    below = max(_p(test, moved, inference, name, "upper") for test in names)
    return _Tested(max(above.values()), below, float(exact_mean(cell.deltas)) - bound, above, {})


def _inside(cell: Cell, rule: NoninferiorityRule | EquivalenceRule | AbsenceRule, alpha: float) -> _Tested:
    """Return two one-sided t tests of the margin; for non-inferiority the upper one."""
    clusters = cell.clusters if rule.unit == "cluster" else None
    units = stats.cluster_means(cell.deltas, clusters) if clusters is not None else cell.deltas
    sd = math.sqrt(float(exact_variance(units)))
    margin = rule.margin * (sd if rule.scale == "sd" else 1.0)
    if margin <= 0 or sd == 0:
        return _Tested(1.0, 1.0, 0.0, {}, {"margin": margin, "power": 0.0, "units": len(units)})
    low = -math.inf if isinstance(rule, NoninferiorityRule) else -margin
    shown = stats.tost(units, low=low, high=margin, level=1 - alpha)
    over = stats.tost(units, low=margin, high=math.inf).p_low
    under = 1.0 if low == -math.inf else stats.tost(units, low=-math.inf, high=-margin).p_high
    power = stats.power_equivalence(len(units), sd, low=low, high=margin, alpha=alpha)
    distance = margin - (shown.estimate if low == -math.inf else abs(shown.estimate))
    parts = {
        "margin": margin,
        "power": power,
        "units": len(units),
        "low": _finite(shown.low),
        "high": _finite(shown.high),
        "level": 1 - 2 * alpha,
    }
    opposite = over if low == -math.inf else min(1.0, 2 * min(over, under))
    return _Tested(shown.p, opposite, distance, {"tost": shown.p}, parts)


def _decision(
    cell: Cell,
    tested: _Tested,
    rule: CellRule,
    inference: Inference,
    alpha: float,
    each: float,
    p: float,
    against: float,
    *,
    control: bool,
) -> Decision:
    verdict, reason = _verdict(tested, rule, alpha, each, p, against)
    held = {
        "IMPORTED": True,
        "FEW_UNITS": cell.units < inference.few_units,
        "ZERO_VARIANCE": float(exact_variance(cell.deltas)) == 0,
        "NO_POSITIVE_CONTROL": isinstance(rule, AbsenceRule) and not control,
    }
    smallest = stats.detectable(len(cell.deltas), power=inference.power, alpha=each, sides=2)
    parts = {**tested.parts, "p": dict(tested.tests), "detectable": smallest, "alpha_each": each}
    flags = tuple(flag for flag, holds in held.items() if holds)
    return Decision(verdict, (reason,), flags, tested.p, p, tested.margin, parts)


def _verdict(tested: _Tested, rule: CellRule, alpha: float, each: float, p: float, against: float) -> tuple[str, str]:
    testing = isinstance(rule, SuperiorityRule | DualTestRule)
    if isinstance(rule, AbsenceRule) and tested.parts["power"] < rule.power:
        return INCONCLUSIVE, "LOW_POWER"
    if p <= alpha:
        return CONFIRMED, "TESTS_AGREE" if testing else "INSIDE_MARGIN"
    if against <= alpha:
        return REFUTED, "OPPOSITE_SHOWN" if testing else "OUTSIDE_MARGIN"
    if testing and any(value <= each for value in tested.tests.values()):
        return INCONCLUSIVE, "TESTS_DISAGREE"
    return INCONCLUSIVE, "NOT_SHOWN" if testing else "NOT_INSIDE_MARGIN"


# ------------------------------------------------------------------ tests


def _p(test: str, cell: Cell, inference: Inference, name: str, sides: stats.Sides) -> float:
    """Return a test's p that the mean (for wilcoxon the centre) is 0; ``lower``: H1 above 0."""
    if test == "wilcoxon":
        return stats.signed_rank(cell.deltas, sides=sides)
    if test == "sign_flip":
        flipped = stats.sign_flip(
            cell.deltas,
            sides=sides,
            resamples=inference.resamples,
            seed=inference.seed,
            clusters=cell.clusters,
            labels=("sign flip", name),
        )
        return float(flipped.p[0])
    if test == "clustered_t" and cell.clusters is not None:
        found = stats.clustered_mean(cell.deltas, cell.clusters)
        return _side(1.0 if found.p is None else found.p, found.estimate, sides)
    size = stats.cohen_dz(cell.deltas)
    return _side(1.0 if size.p is None else size.p, size.estimate, sides)


def _side(two_sided: float, estimate: float, sides: stats.Sides) -> float:
    """Return the p of a symmetric two-sided test on one side."""
    if sides == "two":
        return two_sided
    towards = estimate > 0 if sides == "lower" else estimate < 0
    return two_sided / 2 if towards else 1 - two_sided / 2
