"""Bad input through the command line: one line a problem, the exit code of its fault, nothing written."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from world import AXES, ID, World, registration, tree

from prereg_moe import canonical, load
from prereg_moe.attack.copies import Copy
from prereg_moe.errors import Stopped
from prereg_moe.registration import planned, schema

INVALID, TAMPERED, NOT_CHECKABLE, DEVIATED, STOPPED = 2, 3, 4, 5, 6
TESTBED = Path(__file__).parent.parent / "registrations" / "testbed" / "registration.yaml"
STUDIES = Path(__file__).parent.parent.parent / "shared" / "notes" / "studies.yaml"

Cli = Callable[..., Any]


def errors_of(said: Any) -> list[str]:
    """Return the problems a command reported, having checked that it said nothing else."""
    assert all(line.startswith("error: ") for line in said.lines), said.err
    assert "Traceback" not in said.err
    return [line.removeprefix("error: ") for line in said.lines]


def checked(run_cli: Cli, tmp_path: Path, document: Any) -> Any:
    """Check a document (text, bytes or a plain value) that lies alone in a folder."""
    path = tmp_path / "registration.yaml"
    if not isinstance(document, (str, bytes)):
        document = yaml.safe_dump(document, sort_keys=False)
    path.write_bytes(document if isinstance(document, bytes) else document.encode())
    before = tree(tmp_path)
    said = run_cli("check", path)
    assert tree(tmp_path) == before, "check wrote something"
    return said


# ------------------------------------------------------------------ the document


def without(*keys: str) -> dict[str, Any]:
    return {key: value for key, value in registration().items() if key not in keys}


def changed(path: str, value: Any) -> dict[str, Any]:
    """Return the world's registration with the value at a dotted path changed."""
    document: Any = registration()
    *parents, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    inner = document
    for part in parents:
        inner = inner[part]
    inner[last] = value
    return document


