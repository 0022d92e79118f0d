from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as scipy_stats
from statsmodels.stats.contingency_tables import mcnemar as theirs
from threadpoolctl import threadpool_limits

from prereg_moe import stats
from prereg_moe.errors import Invalid


class TestMcNemar:
    def test_agresti(self, reference):
        case = reference["mcnemar"]
        got = stats.mcnemar(case["table"])
        assert got.p == pytest.approx(case["p_exact"], rel=1e-6)
        assert got.estimate == pytest.approx(case["diff"])
        assert (got.low, got.high) == pytest.approx(case["bonett_price95"], abs=1e-9)
        assert stats.mcnemar(case["table"], exact=False).p == pytest.approx(case["p_chi2_cc"], rel=1e-6)

    @given(st.lists(st.integers(0, 40), min_size=4, max_size=4).filter(any))
    def test_agrees_with_statsmodels(self, counts):
        table = np.array(counts).reshape(2, 2)
        got = stats.mcnemar(table)
        assert got.p == pytest.approx(theirs(table, exact=True).pvalue, abs=1e-10)
        if counts[1] + counts[2]:
            chi2 = theirs(table, exact=False).pvalue
            assert stats.mcnemar(table, exact=False).p == pytest.approx(chi2, abs=1e-9) or counts[1] == counts[2]

    def test_outcomes_by_item(self):
        first, second = [1, 1, 0, 0, 0, 1], [1, 0, 1, 1, 1, 1]
        got = stats.mcnemar(first, second)
        assert got == stats.mcnemar([[2, 1], [3, 0]])
        assert got.estimate == pytest.approx(2 / 6)

    def test_the_interval_by_its_formula(self):
        """Bonett & Price 2012: 9 of 10 pairs gained, so the paired variance is much smaller than the unpaired."""
        got = stats.mcnemar([[0, 0], [9, 1]])
        gained, lost = 10 / 12, 1 / 12
        se = math.sqrt((gained + lost - (gained - lost) ** 2) / 12)
        assert got.se == pytest.approx(se)
        assert (got.low, got.high) == pytest.approx((0.75 - 1.959963985 * se, 0.75 + 1.959963985 * se))

    def test_sides(self):
        table = [[10, 2], [9, 10]]
        up, down = (stats.mcnemar(table, sides=s) for s in ("lower", "upper"))
        assert up.p == pytest.approx(scipy_stats.binom.sf(8, 11, 0.5))
        assert down.p == pytest.approx(scipy_stats.binom.cdf(9, 11, 0.5))
        two = stats.mcnemar(table, level=0.9)
        assert (stats.mcnemar(table, sides="lower").low, down.high) == pytest.approx((two.low, two.high))

    def test_no_discordant_pair(self):
        got = stats.mcnemar([[30, 0], [0, 10]])
        assert (got.p, got.estimate, got.flags) == (1.0, 0.0, ("NO_DISCORDANT",))
        assert got.low < 0 < got.high

    @pytest.mark.parametrize(
        "arguments",
        [
            ([[0, 0], [0, 0]],),
            ([[1, -1], [0, 0]],),
            ([[1.5, 1], [0, 0]],),
            ([0, 1, 2], [0, 1, 1]),
            ([0, 1], [0, 1, 1]),
            ([0.5], [1]),
        ],
    )
    def test_bad_input_is_refused(self, arguments):
        with pytest.raises(Invalid):
            stats.mcnemar(*arguments)

    def test_one_sided_chi2_is_refused(self):
        with pytest.raises(Invalid, match="exact"):
            stats.mcnemar([[1, 2], [3, 4]], exact=False, sides="lower")


