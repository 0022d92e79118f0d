"""Freezing: everything a study rests on is pinned, defaults and derived sets are written out."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter
from world import AXES, DRAWS, EFFECTS, ID, ITEMS, TIME, World, tree

from prereg_moe import canonical, check, freeze, load_frozen, stages, store
from prereg_moe.errors import Deviated, Invalid, NotCheckable, PreregError, Tampered
from prereg_moe.frozen import Condition, Frozen
from prereg_moe.registration.schema import Intervention
from prereg_moe.registry import Registry


def test_check_says_what_freezing_waits_for(authored: World) -> None:
    checked = check(authored.folder, authored.root)
    assert [str(problem) for problem in checked.pending] == ["atlas: is not made yet; run `prereg-moe atlas`"]
    assert checked.claims == 5 * len(AXES)
    authored.record()
    assert check(authored.folder, authored.root).pending == ()


def test_check_counts_what_a_run_will_do(frozen: World) -> None:
    checked = check(frozen.folder, frozen.root)
    assert checked.conditions == len(EFFECTS) * (1 + len(AXES) + DRAWS) + 1 + len(AXES)
    assert checked.scores == checked.conditions * len(AXES) * ITEMS
    assert len(frozen.frozen.plan) <= checked.conditions, "random sets may coincide, and each is run once"


def test_check_names_sources_that_are_not_here(authored: World) -> None:
    (authored.folder / "models/planted").rename(authored.root / "elsewhere")
    assert check(authored.folder, authored.root).pending[0].where == "models.planted.source"


def test_check_counts_the_items_of_all_corpora_before_routing_is_recorded(authored: World) -> None:
    """Routing costs a run of the model: what is wrong with the texts is said before it, and all at once."""
    document = (authored.folder / "registration.yaml").read_text()
    assert f"items: {ITEMS}" in document
    (authored.folder / "registration.yaml").write_text(document.replace(f"items: {ITEMS}", "items: 5000"))
    with pytest.raises(Invalid) as refused:
        check(authored.folder, authored.root)
    found = [problem for problem in refused.value.problems if problem.todo == "5000 are registered"]
    assert len(found) >= len(AXES)
    assert all(problem.where.endswith(".jsonl") and "/" in problem.where for problem in found)


def test_check_refuses_a_name_that_freeze_refuses(authored: World) -> None:
    path = authored.folder / "registration.yaml"
    path.write_text(path.read_text().replace(f"id: {ID}", "id: another"))
    with pytest.raises(Invalid, match="give both the same name"):
        check(authored.folder, authored.root)


def test_check_says_where_families_are_chosen_on_the_items_they_are_judged_on(authored: World) -> None:
    assert not [problem for problem in check(authored.folder, authored.root).advice if "flatters" in problem.found]
    document = yaml.safe_load((authored.folder / "registration.yaml").read_text())
    for block in document["families"]:
        block["build"] = {"kind": "top_lift", "size": 1, "unit": "per_layer", "exclude": {"kind": "none"}}
    document["atlas"] = {"corpus": document["measures"]["nll"]["corpus"], "items": ITEMS - 1}
    (authored.folder / "registration.yaml").write_text(yaml.safe_dump(document, sort_keys=False))
    [said] = [problem for problem in check(authored.folder, authored.root).advice if "flatters" in problem.found]
    assert said.where == "measures.nll"
    assert f"takes {ITEMS - 1} items an axis" in said.found


def test_everything_named_is_pinned(frozen: World) -> None:
    pins = frozen.frozen.document["pins"]
    for name in EFFECTS:
        assert set(pins["models"][name]) == {"config.json", "model.safetensors"}
    assert set(pins["corpora"]["A"]) == {f"{axis}.jsonl" for axis in AXES}
    assert set(pins["tasks"]["./tasks"]) == {f"world_nll_{axis}.yaml" for axis in AXES}
    assert pins["atlas"] == canonical.digest_file(frozen.folder / "atlas.json")
    assert pins["document"] == canonical.digest_file(frozen.folder / "registration.yaml")
    for template, digest in pins["templates"].items():
        assert canonical.digest_file(frozen.folder / "templates" / template) == digest


def test_defaults_and_items_are_written_out(frozen: World) -> None:
    document = frozen.frozen.document
    inference = document["registration"]["inference"]
    assert inference["interval"] == {"kind": "bootstrap_t", "level": 0.95, "sides": "two"}
    assert inference["multiplicity"] == {"method": "max_t", "between": "bonferroni"}
    assert document["items"]["nll"]["no"] == [f"B-no-{n}" for n in range(ITEMS)]
    assert document["items"]["nll_a"]["no"] == [f"A-no-{n}" for n in range(8, 8 + ITEMS)]


def test_the_plan_is_baselines_families_and_draws_each_once(frozen: World) -> None:
    plan = frozen.frozen.plan
    masks = {(c.model, c.measure, repr(c.cells)) for c in plan.values()}
    drawn = {(entry["model"], repr(draw)) for entry in frozen.frozen.document["draws"] for draw in entry["cells"]}
    assert len(plan) == len(masks) == len(drawn) + len(EFFECTS) * (1 + len(AXES)) + 1 + len(AXES)
    assert all(digest == condition.digest for digest, condition in plan.items())
    assert sum(condition.is_baseline for condition in plan.values()) == len(EFFECTS) + 1
    assert list(Frozen.from_bytes(canonical.dumps(frozen.frozen.document)).plan) == list(plan)


def test_freezing_twice_from_the_same_bytes_gives_the_same_bytes(authored: World) -> None:
    authored.record()
    first = authored.freeze()
    authored.registry.ledger_path.unlink()
    authored.record()
    assert authored.freeze().digest == first.digest


def test_freezing_that_is_refused_writes_nothing(authored: World) -> None:
    authored.record()
    (authored.folder / "corpora/B/no.jsonl").write_text("")
    before = tree(authored.root)
    with pytest.raises(PreregError):
        freeze(authored.registry, ID, time=TIME)
    assert tree(authored.root) == before


def test_what_is_not_frozen_cannot_be_loaded(authored: World) -> None:
    with pytest.raises(Invalid, match="is not frozen"):
        load_frozen(authored.registry, ID)
    with pytest.raises(Invalid, match="is not a registration here"):
        load_frozen(authored.registry, "nobody")


def test_a_frozen_file_that_is_gone_or_changed_is_told_apart(frozen: World) -> None:
    path = frozen.folder / "frozen.json"
    data = path.read_bytes()
    path.write_bytes(data.replace(b"without models", b"without shame"))
    with pytest.raises(Tampered, match="is not the file that was sealed"):
        load_frozen(frozen.registry, ID)
    path.unlink()
    with pytest.raises(NotCheckable):
        load_frozen(frozen.registry, ID)


def test_an_atlas_cannot_be_sealed_behind_the_freeze(frozen: World) -> None:
    with pytest.raises(Deviated, match="atlas cannot follow freeze"):
        frozen.record()


cells = st.dictionaries(st.integers(0, 9), st.sets(st.integers(0, 20), min_size=1, max_size=4), max_size=3)


@settings(deadline=None)
@given(cells, cells, st.sampled_from(["renorm", "original"]))
def test_conditions_share_a_name_only_where_they_are_the_same(
    one: dict[int, set[int]], other: dict[int, set[int]], gates: str
) -> None:
    def named(cells: dict[int, set[int]], **does: str) -> str:
        does = does or {"kind": "mask", "gates": gates}
        intervention: Any = TypeAdapter(Intervention).validate_python(does)
        return Condition("sha256:0", "m", "nll", intervention, {k: tuple(v) for k, v in cells.items()}).digest

    assert (named(one) == named(other)) == (one == other)
    assert named(one) == named(dict(reversed(one.items())))
    ways = [{"kind": kind, "gates": rule} for kind in ("mask", "keep_only") for rule in ("renorm", "original")]
    assert len({named(one, **does) for does in [*ways, {"kind": "zero"}]}) == 5
    assert Condition("sha256:0", "m", "nll", None, {}).digest != named(one)


# ------------------------------------------------------------------ the stages behind the run


def test_judging_and_reporting_again_change_nothing(reported: World) -> None:
    before = tree(reported.root)
    reported.judge()
    reported.report()
    assert tree(reported.root) == before


def test_a_lost_report_is_rendered_again_to_the_same_bytes(reported: World) -> None:
    before = tree(reported.root)
    for name in ("verdict.json", "report.md"):
        (reported.registry.reports(ID) / name).unlink()
    reported.judge()
    reported.report()
    assert tree(reported.root) == before


def test_an_edited_template_renders_nothing(computed: World) -> None:
    computed.judge()
    path = computed.folder / "templates" / "report.md.j2"
    path.write_text(path.read_text().replace("INCONCLUSIVE", "CONFIRMED") + "CONFIRMED")
    with pytest.raises(Tampered, match="is not the file that was sealed"):
        computed.report()


def test_an_edited_verdict_is_not_rendered(reported: World) -> None:
    path = reported.registry.reports(ID) / "verdict.json"
    path.write_bytes(path.read_bytes().replace(b"CONFIRMED", b"REFUTED", 1))
    with pytest.raises(Tampered):
        reported.report()


def test_a_finished_run_cannot_be_finished_with_missing_evidence(frozen: World) -> None:
    frozen.registry.seal("start", ID, [], time=TIME)
    frozen.compute()
    frozen.evidence[3].unlink()
    before = tree(frozen.root)
    with pytest.raises(NotCheckable, match=f"1 of {len(frozen.frozen.plan)} conditions are missing"):
        store.finish(frozen.registry, frozen.frozen, time=TIME)
    assert tree(frozen.root) == before


def test_two_studies_share_a_ledger_and_not_their_seals(reported: World) -> None:
    other = World(reported.root)
    head = Registry(reported.root).seal("atlas", "other", [], time=TIME)
    assert reported.audit(head).exit_code == 0
    assert other.audit().findings[0].details == ("6 of 7 seals: atlas, freeze, start, finish, verdict, report",)
    assert stages.verdict(reported.registry, ID, time=TIME)[1] == head
