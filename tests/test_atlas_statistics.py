"""Atlas statistics equal the released tables, null draws match what they say, and foreign files are read as data."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from world import ID, World

from prereg_moe import lab
from prereg_moe.atlas import (
    Layout,
    RoutingAtlas,
    build_family,
    correlation,
    coverage,
    draw_matched,
    draw_nulls,
    family_lift,
    family_share,
    iou,
    layer_shuffle,
    lift,
    needed_exclusions,
    overlap,
    pooled,
    separation,
    share,
    shared_core,
    size_of,
    top,
)
from prereg_moe.atlas import released as released_module
from prereg_moe.atlas.describe import describe_registered, describe_released
from prereg_moe.atlas.released import Printed, Released, ReleasedTables, read_families, read_mass, read_summary
from prereg_moe.atlas.view import view_released
from prereg_moe.errors import Invalid, NotCheckable
from prereg_moe.registration import load
from prereg_moe.registration.schema import ExclusionRule, TopLift

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "fixtures" / "command-a-plus"
NEEDED = (66, 77, 84, 89, 102, 115)
UNITS = ("global_id", "per_layer", "cells")


# ------------------------------------------------------------------ what was released with arXiv 2606.25092


@pytest.fixture(scope="module")
def published() -> tuple[Released, ReleasedTables, ReleasedTables]:
    """The released mass, map and summary."""
    if not (DATA / "atlas_mass.json").is_file():
        pytest.skip("../shared/fixtures/command-a-plus is not here: released tables cannot be compared")
    mass = read_mass(DATA / "atlas_mass.json")
    return (
        mass,
        read_families(DATA / "prereg_map.json", mass.atlas),
        read_summary(DATA / "atlas_summary.json", mass.atlas),
    )


@pytest.fixture(scope="module")
def described(published: Any) -> dict[str, Any]:
    mass, families, summary = published
    return describe_released(mass, families=families, summary=summary)


def test_every_released_table_follows_from_the_mass(described: dict[str, Any]) -> None:
    found = {entry["table"]: (entry["equal"], entry["of"]) for entry in described["released"]["tables"]}
    assert found == {
        "family_mean_lift": (11, 11),
        "inter_axis_correlation": (55, 55),
        "top64_jaccard": (55, 55),
        "cross_category_top64_jaccard": (55, 55),
        "per_category_cov_mass": (55, 55),
    }


def test_the_described_numbers_round_to_the_files_own(described: dict[str, Any]) -> None:
    """The same comparison from the files' bytes, by rounding: nothing of the reader in between."""
    printed = json.loads((DATA / "prereg_map.json").read_bytes())
    summary = json.loads((DATA / "atlas_summary.json").read_bytes())
    assert {k: round(v, 3) for k, v in described["correlation"].items()} == printed["inter_axis_correlation"]
    jaccard = {key: round(pair["iou"], 3) for key, pair in described["overlap"]["pairs"].items()}
    assert described["overlap"]["size"] == 64
    assert jaccard == printed["top64_jaccard"] == summary["cross_category_top64_jaccard"]
    for axis, row in summary["per_category_cov_mass"].items():
        assert described["coverage"][axis] == pytest.approx(row, abs=1e-10)


def test_the_documented_rule_gives_six_families_of_eleven_and_names_the_others(described: dict[str, Any]) -> None:
    families = described["released"]["families"]
    assert (families["reproduced"], families["of"]) == (6, 11)
    off = {axis: entry for axis, entry in families["axes"].items() if not entry["reproduced"]}
    assert set(off) == {"math", "code", "safety", "en", "ar"}
    assert all(len(entry["missing"]) == len(entry["instead"]) == 1 for entry in off.values())
    assert off["ar"]["instead"] == [84]
    assert families["needed_exclusions"] == {"ids": list(NEEDED), "reproduced": 11}


def test_all_eleven_families_follow_where_the_needed_ids_are_excluded(published: Any) -> None:
    mass, families, _ = published
    document = describe_released(mass, families=families, exclude=NEEDED)
    assert document["released"]["families"]["reproduced"] == 11
    assert {axis: tuple(ids) for axis, ids in document["families"]["ids"].items()} == families.families


def test_the_released_shared_core_follows_a_rule(described: dict[str, Any]) -> None:
    assert described["shared_core"]["ids"] == described["families"]["excluded"] == [66, 102]
    assert described["released"]["shared_core"] == {"ids": [66, 102], "follows": True}


@pytest.mark.parametrize("seed", [0, 2026])
def test_shuffling_ids_layer_by_layer_leaves_the_published_separation(published: Any, seed: int) -> None:
    atlas = published[0].atlas
    group = [len(axis) == 2 for axis in atlas.axes]
    checks = {found.statistic: found for found in layer_shuffle(atlas.mass, 16, group=group, shuffles=500, seed=seed)}
    gap = checks["separation"]
    assert gap.observed == pytest.approx(0.0894, abs=5e-5)
    assert gap.cells == pytest.approx(0.255, abs=5e-4)
    assert gap.mean == pytest.approx(0.097, abs=0.003)
    assert gap.sd == pytest.approx(0.021, abs=0.003)
    assert gap.p == pytest.approx(0.62, abs=4 * math.sqrt(0.62 * 0.38 / 500))
    assert checks["lift"].p > 0.5


