"""From bytes to a registration: types first, then what only the whole document can tell.

:func:`load` reports every problem of a stage at once. A registration it returns can be frozen
as soon as the files it names are there.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from prereg_moe import canonical
from prereg_moe.errors import Invalid, NotCheckable, Problem
from prereg_moe.registration import coherence, planned, schema
from prereg_moe.registration.document import MAX_BYTES, place, read_yaml
from prereg_moe.registration.schema import Registration

__all__ = ["differences", "expand", "load", "parse", "read_as"]

Document = TypeVar("Document", bound=BaseModel)


def load(source: Path | bytes) -> Registration:
    """Return the registration in a YAML file (or its bytes).

    Raises:
        Invalid: with every problem found, each with its place.
        NotCheckable: the file cannot be read.
    """
    if isinstance(source, bytes):
        return parse(read_yaml(source))
    try:
        with source.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise NotCheckable(
            Problem(str(source), f"cannot be read ({error.strerror})", "name a registration.yaml")
        ) from error
    return parse(read_yaml(data, source.name))


def parse(value: Any) -> Registration:
    """Return the registration a plain value says; ``parse(expand(r)) == r``.

    Raises:
        Invalid: with every problem found, each with its place.
    """
    if isinstance(value, dict):
        later = [
            Problem(key, f"is for {what} and is not available in this version", "remove it")
            for key, what in planned.SECTIONS.items()
            if key in value
        ]
        if later:
            raise Invalid(later)
    registration = read_as(Registration, value)
    problems = dict.fromkeys(coherence.problems(registration))  # blocks with one fault report it once
    if problems:
        raise Invalid(problems)
    return registration


def read_as(kind: type[Document], value: Any) -> Document:
    """Return the document of a kind that a plain value says.

    Raises:
        Invalid: with everything that is not of the kind's form, each with its place.
    """
    try:
        # JSON mode: lists become tuples and 3 becomes 3.0, but nothing else is converted
        return kind.model_validate_json(canonical.dumps(value))
    except ValidationError as error:
        known = vars(sys.modules[kind.__module__])
        found = [detail for detail in error.errors() if not _follows(detail)]
        raise Invalid([_problem(detail, value, known) for detail in found]) from error


def expand(registration: BaseModel) -> dict[str, Any]:
    """Return the registration as plain JSON with every default written out.

    What is not registered (an optional part left out) is not there, so that a part which a later
    version adds changes no document written before it.
    """
    return registration.model_dump(mode="json", by_alias=True, exclude_none=True)


def differences(before: Registration, after: Registration) -> list[str]:
    """Return the keys in which two registrations differ, in alphabetical order; those below ``controls`` one by one."""
    old, new = (_flat(expand(registration)) for registration in (before, after))
    return sorted(key for key in {*old, *new} if old.get(key) != new.get(key))


def _flat(document: dict[str, Any]) -> dict[str, Any]:
    controls = document.get("controls", {})
    return {k: v for k, v in document.items() if k != "controls"} | {f"controls.{k}": v for k, v in controls.items()}


_SPELLING = {
    r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$": "a name has letters, digits, - and _, and at most 64 of them",
    r"^[0-9]{1,20}$": "a seed has 1 to 20 digits",
    r"^([0-9]{1,20}|challenge)$": "a seed has 1 to 20 digits, or is the word challenge",
    r"^(0|[1-9][0-9]{0,3})$": "a layer is a number",
}


_EXPECTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "float_type": "a number, without quotes",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "dict_type": "a table of names",
    "model_type": "a table of keys",
    "greater_than": "a number above {gt:g}",
    "greater_than_equal": "a number of at least {ge:g}",
    "less_than": "a number below {lt:g}",
    "less_than_equal": "a number of at most {le:g}",
}


def _follows(detail: Any) -> bool:
    """Whether pydantic calls a list too short because what is in it was refused, which it reports by itself."""
    return bool(detail["type"] == "too_short" and len(detail["input"]) >= detail["ctx"]["min_length"])


def _problem(detail: Any, value: Any, types: Mapping[str, Any]) -> Problem:
    """Return pydantic's finding in our words, with the place an author would look at."""
    path = _authored(detail["loc"], value)
    where, kind, context = place(path) or "registration", detail["type"], detail.get("ctx", {})
    if kind == "missing":
        return Problem(where, "is missing", "every registration says this")
    if kind == "extra_forbidden":
        return _stray(where, path, types)
    if kind in ("literal_error", "union_tag_invalid"):
        found = context.get("tag") or detail["input"]
        if not isinstance(found, str):
            return Problem(where, f"is {_short(found)}", f"expected {context.get('expected')}")
        union = ".".join(part for part in path if isinstance(part, str) and part != "kind")
        for name, kinds in planned.KINDS.items():
            if found in kinds and (union == name or union.startswith(name + ".") or union + ".kind" == name):
                return Problem(where, f"{found!r} ({kinds[found]}) is not available in this version")
        if types is vars(schema) and any(
            found in kinds and union.startswith(n) for n, kinds in planned.ELSEWHERE.items()
        ):
            todo = "register such evidence with schema: prereg-moe/import/1 (docs/import.md)"
            return Problem(where, f"{found!r} is for evidence made elsewhere", todo)
        expected = context.get("expected") or context.get("expected_tags")
        return Problem(where, f"is {found!r}", f"expected {expected}")
    if kind == "union_tag_not_found":
        return Problem(where, "has no kind", "say which kind it is")
    if kind == "string_type":
        return Problem(where, f"is {_short(detail['input'])}", "it is text: put it in quotes")
    if kind == "string_pattern_mismatch":
        return Problem(where, f"is {_short(detail['input'])}", _SPELLING[context["pattern"]])
    if kind == "too_short":
        few = f"has {len(detail['input'])}" if detail["input"] else "is empty"
        return Problem(where, few, f"register at least {context['min_length']}")
    if kind == "string_too_short":
        return Problem(where, "is empty", "say it in words")
    if kind in _EXPECTED:
        return Problem(where, f"is {_short(detail['input'])}", f"expected {_EXPECTED[kind].format(**context)}")
    return Problem(where, f"{detail['msg'][0].lower()}{detail['msg'][1:]} (found {_short(detail['input'])})")


def _authored(location: tuple[int | str, ...], value: Any) -> tuple[int | str, ...]:
    """Drop the parts pydantic adds for unions, so that the path is the author's."""
    path: list[int | str] = []
    for part in location:
        in_dict = isinstance(value, dict) and part in value
        if in_dict or (isinstance(value, list) and isinstance(part, int) and part < len(value)):
            value = value[part]
        elif part == location[-1] and isinstance(value, dict):
            value = None
        else:
            continue
        path.append(part)
    return tuple(path)


def _stray(where: str, path: tuple[int | str, ...], types: Mapping[str, Any]) -> Problem:
    """Return what is wrong with a key that has no place where it stands."""
    known = {name for part in types.values() if hasattr(part, "model_fields") for name in part.model_fields}
    if path[-1] in known:
        return Problem(where, "is a key of another part", "it has no place here; remove it")
    near = difflib.get_close_matches(str(path[-1]), sorted(known), n=1)
    todo = f"did you mean {near[0]!r}?" if near else "remove it"
    return Problem(where, "is not a key of a registration", todo)


def _short(value: Any) -> str:
    text = "null" if value is None else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
