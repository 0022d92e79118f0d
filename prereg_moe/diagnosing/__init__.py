"""Diagnosis: what the registered rule does in studies whose truth is known, before anything is measured.

:func:`diagnose` simulates the registered design (families, axes, items or clusters, random sets), judges every
simulated study by the code of `verdict`, and counts: errors at the boundaries of the claim, power at the planned
effects, coverage, errors of sign, exaggeration, flips between replications, the smallest effect found reliably.
Source: Blair, Cooper, Coppock & Humphreys 2019 (diagnosands); Gelman & Carlin 2014 (type S, exaggeration).

Exploratory blocks are judged beside confirmatory ones, replications are joined, and doubtful studies escalate in the
registered proportion. Assumed: harm is spread as the scenario says; studies, axes and blocks are independent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from typing import Any

import numpy as np
from numpy.typing import NDArray

import prereg_moe
from prereg_moe import canonical
from prereg_moe.diagnosing import figures
from prereg_moe.diagnosing.design import Block, Design, Scales, Truth, blocks_of, scenarios_of
from prereg_moe.diagnosing.study import Outcomes, Task, joined, run
from prereg_moe.errors import Invalid, Problem, Stopped
from prereg_moe.registration import Registration, expand
from prereg_moe.registration.demand import SCHEMA
from prereg_moe.registration.schema import Replication, ScenarioName

__all__ = ["SCHEMA", "STUDIES", "Diagnosis", "Scales", "diagnose"]

STUDIES = 200  # where none are registered
_CHUNK = 10
_POWER = 0.8  # of the minimum detectable effect, where no power is demanded
_GRID = tuple(2 ** ((k - 16) / 4) for k in range(25))  # factors of the planned effects, 1/16 to 4
_STEPS = 6  # evaluations of the grid: its largest factor, then halving

Progress = Callable[[int, int, str], None]
_Map = Callable[[Sequence[Task]], Iterator[dict[str, Outcomes]]]


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The diagnosis file: settings, and figures by scenario.

    Attributes:
        document: plain JSON. ``registration`` is the digest of the expanded registration; ``scenarios`` holds,
            by name, ``family_wise_error`` and ``false_refutation`` at each boundary, ``power``, ``coverage``,
            ``type_s``, ``exaggeration``, ``flips``, ``controls``, ``minimum_detectable_effect``, ``blocks`` and, where
            some are registered, ``replications``. All but the last two are about the judged blocks.
    """

    document: Mapping[str, Any]

    @property
    def bytes(self) -> bytes:
        """The canonical bytes, as ``diagnosis.json`` holds them."""
        return canonical.dumps(self.document)


def diagnose(
    registration: Registration,
    scenarios: Sequence[ScenarioName] | None = None,
    *,
    studies: int | None = None,
    seed: str | None = None,
    workers: int = 1,
    cluster_sizes: Mapping[str, Mapping[str, tuple[int, ...]]] | None = None,
    scales: Scales | None = None,
    progress: Progress | None = None,
) -> Diagnosis:
    """Return the diagnosis of a registration, byte for byte the same for any number of workers.

    Args:
        registration: the study.
        scenarios: what harm looks like; default: the registered ones.
        studies: simulated studies for each scenario and truth; default: as registered, or 200.
        seed: key of every stream; default: the registered one.
        workers: processes.
        cluster_sizes: measure -> axis -> items of each cluster; needed for measures whose units are clusters.
        scales: spreads of a pilot.
        progress: called with (done, total, label).

    Raises:
        Invalid: nothing to diagnose, fewer than 20 studies, a scenario without the pilot or clusters it needs.
        Stopped: a worker died.
    """
    names = tuple(scenarios or scenarios_of(registration, pilot=scales is not None))
    registered = registration.diagnosis
    count = studies or (registered.studies if registered is not None else STUDIES)
    resamples = registered.resamples if registered is not None else min(999, registration.inference.resamples)
    design = Design(registration, seed or registration.inference.seed, resamples, cluster_sizes or {}, scales)
    _refuse(design, names, count)
    blocks = blocks_of(registration)
    with _mapper(design, workers) as map_:
        watched = _Watch(map_, progress, len(names) * _planned_tasks(blocks, count))
        found = {name: _scenario(registration, blocks, name, count, watched) for name in names}
    document = {
        "schema": SCHEMA,
        "software": {"prereg-moe": prereg_moe.__version__},
        "registration": canonical.digest(expand(registration)),
        "settings": _settings(design, blocks, count),
        "scenarios": found,
    }
    return Diagnosis(document)