class TestSignFlip:
    @pytest.mark.parametrize(("sides", "key"), [("lower", "upper"), ("two", "abs")])
    def test_every_arrangement_as_in_multtest(self, reference, sides, key):
        case = reference["westfall_young_exact"]
        got = stats.sign_flip(np.array(case["paired_D"]).T, sides=sides)
        assert got.statistic == pytest.approx(case["t"], abs=1e-9)
        assert got.p == pytest.approx(case[f"{key}_raw"], abs=1e-10)
        assert got.p_maxt == pytest.approx(case[f"{key}_maxT"], abs=1e-10)
        assert got.resamples == 63

    def test_two_units_are_enough_and_one_is_not(self):
        assert stats.sign_flip([1.0, 2.0], sides="lower").p.tolist() == [0.25]
        with pytest.raises(Invalid, match="at least 2"):
            stats.sign_flip([1.0])

    def test_agrees_with_scipy(self):
        values = np.random.default_rng(0).normal(0.3, 1, 40)
        theirs = scipy_stats.permutation_test(
            (values,),
            np.mean,
            permutation_type="samples",
            n_resamples=9999,
            alternative="greater",
            rng=np.random.default_rng(0),
        )
        assert stats.sign_flip(values, sides="lower").p[0] == pytest.approx(theirs.pvalue, abs=0.01)

    def test_sides_mirror(self):
        values = np.random.default_rng(0).normal(0.1, 1, (9, 3))
        a, b = stats.sign_flip(values, sides="lower"), stats.sign_flip(-values, sides="upper")
        assert (a.p == b.p).all()
        assert (a.p_maxt == b.p_maxt).all()

    def test_clusters_flip_whole(self):
        values = np.repeat(np.random.default_rng(0).normal(0.4, 1, 10), 6)
        got = stats.sign_flip(values, clusters=np.repeat(np.arange(10), 6))
        assert (got.n, got.units, got.resamples) == (60, 10, 1023)
        assert got.p[0] > stats.sign_flip(values).p[0]

    def test_bytes_do_not_depend_on_blocks_or_threads(self):
        values = np.random.default_rng(0).lognormal(size=(50, 4)) - 1
        got = set()
        for threads in (1, 2):
            with threadpool_limits(threads):
                for block in (1, 37, 512, 2000):
                    got.add(stats.sign_flip(values, resamples=1000, seed=3, block=block).p_maxt.tobytes())
        assert len(got) == 1

    def test_level_holds(self):
        values = np.random.default_rng(1).laplace(size=(11, 3000))
        assert (stats.sign_flip(values, resamples=2047).p <= 0.05).mean() == pytest.approx(0.05, abs=0.012)

    def test_zeros_show_nothing(self):
        got = stats.sign_flip(np.zeros((40, 2)), resamples=99)
        assert got.p.tolist() == [1.0, 1.0]
        assert got.flags == ("ZERO_VARIANCE",)

    def test_a_constant_that_is_not_zero_is_as_rare_as_its_sign(self):
        assert stats.sign_flip([0.1] * 6, sides="lower").p.tolist() == [1 / 64]


class TestPermuteGroups:
    def test_every_arrangement_as_in_multtest(self, reference):
        case = reference["westfall_young_exact"]
        got = stats.permute_groups(np.array(case["two_sample_Y"]).T, [0] * 4 + [1] * 4)
        assert got.p == pytest.approx(case["two_sample_abs_raw"], abs=1e-9)
        assert got.p_maxt == pytest.approx(case["two_sample_abs_maxT"], abs=1e-9)
        assert got.resamples == 69

    def test_as_many_arrangements_as_asked_for_are_enumerated(self):
        values, groups = np.random.default_rng(0).normal(size=8), [0] * 4 + [1] * 4
        all_, some = (stats.permute_groups(values, groups, resamples=resamples) for resamples in (69, 68))
        assert ("all" in all_.method, all_.resamples) == (True, 69)
        assert ("random" in some.method, some.resamples) == (True, 68)

    def test_statistic_is_welch(self):
        rng = np.random.default_rng(0)
        x, y = rng.normal(1, 1, 20), rng.normal(0, 3, 35)
        got = stats.permute_groups(np.concatenate([x, y]), ["a"] * 20 + ["b"] * 35, resamples=99)
        assert got.statistic[0] == pytest.approx(scipy_stats.ttest_ind(x, y, equal_var=False).statistic)
        assert got.estimate[0] == pytest.approx(x.mean() - y.mean())

    def test_strata_confine_the_permutation(self):
        """A difference that is only one between strata is no difference within them."""
        strata = np.repeat([0, 1], 20)
        groups = np.array(([0] * 16 + [1] * 4) + ([0] * 4 + [1] * 16))
        values = 5.0 * strata + np.random.default_rng(0).normal(size=40)
        assert stats.permute_groups(values, groups, resamples=999).p[0] < 0.01
        assert stats.permute_groups(values, groups, strata=strata, resamples=999).p[0] > 0.05

    @pytest.mark.parametrize("groups", [[0, 0, 0, 0], [0, 1, 2, 0], [0, 1, 1, 1], [0, 1]])
    def test_bad_groups_are_refused(self, groups):
        with pytest.raises(Invalid, match="two groups"):
            stats.permute_groups([1.0, 2.0, 3.0, 4.0], groups)
