"""The ledger: an append-only chain of seals, as a pure function of bytes.

One seal a line, canonical JSON::

    {"body":{},"files":{"registrations/x/frozen.json":"sha256:..."},"kind":"freeze",
     "previous":"sha256:...","registration":"x","schema":"prereg-moe/seal/1","time":"2026-01-01T00:00:00Z"}

``previous`` is the digest of the line before (null in the first), so no line can change, move
or go without changing every digest after it; ``files`` binds what the stage left in the
registry. The digest of the last line is the **head**: given to a reader, it is what a
truncated or rewritten ledger cannot reproduce. A line's own time is the author's word.

A registration is a state machine: its **stage** is what its last seal left it in, a seal may
stand only behind the stages :data:`FOLLOWS` names, and :func:`stage_behind` says where it leads. So
in one ledger evidence cannot precede the freeze, nothing is amended once a run began, and a report
cannot outlive a deviation. What the seals say beyond their files:

    freeze     digest; claim_space: what its confirmatory claims are about (`record`)
    amend      number, reason; superseded: digest of the frozen registration that no longer counts
    challenge  nonce: digest of a reviewer's nonce, by which the null draws were drawn
    start      workers; missing: conditions without evidence, of how many
    look       look: its number
    finish     conditions, environment
    import     kind of evidence; checks: digests of released files that were checked, or null
    deviation  number, type, timing, reason, impact; plan: digest of the amended plan, or null

Nothing here reads a clock or a file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from prereg_moe import canonical
from prereg_moe.errors import Deviated, Problem, Tampered

__all__ = [
    "FOLLOWS",
    "NOTES",
    "Seal",
    "examine",
    "head",
    "next_line",
    "parse",
    "sealed_files",
    "stage",
    "stage_behind",
    "torn",
    "until",
]

SCHEMA = "prereg-moe/seal/1"
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ\Z")
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}\Z")  # what is looked up by it stays in the registry
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}\Z")

_OPEN: frozenset[str | None] = frozenset({None, "atlas", "diagnosis", "amend"})  # nothing is frozen, all may change

# seal -> the stages of its registration it may stand behind (None: nothing yet), in the order of a study
FOLLOWS: dict[str, frozenset[str | None]] = {
    "atlas": _OPEN,
    "diagnosis": _OPEN,
    "freeze": _OPEN,
    "amend": frozenset({"freeze"}),
    "challenge": frozenset({"freeze"}),  # behind it nothing is amended: its draws are known
    "trust": frozenset({"freeze", "challenge", "start", "look", "finish", "import", "verdict", "report"}),
    "start": frozenset({"freeze", "challenge", "start", "look"}),
    "look": frozenset({"start"}),
    "finish": frozenset({"start"}),
    "import": frozenset({"freeze", "challenge"}),
    "verdict": frozenset({"finish", "look", "import"}),
    "report": frozenset({"verdict", "report"}),
    "deviation": frozenset({"start", "look", "finish", "verdict", "report"}),
}


NOTES = frozenset({"deviation", "trust"})  # seals that say something of a study and leave it in its stage


def stage_behind(kind: str, before: str | None) -> str | None:
    """Return the stage a seal of a kind leads to from the stage before it.

    A seal leads to the stage of its own name; a note leaves the stage as it was, but for a deviation of
    what is judged: its evidence is finished and has to be judged again.
    """
    if kind == "deviation" and before in ("verdict", "report"):
        return "finish"
    return before if kind in NOTES else kind


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
    stages: dict[str, str | None] = {}
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
            before = stages.get(seal.registration)
            if before not in FOLLOWS[seal.kind]:
                problems.append(
                    Problem(_where(number), f"{seal.kind} stands behind {before or 'nothing'}", _expected(seal.kind))
                )
            stages[seal.registration] = stage_behind(seal.kind, before)
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
        raise Deviated(Problem(registration, f"{kind} cannot follow {before or 'nothing'}", _expected(kind)))
    seal = Seal(kind, registration, time, head(seals), dict(files), dict(body or {}))
    _seal(canonical.loads(seal.line), len(seals) + 1)
    return seal.line + b"\n"


def head(seals: tuple[Seal, ...]) -> str | None:
    """Return the digest of the last line, None for an empty ledger."""
    return seals[-1].digest if seals else None


def stage(seals: Iterable[Seal], registration: str) -> str | None:
    """Return the stage a registration's seals leave it in, None where it has none."""
    found: str | None = None
    for seal in seals:
        if seal.registration == registration:
            found = stage_behind(seal.kind, found)
    return found


def until(seals: Iterable[Seal], registration: str, kind: str) -> tuple[Seal, ...]:
    """Return the ledger up to, and without, the registration's last seal of a kind; all of it where it has none."""
    whole = tuple(seals)
    at = [n for n, seal in enumerate(whole) if (seal.registration, seal.kind) == (registration, kind)]
    return whole[: at[-1]] if at else whole


def sealed_files(seals: Iterable[Seal], registration: str | None = None) -> dict[str, str]:
    """Return path -> digest as last sealed, of one registration or of all.

    An amendment names everything of its registration that still stands: the rest is sealed no more.
    """
    files: dict[str, dict[str, str]] = {}
    for seal in seals:
        own = files.setdefault(seal.registration, {})
        if seal.kind == "amend":
            own.clear()
        own |= seal.files
    return {path: digest for id_, own in files.items() if registration in (None, id_) for path, digest in own.items()}


def torn(data: bytes) -> bytes:
    """Return the unfinished last line an interrupted append left, empty where there is none."""
    return data[data.rfind(b"\n") + 1 :]


def _where(number: int) -> str:
    return f"LEDGER.jsonl:{number}"


def _expected(kind: str) -> str:
    return "expected behind " + " or ".join(sorted(before or "nothing" for before in FOLLOWS[kind]))


def _seal(document: Any, number: int) -> Seal:
    fields = {"schema", "kind", "registration", "time", "previous", "files", "body"}
    well_formed = (
        isinstance(document, dict)
        and set(document) == fields
        and document["schema"] == SCHEMA
        and isinstance(document["kind"], str)
        and document["kind"] in FOLLOWS
        and isinstance(document["registration"], str)
        and _ID.match(document["registration"]) is not None
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
