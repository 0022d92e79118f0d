from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from threadpoolctl import threadpool_limits

from prereg_moe.errors import Invalid
from prereg_moe.stats import resample
from prereg_moe.stats.resample import sample, stream

# Pinned once, by hand. A change here changes every verdict ever frozen.
KNOWN_WORDS = {
    (2026,): [0x05FFA6C9A2F973D6, 0xC7F58DA451517216],
    ("2026", "items", "ar"): [0xB1198EBAD453CFF4, 0xE85D17A096D8CAD9],
    (0, "null", "draw", 7): [0xC4651B6167051DBB, 0xF4EC1D077BD7AA14],
}


@pytest.mark.parametrize("labels", KNOWN_WORDS)
def test_first_words_of_a_stream_never_change(labels):
    assert stream(*labels).words(0, 2).tolist() == KNOWN_WORDS[labels]


def test_words_follow_the_published_philox_rounds():
    """Philox-4x64-10 (Salmon et al. 2011) written out, so that the convention does not rest on numpy."""
    mask = 2**64 - 1
    source = stream(2026, "items", "ar")
    key = [source.key & mask, source.key >> 64]
    got = []
    for block in (1, 2):  # the first block of a stream is at counter 1
        x, k = [block, 0, 0, 0], list(key)
        for _ in range(10):
            a, b = x[0] * 0xD2E7470EE14C6C93, x[2] * 0xCA5A826395121157
            x = [(b >> 64) ^ x[1] ^ k[0], b & mask, (a >> 64) ^ x[3] ^ k[1], a & mask]
            k = [(k[0] + 0x9E3779B97F4A7C15) & mask, (k[1] + 0xBB67AE8584CAA73B) & mask]
        got += x
    assert source.words(0, 8).tolist() == got


def test_a_stream_is_addressed_by_position():
    source = stream(1, "a")
    whole = source.words(0, 50)
    for start in range(20):
        assert (source.words(start, 30) == whole[start : start + 30]).all()


def test_labels_are_not_joined():
    keys = {
        stream(*labels).key for labels in [(1, "a", "b"), (1, "ab"), (1, "a,b"), (1, "b", "a"), ("1a", "b"), (1, "a")]
    }
    assert len(keys) == 6


def test_number_and_text_seeds_agree():
    assert stream(2026, 3) == stream("2026", "3")


class TestSample:
    def test_known_draw(self):
        assert sample(2026, "null", 0, population=128, size=4) == (15, 20, 46, 118)

    @given(st.integers(0, 60), st.integers(0, 60), st.integers())
    def test_is_a_sorted_subset(self, a, b, seed):
        size, population = sorted((a, b))
        drawn = sample(seed, population=population, size=size)
        assert len(drawn) == size
        assert list(drawn) == sorted(set(drawn))
        assert set(drawn) <= set(range(population))

    def test_every_subset_is_equally_likely(self):
        counts: dict[tuple[int, ...], int] = {}
        for i in range(6000):
            drawn = sample(5, i, population=6, size=3)
            counts[drawn] = counts.get(drawn, 0) + 1
        assert len(counts) == 20
        chi2 = sum((n - 300) ** 2 / 300 for n in counts.values())
        assert chi2 < 43.8  # .999 quantile, 19 df

    def test_too_many_is_refused(self):
        with pytest.raises(Invalid, match="3 of 2"):
            sample(1, population=2, size=3)


COUNTS = {
    "multinomial": resample.multinomial_counts,
    "poisson": resample.poisson_counts,
    "signs": resample.signs,
    "permutations": lambda source, n, a, b: resample.permutations(source, np.arange(n) % 3, a, b),
}


@pytest.mark.parametrize("kind", COUNTS)
@pytest.mark.parametrize("n", [1, 2, 3, 5, 64, 65, 150])
def test_replicates_do_not_depend_on_their_block(kind, n):
    source = stream(9, kind)
    whole = COUNTS[kind](source, n, 0, 50)
    parts = [COUNTS[kind](source, n, a, b) for a, b in resample.blocks(50, 7)]
    assert (np.concatenate(parts) == whole).all()


