"""Running: missing conditions only, in pinned worker processes, one atomic file each.

The parent never loads a model. Each worker loads a model once, plans a measure once, and then
for every condition masks, computes, replays and writes. Which worker does what cannot change a
byte: batches come from the plan, every worker computes with the registered number of threads,
and nothing that can differ between runs is written. A run that is killed leaves whole files
only; the next run does the rest.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, Literal, TypeAlias

from prereg_moe import canonical, evidence
from prereg_moe.errors import NotCheckable, Problem, Stopped, Tampered
from prereg_moe.freezing import atlas_inputs, compare_pins
from prereg_moe.frozen import Frozen
from prereg_moe.hub import missing_data
from prereg_moe.lab import cluster
from prereg_moe.lab.engines.packs import packs
from prereg_moe.lab.faults import fault, raised
from prereg_moe.registration import Registration, expand
from prereg_moe.registry import Registry, find_source

__all__ = ["Executor", "make_atlas", "missing", "outlook", "part", "prepare", "rescore", "run"]

ATLAS_SCHEMA = "prereg-moe/atlas/1"
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")

Progress: TypeAlias = Callable[[int, int, str], None]  # conditions done, of, what was done last
Executor: TypeAlias = Literal["local", "ray"]
Job: TypeAlias = tuple[Any, ...]  # a function of `worker` and its arguments


def missing(registry: Registry, frozen: Frozen) -> list[str]:
    """Return the digests of planned conditions that have no evidence yet, in the order they are run.

    Raises:
        Tampered: a file lies there that is not evidence of its condition.
        Deviated: a file was computed by something else than the plan.
    """
    folder = registry.evidence(frozen.registration.id)
    todo = []
    for digest, condition in frozen.plan.items():
        path = folder / evidence.file_name(digest)
        if not path.exists():
            todo.append(digest)
        elif canonical.read(path).get("condition") != condition.to_json():
            raise Tampered(Problem(path.name, "is not the evidence of its condition", "remove it and run again"))
    return todo


def prepare(registry: Registry, frozen: Frozen) -> list[str]:
    """Return the missing conditions, having checked that they could be computed and written.

    Raises:
        Tampered: what the registration names is no longer what was frozen.
        NotCheckable: it is not on this machine.
        Stopped: evidence could not be written.
    """
    changed, absent = compare_pins(registry, frozen)
    absent += _missing_data(registry, frozen)
    if changed:
        raise Tampered(changed)
    if absent:
        raise NotCheckable(absent)
    todo = missing(registry, frozen)
    if todo:
        _writable(registry.evidence(frozen.registration.id))
    return todo


def part(frozen: Frozen, number: int, of: int) -> frozenset[str]:
    """Return the conditions of one of ``of`` shards: whole packs of the plan, so that no two shards share one."""
    return frozenset(digest for pack in packs(frozen)[number - 1 :: of] for digest in pack)


def run(
    registry: Registry,
    frozen: Frozen,
    digests: Sequence[str],
    *,
    workers: int,
    progress: Progress,
    executor: Executor = "local",
) -> None:
    """Compute the conditions named and write their evidence.

    Args:
        registry: where evidence is written.
        frozen: the frozen registration.
        digests: the conditions.
        workers: processes, or actors; cannot change the evidence.
        progress: called after every condition.
        executor: processes of this machine, or actors of a Ray cluster; cannot change the evidence.

    Raises:
        Stopped: a guard fired, or a file could not be written.
    """
    wanted = frozenset(digests)
    todo = [pack for pack in packs(frozen) if not wanted.isdisjoint(pack)]
    work = _local if executor == "local" else _ray
    for done, label in enumerate(work(registry, frozen, todo, wanted, workers), start=1):
        progress(done, len(digests), label)


def outlook(registry: Registry, frozen: Frozen, digests: Sequence[str], *, progress: Progress) -> dict[str, Any]:
    """Return the tokens that conditions feed, and the seconds one worker of `stock` would take, measured on a few.

    Raises:
        Invalid: tasks or masks cannot be run as registered; all problems at once.
    """
    found: dict[str, Any] = {"tokens": 0, "seconds": 0.0}
    threads = frozen.registration.engine.threads
    with _pinned(threads):
        for message in _collect([("outlook", registry.root, frozen.registration.id, list(digests))], threads):
            if isinstance(message, dict):
                found = message
            else:
                progress(*message)
    return found


def rescore(registry: Registry, frozen: Frozen, *, progress: Progress) -> int:
    """Score stored responses again in a worker; return how many conditions agree.

    Raises:
        NotCheckable, Tampered: as `lab.rescore` says.
    """
    if absent := _missing_data(registry, frozen):
        raise NotCheckable(absent)
    threads, total = frozen.registration.engine.threads, len(frozen.plan)
    with _pinned(threads):
        jobs = [("rescore", registry.root, frozen.registration.id)]
        for done, label in enumerate(_collect(jobs, threads), start=1):
            progress(done, total, label)
    return total


def make_atlas(registry: Registry, registration: Registration, *, progress: Progress) -> dict[str, Any]:
    """Return the routing atlas of every model of a registration, as the document `atlas.json` holds.

    Every text of the atlas corpus runs through the untouched model once; padding is not counted.
    """
    folder = registry.registration(registration.id)
    inputs = atlas_inputs(registration, folder, registry.root)
    document: dict[str, Any] = {"schema": ATLAS_SCHEMA, "inputs": inputs, "models": {}}
    with _pinned(registration.engine.threads):
        for message in _collect([("record", registry.root, expand(registration))], registration.engine.threads):
            if isinstance(message, dict):
                document |= message
            else:
                progress(*message)
    return document


# ------------------------------------------------------------------ the parent


def _environment(threads: int) -> dict[str, str]:
    return {
        **dict.fromkeys(_THREAD_VARIABLES, str(threads)),
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "TQDM_DISABLE": "1",
    }


@contextmanager
def _pinned(threads: int) -> Iterator[None]:
    """Give the processes started inside the registered number of threads, and no network."""
    wanted = _environment(threads)
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _missing_data(registry: Registry, frozen: Frozen) -> list[Problem]:
    """Return a problem for every data set of the hub that a worker would not find."""
    folder = registry.registration(frozen.registration.id)
    return missing_data(frozen.registration, lambda source: find_source(source, folder, registry.root))


def _writable(folder: Path) -> None:
    """Fail before anything is computed where evidence could not be written."""
    probe = folder / ".probe"
    canonical.write(probe, b"")
    probe.unlink(missing_ok=True)  # another shard may have been quicker


def _local(
    registry: Registry, frozen: Frozen, todo: list[tuple[str, ...]], wanted: frozenset[str], workers: int
) -> Iterator[str]:
    """Share packs out to processes of this machine and yield a label for every condition that is written."""
    if frozen.registration.engine.device == "auto":
        workers = 1  # one model takes all devices
    shares = [todo[index::workers] for index in range(min(workers, len(todo)))]
    threads = frozen.registration.engine.threads
    with _pinned(threads):
        jobs = [("compute", registry.root, frozen.registration.id, share, wanted) for share in shares]
        yield from _collect(jobs, threads)


def _ray(
    registry: Registry, frozen: Frozen, todo: list[tuple[str, ...]], wanted: frozenset[str], workers: int
) -> Iterator[str]:
    """Do the same on a Ray cluster."""
    if not todo:
        return
    engine = frozen.registration.engine
    with _pinned(engine.threads):
        for said in cluster.work(
            registry.root,
            frozen.registration.id,
            todo,
            wanted,
            workers=workers,
            threads=engine.threads,
            device=engine.device,
            environment=_environment(engine.threads),
        ):
            if isinstance(said, tuple):
                raise raised(said)
            yield from said


def _collect(jobs: Sequence[Job], threads: int) -> Iterator[Any]:
    """Run jobs in processes of their own and yield what they say, until all are done or one fails."""
    context = multiprocessing.get_context("spawn")
    processes: list[Any] = []
    ears: list[Any] = []
    try:
        for job in jobs:
            ear: Any
            ear, mouth = context.Pipe(duplex=False)
            process = context.Process(target=_child, args=(job, threads, mouth, os.getpid()), daemon=True)
            process.start()
            mouth.close()  # the child holds the only other end: its death is the end of the pipe
            processes.append(process)
            ears.append(ear)
        while ears:
            for ear in wait(ears):  # in no order that matters: files are named by what they hold
                kind, what = _heard(ear)
                if kind == "error":
                    raise raised(what)
                if kind == "end":
                    ears.remove(ear)
                else:
                    yield what
        for process in processes:
            process.join()  # let them end by themselves, so that they clean up behind themselves
    finally:
        for process in processes:
            process.terminate()
            process.join()


def _heard(ear: Any) -> tuple[str, Any]:
    try:
        message: tuple[str, Any] = ear.recv()
    except EOFError:
        raise Stopped(
            Problem("worker", "ended before it was done", "what is written stays; run again to go on")
        ) from None
    return message


# ------------------------------------------------------------------ the child's shell


def _child(job: Job, threads: int, mouth: Any, parent: int) -> None:
    """Run a job in a fresh process: report what it says, and end when the parent is gone."""
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    try:
        from prereg_moe.lab import worker  # here and not above: the parent must not load torch

        worker.pin(threads)
        name, *arguments = job
        for message in getattr(worker, name)(*arguments):
            mouth.send(("said", message))
        mouth.send(("end", None))
    except Exception as error:  # noqa: BLE001 - a task's or a model's own code failed: the parent says so, and stops
        mouth.send(("error", fault(error)))
    mouth.close()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(Stopped.exit_code)
