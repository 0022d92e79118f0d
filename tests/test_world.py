"""The whole chain on a world without models: what is planted is found, what is not is not."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from world import AXES, ID, LAYERS, World, owned

from prereg_moe import canonical


def test_the_whole_chain_takes_seconds_and_audits_clean(tmp_path: Path) -> None:
    world, began = World(tmp_path), time.process_time()
    for step in (world.author, world.record, world.freeze, world.run, world.judge):
        step()
    result = world.audit(world.report())
    assert [finding.outcome for finding in result.findings] == ["holds"] * 9, result
    assert result.exit_code == 0
    assert time.process_time() - began < 5


def test_the_families_are_the_experts_each_axis_owns(frozen: World) -> None:
    for model in frozen.effects:
        for axis in AXES:
            assert frozen.frozen.families[model, axis] == dict.fromkeys(LAYERS, owned(axis))


def test_the_planted_families_are_confirmed_and_the_randomised_are_not(computed: World) -> None:
    document = computed.judge().document
    verdicts = {(entry["block"], entry["family"]): entry["verdict"] for entry in document["verdicts"]}
    for axis in AXES:
        assert verdicts["main", axis] == verdicts["planted", axis] == verdicts["again", axis] == "CONFIRMED"
        assert verdicts["randomised", axis] != "CONFIRMED"
    assert [control["holds"] for control in document["controls"]] == [True, True]
    assert [entry["verdict"] for entry in document["replications"]] == ["CONFIRMED"] * 3


def test_the_verdict_holds_the_sealed_atlas_and_the_audit_passes_it_again(computed: World) -> None:
    document = computed.judge().document
    table = canonical.read(computed.folder / "atlas.json")["models"]["standard"]
    found = document["atlas"]["standard"]
    assert set(document["atlas"]) == set(computed.frozen.document["layout"])
    assert (found["layers"], found["experts"], list(found["axes"])) == (
        table["layers"],
        table["experts"],
        list(table["mass"]),
    )
    for axis, rows in table["mass"].items():
        for row, shares in zip(rows, found["axes"][axis], strict=True):
            assert shares == pytest.approx([mass / sum(row) for mass in row], rel=5e-6)  # six digits
    assert [finding.outcome for finding in computed.audit().findings if finding.name == "verdict"] == ["holds"]


def test_a_verdict_with_another_atlas_than_the_sealed_one_is_found(computed: World) -> None:
    document = dict(computed.judge().document)
    path = computed.registry.reports(ID) / "verdict.json"
    document["atlas"] = {**document["atlas"], "standard": document["atlas"]["randomised"] | {"experts": 13}}
    canonical.write(path, document)
    (found,) = [finding for finding in computed.audit().findings if finding.name == "verdict"]
    assert found.outcome == "fails"
    assert "atlas.standard.experts" in found.details[0]