def test_multinomial_counts_have_the_right_moments():
    counts = resample.multinomial_counts(stream(1), 40, 0, 20000)
    assert (counts.sum(axis=1) == 40).all()
    assert counts.mean() == 1
    assert counts.var() == pytest.approx(1 - 1 / 40, abs=0.01)
    assert np.corrcoef(counts[:, 0], counts[:, 1])[0, 1] == pytest.approx(-1 / 39, abs=0.03)


def test_poisson_counts_have_the_right_distribution():
    counts = resample.poisson_counts(stream(1), 40, 0, 20000)
    assert counts.mean() == pytest.approx(1, abs=0.005)
    assert counts.var() == pytest.approx(1, abs=0.01)
    assert (counts == 0).mean() == pytest.approx(np.exp(-1), abs=0.003)
    assert np.bincount(resample._POISSON.astype(int)).tolist() == [24109, 24110, 12054, 4019, 1004, 201, 34, 4, 1]


def test_signs_are_fair_and_the_table_complete():
    assert abs(resample.signs(stream(2), 30, 0, 4000).mean()) < 0.01
    table = resample.sign_table(5)
    assert table.shape == (32, 5)
    assert (table[0] == 1).all()
    assert len({tuple(row) for row in table}) == 32


def test_permutations_stay_in_their_group_and_are_uniform():
    groups = np.array([1, 0, 1, 0, 2, 1])
    drawn = resample.permutations(stream(3), groups, 0, 12000)
    assert (np.sort(drawn, axis=1) == np.arange(6)).all()
    assert (groups[drawn] == groups).all()
    first = np.unique(drawn[:, [0, 2, 5]], axis=0, return_counts=True)[1]
    assert len(first) == 6
    assert ((first - 2000) ** 2 / 2000).sum() < 20.5  # .999 quantile, 5 df


finite = st.floats(-1e6, 1e6, allow_subnormal=False)


@given(arrays(np.float64, (17, 2), elements=finite), st.permutations(range(17)))
def test_exact_sums_do_not_depend_on_order(values, order):
    shuffled = values[list(order)]
    assert (resample.exact_sum(shuffled) == resample.exact_sum(values)).all()
    assert (resample.exact_mean(shuffled) == resample.exact_mean(values)).all()
    assert (resample.exact_variance(shuffled) == resample.exact_variance(values)).all()


@pytest.mark.parametrize("scale", [1.0, 1e-290, 1e-305])
def test_exact_sums_do_not_depend_on_order_at_any_scale(scale):
    values = scale * np.random.default_rng(0).lognormal(size=300)
    orders = [np.random.default_rng(seed).permutation(300) for seed in range(20)]
    assert {float(resample.exact_sum(values[order])) for order in orders} == {float(resample.exact_sum(values))}
    assert len({float(values[order].sum()) for order in orders}) > 1
    assert float(resample.exact_sum(values)) == pytest.approx(math.fsum(values), rel=1e-12)


@given(arrays(np.float64, 17, elements=finite))
def test_exact_moments_are_the_moments(values):
    scale = np.abs(values).max()
    assert float(resample.exact_mean(values)) == pytest.approx(values.mean(), abs=1e-12 * scale)
    assert float(resample.exact_variance(values)) == pytest.approx(values.var(ddof=1), abs=1e-11 * scale**2)


def test_a_mean_loses_nothing_to_the_grid():
    assert float(resample.exact_mean(np.full(150, 0.1))) == 0.1
    assert float(resample.exact_mean(np.array([1e15, 1.5, -1e15]))) == pytest.approx(0.5, abs=1e-12)


def test_constants_have_no_variance():
    assert float(resample.exact_variance(np.full(7, 0.1))) == 0
    assert float(resample.exact_variance(np.array([0.1 + 0.2, 0.3, 0.3]))) == 0
    assert float(resample.exact_variance(np.array([0.3, 0.3, 0.3 + 1e-9]))) > 0