BAD_DOCUMENTS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "a key that stands twice": (
        TESTBED.read_text().replace("question: >", "title: Another\nquestion: >"),
        ("the key 'title' a second time",),
    ),
    "a misspelt key is told its neighbour": (
        TESTBED.read_text().replace("authors:", "autors:"),
        ("autors: is not a key of a registration; did you mean 'authors'?", "authors: is missing"),
    ),
    "an unknown key deep inside": (
        changed("inference.aplha", 0.05),
        ("inference.aplha: is not a key of a registration; did you mean 'alpha'?",),
    ),
    "foreknowledge left out": (without("foreknowledge"), ("foreknowledge: is missing",)),
    "foreknowledge left empty": (changed("foreknowledge", "  "), ("foreknowledge: ",)),
    "no claims": (changed("claims", []), ("claims: ",)),
    "no rules": (changed("rules", {}), ("rules: ",)),
    "a family claim without families": (
        changed("families", []),
        ("].families: is empty; these rules judge families; register at least one",),
    ),
    "families without an atlas": (without("atlas"), ("atlas: is missing",)),
    "ten null draws for six claims": (
        TESTBED.read_text()
        .replace("draws: 39", "draws: 10")
        .replace("at_least: 8", "at_least: 6")
        .replace("  ja: {domain: language, title: Japanese}\n", "")
        .replace("  zh: {domain: language, title: Chinese}\n", ""),
        (
            "controls.null.draws: 10 draws cannot bring 6 claims (modular) to p <= 0.05: "
            "the smallest p they can give is 0.0909; register at least 22",
            "10 draws cannot bring 6 claims",
        ),
    ),
    "a number that is no number": (changed("inference.alpha", "0.05"), ("inference.alpha: ",)),
    "an infinite number": (TESTBED.read_text().replace("kappa: 3", "kappa: 1e999"), ("the number 1e999",)),
    "alpha of one half": (changed("inference.alpha", 0.5), ("inference.alpha: ",)),
    "an unknown model": (changed("claims.0.model", "other"), ("claims[0].model: 'other' is not one of the models",)),
    "an unknown measure": (changed("claims.0.measure", "acc"), ("claims[0].measure: 'acc'",)),
    "an unknown rule": (changed("claims.0.rule", "strict"), ("claims[0].rule: 'strict'",)),
    "an unknown family": (changed("claims.0.families", ["fr"]), ("claims[0].families: 'fr'",)),
    "an unknown off-target axis": (changed("claims.0.off", ["fr"]), ("claims[0].off: 'fr'",)),
    "a corpus that is not registered": (changed("measures.nll.corpus", "C"), ("measures.nll.corpus: 'C'",)),
    "no off-target axis": (changed("claims.0.off", ["no"]), ("claims[0].off: the family 'no' has no off-target axis",)),
    "two blocks of one id": (changed("claims.4.id", "main"), ("claims: the id 'main' is used 2 times",)),
    "a control block nobody uses": (
        changed("controls.negative", None),
        ("claims[2].tier: no control uses the block 'randomised'",),
    ),
    "a control without a bound": (
        changed("controls.positive", {"claims": "planted"}),
        ("controls.positive: needs either at_least or at_most",),
    ),
    "a control on claims that are not controls": (
        changed("controls.positive.claims", "main"),
        (
            "controls.positive.claims: 'main' is not a block of tier control",
            "claims[1].tier: no control uses the block 'planted'",
        ),
    ),
    "a replication of more blocks than it names": (changed("replication.0.require", 3), ("replication[0].require",)),
    "an empty list is not another list's fault": (
        changed("authors", [""]),
        ("authors[0]: is empty; say it in words",),
    ),
    "a whole number in words": (
        changed("measures.nll.items", "six"),
        ("measures.nll.items: is 'six'; expected a whole number",),
    ),
    "a key of another part": (
        changed("inference.kappa", 3),
        ("inference.kappa: is a key of another part; it has no place here; remove it",),
    ),
    "braces that stand for nothing": (
        changed("measures.nll.task", "nll_{axs}"),
        ("measures.nll.task: is 'nll_{axs}'; only {axis} stands for something",),
    ),
    "a number in quotes": (
        changed("rules.modular.kappa", "3"),
        ("rules.modular.kappa: is '3'; expected a number, without quotes",),
    ),
    "a list where a table belongs": (changed("axes", ["no"]), ("axes: is ['no']; expected a table of names",)),
    "kappa beyond what a float can square": (
        changed("rules.modular.kappa", 1e308),
        ("rules.modular.kappa: is 1e+308; expected a number of at most 1e+06",),
    ),
    "alpha that no number of draws one could run reaches": (
        changed("inference.alpha", 1e-9),
        ("draws cannot bring",),
    ),
    "more draws than anybody could run": (
        changed("controls.null.draws", 10**12),
        ("controls.null.draws: is 1000000000000; expected a number of at most 1e+06",),
    ),
    "a family that is claimed twice": (
        changed("claims.0.families", ["no", "en", "no"]),
        ("claims[0].families: names 'no' 2 times; name each once",),
    ),
    "an off-target axis that is named twice": (
        changed("claims.0.off", ["no", "en", "en"]),
        ("claims[0].off: names 'en' 2 times; name each once",),
    ),
    "a replication of a block by itself": (
        changed("replication.0.claims", ["main", "main"]),
        ("replication[0].claims: names 'main' 2 times; name each once",),
    ),
    "a positive control that cannot fail": (
        changed("controls.positive.at_least", 0),
        ("controls.positive.at_least: is 0 of ",),
    ),
    "a negative control that cannot fail": (
        changed("controls.negative.at_most", len(AXES)),
        (f"controls.negative.at_most: is {len(AXES)} of {len(AXES)} claims",),
    ),
    "clusters that would not be used": (
        changed("measures.nll.cluster", "document"),
        ("measures.nll.cluster: is 'document', and unit is item",),
    ),
    "clusters without their field": (changed("measures.nll.unit", "cluster"), ("measures.nll.cluster: is missing",)),
    "a family that repeats an expert": (
        changed("families.0.build", {"kind": "explicit", "cells": {"1": [0, 0]}}),
        ("families[0].build.cells.1: repeats an expert",),
    ),
    "a family without experts": (
        changed("families.0.build", {"kind": "explicit", "cells": {"1": []}}),
        ("families[0].build.cells: is empty",),
    ),
    "one layer under two spellings": (
        changed("families.0.build", {"kind": "explicit", "cells": {"1": [0], "01": [1]}}),
        ("families[0].build.",),
    ),
    "a rule in another language": (
        changed("rules.point.confirm", "__import__('os').getcwd() > 0"),
        ("rules.point.confirm: ",),
    ),
    "a rule that is always true": (
        changed("rules.point.confirm", "on.est > 0 or 1 > 0"),
        ("rules.point.confirm: '1 > 0' compares no quantity",),
    ),
    "a hub model without a commit": (
        changed("models.standard.source", "hf:someone/model"),
        ("hf:someone/model: does not name a commit",),
    ),
    "a path that leaves the registry": (
        changed("models.standard.source", "./../../../../etc"),
        ("./../../../../etc: leaves the registry",),
    ),
    "an absolute path": (changed("models.standard.source", "/etc"), ("/etc: is no source",)),
    "a terminal escape in the title": (
        TESTBED.read_text().replace("title: Expert", 'title: "\\e[2J" #', 1),
        ("the control character '\\x1b'",),
    ),
    "an empty file": ("", ("registration.yaml: is empty",)),
    "a list": ("- 1\n", ("registration: ",)),
    "no YAML": ("a: [1\n", ("registration.yaml:2: ",)),
    "no text": (b"\xff\xfe\x00", ("registration.yaml: is not UTF-8 text",)),
    "an integer no JSON number can hold": (changed("axes.no.title", 2**60), ("document: has no canonical form",)),
}


