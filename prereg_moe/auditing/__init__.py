"""The audit: everything recomputed from the bytes, in numbered steps that all run.

    1  the ledger's chain holds and its stages stand in order
    2  the ledger holds the head the reader was given, as its last line or, said so, as an earlier one
    3  every sealed file is there, byte for byte, evidence too, and no other lies beside it
    4  the authored registration is the frozen one, and its diagnosis the pinned one
    5  weights, tokenizers, tasks and corpora are the frozen bytes, and the items follow from the corpora
    6  families and null draws follow from the sealed atlas
    7  the evidence is exactly the plan, with proofs of its interventions
    8  the verdicts follow from the evidence
    9  the reports follow from the verdicts

For evidence made elsewhere, 5 checks released files where they are at hand, 6 has nothing to look at,
and 7 derives the evidence again from the copied source files.

A step says *holds*, *fails* or *unchecked* (what it needs is not here, or is not due yet); no
step raises and none stops the others. That all hold means the record agrees with itself and
with the given head. It does not mean that nothing was run before the freeze.

    sealed      steps 1 to 3, on bytes alone
    frozen      steps 4 to 6
    results     steps 7 to 9
    elsewhere   the steps that differ for evidence made elsewhere
    case        what the steps share
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from prereg_moe import ledger, trust
from prereg_moe.auditing import elsewhere, frozen, results, sealed
from prereg_moe.auditing.case import Case, ImportedCase
from prereg_moe.errors import NotCheckable
from prereg_moe.findings import Finding, find
from prereg_moe.importing import is_imported
from prereg_moe.registry import Registry

__all__ = ["BYTE_STEPS", "STEPS", "Audit", "Finding", "audit"]

_PLANNED: Mapping[str, Callable[[Any], Iterator[str]]] = {
    "ledger": sealed.chain,
    "head": sealed.given_head,
    "sealed files": sealed.sealed_files,
    "registration": frozen.registration,
    "pinned files": frozen.pins,
    "families and draws": frozen.derived,
    "evidence": results.evidence,
    "verdict": results.verdicts,
    "report": results.reports,
}
_ELSEWHERE: Mapping[str, Callable[[Any], Iterator[str]]] = {
    **_PLANNED,
    "ledger": elsewhere.chain,
    "registration": elsewhere.registration,
    "pinned files": elsewhere.released,
    "families and draws": elsewhere.derived,
    "evidence": elsewhere.evidence,
    "verdict": elsewhere.verdicts,
}
STEPS = tuple(_PLANNED)
BYTE_STEPS = STEPS[:5]  # those that compare bytes; the others compute again what follows from them
_GRAVITY = (3, 4, 5, 2)


@dataclass(frozen=True, slots=True)
class Audit:
    """The findings on one registration.

    Attributes:
        registration: its id.
        head: the ledger's head as it was found.
        findings: one a step, in order.
        tiers: what the record's own consistency is backed by, in order.
    """

    registration: str
    head: str | None
    findings: tuple[Finding, ...]
    tiers: tuple[trust.Tier, ...] = ()

    @property
    def exit_code(self) -> int:
        """0 where everything checked holds; 4 where nothing was there to check."""
        codes = {finding.exit_code for finding in (*self.findings, *(tier.finding for tier in self.tiers))}
        if not any(finding.outcome == "holds" for finding in self.findings) and codes <= {0}:
            return NotCheckable.exit_code
        return next((code for code in _GRAVITY if code in codes), 0)


def audit(
    registry: Registry,
    id_: str,
    *,
    expected_head: str | None = None,
    known: trust.Known | None = None,
    steps: Collection[str] = (*STEPS, *trust.TIERS),
) -> Audit:
    """Return what the numbered steps find of a registration; nothing is written, nothing raises.

    Args:
        expected_head: the ledger's head the reader was given, at any time: the ledger may have grown since.
        known: the keys and authorities the reader knows.
        steps: the steps and the tiers to look at; :data:`BYTE_STEPS` alone are some forty times faster.
    """
    data = registry.ledger()
    seals, problems = ledger.examine(data)
    imported = is_imported(registry.registration(id_)) or ledger.stage(seals, id_) == "import"
    kind, looks = (ImportedCase, _ELSEWHERE) if imported else (Case, _PLANNED)
    case = kind(registry, id_, seals, tuple(problems), expected_head)
    findings = tuple(
        find(number, name, partial(look, case)) for number, (name, look) in enumerate(looks.items(), 1) if name in steps
    )
    known = known or trust.Known()
    tiers = trust.look(
        registry, id_, seals=seals, findings=findings, read=lambda: case.frozen, known=known, names=steps
    )
    return Audit(id_, ledger.head(seals), findings, tiers)
