"""Families that are zeroed or kept: what may be registered of them, what their evidence proves, what is concluded."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from world import AXES, EFFECTS, EXPERTS, LAYERS, TOP_K, Edit, Effect, World, registration

from prereg_moe import attack, canonical, evidence, judge
from prereg_moe.errors import Deviated, Invalid, Tampered
from prereg_moe.freezing import check
from prereg_moe.frozen import Frozen
from prereg_moe.registration import expand, parse
from prereg_moe.registration.schema import Inference, NoninferiorityRule
from prereg_moe.verdict.estimate import assemble
from prereg_moe.verdict.noninferiority import noninferior

ZERO: dict[str, Any] = {"kind": "zero"}
KEEP: dict[str, Any] = {"kind": "keep_only", "gates": "renorm"}
MASK: dict[str, Any] = {"kind": "mask", "gates": "renorm"}
LESS: dict[str, Any] = {"kind": "noninferiority", "margin": 0.4, "better_than_random": True}
HURT = {"randomised": Effect(own=0.0, others=1.0)}


def under(intervention: Mapping[str, Any], rule: Mapping[str, Any] | None = None) -> Edit:
    """Return what registers three blocks under an operator, the negative control's model a hurt one."""

    def edit(document: dict[str, Any]) -> None:
        document["intervention"] = dict(intervention)
        document["claims"] = document["claims"][:3]
        document["question"] = "What is lost?"
        del document["replication"]
        if rule is not None:
            document["rules"] = {"rule": dict(rule)}
            for block in document["claims"]:
                block["rule"] = "rule"

    return edit


