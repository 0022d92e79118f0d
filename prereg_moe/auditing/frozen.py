"""Steps 4 to 6: the frozen registration follows from its document, from the files it names and from the atlas."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from prereg_moe import canonical, record, trust
from prereg_moe.auditing.case import Case
from prereg_moe.errors import Problem, Tampered
from prereg_moe.findings import NotDue
from prereg_moe.freezing import compare_pins, frozen_atlases, list_items
from prereg_moe.frozen import Frozen, derive
from prereg_moe.importing import FrozenImport
from prereg_moe.registration import load
from prereg_moe.registry import read_bytes

__all__ = ["compare_document", "derived", "pins", "registration"]


def registration(case: Case) -> Iterator[str]:
    """Step 4: the authored registration is the frozen one, and its diagnosis the pinned one."""
    frozen = case.frozen
    compare_document(case, frozen, load)
    yield frozen.digest
    yield from _as_frozen(case, frozen)
    yield from _neighbours(case)


def pins(case: Case) -> Iterator[str]:
    """Step 5: weights, tokenizers, tasks and corpora are the frozen bytes, and the items follow from the corpora."""
    frozen = case.frozen
    changed, absent = compare_pins(case.registry, frozen)
    if changed:
        raise Tampered(changed)
    files = sum(
        len(entry) for kind in ("models", "corpora", "tasks") for entry in frozen.document["pins"][kind].values()
    )
    if not any(problem.where.startswith("corpora.") for problem in absent):
        made = list_items(frozen.registration, case.registry.registration(case.id), case.registry.root)
        for part, value in made.items():
            if frozen.document[part] != value:
                raise Tampered(Problem("frozen.json", f"its {part} do not follow from the corpora", "restore it"))
    if absent:
        raise NotDue("; ".join(map(str, absent)))
    yield f"{files} files"


def derived(case: Case) -> Iterator[str]:
    """Step 6: families and null draws follow from the sealed atlas."""
    frozen = case.frozen
    if frozen.registration.atlas is None:
        raise NotDue("no atlas is registered")
    atlases = frozen_atlases(case.registry, frozen)
    made = derive(frozen.registration, atlases)
    for part, value in made.items():
        if frozen.document[part] != value:
            raise Tampered(Problem("frozen.json", f"its {part} do not follow from the atlas", "restore it"))
    drawn = made["draws"]
    if frozen.answer is not None:
        drawn = derive(frozen.registration, atlases, trust.seed_given(case.registry, frozen))["draws"]
        if frozen.answer["draws"] != drawn:
            raise Tampered(Problem("draws.json", "does not follow from the challenge", "restore it"))
    draws = sum(len(entry["cells"]) for entry in drawn or ())
    yield f"{len(made['families'])} families and {draws} null draws"


def compare_document(case: Case, frozen: Frozen | FrozenImport, read: Callable[[Path], Any]) -> None:
    """Hold the document and its diagnosis, read by ``read``, against the frozen registration."""
    path, pins = case.registry.registration(case.id) / "registration.yaml", frozen.document["pins"]
    if canonical.digest_file(path) != pins["document"]:
        raise Tampered(Problem("registration.yaml", "is not the document that was frozen", "restore it"))
    if read(path) != frozen.registration:  # not the expanded text: a later version may know more defaults
        raise Tampered(Problem("frozen.json", "does not say what registration.yaml says", "restore it"))
    diagnosis = path.with_name("diagnosis.json")
    found = canonical.digest_file(diagnosis) if diagnosis.exists() else None
    if found != pins["diagnosis"]:
        raise Tampered(Problem("diagnosis.json", "is not the diagnosis that was frozen", "restore it"))
    registered = canonical.digest(frozen.document["registration"])
    if found is not None and canonical.read(diagnosis).get("registration") != registered:
        raise Tampered(Problem("diagnosis.json", "is of another registration", "restore it"))


def _as_frozen(case: Case, frozen: Frozen) -> Iterator[str]:
    """Compare what the freeze's seal says, and what the frozen registration supersedes, with the ledger."""
    seal = [seal for seal in case.seals if case.own(seal, "freeze")][-1]
    said = record.freeze_body(frozen)
    if any(seal.body.get(key, value) != value for key, value in said.items()):
        raise Tampered(Problem("LEDGER.jsonl", f"the freeze of {case.id} says another digest or claim space"))
    before = record.supersedes(case.seals, case.id)
    if frozen.document.get("supersedes") != before:
        raise Tampered(Problem("frozen.json", "does not say what it supersedes", "restore it"))
    for amended in (seal for seal in case.seals if case.own(seal, "amend")):
        name = f"registrations/{case.id}/superseded/{amended.body['number']}/frozen.json"
        if amended.files.get(name) != amended.body["superseded"]:
            raise Tampered(Problem(name, "is not the frozen registration that was superseded", "restore it"))
        yield f"supersedes {amended.body['superseded']} ({amended.body['reason']})"


def _neighbours(case: Case) -> Iterator[str]:
    """Hold what other freezes say they are about, nothing too, against the frozen registrations they bind."""
    others = {seal.registration: seal for seal in case.seals if seal.kind == "freeze"}
    others.pop(case.id, None)
    absent = []
    for id_, seal in sorted(others.items()):
        path = case.registry.registration(id_) / "frozen.json"
        name = case.registry.name(path)
        if not path.is_file():
            absent.append(id_)
            continue
        data = read_bytes(path)
        if canonical.digest(data) != seal.files.get(name):
            raise Tampered(Problem(name, "is not the file that was sealed", "restore it"))
        if seal.body.get("claim_space", about := _about(data, name)) != about:
            raise Tampered(Problem("LEDGER.jsonl", f"the freeze of {id_} says another claim space"))
    if absent:
        yield f"not here, so what they are about is their seals' word: {', '.join(absent)}"


def _about(data: bytes, name: str) -> list[record.Space]:
    """Return the claim space of a frozen registration, whose evidence may be made elsewhere: then it has none."""
    try:
        frozen = Frozen.from_bytes(data, name)
    except Tampered:
        FrozenImport.from_bytes(data, name)
        return []
    return record.claim_space(frozen)
