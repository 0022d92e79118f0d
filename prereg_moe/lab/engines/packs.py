"""Which conditions are computed together: a function of the frozen registration, never of the run."""

from __future__ import annotations

import itertools

from prereg_moe.frozen import Frozen

__all__ = ["packs"]


def packs(frozen: Frozen) -> list[tuple[str, ...]]:
    """Return the digests of all planned conditions in packs, in the order they are run.

    A pack is of one model and one measure. `stock` computes every condition alone; `sweep` shares a
    baseline's computation among as many conditions as ``engine.pack`` says, spread evenly.
    """
    engine = frozen.registration.engine
    groups: dict[tuple[str, str], list[str]] = {}
    for digest, condition in frozen.plan.items():
        groups.setdefault((condition.model, condition.measure), []).append(digest)
    size = 1 if engine.kind == "stock" else engine.pack
    return [pack for digests in groups.values() for pack in _evenly(digests, size)]


def _evenly(digests: list[str], size: int) -> list[tuple[str, ...]]:
    """Return consecutive packs of at most ``size``, whose sizes differ by one at most."""
    count = -(-len(digests) // size)
    cuts = [len(digests) * number // count for number in range(count + 1)]
    return [tuple(digests[low:high]) for low, high in itertools.pairwise(cuts)]
