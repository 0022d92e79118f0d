"""The stages before the evidence, whatever it will be: a registration is checked, simulated and frozen.

A registration says itself whether its evidence is computed here or made elsewhere. Here, and nowhere above, it is
asked which; what comes back is the same. The stages behind the evidence are `stages`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prereg_moe import freezing, importing, ledger
from prereg_moe.errors import Invalid, Problem
from prereg_moe.freezing import unmet_demands
from prereg_moe.frozen import Frozen, challenged
from prereg_moe.record import unreachable
from prereg_moe.registration import Registration, load
from prereg_moe.registry import Registry
from prereg_moe.standing import standing

__all__ = ["Outlook", "Sealed", "check", "diagnose", "freeze"]

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True, slots=True)
class Outlook:
    """What a registration that is valid would be.

    Attributes:
        id: its name.
        counts: claims and, where something is computed, conditions and item scores at most.
        says: the same in words.
        pending: what must be there before it can be frozen.
        advice: choices that weaken the study.
    """

    id: str
    counts: dict[str, int]
    says: str
    pending: tuple[Problem, ...]
    advice: tuple[Problem, ...]


@dataclass(frozen=True, slots=True)
class Sealed:
    """What a freeze left behind.

    Attributes:
        digest: of the frozen registration, the study's name.
        conditions: how many will be computed; None where nothing is, or a reviewer's challenge is to draw them.
        says: what was frozen, in words.
        todo: the command that goes on.
        unmet: demands that the diagnosis does not show to be met.
        shared: what sharing alpha with other registrations means.
        head: the ledger's head.
    """

    digest: str
    conditions: int | None
    says: str
    todo: str
    unmet: tuple[str, ...]
    shared: tuple[str, ...]
    head: str | None


def check(path: Path, root: Path) -> Outlook:
    """Return what freezing the registration at ``path`` would need; nothing is written or downloaded.

    Raises:
        Invalid: with every problem of the document.
    """
    if importing.is_imported(path):
        made = importing.check(path)
        advice = (*made.advice, *_unedited(made.registration))
        kind = made.registration.evidence.kind
        says = f"{made.claims} claims on evidence made elsewhere ({kind})"
        return Outlook(made.registration.id, {"claims": made.claims}, says, made.pending, advice)
    found = freezing.check(path, root)
    counts = {"claims": found.claims, "conditions": found.conditions, "item_scores": found.scores}
    says = f"{found.claims} claims, at most {found.conditions} conditions and {found.scores} item scores"
    return Outlook(found.registration.id, counts, says, found.pending, (*found.advice, *_unedited(found.registration)))


def diagnose(
    registry: Registry,
    id_: str,
    *,
    studies: int | None,
    pilot: str | None,
    workers: int,
    time: str,
    progress: Progress | None,
) -> tuple[dict[str, Any], Path, tuple[str, ...], str]:
    """Simulate the registered rules, write and seal ``diagnosis.json``.

    Args:
        registry: the registry.
        id_: the registration.
        studies: simulated studies; default: as registered.
        pilot: another registration whose finished evidence gives the spread of items.
        workers: processes; cannot change a byte.
        time: the time of the seal.
        progress: called with what is done.

    Returns:
        The diagnosis, its file, the registered demands it does not show to be met, and the ledger's head.

    Raises:
        Invalid, Deviated, NotCheckable, Tampered: as :func:`prereg_moe.diagnosing.stage.diagnose_registered`.
    """
    if importing.is_imported(registry.registration(id_)):
        if pilot is not None:
            todo = "published numbers are simulated by the registered `design`"
            raise Invalid(Problem("--pilot", "gives the spread of items, which nobody sees here", todo))
        made, path, head = importing.diagnose(registry, id_, studies=studies, time=time, progress=progress)
        return made, path, (), head
    from prereg_moe.diagnosing.stage import diagnose_registered  # it needs scipy

    diagnosis, path, head = diagnose_registered(
        registry, id_, studies=studies, pilot=pilot, workers=workers, time=time, progress=progress
    )
    unmet = unmet_demands(registry, load(registry.registration(id_) / "registration.yaml"))
    return dict(diagnosis.document), path, tuple(map(str, unmet)), head


def freeze(registry: Registry, id_: str, *, time: str) -> Sealed:
    """Write ``frozen.json`` and the templates of a registration, and seal them.

    Raises:
        Invalid, Deviated, NotCheckable, Tampered: as :func:`prereg_moe.freezing.freeze`.
    """
    if importing.is_imported(registry.registration(id_)):
        made = importing.freeze(registry, id_, time=time)
        kind = made.registration.evidence.kind
        says, todo = f"for evidence made elsewhere ({kind})", f"prereg-moe import {kind} {id_} SOURCE"
        return Sealed(made.digest, None, says, todo, (), (), ledger.head(ledger.parse(registry.ledger())))
    frozen = freezing.freeze(registry, id_, time=time)
    seals = ledger.parse(registry.ledger())
    stands = standing(registry, id_, seals)
    waits = challenged(frozen.registration)
    return Sealed(
        digest=frozen.digest,
        conditions=None if waits else len(frozen.plan),
        says=_says(frozen),
        todo=f"prereg-moe trust challenge {id_} --nonce FILE"
        if waits
        else f"prereg-moe run {id_} --dry-run, then prereg-moe run {id_}",
        unmet=tuple(map(str, unmet_demands(registry, frozen.registration))),
        shared=(*stands.shared(), *unreachable(frozen, stands.shared_by)),
        head=ledger.head(seals),
    )


def _unedited(registration: Registration | importing.Imported) -> list[Problem]:
    """Return what still stands as `init` wrote it, of the texts that reports print."""
    made = registration.model_dump(include={"question", "foreknowledge", "provenance"})
    provenance = made.pop("provenance", {})
    texts = made | {f"provenance.{name}": text for name, text in provenance.items() if text}
    todo = "say it in your own words: reports print it"
    return [Problem(where, "is what `init` wrote", todo) for where, text in texts.items() if text.startswith("EDIT")]


def _says(frozen: Frozen) -> str:
    inference = frozen.registration.inference
    waits = "the null draws wait for a reviewer's challenge to this digest"
    return (
        f"{waits if challenged(frozen.registration) else f'{len(frozen.plan)} conditions'}; alpha {inference.alpha}, "
        f"{inference.resamples} resamples, {100 * inference.interval.level:.6g}% {inference.interval.kind} intervals, "
        f"seed {inference.seed}"
    )
