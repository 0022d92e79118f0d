"""Known answers: which streams every method opens, their first words, and what is made of them.

Pinned once. A change here changes every verdict and every null draw ever frozen, whatever else still passes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from prereg_moe import stats
from prereg_moe.stats import association, equivalence, intervals, nulls, paired, resample, screens, selectivity

X = np.linspace(-0.2, 1.0, 12) ** 2
TWO = np.stack([X, X[::-1]], axis=1)

METHODS: dict[str, tuple[Any, Callable[[], Any], dict[tuple[object, ...], int]]] = {
    # method: module, a call, labels of the streams it opens -> first word
    "mean": (
        intervals,
        lambda: stats.bootstrap(X, resamples=9, seed=2026, labels=("ar",)),
        {("bootstrap", "ar"): 0x7F5185A897E1A2ED},
    ),
    "smooth statistic": (
        intervals,
        lambda: stats.bootstrap(TWO, stats.weighted_correlation, interval="bca", resamples=9, seed=2026),
        {("bootstrap",): 0xDDE9ED47DE43A4EF},
    ),
    "axes": (
        selectivity,
        lambda: stats.selective(X, {"fr": X / 9}, resamples=9, seed=2026),
        {("items", "axis on"): 0x8A0535ABB21DF44C, ("items", "axis fr"): 0x49D9799D94E99FCC},
    ),
    "linked axes": (
        selectivity,
        lambda: stats.selective(X, {"fr": X / 9}, resamples=9, seed=2026, linked=True),
        {("items", "linked"): 0x9D48713FEF47A662},
    ),
    "random experts": (
        nulls,
        lambda: stats.beats_null([X, X], [TWO.T, TWO.T], labels=["fr", "ar"], min_effect=0, seed=2026, assignments=9),
        {("null assignments", "ar", "fr"): 0x0D8F6A9D30B332BF},
    ),
    "margin": (
        equivalence,
        lambda: stats.within_margin([X], [X], margin=2, axes=["ar"], alpha=1, resamples=9, seed=2026),
        {("within margin", "axis ar"): 0x7F369B2127B5E1A9, ("within margin", "draws"): 0x2EDCF77DB85E656A},
    ),
    "sign flips": (
        paired,
        lambda: stats.sign_flip(X, resamples=9, seed=2026),
        {("sign flips",): 0xEDC01E8F0AD21C05},
    ),
    "groups": (
        paired,
        lambda: stats.permute_groups(X, np.arange(12) % 2, resamples=9, seed=2026),
        {("permutations",): 0x395212DD3D2B4F8C},
    ),
    "ranks": (
        association,
        lambda: stats.spearman(X, X[::-1], resamples=9, seed=2026),
        {("permutations",): 0x395212DD3D2B4F8C},
    ),
    "replications": (
        association,
        lambda: stats.concordance(TWO.T, resamples=9, seed=2026),
        {("concordance", 0): 0xE0BAC29A3B36FDE7, ("concordance", 1): 0x8349D942A9009CEF},
    ),
    "screen": (
        screens,
        lambda: stats.screen({"ar": TWO}, resamples=9, seed=2026),
        {("screen", "ar"): 0xCE477AF1B762F128},
    ),
}


@pytest.mark.parametrize("method", METHODS)
def test_streams_and_their_first_words(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module, call, expected = METHODS[method]
    opened: dict[tuple[object, ...], int] = {}

    def spy(seed: int, *labels: object) -> resample.Stream:
        source = resample.stream(seed, *labels)
        opened[labels] = int(source.words(0, 1)[0])
        return source

    monkeypatch.setattr(module, "stream", spy)
    call()
    assert opened == expected


def test_what_is_made_of_words() -> None:
    source = resample.stream(2026, "items", "ar")
    counts = resample.multinomial_counts(source, 7, 0, 6)
    assert counts[[0, 1, 5]].tolist() == [[0, 2, 1, 0, 2, 1, 1], [1, 0, 1, 2, 0, 2, 1], [4, 1, 0, 1, 1, 0, 0]]
    assert resample.poisson_counts(source, 7, 0, 2).tolist() == [[2, 2, 1, 1, 2, 1, 0], [2, 0, 0, 0, 1, 0, 1]]
    assert resample.signs(source, 7, 0, 2).tolist() == [[-1, -1, 1, -1, 1, 1, 1], [1, -1, -1, 1, 1, -1, 1]]
    groups = [1, 0, 1, 0, 2, 1, 0]
    assert resample.permutations(source, groups, 0, 2).tolist() == [[5, 3, 2, 6, 4, 0, 1], [2, 1, 5, 3, 4, 0, 6]]
    assert nulls.assigned_draws(source, 5, 3, 4).tolist() == [[3, 4, 5], [2, 3, 1], [3, 4, 5], [5, 5, 1]]
