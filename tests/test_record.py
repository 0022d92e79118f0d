"""What a study has to own up to: amendments, deviations, starts and other registrations of the same claim."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from world import ID, TIME, World, tree

from prereg_moe import canonical, ledger, load_frozen, stages, store
from prereg_moe.amending import STATISTICAL, TIMINGS, TYPES, amend, deviate
from prereg_moe.auditing import audit
from prereg_moe.cli import changing
from prereg_moe.errors import Deviated, Invalid, NotCheckable, Stopped, Tampered
from prereg_moe.freezing import freeze

INVALID, NOT_CHECKABLE, DEVIATED = 2, 4, 5


def document(world: World) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((world.folder / "registration.yaml").read_text("utf-8"))
    return found


def write(path: Path, made: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(made, sort_keys=False, allow_unicode=True), "utf-8")
    return path


def edited(world: World, path: Path, edit: Callable[[dict[str, Any]], Any]) -> Path:
    """Write the world's registration, changed, to a path."""
    made = document(world)
    edit(made)
    return write(path, made)


def kappa(value: float) -> Callable[[dict[str, Any]], Any]:
    return lambda made: made["rules"]["modular"].update(kappa=value)


def kinds(world: World) -> list[str]:
    return [seal.kind for seal in ledger.parse(world.registry.ledger()) if seal.registration == ID]


def outcomes(world: World) -> set[str]:
    result = world.audit(ledger.head(ledger.parse(world.registry.ledger())))
    assert result.exit_code == 0, result
    return {finding.outcome for finding in result.findings}


def test_an_audit_that_cannot_believe_the_frozen_document_sends_nobody_to_remove_what_it_names(frozen: World) -> None:
    path = frozen.folder / "frozen.json"
    path.write_bytes(path.read_bytes() + b" ")
    result = frozen.audit()
    said = " ".join(detail for finding in result.findings for detail in finding.details)
    assert result.exit_code == 3
    assert "frozen.json: is not the file that was sealed" in said
    assert "sealed by nobody" not in said


# ------------------------------------------------------------------ amendments


def test_an_amendment_supersedes_and_keeps_what_was_frozen(frozen: World, tmp_path: Path) -> None:
    before, old = tree(frozen.folder), frozen.frozen.digest
    made = amend(frozen.registry, ID, edited(frozen, tmp_path / "new.yaml", kappa(2)), reason=" a slip ", time=TIME)
    assert made.frozen is not None
    assert made.frozen.document["supersedes"] == {"number": 1, "registration": old, "reason": "a slip"}
    assert made.frozen.registration.rules["modular"].kappa == 2
    assert made.head == ledger.head(ledger.parse(frozen.registry.ledger()))
    assert kinds(frozen) == ["atlas", "freeze", "amend", "freeze"]
    kept = tree(frozen.folder / "superseded/1")
    assert {name: before[name] for name in kept} == kept
    assert {"frozen.json", "registration.yaml", "atlas.json", "templates/report.md.j2"} <= set(kept)
    outcomes(frozen)


def test_an_amended_study_goes_on_to_a_report_that_says_so(frozen: World, tmp_path: Path) -> None:
    amend(frozen.registry, ID, edited(frozen, tmp_path / "1.yaml", kappa(2)), reason="first", time=TIME)
    amend(frozen.registry, ID, edited(frozen, tmp_path / "2.yaml", kappa(4)), reason="second", time=TIME)
    frozen.run()
    record = frozen.judge().document["record"]
    assert [(said["number"], said["reason"]) for said in record["amendments"]] == [(1, "first"), (2, "second")]
    assert set(record) == {"amendments"}
    frozen.report()
    assert outcomes(frozen) == {"holds"}
    text = (frozen.registry.reports(ID) / "report.md").read_text("utf-8")
    assert "first" in text
    assert "second" in text