def test_the_families_take_far_more_routing_than_random_sets_and_matched_sets_do_not(published: Any) -> None:
    """paper.md: the own-axis mass of the families is z = +4.6 to +8.2 against sets of their size."""
    mass, families, _ = published
    atlas, table = mass.atlas, pooled(mass.atlas.mass)
    rng = np.random.default_rng(0)
    sets = np.argsort(rng.random((20_000, 128)), axis=1)[:, :16]
    scores = {}
    for axis in ("math", "code", "general", "ar", "es", "zh"):  # those it ablates
        row = table[atlas.axes.index(axis)]
        random = row[sets].sum(axis=1)
        scores[axis] = (row[list(families.families[axis])].sum() - random.mean()) / random.std()
    assert 4.5 < min(scores.values()) < 4.7
    assert 8.1 < max(scores.values()) < 8.3
    for axis in ("ar", "math"):
        cells = dict.fromkeys(atlas.layout.layers, families.families[axis])
        target = family_share(atlas, axis, cells)
        assert target is not None
        drawn = draw_matched(
            atlas, cells, axis, unit="global_id", tolerance=0.02, draws=19, seed="1", labels=("m", axis)
        )
        assert all(abs(draw.share / target[0] - 1) <= 0.02 for draw in drawn)


def test_the_command_prints_what_the_page_shows(published: Any, run_cli: Callable[..., Any], monkeypatch: Any) -> None:
    page = (ROOT / "docs" / "atlas.md").read_text("utf-8")
    command = re.search(r"```bash\nprereg-moe (atlas --mass .*)\n```\n\n```text\n(.*?)```", page, re.DOTALL)
    assert command is not None
    monkeypatch.chdir(DATA)
    said = run_cli(*command[1].split())
    assert said.code == 0
    printed = [" ".join(line.split()) for line in said.out.splitlines() if line.strip()]
    for line in filter(str.strip, command[2].splitlines()):
        assert line.strip() == "..." or " ".join(line.split()) in printed, line


def test_the_command_prints_one_json_document(
    published: Any, described: dict[str, Any], run_cli: Callable[..., Any]
) -> None:
    files = ("--families", DATA / "prereg_map.json", "--summary", DATA / "atlas_summary.json")
    said = run_cli("atlas", "--mass", DATA / "atlas_mass.json", *files, "--json")
    assert said.code == 0
    assert json.loads(said.out) == json.loads(json.dumps(described))


# ------------------------------------------------------------------ small atlases


def made(axes: int = 4, layers: int = 3, experts: int = 8, seed: int = 0, top_k: int = 2) -> RoutingAtlas:
    """Return an atlas whose rows sum to 100 tokens."""
    mass = np.random.default_rng(seed).gamma(0.7, size=(axes, layers, experts)) + 1e-3
    mass *= 100 / mass.sum(axis=2, keepdims=True)
    return RoutingAtlas(tuple(f"a{n}" for n in range(axes)), Layout(tuple(range(1, layers + 1)), experts, top_k), mass)


atlases = st.builds(made, axes=st.integers(2, 5), layers=st.integers(1, 4), experts=st.integers(4, 12))


@given(made_atlas=atlases)
def test_coverage_rises_to_one(made_atlas: RoutingAtlas) -> None:
    experts = made_atlas.layout.experts
    table = coverage(made_atlas.mass, range(1, experts + 1))
    assert (np.diff(table, axis=1) >= 0).all()
    np.testing.assert_allclose(table[:, -1], 1)
    assert (table[:, 0] >= 1 / experts - 1e-12).all()


def test_coverage_of_a_count_that_is_not_there_is_refused() -> None:
    with pytest.raises(Invalid, match=r"sizes: \[0, 9\] of 8 experts"):
        coverage(made().mass, [0, 4, 9])


@given(made_atlas=atlases, seed=st.integers(0, 99))
def test_renaming_experts_renames_families_and_changes_nothing_else(made_atlas: RoutingAtlas, seed: int) -> None:
    """Equivariance: the same permutation of ids in every layer."""
    order = np.random.default_rng(seed).permutation(made_atlas.layout.experts)
    renamed = RoutingAtlas(made_atlas.axes, made_atlas.layout, made_atlas.mass[:, :, order])  # id e was order[e]
    one, two = pooled(made_atlas.mass), pooled(renamed.mass)
    np.testing.assert_allclose(correlation(one), correlation(two), atol=1e-12)
    np.testing.assert_allclose(iou(top(one, 3)), iou(top(two, 3)))
    np.testing.assert_allclose(coverage(made_atlas.mass, [1, 3]), coverage(renamed.mass, [1, 3]))
    rule = TopLift(kind="top_lift", size=2, unit="global_id", exclude=ExclusionRule(kind="none"))
    for axis in made_atlas.axes:
        before, after = build_family(rule, axis, made_atlas), build_family(rule, axis, renamed)
        assert {int(order[e]) for e in after[1]} == set(before[1])
    observed = [layer_shuffle(atlas.mass, 2, shuffles=1)[0] for atlas in (made_atlas, renamed)]
    assert observed[0].observed == pytest.approx(observed[1].observed)
    assert observed[0].cells == pytest.approx(observed[1].cells)


