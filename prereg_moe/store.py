"""Evidence on disk: read as it was sealed, sealed when it is complete."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

from prereg_moe import canonical, evidence, ledger
from prereg_moe import record as records
from prereg_moe.errors import Deviated, NotCheckable, Problem, Tampered, shaped
from prereg_moe.evidence import Agreement, Evidence
from prereg_moe.frozen import Frozen
from prereg_moe.ledger import Seal
from prereg_moe.record import Record, Space
from prereg_moe.registration import parse, part_count
from prereg_moe.registry import Registry, read_bytes

__all__ = ["agreement", "finish", "gather", "look", "manifest", "reached", "read_manifest", "record", "told"]


def gather(registry: Registry, frozen: Frozen) -> Evidence:
    """Return the evidence of a registration, which is complete and as it was sealed.

    Raises:
        NotCheckable: conditions are missing, or the run was never finished.
        Tampered: a file is not the one sealed.
        Deviated: a file is not what was planned, or was never sealed.
    """
    files = _Files(registry.evidence(frozen.registration.id))
    _only_sealed(files, manifest(registry, frozen.registration.id))
    return evidence.gather(frozen, files)


def reached(registry: Registry, frozen: Frozen) -> Frozen:
    """Return the study with the items its sealed evidence is of: all, or where it stopped at a look, that look's."""
    own = [seal for seal in ledger.parse(registry.ledger()) if seal.registration == frozen.registration.id]
    if any(seal.kind == "finish" for seal in own):
        return frozen
    looks = [seal.body.get("look") for seal in own if seal.kind == "look"]
    return frozen.first(looks[-1]) if looks else frozen


def look(registry: Registry, frozen: Frozen) -> tuple[int, Evidence, list[Path]]:
    """Return the last look whose evidence is complete, that evidence, and the list of it, unsealed.

    Raises:
        Deviated: no look is registered, or the one that could be taken is spent.
        NotCheckable: the evidence of no look is complete.
        Tampered: a file is not what was planned.
    """
    id_ = frozen.registration.id
    if part_count(frozen.registration) == 1:
        found = "has no interim look registered"
        raise Deviated(Problem(id_, found, "estimates are shown when all evidence is there and judged"))
    spent = [
        seal.body.get("look")
        for seal in ledger.parse(registry.ledger())
        if (seal.registration, seal.kind) == (id_, "look")
    ]
    files = _Files(registry.evidence(id_))
    ready = [
        number
        for number in range(1, part_count(frozen.registration))
        if all(evidence.file_name(digest) in files for digest in frozen.first(number).plan)
    ]
    if not ready:
        raise NotCheckable(Problem(id_, "has not all evidence of a look", f"run `prereg-moe run {id_}`"))
    if ready[-1] in spent:
        found = f"look {ready[-1]} is spent"
        raise Deviated(Problem(id_, found, f"run on with `prereg-moe run {id_}`, or stop and judge it"))
    seen = frozen.first(ready[-1])
    mine = {evidence.file_name(digest): files[evidence.file_name(digest)] for digest in seen.plan}
    gathered = evidence.gather(seen, mine)
    path = registry.reports(id_) / "evidence.json"
    canonical.write(path, evidence.manifest(mine))
    return ready[-1], gathered, [path]


def record(registry: Registry, frozen: Frozen, seals: Sequence[Seal]) -> Record:
    """Return what a ledger says about a study, with the amended plans it has sealed.

    Args:
        seals: the ledger, up to the seal of the verdict that is judged.

    Raises:
        NotCheckable: a sealed plan is missing.
        Tampered: it is not the one sealed.
    """
    id_ = frozen.registration.id
    plans = {}
    for seal in seals:
        if seal.registration == id_ and seal.kind == "deviation" and seal.body.get("plan"):
            path = registry.registration(id_) / "deviations" / f"{seal.body['number']}.json"
            data = _sealed_bytes(registry, path, seal.body["plan"])
            plans[seal.body["number"]] = parse(canonical.loads(data, registry.name(path)))
    return records.read(seals, frozen, plans=plans, told=told(registry, seals))


def told(registry: Registry, seals: Sequence[Seal]) -> dict[str, list[Space]]:
    """Return the claim spaces that seals do not say, read from the frozen registrations they name."""
    spaces = {}
    for seal in seals:
        name = f"registrations/{seal.registration}/frozen.json"
        if seal.kind == "freeze" and "claim_space" not in seal.body and name in seal.files:
            path = registry.path(name)
            if path.is_file():
                data = _sealed_bytes(registry, path, seal.files[name])
                spaces[seal.registration] = records.claim_space(Frozen.from_bytes(data, name))
    return spaces


def _sealed_bytes(registry: Registry, path: Path, digest: str) -> bytes:
    data = read_bytes(path)
    if canonical.digest(data) != digest:
        raise Tampered(Problem(registry.name(path), "is not the file that was sealed", "restore it"))
    return data


def manifest(registry: Registry, id_: str) -> dict[str, str]:
    """Return file name -> digest of the sealed evidence.

    Raises:
        NotCheckable: the run was never finished.
        Tampered: the manifest is not the file that was sealed.
    """
    path = registry.reports(id_) / "evidence.json"
    seals = ledger.parse(registry.ledger())
    sealed = ledger.sealed_files(seals, id_).get(registry.name(path))
    if sealed is None or ledger.stage(seals, id_) == "start":  # a look's list is not that of what came behind it
        raise NotCheckable(Problem(id_, "its run is not finished", f"run `prereg-moe run {id_}`"))
    return read_manifest(_sealed_bytes(registry, path, sealed), registry.name(path))


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


def agreement(registry: Registry, frozen: Frozen, digests: Iterable[str]) -> Agreement | None:
    """Return how far the evidence of conditions that is there lies from `stock`; None where `stock` is registered.

    Raises:
        Tampered: a file does not say how it was checked.
    """
    engine = frozen.registration.engine
    if engine.kind == "stock":
        return None
    paths = [registry.evidence(frozen.registration.id) / evidence.file_name(digest) for digest in digests]
    with shaped("evidence"):
        return Agreement.of([canonical.read(path)["engine"] for path in paths if path.exists()], engine.tolerance)


def finish(registry: Registry, frozen: Frozen, *, time: str) -> str:
    """Seal complete evidence and return the ledger's new head.

    Raises:
        NotCheckable: conditions are missing.
        Tampered, Deviated: a file is not what was planned.
    """
    id_ = frozen.registration.id
    files = _Files(registry.evidence(id_))
    gathered = evidence.gather(frozen, files)
    path = registry.reports(id_) / "evidence.json"
    canonical.write(path, evidence.manifest(files))
    return registry.seal(
        "finish", id_, [path], time=time, body={"conditions": len(files), "environment": dict(gathered.environment)}
    )


class _Files(Mapping[str, bytes]):
    """The files of an evidence folder by name, each read when it is asked for; hidden files are unfinished writes."""

    def __init__(self, folder: Path) -> None:
        found = sorted(folder.iterdir()) if folder.is_dir() else []
        self._paths = {path.name: path for path in found if not path.name.startswith(".")}

    def __getitem__(self, name: str) -> bytes:
        return read_bytes(self._paths[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._paths)

    def __len__(self) -> int:
        return len(self._paths)

    def __contains__(self, name: object) -> bool:  # the mixin would read the file
        return name in self._paths


def _only_sealed(files: Mapping[str, bytes], sealed: dict[str, str]) -> None:
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
