from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as scipy_stats
from threadpoolctl import threadpool_limits

from prereg_moe import stats
from prereg_moe.errors import Invalid
from prereg_moe.stats import resample
from prereg_moe.stats.intervals import IntervalKind, _acceleration, weighted_correlation

KINDS: tuple[IntervalKind, ...] = ("percentile", "basic", "bca", "bootstrap_t", "hall_t")
SKEWED = np.random.default_rng(0).lognormal(0, 1, 40)


def boot(values=SKEWED, statistic="mean", **more):
    return stats.bootstrap(values, statistic, **{"seed": 1, "resamples": 1999, **more})


def order_statistics(values, seed=1, resamples=1999):
    n = len(values)
    counts = resample.multinomial_counts(resample.stream(seed, "bootstrap"), n, 0, resamples).astype(int)
    draws = [np.repeat(values, c) for c in counts]
    mean = np.array([d.mean() for d in draws])
    t = (mean - values.mean()) / np.array([d.std(ddof=1) / math.sqrt(n) for d in draws])
    return np.sort(mean), np.sort(t)


def test_ends_are_the_order_statistics_of_the_definition():
    mean, t = order_statistics(SKEWED)
    m, se, k, B = SKEWED.mean(), SKEWED.std(ddof=1) / math.sqrt(40), 50, 1999
    got = boot(interval="percentile")
    assert (got.low, got.high) == pytest.approx((mean[k - 1], mean[B - k]))
    got = boot(interval="basic")
    assert (got.low, got.high) == pytest.approx((2 * m - mean[B - k], 2 * m - mean[k - 1]))
    got = boot(interval="bootstrap_t")
    assert (got.low, got.high) == pytest.approx((m - se * t[B - k], m - se * t[k - 1]))
    assert (got.estimate, got.se) == pytest.approx((m, se))
    assert (got.n, got.units, got.resamples, got.flags, got.method) == (40, 40, 1999, (), "bootstrap_t")


@pytest.mark.parametrize("level", [0.5, 0.9])
def test_bca_by_its_definition(level):
    """Efron 1987, equation 2.3; skewed units, so that both the bias correction and the acceleration matter."""
    values = np.random.default_rng(3).lognormal(0, 1.5, 12)
    mean, _ = order_statistics(values, resamples=9999)
    z0 = scipy_stats.norm.ppf((mean < values.mean()).mean())
    influence = values - values.mean()
    a = (influence**3).sum() / (6 * (influence**2).sum() ** 1.5)
    assert min(z0, a) > 0.05
    z = scipy_stats.norm.ppf([(1 - level) / 2, (1 + level) / 2])
    place = 10000 * scipy_stats.norm.cdf(z0 + (z0 + z) / (1 - a * (z0 + z)))
    expected = np.interp(place, np.arange(1, 10000), mean)
    got = boot(values, interval="bca", level=level, resamples=9999)
    assert (got.low, got.high) == pytest.approx(tuple(expected), abs=1e-9)


@pytest.mark.parametrize("kind", ["percentile", "basic", "bca"])
@pytest.mark.parametrize("level", [0.9, 0.95])
def test_agrees_with_scipy(kind, level):
    theirs = scipy_stats.bootstrap(
        (SKEWED,), np.mean, n_resamples=40000, method=kind, confidence_level=level, rng=np.random.default_rng(0)
    ).confidence_interval
    ours = boot(interval=kind, level=level, resamples=40000)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.02)


@pytest.mark.parametrize("kind", ["percentile", "basic", "bca"])
def test_a_correlation_agrees_with_scipy(kind):
    rng = np.random.default_rng(5)
    x = rng.normal(size=60)
    y = 0.6 * x + rng.normal(size=60)
    theirs = scipy_stats.bootstrap(
        (x, y),
        lambda a, b: np.corrcoef(a, b)[0, 1],
        n_resamples=9999,
        method=kind,
        paired=True,
        vectorized=False,
        rng=rng,
    ).confidence_interval
    ours = boot(np.stack([x, y], 1), weighted_correlation, interval=kind, resamples=9999)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.02)