def test_correlation_is_numpys_and_missing_where_shares_are_all_equal() -> None:
    table = pooled(made().mass)
    np.testing.assert_allclose(correlation(table), np.corrcoef(table))
    table[1] = 1 / table.shape[1]
    assert np.isnan(correlation(table)[1]).all()
    assert np.isfinite(correlation(table)[0, 2])


def test_family_lift_is_the_mean_of_its_own_lifts() -> None:
    table = pooled(made().mass)
    families = [(0, 1), (2, 3), (4, 5), (6,)]
    expected = [np.mean([lift(table)[row, e] for e in ids]) for row, ids in enumerate(families)]
    np.testing.assert_allclose(family_lift(table, families), expected)


@pytest.mark.parametrize(("layers", "size"), [(1, 3), (2, 2), (3, 1)])
def test_the_overlap_reference_is_that_of_every_permutation(layers: int, size: int) -> None:
    """By enumeration: every set of the second's size in every layer is equally likely."""
    experts = 6
    a = np.zeros((layers, experts), dtype=bool)
    a[:, :size] = True
    b = np.zeros((layers, experts), dtype=bool)
    b[:, 1 : 1 + size] = True
    subsets = [set(chosen) for chosen in itertools.combinations(range(experts), size)]
    shared = [
        sum(len(chosen & set(range(size))) for chosen in choice) for choice in itertools.product(subsets, repeat=layers)
    ]
    found = overlap(a, b)
    assert found.shared == layers * (size - 1)
    assert found.iou == pytest.approx(found.shared / (2 * layers * size - found.shared))
    assert found.p == pytest.approx(np.mean([count >= found.shared for count in shared]))
    assert found.expected == pytest.approx(np.mean([count / (2 * layers * size - count) for count in shared]))


def test_overlap_at_its_ends() -> None:
    everything, nothing = np.ones(5, dtype=bool), np.zeros(5, dtype=bool)
    assert (overlap(everything, everything).iou, overlap(everything, everything).p) == (1, pytest.approx(1))
    assert (overlap(nothing, nothing).iou, overlap(nothing, nothing).p) == (0, 1)
    with pytest.raises(Invalid, match="compare sets of one model"):
        overlap(everything, np.ones(4, dtype=bool))


def test_separation_needs_a_border() -> None:
    sets = top(pooled(made().mass), 3)
    assert separation(sets, [True, True, False, False]).shape == ()
    for group in ([True] * 4, [True, False, False, False]):
        with pytest.raises(Invalid, match="group"):
            separation(sets, group)


def test_the_layer_shuffle_finds_ids_that_mean_something_and_not_those_that_do_not() -> None:
    mass = np.ones((4, 12, 16))
    for axis in range(4):
        mass[axis, :, 4 * axis : 4 * axis + 4] = 20  # the same ids in every layer
    aligned = layer_shuffle(mass, 4, group=[True, True, False, False], shuffles=199)[0]
    assert (aligned.statistic, aligned.p) == ("lift", 1 / 200)
    rng = np.random.default_rng(1)
    for layer in range(12):
        mass[:, layer] = mass[:, layer][:, rng.permutation(16)]
    arbitrary = layer_shuffle(mass, 4, shuffles=199)[0]
    assert arbitrary.p > 0.05
    assert arbitrary.cells == aligned.cells > arbitrary.observed


def test_the_layer_shuffle_p_is_uniform_where_ids_are_arbitrary() -> None:
    """Calibration: p at most 1/10 and 1/2 in about that share of atlases without meaning."""
    found = np.array([layer_shuffle(made(3, 4, 8, seed).mass, 2, shuffles=19, seed=seed)[0].p for seed in range(200)])
    for level in (0.1, 0.5):
        assert np.mean(found <= level) == pytest.approx(level, abs=4 * math.sqrt(level * (1 - level) / 200))


def test_the_layer_shuffle_is_the_same_for_any_block_and_another_for_another_seed(monkeypatch: Any) -> None:
    mass = made(5, 3, 9).mass
    first = layer_shuffle(mass, 3, group=[True, True, False, False, False], shuffles=50, seed=4)
    monkeypatch.setattr("prereg_moe.atlas.statistics._BLOCK", 1)
    assert layer_shuffle(mass, 3, group=[True, True, False, False, False], shuffles=50, seed=4) == first
    assert layer_shuffle(mass, 3, group=[True, True, False, False, False], shuffles=50, seed=5) != first


