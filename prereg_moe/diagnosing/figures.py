"""From outcomes to figures: rates with Clopper-Pearson intervals, in the shape of the diagnosis file."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv

from prereg_moe.diagnosing.study import Outcomes

__all__ = ["errors", "planned", "rate", "replicated", "shares"]

Array = NDArray[np.float64]
_LEVEL = 0.95


def rate(hits: float, of: int) -> dict[str, Any]:
    """Return a rate with its two-sided 95% Clopper-Pearson interval.

    Estimand: the probability of what was counted. Formula: the beta quantiles B(.025; k, n - k + 1) and
    B(.975; k + 1, n - k). Assumption: n independent studies. Source: Clopper & Pearson 1934. Where a study
    contributes a share of its claims, k is a sum of shares and no whole number; the variance of a share is at
    most that of a single claim, so the interval is conservative.

    >>> {name: round(value, 4) for name, value in rate(3, 20).items()}
    {'estimate': 0.15, 'low': 0.0321, 'high': 0.3789, 'of': 20}
    """
    tail = (1 - _LEVEL) / 2
    low = 0.0 if hits <= 0 else float(betaincinv(hits, of - hits + 1, tail))
    high = 1.0 if hits >= of else float(betaincinv(hits + 1, of - hits, 1 - tail))
    return {"estimate": hits / of, "low": low, "high": high, "of": of}


def shares(hits: NDArray[np.bool_] | Array, among: NDArray[np.bool_] | None = None) -> dict[str, Any] | None:
    """Return the rate of hits over the claims of a study, each study counting once; None where there is none.

    Args:
        hits: whether (or how far) it happened  # (studies, claims)
        among: which claims count.
    """
    counted = np.ones(hits.shape, dtype=bool) if among is None else among
    counting = counted.any(axis=1)
    if not counting.any():
        return None
    found = np.where(counted, hits, 0.0)[counting].sum(axis=1) / counted[counting].sum(axis=1)
    return rate(math.fsum(found), int(counting.sum()))


def errors(outcomes: Mapping[str, Outcomes]) -> dict[str, Any]:
    """Return how often any claim of the blocks is confirmed, or refuted, where neither is true."""
    verdict = _verdicts(list(outcomes.values()))
    return {
        "confirmed": rate(float((verdict > 0).any(axis=1).sum()), len(verdict)),
        "refuted": rate(float((verdict < 0).any(axis=1).sum()), len(verdict)),
    }


def planned(outcomes: Mapping[str, Outcomes], passed: NDArray[np.bool_]) -> dict[str, Any]:
    """Return what happens where the claims are true as planned.

    Args:
        outcomes: block -> outcomes under the planned effects.
        passed: whether all controls passed; where not, every verdict is INVALID  # (studies,)
    """
    parts = list(outcomes.values())
    raw = _verdicts(parts)
    verdict = np.where(passed[:, None], raw, 9)
    confirmed = verdict == 1
    estimate = np.concatenate([part.estimate for part in parts], axis=1)
    return {
        "power": {"each": shares(confirmed), "all": rate(float(confirmed.all(axis=1).sum()), len(raw))},
        "refuted": rate(float((raw < 0).any(axis=1).sum()), len(raw)),
        "coverage": {
            "on": shares(np.concatenate([part.covered_on for part in parts], axis=1)),
            "off": shares(np.concatenate([part.covered_off for part in parts], axis=1)),
        },
        "type_s": shares(raw < 0, among=raw != 0),
        "exaggeration": _mean(estimate, raw == 1),
        "flips": _flips(verdict),
    }


def replicated(p_adjusted: Sequence[Array], require: int, alpha: float) -> NDArray[np.bool_]:
    """Return which families are replicated in at least ``require`` of the blocks, as `verdict` decides it.

    Args:
        p_adjusted: by block the adjusted p of the families all blocks have; NaN never replicates  # (studies, families)
        require: u of the partial conjunction.
        alpha: the registered level.
    """
    table = np.stack(p_adjusted)
    known = ~np.isnan(table).any(axis=0)
    conjunction = (len(table) - require + 1) * np.sort(table, axis=0)[require - 1]
    return np.asarray(known & (conjunction <= alpha))


def _verdicts(parts: Sequence[Outcomes]) -> NDArray[np.int8]:
    return np.concatenate([part.verdict for part in parts], axis=1)


def _flips(verdict: NDArray[np.int8]) -> dict[str, Any] | None:
    """Return how often a claim's verdict differs between studies 0 and 1, 2 and 3, and so on."""
    pairs = len(verdict) // 2
    return shares(verdict[: 2 * pairs : 2] != verdict[1 : 2 * pairs : 2]) if pairs else None


def _mean(values: Array, among: NDArray[np.bool_]) -> dict[str, Any] | None:
    """Return the mean over the studies that count, with its normal interval over studies."""
    counting = among.any(axis=1)
    if counting.sum() < 2:
        return None
    found = np.where(among, values, 0.0)[counting].sum(axis=1) / among[counting].sum(axis=1)
    mean = math.fsum(found) / len(found)
    half = 1.959964 * math.sqrt(math.fsum((found - mean) ** 2) / (len(found) - 1) / len(found))
    return {"estimate": mean, "low": mean - half, "high": mean + half, "of": len(found)}