class TestLawSchool:
    @pytest.fixture
    def case(self, reference):
        return reference["law_school"]

    @pytest.fixture
    def data(self, case):
        return np.array([case["LSAT"], case["GPA"]], dtype=float).T

    @pytest.mark.parametrize(
        ("kind", "level", "key"),
        [
            ("percentile", 0.9, "pct90"),
            ("percentile", 0.95, "pct95"),
            ("basic", 0.95, "basic95"),
            ("bca", 0.9, "bca90"),
            ("bca", 0.95, "bca95"),
        ],
    )
    def test_intervals_as_in_r_boot(self, case, data, kind, level, key):
        got = boot(data, weighted_correlation, interval=kind, level=level, resamples=99999, seed=2026)
        assert (got.low, got.high) == pytest.approx(case[key], abs=case["tol"])
        assert got.estimate == pytest.approx(case["r"], abs=1e-9)

    def test_acceleration_from_the_jackknife(self, case, data):
        """R centres the leave-one-out values on the estimate."""
        left_out = weighted_correlation(data, 1 - np.eye(15))
        assert _acceleration(case["r"] - left_out) == pytest.approx(case["accel_jack"], abs=1e-8)


@given(st.lists(st.floats(-100, 100), min_size=5, max_size=12, unique=True), st.sampled_from(KINDS))
def test_p_agrees_with_the_interval(values, kind):
    for sides in ("two", "lower", "upper"):
        got = boot(values, interval=kind, sides=sides, resamples=199, level=0.9)
        if got.se == 0 or abs(got.p - 0.1) < (0.03 if kind == "bca" else 1e-9):
            continue  # BCa's ends lie between two replicates
        excluded = got.low > 0 or got.high < 0
        assert excluded == (got.p <= 0.1), got


@pytest.mark.parametrize("kind", KINDS)
def test_sides_are_explicit(kind):
    two, lower, upper = (
        boot(interval=kind, sides=s, level=v) for s, v in (("two", 0.9), ("lower", 0.95), ("upper", 0.95))
    )
    assert (lower.low, upper.high) == pytest.approx((two.low, two.high))
    assert (lower.high, upper.low) == (math.inf, -math.inf)
    assert lower.p < 0.01
    assert upper.p > 0.99


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("factor", [4.0, 3.0, 1e-6])
def test_scale_and_sign_laws(kind, factor):
    a, b = boot(interval=kind), boot(factor * SKEWED, interval=kind)
    assert (b.low, b.high) == pytest.approx((factor * a.low, factor * a.high), rel=1e-7)
    c = boot(-SKEWED, interval=kind)
    assert (c.low, c.high) == pytest.approx((-a.high, -a.low), rel=1e-7)


@pytest.mark.parametrize("kind", KINDS)
def test_bytes_do_not_depend_on_blocks_threads_or_neighbours(kind):
    values = np.stack([SKEWED, -3 * SKEWED**2, np.arange(40.0)], axis=1)
    got = set()
    for threads in (1, 2):
        with threadpool_limits(threads):
            for block in (1, 37, 512, 1999):
                many = stats.bootstrap_many(values, interval=kind, seed=1, resamples=1999, block=block)
                got.add(many)
    assert len(got) == 1
    assert got.pop()[0] == boot(interval=kind)


def test_labels_choose_another_stream():
    assert boot(labels=["ar"]).low != boot().low


def test_a_contrast_is_the_mean_of_the_weighted_columns():
    values = np.random.default_rng(0).normal(size=(30, 3))
    contrast = boot(values, [1.0, -1.0, 0.5])
    plain = boot(values[:, 0] - values[:, 1] + 0.5 * values[:, 2])
    assert (contrast.estimate, contrast.low) == pytest.approx((plain.estimate, plain.low))


def test_clusters_are_resampled_whole():
    rng = np.random.default_rng(0)
    means = rng.normal(size=12)
    values = np.repeat(means, 5) + np.tile([-0.2, -0.1, 0, 0.1, 0.2], 12)
    labels = np.repeat(np.arange(12), 5)
    got = boot(values, clusters=labels)
    assert (got.n, got.units) == (60, 12)
    assert got.se == pytest.approx(means.std(ddof=1) / math.sqrt(12))
    order = rng.permutation(60)
    assert boot(values[order], clusters=labels[order]) == got


def test_hall_needs_no_random_numbers_and_is_student_t_without_skew():
    assert boot(interval="hall_t", seed=1) == boot(interval="hall_t", seed=2)
    assert boot(interval="hall_t").resamples == 0
    symmetric = np.concatenate([np.arange(20.0), -np.arange(20.0)]) + 3
    got = boot(symmetric, interval="hall_t")
    t = scipy_stats.ttest_1samp(symmetric, 0)
    assert (got.low, got.high) == pytest.approx(tuple(t.confidence_interval()))
    assert got.p == pytest.approx(t.pvalue)