def test_an_edited_registration_can_be_amended_in_place(frozen: World) -> None:
    edited(frozen, frozen.folder / "registration.yaml", kappa(2))
    made = amend(frozen.registry, ID, frozen.folder, reason="in place", time=TIME)
    assert made.frozen is not None
    assert "registration.yaml" not in tree(frozen.folder / "superseded/1")
    outcomes(frozen)


def test_what_must_be_made_again_first_is_said(frozen: World, tmp_path: Path) -> None:
    path = edited(frozen, tmp_path / "new.yaml", lambda made: made["atlas"].update(items=6))
    made = amend(frozen.registry, ID, path, reason="fewer items", time=TIME)
    assert made.frozen is None
    assert "make the atlas again" in str(made.pending[0])
    outcomes(frozen)  # nothing is frozen now, and what was is still sealed
    with pytest.raises(Invalid, match="is not frozen"):
        load_frozen(frozen.registry, ID)
    frozen.record()
    assert frozen.freeze().document["supersedes"]["number"] == 1
    outcomes(frozen)


@pytest.mark.parametrize(
    ("stage", "code", "words"),
    [
        ("recorded", INVALID, "is not frozen"),
        ("computed", DEVIATED, "its run began"),
        ("judged", DEVIATED, "its run began"),
        ("reported", DEVIATED, "deviate"),
    ],
)
def test_an_amendment_comes_before_the_run_or_not_at_all(
    stage: str, code: int, words: str, world_at: Callable[[str], World], run_cli: Callable[..., Any], tmp_path: Path
) -> None:
    world = world_at(stage)
    path = edited(world, tmp_path / "new.yaml", kappa(2))
    before = tree(world.root)
    said = run_cli("amend", ID, path, "--reason", "x", "--root", world.root)
    assert (said.code, words in said.err) == (code, True), said.err
    assert tree(world.root) == before


def test_evidence_that_lies_there_without_a_start_forbids_an_amendment(frozen: World, tmp_path: Path) -> None:
    frozen.compute()
    with pytest.raises(Deviated, match="holds evidence"):
        amend(frozen.registry, ID, edited(frozen, tmp_path / "new.yaml", kappa(2)), reason="x", time=TIME)


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda made: None, "says what is frozen already"),
        (lambda made: made.update(id="other"), "keeps its id"),
        (lambda made: made.pop("foreknowledge"), "is missing"),
    ],
)
def test_an_amendment_that_is_none_changes_nothing(edit: Any, words: str, frozen: World, tmp_path: Path) -> None:
    path, before = edited(frozen, tmp_path / "new.yaml", edit), tree(frozen.folder)
    with pytest.raises(Invalid, match=words):
        amend(frozen.registry, ID, path, reason="x", time=TIME)
    assert tree(frozen.folder) == before


def test_no_reason_is_no_amendment(frozen: World, tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="say it in words"):
        amend(frozen.registry, ID, edited(frozen, tmp_path / "new.yaml", kappa(2)), reason="  ", time=TIME)


def test_a_superseded_registration_cannot_be_rewritten(frozen: World, tmp_path: Path) -> None:
    amend(frozen.registry, ID, edited(frozen, tmp_path / "new.yaml", kappa(2)), reason="x", time=TIME)
    path = frozen.folder / "superseded/1/frozen.json"
    path.write_bytes(path.read_bytes().replace(b'"kappa":3', b'"kappa":2'))
    result = frozen.audit()
    assert result.exit_code == 3
    assert any("superseded/1/frozen.json" in detail for finding in result.findings for detail in finding.details)


# ------------------------------------------------------------------ deviations


def deviated(world: World, *, plan: Path | None = None, type_: str = "analysis", timing: str = "after_data") -> int:
    return deviate(
        world.registry,
        ID,
        type_=type_,
        reason="kappa was a slip",
        timing=timing,
        impact="more may pass",
        plan=plan,
        time=TIME,
    )[0]


