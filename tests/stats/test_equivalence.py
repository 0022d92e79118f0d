from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats as scipy_stats
from statsmodels.stats.weightstats import ttost_paired

from prereg_moe import stats
from prereg_moe.errors import Invalid
from prereg_moe.stats import resample

NEAR = np.random.default_rng(0).normal(0.0, 0.1, 60)


@pytest.mark.parametrize(("margin", "key"), [(1.0, "margin1"), (2.5, "margin2.5"), (3.0, "margin3")])
def test_sleep_data_as_in_r(reference, margin, key):
    case = reference["tost_sleep"]
    got = stats.tost(case["d"], low=-margin, high=margin)
    assert (got.p_low, got.p_high) == pytest.approx(case[key], rel=1e-8)
    assert got.p == max(case[key]) or got.p == pytest.approx(max(case[key]), rel=1e-8)
    assert got.estimate == pytest.approx(case["mean"])
    two_sided = stats.tost(case["d"], low=-margin, high=margin, level=0.975)
    assert (two_sided.low, two_sided.high) == pytest.approx(case["ci95"], abs=1e-9)


def test_a_p_of_alpha_holds_and_one_above_does_not():
    got = stats.tost(NEAR, low=-0.03, high=0.05)
    alpha = 1 - got.level
    assert [replace(got, p=p).holds for p in (alpha, math.nextafter(alpha, 1))] == [True, False]


def test_agrees_with_statsmodels():
    p, low, high = ttost_paired(NEAR, np.zeros(60), -0.03, 0.05)
    got = stats.tost(NEAR, low=-0.03, high=0.05)
    assert (got.p, got.p_low, got.p_high) == pytest.approx((p, low[1], high[1]))


@pytest.mark.parametrize("interval", ["t", "bootstrap_t"])
@pytest.mark.parametrize("margin", [0.01, 0.02, 0.03, 0.04, 0.1])
def test_it_holds_exactly_where_the_interval_lies_inside(interval, margin):
    got = stats.tost(NEAR, low=-margin, high=margin, interval=interval, resamples=1999, seed=1)
    assert got.holds == (-margin < got.low and got.high < margin)


def test_noninferiority_is_the_upper_half():
    both, one = stats.tost(NEAR, low=-1.0, high=0.03), stats.noninferior(NEAR, margin=0.03)
    assert (one.p, one.p_low, one.high) == (both.p_high, 0.0, both.high)
    resampled = stats.noninferior(NEAR, margin=0.03, interval="bootstrap_t", seed=1)
    assert resampled.p == pytest.approx(one.p, abs=0.01)
    assert resampled.p_low == 0.0


def test_clusters_are_the_units():
    labels = np.repeat(np.arange(12), 5)
    got = stats.tost(NEAR, low=-0.1, high=0.1, clusters=labels)
    means = NEAR.reshape(12, 5).mean(1)
    assert (got.n, got.units) == (60, 12)
    assert got.p_low == pytest.approx(scipy_stats.ttest_1samp(means, -0.1, alternative="greater").pvalue)


def test_units_that_do_not_vary_show_nothing():
    got = stats.tost(np.zeros(60), low=-1.0, high=1.0)
    assert (got.p, got.holds, got.flags) == (1.0, False, ("ZERO_VARIANCE",))


@pytest.mark.parametrize("margin", [(1.0, -1.0), (0.0, 0.0), (-math.inf, math.inf), (math.nan, 1.0)])
def test_a_margin_that_is_none_is_refused(margin):
    with pytest.raises(Invalid, match="margin"):
        stats.tost(NEAR, low=margin[0], high=margin[1])


class TestPower:
    @pytest.mark.parametrize(
        ("n", "d", "sides", "power"), [(34, 0.5, 2, 0.8078), (27, 0.5, 1, 0.8118), (10, 1.0, 2, 0.8031)]
    )
    def test_published_power(self, n, d, sides, power):
        """G*Power 3.1, one-sample t-test."""
        assert stats.power_t(n, d, 1.0, sides=sides) == pytest.approx(power, abs=2e-3)

    def test_power_at_zero_is_the_level(self):
        assert stats.power_t(20, 0.0, 1.0) == pytest.approx(0.05)
        assert stats.power_t(20, 0.0, 1.0, sides=2) == pytest.approx(0.05)
        assert stats.power_t(2, 0.0, 1.0) == pytest.approx(0.05)
        with pytest.raises(Invalid, match="two units"):
            stats.power_t(1, 0.0, 1.0)

    def test_equivalence_power_is_that_of_simulated_studies(self):
        values = np.random.default_rng(0).normal(size=(4000, 25))
        held = np.mean([stats.tost(row, low=-0.6, high=0.6).holds for row in values])
        assert stats.power_equivalence(25, 1.0, low=-0.6, high=0.6) == pytest.approx(held, abs=0.02)

    def test_zero_outside_is_refused(self):
        with pytest.raises(Invalid, match="put 0 inside"):
            stats.power_equivalence(20, 1.0, low=0.1, high=0.2)
        with pytest.raises(Invalid, match="positive sd"):
            stats.power_t(20, 1.0, 0.0)


