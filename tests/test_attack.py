"""Every cheat that can be seen is seen, with a study at any stage; the study itself is only read."""

from __future__ import annotations

import shutil
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from world import ID, TIME, World, tree
from world import small as small_study

from prereg_moe import attack, bundling, canonical, importing, ledger, record, stages, store, trust
from prereg_moe.amending import amend
from prereg_moe.attack import CHEATS, TIERS, Cheat, Outcome, course
from prereg_moe.attack.copies import Copy, NotHere
from prereg_moe.auditing import STEPS, audit
from prereg_moe.errors import Tampered
from prereg_moe.frozen import Frozen

REPOSITORY = Path(__file__).parents[1]
AUTHOR, REVIEWER = (Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32) for n in (11, 12))


def played(world: World, cheats: list[Cheat], id_: str = ID) -> dict[str, Outcome]:
    before = tree(world.root)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attack, "CHEATS", cheats)
        outcomes = attack.play(world.registry, id_)
    assert tree(world.root) == before, "an attack changed the study"
    return {outcome.cheat.name: outcome for outcome in outcomes}


@pytest.fixture(scope="module")
def eventful(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A study that was amended, challenged by a reviewer, looked at once, signed, and is one of two variants."""
    world = World(tmp_path_factory.mktemp("eventful"))

    def edit(document: dict[str, Any]) -> None:
        small_study(document)
        document["controls"]["null"] |= {"seed": "challenge", "draws": 20}
        document["stopping"] = {"kind": "looks", "at": [0.5], "spending": "pocock"}

    world.author(edit)
    world.record()
    world.freeze()
    amended = world.root.parent / "amended.yaml"
    amended.write_text((world.folder / "registration.yaml").read_text().replace("title: ", "title: Again, "))
    amend(world.registry, ID, amended, reason="The title was too short.", time=TIME)
    nonce = trust.give_nonce(world.frozen.digest, REVIEWER, nonce=bytes(range(32)), time=TIME)
    trust.answer_challenge(world.registry, ID, nonce, time=TIME)
    for part in (1, 2):
        world.registry.seal("start", ID, [], time=TIME, body={"missing": part})
        for condition in world.frozen.plan.values():
            if condition.measure.endswith(f"@{part}"):
                canonical.write(world.file(condition), world.made(world.frozen, condition))
        if part == 1:
            stages.look(world.registry, ID, time=TIME)
    store.finish(world.registry, world.frozen, time=TIME)
    variant = canonical.read(world.folder / "frozen.json")
    variant["registration"]["id"] = f"{ID}-b"
    path = world.registry.registration(f"{ID}-b") / "frozen.json"
    canonical.write(path, variant)
    body = record.freeze_body(Frozen.from_bytes(path.read_bytes()))
    world.registry.seal("freeze", f"{ID}-b", [path], time=TIME, body=body)
    world.judge()
    stages.render(world.registry, ID, ("md",), time=TIME)
    trust.sign(world.registry, ID, AUTHOR, time=TIME)
    return world


ROWS: dict[str, Any] = {
    "schema": "prereg-moe/import/1",
    "id": ID,
    "title": "Rows made elsewhere",
    "question": "What do they decide?",
    "authors": ["The tests"],
    "foreknowledge": "All of it.",
    "provenance": {"source": "a table", "made_by": "the tests", "intervention": "none"},
    "evidence": {"kind": "rows", "cells": {"layer": ["0", "1"]}, "item": "item", "delta": "delta", "harm": "increase"},
    "rules": {"harm": {"kind": "superiority", "test": "t"}},
    "claims": [
        {"id": "harm", "hypothesis": "It harms.", "rule": "harm"},
        {"id": "control", "hypothesis": "It harms, as is known.", "tier": "control", "rule": "harm"},
    ],
    "controls": {"positive": {"claims": "control", "at_least": 1}},
    "inference": {"alpha": 0.05, "method": "holm", "seed": "5", "resamples": 999},
}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A study whose evidence was made elsewhere, and nobody registered how much of it."""
    world = World(tmp_path_factory.mktemp("rows") / "registry")
    canonical.write(world.folder / "registration.yaml", canonical.dumps(ROWS))
    importing.freeze(world.registry, ID, time=TIME)
    table = world.root.parent / "rows.csv"
    lines = [f"{layer},{n},{layer + 0.1 * n:.2f}" for layer in (0, 1) for n in range(6)]
    table.write_text("\n".join(["layer,item,delta", *lines]) + "\n")
    importing.take_in(world.registry, ID, "rows", table, time=TIME)
    importing.verdict(world.registry, ID, time=TIME)
    stages.render(world.registry, ID, ("md",), time=TIME)
    return world


@pytest.fixture(scope="module")
def of_rows(rows: World) -> dict[str, Outcome]:
    """Return what came of every cheat on evidence made elsewhere."""
    return played(rows, CHEATS)


@pytest.fixture(scope="module")
def outcomes(
    stages_of_small: dict[str, Path], eventful: World, of_rows: dict[str, Outcome], committed: World
) -> dict[str, Outcome]:
    """Return what came of every cheat, on the study that has what it needs."""
    special = [cheat for cheat in CHEATS if cheat.needs in ("look", "challenge")]
    elsewhere = [cheat for cheat in CHEATS if cheat.needs == "import"]
    published = [cheat for cheat in CHEATS if "released" in cheat.name or cheat.needs == "diagnosis"]
    usual = [cheat for cheat in CHEATS if cheat not in special + elsewhere + published]
    return (
        {cheat.name: of_rows[cheat.name] for cheat in elsewhere}
        | played(World(stages_of_small["reported"]), usual)
        | played(eventful, special)
        | played(committed, published, "command-a-plus")
    )


@pytest.fixture(scope="module")
def committed(tmp_path_factory: pytest.TempPathFactory) -> World:
    """The published numbers that are read in this repository."""
    root = tmp_path_factory.mktemp("committed")
    for part in ("registrations/LEDGER.jsonl", "registrations/command-a-plus", "reports/command-a-plus"):
        copy = shutil.copytree if (REPOSITORY / part).is_dir() else shutil.copyfile
        (root / part).parent.mkdir(exist_ok=True)
        copy(REPOSITORY / part, root / part)
    return World(root)


@pytest.mark.parametrize("cheat", CHEATS, ids=lambda cheat: cheat.name)
def test_a_cheat_is_caught_where_it_can_be(cheat: Cheat, outcomes: dict[str, Outcome]) -> None:
    outcome = outcomes[cheat.name]
    if cheat.tier == "nothing":
        assert outcome.result == "unseen"
        return
    if outcome.result == "not tried":
        pytest.skip(outcome.said)
    assert outcome.result == "caught", outcome.said
    assert outcome.tier == cheat.tier, "a cheat's tier is the least a reader has to hold"
    assert outcome.exit_code in (3, 4, 5)
    assert outcome.finding is not None
    assert outcome.finding.step > 0


@pytest.mark.parametrize("cheat", [cheat for cheat in CHEATS if cheat.tier == "head"], ids=lambda cheat: cheat.name)
def test_what_only_the_head_shows_passes_without_it(
    cheat: Cheat, small: World, eventful: World, rows: World, committed: World, tmp_path: Path
) -> None:
    """A cheat's tier is the least a reader has to hold: these leave a record that agrees with itself."""
    played_ = 0
    for world, id_ in ((small, ID), (eventful, ID), (rows, ID), (committed, "command-a-plus")):
        copy = Copy.of(world.registry, id_, tmp_path / str(played_) / world.root.name / "registry")
        if cheat.needs not in copy.reached:
            continue
        with suppress(NotHere):
            cheat.first(copy)
            cheat.play(copy)
            found = audit(copy.registry, id_, steps=STEPS)  # what was signed shows more
            assert found.exit_code == 0, (cheat.name, found)
            played_ += 1
            break
    assert played_


def test_what_comes_before_a_cheat_is_honest(small: World, tmp_path: Path) -> None:
    for number, first in enumerate({cheat.first for cheat in CHEATS}):
        copy = Copy.of(small.registry, ID, tmp_path / str(number) / "registry")
        first(copy)
        found = audit(copy.registry, ID, expected_head=copy.head)
        assert found.exit_code == 0, (first, found)


def test_evidence_made_elsewhere_is_attacked_as_far_as_it_goes(of_rows: dict[str, Outcome]) -> None:
    assert all(outcome.as_it_should for outcome in of_rows.values())
    results = Counter(outcome.result for outcome in of_rows.values())
    assert results["caught"] + results["not tried"] >= 50
    assert {outcome.said for outcome in of_rows.values() if outcome.result == "not here"} == {
        "it compares with no random sets",
        "it has no atlas",
        "it has no challenge",
        "it has no diagnosis",
        "it has no families",
        "it has no look",
        "it has no start",
        "it lists no items: its sources do",
        "it pins no corpora",
        "it pins no models",
        "it pins no tasks",
        "it was run elsewhere: it shares no alpha, and has nothing to amend or to deviate from",
        "no released file was checked",
        "nothing was run here, so it has no conditions",
    }


def test_a_cheat_that_cannot_be_tried_says_why(small: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setitem(sys.modules, "securesystemslib.dsse", None)
    monkeypatch.setitem(sys.modules, "rfc3161_client", None)
    tried = [cheat for cheat in CHEATS if cheat.needs in ("freeze", "finish") and cheat.tier in TIERS[2:]]
    outcomes = played(small, tried)
    assert len(outcomes) >= 10
    assert {outcome.result for outcome in outcomes.values()} == {"not tried"}
    assert all(outcome.as_it_should for outcome in outcomes.values())
    said = {outcome.said for outcome in outcomes.values()}
    assert "git is not installed" in said
    assert any("rfc3161_client is not installed" in line for line in said)


def test_there_are_at_least_twelve_of_the_table_and_twelve_more() -> None:
    assert sum(cheat.row is not None for cheat in CHEATS) >= 12
    assert sum(cheat.row is None for cheat in CHEATS) >= 12
    assert len({cheat.name for cheat in CHEATS}) == len(CHEATS)
    assert all(cheat.what.endswith(".") and cheat.tier in (*TIERS, "nothing") for cheat in CHEATS)


@pytest.mark.parametrize("stage", ["frozen", "computed"])
def test_a_study_at_any_stage_can_be_attacked(stage: str, small_at: Callable[[str], World]) -> None:
    outcomes = played(small_at(stage), CHEATS[::3]).values()
    assert all(outcome.as_it_should for outcome in outcomes), [o for o in outcomes if not o.as_it_should]
    assert {"not here", "caught"} <= {outcome.result for outcome in outcomes}


def test_sources_that_lie_elsewhere_are_attacked_by_their_pins(small: World, tmp_path: Path) -> None:
    copy = Copy.of(small.registry, ID, tmp_path / "copy")
    assert copy.source("tasks") is not None
    assert copy.source("corpora") is not None
    assert (copy.folder / "models/standard").is_symlink(), "weights are not copied"


def test_a_study_that_does_not_hold_is_not_attacked(small: World) -> None:
    (small.folder / "notes.txt").write_text("x")
    with pytest.raises(Tampered, match="does not hold as it is"):
        attack.play(small.registry, ID)


def test_a_cheat_that_is_missed_is_said(
    small: World, monkeypatch: pytest.MonkeyPatch, run_cli: Callable[..., Any]
) -> None:
    silent = Cheat("nothing at all", "Does nothing.", None, "bytes", "freeze", lambda copy: "frozen.json")
    monkeypatch.setattr(attack, "CHEATS", [silent])
    said = run_cli("attack", small.root)
    assert said.code == 3
    assert "nothing at all: every step holds" in said.out
    assert run_cli("attack", small.root, "--json").json["exit_code"] == 3


def test_a_cheat_that_names_the_wrong_file_is_missed(small: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def play(copy: Copy) -> str:
        (copy.folder / "notes.txt").write_text("x")
        return "frozen.json"

    monkeypatch.setattr(attack, "CHEATS", [Cheat("odd", "Does something odd.", None, "bytes", "freeze", play)])
    [outcome] = attack.play(small.registry, ID)
    assert (outcome.result, outcome.as_it_should) == ("missed", False)


def test_the_verb_plays_them_all(small: World, monkeypatch: pytest.MonkeyPatch, run_cli: Callable[..., Any]) -> None:
    some = CHEATS[::12]
    monkeypatch.setattr(attack, "CHEATS", some)
    said = run_cli("attack", small.root, "--json")
    assert said.code == 0
    outcomes = said.json["registrations"][ID]
    assert [one["cheat"] for one in outcomes] == [cheat.name for cheat in some]
    assert any("Private pilots" in line for line in said.json["unseen"])
    head = ledger.head(ledger.parse(small.registry.ledger()))
    assert run_cli("audit", small.root, "--head", head).code == 0


def test_a_bundle_gives_the_findings_of_its_folder(eventful: World, tmp_path: Path) -> None:
    """With everything a record can hold: a superseded registration, trust, a look, variants, an amended plan."""
    copy = Copy.of(eventful.registry, ID, tmp_path / "copy" / "registry")
    course.deviate(copy)
    shutil.rmtree(copy.folder / "models")  # weights stay out of a bundle
    bundling.pack(copy.registry, ID, tmp_path / "study.zip")
    with bundling.opened(tmp_path / "study.zip") as (registry, ids):
        assert ids == [ID], "a neighbour is there for what it is about"
        assert tree(registry.root) == tree(copy.registry.root)
        there, here = (audit(one, ID, expected_head=copy.head) for one in (copy.registry, registry))
        assert here == there
    assert here.exit_code == 0, here
    said = str(here)
    for words in ("supersedes sha256:", "look 1, as it was sealed", "deviation 1", "shared by 2", "gave the nonce"):
        assert words in said


def test_a_variant_that_is_not_there_is_said(small: World, tmp_path: Path) -> None:
    copy = Copy.of(small.registry, ID, tmp_path / "copy" / "registry")
    course.variants_owned(copy)
    assert "seals' word" not in str(audit(copy.registry, ID).findings[3])
    (copy.registry.registration(f"{ID}-c") / "frozen.json").unlink()
    finding = audit(copy.registry, ID).findings[3]
    assert finding.outcome == "holds"
    assert f"their seals' word: {ID}-c" in finding.details[-1]
    copy.edit(copy.registry.registration(f"{ID}-b") / "frozen.json", lambda document: document.update(items={}))
    finding = audit(copy.registry, ID).findings[3]
    assert (finding.outcome, finding.exit_code) == ("fails", 3)
    assert f"{ID}-b/frozen.json: is not the file that was sealed" in finding.details[0]


def test_a_bundle_can_be_attacked(
    small: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_cli: Callable[..., Any]
) -> None:
    monkeypatch.setattr(attack, "CHEATS", CHEATS[:3])
    assert run_cli("bundle", ID, tmp_path / "study.zip", "--root", small.root).code == 0
    said = run_cli("attack", tmp_path / "study.zip")
    assert said.code == 0
    assert "3 caught" in said.out
