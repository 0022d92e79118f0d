"""Where a registration stands: its stage, and what a reader of its report will be told beside the verdict.

Read from the ledger's seals alone, so that `status` answers at once and of a broken study too; only
whether ``registration.yaml`` is still the frozen one is asked of the file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from prereg_moe import canonical, ledger, record, store
from prereg_moe.ledger import Seal
from prereg_moe.registry import Registry

__all__ = ["STANDS", "Standing", "standing"]

STANDS = {
    "atlas": "routing recorded",
    "diagnosis": "diagnosed",
    "amend": "amended, to be frozen again",
    "freeze": "frozen",
    "challenge": "frozen, its null draws drawn by a reviewer's nonce",
    "start": "running, or stopped before the end",
    "look": "looked at, before the end",
    "finish": "evidence complete, to be judged",
    "import": "evidence imported, to be judged",
    "verdict": "judged",
    "report": "reported",
}


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a registration stands.

    Attributes:
        stage: the ledger's stage, None where nothing is sealed.
        edited: whether ``registration.yaml`` is no longer the document that was frozen.
        starts: how often a run was started.
        looks: how many registered looks are spent.
        deviations: the type of each recorded deviation.
        superseded: digests of the frozen registrations that were amended.
        neighbours: id -> stage of the registrations that share its alpha.
        shared_by: by how many registrations the alpha of a claim is shared at most, itself among them.
    """

    stage: str | None
    edited: bool
    starts: int
    looks: int
    deviations: tuple[str, ...]
    superseded: tuple[str, ...]
    neighbours: dict[str, str | None]
    shared_by: int

    def to_json(self) -> dict[str, Any]:
        """Return the standing as plain JSON."""
        return {
            "stage": self.stage,
            "edited": self.edited,
            "starts": self.starts,
            "looks": self.looks,
            "deviations": list(self.deviations),
            "superseded": list(self.superseded),
            "neighbours": self.neighbours,
            "shared_by": self.shared_by,
        }

    def remarks(self, id_: str) -> list[str]:
        """Return what there is to say beside the stage, in a sentence each."""
        lines = []
        if self.edited:
            lines.append(
                "registration.yaml was edited since it was frozen: the frozen document counts; restore it, or "
                + (f"`prereg-moe amend {id_}`" if self.stage == "freeze" else "register a new study")
            )
        if self.starts > 1:
            lines.append(f"its run was started {self.starts} times")
        if self.looks:
            lines.append(f"{self.looks} interim {'look is' if self.looks == 1 else 'looks are'} spent")
        if self.superseded:
            lines.append(f"amended before a run began; superseded: {', '.join(self.superseded)}")
        if self.deviations:
            lines.append(f"deviations: {', '.join(self.deviations)}")
        return lines + self.shared()

    def shared(self) -> list[str]:
        """Return, where other registrations are about the same thing, which they are and what that costs."""
        if not self.neighbours:
            return []
        others = ", ".join(f"{id_} ({stage})" for id_, stage in self.neighbours.items())
        level = f"its confirmatory claims are judged at alpha / {self.shared_by}"
        return [f"shares weights, texts and metric with {others}: {level}"]


def standing(registry: Registry, id_: str, seals: Sequence[Seal]) -> Standing:
    """Return where a registration stands in a ledger.

    Raises:
        Tampered: a frozen registration whose seal does not say its claim space is not as sealed.
    """
    own = [seal for seal in seals if seal.registration == id_]
    kinds = [seal.kind for seal in own]
    told = store.told(registry, seals)
    spaces: list[record.Space] = next(
        (s.body.get("claim_space", told.get(id_, [])) for s in reversed(own) if s.kind == "freeze"), []
    )
    neighbours = record.neighbours(seals, id_, spaces, told)
    return Standing(
        stage=ledger.stage(seals, id_),
        edited=_edited(registry, id_, seals),
        starts=kinds.count("start"),
        looks=kinds.count("look"),
        deviations=tuple(str(seal.body.get("type")) for seal in own if seal.kind == "deviation"),
        superseded=tuple(str(seal.body.get("superseded")) for seal in own if seal.kind == "amend"),
        neighbours={other: ledger.stage(seals, other) for other in sorted(set().union(*neighbours.values()))},
        shared_by=1 + max((len(ids) for ids in neighbours.values()), default=0),
    )


def _edited(registry: Registry, id_: str, seals: Sequence[Seal]) -> bool:
    path = registry.registration(id_) / "registration.yaml"
    sealed = ledger.sealed_files(seals, id_).get(f"registrations/{id_}/registration.yaml")
    return sealed is not None and path.is_file() and canonical.digest_file(path) != sealed