@pytest.mark.parametrize("name", BAD_DOCUMENTS)
def test_check_names_what_is_wrong(name: str, run_cli: Cli, tmp_path: Path) -> None:
    document, expected = BAD_DOCUMENTS[name]
    said = checked(run_cli, tmp_path, document)
    problems = errors_of(said)
    assert said.code == INVALID
    for words in expected:
        assert any(words in problem for problem in problems), (words, problems)
    unexpected = [problem for problem in problems if not any(words in problem for words in expected)]
    assert not unexpected


def test_problems_of_two_parts_are_reported_at_once(run_cli: Cli, tmp_path: Path) -> None:
    document = without("foreknowledge")
    document["inference"]["alpha"] = 2
    document["claims"][1]["tier"] = "definitive"
    said = checked(run_cli, tmp_path, document)
    places = [problem.partition(":")[0] for problem in errors_of(said)]
    assert places == ["foreknowledge", "claims[1].tier", "inference.alpha"]
    document = registration()
    document["claims"][0]["rule"] = "strict"
    document["replication"][0]["require"] = 3
    document["measures"]["nll"]["corpus"] = "C"
    places = [problem.partition(":")[0] for problem in errors_of(checked(run_cli, tmp_path, document))]
    assert sorted(places) == ["claims[0].rule", "measures.nll.corpus", "replication[0].require"]


