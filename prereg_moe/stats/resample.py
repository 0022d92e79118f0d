"""Keyed random streams, exact sums and resampling counts: the same bytes on any machine, block size and thread count.

Three ideas, from which this module can be written again:

1. **A stream is a key.** ``key = blake2b-128(len(part) ':' part ',' ... )`` over the seed and the labels
   as text, personalised ``prereg-moe-v1``, read little-endian. Its words are the raw 64-bit outputs of
   Philox-4x64 under that key (counter blocks of four words, the first block at counter 1, numpy's
   convention). Raw words are used because numpy keeps the stream of a bit generator stable, and promises
   nothing of the kind for ``Generator`` methods.
2. **A replicate owns its words.** Replicate ``b`` reads words ``[b·W, (b+1)·W)`` and nothing else, so
   replicates can be computed in blocks of any size, in any order.
3. **Sums are exact.** Values are rounded to integers times ``2**-g``, with ``g`` chosen for each column so
   that no partial sum reaches ``2**53``. Every order of summation, every BLAS and every thread count then
   gives the same float64.

Only numpy is needed: null draws are drawn when a registration is frozen, by commands that load no scipy.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.random import Philox
from numpy.typing import ArrayLike, NDArray

from prereg_moe.errors import Invalid, Problem

__all__ = [
    "SMALL_SAMPLE",
    "FloatArray",
    "IntArray",
    "Stream",
    "blocks",
    "cluster_means",
    "exact_mean",
    "exact_sum",
    "exact_variance",
    "matrix",
    "multinomial_counts",
    "number",
    "on_grid",
    "permutations",
    "poisson_counts",
    "resampled_moments",
    "sample",
    "sign_table",
    "signs",
    "stream",
    "vector",
]

_LARGEST = 1e60  # kappa times it is squared twice (Welch's degrees of freedom) and stays a number

FloatArray: TypeAlias = NDArray[np.float64]
IntArray: TypeAlias = NDArray[np.int64]

SMALL_SAMPLE = 30  # a bootstrap-t p of n units is held to be off by the factor 1 + 30/n; chosen by calibration
_PERSON = b"prereg-moe-v1"
_DEGENERATE = 2.0**-40  # a spread this much smaller than its scale is rounding, not data


@dataclass(frozen=True, slots=True)
class Stream:
    """A keyed sequence of 64-bit words, addressed by position; it has no state."""

    key: int

    def words(self, start: int, count: int) -> NDArray[np.uint64]:
        """Return words ``start .. start+count`` of the stream."""
        counter, offset = divmod(start, 4)
        return Philox(key=self.key, counter=counter).random_raw(count + offset)[offset:]


def stream(seed: int | str, *labels: object) -> Stream:
    """Return the stream of a seed and labels; no two different lists of labels share a key.

    >>> [hex(word) for word in stream(2026, "items", "ar").words(0, 2)]
    ['0xb1198ebad453cff4', '0xe85d17a096d8cad9']
    """
    digest = hashlib.blake2b(digest_size=16, person=_PERSON)
    for part in (seed, *labels):
        text = str(part).encode()
        digest.update(b"%d:%s," % (len(text), text))
    return Stream(int.from_bytes(digest.digest(), "little"))


def sample(seed: int | str, *labels: object, population: int, size: int) -> tuple[int, ...]:
    """Return a uniform subset of ``range(population)`` without replacement, sorted.

    Word ``i`` chooses the ``i``-th member: a partial Fisher-Yates shuffle whose index is the high half of
    word × remaining (bias below ``population / 2**64``).

    Raises:
        Invalid: a size outside ``0 .. population``.

    >>> sample(2026, "null", 0, population=128, size=4)
    (15, 20, 46, 118)
    """
    if not 0 <= size <= population:
        raise Invalid(Problem("size", f"{size} of {population} cannot be drawn", "draw at most the population"))
    moved: dict[int, int] = {}
    drawn = []
    for i, word in enumerate(stream(seed, *labels).words(0, size).tolist()):
        j = i + ((word * (population - i)) >> 64)
        drawn.append(moved.get(j, j))
        moved[j] = moved.get(i, i)
    return tuple(sorted(drawn))


def blocks(replicates: int, block: int) -> Iterator[tuple[int, int]]:
    """Yield ``(start, stop)`` that cover ``range(replicates)`` in steps of ``block``."""
    if block < 1:
        raise Invalid(Problem("block", f"is {block}", "use at least 1"))
    for start in range(0, replicates, block):
        yield start, min(start + block, replicates)


# ------------------------------------------------------------------ counts


def multinomial_counts(source: Stream, n: int, start: int, stop: int) -> FloatArray:
    """Return how often each of n units is drawn in replicates start..stop  # (stop-start, n), rows sum to n.

    A replicate's index ``i`` is ``(u·n) >> 32`` for the ``i``-th 32-bit half of its words (bias below
    ``n / 2**32``).
    """
    rows, width = stop - start, (n + 1) // 2
    halves = source.words(start * width, rows * width).astype("<u8", copy=False).view("<u4")
    index = halves.reshape(rows, 2 * width)[:, :n].astype(np.int64)
    index *= n
    index >>= 32
    index += (np.arange(rows, dtype=np.int64) * n)[:, None]
    counts: IntArray = np.bincount(index.ravel(), minlength=rows * n).reshape(rows, n)
    return counts.astype(np.float64)


def _poisson_table() -> NDArray[np.float32]:
    """Return the Poisson(1) count of each 16-bit number; all mass above 8 sits at 9."""
    cumulative = np.cumsum([math.exp(-1) / math.factorial(k) for k in range(9)])
    return np.searchsorted(np.rint(cumulative * 65536), np.arange(65536), side="right").astype(np.float32)


_POISSON = _poisson_table()


def poisson_counts(source: Stream, n: int, start: int, stop: int) -> NDArray[np.float32]:
    """Return independent Poisson(1) weights of n units for replicates start..stop  # (stop-start, n).

    16 bits choose a weight from a fixed table, whose probabilities are within ``2**-17`` of Poisson(1).
    """
    rows, width = stop - start, (n + 3) // 4
    quarters = source.words(start * width, rows * width).astype("<u8", copy=False).view("<u2")
    return np.take(_POISSON, quarters.reshape(rows, 4 * width)[:, :n])


def signs(source: Stream, n: int, start: int, stop: int) -> FloatArray:
    """Return random signs, -1.0 or 1.0, of n units for replicates start..stop  # (stop-start, n)."""
    rows, width = stop - start, (n + 63) // 64
    octets = source.words(start * width, rows * width).astype("<u8", copy=False).view(np.uint8)
    bits = np.unpackbits(octets.reshape(rows, 8 * width), axis=1, bitorder="little")[:, :n]
    return bits.astype(np.float64) * 2.0 - 1.0


