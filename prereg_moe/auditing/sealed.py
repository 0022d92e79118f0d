"""Steps 1 to 3, on bytes alone: the ledger's chain, the head the reader was given, every sealed file."""

from __future__ import annotations

import re
from collections.abc import Iterator

from prereg_moe import canonical, ledger, store
from prereg_moe.auditing.case import Case
from prereg_moe.errors import Deviated, Invalid, NotCheckable, PreregError, Problem, Tampered
from prereg_moe.findings import NotDue
from prereg_moe.registry import read_bytes

__all__ = ["chain", "given_head", "sealed_files"]


def chain(case: Case) -> Iterator[str]:
    """Step 1: the ledger's chain holds and its stages stand in order."""
    if case.broken:
        raise Tampered(case.broken)
    own = [seal for seal in case.seals if seal.registration == case.id]
    if not own:
        raise NotCheckable(Problem(case.id, "has no seal in the ledger", "there is nothing to check yet"))
    yield f"{len(own)} of {len(case.seals)} seals: {', '.join(seal.kind for seal in own)}"


def given_head(case: Case) -> Iterator[str]:
    """Step 2: the ledger holds the head the reader was given."""
    if case.expected_head is None:
        raise NotDue("no head was given, so a ledger that was rewritten or cut short as a whole would pass")
    lines = [seal.digest for seal in case.seals]
    if case.expected_head not in lines:
        found = f"ends in {ledger.head(case.seals)} and has no line {case.expected_head}, the head given"
        raise Tampered(Problem("LEDGER.jsonl", found, "ask whoever gave it for the ledger it is of"))
    yield case.expected_head
    number = lines.index(case.expected_head) + 1
    if number < len(lines):
        yield f"line {number} of {len(lines)}: what was sealed behind it could be rewritten; ask for the last head"


def sealed_files(case: Case) -> Iterator[str]:
    """Step 3: every sealed file is there, byte for byte, evidence too, and no other lies beside it."""
    files = case.files
    evidence = _manifest(case, files)
    problems = [error for name, digest in {**files, **evidence}.items() for error in _compare(case, name, digest)]
    problems += [
        Tampered(Problem(name, f"is sealed by the {seal.kind} of {case.id}, which makes no such file", "remove it"))
        for seal in case.seals
        if seal.registration == case.id
        for name in seal.files
        if not re.fullmatch(case.makes.get(seal.kind, "").replace("ID", case.id), name)
    ]
    problems += [
        Deviated(Problem(name, "is sealed by nobody", "remove it, or let the command that makes it seal it"))
        for name in _unsealed(case, {**files, **evidence}, manifest=bool(evidence) and not case.running)
    ]
    registered = {seal.registration for seal in case.seals}
    problems += [
        Deviated(Problem(case.registry.name(path), "is of no registration in the ledger", "remove it"))
        for path in sorted(case.registry.reports(case.id).parent.glob("*/"))
        if path.name not in registered and not path.name.startswith(".")
    ]
    for kind in (Tampered, NotCheckable, Deviated):
        if any(isinstance(error, kind) for error in problems):
            raise kind([problem for error in problems for problem in error.problems])
    if not files:
        raise NotDue("no file is sealed yet")
    yield f"{len(files)} files" + (f" and {len(evidence)} of evidence" if evidence else "")


def _compare(case: Case, name: str, digest: str) -> list[PreregError]:
    """Return what is wrong with one sealed file: gone, a link to bytes that lie elsewhere, or other bytes."""
    try:
        path = case.registry.path(name)
    except Invalid as error:
        return [Tampered(error.problems)]
    if path != case.registry.root.resolve() / name:
        found = "is a link, or lies behind one, and not the file that was sealed"
        return [Tampered(Problem(name, found, "put the file itself there"))]
    if not path.is_file():
        return [NotCheckable(Problem(name, "is sealed and missing", "restore it"))]
    large = path.stat().st_size > canonical.MAX_BYTES  # so nobody sealed it: it need not be read
    if large or canonical.digest_file(path) != digest:
        return [Tampered(Problem(name, "is not the file that was sealed", "restore it"))]
    return []


def _manifest(case: Case, files: dict[str, str]) -> dict[str, str]:
    """Return path -> digest of the sealed evidence, empty where the list of it is not the sealed one."""
    name = f"reports/{case.id}/evidence.json"
    if name not in files or _compare(case, name, files[name]):
        return {}
    listed = store.read_manifest(read_bytes(case.registry.path(name)), name)
    return {f"reports/{case.id}/evidence/{file}": digest for file, digest in listed.items()}


def _unsealed(case: Case, files: dict[str, str], *, manifest: bool) -> list[str]:
    """Return what lies in the registration's folders and is neither sealed nor pinned.

    Before the freeze the registration's own folder is its author's desk; before the run is
    finished, or where the list of evidence cannot be believed, evidence is left to step 7.
    """
    known = [case.registry.registration(case.id) / name for name in case.local_sources()]
    if not manifest:
        known.append(case.registry.evidence(case.id))
    frozen = ledger.stage(case.seals, case.id) not in ledger.FOLLOWS["freeze"]
    desk = [case.registry.registration(case.id)] if frozen else []
    return [
        name
        for folder in (*desk, case.registry.reports(case.id))
        for path in (sorted(folder.rglob("*")) if folder.is_dir() else [])
        if (path.is_symlink() or not path.is_dir())  # a pipe or a socket, too, was sealed by nobody
        and not path.name.startswith(".")
        and (name := path.relative_to(case.registry.root).as_posix()) not in files
        and not any(path.is_relative_to(source) for source in known)
    ]
