from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prereg_moe import stats
from prereg_moe.errors import Invalid

YES, NO, REFUTED = "CONFIRMED", "INCONCLUSIVE", "REFUTED"


def grid(outcomes):
    """Measure × rule, the registered one first."""
    names = [("a", "default"), ("a", "ci"), ("b", "default"), ("b", "ci")]
    return [
        stats.Specification((("measure", m), ("rule", r)), o, e) for (m, r), (e, o) in zip(names, outcomes, strict=True)
    ]


class TestSpecificationCurve:
    def test_what_it_counts(self):
        got = stats.specification_curve(grid([(0.4, YES), (0.1, NO), (0.3, YES), (0.2, None)]))
        assert (got.specifications, got.share, got.comparable) == (4, 0.5, 4)
        assert got.outcomes == ((YES, 2), (NO, 1), (None, 1))
        assert (got.low, got.median, got.high) == pytest.approx((0.1, 0.25, 0.4))
        assert got.order == (1, 3, 2, 0)
        assert (got.flips, got.distance) == ((("rule", "ci", NO),), 1)
        assert got.fragility == (
            "CONFIRMED in 2 of 4 specifications; one change alters the registered CONFIRMED: rule=ci (INCONCLUSIVE)"
        )

    def test_estimates_in_another_unit_are_left_out_of_the_curve(self):
        got = stats.specification_curve(grid([(0.4, YES), (0.1, NO), (None, YES), (None, NO)]))
        assert (got.comparable, got.low, got.median, got.high) == (2, 0.1, 0.25, 0.4)
        assert got.order == (1, 0)
        nothing = stats.specification_curve(grid([(None, YES)] * 4))
        assert (nothing.median, nothing.low, nothing.high, nothing.order) == (None, None, None, ())

    def test_a_refutation_is_another_outcome_than_no_decision(self):
        got = stats.specification_curve(grid([(0.4, NO), (0.1, REFUTED), (0.3, NO), (0.2, NO)]))
        assert got.flips == (("rule", "ci", REFUTED),)
        assert got.share == 0

    def test_two_changes_together(self):
        got = stats.specification_curve(grid([(0.4, YES), (0.3, YES), (0.3, YES), (0.0, NO)]))
        assert (got.flips, got.distance) == ((), 2)
        assert got.fragility.endswith("no single change alters the registered CONFIRMED, 2 together do")

    def test_nothing_alters_it(self):
        got = stats.specification_curve(grid([(0.4, NO)] * 4))
        assert (got.distance, got.share) == (None, 0.0)
        assert got.fragility == "CONFIRMED in 0 of 4 specifications; none alters the registered INCONCLUSIVE"

    def test_mappings_are_specifications(self):
        given = [{"choices": {"rule": r}, "estimate": 1, "outcome": YES if r == "x" else NO} for r in "xy"]
        assert stats.specification_curve(given, registered=1).flips == (("rule", "x", YES),)

    @given(st.permutations(range(4)))
    def test_the_order_of_the_grid_changes_nothing(self, order):
        given = grid([(0.4, YES), (0.1, NO), (0.3, REFUTED), (0.2, NO)])
        one = stats.specification_curve(given)
        other = stats.specification_curve([given[i] for i in order], registered=order.index(0))
        for name in ("outcomes", "share", "median", "low", "high", "flips", "distance", "fragility"):
            assert getattr(one, name) == getattr(other, name)

    @pytest.mark.parametrize(
        ("given", "more", "message"),
        [
            ([], {}, "registered"),
            (grid([(0.4, YES)] * 4), {"registered": 4}, "registered"),
            (grid([(0.4, YES)] * 4) * 2, {}, "hold one twice"),
            (grid([(float("nan"), YES)] * 4), {}, "NaN"),
            ([{"estimate": 1.0}], {}, "not a specification"),
            (
                [stats.Specification((("a", "1"),), YES, 1.0), stats.Specification((("b", "1"),), YES, 1.0)],
                {},
                "dimensions",
            ),
        ],
    )
    def test_bad_grids_are_refused(self, given, more, message):
        with pytest.raises(Invalid, match=message):
            stats.specification_curve(given, **more)