def test_problems_are_one_json_document_where_asked(run_cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "registration.yaml"
    path.write_text(yaml.safe_dump(without("foreknowledge")))
    said = run_cli("check", path, "--json")
    assert said.json == {
        "exit_code": INVALID,
        "problems": [{"where": "foreknowledge", "found": "is missing", "todo": "every registration says this"}],
    }


def test_an_axis_named_no_without_quotes_is_text(run_cli: Cli, tmp_path: Path) -> None:
    text = TESTBED.read_text().replace("  fr: {domain: language, title: French}", "  no: {domain: no, title: no}")
    said = checked(run_cli, tmp_path, text)
    assert ["'testbed_nll_no_" in problem for problem in errors_of(said)] == [True, True], (
        "no such tasks, and that is all"
    )
    axes = load(tmp_path / "registration.yaml").axes
    assert axes["no"].domain == axes["no"].title == "no"


# ------------------------------------------------------------------ what this version does not run


def planned_kinds() -> list[tuple[str, str]]:
    return [(union, kind) for union, kinds in planned.KINDS.items() for kind in kinds]


def put_kind(union: str, kind: str) -> dict[str, Any]:
    """Return a registration that names a planned kind where its union stands."""
    document = registration()
    match union:
        case "measures":
            document["measures"]["nll"]["kind"] = kind
        case "rules":
            document["rules"]["modular"] = {"kind": kind}
        case "intervention":
            document["intervention"] = {"kind": kind}
        case "controls.null":
            document["controls"]["null"]["kind"] = kind
        case "families.build":
            document["families"][0]["build"] = {"kind": kind}
        case "inference.multiplicity.method":
            document["inference"]["multiplicity"] = {"method": kind}
        case "stopping":
            document["stopping"] = {"kind": kind}
        case _:
            raise AssertionError(union)
    return document


@pytest.mark.parametrize(("union", "kind"), planned_kinds())
def test_a_planned_kind_is_refused_by_its_name(union: str, kind: str, run_cli: Cli, tmp_path: Path) -> None:
    said = checked(run_cli, tmp_path, put_kind(union, kind))
    what = planned.KINDS[union][kind]
    assert said.code == INVALID
    assert any(f"{kind!r} ({what}) is not available in this version" in problem for problem in errors_of(said)), said


@pytest.mark.parametrize("section", planned.SECTIONS)
def test_a_planned_section_is_refused_by_its_name(section: str, run_cli: Cli, tmp_path: Path) -> None:
    said = checked(run_cli, tmp_path, {**registration(), section: {}})
    assert said.code == INVALID
    assert errors_of(said) == [
        f"{section}: is for {planned.SECTIONS[section]} and is not available in this version; remove it"
    ]


# an id of the study sketches -> where a registration says it: "union: kind" or a key (also of evidence and of audits)
PLACES = {
    "I.route": ("intervention: mask", "intervention: zero", "intervention: keep_only", "intervention: skip_slots"),
    "I.train": ("arms",),
    "I.weights": ("intervention: variant",),
    "I.patch": ("intervention: patch",),
    "I.corrupt": ("intervention: corrupt",),
    "I.reweight": ("intervention: reweight",),
    "I.decode": ("intervention: decode",),
    "I.external": ("intervention: external",),
    "O.routing": ("measures: observable", "atlas"),
    "O.block_io": ("measures: observable",),
    "O.contrib": ("measures: observable",),
    "O.logprob": ("measures: task",),
    "O.generation": ("measures: task", "segments"),
    "O.task": ("measures: task",),
    "O.weights": ("measures: weights",),
    "O.cost": ("measures: cost",),
    "O.pool": ("measures: pool",),
    "O.trajectory": ("measures: pool", "arms"),
    "E.nll": ("measures: task",),
    "E.acc": ("measures: task",),
    "E.binary": ("measures: task",),
    "E.logitdiff": ("measures: task", "measures: observable"),
    "E.entropy": ("measures: observable",),
    "E.load": ("measures: observable",),
    "E.similarity": ("measures: observable",),
    "E.alignment": ("measures: observable",),
    "E.calibration": ("measures: rows",),
    "E.cost": ("measures: cost",),
    "E.gapnorm": ("measures: rows",),
    "C.paired": ("rules: modular",),
    "C.null_sets": ("controls.null: random_sets",),
    "C.on_off": ("rules: selective", "rules: modular"),
    "C.arms": ("arms",),
    "C.assoc": ("rules: association",),
    "C.did": ("rules: difference_in_differences",),
    "C.dose": ("rules: dose_response",),
    "C.ratio": ("rules: cost_bound",),
    "D.selectivity": ("rules: modular", "rules: selective"),
    "D.replication": ("replication",),
    "D.superiority": ("rules: superiority",),
    "D.equivalence": ("rules: equivalence",),
    "D.noninferiority": ("rules: noninferiority",),
    "D.absence": ("rules: absence",),
    "D.association": ("rules: association",),
    "D.power_gate": ("rules: absence", "diagnosis"),
    "D.precondition": ("preconditions",),
    "D.cost": ("rules: cost_bound",),
    "D.dual_test": ("rules: dual_test",),
    "D.harm_bound": ("rules: harm_bound",),
    "K.random_sets": ("controls.null: random_sets",),
    "K.matched": ("controls.null: mass_matched_sets",),
    "K.permutation": ("controls.null: permutation",),
    "K.random_router": ("controls.null: random_router",),
    "K.random_direction": ("controls.null: random_direction",),
    "K.wrong_target": ("controls.null: wrong_target",),
    "K.positive": ("controls",),
    "K.sham": ("intervention: identity",),
    "K.second_corpus": ("corpora", "replication"),
    "K.seeds": ("arms",),
    "K.split": ("splits",),
    "K.variant": ("intervention: variant",),
    "K.leakage": ("splits", "preconditions"),
    "S.boot": ("inference",),
    "S.multiplicity": ("inference",),
    "S.hier": ("arms", "measures: task"),
    "S.mantel": ("controls.null: permutation",),
    "S.signflip": ("rules: superiority",),
    "S.exact": ("rules: harm_bound",),
    "EV.run": ("engine",),
    "EV.rows": ("measures: rows",),
    "EV.summary": ("measures: rows", "intervention: external"),
    "EV.checkpoint": ("models",),
}
RUNS = {
    "measures": {"task"},
    "intervention": {"mask", "zero", "keep_only"},
    "rules": {"modular", "selective", "noninferiority", "expression"},
    "controls.null": {"random_sets"},
    "families.build": {"top_lift", "explicit"},
}


def test_every_primitive_of_the_collected_studies_has_a_place() -> None:
    if not STUDIES.exists():
        pytest.skip("../shared/notes/studies.yaml is not here: the collected studies cannot be read")
    needed = {id_ for study in yaml.safe_load_all(STUDIES.read_text()) if study for id_ in study.get("prim", [])}
    assert needed
    assert needed <= set(PLACES), f"without a place: {sorted(needed - set(PLACES))}"


@pytest.mark.parametrize("primitive", PLACES)
def test_the_place_of_a_primitive_runs_or_is_refused_by_name(primitive: str) -> None:
    keys = set(schema.Registration.model_fields) | set(planned.SECTIONS)
    for place in PLACES[primitive]:
        union, _, kind = place.partition(": ")
        known = RUNS.get(union, set()) | set(planned.KINDS.get(union, ())) | planned.ELSEWHERE.get(union, frozenset())
        assert (kind in known) if kind else union in keys, place


# ------------------------------------------------------------------ freezing


def refused(run_cli: Cli, world: World, *arguments: object, code: int) -> list[str]:
    """Return the problems of a command that is refused and writes nothing."""
    before = tree(world.root)
    said = run_cli(*arguments, "--root", world.root)
    assert said.code == code, said
    assert tree(world.root) == before, "something was written"
    return errors_of(said)


def authored_with(world: World, path: str, value: Any) -> World:
    """Write the world's registration again, changed, and its atlas."""
    (world.folder / "registration.yaml").write_text(yaml.safe_dump(changed(path, value), sort_keys=False))
    world.record()
    return world


EXPLICIT = {"kind": "explicit", "unit": "cells"}


@pytest.mark.parametrize(
    ("cells", "words", "count"),
    [
        pytest.param({"1": [0, 12]}, "experts [12] do not exist; experts are 0 to 11", 3, id="an expert out of range"),
        pytest.param({"0": [1]}, "layer 0: is not an MoE layer", 3, id="a layer that is not there"),
        pytest.param({"1": list(range(11))}, "the router needs 2 left", 9, id="so many experts that routing starves"),
    ],
)
def test_a_family_the_models_do_not_have_is_not_frozen(
    cells: dict[str, list[int]], words: str, count: int, authored: World, run_cli: Cli
) -> None:
    authored_with(authored, "families.0.build", {**EXPLICIT, "cells": cells})
    problems = refused(run_cli, authored, "freeze", ID, code=INVALID)
    assert all(words in problem for problem in problems), problems
    assert len(problems) == count, "of the block in three models, or of its three families in each, all at once"


def test_freezing_waits_for_the_atlas(authored: World, run_cli: Cli) -> None:
    problems = refused(run_cli, authored, "freeze", ID, code=INVALID)
    assert problems == [f"atlas: is not made yet; run `prereg-moe atlas {ID}` first"]


def test_freezing_refuses_an_atlas_of_other_bytes(authored: World, run_cli: Cli) -> None:
    authored.record()
    (authored.folder / "models/standard/model.safetensors").write_text("other weights")
    assert refused(run_cli, authored, "freeze", ID, code=INVALID) == [
        "atlas: was made of other weights, items or settings; make the atlas again"
    ]


def test_freezing_refuses_an_edited_atlas(authored: World, run_cli: Cli) -> None:
    authored.record()
    path = authored.folder / "atlas.json"
    path.write_bytes(path.read_bytes().replace(b"40", b"41", 1))
    [problem] = refused(run_cli, authored, "freeze", ID, code=TAMPERED)
    assert "atlas.json: is not the file that was sealed" in problem


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("has too few items", '{"id": "a", "text": "x"}\n'),
        ("repeats an id", '{"id": "a", "text": "x"}\n' * 12),
        ("holds no JSON", "text\n" * 12),
        ("holds items without an id", '{"text": "x"}\n' * 12),
    ],
)
def test_freezing_refuses_a_corpus_that(name: str, text: str, authored: World, run_cli: Cli) -> None:
    (authored.folder / "corpora/B/no.jsonl").write_text(text)
    authored.record()
    assert len(refused(run_cli, authored, "freeze", ID, code=INVALID)) == 1


