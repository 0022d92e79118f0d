"""Every verb at every stage of a study: done, or refused with the code of the fault and what to do instead.

A stage that is not there yet is wrong usage (2), evidence that is not there is missing (4), and what is behind
cannot be done again (5): it would depart from what is registered.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from test_importing import DOCUMENT
from world import ID, TIME, World, tree

from prereg_moe import canonical, importing, stages
from prereg_moe.preparing import freeze
from prereg_moe.registry import Registry

STAGES = ("authored", "recorded", "frozen", "started", "computed", "judged", "reported")
DONE = (0, "")
UNFROZEN = (2, f"{ID}: is not frozen; run `prereg-moe freeze {ID}`")
NOTHING = (4, f"{ID}: has no seal yet, so it holds nothing to check; `prereg-moe check {ID}`")
UNFINISHED = (4, f"{ID}: its run is not finished; run `prereg-moe run {ID}`")
UNJUDGED = (4, f"reports/{ID}/verdict.json: is not there yet; run `prereg-moe verdict {ID}`")
FROZEN = (5, f"{ID}: is frozen already")
BEGUN = (5, f"{ID}: cannot be amended: its run began; record what changed with `prereg-moe deviate {ID}`")
NO_LOOK = (5, f"{ID}: has no interim look registered")
NO_RUN = (2, f"{ID}: has no run to deviate from; ")
NO_CHALLENGE = (2, f"{ID}: waits for no challenge: its null draws are frozen")
RUN_HERE = (2, f"{ID}: is a study that is run here; run `prereg-moe run {ID}`")
UNAMENDABLE = (2, f"{ID}: is not frozen, so there is nothing to amend; edit its registration.yaml")

# verb -> what it says at each of STAGES; None where models would be loaded
TABLE: dict[str, tuple[tuple[int, str] | None, ...]] = {
    "check": (DONE,) * 7,
    "status": (DONE,) * 7,
    "atlas": (None, None, *(FROZEN,) * 5),
    "diagnose": (DONE, DONE, *(FROZEN,) * 5),
    "freeze": ((2, f"atlas: is not made yet; run `prereg-moe atlas {ID}` first"), DONE, *(FROZEN,) * 5),
    "amend": (UNAMENDABLE, UNAMENDABLE, DONE, *(BEGUN,) * 4),
    "challenge": (UNFROZEN, UNFROZEN, *(NO_CHALLENGE,) * 5),
    "sign": (UNFROZEN, UNFROZEN, *(DONE,) * 5),
    "timestamp": (UNFROZEN, UNFROZEN, *(DONE,) * 5),
    "run": (UNFROZEN, UNFROZEN, None, None, DONE, DONE, DONE),
    "look": (UNFROZEN, UNFROZEN, *(NO_LOOK,) * 5),
    "rescore": (UNFROZEN, UNFROZEN, UNFINISHED, UNFINISHED, None, None, None),
    "deviate": (
        (2, NO_RUN[1] + "edit"),
        (2, NO_RUN[1] + "edit"),
        (2, NO_RUN[1] + "use `prereg-moe amend"),
        *(DONE,) * 4,
    ),
    "import": (RUN_HERE,) * 7,
    "verdict": (UNFROZEN, UNFROZEN, UNFINISHED, UNFINISHED, DONE, DONE, DONE),
    "report": (UNFROZEN, UNFROZEN, UNJUDGED, UNJUDGED, UNJUDGED, DONE, DONE),
    "index": (DONE,) * 7,
    "audit": ((4, ""), *(DONE,) * 6),
    "bundle": (NOTHING, *(DONE,) * 6),
    "attack": (NOTHING, None, None, None, None, None, None),  # `test_attack` plays them
}


@pytest.fixture
def said_by(small_at: Callable[[str], World], run_cli: Callable[..., Any], tmp_path: Path) -> Callable[..., Any]:
    """Run a verb on the smallest study as it stood after a stage; return what it said, and the study's folder."""

    def said(verb: str, stage: str, *options: str) -> tuple[Any, World]:
        world = small_at("frozen" if stage == "started" else stage)
        if stage == "started":
            world.registry.seal("start", ID, [], time=TIME)
        return run_cli(*_command(verb, world, tmp_path), "--root", world.root, *options), world

    return said


