from __future__ import annotations

import numpy as np
import pytest
from scipy import stats as scipy_stats
from threadpoolctl import threadpool_limits

from prereg_moe import stats
from prereg_moe.errors import Invalid


def deltas(n=400, m=300, strong=5, seed=0):
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(n, m)) + rng.normal(size=(n, 1))
    values[:, :strong] += 0.6
    return values


@pytest.mark.parametrize("method", ["maxt", "bh", "by"])
def test_the_strong_ones_are_found(method):
    got = stats.screen({"ar": deltas(seed=1), "fr": deltas(seed=2)}, method=method, resamples=999)
    assert got.conditions == 600
    for axis in got.axes:
        assert (axis.p_adjusted[:5] <= 0.05).all()
    assert sum((axis.p_adjusted[5:] <= 0.05).sum() for axis in got.axes) <= 3


def test_marginals_are_student_and_adjusted_ones_statsmodels_like():
    values = deltas()
    for sides, alternative in (("lower", "greater"), ("upper", "less"), ("two", "two-sided")):
        got = stats.screen({"a": values}, method="by", sides=sides).axes[0]
        theirs = scipy_stats.ttest_1samp(values, 0, alternative=alternative)
        assert got.p == pytest.approx(theirs.pvalue)
        assert got.t == pytest.approx(theirs.statistic)
        assert (got.p_adjusted == stats.adjust(got.p, "by")).all()


def test_max_t_by_hand():
    from prereg_moe.stats.resample import poisson_counts, stream

    values = deltas(n=50, m=4)
    got = stats.screen({"a": values}, resamples=200, seed=5).axes[0]
    w = poisson_counts(stream(5, "screen", "a"), 50, 0, 200)
    null = (w - 1) @ (values - values.mean(0)) / 50 / got.se
    assert got.p_adjusted == pytest.approx((1 + (null.max(1)[:, None] >= got.t).sum(0)) / 201)


def test_max_t_is_over_the_conditions_of_all_axes():
    from prereg_moe.stats.resample import poisson_counts, stream

    axes = {"a": deltas(n=50, m=3), "b": deltas(n=40, m=2, strong=1, seed=1)}
    got = stats.screen(axes, resamples=200, seed=5).axes
    largest = np.full(200, -np.inf)
    for part, values in zip(got, axes.values(), strict=True):
        n = len(values)
        w = poisson_counts(stream(5, "screen", part.axis), n, 0, 200)
        largest = np.maximum(largest, ((w - 1) @ (values - values.mean(0)) / n / part.se).max(1))
    for part in got:
        assert part.p_adjusted == pytest.approx((1 + (largest[:, None] >= part.t).sum(0)) / 201)


@pytest.mark.parametrize("sides", ["two", "lower", "upper"])
@pytest.mark.parametrize("kind", ["normal", "heavy", "identical", "nearly identical"])
def test_single_precision_changes_no_bit(kind, sides):
    """The maximum is that of exact sums over all conditions, also where many of them are nearly the largest."""
    from prereg_moe.stats.resample import on_grid, poisson_counts, stream
    from prereg_moe.stats.screens import _largest, _standardised

    rng = np.random.default_rng(1)
    values = {
        "normal": rng.normal(size=(300, 90)),
        "heavy": rng.standard_t(2, size=(300, 90)) * 1e6,
        "identical": np.tile(rng.normal(size=(300, 1)), 90),
        "nearly identical": rng.normal(size=(300, 1)) + 1e-7 * rng.normal(size=(300, 90)),
    }[kind]
    scaled = _standardised(values)[2]
    q, g = on_grid(scaled, 4 * 300 + 64)
    weights = poisson_counts(stream(1), 300, 0, 200) - np.float32(1)
    null = np.ldexp(weights.astype(float) @ q, -g)
    turned = {"two": np.abs(null), "lower": null, "upper": -null}[sides]
    got = _largest(weights, scaled.astype(np.float32), np.ascontiguousarray(q.T), g, sides)
    assert got.tolist() == turned.max(axis=1).tolist()


def test_ties_count_against():
    got = stats.screen({"a": [[-1.0], [1.0]]}, resamples=9999).axes[0]
    equal = 0.3085  # two Poisson(1) weights agree
    assert got.p_adjusted[0] == pytest.approx(0.5 + equal / 2, abs=0.015)


def test_family_wise_error_holds_and_uses_the_dependence():
    rng = np.random.default_rng(0)
    hits, strictness = 0, []
    for i in range(200):
        values = rng.normal(size=(150, 40)) + 2 * rng.normal(size=(150, 1))
        got = stats.screen({"a": values}, resamples=199, seed=i).axes[0]
        hits += got.p_adjusted.min() <= 0.05
        strictness.append(got.p_adjusted.min() / min(1, 40 * got.p.min()))
    assert hits / 200 <= 0.09
    assert np.median(strictness) < 0.8


def test_bytes_do_not_depend_on_blocks_threads_or_lazy_axes():
    values = {"a": deltas(n=60), "b": deltas(n=70)}
    got = set()
    for threads in (1, 2):
        with threadpool_limits(threads):
            for block in (1, 37, 512, 999):
                for given in (values, iter(values.items())):
                    axes = stats.screen(given, resamples=200, block=block).axes
                    got.add(b"".join(axis.p_adjusted.tobytes() for axis in axes))
    assert len(got) == 1


def test_what_does_not_vary_is_not_found():
    values = deltas(n=60, m=3)
    values[:, 0] = 7.0
    got = stats.screen({"a": values}, resamples=99).axes[0]
    assert (got.p[0], got.p_adjusted[0], got.t[0]) == (1.0, 1.0, 0.0)
    assert got.flags == ("ZERO_VARIANCE",)


@pytest.mark.parametrize(
    ("given", "more", "message"),
    [
        ({}, {}, "no axis"),
        ([("a", np.ones((3, 2))), ("a", np.ones((3, 2)))], {}, "twice"),
        ({"a": np.ones((1, 2))}, {}, "at least 2 rows"),
        ({"a": np.full((3, 2), np.nan)}, {}, "NaN"),
        ({"a": np.ones((3, 2))}, {"method": "max-t"}, "maxt, bh or by"),
    ],
)
def test_bad_input_is_refused(given, more, message):
    with pytest.raises(Invalid, match=message):
        stats.screen(given, **more)
