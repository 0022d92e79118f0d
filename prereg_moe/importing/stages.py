"""The stages of evidence made elsewhere behind its freeze, on disk and under the ledger.

<root>/registrations/<id>/registration.yaml  diagnosis.json  frozen.json  templates/
<root>/reports/<id>/sources/...  imported.json  verdict.json

Its report is rendered like any other (`prereg_moe.stages`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prereg_moe import canonical, ledger
from prereg_moe.errors import Deviated, Invalid, NotCheckable, Problem, Tampered
from prereg_moe.importing import simulation, sources
from prereg_moe.importing.checks import check_released
from prereg_moe.importing.freezing import load_frozen
from prereg_moe.importing.judging import judge
from prereg_moe.importing.schema import Imported, Samples, load
from prereg_moe.registry import Registry, read_bytes

__all__ = ["diagnose", "read_sources", "take_in", "verdict"]

_MAX_FILES = 10_000


def diagnose(
    registry: Registry, id_: str, *, studies: int | None, time: str, progress: simulation.Progress | None
) -> tuple[dict[str, Any], Path, str]:
    """Simulate a summary's rules, write and seal ``diagnosis.json``; return it, its path and the head.

    Raises:
        Invalid: no design is registered.
        Deviated: it is frozen already.
    """
    folder = registry.registration(id_)
    if ledger.stage(ledger.parse(registry.ledger()), id_) not in ledger.FOLLOWS["diagnosis"]:
        raise Deviated(
            Problem(id_, "is frozen already", "a diagnosis comes before the freeze; register a new study for one")
        )
    made = simulation.diagnose(load(folder / "registration.yaml"), studies=studies, progress=progress)
    path = folder / "diagnosis.json"
    canonical.write(path, made)
    return made, path, registry.seal("diagnosis", id_, [path], time=time)


def take_in(
    registry: Registry, id_: str, kind: str, source: Path, *, data: Path | None = None, time: str
) -> tuple[dict[str, Any], str]:
    """Copy the source files, derive ``imported.json`` from them, seal all of it; return it and the head.

    Nothing is written where a file is not what is registered.

    Args:
        registry: the registry.
        id_: the registration.
        kind: the kind of evidence that was asked for.
        source: a table, or for lm-eval a folder of runs.
        data: the folder of files released beside a summary; where given they are checked.
        time: the time of the seal.

    Raises:
        Invalid, NotCheckable, Tampered, Deviated: what keeps the files from being this study's evidence.
    """
    frozen = load_frozen(registry, id_)
    document = frozen.registration
    if document.evidence.kind != kind:
        found = f"its evidence is {document.evidence.kind}"
        raise Invalid(Problem(id_, found, f"run `prereg-moe import {document.evidence.kind} {id_}`"))
    before = ledger.stage(ledger.parse(registry.ledger()), id_)
    if before not in ledger.FOLLOWS["import"]:
        raise Deviated(Problem(id_, "has its evidence already", "register other evidence as a new study"))
    if data is not None and document.released is None:
        raise Invalid(Problem("--data", "no released files are registered", "name them under `released`"))
    files = _files(document, source)
    checks = check_released(document.released, data) if data is not None and document.released is not None else None
    imported = sources.derive(frozen, files, checks)
    folder = registry.reports(id_)
    written = [folder / "sources" / name for name in files]
    for path, content in zip(written, files.values(), strict=True):
        canonical.write(path, content)
    canonical.write(folder / "imported.json", imported)
    body = {"kind": kind, "checks": None if checks is None else checks["files"]}
    return imported, registry.seal("import", id_, [folder / "imported.json", *written], time=time, body=body)


def _files(document: Imported, source: Path) -> dict[str, bytes]:
    """Return name -> bytes of a source: the file itself, or the registered runs below a folder."""
    if not isinstance(document.evidence, Samples):
        if not source.is_file():
            raise NotCheckable(Problem(str(source), "is not a file", "give the table"))
        return {source.name: read_bytes(source)}
    if not source.is_dir():
        raise NotCheckable(Problem(str(source), "is not a folder", "give the folder that holds the runs"))
    root = source.resolve()
    found: dict[str, bytes] = {}
    for run in (document.evidence.baseline, *document.evidence.ablations.values()):
        folder = (root / run.folder).resolve()
        if not folder.is_relative_to(root):
            raise Invalid(Problem("evidence", f"{run.folder!r} leaves {source}", "name a folder below it"))
        if not folder.is_dir():
            raise NotCheckable(Problem(str(source), f"has no folder {run.folder}", "give the run's --output_path"))
        for path in sorted(folder.rglob("*")):
            if path.is_file() and path.suffix in (".json", ".jsonl") and not path.name.startswith("."):
                found[path.relative_to(root).as_posix()] = read_bytes(path)
    if len(found) > _MAX_FILES:
        raise Invalid(Problem(str(source), f"holds {len(found)} files", f"at most {_MAX_FILES}"))
    return found


def read_sources(registry: Registry, id_: str) -> dict[str, bytes]:
    """Return name -> bytes of the copied source files of an import, as they lie on disk.

    Raises:
        NotCheckable: one cannot be read.
    """
    folder = registry.reports(id_) / "sources"
    return {
        path.relative_to(folder).as_posix(): read_bytes(path) for path in sorted(folder.rglob("*")) if path.is_file()
    }


def verdict(registry: Registry, id_: str, *, time: str) -> tuple[dict[str, Any], str]:
    """Judge imported evidence, write and seal ``verdict.json``; return the document and the ledger's head.

    Raises:
        NotCheckable, Tampered: the evidence is not there, or not as sealed.
    """
    frozen = load_frozen(registry, id_)
    seals = ledger.parse(registry.ledger())
    files = ledger.sealed_files(seals, id_)
    path = registry.reports(id_) / "imported.json"
    todo = f"run `prereg-moe import {frozen.registration.evidence.kind} {id_}`"
    imported = canonical.loads(registry.read_sealed(files, path, todo), registry.name(path))
    diagnosis = None
    if frozen.document["pins"]["diagnosis"] is not None:
        kept = registry.registration(id_) / "diagnosis.json"
        diagnosis = canonical.loads(registry.read_sealed(files, kept, ""), registry.name(kept))
    made = judge(frozen, imported, diagnosis)
    target = registry.reports(id_) / "verdict.json"
    sealed = files.get(registry.name(target))
    if sealed is not None and sealed != canonical.digest(made):
        found = "another verdict than the one sealed follows from the evidence"
        raise Tampered(Problem(registry.name(target), found, "use the version of prereg-moe that judged it"))
    canonical.write(target, made)
    if sealed is not None:
        return made, ledger.head(seals) or ""
    return made, registry.seal("verdict", id_, [target], time=time)
