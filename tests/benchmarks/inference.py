"""Benchmarks of the statistics engine: ``python tests/benchmarks/inference.py [memory decision bca screen]``.

Every comparison runs side by side in one process, and raw CPU seconds are printed beside the ratios: with
OMP_NUM_THREADS=1 they are those of one core, whatever else the machine does. Rivals that would take hours are
measured on a slice, and the extrapolation is printed. arch is compared where it is installed (it is no dependency of
the project).
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator

import numpy as np
from scipy import stats as scipy_stats

from prereg_moe import stats

out = sys.stdout.write


def seconds(work: Callable[[], object], repeats: int = 3) -> float:
    """Return the best CPU time of several runs."""
    best = float("inf")
    for _ in range(repeats):
        start = time.process_time()
        work()
        best = min(best, time.process_time() - start)
    return best


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def decision() -> bool:
    """The full decision: 6 families × 6 axes × 4 measures, n = 150, R = 119, B = 9,999."""
    rng = np.random.default_rng(0)
    families, n, draws = 6, 150, 119
    axes = [f"axis {a}" for a in range(families)]
    theta = np.where(np.eye(families) > 0, [1.8, 1.29, 0.63, 0.37, 0.49, 0.10], 0.12)

    def measure() -> tuple[list[dict[str, np.ndarray]], list[np.ndarray]]:
        shared = rng.lognormal(0, 0.4, (families, n))
        deltas = theta[:, :, None] * shared * rng.lognormal(-0.08, 0.4, (families, families, n))
        deltas += 0.1 * rng.standard_normal(deltas.shape)
        null = (
            0.1
            * rng.lognormal(0, 0.4, (families, draws, 1))
            * shared[:, None]
            * rng.lognormal(-0.08, 0.4, (families, draws, n))
        )
        return [dict(zip(axes, row, strict=True)) for row in deltas], list(null)

    measures = [measure() for _ in range(4)]

    def decide() -> None:
        for deltas, null in measures:
            on = [row[axis] for row, axis in zip(deltas, axes, strict=True)]
            off = [{a: x for a, x in row.items() if a != axis} for row, axis in zip(deltas, axes, strict=True)]
            stats.beats_null(on, null, labels=axes, min_effect=0.02, seed=2026)
            stats.selective(on, off, on_axes=axes, seed=2026)

    took = seconds(decide)
    out(f"full decision, 6 families × 6 axes × 4 measures, n=150, R=119, B=9,999: {took:.2f} s (bar 2 s)\n")
    return took <= 2


def bca() -> bool:
    """144 BCa intervals of means, n = 150, B = 9,999."""
    values = np.random.default_rng(0).lognormal(size=(150, 144))
    ours = seconds(lambda: stats.bootstrap_many(values, interval="bca", resamples=9999, seed=1))
    options = {"n_resamples": 9999, "method": "BCa", "axis": 0}
    theirs = seconds(
        lambda: scipy_stats.bootstrap(
            (values,), np.mean, vectorized=True, batch=256, rng=np.random.default_rng(0), **options
        ),
        1,
    )
    columns = 12
    looped = (
        144
        / columns
        * seconds(
            lambda: [
                scipy_stats.bootstrap((values[:, c],), np.mean, rng=np.random.default_rng(0), **options)
                for c in range(columns)
            ],
            1,
        )
    )
    out(f"144 BCa intervals, n=150, B=9,999: ours {ours:.2f} s; scipy vectorised {theirs:.2f} s ({theirs / ours:.1f}×)")
    out(f"; scipy one by one {looped:.2f} s ({looped / ours:.1f}×, from {columns} of 144)\n")
    return theirs / ours >= 2 and _arch(values, ours)


def _arch(values: np.ndarray, ours: float) -> bool:
    try:
        from arch.bootstrap import IIDBootstrap
    except ImportError:
        out("  arch is not installed: not compared\n")
        return True
    columns = 8
    took = (
        144
        / columns
        * seconds(
            lambda: [
                IIDBootstrap(values[:, c], seed=np.random.default_rng(0)).conf_int(np.mean, reps=9999, method="bca")
                for c in range(columns)
            ],
            1,
        )
    )
    out(f"  arch {took:.2f} s ({took / ours:.1f}×, from {columns} of 144)\n")
    return took / ours >= 5


def screen() -> bool:
    """4,096 conditions × 6 axes, n = 5,000, B = 10,000; scipy's from slices of 4 and of 64 conditions."""
    axes, n, conditions, resamples = 6, 5000, 4096, 10000

    def read() -> Iterator[tuple[str, np.ndarray]]:
        for a in range(axes):
            yield f"axis {a}", np.random.default_rng(a).standard_normal((n, conditions), dtype=np.float32)

    generating = seconds(lambda: [None for _ in read()], 1)
    start = time.process_time()
    stats.screen(read(), resamples=resamples)
    ours = time.process_time() - start - generating
    peak = peak_mib()
    slice_ = next(read())[1][:, :64].astype(float)
    out(f"screen of 4,096 conditions × 6 axes, n=5,000, B=10,000: ours {ours:.1f} s, peak {peak:.0f} MiB\n")

    def rival(columns: np.ndarray) -> None:
        options = {"axis": 0, "n_resamples": resamples, "batch": 100, "vectorized": True, "method": "percentile"}
        scipy_stats.bootstrap((columns,), np.mean, rng=np.random.default_rng(0), **options)

    singly = axes * conditions / 4 * seconds(lambda: [rival(slice_[:, [c]]) for c in range(4)], 1)
    together = axes * conditions / 64 * seconds(lambda: rival(slice_), 1)
    out(f"  scipy percentile, a condition a call: {singly:.0f} s ({singly / ours:.0f}×, from 4 of 24,576 conditions)\n")
    out(f"  scipy percentile, 64 conditions a call: {together:.0f} s ({together / ours:.0f}×, from 64; no max-T)\n")
    return singly / ours >= 80 and peak < 1024


def memory() -> bool:
    """Resident memory of a screen does not grow with B."""
    values = np.random.default_rng(0).standard_normal((1000, 512))
    peaks = []
    for resamples in (500, 5000, 50000):
        stats.screen({"a": values}, resamples=resamples)
        peaks.append(peak_mib())
    out(f"peak memory of a screen at B = 500, 5,000, 50,000: {', '.join(f'{p:.0f}' for p in peaks)} MiB\n")
    return peaks[-1] - peaks[0] < 16


def main() -> int:
    """Run the named benchmarks, or all; the exit code is 1 if a bar was missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=["memory", "decision", "bca", "screen"])
    options = parser.parse_args()
    out(f"numpy {np.__version__}, OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS', 'unset')}\n")
    known: dict[str, Callable[[], bool]] = {
        "memory": memory, "decision": decision, "bca": bca, "screen": screen,
    }  # fmt: skip
    met = {name: known[name]() for name in options.names}
    out("".join(f"{name}: {'met' if held else 'MISSED'}\n" for name, held in met.items()))
    return 0 if all(met.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