def test_a_document_is_frozen_once(frozen: World, run_cli: Cli) -> None:
    assert "is frozen already" in refused(run_cli, frozen, "freeze", ID, code=DEVIATED)[0]


def test_the_folder_and_the_id_must_agree(authored: World, run_cli: Cli) -> None:
    authored_with(authored, "id", "another")
    assert "id: is 'another' in the folder 'world'" in refused(run_cli, authored, "freeze", ID, code=INVALID)[0]


# ------------------------------------------------------------------ running, judging, reporting


@pytest.mark.parametrize("verb", ["run", "verdict"])
def test_a_document_that_is_not_frozen_is_refused_by(verb: str, authored: World, run_cli: Cli) -> None:
    assert f"run `prereg-moe freeze {ID}`" in refused(run_cli, authored, verb, ID, code=INVALID)[0]


@pytest.mark.parametrize("verb", ["atlas", "freeze", "run", "status", "verdict", "report", "audit"])
def test_an_unknown_registration_is_refused_by(verb: str, frozen: World, run_cli: Cli) -> None:
    assert refused(run_cli, frozen, verb, "nobody", code=INVALID)


def change_a_task(world: World) -> None:
    path = world.folder / "tasks" / "world_nll_no.yaml"
    path.write_text(path.read_text() + "num_fewshot: 5\n")