def sign_table(n: int) -> FloatArray:
    """Return all ``2**n`` sign vectors, the identity (all 1.0) first  # (2**n, n)."""
    return np.array(list(itertools.product((1.0, -1.0), repeat=n)))


def permutations(source: Stream, groups: Sequence[int] | IntArray, start: int, stop: int) -> IntArray:
    """Return permutations that keep every unit in its group, for replicates start..stop  # (stop-start, n).

    Args:
        source: the stream; unit ``i`` of a replicate is sorted by the high 40 bits of its own word.
        groups: for each unit the number (from 0) of its group; all zeros permutes freely.
    """
    group = np.asarray(groups, dtype=np.uint64)
    n, rows = group.size, stop - start
    words = source.words(start * n, rows * n).reshape(rows, n)
    order = np.argsort((group << np.uint64(40)) | (words >> np.uint64(24)), axis=1, kind="stable")
    result = np.empty((rows, n), dtype=np.int64)
    result[:, np.argsort(group, kind="stable")] = order
    return result


# ------------------------------------------------------------------ exact sums


def on_grid(values: FloatArray, terms: int) -> tuple[FloatArray, IntArray]:
    """Return integers q and exponents g (one a column): values ≈ q·2**-g and terms·max|q| < 2**53."""
    _, exponent = np.frexp(np.abs(values).max(axis=0))
    g = 53 - terms.bit_length() - exponent.astype(np.int64)
    if g.max() > 1000:  # 2**g is no float64: values near the smallest ones
        return np.rint(np.ldexp(values, g)), g
    scaled = values * np.ldexp(1.0, g)  # exact, and several times faster than ldexp of every value
    return np.rint(scaled, out=scaled), g


def exact_sum(values: FloatArray) -> FloatArray:
    """Return sums over the first axis that do not depend on the order of the terms."""
    q, g = on_grid(values, values.shape[0])
    return np.asarray(np.ldexp(q.sum(axis=0), -g))


def exact_mean(values: FloatArray) -> FloatArray:
    """Return means over the first axis that do not depend on the order of the terms.

    Two passes: the mean, then the mean of what it leaves over, so that nothing of the data's precision
    is lost to the grid.
    """
    first = exact_sum(values) / values.shape[0]
    return np.asarray(first + exact_sum(values - first) / values.shape[0])