def test_a_deviation_behind_the_report_asks_for_a_new_verdict(reported: World, run_cli: Callable[..., Any]) -> None:
    assert deviated(reported) == 1
    said = run_cli("report", ID, "--root", reported.root)
    assert (said.code, "judged before the last deviation" in said.err) == (NOT_CHECKABLE, True), said.err
    assert "prereg-moe verdict" in said.err
    [said_of_verdict] = [f for f in reported.audit().findings if f.name == "verdict"]
    assert "to be judged again" in said_of_verdict.details[-1]
    outcomes(reported)
    reported.judge()
    outcomes(reported)  # the report is of the earlier verdict: unchecked, not wrong
    reported.report()
    assert outcomes(reported) == {"holds"}
    assert kinds(reported)[-4:] == ["report", "deviation", "verdict", "report"]


def test_verdicts_under_an_amended_plan_are_post_hoc(reported: World, tmp_path: Path) -> None:
    def edit(made: dict[str, Any]) -> None:
        made["rules"]["modular"]["minimum_effect"] = 5  # nothing reaches it
        made["claims"] = [block for block in made["claims"] if block["id"] != "points"]
        made["claims"].append({**made["claims"][0], "id": "late", "rule": "selective", "tier": "exploratory"})
        made["controls"].pop("positive")
        made["claims"] = [block for block in made["claims"] if block["id"] != "planted"]

    before = reported.judge().document
    deviated(reported, plan=edited(reported, tmp_path / "plan.yaml", edit))
    after = reported.judge().document
    assert {key: value for key, value in after.items() if key != "record"} == before, "the registered verdicts stand"
    [said] = after["record"]["deviations"]
    assert (said["recorded_behind"], said["timing"], said["impact"]) == ("report", "after_data", "more may pass")
    found = said["post_hoc"]
    assert found["changes"] == ["claims", "controls.positive", "rules"]
    rows = {row["claim"]: row for row in found["verdicts"]}
    assert {row["verdict"] for row in rows.values()} == {"POST-HOC", None}
    assert rows["main.no"]["registered"] == "CONFIRMED"
    assert rows["main.no"]["would_have_been"] == "REFUTED"
    assert rows["late.no"]["registered"] is None
    assert rows["late.no"]["would_have_been"] == "CONFIRMED"
    assert rows["late.no"]["verdict"] == "POST-HOC"
    assert rows["points.no"]["would_have_been"] is None
    reported.report()
    assert outcomes(reported) == {"holds"}
    text = (reported.registry.reports(ID) / "report.md").read_text("utf-8")
    assert "POST-HOC" in text
    assert "kappa was a slip" in text


def test_a_deviation_during_the_run_changes_no_number(frozen: World) -> None:
    frozen.registry.seal("start", ID, [], time=TIME, body={"missing": 3})
    deviated(frozen, type_="environment", timing="before_data")
    frozen.run()
    record = frozen.judge().document["record"]
    assert [said["recorded_behind"] for said in record["deviations"]] == ["start"]
    assert [start["missing"] for start in record["starts"]] == [3, None]
    outcomes(frozen)


@pytest.mark.parametrize(
    "key", ["models", "axes", "intervention", "title", "foreknowledge", "controls.null", "measures"]
)
def test_a_plan_changes_statistics_only(key: str, computed: World, tmp_path: Path) -> None:
    assert key not in STATISTICAL
    edits: dict[str, Callable[[dict[str, Any]], Any]] = {
        "models": lambda made: made["models"]["standard"].update(dtype="bfloat16"),
        "axes": lambda made: made["axes"]["code"].update(domain="language"),
        "intervention": lambda made: made["intervention"].update(gates="original"),
        "title": lambda made: made.update(title="Another"),
        "foreknowledge": lambda made: made.update(foreknowledge="None."),
        "controls.null": lambda made: made["controls"]["null"].update(seed="8"),
        "measures": lambda made: made["measures"]["nll"].update(items=6),
    }
    with pytest.raises(Invalid, match=f"{key}: is not what was registered"):
        deviated(computed, plan=edited(computed, tmp_path / "plan.yaml", edits[key]))
    assert "deviation" not in kinds(computed)