def test_one_layer_cannot_be_shuffled_into_anything_else() -> None:
    found = layer_shuffle(made(4, 1, 8).mass, 2, group=[True, True, False, False], shuffles=20)
    assert [check.p for check in found] == [1, 1]


@pytest.mark.parametrize(("size", "shuffles"), [(9, 10), (2, 0)])
def test_a_shuffle_that_cannot_be_done_is_refused(size: int, shuffles: int) -> None:
    with pytest.raises(Invalid):
        layer_shuffle(made().mass, size, shuffles=shuffles)


@given(made_atlas=atlases, size=st.integers(1, 3), excluded=st.sets(st.integers(0, 3), max_size=2))
def test_the_needed_exclusions_are_those_a_family_was_built_with(
    made_atlas: RoutingAtlas, size: int, excluded: set[int]
) -> None:
    scores = lift(pooled(made_atlas.mass))
    size = min(size, made_atlas.layout.experts - len(excluded))
    kept = [e for e in range(made_atlas.layout.experts) if e not in excluded]
    families = {row: sorted(sorted(kept, key=lambda e: -scores[row, e])[:size]) for row in range(len(scores))}
    needed = needed_exclusions(scores, families)
    assert set(needed) <= excluded
    left = [e for e in range(made_atlas.layout.experts) if e not in needed]
    for row, ids in families.items():
        assert sorted(sorted(left, key=lambda e: -scores[row, e])[:size]) == ids


def test_the_shared_core_is_used_on_every_axis() -> None:
    table = np.full((3, 4), 0.25)
    table[2] = [0.4, 0.3, 0.2, 0.1]
    assert shared_core(table).tolist() == [True, True, False, False]
    assert shared_core(table, 1.01).tolist() == [False] * 4


# ------------------------------------------------------------------ null draws


def rule(unit: Any, size: int) -> TopLift:
    return TopLift(kind="top_lift", size=size, unit=unit, exclude=ExclusionRule(kind="none"))


def taken(atlas: RoutingAtlas, axis: str, cells: Any) -> float:
    """Return the share of an axis's routing that cells take, mean over all layers."""
    table = share(atlas.mass)[atlas.axes.index(axis)]
    rows = {layer: row for row, layer in enumerate(atlas.layout.layers)}
    return math.fsum(table[rows[layer], e] for layer, ids in cells.items() for e in ids) / len(rows)


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("seed", range(3))
def test_matched_draws_are_of_the_familys_size_and_closer_in_mass_than_random_ones(unit: str, seed: int) -> None:
    atlas = made(4, 4, 24, seed)
    family = build_family(rule(unit, 12 if unit == "cells" else 4), "a1", atlas)
    size, target = size_of(family, unit), taken(atlas, "a1", family)
    matched = draw_matched(atlas, family, "a1", unit=unit, tolerance=0.1, draws=12, seed="5", labels=("m", "f"))
    random = draw_nulls(atlas.layout, unit=unit, size=size, draws=12, seed="5", model="m")
    for draw in matched:
        assert size_of(draw.cells, unit) == size
        assert not atlas.layout.check(draw.cells, "draw")
        assert draw.share == pytest.approx(taken(atlas, "a1", draw.cells), abs=1e-9)
        assert abs(draw.share - target) <= 0.1 * target + 1e-9
        if unit == "global_id":
            assert len(set(draw.cells.values())) == 1
        if unit != "cells":
            assert tuple(draw.cells) == atlas.layout.layers
    off = [abs(draw.share - target) for draw in matched]
    assert np.mean(off) < np.mean([abs(taken(atlas, "a1", cells) - target) for cells in random])


def test_matched_draws_depend_on_their_labels_only() -> None:
    atlas = made(3, 3, 16)
    family = build_family(rule("per_layer", 3), "a0", atlas)

    def draw(draws: int, **changes: Any) -> Any:
        given = {"unit": "per_layer", "tolerance": 0.1, "seed": "1", "labels": ("m", "f"), **changes}
        return draw_matched(atlas, family, "a0", draws=draws, **given)

    assert draw(6)[:3] == draw(3)
    assert draw(3, labels=("m", "g")) != draw(3)
    assert draw(3, seed="2") != draw(3)


def test_a_family_in_some_layers_is_compared_with_sets_in_those_layers() -> None:
    atlas = made(3, 4, 16)
    family = {2: (0, 1), 4: (3, 5)}
    for draw in draw_matched(
        atlas, family, "a0", unit="per_layer", tolerance=0.2, draws=5, seed="1", labels=("m", "f")
    ):
        assert tuple(draw.cells) == (2, 4)


@pytest.mark.parametrize("unit", UNITS)
def test_a_share_that_no_other_set_has_gives_the_family_itself_or_is_refused(unit: str) -> None:
    mass = np.ones((2, 2, 6))
    mass[0, :, :2] = 1000
    atlas = RoutingAtlas(("a", "b"), Layout((0, 1), 6, 2), mass)
    family = build_family(rule(unit, 4 if unit == "cells" else 2), "a", atlas)
    drawn = draw_matched(atlas, family, "a", unit=unit, tolerance=0.01, draws=3, seed="1", labels=("m", "f"))
    assert [draw.cells for draw in drawn] == [family] * 3
    mass[0, :, 2:] = 0
    with pytest.raises(Invalid, match=r"controls.null: the atlas has no axis 'c'"):
        draw_matched(atlas, family, "c", unit=unit, tolerance=0.01, draws=3, seed="1", labels=("m", "f"))


