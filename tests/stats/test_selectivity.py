from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats as scipy_stats
from threadpoolctl import threadpool_limits

from prereg_moe import stats
from prereg_moe.errors import Invalid
from prereg_moe.stats import selectivity

AXES = ["ar", "en", "fr", "zh"]


def world(off=0.1, n=40, seed=0, noise=0.3):
    rng = np.random.default_rng(seed)
    deltas = {
        f: {a: (1.0 if a == f else off) * rng.lognormal(-0.02, 0.2, n) + noise * rng.normal(size=n) for a in AXES}
        for f in AXES
    }
    return [deltas[f][f] for f in AXES], [{a: deltas[f][a] for a in AXES if a != f} for f in AXES]


def run(on, off, **more):
    return stats.selective(on, off, **{"on_axes": AXES, "seed": 7, "resamples": 999, **more})


def test_contrasts_by_hand():
    on, off = world(off=0.2)
    got = run(on, off)
    for f, family in enumerate(got.families):
        assert [c.axis for c in family.contrasts] == sorted(off[f])
        for c in family.contrasts:
            x, y = on[f], off[f][c.axis]
            se = math.sqrt(x.var(ddof=1) / 40 + 9 * y.var(ddof=1) / 40)
            assert c.psi == pytest.approx(x.mean() - 3 * y.mean())
            assert c.se == pytest.approx(se)
            welch = scipy_stats.ttest_ind(x, 3 * y, equal_var=False, alternative="greater")
            assert (c.t, c.p_welch) == pytest.approx((welch.statistic, welch.pvalue), rel=1e-9)
            L = np.concatenate([x - x.mean(), -3 * (y - y.mean())])
            assert c.skew == pytest.approx((L**3).sum() / (L**2).sum() ** 1.5)
        assert family.binding.t == min(c.t for c in family.contrasts)
        assert family.p == max(family.p_maxt, family.p_floor)
        assert family.p_marginal == max(c.p_marginal for c in family.contrasts)
        assert family.p_floor >= (1 + 30 / 40) * family.p_marginal - 1e-12 or family.p_floor == 1
        assert family.p_welch == max(c.p_welch for c in family.contrasts)
        n = min(size for _, size in got.n)
        assert family.p_refute >= min(1, (1 + 30 / n) * 3 * min(c.p_below for c in family.contrasts))
    assert got.p_welch_holm == pytest.approx(stats.adjust([f.p_welch for f in got.families], "holm"))


def test_a_refutation_is_held_to_max_t_over_all_contrasts(monkeypatch: pytest.MonkeyPatch) -> None:
    draws = np.random.default_rng(5)
    on = [draws.normal(mean, 0.3, 60) for mean in (0.1, 1.0)]
    off = [{"y": draws.normal(1.0, 0.3, 60)}, {"x": draws.normal(0.0, 0.3, 60)}]

    def refute() -> list[float]:
        return stats.selective(on, off, on_axes=["x", "y"], seed=3, resamples=999).p_refute.tolist()

    assert refute()[0] < 0.01 < refute()[1]
    monkeypatch.setattr(selectivity, "_over_contrasts", lambda computed: [np.ones(len(one)) for one in computed])
    assert refute()[0] == 0.5


