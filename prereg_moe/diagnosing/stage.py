"""The stage on disk: a registration is diagnosed, the file is written and sealed; a pilot's evidence gives spreads."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from prereg_moe import canonical, ledger, store
from prereg_moe.diagnosing import Diagnosis, Progress, diagnose
from prereg_moe.diagnosing.design import Scales, Spread
from prereg_moe.errors import Deviated, Invalid, Problem
from prereg_moe.evidence import Evidence
from prereg_moe.freezing import list_items, load_frozen
from prereg_moe.registration import Registration, load, needs_null
from prereg_moe.registration.schema import Claims
from prereg_moe.registry import Registry

__all__ = ["diagnose_registered", "pilot_scales"]

Array = NDArray[np.float64]


def diagnose_registered(
    registry: Registry,
    id_: str,
    *,
    studies: int | None = None,
    pilot: str | None = None,
    workers: int,
    time: str,
    progress: Progress | None = None,
) -> tuple[Diagnosis, Path, str]:
    """Diagnose a registration, write and seal ``diagnosis.json``; return the diagnosis, the file and the head.

    Args:
        studies: simulated studies; default: as registered.
        pilot: another registration of the registry whose finished evidence gives the spreads.
        workers: processes; cannot change a byte.

    Raises:
        Invalid: the document is invalid or has nothing to diagnose.
        Deviated: it is frozen already.
        NotCheckable: a corpus that lists clusters, or the pilot's evidence, is not there.
        Tampered: the pilot's evidence is not what was sealed.
    """
    folder = registry.registration(id_)
    if ledger.stage(ledger.parse(registry.ledger()), id_) not in ledger.FOLLOWS["diagnosis"]:
        raise Deviated(
            Problem(id_, "is frozen already", "a diagnosis comes before the freeze; register a new study for one")
        )
    registration = load(folder / "registration.yaml")
    diagnosis = diagnose(
        registration,
        studies=studies,
        workers=workers,
        cluster_sizes=_cluster_sizes(registration, folder, registry.root),
        scales=None if pilot is None else pilot_scales(registry, pilot, tuple(registration.axes)),
        progress=progress,
    )
    path = folder / "diagnosis.json"
    canonical.write(path, diagnosis.bytes)
    return diagnosis, path, registry.seal("diagnosis", id_, [path], time=time)


def pilot_scales(registry: Registry, id_: str, axes: tuple[str, ...]) -> Scales:
    """Return the spreads found in the finished evidence of another registration.

    An axis has two: of single items' harm under its own families, and under the others'. Standard deviations
    are averaged as variances over families and models, skewness (g1) as it is; an axis the pilot does not have
    gets the average over the pilot's axes. The spread of random sets is their standard deviation on own axes.

    Args:
        registry: where the pilot is.
        id_: the pilot.
        axes: axes that need a spread.

    Raises:
        NotCheckable, Tampered, Deviated: its evidence is not complete and as sealed.
        Invalid: it has no families whose harm could be measured.
    """
    evidence = store.gather(registry, load_frozen(registry, id_))
    found: dict[str, dict[str, list[Array]]] = {"on": {}, "off": {}}
    draws: list[float] = []
    for claims in evidence.frozen.registration.claims:
        if claims.tier != "control":
            _collect(evidence, claims, found, draws)
    if not found["on"] or not found["off"]:
        raise Invalid(Problem(id_, "judges no families but controls", "choose another pilot"))
    return Scales(
        {"registration": evidence.frozen.digest, "evidence": evidence.digest},
        _spreads(found["on"], axes),
        _spreads(found["off"], axes),
        float(np.sqrt(np.mean(draws))) if draws else None,
    )


def _collect(evidence: Evidence, claims: Claims, found: dict[str, dict[str, list[Array]]], draws: list[float]) -> None:
    """Add a block's item harms by side and axis, and the variances of its random sets' effects."""
    frozen = evidence.frozen
    sign = 1.0 if frozen.registration.measures[claims.measure].harm == "increase" else -1.0
    baseline = evidence.values[frozen.baseline(claims).digest]
    for family in frozen.families_of(claims):
        own = frozen.axis_of(family)
        for axis, scores in evidence.values[frozen.ablation(claims, family).digest].items():
            found["on" if axis == own else "off"].setdefault(axis, []).append(sign * (scores - baseline[axis]))
        if needs_null(frozen.registration, claims):
            effects = [
                np.mean(evidence.values[one.digest][own] - baseline[own]) for one in frozen.draws(claims, family)
            ]
            if len(effects) > 1:
                draws.append(float(np.var(effects, ddof=1)))


def _spreads(found: dict[str, list[Array]], axes: tuple[str, ...]) -> dict[str, Spread]:
    known = {axis: _spread(harms) for axis, harms in found.items()}
    average = Spread(
        float(np.sqrt(np.mean([spread.sd**2 for spread in known.values()]))),
        float(np.mean([spread.skew for spread in known.values()])),
    )
    return {axis: known.get(axis, average) for axis in axes}


def _spread(harms: list[Array]) -> Spread:
    variances = [float(np.var(harm, ddof=1)) for harm in harms]
    varying = [harm for harm, variance in zip(harms, variances, strict=True) if variance > 0]
    skews = [float(np.mean(((harm - harm.mean()) / harm.std()) ** 3)) for harm in varying]
    return Spread(float(np.sqrt(np.mean(variances))), float(np.mean(skews)) if skews else 0.0)


def _cluster_sizes(registration: Registration, folder: Path, root: Path) -> dict[str, dict[str, tuple[int, ...]]]:
    """Return measure -> axis -> items of each cluster, clusters in the order of their names; reads corpora if any."""
    if all(measure.unit == "item" for measure in registration.measures.values()):
        return {}
    listed = list_items(registration, folder, root)["clusters"]
    return {
        measure: {axis: tuple(size for _, size in sorted(Counter(names).items())) for axis, names in by_axis.items()}
        for measure, by_axis in listed.items()
        if by_axis is not None
    }