def test_a_share_that_walks_do_not_reach_is_refused_with_what_was_nearest() -> None:
    atlas = made(2, 1, 16)
    with pytest.raises(Invalid, match=r"no random set found within 1e-09 .* the nearest is \S+ away; register"):
        draw_matched(
            atlas,
            build_family(rule("per_layer", 8), "a0", atlas),
            "a0",
            unit="per_layer",
            tolerance=1e-9,
            draws=9,
            seed="1",
            labels=("m", "f"),
        )


def by_mass(document: dict[str, Any]) -> None:
    document["controls"]["null"] |= {"match": "mass", "tolerance": 0.9}


def test_a_study_matched_by_mass_goes_the_whole_way(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.author(by_mass)
    world.record()
    frozen = world.freeze()
    entries = frozen.document["draws"]
    frozen_families = {(entry["model"], entry["name"]): entry for entry in frozen.document["families"]}
    assert {(entry["model"], entry["family"]) for entry in entries} == set(frozen_families)
    for entry in entries:
        own = frozen_families[entry["model"], entry["family"]]
        assert len(entry["share"]) == len(entry["cells"]) == 30
        assert all(abs(value / own["share"] - 1) <= 0.9 for value in entry["share"])
    claims = frozen.registration.claims[0]
    sets = {family: [draw.cells for draw in frozen.draws(claims, family)] for family in ("no", "en")}
    assert sets["no"] != sets["en"]
    world.run()
    world.judge()
    result = world.audit(world.report())
    assert [finding.outcome for finding in result.findings] == ["holds"] * 9, result
    assert "within a fraction of 0.9, its share of its own axis's routing" in (
        world.registry.reports(ID) / "report.md"
    ).read_text("utf-8")


def test_sets_matched_by_size_are_shared_and_named_by_no_family(frozen: World) -> None:
    entries = frozen.frozen.document["draws"]
    assert [entry["model"] for entry in entries] == ["standard", "planted", "randomised"]  # three families each
    assert all(set(entry) == {"model", "unit", "size", "cells"} for entry in entries)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"match": "mass"}, "controls.null.tolerance: is None with match: mass"),
        ({"tolerance": 0.1}, "controls.null.tolerance: is 0.1 with match: size"),
        ({"match": "mass", "tolerance": 0}, "controls.null.tolerance"),
        ({"match": "weight"}, "controls.null.match: is 'weight'"),
    ],
)
def test_a_tolerance_is_registered_with_mass_and_only_then(
    changes: dict[str, Any], problem: str, tmp_path: Path
) -> None:
    world = World(tmp_path)
    world.author(lambda document: document["controls"]["null"].update(changes))
    with pytest.raises(Invalid, match=re.escape(problem)):
        load(world.folder / "registration.yaml")


def test_explicit_families_in_one_layer_are_compared_with_sets_in_that_layer(tmp_path: Path) -> None:
    def explicit(document: dict[str, Any]) -> None:
        build = {"kind": "explicit", "unit": "per_layer", "cells": {"2": [0, 1]}}
        document["families"] = [{"axes": ["no"], "name": "{axis}", "build": build}]
        document["controls"] = {"null": document["controls"]["null"]}
        document["claims"] = document["claims"][:1]
        document["replication"] = []

    world = World(tmp_path)
    world.author(explicit)
    world.record()
    frozen = world.freeze()
    draws = frozen.draws(frozen.registration.claims[0], "no")
    assert {tuple(draw.cells) for draw in draws} == {(2,)}
    assert {len(draw.cells[2]) for draw in draws} == {2}


# ------------------------------------------------------------------ files of others


def document() -> dict[str, Any]:
    """Return a small released atlas."""
    atlas = made(4, 2, 24)
    axes = ("en", "fr", "math", "code")
    return {
        "model": "org/small",
        "num_experts": 24,
        "top_k": 2,
        "categories": list(axes),
        "layers": [3, 7],
        "mass": {
            axis: {"3": atlas.mass[row, 0].tolist(), "7": atlas.mass[row, 1].tolist()} for row, axis in enumerate(axes)
        },
        "capture_errs": 0,
        "anything": {"else": [1, 2]},
    }


def written(path: Path, value: Any) -> Path:
    path.write_bytes(value if isinstance(value, bytes) else json.dumps(value).encode())
    return path


