"""Beginning a study: a commented registration that is valid as it stands, and the schema editors check it by."""

from __future__ import annotations

import json
from pathlib import Path
from string import Template
from typing import Any

from prereg_moe import canonical, importing
from prereg_moe.errors import Invalid, Problem
from prereg_moe.registration import Registration, load
from prereg_moe.registration.document import read_yaml
from prereg_moe.registry import find_source

__all__ = ["MODELS", "STUDIES", "begin", "json_schema"]

_TEMPLATES = Path(__file__).parent / "templates"
MODELS = {"OLMoE-1B-7B": "hf:allenai/OLMoE-1B-7B-0924@6d84c48581ece794365f2b8e9cfb043c68ade9c5"}
STUDIES = {  # what to start from -> the model, None where the evidence is made elsewhere
    "modularity": "OLMoE-1B-7B",
    "multiverse": "testbed:models/standard",
    "pruning": "testbed:models/standard",
    "rows": None,
    "lm-eval": None,
    "summary": None,
}


def begin(root: Path, id_: str, study: str, model: str | None = None) -> list[Path]:
    """Write ``registrations/<id>/registration.yaml`` and the JSON Schema below a root; return both paths.

    Args:
        root: the registry, made where it does not exist.
        id_: the registration's id.
        study: what to start from, a name of :data:`STUDIES`.
        model: a name of :data:`MODELS`, or a source; the study's own where None.

    Raises:
        Invalid: an id that is taken or malformed, or a model of evidence made elsewhere.
        Stopped: the folder cannot be written.
    """
    target = root / "registrations" / id_ / "registration.yaml"
    if target.exists():
        raise Invalid(Problem(str(target), "exists already", "choose another --id"))
    elsewhere = STUDIES[study] is None
    if elsewhere and model is not None:
        raise Invalid(
            Problem("--model", f"{study} takes in what others made", "say in `provenance` which model it was")
        )
    model = model or STUDIES[study]
    text = Template((_TEMPLATES / f"{study}.yaml").read_text("utf-8")).substitute(
        id=id_, model=MODELS.get(model or "", model)
    )
    # a malformed id or source is said before anything is written
    if elsewhere:
        found = importing.parse(read_yaml(text.encode())).id
    else:
        registration = load(text.encode())
        find_source(registration.models["subject"].source, target.parent, root)
        found = registration.id
    if found != id_:
        raise Invalid(Problem("--id", f"{id_!r} is not an id", "use letters, digits, - and _"))
    schema, known = ("import", importing.json_schema()) if elsewhere else ("registration", json_schema())
    path = root / "registrations" / f"{schema}.schema.json"
    canonical.write(path, (json.dumps(known, indent=1, sort_keys=True) + "\n").encode())
    canonical.write(target, text.encode())
    return [target, path]


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of a registration, generated from its types."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Registration.model_json_schema(by_alias=True)}
