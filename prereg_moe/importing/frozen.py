"""The frozen registration of evidence made elsewhere: its document, what it pins, its name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import prereg_moe
from prereg_moe import canonical
from prereg_moe.errors import Invalid, Problem, Tampered
from prereg_moe.importing.schema import Imported, parse

__all__ = ["FORMATS", "SCHEMA", "FrozenImport", "template_files"]

SCHEMA = "prereg-moe/import-frozen/1"
FORMATS = ("md", "tex")
_TEMPLATES = Path(prereg_moe.__file__).parent / "templates" / "imported"
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


def template_files(kind: str) -> dict[str, Path]:
    """Return file name -> where it lies, of the templates that show a kind of evidence."""
    shown = "summary" if kind == "summary" else "items"
    return {f"report.{format_}.j2": _TEMPLATES / f"{shown}.{format_}.j2" for format_ in FORMATS}