def test_a_plan_cannot_need_evidence_that_was_never_registered(computed: World, tmp_path: Path) -> None:
    path = edited(computed, tmp_path / "plan.yaml", lambda made: made["claims"][1].update(measure="nll_a"))
    with pytest.raises(Invalid, match="conditions that were never registered"):
        deviated(computed, plan=path)
    path = edited(computed, tmp_path / "plan.yaml", lambda made: None)
    with pytest.raises(Invalid, match="says what is registered"):
        deviated(computed, plan=path)


def test_before_a_run_there_is_nothing_to_deviate_from(world_at: Callable[[str], World]) -> None:
    for stage, words in (("recorded", "edit its registration.yaml"), ("frozen", "prereg-moe amend")):
        with pytest.raises(Invalid, match=words):
            deviated(world_at(stage))


def test_types_and_timings_are_closed_lists(computed: World, run_cli: Callable[..., Any]) -> None:
    with pytest.raises(Invalid, match="one of data, exclusions"):
        deviated(computed, type_="whim")
    with pytest.raises(Invalid, match="one of before_data, after_data"):
        deviated(computed, timing="yesterday")
    assert ", ".join(TYPES) == changing._TYPES
    assert set(TIMINGS) == {"before_data", "after_data"}


def test_an_amended_plan_cannot_be_rewritten(reported: World, tmp_path: Path) -> None:
    deviated(reported, plan=edited(reported, tmp_path / "plan.yaml", kappa(2)))
    path = reported.folder / "deviations/1.json"
    path.write_bytes(path.read_bytes().replace(b'"kappa":2', b'"kappa":1'))
    with pytest.raises(Tampered, match=r"deviations/1\.json"):
        reported.judge()
    path.unlink()
    with pytest.raises(NotCheckable, match=r"deviations/1\.json"):
        reported.judge()


# ------------------------------------------------------------------ the claim space


HARDER = kappa(4)


def variant(world: World, name: str, *, until: str = "judged", edit: Callable[[dict[str, Any]], Any] = HARDER) -> None:
    """Register a variant of the world's study beside it, and take it to a stage."""
    folder = world.registry.registration(name)
    shutil.copytree(world.registry.registration(ID), folder, ignore=shutil.ignore_patterns("frozen.json", "templates"))
    made = document(world)
    made["id"] = name
    edit(made)
    write(folder / "registration.yaml", made)
    world.registry.seal("atlas", name, [folder / "atlas.json"], time=TIME)
    if until == "recorded":
        return
    frozen = freeze(world.registry, name, time=TIME)
    if until == "frozen":
        return
    world.registry.seal("start", name, [], time=TIME)
    if until == "started":
        return
    for condition in frozen.plan.values():
        path = world.registry.evidence(name) / f"{condition.digest[7:]}.json"
        canonical.write(path, world.made(frozen, condition))
    store.finish(world.registry, frozen, time=TIME)
    stages.verdict(world.registry, name, time=TIME)


def levels(world: World, name: str = ID) -> set[float]:
    made = canonical.read(world.registry.reports(name) / "verdict.json")
    return {entry["alpha"] for entry in made["verdicts"] if entry["block"] == "main"}


def test_a_registration_that_is_alone_is_judged_as_ever(computed: World) -> None:
    assert "record" not in computed.judge().document
    assert levels(computed) == {0.05}


