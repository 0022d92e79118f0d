from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from prereg_moe import stats
from prereg_moe.errors import Invalid
from prereg_moe.stats import association


def test_hollander_and_wolfe_as_in_r(reference):
    case = reference["spearman"]
    got = stats.spearman(case["x"], case["y"])
    assert got.estimate == pytest.approx(case["rho"])
    assert got.p == pytest.approx(case["p_exact"], abs=5e-9)
    assert got.resamples == 362879


@given(st.lists(st.integers(0, 6), min_size=10, max_size=20), st.integers(0, 2**31))
def test_rho_agrees_with_scipy_ties_included(x, seed):
    y = np.random.default_rng(seed).integers(0, 9, len(x))
    got = association.centred_ranks(np.array(x, dtype=float))
    assert (got / 2 + (len(x) + 1) / 2).tolist() == scipy_stats.rankdata(x).tolist()
    if len(set(x)) > 1 and len(set(y.tolist())) > 1:
        rho = stats.spearman(x, y, resamples=9).estimate
        assert rho == pytest.approx(scipy_stats.spearmanr(x, y).statistic, abs=1e-12)


def test_permutation_p_agrees_with_the_t_approximation():
    rng = np.random.default_rng(0)
    x = rng.normal(size=80)
    y = 0.25 * x + rng.normal(size=80)
    got = stats.spearman(x, y, seed=1)
    assert got.resamples == 9999
    assert got.p == pytest.approx(scipy_stats.spearmanr(x, y).pvalue, abs=0.01)
    one = stats.spearman(x, y, seed=1, sides="lower")
    assert one.p == pytest.approx(got.p / 2, abs=0.01)
    assert stats.spearman(x, -y, seed=1, sides="upper").p == pytest.approx(one.p, abs=0.01)


def test_interval_is_that_of_resampled_and_reranked_pairs():
    rng = np.random.default_rng(0)
    x = rng.normal(size=60)
    y = 0.8 * x + rng.normal(size=60)
    theirs = scipy_stats.bootstrap(
        (x, y),
        lambda a, b: scipy_stats.spearmanr(a, b).statistic,
        paired=True,
        vectorized=False,
        n_resamples=2999,
        rng=rng,
    ).confidence_interval
    got = stats.spearman(x, y, resamples=99)
    assert (got.low, got.high) == pytest.approx((theirs.low, theirs.high), abs=0.04)
    counts = np.array([[3, 0, 1, 2], [1, 1, 1, 1]], dtype=float)
    values = np.array([[1.0, 2.0], [2.0, 1.0], [2.0, 4.0], [0.5, 4.0]])
    expected = [scipy_stats.spearmanr(np.repeat(values, c.astype(int), axis=0)).statistic for c in counts]
    assert association._weighted_spearman(values, counts) == pytest.approx(expected)


def test_a_difference_between_layers_is_no_association_within_them():
    rng = np.random.default_rng(0)
    layer = np.repeat(np.arange(6), 8)
    x, y = 10.0 * layer + rng.normal(size=48), 10.0 * layer + rng.normal(size=48)
    assert stats.spearman(x, y, resamples=999).estimate > 0.9
    within = stats.spearman(x, y, blocks=layer, resamples=999)
    assert within.p > 0.05
    assert abs(within.estimate) < 0.35
    assert within.low < 0 < within.high
    assert within.units == 6


def test_an_association_within_layers_is_found_through_differences_between_them():
    rng = np.random.default_rng(0)
    layer = np.repeat(np.arange(6), 12)
    x = rng.normal(size=72)
    y = x + 0.5 * rng.normal(size=72) - 30.0 * layer
    got = stats.spearman(x, y, blocks=layer, resamples=999)
    assert got.p == 0.001
    assert got.low > 0.5
    relabelled = stats.spearman(x, y, blocks=[f"layer {9 - b}" for b in layer], resamples=999)
    assert relabelled.estimate == pytest.approx(got.estimate)


