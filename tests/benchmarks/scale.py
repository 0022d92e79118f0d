"""A study of 5,000 conditions and 1,000 items with synthetic answers: planned, stored, gathered, judged, on one core.

Run by ``make benchmarks``. The bounds the project promises are 2 GB and 4 minutes.
"""

from __future__ import annotations

import importlib
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console

sys.path[:0] = [str(Path(__file__).parents[1])]  # the world the tests share
world = importlib.import_module("world")

console = Console(highlight=False, width=110)
ITEMS, DRAWS = 334, 2_030  # on each of three axes; for each of three models


def widen(document: dict[str, Any]) -> None:
    for measure in document["measures"].values():
        measure["items"] = ITEMS
    document["controls"]["null"]["draws"] = DRAWS
    document["inference"] |= {"resamples": 9_999, "escalation": 9_999}


def main() -> None:
    world.ITEMS = ITEMS
    with tempfile.TemporaryDirectory() as folder:
        study = world.World(Path(folder))
        started = time.perf_counter()
        stage = started

        def said(what: str) -> None:
            nonlocal stage
            memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
            console.print(f"{what:28} {time.perf_counter() - stage:7.1f} s   {memory:5.2f} GB at most so far")
            stage = time.perf_counter()

        study.author(widen)
        study.record()
        frozen = study.freeze()
        said(f"frozen, {len(frozen.plan)} conditions")
        study.registry.seal("start", world.ID, [], time=world.TIME)
        study.compute()
        said("evidence written")
        world.store.finish(study.registry, study.frozen, time=world.TIME)
        said("gathered and sealed")
        verdicts = study.judge().document
        said("gathered again and judged")
        scores = sum(len(ids) for c in frozen.plan.values() for ids in frozen.items(c.measure).values())
        console.print(
            f"{scores} item scores, {len(verdicts['verdicts'])} verdicts in {time.perf_counter() - started:.1f} s"
        )


if __name__ == "__main__":
    main()