def remove_weights(world: World) -> None:
    (world.folder / "models/planted").rename(world.root / "elsewhere")


def block_the_evidence(world: World) -> None:
    world.registry.reports(ID).parent.mkdir()
    world.registry.reports(ID).write_text("a file where a folder should be")  # stops root as well


CANNOT_RUN = {
    "a task that changed after freezing": (change_a_task, TAMPERED, "world_nll_no.yaml is not what was frozen"),
    "weights that are not here": (remove_weights, NOT_CHECKABLE, "./models/planted is not here"),
    "a folder that cannot be written": (block_the_evidence, STOPPED, "cannot be written"),
}


@pytest.mark.parametrize("name", CANNOT_RUN)
def test_a_run_refuses(name: str, frozen: World, run_cli: Cli) -> None:
    spoil, code, words = CANNOT_RUN[name]
    spoil(frozen)
    said = run_cli("run", ID, "--root", frozen.root)
    [problem] = errors_of(said)
    assert said.code == code
    assert words in problem
    assert not frozen.evidence


@pytest.mark.parametrize("name", CANNOT_RUN)
def test_a_refused_run_leaves_the_ledger_as_it_was(name: str, frozen: World, run_cli: Cli) -> None:
    spoil, code, words = CANNOT_RUN[name]
    spoil(frozen)
    assert words in refused(run_cli, frozen, "run", ID, code=code)[0]


