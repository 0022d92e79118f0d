"""Packs follow from the frozen registration alone, and hold every condition once; what an engine's keys refuse."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from world import World

from prereg_moe.errors import Invalid
from prereg_moe.frozen import Frozen
from prereg_moe.lab.engines.packs import packs
from prereg_moe.registration import load
from prereg_moe.registration.schema import SweepEngine

TESTBED = Path(__file__).parents[1] / "registrations/testbed/registration.yaml"


def swept(frozen: Frozen, pack: int) -> Frozen:
    engine = SweepEngine(kind="sweep", pack=pack)
    return replace(frozen, registration=frozen.registration.model_copy(update={"engine": engine}))


@pytest.mark.parametrize("size", [1, 2, 7, 24, 1024])
def test_packs_hold_every_condition_once_evenly_and_keep_the_plans_order(frozen: World, size: int) -> None:
    study = swept(frozen.frozen, size)
    found = packs(study)
    assert sorted(digest for pack in found for digest in pack) == sorted(study.plan)
    order = {digest: number for number, digest in enumerate(study.plan)}
    groups: dict[tuple[str, str], list[int]] = {}
    for pack in found:
        assert [order[digest] for digest in pack] == sorted(order[digest] for digest in pack)
        (group,) = {(study.plan[digest].model, study.plan[digest].measure) for digest in pack}
        groups.setdefault(group, []).append(len(pack))
    for sizes in groups.values():
        assert max(sizes) <= size
        assert max(sizes) - min(sizes) <= 1
        assert len(sizes) == -(-sum(sizes) // size)


def test_stock_computes_every_condition_alone(frozen: World) -> None:
    assert packs(frozen.frozen) == [(digest,) for digest in frozen.frozen.plan]


def registered(folder: Path, engine: str, dtype: str = "float32") -> Path:
    text = TESTBED.read_text("utf-8").replace('models/standard"}', f'models/standard", dtype: {dtype}}}')
    text = "".join(line for line in text.splitlines(keepends=True) if not line.startswith("engine:"))
    path = folder / "testbed/registration.yaml"
    path.parent.mkdir()
    path.write_text(f"{text}\nengine: {engine}\n", "utf-8")
    return path


def test_the_keys_of_one_engine_are_not_those_of_the_other(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="batch_size"):
        load(registered(tmp_path, "{kind: sweep, batch_size: 8}"))


def test_an_engine_that_names_no_kind_is_stock(tmp_path: Path) -> None:
    assert load(registered(tmp_path, "{batch_size: 8}")).engine.kind == "stock"


def test_a_tolerance_that_16_bits_cannot_keep_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match=r"engine\.tolerance: is 0\.001 nats a request, and models\.standard"):
        load(registered(tmp_path, "{kind: sweep}", "bfloat16"))


def test_a_tolerance_that_16_bits_can_keep_is_accepted(tmp_path: Path) -> None:
    assert load(registered(tmp_path, "{kind: sweep, tolerance: 0.5}", "bfloat16")).engine.kind == "sweep"
