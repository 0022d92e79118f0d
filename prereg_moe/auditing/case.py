"""What the steps of an audit share: the record they look at, and what is read of it once for all of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

from prereg_moe import canonical, ledger, report, store
from prereg_moe.errors import PreregError, Problem
from prereg_moe.evidence import Evidence
from prereg_moe.findings import NotDue
from prereg_moe.freezing import answered
from prereg_moe.frozen import Frozen
from prereg_moe.importing import FrozenImport
from prereg_moe.ledger import Seal
from prereg_moe.registry import Registry, read_bytes

__all__ = ["RELEASED", "Case", "ImportedCase"]

RELEASED = "data"  # where, beside its registration, files released with published numbers are looked for
_TEXTS = "|".join(report.FORMATS)
_MAKES = {  # seal -> what its stage leaves, below `registrations/` and `reports/`; nothing else is anybody's to seal
    "atlas": r"registrations/ID/atlas\.json",
    "diagnosis": r"registrations/ID/diagnosis\.json",
    "freeze": r"registrations/ID/(registration\.yaml|frozen\.json|templates/[^/]+)",
    "amend": r"registrations/ID/(superseded/\d+/.+|atlas\.json|diagnosis\.json)",
    "challenge": r"registrations/ID/(trust/challenge\.json|draws\.json)",
    "trust": r"registrations/ID/trust/(signature-\d+\.json|timestamp-\d+\.tsr)",
    "start": r"(?!)",
    "look": r"reports/ID/(evidence|looks/\d+)\.json",
    "finish": r"reports/ID/evidence\.json",
    "import": r"reports/ID/(imported\.json|sources/.+)",
    "verdict": r"reports/ID/verdict\.json",
    "report": rf"reports/ID/(report\.({_TEXTS})|figures/[^/]+)",
    "deviation": r"registrations/ID/deviations/\d+\.json",
}
_OF_IMPORTS = ("diagnosis", "freeze", "import", "verdict", "report", "trust")


@dataclass
class Case:
    """One registration and the ledger it stands in.

    Attributes:
        registry: the folder of the record.
        id: the registration's.
        seals: the ledger's lines, as far as they can be read.
        broken: what is wrong with its chain or the order of its stages.
        expected_head: the head the reader was given.
        makes: kind of seal -> pattern of the files it may bind.
    """

    registry: Registry
    id: str
    seals: tuple[Seal, ...]
    broken: tuple[Problem, ...]
    expected_head: str | None
    makes: ClassVar[Mapping[str, str]] = _MAKES

    @cached_property
    def frozen(self) -> Frozen:
        """The frozen registration; not due where it is not frozen."""
        path = self.registry.registration(self.id) / "frozen.json"
        if self.registry.name(path) not in self.files:
            raise NotDue("it is not frozen yet")
        return answered(self.registry, Frozen.from_bytes(read_bytes(path), self.registry.name(path)))

    @cached_property
    def evidence(self) -> Evidence:
        """The evidence, checked against the plan."""
        return store.gather(self.registry, store.reached(self.registry, self.frozen))

    @property
    def files(self) -> dict[str, str]:
        """Name -> digest of every file that is sealed for the registration."""
        return ledger.sealed_files(self.seals, self.id)

    @property
    def running(self) -> bool:
        """Whether the run has begun and is not finished."""
        return ledger.stage(self.seals, self.id) == "start"

    def own(self, seal: Seal, kind: str) -> bool:
        """Whether a seal is of this registration and of a kind."""
        return seal.kind == kind and seal.registration == self.id

    def due(self, *kinds: str, otherwise: str) -> None:
        """Say that a step cannot look yet, unless the registration has a seal of one of these kinds."""
        if not any(self.own(seal, kind) for seal in self.seals for kind in kinds):
            raise NotDue(otherwise)

    def local_sources(self) -> list[str]:
        """Return the sources in the registration's own folder, which are pinned and not sealed; all of it where
        the frozen document that names them cannot be believed."""
        try:
            registration: Any = self.frozen.registration
        except (PreregError, NotDue):
            return ["."]
        parts = [*registration.models.values(), *registration.corpora.values()]
        named = [part.source for part in parts] + [measure.tasks for measure in registration.measures.values()]
        named.append(registration.report.template)
        return [source for source in named if source.startswith("./")]


@dataclass
class ImportedCase(Case):
    """A registration of evidence made elsewhere."""

    makes: ClassVar[Mapping[str, str]] = {kind: _MAKES[kind] for kind in _OF_IMPORTS}

    @cached_property
    def frozen(self) -> Any:  # FrozenImport: no draws wait for a challenge
        """The frozen registration; not due where it is not frozen."""
        self.due("freeze", otherwise="it is not frozen yet")
        path = self.registry.registration(self.id) / "frozen.json"
        return FrozenImport.from_bytes(read_bytes(path), self.registry.name(path))

    @property
    def imported(self) -> dict[str, Any]:
        """What the import derived from the source files."""
        document: dict[str, Any] = canonical.read(self.registry.reports(self.id) / "imported.json")
        return document

    def local_sources(self) -> list[str]:
        """Return the folder of released files."""
        return [f"./{RELEASED}"]
