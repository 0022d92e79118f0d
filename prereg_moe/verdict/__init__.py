"""Judging: evidence in, one canonical verdict document out; nothing else decides anything.

:func:`judge` estimates every block of claims, decides it by its registered rule, lets the
controls gate the rest, and joins blocks that are registered as replications of each other. Its
document holds everything a report shows, so a report is rendered from it alone. Where a multiverse is
registered, `verdict.multiverse` judges its specifications by the same code, beside the verdicts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from prereg_moe import canonical, stats
from prereg_moe.evidence import Evidence
from prereg_moe.frozen import Frozen
from prereg_moe.registration import block_alpha, family_names
from prereg_moe.registration.schema import Claims, Replication
from prereg_moe.verdict.decide import CONFIRMED, INCONCLUSIVE, INVALID, REASONS, Decision, decide, gated, worst
from prereg_moe.verdict.estimate import Effects, effects
from prereg_moe.verdict.multiverse import explore

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["REASONS", "SCHEMA", "Verdicts", "judge"]

SCHEMA = "prereg-moe/verdict/1"


@dataclass(frozen=True, slots=True)
class Verdicts:
    """The verdict document.

    Attributes:
        document: plain JSON; ``verdicts`` has one entry a claim.
    """

    document: Mapping[str, Any]

    @property
    def bytes(self) -> bytes:
        """The canonical bytes, as ``verdict.json`` holds them."""
        return canonical.dumps(self.document)

    def to_frame(self) -> pd.DataFrame:
        """Return a frame with one row a claim.

        Columns: claim, model, family, axis, measure, rule, tier, verdict, reasons, flags (joined
        by commas), estimate, low, high, worst_off_axis, worst_off, null_mean, null_sd, p,
        p_adjusted, margin.
        """
        import pandas as pd  # a frame is asked for rarely and pandas takes a second to import

        columns = ["claim", "model", "family", "axis", "measure", "rule", "tier", "verdict"]
        rows = [
            {
                **{name: entry[name] for name in columns},
                "reasons": ",".join(entry["reasons"]),
                "flags": ",".join(entry["flags"]),
                **{name: entry["estimates"]["on"][name] for name in ("estimate", "low", "high")},
                "worst_off_axis": entry["estimates"]["worst_off"]["axis"],
                "worst_off": entry["estimates"]["worst_off"]["estimate"],
                "null_mean": entry["estimates"].get("null", {}).get("mean"),
                "null_sd": entry["estimates"].get("null", {}).get("sd"),
                **{name: entry[name] for name in ("p", "p_adjusted", "margin")},
            }
            for entry in self.document["verdicts"]
        ]
        return pd.DataFrame(rows)


def judge(evidence: Evidence) -> Verdicts:
    """Return the verdicts on complete evidence, byte for byte the same wherever it is judged."""
    frozen = evidence.frozen
    registration = frozen.registration
    measured = {claims.id: effects(evidence, claims) for claims in registration.claims}
    decided = {
        claims.id: decide(
            measured[claims.id],
            registration.rules[claims.rule],
            registration.inference,
            block_alpha(registration, claims),
        )
        for claims in registration.claims
    }
    controls = _controls(frozen, decided)
    failed = tuple(f"{control['name'].upper()}_CONTROL_FAILED" for control in controls if not control["holds"])
    for claims in registration.claims:
        if claims.tier != "control":
            decided[claims.id] = {family: gated(one, failed) for family, one in decided[claims.id].items()}
    found = explore(evidence, failed)
    return Verdicts(
        {
            "schema": SCHEMA,
            "registration": frozen.digest,
            "evidence": evidence.digest,
            "study": frozen.document["registration"],
            "families": frozen.document["families"],
            "environment": dict(evidence.environment),
            "conditions": len(frozen.plan),
            "controls": controls,
            "verdicts": [
                _entry(frozen, claims, family, measured[claims.id], decided[claims.id][family])
                for claims in registration.claims
                for family in measured[claims.id].families
            ],
            "replications": [
                entry
                for replication in registration.replication
                for entry in _replicate(frozen, replication, decided, failed)
            ],
            **({"multiverse": found} if found else {}),
        }
    )


def _entry(frozen: Frozen, claims: Claims, family: str, measured: Effects, decision: Decision) -> dict[str, Any]:
    axis = measured.axis[family]
    worst_axis, worst_interval = worst(measured, family)
    return {
        "claim": f"{claims.id}.{family}",
        "block": claims.id,
        "model": claims.model,
        "family": family,
        "axis": axis,
        "measure": claims.measure,
        "rule": claims.rule,
        "tier": claims.tier,
        "alpha": block_alpha(frozen.registration, claims),
        "verdict": decision.verdict,
        "reasons": list(decision.reasons),
        "flags": list(decision.flags),
        "p": decision.p,
        "p_adjusted": decision.p_adjusted,
        "margin": decision.margin,
        "estimates": {
            "on": measured.intervals[family][axis].to_json(),
            "off": {other: measured.intervals[family][other].to_json() for other in measured.off[family]},
            "worst_off": {"axis": worst_axis, **worst_interval.to_json()},
            **decision.parts,
        },
    }


def _controls(frozen: Frozen, decided: Mapping[str, Mapping[str, Decision]]) -> list[dict[str, Any]]:
    found = []
    for name in ("positive", "negative"):
        control = getattr(frozen.registration.controls, name)
        if control is None:
            continue
        block = decided[control.claims]
        confirmed = sum(decision.verdict == CONFIRMED for decision in block.values())
        enough = control.at_least is None or confirmed >= control.at_least
        few = control.at_most is None or confirmed <= control.at_most
        found.append(
            {
                "name": name,
                "claims": control.claims,
                "confirmed": confirmed,
                "of": len(block),
                "at_least": control.at_least,
                "at_most": control.at_most,
                "holds": enough and few,
            }
        )
    return found


def _replicate(
    frozen: Frozen, replication: Replication, decided: Mapping[str, Mapping[str, Decision]], failed: tuple[str, ...]
) -> list[dict[str, Any]]:
    """Return, for each family of all the blocks, whether at least u of the K blocks support it.

    Partial conjunction p^{u/K} = (K - u + 1) * p_(u) (Benjamini & Heller 2008), over the blocks'
    own p for ``p`` and over their family-wise adjusted p for ``p_adjusted``. The chance of any
    false replication in the list is at most alpha for each block in which its family is null.
    """
    blocks = [decided[name] for name in replication.claims]
    alpha = frozen.registration.inference.alpha
    entries = []
    for family in family_names(frozen.registration):
        if not all(family in block for block in blocks):
            continue
        p = _conjunction([block[family].p for block in blocks], replication.require)
        p_adjusted = _conjunction([block[family].p_adjusted for block in blocks], replication.require)
        holds = p_adjusted is not None and p_adjusted <= alpha
        entries.append(
            {
                "replication": replication.id,
                "family": family,
                "claims": [f"{name}.{family}" for name in replication.claims],
                "require": replication.require,
                "of": len(blocks),
                "confirmed": sum(block[family].verdict == CONFIRMED for block in blocks),
                "p": p,
                "p_adjusted": p_adjusted,
                "verdict": INVALID if failed else CONFIRMED if holds else INCONCLUSIVE,
                "reasons": list(failed),
            }
        )
    return entries


def _conjunction(p: list[float | None], require: int) -> float | None:
    known = [value for value in p if value is not None]
    return float(stats.partial_conjunction(known, require)) if len(known) == len(p) else None