class TestJointNull:
    def test_one_analysis_is_the_randomisation_test(self):
        draws = np.array([[0.1], [0.5], [0.2], [0.9], [0.3]])
        assert stats.joint_null([0.5], draws).p == 3 / 6  # itself, the tie and the larger one

    def test_units_do_not_matter(self):
        rng = np.random.default_rng(1)
        effect, draws, scale = rng.normal(size=3), rng.normal(size=(19, 3)), np.array([1e-3, 1.0, 1e3])
        one, other = stats.joint_null(effect, draws), stats.joint_null(effect * scale, draws * scale)
        assert one.p == other.p
        assert one.statistic == pytest.approx(other.statistic)

    def test_p_is_uniform_under_exchangeability(self):
        """Each of the 20 rows is the family once: over all choices every rank comes up exactly once."""
        table = np.random.default_rng(2).normal(size=(20, 4)) + np.random.default_rng(3).normal(size=(20, 1))
        p = sorted(stats.joint_null(table[i], np.delete(table, i, axis=0)).p for i in range(20))
        assert p == pytest.approx([(k + 1) / 20 for k in range(20)])

    def test_draws_that_do_not_vary(self):
        assert stats.joint_null([1.0, 1.0], np.zeros((19, 2))).p == 0.05
        assert stats.joint_null([0.0, 0.0], np.zeros((19, 2))).p == 1.0
        assert stats.joint_null([1.0, -1.0], np.zeros((19, 2))).p == 1.0

    def test_an_effect_in_half_of_the_analyses_is_not_the_median_s(self):
        draws = np.random.default_rng(4).normal(size=(39, 4))
        assert stats.joint_null([9.0, 9.0, 9.0, 9.0], draws).p == 1 / 40
        assert stats.joint_null([9.0, -9.0, -9.0, -9.0], draws).p > 0.5

    @pytest.mark.parametrize(
        ("effect", "draws"),
        [([], np.zeros((3, 0))), ([1.0], np.zeros((1, 1))), ([1.0], np.zeros((3, 2))), ([np.nan], np.zeros((3, 1)))],
    )
    def test_bad_input_is_refused(self, effect, draws):
        with pytest.raises(Invalid):
            stats.joint_null(effect, draws)


three = stats.published(3, exact=True)


class TestPublishedNumbers:
    @pytest.mark.parametrize(
        ("family", "on", "null", "off", "reading"),
        [
            ("ar", "1.80", "0.64", "0.43", "TRUE"),
            ("es", "1.29", "0.58", "0.43", "UNDECIDABLE"),
            ("zh", "0.63", "0.42", "0.37", "FALSE"),
            ("math", "0.37", "0.15", "0.08", "TRUE"),
        ],
    )
    def test_point_rule_of_the_anchor_paper(self, family, on, null, off, reading):
        above = stats.compare(stats.published(on), ">", stats.published(null))
        within = stats.compare(stats.published(off), "<=", stats.published(on) / three)
        assert above == "TRUE"
        assert within == reading, family

    def test_code_is_undecidable_only_at_the_tie(self):
        """0.17 against 0.49 / 3: the intervals touch in a single point, 0.165."""
        off, bound = stats.published("0.17"), stats.published("0.49") / three
        assert off.low == bound.high == Fraction(33, 200)
        assert stats.compare(off, "<=", bound) == "UNDECIDABLE"
        assert stats.compare(off, "<", bound) == "FALSE"

    @pytest.mark.parametrize(("operator", "reading"), [("<", "FALSE"), ("<=", "TRUE"), (">", "FALSE"), (">=", "TRUE")])
    def test_exact_numbers_that_tie_are_decided(self, operator, reading):
        assert stats.compare(three, operator, three) == reading

    def test_general_is_below_its_null(self):
        assert stats.compare(stats.published("0.10"), ">", stats.published("0.19")) == "FALSE"

    @given(*[st.decimals(-99, 99, places=2) for _ in range(2)], *[st.fractions(-1, 1) for _ in range(2)])
    def test_arithmetic_holds_whatever_was_rounded(self, a, b, u, v):
        A, B = stats.published(str(a)), stats.published(str(b))
        x, y = Fraction(a) + u / 200, Fraction(b) + v / 200
        for got, true in ((A + B, x + y), (A - B, x - y), (A * B, x * y)):
            assert got.low <= true <= got.high
        if B.low > 0 or B.high < 0:
            assert (A / B).low <= x / y <= (A / B).high
        for operator, truth in (("<", x < y), ("<=", x <= y), (">", x > y), (">=", x >= y)):
            assert stats.compare(A, operator, B) in {"UNDECIDABLE", "TRUE" if truth else "FALSE"}

    def test_trailing_zeros_count(self):
        assert stats.published("0.10").high == Fraction(21, 200)
        assert stats.published("0.1").high == Fraction(3, 20)

    @pytest.mark.parametrize("text", ["", "n/a", "nan", "inf", "1,5"])
    def test_what_is_not_a_number_is_refused(self, text):
        with pytest.raises(Invalid, match="published"):
            stats.published(text)

    def test_a_divisor_that_can_be_zero_is_refused(self):
        with pytest.raises(Invalid, match="can be 0"):
            three / stats.published("0.00")

    def test_an_unknown_comparison_is_refused(self):
        with pytest.raises(Invalid, match="operator"):
            stats.compare(three, "==", three)
