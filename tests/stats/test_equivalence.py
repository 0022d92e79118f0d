from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats as scipy_stats
from statsmodels.stats.weightstats import ttost_paired

from prereg_moe import stats
from prereg_moe.errors import Invalid

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
