"""Every cheat that can be seen is seen, with a study at any stage; the study itself is only read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from world import ID, World, tree

from prereg_moe import attack, ledger
from prereg_moe.attack import CHEATS, TIERS, Cheat, Outcome
from prereg_moe.attack.copies import Copy
from prereg_moe.errors import Tampered


@pytest.fixture(scope="module")
def outcomes(stages_of_a_world: dict[str, Path]) -> dict[str, Outcome]:
    world = World(stages_of_a_world["reported"])
    before = tree(world.root)
    played = attack.play(world.registry, ID)
    assert tree(world.root) == before, "an attack changed the study"
    return {outcome.cheat.name: outcome for outcome in played}


@pytest.mark.parametrize("cheat", CHEATS, ids=lambda cheat: cheat.name)
def test_a_cheat_is_caught_where_it_can_be(cheat: Cheat, outcomes: dict[str, Outcome]) -> None:
    outcome = outcomes[cheat.name]
    if cheat.tier == "nothing":
        assert outcome.result == "unseen"
        return
    assert outcome.result == "caught", outcome.said
    assert outcome.tier == cheat.tier, "a cheat's tier is the least a reader has to hold"
    assert outcome.exit_code in (3, 4, 5)
    assert outcome.finding is not None
    assert outcome.finding.step > 0


def test_there_are_at_least_twelve_of_the_table_and_twelve_more() -> None:
    assert sum(cheat.row is not None for cheat in CHEATS) >= 12
    assert sum(cheat.row is None for cheat in CHEATS) >= 12
    assert len({cheat.name for cheat in CHEATS}) == len(CHEATS)
    assert all(cheat.what.endswith(".") and cheat.tier in (*TIERS, "nothing") for cheat in CHEATS)


@pytest.mark.parametrize("stage", ["frozen", "computed", "judged"])
def test_a_study_at_any_stage_can_be_attacked(stage: str, world_at: Callable[[str], World]) -> None:
    world = world_at(stage)
    played = attack.play(world.registry, ID)
    assert all(outcome.as_it_should for outcome in played), [o for o in played if not o.as_it_should]
    assert any(outcome.result == "not here" for outcome in played)
    assert any(outcome.result == "caught" for outcome in played)


def test_sources_that_lie_elsewhere_are_attacked_by_their_pins(reported: World, tmp_path: Path) -> None:
    copy = Copy.of(reported.registry, ID, tmp_path / "copy")
    assert copy.source("tasks") is not None
    assert copy.source("corpora") is not None
    assert (copy.folder / "models/standard").is_symlink(), "weights are not copied"


def test_a_study_that_does_not_hold_is_not_attacked(reported: World) -> None:
    (reported.folder / "notes.txt").write_text("x")
    with pytest.raises(Tampered, match="does not hold as it is"):
        attack.play(reported.registry, ID)


def test_a_cheat_that_is_missed_is_said(
    reported: World, monkeypatch: pytest.MonkeyPatch, run_cli: Callable[..., Any]
) -> None:
    silent = Cheat("nothing at all", "Does nothing.", None, "bytes", "freeze", lambda copy: "frozen.json")
    monkeypatch.setattr(attack, "CHEATS", [silent])
    said = run_cli("attack", reported.root)
    assert said.code == 3
    assert "nothing at all: every step holds" in said.out
    assert run_cli("attack", reported.root, "--json").json["exit_code"] == 3


def test_a_cheat_that_names_the_wrong_file_is_missed(reported: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def play(copy: Copy) -> str:
        (copy.folder / "notes.txt").write_text("x")
        return "frozen.json"

    monkeypatch.setattr(attack, "CHEATS", [Cheat("odd", "Does something odd.", None, "bytes", "freeze", play)])
    [outcome] = attack.play(reported.registry, ID)
    assert (outcome.result, outcome.as_it_should) == ("missed", False)


def test_the_verb_plays_them_all(reported: World, run_cli: Callable[..., Any]) -> None:
    said = run_cli("attack", reported.root, "--json")
    assert said.code == 0
    played = said.json["registrations"][ID]
    assert [one["cheat"] for one in played] == [cheat.name for cheat in CHEATS]
    assert any("Private pilots" in line for line in said.json["unseen"])
    head = ledger.head(ledger.parse(reported.registry.ledger()))
    assert run_cli("audit", reported.root, "--head", head).code == 0


def test_a_bundle_can_be_attacked(
    reported: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_cli: Callable[..., Any]
) -> None:
    monkeypatch.setattr(attack, "CHEATS", CHEATS[:3])
    assert run_cli("bundle", ID, tmp_path / "study.zip", "--root", reported.root).code == 0
    said = run_cli("attack", tmp_path / "study.zip")
    assert said.code == 0
    assert "3 caught" in said.out
