"""Judging: evidence in, one canonical verdict document out; nothing else decides anything.

:func:`judge` estimates every block of claims, decides it by its registered rule, lets the
controls gate the rest, and joins blocks that are registered as replications of each other. Its
document holds everything a report shows, so a report is rendered from it alone. Where a multiverse is
registered, `verdict.multiverse` judges its specifications by the same code, beside the verdicts.

What the ledger says beside the evidence (a :class:`~prereg_moe.record.Record`) stands in the
document's ``record``, which is there only where there is something to own up to. Verdicts under a
plan that was amended after the run began are POST-HOC whatever they find; beside each stands what it
would have been, and what the registered plan found. Where interim looks were taken, a claim that one
of them confirmed or refuted keeps that look's entry, which says so by ``look``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from prereg_moe import canonical, stats
from prereg_moe.atlas import RoutingAtlas, share
from prereg_moe.evidence import Evidence
from prereg_moe.frozen import Frozen
from prereg_moe.record import Record
from prereg_moe.registration import Registration, differences, family_names, level
from prereg_moe.registration.schema import Claims, ModelControl, ModelControls, Replication
from prereg_moe.verdict.decide import decide, worst
from prereg_moe.verdict.decision import CONFIRMED, INCONCLUSIVE, INVALID, REASONS, REFUTED, Decision, gated
from prereg_moe.verdict.estimate import Effects, effects
from prereg_moe.verdict.multiverse import explore

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["POST_HOC", "REASONS", "SCHEMA", "Verdicts", "control_outcomes", "judge"]

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


POST_HOC = "POST-HOC"


def judge(
    evidence: Evidence, record: Record | None = None, atlases: Mapping[str, RoutingAtlas] | None = None
) -> Verdicts:
    """Return the verdicts on complete evidence, byte for byte the same wherever it is judged.

    Args:
        evidence: complete evidence.
        record: what the ledger says about the study; None judges as if it said nothing.
        atlases: model -> the routing atlas that was frozen. It decides nothing: its shares stand in the document's
            ``atlas`` for reports to show, and without it that key is absent.
    """
    record = record or Record()
    frozen = evidence.frozen
    document = {
        "schema": SCHEMA,
        "registration": frozen.digest,
        "evidence": evidence.digest,
        "study": frozen.document["registration"],
        "families": frozen.document["families"],
        "environment": dict(evidence.environment),
        "conditions": len(frozen.plan),
        **_sequential(evidence, record),
    }
    if atlases:
        document["atlas"] = {model: _shares(atlases[model]) for model in frozen.document["layout"] if model in atlases}
    if record.document:
        document["record"] = _owned_up(evidence, record, document["verdicts"])
    return Verdicts(document)


def _shares(atlas: RoutingAtlas) -> dict[str, Any]:
    """Return a model's routing as the document has it: each expert's share of its layer's mass, to six digits."""
    table = share(atlas.mass)
    return {
        "layers": list(atlas.layout.layers),
        "experts": atlas.layout.experts,
        "axes": {
            axis: [[float(f"{value:.6g}") for value in row] for row in table[index].tolist()]
            for index, axis in enumerate(atlas.axes)
        },
    }


def _sequential(evidence: Evidence, record: Record) -> dict[str, list[dict[str, Any]]]:
    """Return what is judged now, but of each claim what the first look that decided it said.

    A control that fails now makes every other claim INVALID, also one that a look decided.
    """
    found, now = _judged(evidence, record), evidence.frozen.look
    earlier = [look for look in record.looks if now is None or look < now]
    if not earlier or not all(control["holds"] for control in found["controls"]):
        return found
    kept: dict[str, dict[str, Any]] = {}
    for look in earlier:
        for entry in _judged(evidence.first(look), record)["verdicts"]:
            if entry["tier"] != "control" and entry["verdict"] in (CONFIRMED, REFUTED):
                kept.setdefault(entry["claim"], {**entry, "look": look})
    return {**found, "verdicts": [kept.get(entry["claim"], entry) for entry in found["verdicts"]]}


