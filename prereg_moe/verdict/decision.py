"""A verdict on one family and why: the words every rule decides in."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from prereg_moe import stats
from prereg_moe.registration.schema import Correction

__all__ = [
    "CONFIRMED",
    "INCONCLUSIVE",
    "INVALID",
    "REASONS",
    "REFUTED",
    "Decision",
    "adjusted",
    "gated",
    "in_place",
    "near",
]

Array = NDArray[np.float64]

CONFIRMED, REFUTED, INCONCLUSIVE, INVALID = "CONFIRMED", "REFUTED", "INCONCLUSIVE", "INVALID"

REASONS = {
    "ALL_PARTS_HOLD": "every part of the rule holds at its corrected level",
    "NOT_BEYOND_RANDOM": "not distinguishable from random expert sets of the same size",
    "NOT_HARMED": "masking the family is not shown to harm its own axis",
    "NOT_BEYOND_MINIMUM": "the effect is not shown to exceed the registered minimum",
    "NOT_SELECTIVE": "not shown to spare every other axis",
    "SKEW_UNCONFIRMED": "the data are skewed against the rule and the Welch-t version does not agree",
    "HARMS_ANOTHER_AXIS": "another axis is shown to be harmed beyond on / kappa",
    "NO_EFFECT": "the effect is shown to lie inside the registered minimum",
    "NOT_INSIDE_MARGIN": "the mean is not shown to lie inside the registered margin",
    "OUTSIDE_MARGIN": "the mean is shown to lie outside the registered margin",
    "TOO_FEW_UNITS": "fewer than two units",
    "EXPRESSION_TRUE": "the registered expression is true",
    "EXPRESSION_FALSE": "the registered expression is false, which by itself refutes nothing",
    "EXPRESSION_UNKNOWN": "a quantity of the registered expression does not exist",
    "REFUTING_EXPRESSION_TRUE": "the registered refuting expression is true",
    "POSITIVE_CONTROL_FAILED": "the positive control did not come out as registered",
    "NEGATIVE_CONTROL_FAILED": "the negative control did not come out as registered",
}
_KNIFE_EDGE_Z = 0.2  # standard errors between the verdict and its bar
_MONTE_CARLO_SE = 3.0


@dataclass(frozen=True, slots=True)
class Decision:
    """A verdict on one family and why.

    Attributes:
        verdict: CONFIRMED, REFUTED, INCONCLUSIVE or INVALID.
        reasons: keys of :data:`REASONS`, what decided first.
        flags: what limits it.
        p: largest p of the parts, each for this claim alone; None where the rule has none.
        p_adjusted: the same, each part corrected over the block's families.
        margin: distance to the nearest bar, in units of the measure; + is on the claim's side.
        parts: the numbers behind it.
    """

    verdict: str
    reasons: tuple[str, ...]
    flags: tuple[str, ...] = ()
    p: float | None = None
    p_adjusted: float | None = None
    margin: float | None = None
    parts: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the decision as plain JSON, without its parts."""
        return {
            "verdict": self.verdict,
            "reasons": list(self.reasons),
            "flags": list(self.flags),
            "p": self.p,
            "p_adjusted": self.p_adjusted,
            "margin": self.margin,
        }


def gated(decision: Decision, failed: Sequence[str]) -> Decision:
    """Return the decision as it stands once the controls are known: INVALID where one failed."""
    return replace(decision, verdict=INVALID, reasons=tuple(failed)) if failed else decision


def near(p: float, alpha: float, resamples: int) -> dict[str, bool]:
    """Return flag -> whether it holds, of those that say how near a p is to alpha."""
    monte_carlo_se = math.sqrt(alpha * (1 - alpha) / resamples)
    return {
        "MONTE_CARLO": abs(p - alpha) < _MONTE_CARLO_SE * monte_carlo_se,
        "KNIFE_EDGE": 0 < p < 1 and abs(float(ndtri(p)) - float(ndtri(alpha))) < _KNIFE_EDGE_Z,
    }


def in_place(part: Array, claim: Array, correction: Correction) -> Array:
    """Return each claim's adjusted p if this part were all of it; where it is the largest part, that is its own."""
    each = range(claim.size)
    return np.array([adjusted(np.where(np.arange(claim.size) == f, part, claim), correction)[f] for f in each])


def adjusted(p: Array, correction: Correction) -> Array:
    """Return the p-values of claims, corrected over all of them by a method other than max-T."""
    return p if correction == "none" else np.asarray(stats.adjust(p, correction))
