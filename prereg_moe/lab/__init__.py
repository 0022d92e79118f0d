"""The lab: everything that touches a model. It makes evidence and never sees a verdict.

:func:`atlas` records routing and seals it, :func:`run` computes and seals evidence. Importing
this package loads no torch; the worker processes do.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prereg_moe import canonical, ledger, store
from prereg_moe.errors import Deviated, Problem
from prereg_moe.evidence import Agreement
from prereg_moe.freezing import load_frozen
from prereg_moe.lab import runner
from prereg_moe.lab.runner import Executor, Progress
from prereg_moe.registration import load, part_of
from prereg_moe.registry import Registry

__all__ = ["Ran", "atlas", "inspect", "outlook", "rescore", "run"]


def atlas(registry: Registry, id_: str, *, time: str, progress: Progress) -> str:
    """Record the routing of a registration's models on its atlas corpus, seal it, and return the head.

    Raises:
        Invalid: the registration has no atlas, or a model cannot be observed.
        Deviated: the registration is frozen already.
    """
    folder = registry.registration(id_)
    if ledger.stage(ledger.parse(registry.ledger()), id_) not in ledger.FOLLOWS["atlas"]:
        raise Deviated(Problem(id_, "is frozen already", "its atlas stands; register a new study for another"))
    path = folder / "atlas.json"
    canonical.write(path, runner.make_atlas(registry, load(folder / "registration.yaml"), progress=progress))
    return registry.seal("atlas", id_, [path], time=time)


@dataclass(frozen=True, slots=True)
class Ran:
    """What a run did.

    Attributes:
        computed: conditions it computed.
        head: the ledger's head.
        agreement: how far the evidence that is there now, of the run's shard or of the whole, lies from `stock`;
            None where `stock` is the registered engine.
    """

    computed: int
    head: str | None
    agreement: Agreement | None


def run(
    registry: Registry,
    id_: str,
    *,
    workers: int,
    time: str,
    progress: Progress,
    shard: tuple[int, int] | None = None,
    executor: Executor = "local",
) -> Ran:
    """Compute the missing conditions, seal the evidence when it is complete, and say what was done.

    A second run of a finished study computes and seals nothing. A ``shard`` (i, n) computes the
    i-th of n parts of the plan and leaves the evidence for a run of the whole to seal. Where looks
    are registered, a run ends where the next of them could be taken.

    Raises:
        Tampered: what the registration names is not what was frozen, or sealed evidence changed.
        Stopped: a guard fired, or a file could not be written; what is written stays.
    """
    frozen = load_frozen(registry, id_)
    seals = ledger.parse(registry.ledger())
    todo = runner.prepare(registry, frozen)
    open_ = ledger.stage(seals, id_) in ledger.FOLLOWS["start"]
    if todo:  # where looks are registered, up to the next of them
        until = part_of(frozen.plan[todo[0]].measure)
        todo = [digest for digest in todo if part_of(frozen.plan[digest].measure) == until]
    mine = frozenset(frozen.plan) if shard is None else runner.part(frozen, *shard)
    todo = [digest for digest in todo if digest in mine]
    head: str | None = None
    if open_:
        body = {"workers": workers, "missing": len(todo)}
        head = registry.seal("start", id_, [], time=time, body=body | ({"shard": list(shard)} if shard else {}))
    runner.run(registry, frozen, todo, workers=workers, progress=progress, executor=executor)
    if not open_:
        store.gather(registry, store.reached(registry, frozen))  # files that went missing since are back, byte for byte
        head = ledger.head(seals)
    elif shard is None and not runner.missing(registry, frozen):
        head = store.finish(registry, frozen, time=time)
    return Ran(len(todo), head, store.agreement(registry, frozen, mine))


def rescore(registry: Registry, id_: str, *, progress: Progress) -> int:
    """Score sealed evidence again from the responses it stores, without a model; return how many conditions.

    Raises:
        NotCheckable: the run is not finished, or a task or its corpus is not on this machine.
        Tampered: a stored metric is not what lm-eval makes of the stored responses.
    """
    return runner.rescore(registry, load_frozen(registry, id_), progress=progress)


def outlook(registry: Registry, id_: str, *, progress: Progress) -> dict[str, Any]:
    """Check a run before it costs anything: its tasks are planned and its masks compiled, nothing is written.

    Returns:
        ``missing`` conditions, ``item_scores`` that is, ``tokens`` they feed to models, and ``seconds`` one worker
        of the stock engine would take for them, measured on a few requests; sharing engines take less.

    Raises:
        Invalid: a task cannot be scored as registered (items too long, empty or all alike), or a mask leaves a router
            too few experts; all problems at once.
        Tampered, NotCheckable, Stopped: as `run` would.
    """
    frozen = load_frozen(registry, id_)
    todo = runner.prepare(registry, frozen)
    scores = sum(len(ids) for digest in todo for ids in frozen.items(frozen.plan[digest].measure).values())
    cost = runner.outlook(registry, frozen, todo, progress=progress) if todo else {"tokens": 0, "seconds": 0.0}
    return {"missing": len(todo), "item_scores": scores, **cost}


def inspect(model: str | Path) -> dict[str, Any]:
    """Return what can be done to a model of this machine: its layers, routers, operators and sizes, as JSON.

    No weight is read, so a model that does not fit into memory, or of which config.json alone is here, will do.

    Raises:
        Invalid: no such model here, one that could not be run, or one without a layer that can be observed exactly.
    """
    import transformers  # torch: only here and in the workers

    from prereg_moe.lab.inspecting import inspect as inspect_

    transformers.logging.set_verbosity_error()  # its advice is about training and sharding
    return inspect_(str(model))
