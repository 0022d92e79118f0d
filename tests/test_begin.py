"""Beginning: what `init` writes is valid, in its place, and known to editors."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from world import registration, tree

import prereg_moe
from prereg_moe import check
from prereg_moe.begin import MODELS, STUDIES, begin, json_schema
from prereg_moe.cli import cli
from prereg_moe.importing import check as importing_check
from prereg_moe.importing import schema as importing
from prereg_moe.registration import expand, load
from prereg_moe.registration.document import read_yaml

ROOT = Path(__file__).parent.parent


def test_what_init_writes_is_valid_as_it_stands(tmp_path: Path, run_cli: Callable[..., Any]) -> None:
    said = run_cli("init", tmp_path / "new", "--id", "arabic-experts", "--model", "./model", "--json")
    assert said.code == 0
    path = tmp_path / "new" / "registrations" / "arabic-experts" / "registration.yaml"
    assert str(path) in said.json["files"]
    assert load(path).id == "arabic-experts"
    assert run_cli("check", path).code == 0
    assert (path.parent.parent / "registration.schema.json").is_file()


def test_every_kind_of_study_can_be_begun(tmp_path: Path, run_cli: Callable[..., Any]) -> None:
    (option,) = (option for option in cli.commands["init"].params if option.name == "study")
    assert list(option.type.choices) == list(STUDIES)  # type: ignore[attr-defined] # it is a choice
    for study in STUDIES:
        assert run_cli("init", tmp_path, "--id", study, "--study", study).code == 0
        assert run_cli("check", tmp_path / "registrations" / study).code == 0


@pytest.mark.parametrize("study", [study for study, model in STUDIES.items() if model is None])
def test_evidence_made_elsewhere_is_begun_with_its_schema_and_no_model(
    study: str, tmp_path: Path, run_cli: Callable[..., Any]
) -> None:
    path, schema = begin(tmp_path, "theirs", study)
    assert importing.load(path).evidence.kind == study, "a kind of study is called what `import` calls it"
    assert json.loads(schema.read_text()) == importing.json_schema()
    assert path.read_text().startswith(f"# yaml-language-server: $schema=../{schema.name}\n")
    jsonschema.validate(read_yaml(path.read_bytes()), importing.json_schema())
    assert importing_check(path).advice == ()
    said = run_cli("init", tmp_path, "--id", "other", "--study", study, "--model", "./model")
    assert (said.code, said.lines[0].startswith("error: --model: ")) == (2, True)
    assert not (tmp_path / "registrations" / "other").exists()


def test_a_source_that_is_not_there_is_said_with_its_place(tmp_path: Path, run_cli: Callable[..., Any]) -> None:
    path, _ = begin(tmp_path, "mine", "modularity", "./model")
    (tmp_path / "model").mkdir()  # beside registrations/, where `inspect ./model` sees it
    place = path.parent / "model"
    line = f"models.subject.source: ./model is not here; put it, or a link to it, at {place}"
    assert line in run_cli("check", "mine", "--root", tmp_path, "--json").json["pending"]
    place.symlink_to(tmp_path / "model", target_is_directory=True)
    assert "models.subject" not in run_cli("check", "mine", "--root", tmp_path).out


@pytest.mark.parametrize("study", [study for study in STUDIES if study != "multiverse"])
def test_a_text_that_init_wrote_is_not_taken_for_the_authors(
    study: str, tmp_path: Path, run_cli: Callable[..., Any]
) -> None:
    path, _ = begin(tmp_path, "mine", study)
    advice = run_cli("check", path, "--json").json["advice"]
    said = "foreknowledge: is what `init` wrote; say it in your own words: reports print it"
    assert said in advice
    assert any(line.startswith("provenance.source: ") for line in advice) is (STUDIES[study] is None)
    path.write_text(path.read_text("utf-8").replace("EDIT", "We know that"), "utf-8")
    assert not [line for line in run_cli("check", path, "--json").json["advice"] if "`init`" in line]


def test_a_study_without_random_sets_is_not_said_to_draw_them(tmp_path: Path, run_cli: Callable[..., Any]) -> None:
    begin(tmp_path, "theirs", "rows")
    assert run_cli("freeze", "theirs", "--root", tmp_path).code == 0
    said = run_cli("audit", "theirs", "--root", tmp_path)
    assert "none could be registered: the study draws no random sets" in said.out
    assert "null draws" not in said.out
    said = run_cli("diagnose", "theirs", "--root", tmp_path)
    assert (said.code, "a diagnosis comes before the freeze" in said.err) == (5, True)


@pytest.mark.parametrize("model", sorted(MODELS))
def test_a_named_model_becomes_its_source(model: str, tmp_path: Path) -> None:
    path, _ = begin(tmp_path, "study", "modularity", model)
    assert [entry.source for entry in load(path).models.values()] == [MODELS[model]]
    assert check(path, tmp_path).pending, "the hub's cache is looked at, nothing is downloaded"


@pytest.mark.parametrize(
    "id_", ["../outside", "a/b", "", ".", "two words", "x #y", "x\ntitle: y", "a: b", "2026", "-x", "x" * 65]
)
def test_an_id_that_is_none_writes_nothing(id_: str, tmp_path: Path, run_cli: Callable[..., Any]) -> None:
    said = run_cli("init", tmp_path / "new", "--id", id_)
    assert said.code == 2, said
    assert tree(tmp_path) == {}


def test_an_id_that_is_taken_is_left_alone(tmp_path: Path, run_cli: Callable[..., Any]) -> None:
    run_cli("init", tmp_path, "--id", "x")
    before = tree(tmp_path)
    assert run_cli("init", tmp_path, "--id", "x").code == 2
    assert tree(tmp_path) == before


def test_the_schema_editors_use_is_the_one_the_types_give() -> None:
    kept = json.loads((ROOT / "registrations" / "registration.schema.json").read_text())
    assert kept == json_schema(), "write it again: prereg_moe.begin.json_schema()"


@pytest.mark.parametrize(
    "path", sorted((ROOT / "registrations").glob("*/registration.yaml")), ids=lambda p: p.parent.name
)
def test_the_registrations_of_this_repository_are_valid_and_known_to_editors(path: Path) -> None:
    elsewhere = importing.is_imported(path)
    read, schema = (importing.load, importing.json_schema()) if elsewhere else (load, json_schema())
    for document in (read_yaml(path.read_bytes()), expand(read(path))):
        assert not list(jsonschema.Draft202012Validator(schema).iter_errors(document))


def test_editors_and_the_package_refuse_the_same_mistakes() -> None:
    jsonschema.validate(registration(), json_schema())
    for key in ("foreknowledge", "claims", "inference"):
        mistaken = {name: value for name, value in registration().items() if name != key}
        with pytest.raises(jsonschema.ValidationError, match=key):
            jsonschema.validate(mistaken, json_schema())
    with pytest.raises(jsonschema.ValidationError, match="note"):
        jsonschema.validate(registration() | {"note": 1}, json_schema())


def test_the_embedded_registration_is_the_one_that_is_published() -> None:
    embedded = Path(prereg_moe.__file__).parent / "lab" / "testbed" / "registration.yaml"
    assert embedded.read_bytes() == (ROOT / "registrations" / "testbed" / "registration.yaml").read_bytes()


def test_every_public_name_is_there_and_no_other() -> None:
    for name in prereg_moe.__all__:
        assert getattr(prereg_moe, name) is not None
    assert set(dir(prereg_moe)) == set(prereg_moe.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'secret'"):
        prereg_moe.secret  # noqa: B018 - the access is what is tested