def test_p_values_and_bounds_by_hand():
    from prereg_moe.stats.resample import resampled_moments, stream

    rng = np.random.default_rng(4)
    on = {"x": rng.lognormal(0, 1, 25), "y": rng.lognormal(0, 1, 25)}
    off = {
        "x": {"y": 0.6 * rng.lognormal(0, 0.3, 25), "z": 0.5 * rng.lognormal(0, 0.3, 30)},
        "y": {"x": 0.45 * on["x"], "z": 0.4 * rng.lognormal(0, 0.3, 30)},
    }
    B = 1999
    got = stats.selective(list(on.values()), list(off.values()), on_axes=["x", "y"], resamples=B, seed=3)
    t, null = {}, {}
    for f in "xy":
        for o in off[f]:
            shift, squared = zip(
                *(
                    resampled_moments(v[:, None], stream(3, "items", f"axis {a}"), resamples=B)
                    for a, v in ((f, on[f]), (o, off[f][o]))
                ),
                strict=True,
            )
            null[f, o] = ((shift[0] - 3 * shift[1]) / np.sqrt(squared[0] + 9 * squared[1]))[:, 0]
            x, y = on[f], off[f][o]
            t[f, o] = (x.mean() - 3 * y.mean()) / math.sqrt(x.var(ddof=1) / x.size + 9 * y.var(ddof=1) / y.size)
    below = dict(
        zip(t, stats.stepdown_maxt([-v for v in t.values()], -np.stack(list(null.values()), axis=1)), strict=True)
    )
    for family in got.families:
        f = family.on_axis
        refutes = []
        for c in family.contrasts:
            key = f, c.axis
            up, down = (1 + (null[key] >= t[key]).sum()) / (B + 1), (1 + (null[key] <= t[key]).sum()) / (B + 1)
            assert (c.p_marginal, c.p_below) == (up, down)
            assert c.lower == pytest.approx(c.psi - c.se * np.sort(null[key])[B - 50])
            assert c.upper == pytest.approx(c.psi - c.se * np.sort(null[key])[25 - 1])
            refutes.append(max((1 + 30 / 25) * 2 * down, below[key] / 2))
        assert family.p_refute == pytest.approx(min(1, min(refutes)))
        largest = np.maximum(null[f, "z"], null[f, family.contrasts[0].axis])
        bound = min(t[f, o] for o in off[f])
        assert family.p_floor == pytest.approx(min(1, (1 + 30 / 25) * (1 + (largest >= bound).sum()) / (B + 1)))


def test_ties_count_against_both_directions():
    got = stats.selective(np.array([-1.0, 1.0] * 5), {"o": np.zeros(10)}, seed=1, resamples=1999).families[0].binding
    assert got.t == 0
    assert got.p_marginal + got.p_below == pytest.approx(1 + 0.246, abs=0.03)  # a fifth head in ten tosses


def test_verdicts_where_the_truth_is_plain():
    assert (run(*world(off=0.05)).p <= 0.01).all()
    far = run(*world(off=0.8))
    assert (far.p > 0.99).all()
    assert (far.p_refute <= 0.05 / 4).all()
    assert (run(*world(off=0.05)).p_refute == 1).all()


def test_bounds_agree_with_p():
    for off in np.linspace(0.2, 0.45, 12):
        got = run(*world(off=off, seed=int(off * 100)))
        for family in got.families:
            for c in family.contrasts:
                assert (c.lower > 0) == (c.p_marginal <= 0.05 / 4)
                assert (c.upper < 0) == (c.p_below <= 0.05 / 12)


def test_the_null_is_that_of_the_binding_axis():
    """Not the minimum over axes of each resample, which would be stochastically smaller and pass too often."""
    on, off = world(off=0.3)
    one = run(on[:1], off[:1], on_axes=["ar"])
    family = one.families[0]
    assert family.p_maxt == family.binding.p_marginal


def test_families_of_one_axis_share_their_resamples():
    """Two families with the same deltas depend on each other wholly, so max-T over them corrects nothing."""
    on, off = world(off=0.28)
    one = run(on[:1], off[:1], on_axes=["ar"]).families[0]
    two = run([on[0]] * 2, [off[0]] * 2, on_axes=["ar"] * 2, labels=["first", "second"])
    assert one.p_maxt > 0.001
    assert [family.p_maxt for family in two.families] == [one.p_maxt] * 2


def test_a_single_family_is_held_to_the_maximum_over_its_axes():
    on, off = world(off=0.28)
    family = run(on[:1], off[:1], on_axes=["ar"]).families[0]
    marginal = max(c.p_marginal for c in family.contrasts)
    assert 1.75 * marginal < family.p_floor < 6 * marginal
    alone = run(on[:1], [{family.binding.axis: off[0][family.binding.axis]}], on_axes=["ar"]).families[0]
    assert alone.p_floor == pytest.approx(1.75 * alone.binding.p_marginal)