def test_an_audit_names_a_task_that_changed_after_freezing(reported: World, run_cli: Cli) -> None:
    change_a_task(reported)
    said = run_cli("audit", ID, "--root", reported.root, "--json")
    assert said.code == TAMPERED
    [failed] = [step for step in said.json["registrations"][0]["findings"] if step["outcome"] == "fails"]
    assert failed["name"] == "pinned files"
    assert "world_nll_no.yaml" in failed["details"][0]


def test_there_is_no_verdict_without_evidence(frozen: World, run_cli: Cli) -> None:
    assert refused(run_cli, frozen, "verdict", ID, code=NOT_CHECKABLE)


def test_there_is_no_report_without_a_verdict(computed: World, run_cli: Cli) -> None:
    assert refused(run_cli, computed, "report", ID, code=NOT_CHECKABLE)


def test_an_unknown_format_is_refused(reported: World, run_cli: Cli) -> None:
    assert "'docx' is not a format" in refused(run_cli, reported, "report", ID, "--format", "docx", code=INVALID)[0]


def test_a_missing_evidence_file_stops_the_verdict(computed: World, run_cli: Cli) -> None:
    computed.evidence[0].unlink()
    assert "sealed evidence is missing" in refused(run_cli, computed, "verdict", ID, code=NOT_CHECKABLE)[0]
    assert run_cli("audit", ID, "--root", computed.root).code == NOT_CHECKABLE


def test_an_edited_evidence_file_stops_the_verdict(computed: World, run_cli: Cli) -> None:
    path = computed.evidence[0]
    path.write_bytes(path.read_bytes().replace(b"0", b"1", 1))
    problems = refused(run_cli, computed, "verdict", ID, code=TAMPERED)
    assert problems == [f"{path.name}: is not the evidence that was sealed; restore it"]
    assert run_cli("audit", ID, "--root", computed.root).code == TAMPERED


def test_edited_is_graver_than_missing(computed: World, run_cli: Cli) -> None:
    first, second, *_ = computed.evidence
    first.unlink()
    second.write_bytes(second.read_bytes() + b" ")
    [problem] = refused(run_cli, computed, "verdict", ID, code=TAMPERED)
    assert f"{second.name}: is not the evidence that was sealed" in problem


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (b"NaN", "nan is not representable"),
        (b"Infinity", "inf is not representable"),
        (b"null", "holds None over 16 tokens; scores are finite numbers"),
        (b'"1"', "holds '1' over 16 tokens; scores are finite numbers"),
        (b"true[]", "is not canonical JSON"),
    ],
)
def test_evidence_with_a_value_that_is_no_number_stops_the_verdict(
    value: bytes, words: str, computed: World, run_cli: Cli
) -> None:
    path = computed.evidence[0]
    document = canonical.read(path)
    metric = canonical.dumps(document["axes"]["no"]["metric"][0])
    path.write_bytes(path.read_bytes().replace(b'"metric":[' + metric, b'"metric":[' + value))
    Copy(computed.registry, ID).reseal()
    [problem] = refused(run_cli, computed, "verdict", ID, code=TAMPERED)
    assert path.name in problem
    assert words in problem


