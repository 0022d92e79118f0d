from __future__ import annotations

import numpy as np
import pytest
from scipy import stats as scipy_stats

from prereg_moe import stats
from prereg_moe.errors import Invalid
from prereg_moe.stats import nulls
from prereg_moe.stats.resample import stream

ARRAYS = [
    "effect",
    "null_mean",
    "null_sd",
    "z",
    "p_randomisation",
    "p_maxt",
    "contrast",
    "se",
    "df",
    "low",
    "high",
    "p_items",
    "p_items_adjusted",
    "p",
]


def world(F=3, R=39, n=40, effect=0.5, seed=0):
    rng = np.random.default_rng(seed)
    shared = rng.lognormal(0, 0.4, (F, n))
    on = effect * shared * rng.lognormal(0, 0.3, (F, n))
    null = 0.1 * rng.lognormal(0, 0.4, (R, F, 1)) * shared * rng.lognormal(0, 0.3, (R, F, n))
    return list(on), [null[:, f] for f in range(F)], [f"family {f}" for f in range(F)]


def run(on, null, labels, **more):
    return stats.beats_null(on, null, labels=labels, **{"min_effect": 0.05, "seed": 1, "assignments": 999, **more})


def differing(a, b, order=slice(None)):
    """Return the names of the arrays of b that are not those of a in this order."""
    return [name for name in ARRAYS if not (getattr(b, name) == getattr(a, name)[order]).all()]


def test_the_three_parts_by_hand():
    on, null, labels = world()
    got = run(on, null, labels)
    for f in range(3):
        draws = null[f].mean(1)
        assert got.effect[f] == pytest.approx(on[f].mean())
        assert got.null_mean[f] == pytest.approx(draws.mean())
        assert got.null_sd[f] == pytest.approx(draws.std(ddof=1))
        assert got.z[f] == pytest.approx((on[f].mean() - draws.mean()) / draws.std(ddof=1))
        assert got.p_randomisation[f] == (1 + (draws >= on[f].mean()).sum()) / 40
        d = on[f] - null[f].mean(0)
        se = np.sqrt(d.var(ddof=1) / 40 + draws.var(ddof=1) / 39)
        assert got.contrast[f] == pytest.approx(d.mean())
        assert got.se[f] == pytest.approx(se)
        assert got.df[f] == 38
        assert got.p_items[f] == pytest.approx(scipy_stats.t.sf((d.mean() - 0.05) / se, 38))
        assert (got.low[f], got.high[f]) == pytest.approx(scipy_stats.t.interval(0.95, 38, d.mean(), se))
    assert (got.p == np.maximum.reduce([got.p_randomisation, got.p_maxt, got.p_items_adjusted])).all()
    assert (got.p_items_adjusted == stats.adjust(got.p_items, "holm")).all()
    assert got.flags == ((), (), ())


def test_leave_one_out_z_is_what_it_says():
    values = np.random.default_rng(0).normal(size=(12, 2))
    z = nulls.leave_one_out_z(values)
    for i in range(12):
        others = np.delete(values, i, axis=0)
        assert z[i] == pytest.approx((values[i] - others.mean(0)) / others.std(0, ddof=1))


def test_leave_one_out_z_where_the_others_do_not_vary():
    z = nulls.leave_one_out_z(np.array([[0.1, 0.1]] * 5 + [[0.9, 0.1]]))
    assert z[5].tolist() == [np.inf, 0.0]
    assert (z[:5, 1] == 0).all()


def test_order_of_families_and_draws_does_not_matter():
    on, null, labels = world(effect=0.15)
    got = run(on, null, labels)
    order = [2, 0, 1]
    assert not differing(got, run([on[i] for i in order], [null[i] for i in order], [labels[i] for i in order]), order)
    draws = np.random.default_rng(1).permutation(39)
    assert not differing(got, run(on, [one[draws] for one in null], labels))
    items = np.random.default_rng(2).permutation(40)
    assert not differing(got, run([one[items] for one in on], [one[:, items] for one in null], labels))


