"""The steps over evidence made elsewhere: it is derived again from the copied source files."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from prereg_moe import canonical, importing
from prereg_moe.auditing import sealed
from prereg_moe.auditing.case import RELEASED, ImportedCase
from prereg_moe.auditing.frozen import compare_document
from prereg_moe.auditing.results import first_difference
from prereg_moe.errors import Invalid, Problem, Tampered
from prereg_moe.findings import NotDue
from prereg_moe.registry import read_bytes

__all__ = ["chain", "derived", "evidence", "registration", "released", "verdicts"]


def chain(case: ImportedCase) -> Iterator[str]:
    """Step 1: the ledger's chain holds, and the study has no seal of another kind of study."""
    yield from sealed.chain(case)
    kinds = {seal.kind for seal in case.seals if seal.registration == case.id}
    if strange := sorted(kinds - set(case.makes)):
        found = f"{case.id} is of evidence made elsewhere and has the seal {strange[0]}"
        raise Tampered(Problem("LEDGER.jsonl", found, "such a study has nothing it could seal"))


def registration(case: ImportedCase) -> Iterator[str]:
    """Step 4: the authored registration is the frozen one, and its diagnosis the pinned one."""
    frozen = case.frozen
    compare_document(case, frozen, importing.load)
    said = [seal.body.get("digest") for seal in case.seals if case.own(seal, "freeze")]
    if said[-1] != frozen.digest:
        raise Tampered(Problem("LEDGER.jsonl", f"the freeze of {case.id} says another digest"))
    yield frozen.digest


def released(case: ImportedCase) -> Iterator[str]:
    """Step 5: the released files, where they are at hand, say what was sealed of them."""
    case.due("import", otherwise="nothing is imported yet")
    checks, released = case.imported["checks"], case.frozen.registration.released
    if checks is None or released is None:
        raise NotDue("no released file was checked")
    folder = case.registry.registration(case.id) / RELEASED
    if not all((folder / name).is_file() for name in checks["files"]):
        raise NotDue(f"the released files are not here; put or link them as {case.registry.name(folder)}")
    made = importing.check_released(released, folder)
    if made != checks:
        raise Tampered(Problem("imported.json", first_difference(checks, made, "checks"), "restore it"))
    yield f"{len(checks['files'])} released files"


def derived(_: ImportedCase) -> Iterator[str]:
    """Step 6: there is no atlas."""
    raise NotDue("evidence made elsewhere has no atlas here")


def evidence(case: ImportedCase) -> Iterator[str]:
    """Step 7: the evidence follows from the copied source files."""
    case.due("import", otherwise="nothing is imported yet")
    document = case.imported
    files = importing.read_sources(case.registry, case.id)
    found = {name: canonical.digest(data) for name, data in files.items()}
    if changed := [name for name, _ in found.items() ^ document["sources"].items()]:
        problems = [Problem(f"sources/{name}", "is not what was imported", "restore it") for name in sorted(changed)]
        raise Tampered(list(dict.fromkeys(problems)))
    try:
        made = importing.derive(case.frozen, files, document["checks"])
    except Invalid as error:  # it was valid when it was imported
        raise Tampered(error.problems) from error
    if made != document:
        raise Tampered(Problem("imported.json", first_difference(document, made), "restore it"))
    seal = next(seal for seal in case.seals if case.own(seal, "import"))
    checks = document["checks"] and document["checks"]["files"]
    if (seal.body.get("kind"), seal.body.get("checks")) != (document["kind"], checks):
        raise Tampered(Problem("LEDGER.jsonl", f"the import of {case.id} says another kind, or other checks"))
    yield f"{len(files)} source files, {canonical.digest(document)}"
    if others := _same_sources(case, document):
        yield f"the same files were imported by {', '.join(others)} as well; they share no alpha"


def _same_sources(case: ImportedCase, document: Any) -> list[str]:
    """Return the other registrations that imported a file this one did."""
    own = set(document["sources"].values())
    imports = [seal for seal in case.seals if seal.kind == "import" and seal.registration != case.id]
    return sorted({seal.registration for seal in imports if own & set(seal.files.values())})


def verdicts(case: ImportedCase) -> Iterator[str]:
    """Step 8: the verdicts follow from the evidence."""
    case.due("verdict", otherwise="there is no verdict yet")
    data = read_bytes(case.registry.reports(case.id) / "verdict.json")
    frozen = case.frozen
    pinned = frozen.document["pins"]["diagnosis"] is not None
    diagnosis = canonical.read(case.registry.registration(case.id) / "diagnosis.json") if pinned else None
    made = importing.judge(frozen, case.imported, diagnosis)
    if canonical.dumps(made) != data:
        raise Tampered(Problem("verdict.json", first_difference(canonical.loads(data), made)))
    yield f"{len(made['readings' if made['kind'] == 'summary' else 'verdicts'])} claims, byte for byte"
