"""Evidence on disk: read as it was sealed, sealed when it is complete."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from prereg_moe import canonical, evidence, ledger
from prereg_moe.errors import Deviated, NotCheckable, Problem, Tampered
from prereg_moe.evidence import Evidence
from prereg_moe.frozen import Frozen
from prereg_moe.registry import Registry, read_bytes

__all__ = ["finish", "gather", "manifest", "read_manifest"]


def gather(registry: Registry, frozen: Frozen) -> Evidence:
    """Return the evidence of a registration, which is complete and as it was sealed.

    Raises:
        NotCheckable: conditions are missing, or the run was never finished.
        Tampered: a file is not the one sealed.
        Deviated: a file is not what was planned, or was never sealed.
    """
    files = _files(registry.evidence(frozen.registration.id))
    _as_sealed(files, manifest(registry, frozen.registration.id))
    return evidence.gather(frozen, files)


def manifest(registry: Registry, id_: str) -> dict[str, str]:
    """Return file name -> digest of the sealed evidence.

    Raises:
        NotCheckable: the run was never finished.
        Tampered: the manifest is not the file that was sealed.
    """
    path = registry.reports(id_) / "evidence.json"
    sealed = ledger.sealed_files(ledger.parse(registry.ledger()), id_).get(registry.name(path))
    if sealed is None:
        raise NotCheckable(Problem(id_, "its run is not finished", f"run `prereg-moe run {id_}`"))
    data = read_bytes(path)
    if canonical.digest(data) != sealed:
        raise Tampered(Problem(registry.name(path), "is not the file that was sealed", "restore it"))
    return read_manifest(data, registry.name(path))


def read_manifest(data: bytes, where: str) -> dict[str, str]:
    """Return file name -> digest in the bytes of a list of evidence.

    Raises:
        Tampered: the bytes are no such list.
    """
    files = canonical.loads(data, where)
    if not isinstance(files, dict) or not all(
        name == PurePosixPath(name).name and isinstance(digest, str) for name, digest in files.items()
    ):
        raise Tampered(Problem(where, "is not a list of evidence files and their digests", "restore it"))
    return files


def finish(registry: Registry, frozen: Frozen, *, time: str) -> str:
    """Seal complete evidence and return the ledger's new head.

    Raises:
        NotCheckable: conditions are missing.
        Tampered, Deviated: a file is not what was planned.
    """
    id_ = frozen.registration.id
    files = _files(registry.evidence(id_))
    gathered = evidence.gather(frozen, files)
    path = registry.reports(id_) / "evidence.json"
    canonical.write(path, evidence.manifest(files))
    return registry.seal(
        "finish", id_, [path], time=time, body={"conditions": len(files), "environment": dict(gathered.environment)}
    )


def _files(folder: Path) -> dict[str, bytes]:
    """Return file name -> bytes of the evidence folder; hidden files are unfinished writes."""
    if not folder.is_dir():
        return {}
    return {path.name: read_bytes(path) for path in sorted(folder.iterdir()) if not path.name.startswith(".")}


def _as_sealed(files: dict[str, bytes], sealed: dict[str, str]) -> None:
    """Compare evidence files with the sealed manifest; an edited file is graver than a missing or an added one."""
    edited = [name for name, digest in sealed.items() if name in files and canonical.digest(files[name]) != digest]
    if edited:
        raise Tampered([Problem(name, "is not the evidence that was sealed", "restore it") for name in edited])
    gone = [name for name in sealed if name not in files]
    if gone:
        raise NotCheckable([Problem(name, "sealed evidence is missing", "restore it") for name in gone])
    added = sorted(set(files) - set(sealed))
    if added:
        raise Deviated([Problem(name, "is evidence that nobody sealed", "remove it") for name in added])