@pytest.mark.parametrize("factor", [0.25, 3.0, 1000.0])
def test_scale_does_not_matter(factor):
    on, null, labels = world(effect=0.15)
    a, b = (
        run(on, null, labels),
        run([factor * x for x in on], [factor * x for x in null], labels, min_effect=factor / 20),
    )
    for name in ("p_randomisation", "p_maxt", "p_items", "p"):
        assert getattr(b, name) == pytest.approx(getattr(a, name), rel=1e-9)


def test_a_larger_minimum_effect_never_lowers_p():
    on, null, labels = world()
    p = [run(on, null, labels, min_effect=d).p_items for d in (0.0, 0.05, 0.2, 0.5)]
    assert (np.diff(p, axis=0) >= 0).all()


def test_a_draw_equal_to_the_family_counts_against_it():
    on, null, labels = world(F=1, R=20)
    null[0][3] = on[0]
    got = run(on, null, labels, assignments=9999)
    assert got.p_randomisation.tolist() == [2 / 21]
    assert got.p_maxt[0] == pytest.approx(2 / 21, abs=0.01)


def test_a_draw_that_ties_by_rounding_only_counts_against_it():
    """Six tenths, in another order of adding up: 0.1 + 0.2 is not 0.3."""
    on, null = np.array([0.1, 0.2, 0.3] * 10), np.zeros((20, 30))
    null[3] = [0.2] * 30
    null[4] = [0.3, 0.3, 0.0] * 10
    assert run([on], [null], ["a"]).p_randomisation.tolist() == [3 / 21]


def test_a_pool_of_ten_cannot_reach_five_percent():
    on, null, labels = world(R=10, effect=50.0)
    got = run(on, null, labels)
    assert (got.p > 0.05).all()
    assert all("FEW_DRAWS" in flags for flags in got.flags)


def test_assignments_give_different_families_different_draws():
    pick = nulls.assigned_draws(stream(1), 19, 6, 4000)
    assert pick.min() == 0
    assert (pick == 19).mean() == pytest.approx(1 / 20, abs=0.005)
    for row in pick:
        drawn = row[row < 19]
        assert len(set(drawn)) == len(drawn)
    share = np.bincount(pick[pick[:, 5] < 19, 5], minlength=19) / (pick[:, 5] < 19).sum()
    assert share == pytest.approx(1 / 19, abs=0.015)


def test_nothing_varies():
    got = run([np.full(30, 0.7)], [np.full((20, 30), 0.7)], ["a"])
    assert got.p.tolist() == [1.0]
    assert got.p_randomisation.tolist() == [1.0]
    assert got.flags == (("ZERO_VARIANCE",),)


def test_draws_that_do_nothing_are_still_a_null():
    on, null, labels = world(F=2, R=40)
    got = run(on, [np.zeros_like(one) for one in null], labels, assignments=9999)
    assert (got.z == np.inf).all()
    assert (got.p <= 0.05).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda on, null, labels: (on, null[:2], labels), "3 families, 2 nulls"),
        (lambda on, null, labels: ([], [], []), "0 families"),
        (lambda on, null, labels: (on, [x[:, 1:] for x in null], labels), "pair the same units"),
        (lambda on, null, labels: (on, [null[0][1:], *null[1:]], labels), "every draw on every axis"),
        (lambda on, null, labels: (on, [x[:2] for x in null], labels), "2 draws for 3 families"),
        (lambda on, null, labels: (on[:1], [null[0][:1]], labels[:1]), "at least 2 rows"),
        (lambda on, null, labels: (on[:1], [null[0][:0]], labels[:1]), "at least 2 rows"),
        (lambda on, null, labels: (on, null, ["a", "b", "a"]), "not all different"),
        (lambda on, null, labels: ([on[0] * np.nan, *on[1:]], null, labels), "NaN"),
        (lambda on, null, labels: ([x[:1] for x in on], [x[:, :1] for x in null], labels), "at least 2"),
    ],
)
def test_input_that_cannot_be_judged_is_refused(change, message):
    with pytest.raises(Invalid, match=message):
        run(*change(*world()))


@pytest.mark.parametrize("bad", [1e308, -1e308, 1e60, float("inf"), float("nan")])
def test_a_minimum_effect_beyond_measure_is_refused(bad):
    with pytest.raises(Invalid, match="min_effect: holds a"):
        run(*world(), min_effect=bad)