def document(intervention: Mapping[str, Any], rule: Mapping[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    made = registration()
    under(intervention, rule)(made)
    return made | changes


def finished(root: Path, edit: Edit, effects: Mapping[str, Effect]) -> World:
    world = World(root, EFFECTS | effects)
    world.author(edit)
    world.record()
    world.freeze()
    world.run()
    world.judge()
    world.report()
    return world


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, World]:
    """A reported study under each operator."""
    edits = {"zero": under(ZERO), "keep_only": under(KEEP, LESS)}
    return {name: finished(tmp_path_factory.mktemp(name), edit, HURT) for name, edit in edits.items()}


@pytest.fixture(params=["zero", "keep_only"])
def world(request: pytest.FixtureRequest, worlds: dict[str, World]) -> World:
    return worlds[request.param]


def kind(world: World) -> str:
    return world.frozen.registration.intervention.kind


# ------------------------------------------------------------------ what may be registered


@pytest.mark.parametrize("intervention", [MASK, {**MASK, "gates": "original"}, ZERO, KEEP], ids=str)
def test_an_operator_reads_back_as_it_was_written(intervention: dict[str, Any]) -> None:
    made = parse(document(intervention, LESS))
    assert expand(made)["intervention"] == intervention
    assert parse(expand(made)) == made


def build(**changes: Any) -> list[dict[str, Any]]:
    made = registration()["families"]
    made[0]["build"] |= changes
    return made


def cells(unit: str = "per_layer", **layers: list[int]) -> list[dict[str, Any]]:
    named = {name.removeprefix("layer"): experts for name, experts in layers.items()}
    return [{"axes": "all", "build": {"kind": "explicit", "unit": unit, "cells": named}}]


FIVE = {"kind": "random_sets", "draws": 5, "seed": "1"}
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "zero with gates": (document({**ZERO, "gates": "renorm"}), "intervention.gates: is a key of another part"),
    "keep_only without gates": (document({"kind": "keep_only"}, LESS), "intervention.gates: is missing"),
    "an operator nobody knows": (document({"kind": "remove"}), "intervention: is 'remove'"),
    "an operator that is not run yet": (document({"kind": "skip_slots"}), "is not available in this version"),
    "a claim of harm where families are kept": (
        document(KEEP),
        "rules.modular: claims that an axis is harmed, and keep_only leaves the family to serve it; register",
    ),
    "a published claim of harm where families are kept": (
        document(KEEP, {"kind": "expression", "confirm": "paper_ci"}),
        "rules.rule: claims that an axis is harmed",
    ),
    "cells anywhere are kept": (
        document(KEEP, LESS, families=build(unit="cells")),
        "families[0].build.unit: is cells, and a layer of which a set holds no cell would keep all of its experts; use",
    ),
    "a layer keeps nobody": (
        document(KEEP, LESS, families=cells(layer1=[0, 1], layer2=[])),
        "families[0].build.cells.2: is empty, and a router needs experts to choose from; say which are kept",
    ),
    "layers keep different numbers": (
        document(KEEP, LESS, families=cells(layer1=[0, 1], layer2=[0, 1, 2])),
        "families[0].build.cells: keeps 2 to 3 experts a layer, and random sets keep as many in each; keep as many",
    ),
    "little harm without random sets to compare with": (
        document(MASK, LESS, controls={**registration()["controls"], "null": None}),
        "controls.null: is missing; the rule 'rule' compares with random experts",
    ),
    "too few random sets": (
        document(MASK, LESS, controls=registration()["controls"] | {"null": FIVE}),
        "controls.null.draws: 5 draws cannot bring 3 claims (main)",
    ),
    "a margin of nothing": (document(MASK, {**LESS, "margin": 0}), "rules.rule.margin: is 0"),
    "a diagnosis of little harm": (
        document(MASK, LESS, diagnosis={"studies": 20, "scenarios": ["normal"]}),
        "diagnosis: simulates claims of harm, and a claim here is that there is little; leave it out",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_makes_no_sense_is_refused_in_a_sentence(name: str, run_cli: Callable[..., Any], tmp_path: Path) -> None:
    made, words = REFUSED[name]
    path = tmp_path / "registration.yaml"
    path.write_text(yaml.safe_dump(made, sort_keys=False))
    said = run_cli("check", path)
    assert said.code == 2, said.err
    assert words in said.err.replace("\n", " "), said.err
    assert "Traceback" not in said.err


def grid(intervention: Mapping[str, Any], rule: Mapping[str, Any] | None = None, **lists: Any) -> dict[str, Any]:
    return document(intervention, rule, multiverse=[{"id": "grid", "claims": "main", **lists}])


def test_a_grid_varies_no_gates_of_zero() -> None:
    with pytest.raises(Invalid, match=r"multiverse\[0\].gates: are what zero keeps as they are"):
        parse(grid(ZERO, gates=["renorm", "original"]))
    assert parse(grid(ZERO, corrections=["max_t", "hochberg"])).multiverse
    assert parse(grid(KEEP, LESS, gates=["renorm", "original"])).multiverse


def test_a_grid_does_not_mix_claims_of_little_harm_and_of_much() -> None:
    made = grid(MASK, rules=["modular", "less"])
    made["rules"]["less"] = LESS
    with pytest.raises(Invalid, match=r"multiverse\[0\].rules: claim little harm and much of it"):
        parse(made)


def test_a_router_is_left_experts_to_choose_from_before_anything_is_computed(tmp_path: Path) -> None:
    def freezing(intervention: dict[str, Any], rule: dict[str, Any] | None, families: Any) -> World:
        world = World(tmp_path / f"{len(list(tmp_path.iterdir()))}")
        world.author(lambda made: (made.clear(), made.update(document(intervention, rule, families=families))))
        world.record()
        world.freeze()
        return world

    def two(count: int) -> Any:
        return cells(layer1=list(range(count)), layer2=list(range(count)))

    with pytest.raises(Invalid, match=rf"keeps {TOP_K - 1} of {EXPERTS} experts; the router needs {TOP_K} left"):
        freezing(KEEP, LESS, two(TOP_K - 1))
    with pytest.raises(Invalid, match=rf"keeps {EXPERTS} of {EXPERTS} experts; keep fewer, or leave the layer out"):
        freezing(KEEP, LESS, two(EXPERTS))
    with pytest.raises(Invalid, match=rf"masks {EXPERTS} of {EXPERTS} experts"):
        freezing(MASK, None, two(EXPERTS))
    assert freezing(ZERO, None, two(EXPERTS)).frozen.plan  # the routing is kept, so nobody starves


def test_random_sets_of_zeroed_cells_may_hold_a_whole_layer(tmp_path: Path) -> None:
    """Uniform over all sets of the size: a restriction the family is not under would make them others than it."""
    world, size = World(tmp_path), EXPERTS * len(LAYERS) - TOP_K
    world.author(lambda made: (under(ZERO)(made), made.update(families=build(unit="cells", size=size))))
    world.record()
    frozen = world.freeze()
    drawn = frozen.draws(frozen.registration.claims[0], "en")
    assert any(len(experts) > EXPERTS - TOP_K for draw in drawn for experts in draw.cells.values())
    assert {sum(map(len, draw.cells.values())) for draw in drawn} == {size}


def test_random_sets_of_kept_families_are_kept_in_their_layers(world: World) -> None:
    frozen = world.frozen
    claims = frozen.registration.claims[0]
    for family in frozen.families_of(claims):
        own = frozen.ablation(claims, family)
        for draw in frozen.draws(claims, family):
            assert draw.intervention == own.intervention == frozen.registration.intervention
            assert {layer: len(experts) for layer, experts in draw.cells.items()} == {
                layer: len(experts) for layer, experts in own.cells.items()
            }


def test_a_layer_the_family_does_not_name_keeps_all(tmp_path: Path) -> None:
    world = World(tmp_path, EFFECTS | HURT)
    world.author(lambda made: (made.clear(), made.update(document(KEEP, LESS, families=only_layer(2)))))
    world.record()
    frozen = world.freeze()
    claims = frozen.registration.claims[0]
    conditions = [frozen.ablation(claims, "en"), *frozen.draws(claims, "en")]
    assert {tuple(one.cells) for one in conditions} == {(2,)}  # random sets name the family's layers, and no others
    assert {frozen.masked(one) for one in conditions} == {EXPERTS - 2}


def only_layer(layer: int) -> list[dict[str, Any]]:
    """Return families of two experts in one layer, one an axis."""
    return [
        {"axes": [axis], "build": {"kind": "explicit", "unit": "per_layer", "cells": {str(layer): [2 * n, 2 * n + 1]}}}
        for n, axis in enumerate(AXES)
    ]


def test_what_claims_little_harm_is_not_diagnosed(tmp_path: Path, run_cli: Callable[..., Any]) -> None:
    world = World(tmp_path)
    world.author(under(KEEP, LESS))
    said = run_cli("diagnose", "world", "--root", tmp_path)
    assert said.code == 2
    assert "diagnosis: simulates claims of harm, and a claim here is that there is little" in said.err
    assert not (world.folder / "diagnosis.json").exists()


def test_a_condition_says_what_is_done_and_a_mask_says_it_as_ever(world: World) -> None:
    frozen = world.frozen
    condition = frozen.ablation(frozen.registration.claims[0], "no")
    said = condition.to_json()["intervention"]
    assert said == {**expand(frozen.registration.intervention), "cells": [[1, [0, 1]], [2, [0, 1]]]}
    masked = frozen.under(parse(document(MASK, LESS))).ablation(frozen.registration.claims[0], "no")
    assert canonical.dumps(masked.to_json()["intervention"]) == (
        b'{"cells":[[1,[0,1]],[2,[0,1]]],"gates":"renorm","kind":"mask"}'
    )


def test_a_plan_of_which_nobody_can_count_what_is_masked_is_no_frozen_registration(worlds: dict[str, World]) -> None:
    changed = {**worlds["keep_only"].frozen.document, "layout": {}}
    with pytest.raises(Tampered, match="frozen"):
        Frozen.from_bytes(canonical.dumps(changed))


def test_check_counts_what_is_run(world: World) -> None:
    assert 0 <= check(world.folder).conditions - len(world.frozen.plan) <= 3  # a draw may be a family


# ------------------------------------------------------------------ what evidence proves

NOT_PROOFS: dict[str, tuple[str, dict[str, Any]]] = {
    "slots below none": ("zero", {"edited_slots": -1}),
    "a yes is no count": ("zero", {"edited_slots": True}),
    "nothing is said of slots": ("zero", {"edited_slots": None}),
    "fewer cells were zeroed": ("zero", {"edited_cells": 1}),
    "they were masked": ("zero", {"masked_cells": 4, "edited_cells": 0, "edited_slots": 0}),
    "they were masked as well": ("zero", {"masked_cells": 4}),
    "a layer never ran": ("zero", {"fired": {"1": 5}}),
    "the family was masked and not the others": ("keep_only", {"masked_cells": 4}),
    "nothing was masked": ("keep_only", {"masked_cells": 0}),
    "others leaked": ("keep_only", {"leaks": 1}),
    "a layer never ran under a mask": ("keep_only", {"fired": {"1": 5, "2": 0}}),
}


@pytest.mark.parametrize("name", NOT_PROOFS)
def test_what_proves_something_else_is_no_evidence(name: str, worlds: dict[str, World]) -> None:
    operator, change = NOT_PROOFS[name]
    world = worlds[operator]
    frozen = world.frozen
    path = world.file(frozen.ablation(frozen.registration.claims[0], "en"))
    files = {one.name: one.read_bytes() for one in world.evidence}
    made = canonical.loads(files[path.name], path.name)
    made["proof"] = {key: value for key, value in {**made["proof"], **change}.items() if value is not None}
    with pytest.raises(Deviated, match=path.name):
        evidence.gather(frozen, files | {path.name: canonical.dumps(made)})


def test_an_intervention_on_nothing_is_caught(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    [cheat] = [one for one in attack.CHEATS if one.name == "an intervention on nothing"]
    monkeypatch.setattr(attack, "CHEATS", [cheat])
    assert [outcome.result for outcome in attack.play(world.registry, "world")] == ["caught"]


# ------------------------------------------------------------------ what is concluded


def test_the_study_is_judged_and_holds(world: World) -> None:
    found = canonical.read(world.registry.reports("world") / "verdict.json")["verdicts"]
    blocks = ("main", "planted", "randomised")
    verdicts = {block: {entry["verdict"] for entry in found if entry["block"] == block} for block in blocks}
    on = {entry["claim"]: entry["estimates"]["on"]["estimate"] for entry in found}
    if kind(world) == "zero":
        assert min(on[f"main.{axis}"] for axis in AXES) > 0.9  # what it serves is gone
        assert verdicts == {"main": {"CONFIRMED"}, "planted": {"CONFIRMED"}, "randomised": {"INCONCLUSIVE", "REFUTED"}}
    else:
        assert max(abs(on[f"main.{axis}"]) for axis in AXES) < 0.1  # all it needs is there
        assert verdicts == {"main": {"CONFIRMED"}, "planted": {"CONFIRMED"}, "randomised": {"REFUTED"}}
        off = [e["estimates"]["worst_off"]["estimate"] for e in found if e["block"] == "main"]
        assert min(off) > 0.9  # and what others need is not
    assert world.audit().exit_code == 0


@pytest.mark.parametrize("suffix", ["md", "html", "tex"])
def test_a_report_names_the_operator_that_was_registered(world: World, suffix: str) -> None:
    text = (world.registry.reports("world") / f"report.{suffix}").read_text("utf-8")
    says = {"zero": "A family is zeroed: its experts are selected", "keep_only": "A family is kept alone: in the"}
    assert says[kind(world)] in text
    assert re.search(r"\bmask(ed|ing)?\b", text) is None
    if suffix == "html":
        assert {"zero": "Effect of zeroing each", "keep_only": "Effect of keeping only each"}[kind(world)] in text


def effects_of(rule: NoninferiorityRule, own: Mapping[str, Any], null: Any = None) -> Any:
    made = parse(document(MASK, rule.model_dump()))
    deltas = {axis: dict.fromkeys(AXES, np.asarray(own[axis], dtype=float)) for axis in own}
    return assemble(made, made.claims[0], deltas, null, intervals=False)


INFERENCE = Inference(alpha=0.05, seed="1", resamples=999, escalation=999)
MARGIN = NoninferiorityRule(kind="noninferiority", margin=0.5)
CASES: dict[str, tuple[Any, str, str]] = {
    "far below the margin": (lambda x: 0.1 + 0.1 * x, "CONFIRMED", "ALL_PARTS_HOLD"),
    "help is little harm": (lambda x: -2 + 0.1 * x, "CONFIRMED", "ALL_PARTS_HOLD"),
    "about the margin": (lambda x: 0.5 + 0.1 * x, "INCONCLUSIVE", "NOT_INSIDE_MARGIN"),
    "too noisy to tell": (lambda x: 0.1 + 5 * x, "INCONCLUSIVE", "NOT_INSIDE_MARGIN"),
    "far above the margin": (lambda x: 1 + 0.1 * x, "REFUTED", "OUTSIDE_MARGIN"),
    "all alike shows nothing": (lambda x: 0 * x, "INCONCLUSIVE", "NOT_INSIDE_MARGIN"),
}


@pytest.mark.parametrize("name", CASES)
def test_the_reason(name: str) -> None:
    harm, verdict, reason = CASES[name]
    noise = np.random.default_rng(3).standard_normal(30)
    own = {axis: harm(noise - noise.mean()) for axis in AXES}
    decided = noninferior(effects_of(MARGIN, own), MARGIN, INFERENCE, 0.05, "max_t", 999)
    assert {(one.verdict, *one.reasons) for one in decided.values()} == {(verdict, reason)}


def test_no_better_than_random_sets_is_not_confirmed() -> None:
    rule = NoninferiorityRule(kind="noninferiority", margin=0.5, better_than_random=True)
    noise = 0.1 * np.random.default_rng(4).standard_normal((31, 40))
    own = dict.fromkeys(AXES, 0.1 + noise[30])

    def decided(random: float) -> Any:
        null = dict.fromkeys(AXES, random + noise[:30])
        # three families that are alike: any of them may be the largest by chance, which costs three times 1/31
        return noninferior(effects_of(rule, own, null), rule, INFERENCE, 0.12, "max_t", 999)["no"]

    assert (decided(0.1).verdict, decided(0.1).reasons) == ("INCONCLUSIVE", ("NOT_BEYOND_RANDOM",))
    assert (decided(-1.0).verdict, decided(-1.0).reasons) == ("INCONCLUSIVE", ("NOT_BEYOND_RANDOM",))
    better = decided(1.0)
    assert (better.verdict, better.p) == ("CONFIRMED", 1 / 31)
    excess = better.parts["excess"]
    assert excess["estimate"] == pytest.approx(0.1 + noise[30].mean() - 1 - noise[:30].mean())
    assert excess["low"] < excess["estimate"] < excess["high"]
    assert excess["low"] + excess["high"] == pytest.approx(2 * excess["estimate"])
    assert decided(0.1).margin < 0.1 < better.margin


@settings(deadline=None, max_examples=15)
@given(st.floats(-1, 2), st.sampled_from([0.05, 0.3, 1.0]), st.integers(2, 40), st.integers(0, 9))
def test_a_confirmation_lies_below_the_margin_and_a_refutation_above_it(
    mean: float, spread: float, items: int, seed: int
) -> None:
    own = {axis: mean + spread * np.random.default_rng(seed).standard_normal(items) for axis in AXES}
    for one in noninferior(effects_of(MARGIN, own), MARGIN, INFERENCE, 0.05, "max_t", 999).values():
        assert one.p is not None
        assert one.p_adjusted is not None
        assert one.margin is not None
        assert one.p <= one.p_adjusted
        assert (one.verdict == "CONFIRMED") == (one.p_adjusted <= 0.05)
        assert one.verdict != "CONFIRMED" or one.margin > 0
        assert one.verdict != "REFUTED" or one.margin < 0


@pytest.mark.parametrize(("shape", "exact"), [("normal", 17), ("skewed", 29)])
def test_at_the_margin_a_block_is_confirmed_about_as_rarely_as_registered(shape: str, exact: int) -> None:
    """400 studies of three families whose mean harm is the margin, 40 items each; skewed: lognormal, skewness 2.3."""
    source = np.random.default_rng(5)
    wrong = 0
    for _ in range(400):
        drawn = source.standard_normal((3, 40))
        if shape == "skewed":
            drawn = source.lognormal(0, 0.6, (3, 40)) - np.exp(0.18)
        harms = effects_of(MARGIN, dict(zip(AXES, 0.5 + drawn, strict=True)))
        found = noninferior(harms, MARGIN, INFERENCE, 0.05, "max_t", 999).values()
        wrong += any(one.verdict == "CONFIRMED" for one in found)
    assert wrong == exact
    assert wrong / 400 <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 400)


def test_a_multiverse_asks_for_less_harm_than_random_sets_do(tmp_path: Path) -> None:
    def edit(made: dict[str, Any]) -> None:
        under(KEEP, LESS)(made)
        lists = {"gates": ["renorm", "original"], "corrections": ["max_t", "hochberg"]}
        made["multiverse"] = [{"id": "grid", "claims": "main", **lists}]

    world = World(tmp_path, EFFECTS | HURT)
    world.author(edit)
    world.record()
    frozen = world.freeze()
    files = {evidence.file_name(d): canonical.dumps(world.made(frozen, c)) for d, c in frozen.plan.items()}
    found = judge(evidence.gather(frozen, files)).document["multiverse"]
    assert {entry["verdict"] for entry in found} == {"CONFIRMED"}
    assert {entry["joint_p"] for entry in found} == {1 / 31}
    assert {entry["confirmed"] for entry in found} == {4}
    assert len(found[0]["specifications"]) == 4


def test_a_grid_of_zero_is_judged_and_shown_without_gates(tmp_path: Path) -> None:
    def edit(made: dict[str, Any]) -> None:
        under(ZERO)(made)
        made["multiverse"] = [{"id": "grid", "claims": "main", "corrections": ["max_t", "hochberg"]}]

    world = finished(tmp_path, edit, HURT)
    found = canonical.read(world.registry.reports("world") / "verdict.json")["multiverse"]
    assert {row["gates"] for entry in found for row in entry["specifications"]} == {None}
    assert {entry["confirmed"] for entry in found} == {2}
    assert "corrections max_t, hochberg" in (world.registry.reports("world") / "report.md").read_text("utf-8")
    assert world.audit().exit_code == 0