def test_hall_inverts_the_cubic():
    got, n = boot(interval="hall_t"), 40
    d = SKEWED - SKEWED.mean()
    gamma, scale = (d**3).mean() / (d**2).mean() ** 1.5, SKEWED.std(ddof=1)
    for end, tail in ((got.low, 0.975), (got.high, 0.025)):
        S = (SKEWED.mean() - end) / scale
        cubic = S + gamma * S**2 / 3 + gamma**2 * S**3 / 27 + gamma / (6 * n)
        assert math.sqrt(n) * cubic == pytest.approx(scipy_stats.t.ppf(tail, n - 1))


@pytest.mark.parametrize("kind", ["percentile", "basic", "bootstrap_t"])
def test_ties_count_against_both_directions(kind):
    lower, upper = (boot([-1.0, 1.0] * 5, interval=kind, sides=s) for s in ("lower", "upper"))
    assert lower.p + upper.p == pytest.approx(1 + 0.246, abs=0.03)  # a fifth head in ten tosses


def test_hall_leans_the_way_the_bootstrap_does():
    hall, resampled = boot(interval="hall_t"), boot(resamples=19999)
    t = scipy_stats.ttest_1samp(SKEWED, 0).confidence_interval()
    assert hall.low > t.low
    assert resampled.low > t.low
    assert hall.high > t.high
    assert resampled.high > t.high


class TestDegenerate:
    @pytest.mark.parametrize("kind", KINDS)
    def test_units_that_do_not_vary_bound_nothing(self, kind):
        got = boot(np.full(40, 0.1), interval=kind)
        assert (got.low, got.high, got.p, got.flags) == (-math.inf, math.inf, 1.0, ("ZERO_VARIANCE",))
        assert [boot(np.full(40, 0.1), interval=kind, sides=side).p for side in ("lower", "upper")] == [1.0, 1.0]

    @pytest.mark.parametrize("kind", ["percentile", "basic", "bca", "bootstrap_t"])
    def test_one_resample_shows_nothing(self, kind):
        got = boot(np.arange(1.0, 41.0), interval=kind, sides="lower", resamples=1)
        assert (got.low, got.p) == (-math.inf, 1.0)

    @pytest.mark.parametrize("kind", ["percentile", "basic"])
    def test_a_standard_error_of_one_is_one_like_any_other(self, kind):
        got = boot([0.0, 2.0], interval=kind)
        assert (got.se, got.low, got.high, got.flags) == (1.0, 0.0, 2.0, ("FEW_UNITS",))

    def test_few_units_and_degenerate_resamples_are_flagged(self):
        got = boot([0.1, 0.4, 0.9])
        assert got.flags == ("FEW_UNITS", "DEGENERATE_RESAMPLES")
        assert (got.low, got.high) == (-math.inf, math.inf)  # 1 resample in 9 has no spread

    def test_too_few_resamples_bound_nothing(self):
        got = boot(resamples=30)
        assert (got.low, got.high) == (-math.inf, math.inf)
        assert "FEW_RESAMPLES" in got.flags

    def test_a_correlation_with_a_constant_bounds_nothing(self):
        values = np.stack([np.arange(10.0), np.ones(10)], axis=1)
        got = boot(values, weighted_correlation, interval="bca")
        assert (got.p, got.flags) == (1.0, ("FEW_UNITS", "ZERO_VARIANCE"))

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"interval": "wald"}, "percentile"),
            ({"level": 1.0}, "between 0 and 1"),
            ({"level": 95}, "between 0 and 1"),
            ({"sides": "both"}, "lower"),
            ({"resamples": 0}, "at least 1"),
            ({"values": [1.0]}, "at least"),
            ({"values": [1.0, math.nan]}, "NaN"),
            ({"statistic": "median"}, '"mean"'),
            ({"values": np.ones((9, 2))}, "one weight a column"),
            ({"values": np.ones((9, 2)), "statistic": weighted_correlation}, "needs a standard error"),
            ({"clusters": [1] * 40}, "one cluster"),
            ({"clusters": [1, 2]}, "2,. labels for 40"),
        ],
    )
    def test_bad_input_is_refused(self, change, message):
        with pytest.raises(Invalid, match=message):
            boot(**change)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "least"), [("bootstrap_t", 0.935), ("hall_t", 0.92), ("bca", 0.905)])
def test_coverage_of_normal_units(kind, least):
    values = np.random.default_rng(1).normal(size=(20, 2000))
    got = stats.bootstrap_many(values, interval=kind, resamples=999, seed=1)
    assert np.mean([e.low <= 0 <= e.high for e in got]) > least