def test_variants_share_alpha_also_those_that_were_abandoned(computed: World) -> None:
    variant(computed, "v-frozen", until="frozen")
    variant(computed, "v-started", until="started")
    variant(computed, "v-recorded", until="recorded")  # never frozen: nothing was registered
    record = computed.judge().document["record"]
    [space] = record["claim_space"]
    assert space["shared_by"] == 3
    assert [(other["id"], other["stage"]) for other in space["registrations"]] == [
        ("v-frozen", "freeze"),
        ("v-started", "start"),
    ]
    assert levels(computed) == {0.05 / 3}
    computed.report()
    text = (computed.registry.reports(ID) / "report.md").read_text("utf-8")
    assert "v-frozen" in text
    assert "v-started" in text
    assert outcomes(computed) == {"holds"}


def test_sharing_costs_a_confirmation(computed: World) -> None:
    """Thirty draws reach .05 and .025, not .05 / 3: the winner of three variants is no winner."""
    for name in ("v1", "v2"):
        variant(computed, name, until="frozen")
    document = computed.judge().document
    assert {e["verdict"] for e in document["verdicts"] if e["block"] == "main"} == {"INCONCLUSIVE"}
    assert {e["verdict"] for e in document["verdicts"] if e["block"] == "planted"} == {"CONFIRMED"}, (
        "controls do not pay"
    )


def test_every_variant_sees_the_others_and_the_audit_agrees(computed: World) -> None:
    computed.judge()
    assert levels(computed) == {0.05}
    variant(computed, "later")
    assert levels(computed, "later") == {0.025}
    computed.judge()
    assert levels(computed) == {0.05}, "a sealed verdict stands"
    assert audit(computed.registry, "later").exit_code == 0
    outcomes(computed)
    deviated(computed, type_="procedure")
    computed.judge()
    assert levels(computed) == {0.025}, "a new verdict counts who came since"
    outcomes(computed)


def test_another_model_text_or_metric_is_another_claim(computed: World) -> None:
    def other_texts(made: dict[str, Any]) -> None:
        made["claims"][0]["measure"] = "nll_a"

    def other_metric(made: dict[str, Any]) -> None:
        made["measures"]["nll"]["metric"] = "acc"

    def other_names(made: dict[str, Any]) -> None:
        made["measures"]["mine"] = {**made["measures"]["nll"], "items": 8, "task": "mine_{axis}"}
        made["claims"][0]["measure"] = "mine"
        for task in (computed.registry.registration("names") / "tasks").glob("world_nll_*.yaml"):
            text = task.read_text("utf-8").replace("world_nll_", "mine_")
            task.with_name(task.name.replace("world_nll_", "mine_")).write_text(text, "utf-8")

    variant(computed, "texts", until="frozen", edit=other_texts)
    variant(computed, "metric", until="frozen", edit=other_metric)
    assert "record" not in store_record(computed)
    variant(computed, "names", until="frozen", edit=other_names)
    [space] = store_record(computed)["record"]["claim_space"]
    assert [other["id"] for other in space["registrations"]] == ["names"]


def store_record(world: World) -> dict[str, Any]:
    record = store.record(world.registry, world.frozen, ledger.parse(world.registry.ledger()))
    return {"record": record.document} if record.document else {}


def test_a_seal_that_does_not_tell_its_claim_space_hides_nothing(computed: World) -> None:
    variant(computed, "v", until="frozen")
    data, lines = b"", computed.registry.ledger()
    for seal in ledger.parse(lines):
        body = {key: value for key, value in seal.body.items() if key != "claim_space"}
        data += ledger.next_line(data, seal.kind, seal.registration, time=TIME, files=seal.files, body=body)
    computed.registry.ledger_path.write_bytes(data)
    assert store_record(computed)["record"]["claim_space"][0]["shared_by"] == 2, "it is read from frozen.json"
    shutil.rmtree(computed.registry.registration("v"))
    assert store_record(computed)["record"]["claim_space"][0]["shared_by"] == 2, "what is told nowhere counts"