def _command(verb: str, world: World, folder: Path) -> tuple[object, ...]:
    if verb in ("sign", "challenge"):
        _keys(folder)
    amended = folder / "amended.yaml"
    amended.write_text(
        yaml.safe_dump(yaml.safe_load((world.folder / "registration.yaml").read_text()) | {"title": "Another"})
    )
    return {
        "diagnose": ("diagnose", ID, "--studies", 20, "--workers", 1),
        "amend": ("amend", ID, amended, "--reason", "a slip"),
        "challenge": ("trust", "challenge", ID, "--nonce", folder / "nonce.json"),
        "sign": ("trust", "sign", ID, "--key", folder / "key"),
        "timestamp": ("trust", "timestamp", ID, "--request", folder / "a.tsq"),
        "deviate": (
            "deviate",
            ID,
            "--type",
            "data",
            "--timing",
            "after_data",
            "--reason",
            "a slip",
            "--impact",
            "none",
        ),
        "import": ("import", "rows", ID, amended),
        "report": ("report", ID, "--format", "md"),
        "index": ("report", "--index"),
        "bundle": ("bundle", ID, folder / "study.zip"),
    }.get(verb, (verb, ID))


def _keys(folder: Path) -> None:
    from prereg_moe import trust

    trust.make_key(folder / "key")
    key = trust.read_private(folder / "key", lambda: "")
    canonical.write(folder / "nonce.json", trust.give_nonce("sha256:" + "0" * 64, key, nonce=bytes(32), time=TIME))


@pytest.mark.parametrize(
    ("verb", "stage", "expected"),
    [
        pytest.param(verb, stage, expected, id=f"{verb} of what is {stage}")
        for verb, row in TABLE.items()
        for stage, expected in zip(STAGES, row, strict=True)
        if expected is not None
    ],
)
def test_a_verb_is_done_or_says_what_to_do_instead(
    verb: str, stage: str, expected: tuple[int, str], said_by: Callable[..., Any]
) -> None:
    said, _ = said_by(verb, stage, "--json")
    code, sentence = expected
    assert said.code == code, said.err
    assert said.json.get("exit_code", 0) == code, "a program reads the same"
    assert len(said.out.splitlines()) == 1, "one document and nothing else"
    if sentence:
        assert [line.startswith(f"error: {sentence}") for line in said.lines] == [True], said.err


def test_every_verb_has_a_row() -> None:
    from prereg_moe.cli import cli

    inside = {"trust": {"sign", "timestamp", "challenge"}, "import": {"import"}, "report": {"report", "index"}}
    elsewhere = {"demo", "init", "inspect"}  # they take no registration
    verbs = {row for verb in cli.commands for row in inside.get(verb, {verb}) if verb not in elsewhere}
    assert verbs == set(TABLE)


@pytest.mark.parametrize("verb", [verb for verb, row in TABLE.items() if row[0] and row[0][0]])
def test_what_is_refused_changes_nothing(
    verb: str, small_at: Callable[[str], World], said_by: Callable[..., Any]
) -> None:
    said, world = said_by(verb, "authored")
    assert said.code in (2, 4)
    assert not world.registry.ledger_path.exists()
    assert sorted(path.name for path in world.root.iterdir()) == ["registrations"], tree(world.root)


def test_an_audit_of_what_is_not_sealed_says_so(said_by: Callable[..., Any]) -> None:
    said, _ = said_by("audit", "authored")
    assert "world, head none: nothing is sealed yet" in said.out
    assert "there is nothing to check yet" in said.out
    assert "None" not in said.out
    assert "holds" not in said.out


# ------------------------------------------------------------------ evidence made elsewhere

