from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats as scipy_stats
from statsmodels.stats.proportion import proportion_confint

from prereg_moe import stats
from prereg_moe.errors import Invalid


class TestStandardisedMean:
    def test_sleep_data_as_in_r(self, reference):
        case = reference["tost_sleep"]
        d, g = stats.cohen_dz(case["d"]), stats.hedges_gz(case["d"])
        assert d.estimate == pytest.approx(case["dz"], abs=1e-9)
        assert (d.low, d.high) == pytest.approx(case["dz_ci_nct"], abs=1e-8)
        assert g.estimate / d.estimate == pytest.approx(case["hedges_exactJ"], abs=1e-9)
        assert d.p == pytest.approx(case["p_two"], rel=1e-5)

    def test_ddof_is_part_of_the_name_and_changes_the_number(self):
        values = [0.1, 0.5, 0.2, 0.9]
        one, zero = stats.cohen_dz(values), stats.cohen_dz(values, ddof=0)
        assert zero.estimate == pytest.approx(np.mean(values) / np.std(values))
        assert one.estimate == pytest.approx(np.mean(values) / np.std(values, ddof=1))
        assert (zero.low, zero.high) == pytest.approx((math.sqrt(4 / 3) * one.low, math.sqrt(4 / 3) * one.high))
        assert (one.method, zero.method) == ("d_z[ddof=1]", "d_z[ddof=0]")
        assert one.resamples == zero.resamples == 0

    def test_interval_ends_put_the_observed_t_at_their_quantiles(self):
        values = np.random.default_rng(0).normal(0.4, 1, 35)
        d = stats.cohen_dz(values, level=0.9)
        t = scipy_stats.ttest_1samp(values, 0).statistic
        assert scipy_stats.nct.sf(t, 34, d.low * math.sqrt(35)) == pytest.approx(0.05, abs=1e-7)
        assert scipy_stats.nct.cdf(t, 34, d.high * math.sqrt(35)) == pytest.approx(0.05, abs=1e-7)

    def test_sign_law(self):
        values = np.random.default_rng(0).normal(0.4, 1, 35)
        a, b = stats.cohen_dz(values), stats.cohen_dz(-values)
        assert (b.low, b.high) == pytest.approx((-a.high, -a.low), rel=1e-6)

    def test_values_that_do_not_vary_have_no_effect_size(self):
        got = stats.hedges_gz([0.1, 0.1, 0.1])
        assert (got.p, got.low, got.high) == (1.0, -math.inf, math.inf)
        assert got.flags == ("FEW_UNITS", "ZERO_VARIANCE")


class TestCrossed:
    def test_by_hand(self):
        values = np.random.default_rng(0).normal(size=(12, 30))
        got = stats.crossed_mean(values)
        se = math.sqrt(values.mean(1).var(ddof=1) / 12 + values.mean(0).var(ddof=1) / 30)
        assert (got.estimate, got.se) == pytest.approx((values.mean(), se))
        assert (got.low, got.high) == pytest.approx(scipy_stats.t.interval(0.95, 11, values.mean(), se))
        assert stats.crossed_mean(values.T).se == pytest.approx(se)
        assert got.p == pytest.approx(2 * scipy_stats.t.sf(abs(values.mean()) / se, 11))
        constant = stats.crossed_mean(np.ones((12, 30)))
        assert (constant.p, constant.low, constant.high) == (1.0, -math.inf, math.inf)
        assert (got.flags, constant.flags) == (("FEW_UNITS",), ("FEW_UNITS", "ZERO_VARIANCE"))

    def test_it_covers_where_items_alone_do_not(self):
        rng = np.random.default_rng(0)
        crossed = items = 0
        for _ in range(400):
            values = rng.normal(size=(20, 1)) + rng.normal(size=(1, 40)) + rng.normal(size=(20, 40))
            got = stats.crossed_mean(values)
            alone = stats.bootstrap(values.mean(0), interval="hall_t", seed=1)
            crossed += got.low <= 0 <= got.high
            items += alone.low <= 0 <= alone.high
        assert crossed / 400 > 0.92
        assert items / 400 < 0.85

    def test_one_draw_is_refused(self):
        with pytest.raises(Invalid, match="at least 2 rows"):
            stats.crossed_mean([[1.0, 2.0]])


