"""Simulated studies judged: the deltas go through the code of `verdict`, the outcomes are counted.

A task is a run of study numbers of one scenario under one truth. What a study gives depends on its number only,
so tasks may be cut anywhere and computed by any number of processes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from prereg_moe.diagnosing.design import Block, Design, Truth
from prereg_moe.diagnosing.simulation import simulate
from prereg_moe.registration import Registration
from prereg_moe.registration.schema import ExpressionRule, ScenarioName
from prereg_moe.stats.resample import stream
from prereg_moe.verdict.decide import decide
from prereg_moe.verdict.decision import CONFIRMED, INCONCLUSIVE, REFUTED
from prereg_moe.verdict.estimate import Interval, assemble

__all__ = ["CODES", "Outcomes", "Task", "joined", "run"]

CODES = {REFUTED: -1, INCONCLUSIVE: 0, CONFIRMED: 1}


@dataclass(frozen=True, slots=True)
class Task:
    """Studies ``start .. stop`` of a scenario under a truth.

    Attributes:
        scenario: name of the scenario.
        truth: what is true.
        blocks: the blocks to simulate.
        start: first study.
        stop: behind the last.
        intervals: whether the reported intervals are made.
    """

    scenario: ScenarioName
    truth: Truth
    blocks: tuple[Block, ...]
    start: int
    stop: int
    intervals: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Outcomes:
    """What happened to one block; one row a study, one column a family.

    Attributes:
        verdict: a number of :data:`CODES`  # (studies, families)
        estimate: mean harm found on the own axis, over the true mean; NaN where it is not made.
        covered_on: share (0 or 1) of intervals of it that hold the true mean; NaN where none is made.
        covered_off: the same over the off-target axes.
        p_adjusted: p over the families; NaN where the rule has none.
    """

    verdict: NDArray[np.int8]
    estimate: NDArray[np.float64]
    covered_on: NDArray[np.float64]
    covered_off: NDArray[np.float64]
    p_adjusted: NDArray[np.float64]


def run(design: Design, task: Task) -> dict[str, Outcomes]:
    """Return block id -> outcomes of the task's studies, in the order of their numbers."""
    made = {
        block.claims.id: [_one(design, task, block, i) for i in range(task.start, task.stop)] for block in task.blocks
    }
    return {name: joined(rows) for name, rows in made.items()}


def joined(parts: Sequence[Outcomes]) -> Outcomes:
    """Return the outcomes of runs of studies as one, in the order given."""
    return Outcomes(*(np.concatenate([getattr(part, one.name) for part in parts]) for one in fields(Outcomes)))


def _one(design: Design, task: Task, block: Block, number: int) -> Outcomes:
    registration, claims = _as_judged(design, number), block.claims
    rule = registration.rules[claims.rule]
    simulated = simulate(design, block, task.scenario, task.truth, number)
    intervals = task.intervals or isinstance(rule, ExpressionRule)
    effects = assemble(registration, claims, simulated.deltas, simulated.null, intervals=intervals)
    decisions = decide(effects, rule, registration.inference, block.alpha)
    found = [
        _measured(effects.intervals[family], simulated.truth[family], block.axis[family], block.off[family])
        if task.intervals
        else (np.nan, np.nan, np.nan)
        for family in effects.families
    ]
    verdicts = [CODES[decisions[family].verdict] for family in effects.families]
    p = [np.nan if (value := decisions[family].p_adjusted) is None else value for family in effects.families]
    estimate, on, off = np.array(found).T
    return Outcomes(np.array([verdicts], dtype=np.int8), estimate[None], on[None], off[None], np.array([p]))


def _as_judged(design: Design, number: int) -> Registration:
    """Return the registration with the diagnosis's resamples and escalation, and a seed of the study's own."""
    inference = design.registration.inference
    word = int(stream(design.seed, "diagnose", "resampling", number).words(0, 1)[0])
    changes = {"seed": str(word), "resamples": design.resamples, "escalation": design.escalation}
    return design.registration.model_copy(update={"inference": inference.model_copy(update=changes)})


def _measured(
    found: Mapping[str, Interval], truth: Mapping[str, float], axis: str, off: Iterable[str]
) -> tuple[float, float, float]:
    """Return estimate / truth on the own axis, whether its interval holds the truth, and the share that do off it."""
    ratio = found[axis].estimate / truth[axis] if truth[axis] else np.nan
    return ratio, _holds(found[axis], truth[axis]), float(np.mean([_holds(found[o], truth[o]) for o in off]))


def _holds(interval: Interval, mean: float) -> float:
    """Return 1 where the interval holds the mean, 0 where it does not or does not exist."""
    known = interval.low is not None and interval.high is not None
    return float(known and interval.low <= mean <= interval.high)  # type: ignore[operator] # known says so