THEIRS = DOCUMENT["id"]
THEIR_STAGES = ("written", "frozen", "imported", "judged", "reported")
NOT_HERE = (2, f"{THEIRS}: is of evidence made elsewhere; this verb is for studies that are run here")
THEIRS_UNFROZEN = (2, f"{THEIRS}: is not frozen; run `prereg-moe freeze {THEIRS}`")
THEIRS_FROZEN = (5, f"{THEIRS}: is frozen already")
NOT_IMPORTED = (4, f"reports/{THEIRS}/imported.json: is not there yet; run `prereg-moe import summary {THEIRS}`")
TAKEN_IN = (5, f"{THEIRS}: has its evidence already")

THEIR_TABLE: dict[str, tuple[tuple[int, str], ...]] = {
    **dict.fromkeys(("atlas", "run", "look", "rescore", "amend", "deviate"), (NOT_HERE,) * 5),
    "check": (DONE,) * 5,
    "status": (DONE,) * 5,
    "diagnose": ((2, "design: is missing"), *(THEIRS_FROZEN,) * 4),
    "freeze": (DONE, *(THEIRS_FROZEN,) * 4),
    "import": (THEIRS_UNFROZEN, DONE, *(TAKEN_IN,) * 3),
    "verdict": (THEIRS_UNFROZEN, NOT_IMPORTED, *(DONE,) * 3),
    "report": (
        THEIRS_UNFROZEN,
        *((4, f"reports/{THEIRS}/verdict.json: is not there yet; run `prereg-moe verdict {THEIRS}`"),) * 2,
        DONE,
        DONE,
    ),
    "audit": ((4, ""), *(DONE,) * 4),
}


@pytest.mark.parametrize(
    ("verb", "stage", "expected"),
    [
        pytest.param(verb, stage, expected, id=f"{verb} of what is {stage}")
        for verb, row in THEIR_TABLE.items()
        for stage, expected in zip(THEIR_STAGES, row, strict=True)
    ],
)
def test_a_verb_does_the_same_for_evidence_made_elsewhere(
    verb: str, stage: str, expected: tuple[int, str], tmp_path: Path, run_cli: Callable[..., Any]
) -> None:
    registry, table = _theirs(tmp_path, stage)
    command = {
        "amend": ("amend", THEIRS, table, "--reason", "a slip"),
        "deviate": ("deviate", THEIRS, "--type", "data", "--timing", "after_data", "--reason", "x", "--impact", "x"),
        "import": ("import", "summary", THEIRS, table),
        "report": ("report", THEIRS, "--format", "md"),
    }.get(verb, (verb, THEIRS))
    said = run_cli(*command, "--root", registry.root, "--json")
    code, sentence = expected
    assert said.code == code, said.err
    assert said.json.get("exit_code", 0) == code, "a program reads the same"
    if sentence:
        assert [line.startswith(f"error: {sentence}") for line in said.lines] == [True], said.err


def _theirs(folder: Path, stage: str) -> tuple[Registry, Path]:
    """Return a registry with published numbers as they stood after a stage, and the table they are in."""
    registry, table = Registry(folder), folder / "table.csv"
    table.write_text("family,on,off\nx,1.8,0.4\n")
    canonical.write(registry.registration(THEIRS) / "registration.yaml", canonical.dumps(DOCUMENT))
    steps: tuple[Callable[[], object], ...] = (
        lambda: freeze(registry, THEIRS, time=TIME),
        lambda: importing.take_in(registry, THEIRS, "summary", table, time=TIME),
        lambda: stages.verdict(registry, THEIRS, time=TIME),
        lambda: stages.render(registry, THEIRS, ("md",), time=TIME),
    )
    for step in steps[: THEIR_STAGES.index(stage)]:
        step()
    return registry, table


def test_a_pilot_of_published_numbers_is_refused(tmp_path: Path, run_cli: Callable[..., Any]) -> None:
    registry, _ = _theirs(tmp_path, "written")
    said = run_cli("diagnose", THEIRS, "--pilot", THEIRS, "--root", registry.root)
    assert (said.code, "--pilot: gives the spread of items" in said.err) == (2, True)
