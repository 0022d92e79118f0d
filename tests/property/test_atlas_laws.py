"""Laws of the atlas: families follow their experts through any renaming, random sets are random and fit."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats as reference

from prereg_moe.atlas import Layout, RoutingAtlas, build_family, draw_nulls, lift, share, size_of
from prereg_moe.errors import Invalid, Tampered
from prereg_moe.registration.schema import ExclusionRule, TopLift

UNITS = ("global_id", "per_layer", "cells")
units = st.sampled_from(UNITS)


@st.composite
def atlases(draw: st.DrawFn) -> RoutingAtlas:
    axes, layers, experts = draw(st.integers(2, 4)), draw(st.integers(1, 3)), draw(st.integers(4, 9))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    mass = random.gamma(0.7, size=(axes, layers, experts))
    return RoutingAtlas(tuple("abcd"[:axes]), Layout(tuple(range(1, 1 + layers)), experts, 2), mass)


def rule(unit: str, size: int, exclude: dict[str, Any] | None = None) -> TopLift:
    excluded = ExclusionRule.model_validate(exclude or {"kind": "none"})
    return TopLift(kind="top_lift", size=size, unit=unit, exclude=excluded)


@settings(deadline=None)
@given(atlases())
def test_shares_sum_to_one_and_lifts_average_to_one(atlas: RoutingAtlas) -> None:
    shares = share(atlas.mass)
    assert np.allclose(shares.sum(axis=2), 1)
    assert np.allclose(lift(shares).mean(axis=0), 1)


def test_where_nothing_was_routed_shares_and_lifts_are_zero() -> None:
    mass = np.zeros((2, 1, 4))
    mass[0, 0, 1] = 5.0
    assert share(mass)[1].sum() == 0
    assert lift(share(mass))[1].sum() == 0
    assert np.isfinite(lift(share(mass))).all()


@settings(deadline=None)
@given(atlases(), units, st.integers(1, 3), st.data())
def test_families_follow_their_experts_when_experts_are_renamed(
    atlas: RoutingAtlas, unit: str, size: int, data: st.DataObject
) -> None:
    order = np.array(data.draw(st.permutations(range(atlas.layout.experts))))
    renamed = RoutingAtlas(atlas.axes, atlas.layout, atlas.mass[:, :, order])  # expert e is now where order[e] was
    for axis in atlas.axes:
        before = build_family(rule(unit, size), axis, atlas)
        after = build_family(rule(unit, size), axis, renamed)
        assert {layer: tuple(sorted(order[list(ids)])) for layer, ids in after.items()} == before


@settings(deadline=None)
@given(atlases(), units, st.data())
def test_families_do_not_depend_on_the_order_of_axes(atlas: RoutingAtlas, unit: str, data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(len(atlas.axes))))
    turned = RoutingAtlas(tuple(atlas.axes[i] for i in order), atlas.layout, atlas.mass[order])
    for axis in atlas.axes:
        assert build_family(rule(unit, 2), axis, turned) == build_family(rule(unit, 2), axis, atlas)


@settings(deadline=None)
@given(atlases(), st.integers(1, 4), st.floats(0.1, 10))
def test_families_do_not_depend_on_how_many_tokens_were_routed(atlas: RoutingAtlas, size: int, times: float) -> None:
    more = RoutingAtlas(atlas.axes, atlas.layout, atlas.mass * 2.0 ** round(times))
    for unit in UNITS:
        assert build_family(rule(unit, size), "a", more) == build_family(rule(unit, size), "a", atlas)


@settings(deadline=None)
@given(atlases(), units, st.integers(1, 4))
def test_a_family_holds_the_size_registered_and_nothing_lifts_more(atlas: RoutingAtlas, unit: str, size: int) -> None:
    cells = build_family(rule(unit, size), "a", atlas)
    assert size_of(cells, unit) == size
    assert not [problem for problem in atlas.layout.check(cells, "a") if "exist" in problem.found]
    if unit == "per_layer":
        lifts = lift(share(atlas.mass))[0]
        for row, layer in enumerate(atlas.layout.layers):
            left = [lifts[row, e] for e in range(atlas.layout.experts) if e not in cells[layer]]
            assert min(lifts[row, list(cells[layer])]) >= max(left, default=0)


@settings(deadline=None)
@given(atlases(), units)
def test_excluded_experts_are_in_no_family(atlas: RoutingAtlas, unit: str) -> None:
    for axis in atlas.axes:
        cells = build_family(rule(unit, 1, {"kind": "ids", "ids": (0, 1, 99)}), axis, atlas)
        assert not {0, 1} & {expert for ids in cells.values() for expert in ids}
    shares = share(atlas.mass)
    shares = shares.mean(axis=1) if unit == "global_id" else shares
    core = shares.min(axis=0) >= 1 / atlas.layout.experts
    assume((~core).sum(axis=-1).min() >= 1)
    cells = build_family(rule(unit, 1, {"kind": "shared_core", "at_least": 1.0}), "a", atlas)
    for layer, ids in cells.items():
        row = core if unit == "global_id" else core[atlas.layout.layers.index(layer)]
        assert not row[list(ids)].any()


def test_a_family_larger_than_what_is_left_is_refused() -> None:
    atlas = RoutingAtlas(("a", "b"), Layout((0,), 4, 1), np.ones((2, 1, 4)))
    with pytest.raises(Invalid, match="fewer than 4 experts are left"):
        build_family(rule("per_layer", 4, {"kind": "ids", "ids": (2,)}), "a", atlas)
    with pytest.raises(Invalid, match="no axis 'c'"):
        build_family(rule("per_layer", 1), "c", atlas)


def test_ties_go_to_the_lower_layer_and_expert() -> None:
    atlas = RoutingAtlas(("a", "b"), Layout((3, 5), 4, 1), np.ones((2, 2, 4)))
    assert build_family(rule("per_layer", 2), "a", atlas) == {3: (0, 1), 5: (0, 1)}
    assert build_family(rule("cells", 5), "a", atlas) == {3: (0, 1, 2, 3), 5: (0,)}


@settings(deadline=None)
@given(atlases())
def test_an_atlas_is_read_as_it_was_written(atlas: RoutingAtlas) -> None:
    again = RoutingAtlas.from_json(atlas.to_json())
    assert (again.axes, again.layout) == (atlas.axes, atlas.layout)
    assert (again.mass == atlas.mass).all()


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"experts": 5}, id="another number of experts"),
        pytest.param({"layers": [0, 1]}, id="another number of layers"),
        pytest.param({"mass": {"a": [[1, 1, 1, -1]]}}, id="negative mass"),
        pytest.param({"mass": {"a": [[1, 1, 1, None]]}}, id="no number"),
        pytest.param({"mass": {"a": [[1, 1], [1, 1]]}}, id="another shape"),
        pytest.param({"mass": {"a": [[1, 1, 1, 1], [1]]}}, id="a ragged table"),
        pytest.param({"mass": {"a": [[1, 1, 1, "x"]]}}, id="text"),
        pytest.param({"mass": 3}, id="no table"),
    ],
)
def test_a_table_that_is_no_atlas_is_refused(change: dict[str, Any]) -> None:
    good = {"layers": [0], "experts": 4, "top_k": 1, "mass": {"a": [[1, 1, 1, 1]]}}
    RoutingAtlas.from_json(good)
    with pytest.raises(Tampered):
        RoutingAtlas.from_json(good | change)


# ------------------------------------------------------------------ random sets


@settings(deadline=None, max_examples=60)
@given(units, st.integers(1, 4), st.integers(0, 999))
def test_random_sets_fit_the_layout_and_have_the_size(unit: str, size: int, seed: int) -> None:
    layout = Layout((2, 4, 7), 6, 2)
    for cells in draw_nulls(layout, unit=unit, size=size, draws=5, seed=str(seed), model="m"):
        assert not layout.check(cells, "draw")
        assert size_of(cells, unit) == size
        assert all(ids == tuple(sorted(set(ids))) for ids in cells.values())
        if unit == "global_id":
            assert len(set(cells.values())) == 1


def test_random_sets_depend_on_their_names_only_and_more_draws_begin_alike() -> None:
    layout = Layout((0, 1), 8, 2)

    def drawn(**changes: Any) -> tuple[Any, ...]:
        return draw_nulls(layout, **{"unit": "per_layer", "size": 3, "draws": 9, "seed": "1", "model": "m"} | changes)

    assert drawn() == drawn()
    assert drawn(draws=20)[:9] == drawn()
    assert len({repr(drawn(**change)) for change in ({}, {"seed": "2"}, {"model": "n"}, {"size": 2})}) == 4


@pytest.mark.parametrize("unit", UNITS)
def test_every_expert_is_drawn_equally_often(unit: str) -> None:
    layout = Layout((0, 1), 8, 2)
    draws = draw_nulls(layout, unit=unit, size=3, draws=2_000, seed="2026", model="m")
    assert len({repr(cells) for cells in draws}) > 50
    times = Counter((layer, expert) for cells in draws for layer, ids in cells.items() for expert in ids)
    counts = [times[layer, expert] for layer in layout.layers for expert in range(8)]
    rows = [counts] if unit == "cells" else [counts[:8], counts[8:]]
    for row in rows:  # without replacement counts vary less than multinomial ones, so this p is on the safe side
        assert reference.chisquare(row).pvalue > 1e-4, row


def test_a_set_that_would_starve_a_layer_is_drawn_again_and_an_impossible_one_refused() -> None:
    layout = Layout((0, 1), 4, 2)
    for cells in draw_nulls(layout, unit="cells", size=4, draws=50, seed="1", model="m"):
        assert sorted(len(ids) for ids in cells.values()) == [2, 2]
    with pytest.raises(Invalid, match="starve a layer"):
        draw_nulls(layout, unit="cells", size=5, draws=1, seed="1", model="m")


def test_unequal_layers_need_the_unit_cells() -> None:
    with pytest.raises(Invalid, match="register unit: cells"):
        size_of({0: (1,), 1: (1, 2)}, "per_layer")
    assert size_of({0: (1,), 1: (1, 2)}, "cells") == 3