def _refuse(design: Design, names: Sequence[ScenarioName], studies: int) -> None:
    problems = []
    if studies < 20:
        problems.append(Problem("studies", f"is {studies}", "simulate at least 20"))
    if "pilot" in names and design.scales is None:
        problems.append(Problem("scenarios", "pilot without a pilot", "give --pilot ID, or leave it out"))
    problems += [
        Problem(f"measures.{name}", "has clusters, and their sizes are not known", "give cluster_sizes")
        for name, measure in design.registration.measures.items()
        if measure.unit == "cluster" and name not in design.cluster_sizes
    ]
    if problems:
        raise Invalid(problems)


def _settings(design: Design, blocks: Sequence[Block], studies: int) -> dict[str, Any]:
    inference = design.registration.inference
    return {
        "studies": studies,
        "seed": design.seed,
        "resamples": design.resamples,
        "escalation": design.escalation,
        "registered_resamples": inference.resamples,
        "registered_escalation": inference.escalation,
        "blocks": {
            block.claims.id: {
                "role": block.role,
                "alpha": block.alpha,
                "families": len(block.axis),
                "random_sets": block.draws,
                "kappa": block.kappa,
                "minimum_effect": block.minimum_effect,
                "planned": block.effects.model_dump(mode="json"),
            }
            for block in blocks
        },
        "pilot": None if design.scales is None else design.scales.to_json(),
    }


# ------------------------------------------------------------------ one scenario


def _scenario(
    registration: Registration, blocks: tuple[Block, ...], name: ScenarioName, studies: int, watch: _Watch
) -> dict[str, Any]:
    claimed = tuple(block for block in blocks if block.role in ("judged", "exploratory"))
    judged = tuple(block for block in claimed if block.role == "judged")
    boundaries = (Truth("selectivity"), Truth("minimum_effect"))
    wrong: dict[str, dict[str, Outcomes]] = {
        truth.kind: watch.outcomes(name, truth, claimed, studies) for truth in boundaries
    }
    right = watch.outcomes(name, Truth("planned"), claimed, studies, intervals=True)
    controls, passed = _controls(registration, blocks, name, studies, watch)
    made = {kind: figures.errors(_of(judged, outcomes)) for kind, outcomes in wrong.items()}
    found = {
        "family_wise_error": {kind: rates["confirmed"] for kind, rates in made.items()},
        "false_refutation": {kind: rates["refuted"] for kind, rates in made.items()},
        **figures.planned(_of(judged, right), passed),
        "controls": controls,
        "minimum_detectable_effect": _detectable(registration, judged, name, studies, watch),
        "blocks": {
            block.claims.id: {
                "family_wise_error": {
                    kind: figures.errors(_of([block], outcomes))["confirmed"] for kind, outcomes in wrong.items()
                },
                "power": figures.planned(_of([block], right), passed)["power"],
            }
            for block in claimed
        },
    }
    if registration.replication:
        found["replications"] = _replications(registration, claimed, wrong, right, passed)
    return found


def _of(blocks: Sequence[Block], outcomes: Mapping[str, Outcomes]) -> dict[str, Outcomes]:
    return {block.claims.id: outcomes[block.claims.id] for block in blocks}


def _replications(
    registration: Registration,
    blocks: Sequence[Block],
    wrong: Mapping[str, Mapping[str, Outcomes]],
    right: Mapping[str, Outcomes],
    passed: NDArray[np.bool_],
) -> dict[str, Any]:
    """Return, by replication, how often any family is replicated at a boundary, and how many are as planned.

    At a boundary every block's claims are false, so any replicated family is an error.
    """
    families = {block.claims.id: list(block.axis) for block in blocks}
    found = {}
    for replication in registration.replication:
        if not all(name in families for name in replication.claims):
            continue  # of a control
        shared = [one for one in families[replication.claims[0]] if all(one in families[n] for n in replication.claims)]

        def replicated(
            outcomes: Mapping[str, Outcomes], one: Replication = replication, shared: list[str] = shared
        ) -> NDArray[np.bool_]:
            p = [outcomes[n].p_adjusted[:, [families[n].index(family) for family in shared]] for n in one.claims]
            return figures.replicated(p, one.require, registration.inference.alpha)

        found[replication.id] = {
            "family_wise_error": {
                kind: figures.rate(float(replicated(outcomes).any(axis=1).sum()), len(passed))
                for kind, outcomes in wrong.items()
            },
            "power": {"each": figures.shares(replicated(right) & passed[:, None])},
        }
    return found