def test_refutation_is_corrected_over_contrasts_and_families():
    on, off = world(off=0.45)
    off[0]["fr"] = off[0]["fr"] + 0.1
    together = run(on, off)
    alone = run(on[:1], off[:1], on_axes=["ar"])
    assert together.p_refute[0] * 4 >= alone.p_refute[0]
    assert float(alone.p_refute[0]) >= 3 * min(c.p_below for c in alone.families[0].contrasts)


def test_a_sure_axis_does_not_hide_a_noisy_one():
    rng = np.random.default_rng(3)
    on = 1 + 0.01 * rng.normal(size=50)
    off = {"sure": 0.3 + 0.001 * rng.normal(size=50), "noisy": 0.25 + 1.0 * rng.normal(size=50)}
    got = stats.selective(on, off, seed=1, resamples=999)
    assert got.families[0].binding.axis == "noisy"
    assert got.p > 0.05


def test_one_family_as_bare_arrays():
    on, off = world()
    got = stats.selective(on[0], off[0], seed=7, resamples=999)
    assert got.p.shape == ()
    assert float(got.p) == got.families[0].p
    listed = stats.selective(on[0], list(off[0].values()), seed=7, resamples=999)
    assert [c.axis for c in listed.families[0].contrasts] == ["off0", "off1", "off2"]


def test_order_of_families_axes_and_blocks_and_threads_do_not_matter():
    on, off = world(off=0.25)
    expected = run(on, off).families
    order = [2, 0, 3, 1]
    for threads in (1, 2):
        with threadpool_limits(threads):
            for block in (1, 37, 512, 999):
                assert run(on, off, block=block).families == expected
    turned = run(
        [on[i] for i in order], [dict(reversed(off[i].items())) for i in order], on_axes=[AXES[i] for i in order]
    )
    assert turned.families == tuple(expected[i] for i in order)


@pytest.mark.parametrize("factor", [0.125, 3.0, 1e6])
def test_scale_does_not_matter(factor):
    on, off = world(off=0.25)
    scaled = run([factor * x for x in on], [{a: factor * x for a, x in o.items()} for o in off])
    assert scaled.p == pytest.approx(run(on, off).p, abs=1e-12)


def test_another_off_axis_never_lowers_p():
    on, off = world(off=0.25)
    few = run(on, [dict(list(o.items())[:2]) for o in off])
    assert (run(on, off).p >= few.p).all()


@pytest.mark.parametrize("seed", range(5))
def test_a_larger_kappa_never_lowers_p(seed):
    on, off = world(off=0.25, seed=seed)
    p = [run(on, off, kappa=k).p for k in (1.0, 2.0, 3.0, 4.0, 6.0)]
    assert (np.diff(p, axis=0) >= 0).all()


def test_help_on_another_axis_counts_only_where_registered():
    on, off = world(off=-0.8)
    assert (run(on, off).p <= 0.002).all()
    both = run(on, off, absolute=True)
    assert (both.p > 0.99).all()
    assert [(c.axis, c.sign) for c in both.families[0].contrasts] == [
        ("en", 1), ("en", -1), ("fr", 1), ("fr", -1), ("zh", 1), ("zh", -1),
    ]  # fmt: skip


def test_linked_items_use_the_variance_of_the_contrast():
    rng = np.random.default_rng(0)
    item = rng.lognormal(0, 0.8, 60)
    on, off = 1.0 * item, 0.25 * item + 0.01 * rng.normal(size=60)
    free = stats.selective(on, {"o": off}, seed=1, resamples=999)
    linked = stats.selective(on, {"o": off}, seed=1, resamples=999, linked=True)
    c = linked.families[0].binding
    assert c.se == pytest.approx((on - 3 * off).std(ddof=1) / math.sqrt(60))
    assert c.p_welch == pytest.approx(scipy_stats.ttest_1samp(on - 3 * off, 0, alternative="greater").pvalue)
    assert c.se < free.families[0].binding.se
    assert (c.on, c.off) == pytest.approx((on.mean(), off.mean()))


