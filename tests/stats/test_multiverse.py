from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prereg_moe import stats
from prereg_moe.errors import Invalid


def grid(outcomes):
    """Corpus × rule, the registered one first."""
    names = [("A", "default"), ("A", "ci"), ("B", "default"), ("B", "ci")]
    return [
        stats.Specification((("corpus", c), ("rule", r)), e, o) for (c, r), (e, o) in zip(names, outcomes, strict=True)
    ]


class TestSpecificationCurve:
    def test_what_it_counts(self):
        got = stats.specification_curve(grid([(0.4, True), (0.1, False), (0.3, True), (0.2, None)]))
        assert (got.specifications, got.confirmed, got.undecided, got.share) == (4, 2, 1, 0.5)
        assert (got.low, got.median, got.high) == pytest.approx((0.1, 0.25, 0.4))
        assert got.order == (1, 3, 2, 0)
        assert (got.flips, got.distance) == ((("rule", "ci"),), 1)
        assert got.fragility == "confirmed in 2 of 4 specifications; one change alters it: rule=ci"

    def test_two_changes_together(self):
        got = stats.specification_curve(grid([(0.4, True), (0.3, True), (0.3, True), (0.0, False)]))
        assert (got.flips, got.distance) == ((), 2)
        assert got.fragility.endswith("no single change alters it, 2 together do")

    def test_nothing_alters_it(self):
        got = stats.specification_curve(grid([(0.4, False)] * 4))
        assert (got.distance, got.share) == (None, 0.0)
        assert got.fragility == "confirmed in 0 of 4 specifications; no specification alters it"

    def test_joint_p_counts_the_observed_one(self):
        null = np.zeros((19, 4))
        assert stats.specification_curve(grid([(0.4, True)] * 4), null=null).p == 0.05
        null[:5] = 0.4
        assert stats.specification_curve(grid([(0.4, True)] * 4), null=null).p == 6 / 20

    def test_mappings_are_specifications(self):
        given = [{"choices": {"rule": r}, "estimate": 1, "confirmed": r == "x"} for r in "xy"]
        assert stats.specification_curve(given, registered=1).flips == (("rule", "x"),)

    @pytest.mark.parametrize(
        ("given", "more", "message"),
        [
            ([], {}, "registered"),
            (grid([(0.4, True)] * 4), {"registered": 4}, "registered"),
            (grid([(0.4, True)] * 4) * 2, {}, "hold one twice"),
            (grid([(float("nan"), True)] * 4), {}, "NaN"),
            ([{"estimate": 1.0}], {}, "not a specification"),
            (
                [stats.Specification((("a", "1"),), 1.0, True), stats.Specification((("b", "1"),), 1.0, True)],
                {},
                "dimensions",
            ),
            (grid([(0.4, True)] * 4), {"null": np.zeros((3, 2))}, "null"),
            (grid([(0.4, True)] * 4), {"null": np.zeros((0, 4))}, "null"),
        ],
    )
    def test_bad_grids_are_refused(self, given, more, message):
        with pytest.raises(Invalid, match=message):
            stats.specification_curve(given, **more)


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