def _judged(evidence: Evidence, record: Record) -> dict[str, list[dict[str, Any]]]:
    """Return controls, verdicts and replications under the plan the evidence is of."""
    frozen = evidence.frozen
    registration = frozen.registration
    measured = {claims.id: effects(evidence, claims) for claims in registration.claims}
    alpha = {claims.id: record.level(frozen, claims) for claims in registration.claims}
    decided = {
        claims.id: decide(
            measured[claims.id], registration.rules[claims.rule], registration.inference, alpha[claims.id]
        )
        for claims in registration.claims
    }
    controls = control_outcomes(frozen.registration.controls, decided)
    failed = tuple(f"{control['name'].upper()}_CONTROL_FAILED" for control in controls if not control["holds"])
    for claims in registration.claims:
        if claims.tier != "control":
            decided[claims.id] = {family: gated(one, failed) for family, one in decided[claims.id].items()}
    found = explore(evidence, failed, alpha)
    return {
        "controls": controls,
        "verdicts": [
            _entry(claims, family, measured[claims.id], decided[claims.id][family], alpha[claims.id])
            for claims in registration.claims
            for family in measured[claims.id].families
        ],
        "replications": [
            entry
            for replication in registration.replication
            for entry in _replicate(frozen, replication, decided, failed, _level(frozen, replication, record))
        ],
        **({"multiverse": found} if found else {}),
    }


def _owned_up(evidence: Evidence, record: Record, registered: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the document's ``record``: what the ledger says, and what amended plans would have found."""
    document = dict(record.document)
    if "deviations" in document:
        document["deviations"] = [
            {**said, "post_hoc": _post_hoc(evidence, record, record.plans[said["number"]], registered)}
            if said["number"] in record.plans
            else said
            for said in document["deviations"]
        ]
    if "looks" in document:
        document["looks"] = [
            {**said, "decided": [entry["claim"] for entry in registered if entry.get("look") == said["look"]]}
            for said in document["looks"]
        ]
    return document


def _post_hoc(
    evidence: Evidence, record: Record, plan: Registration, registered: list[dict[str, Any]]
) -> dict[str, Any]:
    """Return the claims of an amended plan beside the registered ones; not one of them can be CONFIRMED."""
    amended = evidence.frozen.under(plan.model_copy(update={"multiverse": None}))
    found = {entry["claim"]: entry for entry in _sequential(replace(evidence, frozen=amended), record)["verdicts"]}
    before = {entry["claim"]: entry for entry in registered}
    return {
        "changes": differences(evidence.frozen.registration, plan),
        "verdicts": [
            {
                "claim": claim,
                "registered": before[claim]["verdict"] if claim in before else None,
                "verdict": POST_HOC if claim in found else None,
                "would_have_been": found[claim]["verdict"] if claim in found else None,
                "reasons": found[claim]["reasons"] if claim in found else [],
                **{name: found[claim][name] if claim in found else None for name in ("alpha", "p_adjusted", "margin")},
            }
            for claim in dict.fromkeys([*before, *found])
        ],
    }


def _level(frozen: Frozen, replication: Replication, record: Record) -> float:
    """Return alpha for a replication: shared by the registrations any of its blocks shares it with."""
    blocks = [claims for claims in frozen.registration.claims if claims.id in replication.claims]
    alpha = frozen.registration.inference.alpha / max(record.share(frozen, claims) for claims in blocks)
    return level(frozen.registration, alpha, frozen.look, record.looks)


def _entry(claims: Claims, family: str, measured: Effects, decision: Decision, alpha: float) -> dict[str, Any]:
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
        "alpha": alpha,
        **decision.to_json(),
        "estimates": {
            "on": measured.intervals[family][axis].to_json(),
            "off": {other: measured.intervals[family][other].to_json() for other in measured.off[family]},
            "worst_off": {"axis": worst_axis, **worst_interval.to_json()},
            **decision.parts,
        },
    }


def control_outcomes(controls: ModelControls, decided: Mapping[str, Mapping[str, Decision]]) -> list[dict[str, Any]]:
    """Return how each registered control came out: how many claims of its block are confirmed, and whether it holds."""
    found = []
    for name in ("positive", "negative"):
        control: ModelControl | None = getattr(controls, name)
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
    frozen: Frozen,
    replication: Replication,
    decided: Mapping[str, Mapping[str, Decision]],
    failed: tuple[str, ...],
    alpha: float,
) -> list[dict[str, Any]]:
    """Return, for each family of all the blocks, whether at least u of the K blocks support it.

    Partial conjunction p^{u/K} = (K - u + 1) * p_(u) (Benjamini & Heller 2008), over the blocks'
    own p for ``p`` and over their family-wise adjusted p for ``p_adjusted``. The chance of any
    false replication in the list is at most alpha for each block in which its family is null.
    """
    blocks = [decided[name] for name in replication.claims]
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