class TestAbsence:
    def test_needs_all_three(self):
        ask = {"low": -0.06, "high": 0.06, "positive_control": True}
        assert stats.absence(NEAR, **ask).holds
        assert stats.absence(NEAR, **ask).p == stats.tost(NEAR, low=-0.06, high=0.06).p
        for change, failed in [
            ({"positive_control": False}, ("positive_control",)),
            ({"sd": 0.5}, ("power",)),
            ({"low": -0.001, "high": 0.001, "sd": 0.001}, ("equivalence",)),
        ]:
            got = stats.absence(NEAR, **{**ask, **change})
            assert (got.failed, got.holds) == (failed, False)
            assert got.p == 1.0 or failed == ("equivalence",)

    def test_a_large_p_value_is_not_absence(self):
        noisy = np.random.default_rng(0).normal(0.0, 5.0, 20)
        assert scipy_stats.ttest_1samp(noisy, 0).pvalue > 0.05
        assert stats.absence(noisy, low=-0.5, high=0.5, positive_control=True).failed == ("equivalence", "power")

    def test_units_that_do_not_vary_are_not_absence(self):
        assert not stats.absence(np.zeros(60), low=-1.0, high=1.0, positive_control=True).holds


class TestWithinMargin:
    AXES = ("ar", "ar", "fr")
    OWN = tuple(np.random.default_rng(k).lognormal(0, 0.8, 25) / 10 - 0.14 + 0.01 * k for k in range(3))
    DRAWS = np.random.default_rng(9).lognormal(0, 0.4, (3, 12)) / 50

    def run(self, own=OWN, draws=DRAWS, **more):
        return stats.within_margin(own, draws, **{"margin": 0.06, "axes": self.AXES, "alpha": 1, "seed": 3} | more)

    @pytest.mark.parametrize("with_draws", [True, False])
    @pytest.mark.parametrize("move", [-0.05, 0.0, 0.05])
    def test_by_hand(self, with_draws, move):
        B, F, R = 499, 3, 12
        own, draws = [x + move for x in self.OWN], self.DRAWS
        got = self.run(own, draws if with_draws else None, resamples=B)

        def moments(table, *labels):
            source = resample.stream(3, "within margin", *labels)
            counts = resample.multinomial_counts(source, len(table), 0, B).astype(int)
            again = [np.repeat(table, c) for c in counts]
            n = len(table)
            return (np.array([x.mean() - table.mean() for x in again]), np.array([x.var(ddof=1) / n for x in again]))

        mean, se, df, t = [], [], [], []
        for f in range(F):
            shift, squared = moments(own[f], f"axis {self.AXES[f]}")
            variance, units = own[f].var(ddof=1) / 25, 25
            if with_draws:
                drawn, spread = moments(draws[f], "draws")
                shift, squared = shift - drawn, squared + spread
                variance, units = variance + draws[f].var(ddof=1) / R, min(25, R)
            mean.append(own[f].mean())
            se.append(math.sqrt(variance))
            df.append(units - 1)
            t.append(shift / np.sqrt(squared))
        t = np.stack(t, axis=1)
        for f in range(F):
            below, above = (0.06 - mean[f]) / se[f], (0.06 + mean[f]) / se[f]
            student = max(scipy_stats.t.sf(below, df[f]), scipy_stats.t.sf(above, df[f]))
            tails = (1 + (-t[:, f] >= below).sum()) / (B + 1), (1 + (t[:, f] >= above).sum()) / (B + 1)
            gaps = (0.06 - np.array(mean)) / se, (0.06 + np.array(mean)) / se
            maxt = max(stats.stepdown_maxt(gaps[0], -t)[f], stats.stepdown_maxt(gaps[1], t)[f])
            assert got[f] == pytest.approx(min(1, max(F * student, F * (1 + 30 / 25) * max(tails), maxt)))

    def test_families_whose_t_tests_fail_are_not_resampled(self):
        student = 3 * np.array([stats.tost(x, low=-0.06, high=0.06).p for x in self.OWN])
        assert student.max() < 1
        least = student.min()
        assert self.run(draws=None, alpha=least * (1 - 1e-9)) == pytest.approx(student)
        resampled = self.run(draws=None, alpha=least * (1 + 1e-9), resamples=99)
        assert (resampled >= 0.01).all()
        assert (resampled > student).any()

    def test_order_and_blocks_do_not_matter(self):
        expected = self.run()
        order = [2, 0, 1]
        got = self.run([self.OWN[k] for k in order], self.DRAWS[order], axes=[self.AXES[k] for k in order], block=7)
        assert got.tolist() == expected[order].tolist()

    def test_a_wider_margin_never_raises_p(self):
        margins = [self.run(margin=m)[0] for m in (0.005, 0.04, 0.06, 0.1, 0.2, 0.5)]
        assert margins == sorted(margins, reverse=True)
        assert margins[0] == 1.0
        assert margins[-1] < 0.05

    def test_a_family_with_a_heavy_tail_sets_the_bar_for_all(self):
        rng = np.random.default_rng(0)
        light, heavy = rng.normal(0, 0.3, 200), rng.lognormal(0, 1.5, 200) / 10
        more = {"margin": 0.05, "resamples": 1999}
        alone = self.run([light], None, axes=["light"], **more)[0]
        together = self.run([light, heavy], None, axes=["light", "heavy"], **more)[0]
        assert 0.005 < 2 * alone < together < 1

    def test_what_does_not_vary_lies_inside_nothing(self):
        assert self.run([np.zeros(25)] * 3, None).tolist() == [1, 1, 1]

    @pytest.mark.parametrize("bad", [1e308, float("inf"), float("nan")])
    def test_a_margin_beyond_measure_is_refused(self, bad):
        with pytest.raises(Invalid, match="margin: holds a"):
            self.run(self.OWN, None, margin=bad)

    def test_families_of_an_axis_have_its_units(self):
        with pytest.raises(Invalid, match="axis ar"):
            self.run([self.OWN[0], self.OWN[1][:20], self.OWN[2]], None)
