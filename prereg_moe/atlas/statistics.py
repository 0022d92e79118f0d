"""Statistics of a routing atlas: coverage, correlation, overlap, and whether expert ids mean anything.

Tables are arrays  # (axis, expert); sets are boolean arrays of the same shape. Sources: the
formulas of arXiv 2606.25092, which its released tables follow exactly; overlap is compared with
what unrelated routers would show, and ids with ids shuffled layer by layer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from prereg_moe.atlas.routing import Array, lift, share
from prereg_moe.errors import Invalid, Problem
from prereg_moe.stats.resample import blocks, permutations, stream

__all__ = [
    "SHUFFLES",
    "LayerShuffle",
    "Overlap",
    "correlation",
    "coverage",
    "family_lift",
    "iou",
    "layer_shuffle",
    "overlap",
    "separation",
    "top",
]

Sets = NDArray[np.bool_]

SHUFFLES = 999
_BLOCK = 1 << 21  # cells shuffled at a time: bounds memory, cannot change a result
_TIE = 1e-12  # sums of the same shares in another order differ by less


def coverage(mass: Array, sizes: Sequence[int]) -> Array:
    """Return the share of an axis's mass that its largest global ids take, shape (axis, size).

    Formula: with T[a, e] the sum over layers of mass, the sum of the K largest T[a, e] over the
    sum of all. Source: ``per_category_cov_mass`` of arXiv 2606.25092's released summary (55 of 55).

    Raises:
        Invalid: a size below 1 or above the number of experts.
    """
    experts = mass.shape[2]
    wrong = [size for size in sizes if not 1 <= size <= experts]
    if wrong:
        raise Invalid(Problem("sizes", f"{wrong} of {experts} experts", f"use 1 to {experts}"))
    total = mass.sum(axis=1)
    running = np.cumsum(-np.sort(-total, axis=1), axis=1)
    covered: Array = np.divide(running, running[:, -1:], out=np.zeros_like(running), where=running[:, -1:] > 0)
    return covered[:, [size - 1 for size in sizes]]


def correlation(table: Array) -> Array:
    """Return Pearson's correlation over experts between every two axes, shape (axis, axis).

    NaN where an axis's shares are all equal. Source: ``inter_axis_correlation`` of
    arXiv 2606.25092's released map (55 of 55).
    """
    centred = table - table.mean(axis=1, keepdims=True)
    norm = np.sqrt((centred * centred).sum(axis=1))
    flat = norm <= 1e-12 * np.abs(table).max(axis=1)
    scaled = centred / np.where(flat, 1.0, norm)[:, None]
    found: Array = np.clip(scaled @ scaled.T, -1.0, 1.0)
    found[flat, :] = found[:, flat] = np.nan
    return found


def family_lift(table: Array, families: Sequence[Sequence[int]]) -> Array:
    """Return the mean lift of each axis's family on its own axis, shape (axis,).

    Args:
        table: shares, shape (axis, expert); lift is taken over the axes given.
        families: ids of each axis's family, in the order of the axes.

    Source: ``family_mean_lift`` of arXiv 2606.25092's released map (11 of 11).
    """
    lifts = lift(table)
    return np.array([lifts[row, list(ids)].mean() for row, ids in enumerate(families)])


def top(table: Array, size: int) -> Sets:
    """Return the ``size`` largest entries of the last dimension as a set; ties go to the lower id.

    Raises:
        Invalid: more than there are.
    """
    if not 1 <= size <= table.shape[-1]:
        raise Invalid(Problem("size", f"{size} of {table.shape[-1]} experts", "use 1 to the number of experts"))
    order = np.argsort(-table, axis=-1, kind="stable")[..., :size]
    members = np.zeros(table.shape, dtype=bool)
    np.put_along_axis(members, order, True, axis=-1)
    return members


def iou(sets: Sets) -> Array:
    """Return intersection over union (Jaccard) of every two sets, shape (..., axis, axis).

    Args:
        sets: shape (..., axis, expert).
    """
    members = sets.astype(np.float64)
    both = members @ np.swapaxes(members, -1, -2)
    size = members.sum(axis=-1)
    union = size[..., :, None] + size[..., None, :] - both
    ratios: Array = np.divide(both, union, out=np.zeros_like(both), where=union > 0)
    return ratios


@dataclass(frozen=True, slots=True)
class Overlap:
    """How far two sets of experts overlap, and how far they would if they had nothing to do with each other.

    Attributes:
        shared: experts in both.
        iou: intersection over union.
        expected: its mean when one set's ids are permuted.
        p: probability of at least this overlap then.
    """

    shared: int
    iou: float
    expected: float
    p: float


def overlap(a: Sets, b: Sets) -> Overlap:
    """Return the overlap of two sets beside its exact permutation reference.

    Estimand: intersection over union of two sets of cells. Null hypothesis: the ids of one set are
    arbitrary within each layer, every permutation of them equally likely. The number shared is then
    a sum over layers of independent hypergeometric numbers, whose distribution is computed exactly
    (to float64), so nothing is sampled. Assumption of a small p's reading: none about routing; a
    popular expert that every axis uses also gives overlap.

    Args:
        a: shape (expert,) for global ids, or (layer, expert).
        b: the same shape.

    Raises:
        Invalid: different shapes.

    >>> import numpy as np
    >>> first, second = np.arange(128) < 64, (np.arange(128) >= 28) & (np.arange(128) < 92)
    >>> found = overlap(first, second)
    >>> found.shared, round(found.iou, 3), round(found.expected, 3), round(found.p, 3)
    (36, 0.391, 0.335, 0.108)
    """
    if a.shape != b.shape:
        raise Invalid(Problem("overlap", f"sets of shapes {a.shape} and {b.shape}", "compare sets of one model"))
    one, two = np.atleast_2d(a), np.atleast_2d(b)
    shared, total = int((one & two).sum()), int(one.sum() + two.sum())
    law = np.ones(1)
    for first, second in zip(one.sum(axis=1).tolist(), two.sum(axis=1).tolist(), strict=True):
        law = np.convolve(law, _hypergeometric(one.shape[1], first, second))
    counts = np.arange(law.size)
    union = total - counts
    ratios = np.divide(counts, union, out=np.zeros(law.size), where=union > 0)
    return Overlap(
        shared,
        shared / (total - shared) if total > shared else 0.0,
        float(law @ ratios),
        min(1.0, float(law[shared:].sum())),
    )


@cache
def _hypergeometric(population: int, first: int, second: int) -> Array:
    """Return the probabilities of 0, 1, ... shared members of two random subsets."""

    def log_choose(n: int, k: int) -> float:
        return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)

    law: Array = np.zeros(min(first, second) + 1)
    for shared in range(max(0, first + second - population), law.size):
        ways = log_choose(first, shared) + log_choose(population - first, second - shared)
        law[shared] = math.exp(ways - log_choose(population, second))
    law /= law.sum()
    return law


def separation(sets: Sets, group: Sequence[bool]) -> Array:
    """Return the separation gap: mean overlap within a group of axes minus mean overlap across its border.

    Args:
        sets: shape (..., axis, expert).
        group: which axes are in the group (languages, say); at least two in it and one outside.

    Raises:
        Invalid: too few axes on a side.
    """
    inside = [row for row, member in enumerate(group) if member]
    outside = [row for row, member in enumerate(group) if not member]
    if len(inside) < 2 or not outside:
        raise Invalid(Problem("group", f"{len(inside)} axes in it and {len(outside)} outside", "give 2 and 1 or more"))
    table = iou(sets)
    within = np.mean([table[..., i, j] for i, j in combinations(inside, 2)], axis=0)
    across = np.mean([table[..., i, j] for i in inside for j in outside], axis=0)
    return np.asarray(within - across)


@dataclass(frozen=True, slots=True)
class LayerShuffle:
    """Whether pooling an id over layers finds more than pooling arbitrary ids would.

    Attributes:
        statistic: ``separation`` (of the top half of the ids) or ``lift`` (mean over axes of the
            top ids' mean lift).
        observed: its value with the ids as they are.
        mean: mean over shuffles.
        sd: standard deviation over shuffles (ddof 1).
        p: (1 + shuffles at least as large) / (1 + shuffles).
        shuffles: how many.
        cells: the statistic of (layer, expert) cells, as many as a family masks: what is there to
            be found where no id is pooled.
    """

    statistic: Literal["separation", "lift"]
    observed: float
    mean: float
    sd: float
    p: float
    shuffles: int
    cells: float

    def to_json(self) -> dict[str, Any]:
        """Return the fields by name."""
        return {name: getattr(self, name) for name in self.__slots__}


def layer_shuffle(
    mass: Array, size: int, *, group: Sequence[bool] | None = None, shuffles: int = SHUFFLES, seed: int | str = 0
) -> tuple[LayerShuffle, ...]:
    """Return the layer-shuffle check of an atlas: lift, and separation where a group of axes is given.

    Estimand: how much an id's routing, pooled over layers, depends on its being the same id in
    every layer. Null hypothesis: expert ids are labels given layer by layer, so every
    rearrangement of the ids inside each layer (the same for all axes) is equally likely.
    Statistics: the separation gap of the top E/2 ids by pooled share, and the mean lift of the top
    ``size`` ids; larger means that ids carry meaning across layers. p is the randomisation p, one
    sided; shuffles are keyed raw Philox words, each shuffle's own. A large p does not say that
    experts are not specialised, but that *global ids* are the wrong unit to say it in.
    Assumption: layers are trained from independent orderings of their experts.

    Args:
        mass: shape (axis, layer, expert).
        size: ids a family holds.
        group: which axes the separation gap is of.
        shuffles: at least 1.
        seed: of the shuffles.

    Raises:
        Invalid: a size above the number of experts, no shuffle, or a group without a border.

    Source: notes on arXiv 2606.25092's released mass, where the gap of ids is .0894 against
    .097 ± .021 shuffled, p = .62, and that of cells .255.
    """
    table = share(mass)
    axes, layers, experts = table.shape
    if shuffles < 1:
        raise Invalid(Problem("shuffles", f"is {shuffles}", "use at least 1"))
    flat = table.reshape(axes, layers * experts)
    observed = _pooled_statistics(table[None], size, group)
    source = stream(seed, "layer-shuffle")
    of_layer = np.repeat(np.arange(layers), experts)
    found = []
    for start, stop in blocks(shuffles, max(1, _BLOCK // flat.size)):
        order = permutations(source, of_layer, start, stop)  # (block, layer × expert)
        shuffled = np.moveaxis(flat[:, order], 0, 1).reshape(stop - start, axes, layers, experts)
        found.append(_pooled_statistics(shuffled, size, group))
    null = np.concatenate(found)
    cells = _statistics(flat[None], size * layers, size * layers, group)[0]
    names: tuple[Literal["lift", "separation"], ...] = ("lift",) if group is None else ("lift", "separation")
    return tuple(
        LayerShuffle(
            statistic=name,
            observed=float(observed[0, column]),
            mean=float(null[:, column].mean()),
            sd=float(null[:, column].std(ddof=1)) if shuffles > 1 else 0.0,
            p=float((1 + np.sum(null[:, column] >= observed[0, column] - _TIE)) / (1 + shuffles)),
            shuffles=shuffles,
            cells=float(cells[column]),
        )
        for column, name in enumerate(names)
    )


def _pooled_statistics(tables: Array, size: int, group: Sequence[bool] | None) -> Array:
    """Return the statistics of ids pooled over layers  # (block, axis, layer, expert) -> (block, statistic)."""
    return _statistics(tables.mean(axis=2), size, max(1, tables.shape[3] // 2), group)


def _statistics(tables: Array, by_lift: int, by_share: int, group: Sequence[bool] | None) -> Array:
    """Return mean top lift, and the separation gap of the top shares  # (block, axis, slot) -> (block, statistic)."""
    mean = tables.mean(axis=1, keepdims=True)
    lifts = np.divide(tables, mean, out=np.zeros_like(tables), where=mean > 0)
    if by_lift > lifts.shape[-1]:
        raise Invalid(Problem("size", f"{by_lift} of {lifts.shape[-1]} experts", "use at most the number of experts"))
    best = np.sort(lifts, axis=-1)[..., -by_lift:].mean(axis=(1, 2))
    columns = [best] if group is None else [best, separation(top(tables, by_share), group)]
    return np.stack(columns, axis=-1)
