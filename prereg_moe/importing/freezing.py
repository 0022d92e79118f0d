"""Before evidence made elsewhere is taken in: its registration is checked and frozen. Needs no scipy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import prereg_moe
from prereg_moe import canonical, ledger
from prereg_moe.errors import Deviated, Invalid, Problem, Tampered
from prereg_moe.importing.frozen import SCHEMA, FrozenImport, templates
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
    document = load(path)
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
    folder = registry.registration(id_)
    seals = ledger.parse(registry.ledger())
    if ledger.stage(seals, id_) not in ledger.FOLLOWS["freeze"]:
        raise Deviated(Problem(id_, "is frozen already", "register a change as a new registration with its own id"))
    source = folder / "registration.yaml"
    document = load(source)
    if document.id != id_:
        raise Invalid(Problem("id", f"is {document.id!r} in the folder {id_!r}", "give both the same name"))
    texts = templates(document.evidence.kind)
    value = {
        "schema": SCHEMA,
        "software": {"prereg-moe": prereg_moe.__version__},
        "registration": expand(document),
        "pins": {
            "document": canonical.digest_file(source),
            "diagnosis": _diagnosis(registry, document, seals),
            "templates": {name: canonical.digest(text) for name, text in texts.items()},
        },
    }
    frozen = FrozenImport.from_bytes(canonical.dumps(value))
    copies = [folder / "templates" / name for name in texts]
    for path, text in zip(copies, texts.values(), strict=True):
        canonical.write(path, text)
    canonical.write(folder / "frozen.json", value)
    body = {"digest": frozen.digest, "claim_space": []}  # it says nothing of models and texts studied here
    registry.seal("freeze", id_, [source, folder / "frozen.json", *copies], time=time, body=body)
    return frozen


def _diagnosis(registry: Registry, document: Imported, seals: tuple[ledger.Seal, ...]) -> str | None:
    path = registry.registration(document.id) / "diagnosis.json"
    sealed = ledger.sealed_files(seals, document.id).get(registry.name(path))
    again = f"run `prereg-moe diagnose {document.id}`"
    if not path.exists():
        if sealed is None and document.design is None:
            return None
        raise Invalid(Problem("diagnosis", "is not made yet" if sealed is None else "is sealed and missing", again))
    digest = canonical.digest_file(path)
    if sealed != digest:
        raise Tampered(Problem(registry.name(path), "is not the file that was sealed", again))
    if canonical.read(path).get("registration") != canonical.digest(expand(document)):
        raise Invalid(Problem("diagnosis", "is of another registration.yaml than the one here", again))
    return digest


def load_frozen(registry: Registry, id_: str) -> FrozenImport:
    """Return the frozen registration as it was sealed.

    Raises:
        Invalid: it was never frozen.
        NotCheckable: its file is gone.
        Tampered: its bytes are not the ones sealed.
    """
    path = registry.registration(id_) / "frozen.json"
    files = ledger.sealed_files(ledger.parse(registry.ledger()), id_)
    if registry.name(path) not in files:
        raise Invalid(Problem(id_, "is not frozen", f"run `prereg-moe freeze {id_}`"))
    return FrozenImport.from_bytes(registry.read_sealed(files, path, ""), registry.name(path))
