"""The ledger: an append-only chain of seals, as a pure function of bytes.

One seal a line, canonical JSON::

    {"body":{},"files":{"registrations/x/frozen.json":"sha256:..."},"kind":"freeze",
     "previous":"sha256:...","registration":"x","schema":"prereg-moe/seal/1","time":"2026-01-01T00:00:00Z"}

``previous`` is the digest of the line before (null in the first), so no line can change, move
or go without changing every digest after it; ``files`` binds what the stage left in the
registry. The digest of the last line is the **head**: given to a reader, it is what a
truncated or rewritten ledger cannot reproduce. A line's own time is the author's word.

A seal may follow only what :data:`FOLLOWS` allows for its registration, so evidence cannot
precede the freeze in one ledger. Nothing here reads a clock or a file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from prereg_moe import canonical
from prereg_moe.errors import Deviated, Problem, Tampered

__all__ = ["FOLLOWS", "Seal", "examine", "head", "next_line", "parse", "sealed_files", "stage", "torn"]

SCHEMA = "prereg-moe/seal/1"
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ\Z")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}\Z")

# seal -> the seals of the same registration it may stand behind (None: nothing yet)
FOLLOWS: dict[str, frozenset[str | None]] = {
    "atlas": frozenset({None, "atlas", "diagnosis"}),
    "diagnosis": frozenset({None, "atlas", "diagnosis"}),
    "freeze": frozenset({None, "atlas", "diagnosis"}),
    "start": frozenset({"freeze", "start"}),
    "finish": frozenset({"start"}),
    "verdict": frozenset({"finish"}),
    "report": frozenset({"verdict", "report"}),
}


@dataclass(frozen=True, slots=True)
class Seal:
    """One line of the ledger.

    Attributes:
        kind: which stage it seals, a key of :data:`FOLLOWS`.
        registration: the registration's id.
        time: UTC, ``YYYY-MM-DDTHH:MM:SSZ``; the author's word.
        previous: digest of the line before, None in the first.
        files: path below the registry root -> digest of its bytes.
        body: what else the stage says (counts, digests, environment).
    """

    kind: str
    registration: str
    time: str
    previous: str | None
    files: Mapping[str, str] = field(default_factory=dict)
    body: Mapping[str, Any] = field(default_factory=dict)

    @property
    def line(self) -> bytes:
        """The canonical bytes of the seal, without the newline."""
        return canonical.dumps(
            {
                "schema": SCHEMA,
                "kind": self.kind,
                "registration": self.registration,
                "time": self.time,
                "previous": self.previous,
                "files": dict(self.files),
                "body": dict(self.body),
            }
        )

    @property
    def digest(self) -> str:
        """``sha256:<hex>`` of the line."""
        return canonical.digest(self.line)


def parse(data: bytes) -> tuple[Seal, ...]:
    """Return the seals in a ledger's bytes, having checked the chain and the order of stages.

    A torn last line was never acknowledged and is no seal: the next append drops it.

    Raises:
        Tampered: with every line that does not parse, does not hold the digest of the line
            before it, or stands where it may not.
    """
    seals, problems = examine(data[: len(data) - len(torn(data))])
    if problems:
        raise Tampered(problems)
    return seals


def examine(data: bytes) -> tuple[tuple[Seal, ...], list[Problem]]:
    """Return the seals that can be read and everything that is wrong with the ledger."""
    seals: list[Seal] = []
    problems: list[Problem] = []
    if torn(data):
        problems.append(
            Problem(_where(data.count(b"\n") + 1), "the last line is torn", "the next command that appends repairs it")
        )
    previous: str | None = None
    for number, line in enumerate(data.split(b"\n")[:-1], start=1):
        try:
            seal = _seal(canonical.loads(line, _where(number)), number)
        except Tampered as error:
            problems.extend(error.problems)
        else:
            if seal.previous != previous:
                problems.append(
                    Problem(
                        _where(number),
                        "does not hold the digest of the line before it",
                        "a line was changed, added or removed",
                    )
                )
            allowed = FOLLOWS[seal.kind]
            if stage(seals, seal.registration) not in allowed:
                problems.append(
                    Problem(
                        _where(number),
                        f"{seal.kind} stands behind {stage(seals, seal.registration) or 'nothing'}",
                        _expected(allowed),
                    )
                )
            seals.append(seal)
        previous = canonical.digest(line)
    return tuple(seals), problems


def next_line(
    data: bytes,
    kind: str,
    registration: str,
    *,
    time: str,
    files: Mapping[str, str],
    body: Mapping[str, Any] | None = None,
) -> bytes:
    """Return the line (with its newline) that appends a seal to a ledger's bytes without a torn last line.

    Raises:
        Tampered: the ledger does not hold together.
        Deviated: the stage may not follow what the ledger holds.
    """
    seals = parse(data)
    before = stage(seals, registration)
    if before not in FOLLOWS[kind]:
        raise Deviated(Problem(registration, f"{kind} cannot follow {before or 'nothing'}", _expected(FOLLOWS[kind])))
    seal = Seal(kind, registration, time, head(seals), dict(files), dict(body or {}))
    _seal(canonical.loads(seal.line), len(seals) + 1)
    return seal.line + b"\n"


def head(seals: tuple[Seal, ...]) -> str | None:
    """Return the digest of the last line, None for an empty ledger."""
    return seals[-1].digest if seals else None


def stage(seals: tuple[Seal, ...] | list[Seal], registration: str) -> str | None:
    """Return the kind of the registration's last seal, None where it has none."""
    return next((seal.kind for seal in reversed(seals) if seal.registration == registration), None)


def sealed_files(seals: tuple[Seal, ...], registration: str | None = None) -> dict[str, str]:
    """Return path -> digest as last sealed, of one registration or of all."""
    return {
        path: digest
        for seal in seals
        if registration in (None, seal.registration)
        for path, digest in seal.files.items()
    }


def torn(data: bytes) -> bytes:
    """Return the unfinished last line an interrupted append left, empty where there is none."""
    return data[data.rfind(b"\n") + 1 :]


def _where(number: int) -> str:
    return f"LEDGER.jsonl:{number}"


def _expected(allowed: frozenset[str | None]) -> str:
    return "expected behind " + " or ".join(sorted(kind or "nothing" for kind in allowed))


def _seal(document: Any, number: int) -> Seal:
    fields = {"schema", "kind", "registration", "time", "previous", "files", "body"}
    well_formed = (
        isinstance(document, dict)
        and set(document) == fields
        and document["schema"] == SCHEMA
        and isinstance(document["kind"], str)
        and document["kind"] in FOLLOWS
        and isinstance(document["registration"], str)
        and isinstance(document["time"], str)
        and _TIME.match(document["time"]) is not None
        and (document["previous"] is None or _is_digest(document["previous"]))
        and isinstance(document["files"], dict)
        and all(map(_is_digest, document["files"].values()))
        and isinstance(document["body"], dict)
    )
    if not well_formed:
        raise Tampered(Problem(_where(number), "is not a seal", f"a seal has the fields {', '.join(sorted(fields))}"))
    return Seal(**{key: value for key, value in document.items() if key != "schema"})


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and _DIGEST.match(value) is not None