def test_a_released_atlas_is_read_and_described(tmp_path: Path, run_cli: Callable[..., Any]) -> None:
    path = written(tmp_path / "mass.json", document())
    released = read_mass(path)
    assert released.atlas.layout == Layout((3, 7), 24, 2)
    found = describe_released(released, size=4)
    assert found["group"] == ["en", "fr"]
    assert found["released"] is None
    assert json.loads(json.dumps(found)) == found
    said = run_cli("atlas", "--mass", path, "--size", 4, "--exclude", "")
    assert said.code == 0
    assert "Excluded by the call: none." in said.out
    assert "Layer shuffle, 999 times" in said.out
    assert run_cli("atlas", "--mass", path, "--size", 4, "--exclude", "").out == said.out


def test_a_small_model_is_described_by_default(tmp_path: Path) -> None:
    value = document() | {"num_experts": 8}
    value["mass"] = {axis: {at: row[:8] for at, row in layers.items()} for axis, layers in value["mass"].items()}
    found = describe_released(read_mass(written(tmp_path / "mass.json", value)), exclude=())
    assert {len(ids) for ids in found["families"]["ids"].values()} == {4}


def test_axes_that_are_no_languages_have_no_separation(tmp_path: Path) -> None:
    value = document()
    for old, new in (("en", "english"), ("fr", "french")):
        value["mass"][new] = value["mass"].pop(old)
    value["categories"] = list(value["mass"])
    found = describe_released(read_mass(written(tmp_path / "mass.json", value)), size=4)
    assert [check["statistic"] for check in found["layer_shuffle"]] == ["lift"]
    assert found["group"] == []


def test_uneven_rows_and_lost_tokens_are_said(tmp_path: Path) -> None:
    value = document()
    value["mass"]["en"]["3"][0] += 50
    value["capture_errs"] = 7
    head = view_released(describe_released(read_mass(written(tmp_path / "mass.json", value)), size=4))[0]
    assert "differs between layers" in head.lines[1]
    assert "lost 7 tokens" in head.lines[2]


def test_many_axes_are_not_printed_as_a_matrix(tmp_path: Path) -> None:
    atlas = made(20, 1, 24)
    sections = view_released(describe_released(Released("m", atlas, None), size=3))
    assert any("190 pairs: print them with --json" in line for section in sections for line in section.lines)


def put(*path: Any, to: Any) -> Callable[[dict[str, Any]], None]:
    def edit(value: dict[str, Any]) -> None:
        for key in path[:-1]:
            value = value[key]
        value[path[-1]] = to

    return edit


HOSTILE: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "another kind of document": (lambda d: d.pop("mass"), "mass: is missing; docs"),
    "no model": (lambda d: d.pop("model"), "model: is missing"),
    "a model with an escape sequence": (put("model", to="\x1b[31mred"), "model: is '\\x1b"),
    "one expert": (put("num_experts", to=1), "num_experts: is 1"),
    "true for a number": (put("num_experts", to=True), "num_experts: is True"),
    "a billion experts": (put("num_experts", to=10**9), "num_experts: is 1000000000"),
    "more experts a token than there are": (put("top_k", to=25), "top_k: is 25"),
    "one axis": (put("categories", to=["en"]), "categories: is"),
    "an axis twice": (put("categories", to=["en", "en", "math", "code"]), "categories: repeats a name"),
    "an axis with a bar": (put("categories", to=["en|fr", "math"]), "categories: is"),
    "an axis that is a number": (put("categories", to=[1, 2]), "categories: is"),
    "layers out of order": (put("layers", to=[7, 3]), "layers: are not ascending"),
    "a layer twice": (put("layers", to=[3, 3]), "layers: are not ascending"),
    "a negative layer": (put("layers", to=[-3, 7]), "layers: are not ascending"),
    "no layer": (put("layers", to=[]), "layers: is []"),
    "mass as a list": (put("mass", to=[]), "mass: is []"),
    "an axis without mass": (lambda d: d["mass"].pop("fr"), "mass: lacks ['fr']"),
    "mass of another axis": (put("mass", "zz", to={}), "mass: has ['zz']"),
    "a layer without mass": (lambda d: d["mass"]["fr"].pop("7"), "mass.fr: lacks ['7']"),
    "mass of another layer": (put("mass", "fr", "8", to=[]), "mass.fr: has ['8']"),
    "layers as a list": (put("mass", "fr", to=[1]), "mass.fr: is [1]"),
    "too few numbers": (put("mass", "fr", "7", to=[1.0] * 23), "mass.fr.7: has 23 numbers"),
    "a text for a row": (put("mass", "fr", "7", to="1" * 24), "mass.fr.7: is '1"),
    "a text for a number": (put("mass", "fr", "7", 5, to="1"), "mass.fr.7: has '1' for expert 5"),
    "true for mass": (put("mass", "fr", "7", 5, to=True), "mass.fr.7: has True for expert 5"),
    "null for mass": (put("mass", "fr", "7", 5, to=None), "mass.fr.7: has None for expert 5"),
    "negative mass": (put("mass", "fr", "7", 5, to=-1e-9), "mass.fr.7: has -1e-09 for expert 5"),
    "mass beyond any corpus": (put("mass", "fr", "7", 5, to=1e300), "mass.fr.7: has 1e+300 for expert 5"),
    "a huge whole number": (put("mass", "fr", "7", 5, to=10**400), "mass.fr.7: has 1000"),
    "a layer nothing was routed in": (put("mass", "fr", "7", to=[0] * 24), "mass.fr.7: is all zero"),
    "half a lost token": (put("capture_errs", to=0.5), "capture_errs: is 0.5"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_released_atlas_that_is_none_is_refused(name: str, tmp_path: Path, run_cli: Callable[..., Any]) -> None:
    edit, problem = HOSTILE[name]
    value = document()
    edit(value)
    said = run_cli("atlas", "--mass", written(tmp_path / "mass.json", value), "--size", 4)
    assert (said.code, said.out) == (2, "")
    assert any(line.startswith(f"error: mass.json, {problem}") for line in said.lines), said.err
    assert "\x1b" not in said.err


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "is not JSON"),
        (b"[1]", "is [1]; expected a JSON object"),
        (b'{"a": NaN}', "is not JSON (NaN is no JSON number)"),
        (b'{"a": -Infinity}', "is not JSON (-Infinity is no JSON number)"),
        (b'{"a": 1, "a": 2}', "is not JSON (the key 'a' is repeated)"),
        (b"\xff\xfe\x00", "is not JSON"),
        (b"[" * 200_000, "is nested too deeply"),
        (b'{"a": ' + b"9" * 5000 + b"}", "is not JSON"),
    ],
    ids=["empty", "a list", "NaN", "infinity", "a repeated key", "no text", "deep", "a long number"],
)
def test_what_is_no_json_document_is_refused(data: bytes, problem: str, tmp_path: Path) -> None:
    with pytest.raises(Invalid, match=re.escape(problem)):
        read_mass(written(tmp_path / "mass.json", data))


