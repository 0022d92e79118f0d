"""Beginning a study: a commented registration that is valid as it stands, and the schema editors check it by."""

from __future__ import annotations

import json
from pathlib import Path
from string import Template
from typing import Any

from prereg_moe import canonical
from prereg_moe.errors import Invalid, Problem
from prereg_moe.registration import Registration, load
from prereg_moe.registry import find_source

__all__ = ["MODELS", "STUDIES", "begin", "json_schema"]

_TEMPLATES = Path(__file__).parent / "templates"
MODELS = {"OLMoE-1B-7B": "hf:allenai/OLMoE-1B-7B-0924@6d84c48581ece794365f2b8e9cfb043c68ade9c5"}
STUDIES = {  # kind of claim -> model to start from
    "modularity": "OLMoE-1B-7B",
    "multiverse": "testbed:models/standard",
    "pruning": "testbed:models/standard",
}


def begin(root: Path, id_: str, study: str, model: str | None = None) -> list[Path]:
    """Write ``registrations/<id>/registration.yaml`` and the JSON Schema below a root; return both paths.

    Args:
        root: the registry, made where it does not exist.
        id_: the registration's id.
        study: the kind of claim, a name of :data:`STUDIES`.
        model: a name of :data:`MODELS`, or a source; the study's own where None.

    Raises:
        Invalid: an id that is taken or malformed.
        Stopped: the folder cannot be written.
    """
    target = root / "registrations" / id_ / "registration.yaml"
    if target.exists():
        raise Invalid(Problem(str(target), "exists already", "choose another --id"))
    model = model or STUDIES[study]
    text = Template((_TEMPLATES / f"{study}.yaml").read_text("utf-8")).substitute(
        id=id_, model=MODELS.get(model, model)
    )
    # a malformed id or source is said before anything is written
    registration = load(text.encode())
    find_source(registration.models["subject"].source, target.parent, root)
    if registration.id != id_:
        raise Invalid(Problem("--id", f"{id_!r} is not an id", "use letters, digits, - and _"))
    schema = root / "registrations" / "registration.schema.json"
    canonical.write(schema, (json.dumps(json_schema(), indent=1, sort_keys=True) + "\n").encode())
    canonical.write(target, text.encode())
    return [target, schema]


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of a registration, generated from its types."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Registration.model_json_schema(by_alias=True)}