def _controls(
    registration: Registration, blocks: tuple[Block, ...], name: ScenarioName, studies: int, watch: _Watch
) -> tuple[dict[str, Any], NDArray[np.bool_]]:
    """Return how often each control passes, and whether all do  # (studies,)

    A positive control's families have the planned effects, a negative control's are random sets.
    """
    passed = np.ones(studies, dtype=bool)
    found: dict[str, Any] = {}
    for block in blocks:
        if block.role not in ("positive", "negative"):
            continue
        control = registration.controls.positive if block.role == "positive" else registration.controls.negative
        truth = Truth("planned" if block.role == "positive" else "random")
        outcomes = watch.outcomes(name, truth, (block,), studies)[block.claims.id]
        confirmed = (outcomes.verdict > 0).sum(axis=1)
        least, most = (control.at_least, control.at_most) if control is not None else (None, None)
        holds = (confirmed >= (least or 0)) & (confirmed <= (len(block.axis) if most is None else most))
        found[block.role] = figures.rate(float(holds.sum()), studies)
        passed = passed & holds
    return found, passed


def _detectable(
    registration: Registration, judged: tuple[Block, ...], name: ScenarioName, studies: int, watch: _Watch
) -> dict[str, Any]:
    """Return the smallest factor of the planned effects on the grid that is found with the demanded power.

    Bisection: power grows with the factor, and every factor is tried on the same simulated luck. Controls do not
    gate here.
    """
    demanded = registration.diagnosis.demand.power_at_least if registration.diagnosis is not None else None
    power, few = demanded or _POWER, _few(studies)
    done: dict[int, dict[str, Any]] = {}

    def reached(k: int) -> bool:
        outcomes = watch.outcomes(name, Truth("planned", _GRID[k]), judged, few)
        confirmed = np.concatenate([one.verdict > 0 for one in outcomes.values()], axis=1)
        done[k] = figures.shares(confirmed) or {}
        return bool(done[k]["estimate"] >= power)

    low, high = -1, len(_GRID) - 1
    found = reached(high)
    while found and high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if reached(middle) else (middle, high)
    watch.skip(name, (_STEPS - len(done)) * _tasks(few))
    return {
        "power": power,
        "factor": _GRID[high] if found else None,
        "effects": {block.claims.id: _GRID[high] * block.effects.on for block in judged} if found else None,
        "reached": done[high],
        "below": done.get(low) if found else None,
    }


def _few(studies: int) -> int:
    return min(studies, max(20, studies // 4))


# ------------------------------------------------------------------ work


def _tasks(studies: int) -> int:
    return -(-studies // _CHUNK)


def _planned_tasks(blocks: Sequence[Block], studies: int) -> int:
    controls = sum(block.role in ("positive", "negative") for block in blocks)
    return (3 + controls) * _tasks(studies) + _STEPS * _tasks(_few(studies))


@dataclass(slots=True)
class _Watch:
    """Runs tasks and says how many are done."""

    map: _Map
    progress: Progress | None
    total: int
    done: int = 0

    def outcomes(
        self, name: ScenarioName, truth: Truth, blocks: tuple[Block, ...], studies: int, *, intervals: bool = False
    ) -> dict[str, Outcomes]:
        """Return block id -> outcomes of all studies."""
        tasks = [
            Task(name, truth, blocks, start, min(start + _CHUNK, studies), intervals)
            for start in range(0, studies, _CHUNK)
        ]
        parts = []
        for part in self.map(tasks):
            parts.append(part)
            self.skip(name, 1)
        return {block.claims.id: joined([part[block.claims.id] for part in parts]) for block in blocks}

    def skip(self, label: str, tasks: int) -> None:
        """Count tasks as done."""
        self.done += tasks
        if self.progress is not None:
            self.progress(self.done, self.total, label)


@contextmanager
def _mapper(design: Design, workers: int) -> Iterator[_Map]:
    """Yield what runs tasks, in this process or in several, and gives their results in the order of the tasks."""
    work = partial(run, design)
    if workers == 1:
        yield lambda tasks: map(work, tasks)
        return
    try:
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            yield lambda tasks: pool.map(work, tasks)
    except BrokenProcessPool as error:
        raise Stopped(Problem("diagnose", "a worker died", "look at the memory, or use fewer workers")) from error
