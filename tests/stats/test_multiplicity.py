from __future__ import annotations

from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.stats.multitest import multipletests

from prereg_moe import stats
from prereg_moe.errors import Invalid
from prereg_moe.stats import resample

STATSMODELS = {
    "bonferroni": "bonferroni",
    "holm": "holm",
    "hochberg": "simes-hochberg",
    "hommel": "hommel",
    "bh": "fdr_bh",
    "by": "fdr_by",
}
probabilities = st.lists(st.floats(0, 1), min_size=1, max_size=12)


@pytest.mark.parametrize("method", STATSMODELS)
@given(p=probabilities)
def test_adjusters_equal_statsmodels(method, p):
    with patch("gc.collect"):  # statsmodels collects the garbage of the whole process at every call
        theirs = multipletests(p, method=STATSMODELS[method])[1]
    assert stats.adjust(p, method) == pytest.approx(theirs, abs=1e-12)


@pytest.mark.parametrize("method", STATSMODELS)
@given(p=probabilities, data=st.data())
def test_adjusted_p_follow_their_hypotheses(method, p, data):
    order = data.draw(st.permutations(range(len(p))))
    shuffled = stats.adjust([p[i] for i in order], method)
    assert shuffled == pytest.approx(stats.adjust(p, method)[list(order)], abs=1e-12)
    assert (shuffled <= 1).all()
    assert (shuffled >= np.array(p)[list(order)] - 1e-12).all()


@pytest.mark.parametrize(
    ("method", "key"),
    [(m, m) for m in ("bonferroni", "holm", "hochberg", "hommel")] + [("bh", "BH"), ("by", "BY")],
)
def test_six_p_values_as_in_r(reference, method, key):
    cases = reference["p_adjust"]
    assert stats.adjust(cases["p6"], method) == pytest.approx(cases[key], abs=5e-7)


@pytest.mark.parametrize(("method", "key"), [("holm", "holm15"), ("hommel", "hommel15"), ("bh", "BH15")])
def test_fifteen_p_values_of_benjamini_and_hochberg(reference, method, key):
    cases = reference["p_adjust"]
    assert stats.adjust(cases["p15"], method) == pytest.approx(cases[key], abs=6e-5 if method == "hommel" else 5e-9)


@pytest.mark.parametrize("p", [[], [0.5, 1.1], [-0.1], [float("nan")], [[0.1]]])
def test_what_is_not_a_p_value_is_refused(p):
    with pytest.raises(Invalid):
        stats.adjust(p, "holm")


def test_an_unknown_method_is_refused_with_the_known_ones():
    with pytest.raises(Invalid, match="bonferroni, holm"):
        stats.adjust([0.1], "holm-sidak")


def test_fixed_sequence_stops_at_the_first_failure():
    assert stats.fixed_sequence([0.01, 0.2, 0.001]).tolist() == [0.01, 0.2, 0.2]


class TestPartialConjunction:
    @given(probabilities)
    def test_all_of_k_is_the_largest_p_and_one_of_k_is_bonferroni(self, p):
        assert stats.partial_conjunction(p) == max(p)
        assert stats.partial_conjunction(p, 1) == pytest.approx(min(1, len(p) * min(p)))

    def test_formula(self):
        assert stats.partial_conjunction([0.2, 0.01, 0.03, 0.02], 3) == pytest.approx(2 * 0.03)

    @pytest.mark.parametrize("u", [0, 4, -1])
    def test_u_outside_is_refused(self, u):
        with pytest.raises(Invalid, match=r"use 1\.\.3"):
            stats.partial_conjunction([0.1, 0.2, 0.3], u)

    def test_level_holds_when_one_too_few_is_false(self):
        p = np.random.default_rng(0).random((20000, 3))
        p[:, 0] = 0  # one hypothesis is false beyond doubt; u = 2 is a true null
        rejected = np.mean([stats.partial_conjunction(row, 2) <= 0.05 for row in p])
        assert 0.035 < rejected <= 0.053


