"""Running on a Ray cluster: an actor holds one copy of a model and computes pack after pack.

Ray places the actors where there are processors (and devices) for them, and starts one again
elsewhere when it is lost; the pack it was at is then computed again. Every pack writes the same
bytes under the same names wherever and however often it is computed, so nothing is lost and
nothing is there twice. The registry must lie on storage that every node sees at the same path.

Ray is an extra (``pip install 'prereg-moe[ray]'``); it is imported when a run asks for it.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from prereg_moe.errors import Problem, Stopped
from prereg_moe.lab.faults import Fault, fault

__all__ = ["work"]


def work(
    root: Path,
    id_: str,
    packs: Sequence[Sequence[str]],
    missing: Collection[str],
    *,
    workers: int,
    threads: int,
    device: str,
    environment: Mapping[str, str],
) -> Iterator[list[str] | Fault]:
    """Compute packs on a cluster; yield, pack after pack, the labels of what was written, or why it was not.

    Args:
        root, id_: the registry and the registration.
        packs: what is computed together.
        missing: the conditions whose evidence is written.
        workers: most actors at once; no more are started than the cluster has room for.
        threads: processors an actor takes.
        device: ``cuda`` takes a device for each actor, ``auto`` as many as a node has.
        environment: variables set in every actor's process.

    Raises:
        Stopped: the cluster cannot be reached, or has no room for one actor.
    """
    import ray  # an extra, and a second to import

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        ray.init(
            address=os.environ.get("RAY_ADDRESS"),
            include_dashboard=False,
            logging_level="ERROR",
            log_to_driver=False,
            runtime_env={"env_vars": dict(environment)},
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise Stopped(Problem("ray", f"cannot be started or reached ({error})", "look at RAY_ADDRESS")) from error
    try:
        resources = {"num_cpus": threads, "num_gpus": _devices(device, ray.nodes())}
        room = _room(ray.cluster_resources(), resources)
        if room < 1:
            raise Stopped(Problem("ray", f"has no room for an actor with {resources}", "add nodes"))
        computer = ray.remote(max_restarts=-1, max_task_retries=-1, **resources)(_Computer)
        actors = [computer.remote(root, id_, threads) for _ in range(min(workers, room, len(packs)))]
        waiting = deque(packs)
        running = {actor.compute.remote(waiting.popleft(), missing): actor for actor in actors}
        while running:
            (done,), _ = ray.wait(list(running), num_returns=1)
            actor = running.pop(done)
            if waiting:
                running[actor.compute.remote(waiting.popleft(), missing)] = actor
            yield ray.get(done)
    finally:
        ray.shutdown()


def _devices(device: str, nodes: Sequence[Mapping[str, Any]]) -> int:
    """Return how many devices an actor takes."""
    if device == "auto":
        return int(max((node["Resources"].get("GPU", 0) for node in nodes if node["Alive"]), default=0))
    return 1 if device == "cuda" else 0


def _room(has: Mapping[str, float], needs: Mapping[str, float]) -> int:
    names = {"num_cpus": "CPU", "num_gpus": "GPU"}
    return int(min(has.get(names[name], 0) // amount for name, amount in needs.items() if amount))


class _Computer:
    """An actor: one loaded study. It is made again, and its pack computed again, where its process is lost."""

    def __init__(self, root: Path, id_: str, threads: int) -> None:
        self._study = (root, id_)
        self._threads = threads
        self._session: Any = None

    def compute(self, pack: Sequence[str], missing: Collection[str]) -> list[str] | Fault:
        try:
            from prereg_moe.lab import worker  # torch, in the actor's process

            if self._session is None:
                worker.pin(self._threads)
                self._session = worker.Session(*self._study)
            return list(self._session.compute(pack, missing))
        except Exception as error:  # noqa: BLE001 - whatever it is, the parent says so, and stops
            return fault(error)
