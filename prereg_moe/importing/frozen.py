"""The frozen registration of evidence made elsewhere: its document, what it pins, its name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from prereg_moe import canonical, templating
from prereg_moe.errors import Invalid, Problem, Tampered
from prereg_moe.importing.schema import Imported, parse

__all__ = ["DIAGNOSIS", "SCHEMA", "FrozenImport", "templates"]

SCHEMA = "prereg-moe/import-frozen/1"
DIAGNOSIS = "prereg-moe/import-diagnosis/1"
_KEYS = {"schema", "software", "registration", "pins"}


@dataclass(frozen=True, slots=True)
class FrozenImport:
    """A frozen registration; build it with :meth:`from_bytes`.

    Attributes:
        document: the canonical JSON document.
        registration: the authored registration in it.
        digest: the study's name, ``sha256:<hex>``.
    """

    document: Mapping[str, Any]
    registration: Imported
    digest: str

    @classmethod
    def from_bytes(cls, data: bytes, where: str = "frozen.json") -> FrozenImport:
        """Return the frozen registration in canonical bytes.

        Raises:
            Tampered: the bytes are not canonical, or no frozen registration of evidence made elsewhere.
        """
        document = canonical.loads(data, where)
        if not isinstance(document, dict) or document.get("schema") != SCHEMA or set(document) != _KEYS:
            raise Tampered(Problem(where, "is not a frozen registration", "restore the file that `freeze` wrote"))
        try:
            registration = parse(document["registration"])
        except Invalid as error:
            raise Tampered([Problem(f"{where}, {p.where}", p.found, p.todo) for p in error.problems]) from error
        return cls(document, registration, canonical.digest(data))


def templates(kind: str) -> dict[str, bytes]:
    """Return file name -> bytes of the templates that show a kind of evidence."""
    found = templating.reports("summary" if kind == "summary" else "items")
    return {name: text.encode() for name, text in found.items()}