def exact_variance(values: FloatArray, mean: FloatArray | None = None) -> FloatArray:
    """Return sample variances (ddof = 1) over the first axis, 0.0 where all that varies is rounding."""
    centre = exact_mean(values) if mean is None else mean
    deviation = values - centre
    variance = exact_sum(deviation * deviation) / (values.shape[0] - 1)
    constant = np.abs(deviation).max(axis=0) <= _DEGENERATE * np.abs(values).max(axis=0)
    return np.asarray(np.where(constant, 0.0, variance))


def resampled_moments(
    values: FloatArray, source: Stream, *, resamples: int, block: int = 512
) -> tuple[FloatArray, FloatArray]:
    """Return the mean minus the sample mean, and the squared standard error, of every bootstrap replicate.

    Args:
        values: columns share their units and hence their resamples  # (n, C)
        source: the stream of the counts.
        resamples: replicates B.
        block: replicates a matrix product; bounds memory, cannot change a result.

    Returns:
        Two arrays  # (B, C); a squared standard error is exactly 0.0 where a replicate has no spread.
    """
    n, columns = values.shape
    deviation = values - exact_mean(values)
    first, g1 = on_grid(deviation, n)
    second, g2 = on_grid(deviation * deviation, n)
    data = np.concatenate([first, second], axis=1)
    shift = np.empty((resamples, columns))
    squares = np.empty((resamples, columns))
    for start, stop in blocks(resamples, block):
        product = multinomial_counts(source, n, start, stop) @ data
        shift[start:stop] = np.ldexp(product[:, :columns], -g1) / n
        squares[start:stop] = np.ldexp(product[:, columns:], -g2) / n
    variance = squares - shift * shift
    variance[variance <= 2.0**-30 * squares] = 0.0  # one unit drawn n times, or units that tie
    return shift, variance / (n - 1)


# ------------------------------------------------------------------ input


def _finite(values: ArrayLike, where: str, shape: str, ndim: int) -> FloatArray:
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise Invalid(Problem(where, "is not an array of numbers", f"pass numbers of shape {shape}")) from error
    if array.ndim != ndim:
        raise Invalid(Problem(where, f"has shape {array.shape}", f"pass shape {shape}"))
    if not np.isfinite(array).all():
        raise Invalid(Problem(where, "holds a NaN or an infinity", "leave out or mend what could not be measured"))
    if array.size and not np.abs(array).max() < _LARGEST:
        raise Invalid(Problem(where, f"holds a magnitude of {_LARGEST:g} or more", "rescale the measure"))
    return array


def number(value: float, where: str) -> float:
    """Return a finite number.

    Raises:
        Invalid: no number, not finite, or too large to be squared twice.
    """
    return float(_finite(value, where, "()", 0))


def vector(values: ArrayLike, where: str, *, least: int = 2) -> FloatArray:
    """Return a finite float64 vector of at least ``least`` numbers.

    Raises:
        Invalid: not numbers, not one-dimensional, not finite, too short.
    """
    array = _finite(values, where, "(n,)", 1)
    if array.size < least:
        raise Invalid(Problem(where, f"has {array.size} values", f"give at least {least}"))
    return array


def matrix(values: ArrayLike, where: str, *, rows: int = 1, columns: int = 1) -> FloatArray:
    """Return a finite float64 matrix with at least the given numbers of rows and columns.

    Raises:
        Invalid: not numbers, not two-dimensional, not finite, too small.
    """
    array = _finite(values, where, "(rows, columns)", 2)
    if array.shape[0] < rows or array.shape[1] < columns:
        raise Invalid(Problem(where, f"has shape {array.shape}", f"give at least {rows} rows and {columns} columns"))
    return array


def cluster_means(values: FloatArray, clusters: Sequence[Any] | NDArray[Any]) -> FloatArray:
    """Return the mean of each cluster, clusters in sorted order: the units of a clustered design.

    Every cluster then weighs the same, whatever its size: the estimand is the mean over clusters of the
    cluster mean (statistics.md, clustered designs).

    Args:
        values: items along the first axis  # (n,) or (n, C)
        clusters: a label for each item.

    Raises:
        Invalid: not one label an item, or fewer than two clusters.

    >>> cluster_means(np.array([1.0, 2.0, 6.0]), ["b", "b", "a"]).tolist()
    [6.0, 1.5]
    """
    labels = np.asarray(clusters)
    if labels.shape != values.shape[:1]:
        raise Invalid(Problem("clusters", f"{labels.shape} labels for {values.shape[0]} items", "give one an item"))
    names, member = np.unique(labels, return_inverse=True)
    if names.size < 2:
        raise Invalid(Problem("clusters", "all items are in one cluster", "give at least two clusters"))
    return np.stack([exact_mean(values[member == k]) for k in range(names.size)])