def test_a_seal_that_tells_another_claim_space_is_found(frozen: World) -> None:
    data = b""
    for seal in ledger.parse(frozen.registry.ledger()):
        body = {**seal.body, "claim_space": []} if seal.kind == "freeze" else seal.body
        data += ledger.next_line(data, seal.kind, seal.registration, time=TIME, files=seal.files, body=body)
    frozen.registry.ledger_path.write_bytes(data)
    assert frozen.audit().exit_code == 3


def test_freeze_and_status_say_who_shares(computed: World, run_cli: Callable[..., Any]) -> None:
    variant(computed, "v1", until="frozen")
    variant(computed, "v2", until="recorded")
    said = run_cli("freeze", "v2", "--root", computed.root)
    assert "shares weights, texts and metric with v1 (freeze), world (finish)" in said.out
    assert "30 null draws give no p below 0.0323" in said.out
    said = run_cli("status", "--root", computed.root, "--json").json
    assert said["standing"][ID]["neighbours"] == {"v1": "freeze", "v2": "freeze"}
    assert said["standing"][ID]["shared_by"] == 3


# ------------------------------------------------------------------ standing


def test_status_and_check_say_that_a_frozen_registration_was_edited(
    reported: World, run_cli: Callable[..., Any]
) -> None:
    assert "edited" not in run_cli("status", "--root", reported.root).out
    edited(reported, reported.folder / "registration.yaml", kappa(2))
    for command in (["status"], ["check", reported.folder]):
        assert "was edited since it was frozen" in run_cli(*command, "--root", reported.root).out


def test_status_says_what_happened(frozen: World, run_cli: Callable[..., Any], tmp_path: Path) -> None:
    path = edited(frozen, tmp_path / "new.yaml", kappa(2))
    said = run_cli("amend", ID, path, "--reason", "a slip", "--root", frozen.root)
    assert said.code == 0, said.err
    assert said.out.splitlines()[-1] == f"head {ledger.head(ledger.parse(frozen.registry.ledger()))}"
    frozen.registry.seal("start", ID, [], time=TIME, body={"missing": 9})
    frozen.run()
    options = ["--type", "data", "--reason", "r", "--timing", "after_data", "--impact", "i"]
    said = run_cli("deviate", ID, *options, "--root", frozen.root)
    assert said.out.splitlines()[-1] == f"head {ledger.head(ledger.parse(frozen.registry.ledger()))}"
    lines = run_cli("status", "--root", frozen.root).out
    for words in ("evidence complete", "started 2 times", "superseded: sha256:", "deviations: data"):
        assert words in lines
    frozen.registry.ledger_path.write_bytes(frozen.registry.ledger() + b"{")
    assert "last line is torn (1 bytes)" in run_cli("status", "--root", frozen.root).out


def test_a_verdict_is_not_sealed_on_a_ledger_that_grew_meanwhile(computed: World) -> None:
    head = ledger.head(ledger.parse(computed.registry.ledger()))
    computed.registry.seal("atlas", "other", [], time=TIME)
    before = computed.registry.ledger()
    with pytest.raises(Stopped, match="run the command again"):
        computed.registry.seal("verdict", ID, [], time=TIME, expected_head=head)
    assert computed.registry.ledger() == before


def test_a_head_that_was_given_early_is_found_in_a_ledger_that_grew(reported: World) -> None:
    """The head handed out with the freeze is no sign of tampering when the study is finished."""
    seals = ledger.parse(reported.registry.ledger())
    at_freeze = next(seal.digest for seal in seals if seal.kind == "freeze")
    early, last = (audit(reported.registry, ID, expected_head=head) for head in (at_freeze, seals[-1].digest))
    assert early.exit_code == last.exit_code == 0
    assert f"of {len(seals)}: what was sealed behind it could be rewritten" in " ".join(early.findings[1].details)
    assert len(last.findings[1].details) == 1
    unknown = audit(reported.registry, ID, expected_head="sha256:" + "0" * 64)
    assert unknown.exit_code == Tampered.exit_code
    assert unknown.findings[1].outcome == "fails"
