"""Attacks on a finished study: each is found, at the step that looks there, with the code of its fault."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from world import ID, TIME, World, tree

from prereg_moe import canonical, ledger
from prereg_moe.attack.copies import Copy
from prereg_moe.auditing import STEPS, Audit
from prereg_moe.errors import Deviated

TAMPERED, NOT_CHECKABLE, DEVIATED = 3, 4, 5


def failed(result: Audit) -> dict[str, str]:
    """Return step -> what it found, of the steps that fail."""
    assert [finding.step for finding in result.findings] == list(range(1, len(STEPS) + 1)), "every step runs"
    return {f.name: " ".join(f.details) for f in result.findings if f.outcome == "fails"}


def head_of(world: World) -> str:
    return ledger.head(ledger.parse(world.registry.ledger())) or ""


def replace(path: Path, old: bytes, new: bytes) -> None:
    data = path.read_bytes()
    assert old in data, f"{path.name} does not hold {old!r}"
    path.write_bytes(data.replace(old, new, 1))


def test_an_honest_study_holds_at_every_stage(world_at: Callable[[str], World]) -> None:
    expected = {"recorded": 2, "frozen": 6, "computed": 7, "judged": 8, "reported": 9}
    for stage, steps in expected.items():
        result = world_at(stage).audit()
        assert result.exit_code == 0, (stage, result)
        held = [finding.name for finding in result.findings if finding.outcome == "holds"]
        assert len(held) == steps - (stage != "recorded"), (stage, held)  # no head was given


def test_an_atlas_edited_before_the_freeze_is_found(world_at: Callable[[str], World]) -> None:
    world = world_at("recorded")
    replace(world.folder / "atlas.json", b"40", b"41")
    result = world.audit()
    assert result.exit_code == TAMPERED
    assert "atlas.json" in failed(result)["sealed files"]


def test_an_audit_writes_nothing(reported: World) -> None:
    before = tree(reported.root)
    reported.audit(head_of(reported))
    assert tree(reported.root) == before


# ------------------------------------------------------------------ one changed file


def test_every_single_file_is_bound(reported: World) -> None:
    """Change one byte of every kind of file of the study in turn: the audit is never content."""
    alike = {(path.parent, path.suffix): path for path in sorted(reported.root.rglob("*")) if path.is_file()}
    own = {path for path in reported.folder.iterdir() if path.is_file()}
    own |= {path for path in reported.registry.reports(ID).iterdir() if path.is_file()}
    head = head_of(reported)
    for path in sorted(own | set(alike.values())):
        data = path.read_bytes()
        middle = len(data) // 2
        path.write_bytes(data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :])
        result = reported.audit(head)
        assert result.exit_code == TAMPERED, (path.name, result)
        named = reported.registry.name(path)
        assert any(path.name in words or named in words for words in failed(result).values()), (path, failed(result))
        path.write_bytes(data)
    assert reported.audit(head).exit_code == 0


MISSING = ["frozen.json", "registration.yaml", "atlas.json", "templates/report.md.j2"]


@pytest.mark.parametrize("name", MISSING)
def test_a_missing_file_of_the_registration_is_missed(name: str, reported: World) -> None:
    (reported.folder / name).unlink()
    result = reported.audit()
    assert result.exit_code == NOT_CHECKABLE
    assert name in failed(result)["sealed files"]


@pytest.mark.parametrize("name", ["verdict.json", "report.md", "report.tex", "evidence.json"])
def test_a_missing_result_is_missed(name: str, reported: World) -> None:
    (reported.registry.reports(ID) / name).unlink()
    result = reported.audit()
    assert result.exit_code == NOT_CHECKABLE
    assert name in failed(result)["sealed files"]


def test_a_missing_model_leaves_the_rest_checkable(reported: World) -> None:
    (reported.folder / "models/planted").rename(reported.root / "elsewhere")
    result = reported.audit()
    assert result.exit_code == 0
    [step] = [finding for finding in result.findings if finding.name == "pinned files"]
    assert step.outcome == "unchecked"
    assert "./models/planted is not here" in step.details[0]


@pytest.mark.parametrize("place", ["registrations/world/notes.txt", "reports/world/other.json"])
def test_a_file_nobody_sealed_is_found(place: str, reported: World) -> None:
    (reported.root / place).write_text("x")
    result = reported.audit()
    assert result.exit_code == DEVIATED
    assert place in failed(result)["sealed files"]


def test_evidence_nobody_planned_is_found(reported: World) -> None:
    (reported.registry.evidence(ID) / "extra.json").write_text("{}")
    result = reported.audit()
    assert result.exit_code == DEVIATED
    assert "extra.json" in failed(result)["evidence"]


# ------------------------------------------------------------------ forgeries that are sealed again


def sealed_again(world: World) -> None:
    """Rewrite the whole ledger so that every seal holds the digests of the files as they are now."""
    Copy(world.registry, ID).reseal()


def test_a_rewritten_history_is_found_by_the_head_the_reader_was_given(reported: World) -> None:
    head = head_of(reported)
    replace(reported.folder / "registration.yaml", b"Everything:", b"Nothing at all:")
    sealed_again(reported)
    assert "head" in failed(reported.audit(head))
    assert reported.audit(head).exit_code == TAMPERED


def edit_verdict(document: Any) -> None:
    document["verdicts"][6] |= {"verdict": "CONFIRMED", "reasons": ["ALL_PARTS_HOLD"]}


def test_an_edited_verdict_does_not_follow_even_when_sealed_again(reported: World) -> None:
    path = reported.registry.reports(ID) / "verdict.json"
    document = canonical.read(path)
    edit_verdict(document)
    canonical.write(path, document)
    sealed_again(reported)
    result = reported.audit()
    assert result.exit_code == TAMPERED
    assert "verdicts[6]" in failed(result)["verdict"]


def test_an_edited_report_does_not_follow_even_when_sealed_again(reported: World) -> None:
    path = reported.registry.reports(ID) / "report.md"
    path.write_text(path.read_text().replace("INCONCLUSIVE", "CONFIRMED").replace("REFUTED", "CONFIRMED") + "!")
    sealed_again(reported)
    assert set(failed(reported.audit())) == {"report"}


def test_evidence_and_verdict_of_another_run_do_not_pass_for_the_sealed_ones(reported: World) -> None:
    path = reported.evidence[0]
    document = canonical.read(path)
    column = document["axes"]["no"]
    column["metric"][0] += 8.0
    column["values"][0] = column["metric"][0] / column["tokens"][0]
    canonical.write(path, document)
    assert {"evidence", "verdict"} <= set(failed(reported.audit()))


def forge_frozen(world: World, edit: Callable[[Any], Any]) -> Audit:
    """Edit frozen.json, seal everything again and audit."""
    path = world.folder / "frozen.json"
    document = canonical.read(path)
    edit(document)
    canonical.write(path, document)
    sealed_again(world)
    return world.audit()


FORGED: dict[str, tuple[Callable[[Any], Any], str]] = {
    "another family": (lambda d: d["families"][0].update(cells=[[1, [7, 8]], [2, [7, 8]]]), "families and draws"),
    "kinder null draws": (lambda d: d["draws"][0]["cells"].pop(), "families and draws"),
    "another layout": (lambda d: d["layout"]["standard"].update(top_k=1), "families and draws"),
    "only the items that came out well": (lambda d: d["items"]["nll"]["no"].pop(), "pinned files"),
    "other clusters": (lambda d: d["clusters"].update(nll={}), "pinned files"),
    "tasks that are not pinned": (lambda d: d["pins"].update(tasks={}), "pinned files"),
    "weights that are not pinned": (lambda d: d["pins"]["models"].pop("standard"), "pinned files"),
    "another alpha": (lambda d: d["registration"]["inference"].update(alpha=0.1), "registration"),
    "another minimum effect": (
        lambda d: d["registration"]["rules"]["modular"].update(minimum_effect=0),
        "registration",
    ),
    "another atlas": (lambda d: d["pins"].update(atlas="sha256:" + "0" * 64), "families and draws"),
    "another document": (lambda d: d["pins"].update(document="sha256:" + "0" * 64), "registration"),
    "another template": (lambda d: d["pins"].update(templates={}), "report"),
    "no families at all": (lambda d: d.update(families=[]), "families and draws"),
    "families that are no list": (lambda d: d.update(families=3), "families and draws"),
}


@pytest.mark.parametrize("name", FORGED)
def test_a_frozen_registration_with(name: str, reported: World) -> None:
    edit, step = FORGED[name]
    result = forge_frozen(reported, edit)
    assert result.exit_code == TAMPERED
    assert step in failed(result), failed(result)


# ------------------------------------------------------------------ the ledger


def test_a_ledger_cut_short_is_found_by_its_head(reported: World) -> None:
    head, path = head_of(reported), reported.registry.ledger_path
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-2]))
    result = reported.audit(head)
    assert result.exit_code == TAMPERED
    assert "ends in" in failed(result)["head"]


def test_a_torn_ledger_is_reported_and_the_next_command_repairs_it(
    computed: World, run_cli: Callable[..., Any]
) -> None:
    path = computed.registry.ledger_path
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"body":{},"files')
    assert "the last line is torn" in failed(computed.audit())["ledger"]
    assert run_cli("verdict", ID, "--root", computed.root).code == 0
    assert path.read_bytes().startswith(whole)
    assert computed.audit().exit_code == 0


def test_no_ledger_is_nothing_to_check(reported: World, run_cli: Callable[..., Any]) -> None:
    reported.registry.ledger_path.unlink()
    result = reported.audit()
    assert result.exit_code == NOT_CHECKABLE
    assert run_cli("audit", reported.root).code == NOT_CHECKABLE


def test_a_ledger_that_is_a_folder_is_not_a_crash(reported: World, run_cli: Callable[..., Any]) -> None:
    reported.registry.ledger_path.unlink()
    reported.registry.ledger_path.mkdir()
    assert run_cli("audit", reported.root).code == NOT_CHECKABLE


@pytest.mark.parametrize("name", ["../outside.txt", "registrations/../../outside.txt", "/etc/passwd"])
def test_a_seal_over_a_file_outside_the_registry_is_refused(name: str, reported: World) -> None:
    seal = ledger.parse(reported.registry.ledger())[-1]
    lines = reported.registry.ledger().splitlines(keepends=True)[:-1]
    forged = json.loads(seal.line) | {"files": {name: "sha256:" + "0" * 64}}
    reported.registry.ledger_path.write_bytes(b"".join(lines) + canonical.dumps(forged) + b"\n")
    result = reported.audit()
    assert result.exit_code != 0
    assert "lies outside the registry" in failed(result)["sealed files"]


def test_evidence_before_the_freeze_cannot_be_sealed(world_at: Callable[[str], World]) -> None:
    world = world_at("recorded")
    for kind in ("start", "finish", "verdict", "report"):
        with pytest.raises(Deviated, match="cannot follow atlas"):
            world.registry.seal(kind, ID, [], time=TIME)


def test_evidence_outside_the_sealed_manifest_is_refused(frozen: World, run_cli: Callable[..., Any]) -> None:
    """A run sealed over an empty list would leave every evidence file free to change."""
    frozen.registry.seal("start", ID, [], time=TIME)
    frozen.compute()
    path = frozen.registry.reports(ID) / "evidence.json"
    canonical.write(path, {})
    frozen.registry.seal("finish", ID, [path], time=TIME)
    said = run_cli("verdict", ID, "--root", frozen.root)
    assert said.code == DEVIATED
    assert "nobody sealed" in said.err


def test_any_nonsense_in_place_of_a_file_is_a_finding_and_no_crash(reported: World) -> None:
    head = head_of(reported)
    for name in ("frozen.json", "atlas.json"):
        path = reported.folder / name
        data = path.read_bytes()
        for nonsense in (b"{}", b"[]", b"[" * 100_000):
            path.write_bytes(nonsense)
            assert reported.audit(head).exit_code == TAMPERED, (name, nonsense[:9])
        path.write_bytes(data)
    for name in ("verdict.json", "evidence.json"):
        path = reported.registry.reports(ID) / name
        data = path.read_bytes()
        for nonsense in (b"{}", b"[]"):
            path.write_bytes(nonsense)
            assert reported.audit(head).exit_code == TAMPERED, (name, nonsense)
        path.write_bytes(data)