def test_permutations_stay_within_their_blocks():
    """Three pairs in perfect order: one arrangement in 2³, not one in 6! / (3!·3!)."""
    got = stats.spearman([1, 2, 1, 2, 1, 2], [1, 2, 1, 2, 1, 2], blocks=[0, 0, 1, 1, 2, 2], sides="lower", seed=1)
    assert got.p == pytest.approx(1 / 8, abs=0.01)


def test_max_t_over_statistics():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(5, 40))
    y = 1.5 * x[2] + rng.normal(size=40)
    got = stats.spearman_many(x, y, resamples=999)
    assert [one.p_maxt >= one.p for one in got] == [True] * 5
    assert got[2].p_maxt < 0.01
    assert got[2].estimate == stats.spearman(x[2], y, resamples=9).estimate
    noise = [one.p_maxt for i, one in enumerate(got) if i != 2]
    assert min(noise) > 0.05


def test_level_holds_within_blocks():
    rng = np.random.default_rng(3)
    block = np.repeat([0, 1, 2], 5)
    p = [
        stats.spearman(rng.normal(size=15) + block, rng.normal(size=15) + block, blocks=block, resamples=199, seed=i).p
        for i in range(150)
    ]
    assert np.mean(np.array(p) <= 0.1) == pytest.approx(0.1, abs=0.06)


def test_what_does_not_vary_is_not_associated():
    got = stats.spearman(np.ones(20), np.arange(20.0), resamples=99)
    assert (got.estimate, got.p, got.p_maxt) == (0.0, 1.0, 1.0)
    assert "ZERO_VARIANCE" in got.flags


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1.0, 2.0], [1.0, 2.0]), "at least 3"),
        (([1.0, 2.0, 3.0], [1.0, 2.0, 3.0, 4.0]), "pair them"),
        (([1.0, 2.0, np.nan], [1.0, 2.0, 3.0]), "NaN"),
    ],
)
def test_bad_input_is_refused(arguments, message):
    with pytest.raises(Invalid, match=message):
        stats.spearman(*arguments)


def test_one_block_is_refused():
    with pytest.raises(Invalid, match="all the same"):
        stats.spearman(np.arange(5.0), np.arange(5.0), blocks=[1] * 5)


class TestConcordance:
    def test_w_by_the_textbook(self):
        """Friedman's χ² is K(m-1)W."""
        data = np.random.default_rng(0).normal(size=(4, 7)) + np.arange(7) * 0.4
        got = stats.concordance(data)
        chi2, p = scipy_stats.friedmanchisquare(*data.T)
        assert got.estimate == pytest.approx(chi2 / (4 * 6))
        assert got.p == pytest.approx(p, abs=0.03)
        rho = [scipy_stats.spearmanr(data[i], data[j]).statistic for i in range(4) for j in range(i)]
        assert got.mean_spearman == pytest.approx(np.mean(rho))

    def test_ties_count_against(self):
        """Of the six orders of three effects one concurs with another."""
        assert stats.concordance([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]]).p == pytest.approx(1 / 6, abs=0.015)

    def test_signs(self):
        assert stats.concordance([[1.0, -1.0, 2.0, 0.0], [2.0, -3.0, -1.0, 0.0]]).sign_agreement == 0.5

    def test_random_orders_do_not_concur(self):
        p = [stats.concordance(np.random.default_rng(i).normal(size=(3, 6)), resamples=199).p for i in range(200)]
        assert np.mean(np.array(p) <= 0.1) == pytest.approx(0.1, abs=0.06)

    def test_a_replication_without_order(self):
        got = stats.concordance([[1.0, 1.0, 1.0], [1.0, 2.0, 3.0]])
        assert (got.p, got.flags) == (1.0, ("ZERO_VARIANCE",))

    def test_one_replication_is_refused(self):
        with pytest.raises(Invalid, match="at least 2 rows"):
            stats.concordance([[1.0, 2.0, 3.0]])