def test_resampled_moments_are_the_same_bytes_for_any_block_and_thread_count():
    values = np.random.default_rng(0).lognormal(size=(61, 5)) * [1e-9, 1.0, 1e9, -3.0, 0.1]
    got = set()
    for threads in (1, 2):
        with threadpool_limits(threads):
            for block in (1, 37, 512, 999):
                pair = resample.resampled_moments(values, stream(1), resamples=999, block=block)
                got.add(b"".join(part.tobytes() for part in pair))
    assert len(got) == 1


def test_resampled_moments_are_those_of_the_resampled_values():
    values = np.random.default_rng(1).normal(size=(9, 2))
    shift, squared = resample.resampled_moments(values, stream(1), resamples=40)
    counts = resample.multinomial_counts(stream(1), 9, 0, 40).astype(int)
    for b in range(40):
        again = np.repeat(values, counts[b], axis=0)
        assert shift[b] == pytest.approx(again.mean(0) - values.mean(0), abs=1e-12)
        assert squared[b] == pytest.approx(again.var(0, ddof=1) / 9, abs=1e-12)


def test_a_replicate_of_one_unit_has_no_spread():
    shift, squared = resample.resampled_moments(np.array([[0.1], [0.7]]), stream(1), resamples=200)
    assert set(np.round(shift[:, 0], 9)) == {-0.3, 0.0, 0.3}
    assert (squared[np.abs(shift) > 0.1] == 0).all()
    assert (squared == 0).mean() == pytest.approx(0.5, abs=0.1)


class TestInput:
    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ([1.0, float("nan")], "NaN"),
            ([1.0, float("inf")], "infinity"),
            ([1.0, 1e200], "1e\\+60"),
            ([1.0, -1e60], "1e\\+60"),
            ([1.0], "has 1 values"),
            ([], "has 0 values"),
            ([[1.0, 2.0]], "shape"),
            (["a", "b"], "not an array of numbers"),
            (None, "NaN|not an array|shape"),
        ],
    )
    def test_bad_vectors_are_refused(self, values, message):
        with pytest.raises(Invalid, match=message):
            resample.vector(values, "here")

    @pytest.mark.parametrize("least", [{"rows": 3}, {"columns": 3}])
    def test_matrices_too_small_in_either_direction_are_refused(self, least):
        assert resample.matrix(np.ones((2, 2)), "here", rows=2, columns=2).shape == (2, 2)
        with pytest.raises(Invalid, match="at least"):
            resample.matrix(np.ones((2, 2)), "here", **least)

    def test_cluster_means_weigh_clusters_alike_and_ignore_order(self):
        values, labels = np.array([1.0, 2.0, 6.0, 5.0]), ["b", "a", "b", "b"]
        assert resample.cluster_means(values, labels).tolist() == [2.0, 4.0]
        assert resample.cluster_means(values[::-1], labels[::-1]).tolist() == [2.0, 4.0]

    @pytest.mark.parametrize("labels", [["a", "a"], ["a"], []])
    def test_one_cluster_or_missing_labels_are_refused(self, labels):
        with pytest.raises(Invalid, match="cluster"):
            resample.cluster_means(np.array([1.0, 2.0]), labels)

    def test_no_block_is_refused(self):
        with pytest.raises(Invalid, match="block"):
            list(resample.blocks(5, 0))


def test_drawing_loads_neither_scipy_nor_statsmodels():
    code = (
        "import sys, prereg_moe.stats.resample as r; r.sample(1, population=9, size=3); import prereg_moe.stats as s;"
        "dir(s); print(sorted(m for m in sys.modules if m.split('.')[0] in {'scipy', 'statsmodels', 'torch'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_public_name_is_there():
    import prereg_moe.stats as stats

    for name in stats.__all__:
        assert getattr(stats, name) is not None
    assert set(stats.__all__) <= set(dir(stats))
    with pytest.raises(AttributeError, match="nothing"):
        stats.nothing  # noqa: B018 - asking for it is the test
