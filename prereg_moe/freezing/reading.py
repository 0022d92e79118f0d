"""What was frozen, read as it was sealed: the document, its atlas, the draws a challenge gave."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from prereg_moe import canonical, ledger
from prereg_moe.atlas import RoutingAtlas
from prereg_moe.errors import Invalid, Problem, Tampered, shaped
from prereg_moe.frozen import Frozen, challenged
from prereg_moe.registry import Registry, read_bytes

__all__ = ["answered", "frozen_atlases", "load_frozen", "read_atlases", "read_frozen"]


def load_frozen(registry: Registry, id_: str) -> Frozen:
    """Return the frozen registration as it was sealed.

    Raises:
        Invalid, NotCheckable, Tampered: as for :func:`read_frozen`.
    """
    data = read_frozen(registry, id_)
    return answered(registry, Frozen.from_bytes(data, registry.name(registry.registration(id_) / "frozen.json")))


def read_frozen(registry: Registry, id_: str) -> bytes:
    """Return the bytes of a frozen registration, whatever its evidence, as they were sealed.

    Raises:
        Invalid: there is no such registration, or it was never frozen.
        NotCheckable: its file is gone.
        Tampered: its bytes are not the ones sealed.
    """
    path = registry.registration(id_) / "frozen.json"
    if not path.parent.is_dir():
        raise Invalid(Problem(id_, "is not a registration here", f"look in {registry.root / 'registrations'}"))
    files = ledger.sealed_files(ledger.parse(registry.ledger()), id_)
    if registry.name(path) not in files:
        raise Invalid(Problem(id_, "is not frozen", f"run `prereg-moe freeze {id_}`"))
    return registry.read_sealed(files, path, "")


def answered(registry: Registry, frozen: Frozen) -> Frozen:
    """Return a frozen registration with the draws its sealed challenge gave, itself where there is none.

    Raises:
        NotCheckable: the sealed draws are gone.
        Tampered: they are not the ones that were sealed, or of another registration.
    """
    if not challenged(frozen.registration):
        return frozen
    path = registry.registration(frozen.registration.id) / "draws.json"
    seals, _ = ledger.examine(registry.ledger())
    sealed = ledger.sealed_files(seals, frozen.registration.id).get(registry.name(path))
    if sealed is None:
        return frozen
    data = read_bytes(path)
    document = canonical.loads(data, registry.name(path))
    if canonical.digest(data) != sealed or document["registration"] != frozen.digest:
        raise Tampered(Problem(registry.name(path), "is not the file that was sealed", "restore it"))
    return replace(frozen, answer=document)


def frozen_atlases(registry: Registry, frozen: Frozen) -> dict[str, RoutingAtlas]:
    """Return model -> the routing atlas that was frozen, nothing where none is registered.

    Raises:
        NotCheckable: it is gone.
        Tampered: it is not the one that was frozen.
    """
    if frozen.registration.atlas is None:
        return {}
    path = registry.registration(frozen.registration.id) / "atlas.json"
    if canonical.digest_file(path) != frozen.document["pins"]["atlas"]:
        raise Tampered(Problem("atlas.json", "is not the atlas that was frozen", "restore it"))
    return read_atlases(path)[1]


def read_atlases(path: Path) -> tuple[Any, dict[str, RoutingAtlas]]:
    """Return what an atlas file says it is of, and the atlas of each model.

    Raises:
        NotCheckable: it cannot be read.
        Tampered: it is no atlas file.
    """
    document = canonical.read(path)
    with shaped(path.name):
        tables = document["models"].items()
        return document["inputs"], {
            name: RoutingAtlas.from_json(table, f"{path.name}, {name}") for name, table in tables
        }