def test_a_file_too_large_is_refused_before_it_is_parsed(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(released_module, "MAX_BYTES", 100)
    with pytest.raises(Invalid, match="has more than 100 bytes"):
        read_mass(written(tmp_path / "mass.json", document()))


def test_a_file_that_is_not_there_cannot_be_checked(tmp_path: Path) -> None:
    with pytest.raises(NotCheckable, match="cannot be read"):
        read_mass(tmp_path / "none.json")
    with pytest.raises(NotCheckable, match="cannot be read"):
        read_mass(tmp_path)


def test_all_problems_are_said_at_once_up_to_a_bound(tmp_path: Path) -> None:
    value = document()
    for axis in value["mass"]:
        value["mass"][axis]["3"] = [1]
    with pytest.raises(Invalid) as caught:
        read_mass(written(tmp_path / "mass.json", value))
    assert len(caught.value.problems) == 4
    value["categories"] = [f"a{n}" for n in range(100)]
    value["mass"] = {axis: {"3": [1], "7": [1]} for axis in value["categories"]}
    with pytest.raises(Invalid) as caught:
        read_mass(written(tmp_path / "mass.json", value))
    assert len(caught.value.problems) == 21
    assert "and more problems" in str(caught.value.problems[-1])


FAMILIES = {"families": {"en": [1, 2], "fr": [3, 4]}, "family_K": 2, "family_mean_lift": {"en": 1.5, "fr": 2}}


@pytest.mark.parametrize(
    ("edit", "problem"),
    [
        (lambda d: d.pop("families"), "map.json, families: is missing"),
        (put("families", "zz", to=[1]), "map.json, families.'zz': is not an axis of the mass"),
        (put("families", "en", to=[1, 24]), "map.json, families.en: is [1, 24]"),
        (put("families", "en", to=[1, 1]), "map.json, families.en: is [1, 1]"),
        (put("families", "en", to=[True]), "map.json, families.en: is [True]"),
        (put("families", "en", to=[]), "map.json, families.en: is empty"),
        (put("families", "en", to=[1.0]), "map.json, families.en: is ["),
        (put("family_K", to=0), "map.json, family_K: is 0"),
        (put("roles", to={"shared_core": [99]}), "map.json, roles.shared_core: is [99]"),
        (put("family_mean_lift", to={"math": 1.5}), "map.json, family_mean_lift.'math': is no row"),
        (put("family_mean_lift", "en", to="1.5"), "map.json, family_mean_lift.en: is '1.5'"),
        (put("inter_axis_correlation", to={"en|en": 1.0}), "map.json, inter_axis_correlation.'en|en': is no row"),
        (put("inter_axis_correlation", to=[]), "map.json, inter_axis_correlation: is []"),
        (put("top64_jaccard", to={"en|fr": 0.5}), "map.json, top64_jaccard: is of 64 experts"),
    ],
)
def test_a_released_map_of_another_atlas_is_refused(edit: Any, problem: str, tmp_path: Path) -> None:
    value = json.loads(json.dumps(FAMILIES))
    edit(value)
    atlas = read_mass(written(tmp_path / "mass.json", document())).atlas
    with pytest.raises(Invalid, match=re.escape(problem)):
        read_families(written(tmp_path / "map.json", value), atlas)


def test_a_released_summary_without_a_table_is_refused(tmp_path: Path) -> None:
    atlas = read_mass(written(tmp_path / "mass.json", document())).atlas
    for value, problem in (
        ({}, "holds neither coverage nor overlap"),
        ({"per_category_cov_mass": []}, "per_category_cov_mass: is []"),
        ({"per_category_cov_mass": {"en": 1}}, "per_category_cov_mass.'en': is 1"),
        ({"per_category_cov_mass": {"en": {"99": 0.5}}}, "per_category_cov_mass.'en|99': is no row"),
    ):
        with pytest.raises(Invalid, match=re.escape(problem)):
            read_summary(written(tmp_path / "summary.json", value), atlas)


def test_a_released_number_that_does_not_follow_is_named(tmp_path: Path) -> None:
    mass = read_mass(written(tmp_path / "mass.json", document()))
    true = describe_released(mass, size=2)
    right, wrong = (round(true["correlation"][pair], 3) for pair in ("en|fr", "en|math"))
    value = {**FAMILIES, "inter_axis_correlation": {"fr|en": right, "en|math": wrong + 0.001}}
    families = read_families(written(tmp_path / "map.json", value), mass.atlas)
    tables = describe_released(mass, families=families)["released"]["tables"]
    assert tables[1] == {"table": "inter_axis_correlation", "equal": 1, "of": 2, "differing": ["en|math"]}


@given(value=st.floats(-10, 10), decimals=st.integers(0, 6))
def test_a_number_agrees_with_its_own_rounding_and_not_with_the_next(value: float, decimals: int) -> None:
    printed = round(value, decimals)
    assert not Printed("t", {"r": printed}, decimals).differing({"r": value})
    assert Printed("t", {"r": printed + 1.01 * 10.0**-decimals}, decimals).differing({"r": value})
    assert Printed("t", {"r": printed}, decimals).differing({"r": math.nan})


KEYS = st.sampled_from(["model", "mass", "layers", "categories", "num_experts", "top_k", "families", "en"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=6),
    max_leaves=20,
)


@settings(max_examples=100)
@given(value=JSON)
def test_no_json_whatever_gets_past_as_anything_but_our_error(value: Any, tmp_path_factory: Any) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    path = written(folder / "mass.json", value)
    with pytest.raises(Invalid):
        read_mass(path)
    with pytest.raises(Invalid):
        read_families(path, made())
    with pytest.raises(Invalid):
        read_summary(path, made())


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ((), "name either a registration's ID or a file by --mass"),
        (("x", "--mass", "m.json"), "name either"),
        (("x", "--families", "m.json"), "--families describes released mass"),
        (("x", "--size", "3"), "--size describes released mass"),
        (("--mass", "m.json", "--exclude", "1,x"), "'x' is not an expert id"),
        (("--mass", "m.json", "--size", "0"), "--size"),
    ],
)
def test_the_command_takes_a_study_or_a_file(
    arguments: tuple[str, ...], problem: str, run_cli: Callable[..., Any]
) -> None:
    said = run_cli("atlas", *arguments)
    assert said.code == 2
    assert problem in said.err


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("--exclude", "24"), "--exclude: [24] do not exist; experts are 0 to 23"),
        (("--size", "25"), "fewer than 25 experts are left"),
    ],
)
def test_a_rule_the_mass_cannot_satisfy_is_refused(
    arguments: tuple[str, ...], problem: str, tmp_path: Path, run_cli: Callable[..., Any]
) -> None:
    said = run_cli("atlas", "--mass", written(tmp_path / "mass.json", document()), *arguments)
    assert said.code == 2
    assert problem in said.err