def test_evidence_nobody_planned_stops_the_verdict(computed: World, run_cli: Cli) -> None:
    (computed.registry.evidence(ID) / ("0" * 64 + ".json")).write_bytes(computed.evidence[0].read_bytes())
    [problem] = refused(run_cli, computed, "verdict", ID, code=DEVIATED)
    assert f"{'0' * 64}.json: is evidence that nobody sealed" in problem


# ------------------------------------------------------------------ folders that cannot be written


def no_space(fd: int) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_stops_the_verdict_and_leaves_nothing(
    computed: World, run_cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", no_space)
    [problem] = refused(run_cli, computed, "verdict", ID, code=STOPPED)
    assert "No space left on device" in problem
    monkeypatch.undo()
    assert run_cli("verdict", ID, "--root", computed.root).code == 0


def test_a_full_disk_while_freezing_leaves_the_ledger_as_it_was(
    authored: World, run_cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    authored.record()
    ledger = authored.registry.ledger()

    def full_at_the_seal(fd: int) -> None:
        if Path(f"/proc/self/fd/{fd}").resolve().name == "LEDGER.jsonl":
            no_space(fd)

    monkeypatch.setattr(os, "fsync", full_at_the_seal)
    said = run_cli("freeze", ID, "--root", authored.root)
    assert said.code == STOPPED
    assert "LEDGER.jsonl" in said.err
    assert authored.registry.ledger() == ledger
    monkeypatch.undo()
    assert run_cli("freeze", ID, "--root", authored.root).code == 0


def test_evidence_is_written_whole_or_not_at_all(frozen: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(Stopped, match="No space left"):
        frozen.compute()
    assert not list(frozen.registry.evidence(ID).iterdir()), "a hidden or half-written file was left"


# ------------------------------------------------------------------ the command line itself


@pytest.mark.parametrize(
    "arguments",
    [
        ("nothing",),
        ("check",),
        ("check", "a", "b"),
        ("run", "x", "--workers", "0"),
        ("freeze", "x", "--alpha", "1"),
        ("audit", ".", "--head", "sha256:12"),
    ],
)
def test_wrong_usage_is_two(arguments: tuple[str, ...], run_cli: Cli) -> None:
    said = run_cli(*arguments, "--json")
    assert said.code == INVALID
    assert "Traceback" not in said.err
    assert said.json["exit_code"] == INVALID
    assert said.json["problems"], "a program is told, too"


def test_outside_a_registry_the_user_is_told_where_to_begin(
    run_cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    said = run_cli("status")
    assert said.code == INVALID
    assert "run `prereg-moe init` or give --root" in said.err


def test_a_bug_is_one_line_too(run_cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("prereg_moe.registry.Registry.find", lambda start: 1 // 0)
    monkeypatch.delenv("PREREG_MOE_DEBUG", raising=False)
    said = run_cli("status", "--root", tmp_path)
    assert said.code == STOPPED
    assert said.lines == [
        "error: a bug in prereg-moe: ZeroDivisionError('integer division or modulo by zero'); "
        "set PREREG_MOE_DEBUG=1 to see where"
    ]


def test_the_axes_of_the_world_are_not_easy() -> None:
    assert "no" in AXES, "the world itself has an axis YAML 1.1 would read as false"
