"""The freeze itself: one document is composed of everything the study rests on, written, and sealed.

It refuses an atlas or a diagnosis that is missing, not the one that was sealed, or of other bytes than
those registered, and a diagnosis that does not show what is demanded of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

import prereg_moe
from prereg_moe import canonical, ledger, record
from prereg_moe.atlas import RoutingAtlas
from prereg_moe.errors import Deviated, Invalid, Problem, Tampered, shaped
from prereg_moe.freezing.checking import other_name
from prereg_moe.freezing.fitting import misfits
from prereg_moe.freezing.items import list_items
from prereg_moe.freezing.pinning import atlas_inputs, pins_of, read_templates
from prereg_moe.freezing.reading import read_atlases
from prereg_moe.frozen import SCHEMA, Frozen, derive
from prereg_moe.registration import Registration, demand, expand, load
from prereg_moe.registry import Registry

__all__ = ["freeze", "sealed_diagnosis", "unmet_demands", "write_frozen"]


def freeze(registry: Registry, id_: str, *, time: str) -> Frozen:
    """Write ``frozen.json`` (and the templates) of a registration, seal them, and return it.

    Raises:
        Invalid: the document, or what it names, cannot be frozen; all problems at once.
        Deviated: it is frozen already.
        NotCheckable: a file it names is not there.
        Tampered: the atlas or the diagnosis is not the one that was sealed.
    """
    folder = registry.registration(id_)
    seals = ledger.parse(registry.ledger())
    if ledger.stage(seals, id_) not in ledger.FOLLOWS["freeze"]:
        raise Deviated(
            Problem(id_, "is frozen already", f"`prereg-moe amend {id_}` before it is run, or register a new study")
        )
    source = folder / "registration.yaml"
    registration = load(source)
    if problems := [*other_name(registration.id, id_), *misfits(registration, folder, registry.root)]:
        raise Invalid(problems)
    atlases, atlas_digest = _atlas(registry, registration, seals)
    templates = read_templates(registration, folder, registry.root)
    document = {
        "schema": SCHEMA,
        "software": {"prereg-moe": prereg_moe.__version__},
        "registration": expand(registration),
        "pins": {
            **pins_of(registration, folder, registry.root),
            "atlas": atlas_digest,
            "diagnosis": _diagnosis(registry, registration, seals),
            "document": canonical.digest_file(source),
            "templates": {name: canonical.digest(text) for name, text in templates.items()},
        },
        **list_items(registration, folder, registry.root),
        **derive(registration, atlases),
    }
    if superseded := record.supersedes(seals, id_):
        document["supersedes"] = superseded
    frozen = Frozen.from_bytes(canonical.dumps(document))
    write_frozen(registry, id_, document, templates, body=record.freeze_body(frozen), time=time)
    return frozen


def write_frozen(
    registry: Registry,
    id_: str,
    document: Mapping[str, Any],
    templates: Mapping[str, bytes],
    *,
    body: Mapping[str, Any],
    time: str,
) -> None:
    """Write a frozen document and its templates, and seal them with the document they were frozen from.

    Raises:
        Stopped: the folder is read-only or full.
    """
    folder = registry.registration(id_)
    copies = [folder / "templates" / name for name in templates]
    for path, text in zip(copies, templates.values(), strict=True):
        canonical.write(path, text)
    canonical.write(folder / "frozen.json", document)
    files = [folder / "registration.yaml", folder / "frozen.json", *copies]
    registry.seal("freeze", id_, files, time=time, body=body)


def sealed_diagnosis(
    registry: Registry,
    id_: str,
    seals: tuple[ledger.Seal, ...],
    *,
    registration: BaseModel,
    due: bool,
    schema: str,
) -> tuple[str | None, Any]:
    """Return digest and document of the sealed diagnosis of a registration, None and None where there need be none.

    Args:
        registry: the registry.
        id_: the registration's id.
        seals: the ledger.
        registration: as it was authored.
        due: whether it asks for a diagnosis.
        schema: of the diagnosis.

    Raises:
        Invalid: it is registered and not there, or of another registration.
        Tampered: it is not the file that was sealed.
    """
    path = registry.registration(id_) / "diagnosis.json"
    sealed = ledger.sealed_files(seals, id_).get(registry.name(path))
    again = f"run `prereg-moe diagnose {id_}`"
    if not path.exists():
        if not due and sealed is None:
            return None, None
        raise Invalid(Problem("diagnosis", "is not made yet" if sealed is None else "is sealed and missing", again))
    digest = canonical.digest_file(path)
    if sealed != digest:
        raise Tampered(Problem(registry.name(path), "is not the file that was sealed", again))
    document = canonical.read(path)
    if not isinstance(document, dict) or document.get("schema") != schema:
        raise Invalid(Problem(registry.name(path), "is no diagnosis", again))
    if document.get("registration") != canonical.digest(expand(registration)):
        raise Invalid(Problem("diagnosis", "is of another registration.yaml than the one here", again))
    return digest, document


def unmet_demands(registry: Registry, registration: Registration) -> list[Problem]:
    """Return the registered demands that the diagnosis beside a registration does not show to be met.

    Raises:
        NotCheckable: the diagnosis cannot be read.
        Tampered: it is not canonical JSON.
    """
    if registration.diagnosis is None:
        return []
    document = canonical.read(registry.registration(registration.id) / "diagnosis.json")
    with shaped("diagnosis.json"):
        return demand.unmet(registration.diagnosis, document)


def _atlas(
    registry: Registry, registration: Registration, seals: tuple[ledger.Seal, ...]
) -> tuple[dict[str, RoutingAtlas], str | None]:
    """Return model -> atlas and the atlas file's digest, having checked that it is of the registered bytes."""
    if registration.atlas is None:
        return {}, None
    path = registry.registration(registration.id) / "atlas.json"
    if not path.exists():
        raise Invalid(Problem("atlas", "is not made yet", f"run `prereg-moe atlas {registration.id}` first"))
    digest = canonical.digest_file(path)
    if ledger.sealed_files(seals, registration.id).get(registry.name(path)) != digest:
        raise Tampered(Problem(registry.name(path), "is not the file that was sealed", "make the atlas again"))
    inputs, atlases = read_atlases(path)
    if inputs != atlas_inputs(registration, path.parent, registry.root):
        raise Invalid(Problem("atlas", "was made of other weights, items or settings", "make the atlas again"))
    if absent := set(registration.models) - set(atlases):
        raise Tampered(Problem("atlas", f"holds no routing of {', '.join(sorted(absent))}", "make the atlas again"))
    return atlases, digest


def _diagnosis(registry: Registry, registration: Registration, seals: tuple[ledger.Seal, ...]) -> str | None:
    """Return the digest of the sealed diagnosis, which is of this document and meets what it demands; or None."""
    asked = registration.diagnosis
    digest, document = sealed_diagnosis(
        registry,
        registration.id,
        seals,
        registration=registration,
        due=asked is not None,
        schema=demand.SCHEMA,
    )
    if asked is not None:
        with shaped("diagnosis.json"):
            problems = demand.incomplete(asked, document)
            if asked.on_failure == "refuse":
                problems += demand.unmet(asked, document)
        if problems:
            raise Invalid(problems)
    return digest