# ------------------------------------------------------------------ a registered atlas


def test_a_recorded_atlas_is_summed_up(authored: World, run_cli: Callable[..., Any], monkeypatch: Any) -> None:
    def recorded(registry: Any, id_: str, *, time: str, progress: Any) -> str:
        return authored.record()

    monkeypatch.setattr(lab, "atlas", recorded)
    said = run_cli("atlas", ID, "--root", authored.root, "--json")
    assert said.code == 0
    models = said.json["models"]
    assert set(models) == {"standard", "planted", "randomised"}
    own = models["standard"]["families"]["no"]
    assert own["axis"] == "no"
    assert own["share"] > 2 * own["uniform"] == pytest.approx(4 / 12)
    assert models["standard"]["group"] == "language"
    assert [check["statistic"] for check in models["standard"]["layer_shuffle"]] == ["lift", "separation"]
    said = run_cli("atlas", ID, "--root", authored.root)
    assert "planted: routing that families take on their own axis" in said.out
    assert "planted: layer shuffle, 999 times" in said.out


def test_a_family_that_cannot_be_built_is_said_in_the_summary(authored: World) -> None:
    registration = load(authored.folder / "registration.yaml")
    summary = describe_registered(registration, made(3, 2, 1, top_k=1))
    assert "has no axis" in summary["families"]["no"]["problem"]
    assert summary["layer_shuffle"][0]["p"] == 1