class TestStepdownMaxT:
    @pytest.mark.parametrize("side", ["upper", "abs"])
    def test_paired_enumeration_as_in_multtest(self, reference, side):
        case = reference["westfall_young_exact"]
        values = np.array(case["paired_D"])
        flips = resample.sign_table(6)
        sums = resample.exact_sum((values[None] * flips[:, None]).reshape(-1, 6).T).reshape(64, 4)
        n, squares = 6, resample.exact_sum((values**2).T)
        t = sums / n / np.sqrt((squares - sums**2 / n) / (n - 1) / n)
        assert t[0] == pytest.approx(case["t"], abs=1e-9)
        t = np.abs(t) if side == "abs" else t
        assert stats.stepdown_maxt(t[0], t[1:], tolerance=1e-9) == pytest.approx(case[f"{side}_maxT"], abs=1e-10)
        raw = [float(stats.stepdown_maxt(t[0, [j]], t[1:, [j]], tolerance=1e-9)[0]) for j in range(4)]
        assert raw == pytest.approx(case[f"{side}_raw"], abs=1e-10)

    def test_min_p_is_max_t_of_minus_p(self, reference):
        case = reference["westfall_young_minp_bootstrap_example"]
        adjusted = stats.stepdown_maxt(-np.array(case["p"]), -np.array(case["p_bt_rows"]).T)
        assert adjusted == pytest.approx(case["adj_with_plus1"], abs=1e-9)

    def test_equicorrelated_normals_as_in_mvtnorm(self, reference):
        rng = np.random.default_rng(0)
        null = np.sqrt(0.5) * (rng.standard_normal((400_000, 1)) + rng.standard_normal((400_000, 3)))
        assert stats.stepdown_maxt([2.5, 2, 1], null) == pytest.approx(reference["mvt_maxz"]["stepdown"], abs=2e-3)

    def test_the_observed_one_is_counted(self):
        assert stats.stepdown_maxt([9.0], np.zeros((19, 1))).tolist() == [0.05]

    def test_a_tie_counts_against(self):
        assert stats.stepdown_maxt([1.0], [[1.0], [0.0], [0.0]]).tolist() == [0.5]

    def test_infinities_are_ordered(self):
        p = stats.stepdown_maxt([np.inf, -np.inf], [[1.0, 2.0], [np.inf, 0.0], [0.0, -np.inf]])
        assert p.tolist() == [0.5, 1.0]

    @given(st.integers(0, 2**32), st.integers(1, 6), st.integers(1, 30))
    def test_laws(self, seed, m, B):
        rng = np.random.default_rng(seed)
        t, null = rng.integers(-3, 4, m) / 2, rng.integers(-3, 4, (B, m)) / 2
        p = stats.stepdown_maxt(t, null)
        order = rng.permutation(m)
        assert (stats.stepdown_maxt(t[order], null[:, order]) == p[order]).all()
        assert (stats.stepdown_maxt(t, null[rng.permutation(B)], block=3) == p).all()
        marginal = (1 + (null >= t).sum(0)) / (1 + B)
        single = (1 + (null.max(1)[:, None] >= t).sum(0)) / (1 + B)
        assert (p >= marginal).all()
        assert (p <= single).all()

    @pytest.mark.parametrize(
        ("t", "null"),
        [([1.0], np.zeros((0, 1))), ([], np.zeros((3, 0))), ([1.0], [[1.0, 2.0]]), ([[1.0]], [[1.0]])],
    )
    def test_shapes_that_do_not_fit_are_refused(self, t, null):
        with pytest.raises(Invalid, match="shape"):
            stats.stepdown_maxt(t, null)

    def test_nan_is_refused(self):
        with pytest.raises(Invalid, match="NaN"):
            stats.stepdown_maxt([1.0], [[float("nan")]])
