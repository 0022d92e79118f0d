"""One sha256 of the verdict, however the work is cut and in whatever order a study is listed.

A study is judged in blocks of one, 37, 512 and all replicates, by one and by two threads, with its items (and their
clusters), families, axes and null draws in any order. Where the document is a list, the list is brought back into the
first study's order before it is hashed; nothing else is touched.
"""

from __future__ import annotations

import hashlib
import itertools
import random
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import world as worlds
from threadpoolctl import threadpool_limits
from world import EFFECTS, Effect, World

from prereg_moe import canonical, evidence, judge
from prereg_moe.evidence import Evidence
from prereg_moe.stats import association, intervals, multiplicity, paired, resample, screens

ITEMS, RESAMPLES = 96, 999  # enough for a matrix product to be shared by two threads
BLOCKS, THREADS = (1, 37, 512, RESAMPLES), (1, 2)
# noise enough that every p lies inside 0..1, a tail that makes the contrasts skewed
EDGE = {"standard": Effect(own=0.5, others=0.15, spread=0.3, tail=-0.2)}


def by_item(document: dict[str, Any]) -> None:
    document["inference"] |= {"resamples": RESAMPLES, "escalation": RESAMPLES}


def by_book(document: dict[str, Any]) -> None:
    by_item(document)
    for measure in document["measures"].values():
        measure |= {"unit": "cluster", "cluster": "book"}


@pytest.fixture(scope="module", params=[by_item, by_book])
def study(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Evidence]:
    """Complete evidence of a world with more items."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worlds, "ITEMS", ITEMS)
        world = World(Path(tmp_path_factory.mktemp("world")), EFFECTS | EDGE)
        world.author(request.param)
        world.record()
        frozen = world.freeze()
        files = {evidence.file_name(d): canonical.dumps(world.made(frozen, c)) for d, c in frozen.plan.items()}
        yield evidence.gather(frozen, files)


def shuffled(study: Evidence, seed: int) -> Evidence:
    """Return the same study with everything that is listed in another order."""
    rng = random.Random(seed)
    frozen = study.frozen
    document = deepcopy(dict(frozen.document))
    place = {
        measure: {axis: rng.sample(range(len(ids)), len(ids)) for axis, ids in axes.items()}
        for measure, axes in document["items"].items()
    }
    for kind in ("items", "clusters"):
        for measure, axes in document[kind].items():
            for axis in axes or {}:
                axes[axis] = [axes[axis][k] for k in place[measure][axis]]
    for entry in document["draws"]:
        rng.shuffle(entry["cells"])
    rng.shuffle(document["families"])
    axes = frozen.registration.axes
    registration = frozen.registration.model_copy(
        update={"axes": {axis: axes[axis] for axis in rng.sample(list(axes), len(axes))}}
    )
    values = {
        digest: {axis: scores[axis][place[frozen.plan[digest].measure][axis]] for axis in rng.sample(list(axes), 3)}
        for digest, scores in study.values.items()
    }
    return replace(study, values=values, frozen=type(frozen)(document, registration, frozen.digest))


def sha256(study: Evidence) -> str:
    """Return the digest of a study's verdict document, its lists in one order."""
    document = canonical.loads(judge(study).bytes, "verdict.json")
    document["families"].sort(key=lambda entry: (entry["model"], entry["name"]))
    document["verdicts"].sort(key=lambda entry: entry["claim"])
    document["replications"].sort(key=lambda entry: (entry["replication"], entry["family"]))
    for entry in document["verdicts"]:
        if "null" in entry["estimates"]:
            entry["estimates"]["null"]["draws"].sort()
    return hashlib.sha256(canonical.dumps(document)).hexdigest()


@pytest.fixture
def cut(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return what sets the block size of everything that is done in blocks."""
    whole = resample.blocks

    def set_to(size: int) -> None:
        for module, name in [
            *((module, "blocks") for module in (resample, intervals, multiplicity, paired, screens)),
            (association, "ranges"),
        ]:
            assert getattr(module, name)
            monkeypatch.setattr(module, name, lambda replicates, _: whole(replicates, size))

    return set_to


def test_one_sha256_over_blocks_threads_and_orders(study: Evidence, cut: Any) -> None:
    first = sha256(study)
    for order, (size, threads) in enumerate(itertools.product(BLOCKS, THREADS)):
        cut(size)
        with threadpool_limits(threads):
            assert sha256(shuffled(study, order)) == first, f"blocks of {size}, {threads} threads, order {order}"


def test_the_study_is_one_in_which_something_could_change(study: Evidence) -> None:
    """Claims are undecided, and two items that change places without their names change the digest."""
    entries = [entry for entry in judge(study).document["verdicts"] if entry["block"] in ("main", "again")]
    assert sum(0.001 < entry["p_adjusted"] < 1 for entry in entries) >= 2
    other = deepcopy(dict(study.values))
    condition = next(digest for digest, one in study.frozen.plan.items() if one.model == "standard")
    for axes in other.values():
        axes["no"] = axes["no"].copy()
    other[condition]["no"][[0, 1]] = other[condition]["no"][[1, 0]]
    assert sha256(replace(study, values=other)) != sha256(study)