class TestClusteredMean:
    def test_as_in_sandwich(self, reference):
        case = reference["clustered_se"]
        for correction, key in (("CR0", "CR0"), ("CR1", "CR1_G/(G-1)")):
            got = stats.clustered_mean(case["y"], case["g"], correction=correction)
            assert got.se == pytest.approx(case[key], abs=1e-10)
            assert got.estimate == pytest.approx(case["mean"], abs=1e-10)
        alone = stats.clustered_mean(case["y"], range(13), correction="CR0")
        assert alone.se == pytest.approx(case["HC0"], abs=1e-9)

    def test_by_hand(self):
        """Clusters of deviations +1 +1, -1 -1, +1 -1 from the mean: sums 2, -2, 0."""
        got = stats.clustered_mean([4.0, 4.0, 2.0, 2.0, 4.0, 2.0], ["a", "a", "b", "b", "c", "c"])
        assert got.se == pytest.approx(math.sqrt(3 / 2 * 8) / 6)
        alone = stats.clustered_mean([4.0, 4.0, 2.0, 2.0, 4.0, 2.0], range(6), correction="CR0")
        assert alone.se == pytest.approx(math.sqrt(6) / 6)
        assert (got.units, alone.units) == (3, 6)
        assert got.p == pytest.approx(2 * scipy_stats.t.sf(3 / got.se, 2))

    def test_bad_clusters_are_refused(self):
        for labels in ([1, 1, 1], [1, 2]):
            with pytest.raises(Invalid, match="at least two clusters"):
                stats.clustered_mean([1.0, 2.0, 3.0], labels)


class TestFieller:
    def test_reference(self, reference):
        case = reference["fieller"]
        got = stats.fieller(case["a"], case["se_a"], case["b"], case["se_b"])
        assert got == pytest.approx(case["ci"], abs=1e-8)

    @pytest.mark.parametrize("a", [0.30, 0.35, 0.40])
    def test_duality_with_the_contrast(self, a):
        z = scipy_stats.norm.ppf(0.95)
        upper = stats.fieller(a, 0.03, 1.29, 0.033, level=0.9)[1]
        contrast = 1.29 - 3 * a - z * math.hypot(0.033, 3 * 0.03)
        assert (upper <= 1 / 3) == (contrast >= 0)

    def test_a_denominator_that_can_be_zero_has_no_interval(self):
        assert stats.fieller(1.0, 0.1, 0.1, 0.1) == (-math.inf, math.inf)
        with pytest.raises(Invalid):
            stats.fieller(1.0, -0.1, 0.1, 0.1)
        with pytest.raises(Invalid, match="numerator: holds a magnitude"):
            stats.fieller(1e308, 0.1, 0.1, 0.01)


class TestEventRate:
    @pytest.mark.parametrize(("k", "n"), [(0, 10), (1, 10), (5, 10), (10, 10), (3, 500)])
    def test_agrees_with_statsmodels(self, k, n):
        got = stats.event_rate(k, n, sides="two")
        assert (got.low, got.high) == pytest.approx(proportion_confint(k, n, method="beta"), abs=1e-12)

    def test_zero_events_are_bounded_in_closed_form(self):
        got = stats.event_rate(0, 59)
        assert got.high == pytest.approx(1 - 0.05 ** (1 / 59))
        assert (got.p, got.flags) == (None, ("ZERO_EVENTS",))
        assert stats.event_rate(3, 10, sides="lower").high == 1.0

    @pytest.mark.parametrize(("k", "n"), [(-1, 3), (4, 3), (0, 0)])
    def test_impossible_counts_are_refused(self, k, n):
        with pytest.raises(Invalid, match="events"):
            stats.event_rate(k, n)