def test_clusters_are_the_units():
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(8), 5)
    on = 1 + np.repeat(rng.normal(size=8), 5)
    off = 0.3 + 0.1 * rng.normal(size=40)
    got = stats.selective(on, {"o": off}, seed=1, resamples=999, clusters={"on": labels})
    c = got.families[0].binding
    assert c.se == pytest.approx(math.sqrt(on[::5].var(ddof=1) / 8 + 9 * off.var(ddof=1) / 40))
    assert (got.n, got.units) == ((("o", 40), ("on", 40)), (("o", 40), ("on", 8)))
    assert "FEW_UNITS" in got.flags


def test_skewed_items_are_flagged():
    rng = np.random.default_rng(0)
    on = rng.normal(1, 0.1, 40)
    off = rng.lognormal(-2, 1.5, 40)
    got = stats.selective(on, {"o": off}, seed=1, resamples=999)
    assert got.flags == ("SKEW",)
    assert got.families[0].skew < -0.2
    assert stats.selective(off, {"o": on}, seed=1, resamples=999).flags == ()


def test_nothing_varies_nothing_is_shown():
    got = stats.selective(np.full(40, 1.0), {"o": np.zeros(40)}, seed=1, resamples=99)
    assert (float(got.p), float(got.p_refute)) == (1.0, 1.0)
    assert got.flags == ("ZERO_VARIANCE",)
    c = got.families[0].binding
    assert (c.lower, c.upper, c.p_welch) == (-math.inf, math.inf, 1.0)


def test_resamples_without_spread_count_against_both_directions():
    on = np.zeros(4)
    on[0] = 1.0
    got = stats.selective(on, {"o": np.full(4, 0.01)}, seed=1, resamples=9999)
    family = got.families[0]
    for p in (family.p_maxt, family.p_floor, family.p_marginal, family.binding.p_below, family.p_refute):
        assert p >= 0.3  # (3/4)^4 of the resamples hold no unit that differs


def test_the_floor_counts_resamples_without_spread():
    on = np.zeros(40)
    on[0] = 1.0
    family = stats.selective(on, {"o": np.full(40, -0.5)}, seed=1, resamples=1999).families[0]
    empty = (39 / 40) ** 40  # resamples without the one unit that differs
    assert family.p_floor == pytest.approx((1 + 30 / 40) * empty, abs=0.05)


def test_too_few_resamples_are_flagged_and_bound_nothing():
    on, off = world()
    got = run(on, off, resamples=19)
    assert "FEW_RESAMPLES" in got.flags
    assert got.families[0].binding.lower == -math.inf


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"off": [{}, {}, {}, {}]}, "names no axis"),
        ({"off": [{}]}, "4 on, 1 off"),
        ({"on": [], "off": [], "on_axes": []}, "0 on"),
        ({"kappa": 0.0}, "kappa is 0.0"),
        ({"kappa": float("nan")}, "kappa is nan"),
        ({"kappa": 1e308}, r"kappa is 1e\+308, .* at most 1e\+06"),
        ({"kappa": float("inf")}, "kappa is inf"),
        ({"resamples": 0}, "resamples 0"),
        ({"on": [np.ones(1)] * 4}, "has 1 values"),
        ({"on": [np.arange(41.0)] * 4}, "share the units of an axis"),
        ({"on": [np.full(40, np.nan)] * 4}, "NaN"),
        ({"clusters": {"ar": ["x"] * 40}}, "one cluster"),
    ],
)
def test_input_that_cannot_be_judged_is_refused(change, message):
    on, off = world()
    with pytest.raises(Invalid, match=message):
        run(**{"on": on, "off": off, **change})


def test_the_own_axis_is_no_off_axis():
    on, _ = world()
    with pytest.raises(Invalid, match="own axis ar"):
        run(on[:1], [{"ar": on[0]}], on_axes=["ar"])


def test_linked_axes_need_the_same_items():
    with pytest.raises(Invalid, match="linked axes have the same items"):
        stats.selective(np.arange(5.0), {"o": np.arange(6.0)}, seed=1, linked=True)
