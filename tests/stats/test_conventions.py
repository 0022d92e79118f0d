"""What all methods have in common: their defaults, and when few units are flagged."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy import stats as scipy_stats

from prereg_moe import stats
from prereg_moe.stats import intervals

DEFAULTS = {
    "alpha": {0.05},
    "level": {0.95},
    "resamples": {9999},
    "seed": {0},
    "assignments": {9999},
    "kappa": {3.0},
    "power_gate": {0.8},
    "ddof": {1},
    "exact": {True, False},  # McNemar's p is; a published number is not
    "linked": {False},
    "absolute": {False},
}


@pytest.mark.parametrize("name", [name for name in stats.__all__ if inspect.isfunction(getattr(stats, name))])
def test_a_default_is_the_same_everywhere(name: str) -> None:
    for argument in inspect.signature(getattr(stats, name)).parameters.values():
        if argument.name in DEFAULTS and argument.default is not inspect.Parameter.empty:
            assert argument.default in DEFAULTS[argument.name], argument
    assert inspect.signature(stats.mcnemar).parameters["exact"].default is True


def values(n: int) -> Any:
    return np.random.default_rng(n).normal(0.3, 1.0, n)


FLAGS: dict[str, Callable[[int], Any]] = {
    "bootstrap": lambda n: stats.bootstrap(values(n), seed=1, resamples=99).flags,
    "cohen_dz": lambda n: stats.cohen_dz(values(n)).flags,
    "hedges_gz": lambda n: stats.hedges_gz(values(n)).flags,
    "crossed_mean": lambda n: stats.crossed_mean(values(n * 40).reshape(n, 40)).flags,
    "clustered_mean": lambda n: stats.clustered_mean(values(2 * n), np.arange(2 * n) // 2).flags,
    "tost": lambda n: stats.tost(values(n), low=-1, high=1).flags,
    "mcnemar": lambda n: stats.mcnemar([[n - 3, 1], [2, 0]]).flags,
    "sign_flip": lambda n: stats.sign_flip(values(n), resamples=9).flags,
    "permute_groups": lambda n: stats.permute_groups(values(n), np.arange(n) % 2, resamples=9).flags,
    "spearman": lambda n: stats.spearman(values(n), values(n)[::-1], resamples=9).flags,
    "screen": lambda n: stats.screen({"a": values(2 * n).reshape(n, 2)}, resamples=9).axes[0].flags,
    "selective": lambda n: stats.selective(values(n), {"fr": values(50)}, seed=1, resamples=99).flags,
    "beats_null": lambda n: stats.beats_null(
        [values(n)], [values(20 * n).reshape(20, n)], labels=["a"], min_effect=0, seed=1, assignments=9
    ).flags[0],
}


@pytest.mark.parametrize("method", FLAGS)
def test_fewer_than_thirty_units_are_flagged(method: str) -> None:
    assert ["FEW_UNITS" in FLAGS[method](n) for n in (29, 30, 31)] == [True, False, False]


def test_two_sided_p_of_an_effect_size_is_that_of_the_t_test() -> None:
    x = values(12)
    assert stats.cohen_dz(x).p == pytest.approx(scipy_stats.ttest_1samp(x, 0).pvalue)
    assert stats.cohen_dz(np.ones(5)).estimate == stats.cohen_dz(np.ones(5)).resamples == 0


def test_rare_events_are_bounded_from_above_unless_asked() -> None:
    assert stats.event_rate(2, 50) == stats.event_rate(2, 50, sides="upper")
    assert stats.event_rate(2, 50).low == 0.0
    assert stats.event_rate(2, 50, sides="lower").low == pytest.approx(scipy_stats.beta.ppf(0.05, 2, 49))


@pytest.mark.parametrize("shift", [-0.3, 0.0, 0.4])
def test_halls_p_is_student_of_the_cubic(shift: float) -> None:
    x = np.random.default_rng(0).lognormal(0, 1, 40) - 1.6 + shift
    n, d = 40, x - x.mean()
    gamma, S = (d**3).mean() / (d**2).mean() ** 1.5, x.mean() / x.std(ddof=1)
    cubic = S + gamma * S**2 / 3 + gamma**2 * S**3 / 27 + gamma / (6 * n)
    above = scipy_stats.t.sf(math.sqrt(n) * cubic, n - 1)
    sides = ("lower", "upper", "two")
    found = [stats.bootstrap(x, interval="hall_t", seed=1, sides=side).p for side in sides]
    assert found == pytest.approx([above, 1 - above, 2 * min(above, 1 - above)])


def test_places_between_order_statistics() -> None:
    x = np.array([3.0, 1.0, 2.0])
    places = (0.5, 1.0, 1.5, 2.0, 2.75, 3.0, 3.1)
    assert [intervals._at(x, place) for place in places] == [-math.inf, 1.0, 1.5, 2.0, 2.75, 3.0, math.inf]


@pytest.mark.parametrize("where", [-1.0, 1.0])
def test_bca_knows_nothing_where_all_replicates_lie_on_one_side(where: float) -> None:
    replicates = np.full(9, where)
    assert intervals._bca(0.5, replicates, replicates, 0.0, 0.05) == ((-math.inf, math.inf), (1.0, 1.0))


def test_a_screen_flags_what_does_not_vary_and_nothing_else() -> None:
    varying = values(80).reshape(40, 2)
    assert stats.screen({"a": varying}, resamples=9).axes[0].flags == ()
    varying[:, 0] = 1.0
    assert stats.screen({"a": varying}, resamples=9).axes[0].flags == ("ZERO_VARIANCE",)
