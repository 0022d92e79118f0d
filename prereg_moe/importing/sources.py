"""From the bytes of source files to imported evidence: a pure function, so that an audit repeats it.

The document it returns is what ``imported.json`` holds::

    schema, kind, registration   the frozen registration's digest
    sources                      file -> digest, as copied to reports/<id>/sources
    made                         what the files themselves say of the tool that made them
    evidence                     claims as printed, or cells with a difference an item
    checks                       of files released beside a summary, null where they were not at hand
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prereg_moe import canonical
from prereg_moe.errors import Invalid, Problem
from prereg_moe.importing.frozen import FrozenImport
from prereg_moe.importing.rows import read_rows
from prereg_moe.importing.samples import read_samples
from prereg_moe.importing.schema import Rows, Summary
from prereg_moe.importing.summary import read_summary

__all__ = ["SCHEMA", "derive"]

SCHEMA = "prereg-moe/imported/1"


def derive(frozen: FrozenImport, sources: Mapping[str, bytes], checks: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return imported evidence as plain JSON.

    Args:
        frozen: the registration, which says how the files are read.
        sources: name -> bytes.
        checks: of released files, or None.

    Raises:
        Invalid, NotCheckable, Tampered, Deviated: the files are not what is registered.
    """
    document = frozen.registration
    made: Mapping[str, Any] = {}
    if isinstance(document.evidence, Summary | Rows):
        if len(sources) != 1:
            raise Invalid(Problem("source", f"has {len(sources)} files", "give one table"))
        [(name, data)] = sources.items()
        read = read_summary if isinstance(document.evidence, Summary) else read_rows
        evidence = read(document, data, name)
    else:
        evidence, made = read_samples(document, sources)
    return {
        "schema": SCHEMA,
        "kind": document.evidence.kind,
        "registration": frozen.digest,
        "sources": {name: canonical.digest(data) for name, data in sorted(sources.items())},
        "made": dict(made),
        "evidence": evidence,
        "checks": None if checks is None else dict(checks),
    }
