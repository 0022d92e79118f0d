"""What may still change once a registration is frozen, and how it is owned up to.

Before a run began nothing was seen: :func:`amend` supersedes the frozen registration by another one.
The old one is kept with everything it was sealed with, and the new one says what it supersedes.
After that nothing can be replaced: :func:`deviate` records a departure, and where it brings an
amended plan, verdicts under that plan stand beside the registered ones as POST-HOC.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prereg_moe import canonical, ledger
from prereg_moe.errors import Deviated, Invalid, PreregError, Problem, Tampered
from prereg_moe.freezing import freeze, load_frozen
from prereg_moe.frozen import Frozen
from prereg_moe.registration import Registration, differences, expand, load
from prereg_moe.registry import Registry, read_bytes

__all__ = ["STATISTICAL", "TIMINGS", "TYPES", "Amended", "amend", "deviate"]

TYPES = {
    "data": "other items, texts or sample sizes than registered",
    "exclusions": "items left out, or kept, otherwise than registered",
    "measure": "another task, metric or scoring",
    "model": "another checkpoint, revision or precision",
    "intervention": "something else was done to routing or experts",
    "environment": "another machine, device, engine or version",
    "analysis": "another rule, correction, interval or level",
    "claims": "claims added, dropped, or given another tier",
    "stopping": "the study ended earlier or later than registered",
    "procedure": "anything else that was done otherwise than it says",
}
TIMINGS = {
    "before_data": "decided before any evidence was looked at",
    "after_data": "decided with knowledge of the evidence",
}
STATISTICAL = ("rules", "inference", "claims", "replication", "controls.positive", "controls.negative")
_EDIT = "edit its registration.yaml"
_BEFORE_A_RUN: dict[str | None, str] = {  # stage of a frozen study that no run has begun on -> how it is changed
    "freeze": "use `prereg-moe amend {id}`",
    "challenge": "run it as it is, or register a new study",
}
_STAYS = ("atlas.json", "diagnosis.json")  # of the models and the rule, not of the frozen document


@dataclass(frozen=True, slots=True)
class Amended:
    """What an amendment left behind.

    Attributes:
        number: which amendment of the registration it is, from 1.
        frozen: the new frozen registration, None where something must be made before it can be frozen.
        pending: what that is.
        head: the ledger's head.
    """

    number: int
    frozen: Frozen | None
    pending: tuple[Problem, ...]
    head: str


def amend(registry: Registry, id_: str, source: Path, *, reason: str, time: str) -> Amended:
    """Supersede a frozen registration that no run has begun on by the document at ``source``.

    Everything sealed with the old one moves to ``superseded/<number>/``; an atlas and a diagnosis
    stay where they are, to be used again where they still fit.

    Raises:
        Invalid: nothing is frozen yet; the document is not valid, is another study's, or says what is frozen already.
        Deviated: a run began or evidence is there.
        Tampered: what was frozen is not what was sealed.
    """
    seals = ledger.parse(registry.ledger())
    _amendable(registry, id_, ledger.stage(seals, id_))
    frozen = load_frozen(registry, id_)
    data = read_bytes(source / "registration.yaml" if source.is_dir() else source)
    amended = load(data)
    if amended.id != id_:
        raise Invalid(Problem("id", f"is {amended.id!r}", f"an amendment of {id_!r} keeps its id"))
    if amended == frozen.registration:
        raise Invalid(Problem(str(source), "says what is frozen already", "there is nothing to amend"))
    number = 1 + sum(seal.kind == "amend" and seal.registration == id_ for seal in seals)
    gone, standing = _keep(registry, id_, seals, number)
    body = {"number": number, "reason": _said("--reason", reason), "superseded": frozen.digest}
    head = registry.seal("amend", id_, standing, time=time, body=body, expected_head=ledger.head(seals))
    for path in gone:
        path.unlink()
    canonical.write(registry.registration(id_) / "registration.yaml", data)
    try:
        again = freeze(registry, id_, time=time)
    except PreregError as error:
        return Amended(number, None, error.problems, head)
    return Amended(number, again, (), ledger.head(ledger.parse(registry.ledger())) or head)


def deviate(
    registry: Registry,
    id_: str,
    *,
    type_: str,
    reason: str,
    timing: str,
    impact: str,
    plan: Path | None,
    time: str,
) -> tuple[int, str]:
    """Record a departure from a registration whose run began; return its number and the ledger's head.

    Args:
        type_: a key of :data:`TYPES`.
        reason: why, in words.
        timing: a key of :data:`TIMINGS`; the author's word, shown beside the stage it was recorded in.
        impact: what it may change, in words.
        plan: an amended registration that differs in :data:`STATISTICAL` parts only.

    Raises:
        Invalid: an unknown type or timing, no words, a plan that changes something else; or no run began, so that there
            is nothing to deviate from.
        Tampered: the frozen registration is not the one sealed.
    """
    problems = [
        Problem(option, f"is {value!r}", f"one of {', '.join(known)}")
        for option, value, known in (("--type", type_, TYPES), ("--timing", timing, TIMINGS))
        if value not in known
    ]
    if problems:
        raise Invalid(problems)
    seals = ledger.parse(registry.ledger())
    stage = ledger.stage(seals, id_)
    if stage not in ledger.FOLLOWS["deviation"]:
        raise Invalid(Problem(id_, "has no run to deviate from", _BEFORE_A_RUN.get(stage, _EDIT).format(id=id_)))
    number = 1 + sum(seal.kind == "deviation" and seal.registration == id_ for seal in seals)
    body: dict[str, Any] = {
        "number": number,
        "type": type_,
        "timing": timing,
        "reason": _said("--reason", reason),
        "impact": _said("--impact", impact),
        "plan": None,
    }
    files = []
    if plan is not None:
        amended = _plan(load_frozen(registry, id_), plan)
        path = registry.registration(id_) / "deviations" / f"{number}.json"
        body["plan"] = canonical.write(path, expand(amended))
        files.append(path)
    head = registry.seal("deviation", id_, files, time=time, body=body, expected_head=ledger.head(seals))
    return number, head


def _plan(frozen: Frozen, path: Path) -> Registration:
    plan = load(path)
    changed = differences(frozen.registration, plan)
    if not changed:
        raise Invalid(Problem(str(path), "says what is registered", "leave --plan out"))
    if barred := [key for key in changed if key not in STATISTICAL]:
        todo = f"a plan may change {', '.join(STATISTICAL)}; anything else is another study"
        raise Invalid([Problem(key, "is not what was registered", todo) for key in barred])
    _judgeable(frozen, plan)
    return plan


def _judgeable(frozen: Frozen, plan: Registration) -> None:
    """Refuse a plan that needs other evidence than the registered one."""
    todo = "a plan can only judge the evidence there is"
    try:
        unknown = set(frozen.under(plan).plan) - set(frozen.plan)
    except KeyError as error:
        raise Invalid(Problem("claims", f"need what was never derived ({error})", todo)) from error
    if unknown:
        raise Invalid(Problem("claims", f"need {len(unknown)} conditions that were never registered", todo))


def _amendable(registry: Registry, id_: str, stage: str | None) -> None:
    if stage in ledger.FOLLOWS["freeze"]:
        raise Invalid(Problem(id_, "is not frozen, so there is nothing to amend", _EDIT))
    record_it = f"record what changed with `prereg-moe deviate {id_}`"
    if stage == "challenge":
        raise Deviated(Problem(id_, "cannot be amended: its null draws are known", _BEFORE_A_RUN[stage]))
    if stage not in ledger.FOLLOWS["amend"]:
        raise Deviated(Problem(id_, "cannot be amended: its run began", record_it))
    folder = registry.evidence(id_)
    if folder.is_dir() and any(folder.iterdir()):
        raise Deviated(
            Problem(registry.name(folder), "holds evidence, so an amendment would not come before it", record_it)
        )


def _keep(registry: Registry, id_: str, seals: tuple[ledger.Seal, ...], number: int) -> tuple[list[Path], list[Path]]:
    """Copy what was sealed to ``superseded/<number>``; return what no longer counts, and all that stands."""
    folder = registry.registration(id_).resolve()
    gone, standing = [], []
    for name, digest in ledger.sealed_files(seals, id_).items():
        path = registry.path(name)
        kept = path.is_relative_to(folder / "superseded") or path in [folder / stays for stays in _STAYS]
        data = read_bytes(path)
        if canonical.digest(data) != digest:
            if path.name == "registration.yaml":
                continue  # edited in place to amend it: frozen.json holds all that the old one said
            raise Tampered(Problem(name, "is not the file that was sealed", "restore it before amending"))
        if kept:
            standing.append(path)
        if not path.is_relative_to(folder / "superseded"):
            copy = folder / "superseded" / str(number) / path.relative_to(folder)
            canonical.write(copy, data)
            standing.append(copy)
        if not kept and path.name != "registration.yaml":
            gone.append(path)
    return gone, standing


def _said(option: str, text: str) -> str:
    text = text.strip()
    if not text or len(text) > 10_000:
        raise Invalid(Problem(option, f"has {len(text)} characters", "say it in words, in at most 10,000 characters"))
    return text
