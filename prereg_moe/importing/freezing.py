"""Before evidence made elsewhere is taken in: its registration is checked and frozen. Needs no scipy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import prereg_moe
from prereg_moe import canonical, ledger
from prereg_moe.errors import Deviated, Invalid, Problem
from prereg_moe.freezing import other_name, read_frozen, sealed_diagnosis, write_frozen
from prereg_moe.importing.frozen import DIAGNOSIS, SCHEMA, FrozenImport, templates
from prereg_moe.importing.schema import Imported, load, names
from prereg_moe.registration import expand
from prereg_moe.registry import Registry

__all__ = ["Checked", "check", "freeze", "load_frozen"]


@dataclass(frozen=True, slots=True)
class Checked:
    """What `check` found.

    Attributes:
        registration: the valid registration.
        claims: claims it makes; of a summary, blocks of claims.
        pending: what must be there before it can be frozen.
        advice: choices that weaken the study.
    """

    registration: Imported
    claims: int
    pending: tuple[Problem, ...]
    advice: tuple[Problem, ...]


def check(path: Path) -> Checked:
    """Return what freezing the registration at ``path`` would need; nothing is written.

    Raises:
        Invalid: with every problem of the document.
    """
    path = path / "registration.yaml" if path.is_dir() else path
    document, folder = load(path), path.resolve().parent
    if folder.parent.name == "registrations" and (problems := other_name(document.id, folder.name)):
        raise Invalid(problems)
    advice = []
    if document.design is not None and not path.with_name("diagnosis.json").exists():
        advice.append(Problem("design", "is not simulated yet", f"run `prereg-moe diagnose {document.id}`"))
    absent = any(getattr(document.rules[block.rule], "kind", "") == "absence" for block in document.claims)
    if absent and document.controls.positive is None:
        found = "absence is claimed and no positive control is registered"
        advice.append(Problem("controls.positive", found, "without it nobody can tell absence from a blind study"))
    claims = sum(len(names(document, block) or (block.id,)) for block in document.claims)
    return Checked(document, claims, (), tuple(advice))


def freeze(registry: Registry, id_: str, *, time: str) -> FrozenImport:
    """Write ``frozen.json`` and the templates, seal them, and return the frozen registration.

    Raises:
        Invalid: the document cannot be frozen.
        Deviated: it is frozen already.
        Tampered: the diagnosis is not the one that was sealed.
    """
    seals = ledger.parse(registry.ledger())
    if ledger.stage(seals, id_) not in ledger.FOLLOWS["freeze"]:
        raise Deviated(Problem(id_, "is frozen already", "register a change as a new registration with its own id"))
    source = registry.registration(id_) / "registration.yaml"
    document = load(source)
    if problems := other_name(document.id, id_):
        raise Invalid(problems)
    diagnosis, _ = sealed_diagnosis(
        registry, id_, seals, registration=document, due=document.design is not None, schema=DIAGNOSIS
    )
    texts = templates(document.evidence.kind)
    value = {
        "schema": SCHEMA,
        "software": {"prereg-moe": prereg_moe.__version__},
        "registration": expand(document),
        "pins": {
            "document": canonical.digest_file(source),
            "diagnosis": diagnosis,
            "templates": {name: canonical.digest(text) for name, text in texts.items()},
        },
    }
    frozen = FrozenImport.from_bytes(canonical.dumps(value))
    body = {"digest": frozen.digest, "claim_space": []}  # it says nothing of models and texts studied here
    write_frozen(registry, id_, value, texts, body=body, time=time)
    return frozen


def load_frozen(registry: Registry, id_: str) -> FrozenImport:
    """Return the frozen registration as it was sealed.

    Raises:
        Invalid: it was never frozen.
        NotCheckable: its file is gone.
        Tampered: its bytes are not the ones sealed.
    """
    name = registry.name(registry.registration(id_) / "frozen.json")
    return FrozenImport.from_bytes(read_frozen(registry, id_), name)
