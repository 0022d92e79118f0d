"""Interim looks: what part of the items each look sees, and what part of alpha it may spend.

With ``stopping: {kind: looks, at: [0.5]}`` every condition is run in parts, the first of them the first
half of every measure's items in their frozen order. A part of a measure is scored like a measure of its
own, named ``measure@1``, ``measure@2``, and look l judges the claims on the items of parts 1 to l.

A claim judged L times at alpha is wrong more often than alpha. The levels of the looks share it by a
spending function f of the information fraction t, the registered share of items (Lan & DeMets 1983,
Biometrika 70:659), with f(1) = alpha:

    obrien_fleming   2 - 2 Phi(z_{1 - alpha/2} / sqrt(t))      almost nothing early
    pocock           alpha log(1 + (e - 1) t)                  about the same each time

A look at t, behind one that was taken at s, is judged at f(t) - f(s); looks that were not taken cost
nothing. The probability that any look is wrong is then at most the sum of their levels, which is at most
alpha, whatever the dependence between looks: no joint distribution of the statistics is assumed, which
for p-values of randomisation and bootstrap would be an approximation. The price against the usual
boundaries (which use the correlation of normal means) is small for ``obrien_fleming``.

Nothing here needs scipy: a registration is checked and frozen without it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import pairwise
from statistics import NormalDist

from prereg_moe.registration.schema import Looks, Registration, TaskMeasure

__all__ = ["boundaries", "level", "part_count", "part_of", "spent", "split"]

_PLACES = 1e12  # levels are rounded down here: the last digits of a normal distribution differ between machines


def spent(spending: str, alpha: float, fraction: float) -> float:
    """Return how much of alpha is spent at an information fraction.

    >>> [round(spent("obrien_fleming", 0.05, t), 5) for t in (0.25, 0.5, 1.0)]
    [9e-05, 0.00557, 0.05]
    >>> round(spent("pocock", 0.05, 0.5), 5)
    0.03101
    """
    if fraction >= 1:
        return alpha
    if spending == "pocock":
        return alpha * math.log1p((math.e - 1) * fraction)
    normal = NormalDist()
    return 2 * normal.cdf(-normal.inv_cdf(1 - alpha / 2) / math.sqrt(fraction))


def level(registration: Registration, alpha: float, look: int | None, taken: Iterable[int]) -> float:
    """Return the level of a look at claims that have ``alpha`` in all.

    Args:
        registration: the registration; without looks the level is alpha.
        look: number of the look, from 1; None for the last one, at all items.
        taken: the looks that were taken.
    """
    looks = registration.stopping
    if not isinstance(looks, Looks):
        return alpha
    before = max((one for one in taken if look is None or one < look), default=None)
    now = 1.0 if look is None else looks.at[look - 1]
    if before is None and look is None:
        return alpha
    gone = 0.0 if before is None else spent(looks.spending, alpha, looks.at[before - 1])
    return math.floor((spent(looks.spending, alpha, now) - gone) * _PLACES) / _PLACES


def boundaries(registration: Registration, measure: str) -> tuple[int, ...]:
    """Return how many items an axis the looks at a measure see, the last of them all; ``(items,)`` without looks."""
    items, looks = registration.measures[measure].items, registration.stopping
    early = looks.at if isinstance(looks, Looks) else ()
    return (*(math.ceil(round(at * items, 9)) for at in early), items)


def part_count(registration: Registration) -> int:
    """Return in how many parts every condition is run; 1 without looks."""
    return 1 + (len(registration.stopping.at) if isinstance(registration.stopping, Looks) else 0)


def part_of(measure: str) -> int:
    """Return which part of a measure a name stands for, from 1; 1 where it stands for all of it.

    >>> part_of("nll@2"), part_of("nll")
    (2, 1)
    """
    return int(measure.rpartition("@")[2]) if "@" in measure else 1


def split(registration: Registration) -> Registration:
    """Return the registration as it is run: every part of a measure is a measure. Without looks, itself."""
    if part_count(registration) == 1:
        return registration
    parts: dict[str, TaskMeasure] = {}
    for name, measure in registration.measures.items():
        ends = (0, *boundaries(registration, name))
        for number, (start, end) in enumerate(pairwise(ends), start=1):
            changed = {"skip": measure.skip + start, "items": end - start}
            parts[f"{name}@{number}"] = measure.model_copy(update=changed)
    return registration.model_copy(update={"measures": {**registration.measures, **parts}})
