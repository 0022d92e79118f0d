"""From bytes to a registration: types first, then what only the whole document can tell.

:func:`load` reports every problem of a stage at once. A registration it returns can be frozen
as soon as the files it names are there.
"""

from __future__ import annotations

import difflib
import math
import sys
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from prereg_moe import canonical, rules
from prereg_moe.errors import Invalid, NotCheckable, Problem
from prereg_moe.registration import grid, looks, schema
from prereg_moe.registration.document import MAX_BYTES, place, read_yaml
from prereg_moe.registration.schema import (
    Claims,
    ExplicitFamily,
    ExpressionRule,
    Looks,
    ModelControl,
    ModelControls,
    Registration,
    TaskMeasure,
)

__all__ = [
    "block_alpha",
    "control_problems",
    "differences",
    "expand",
    "family_names",
    "load",
    "needs_null",
    "off_axes",
    "parse",
    "read_as",
    "repeats",
    "task_name",
]

_LEAST_ITEMS = 2  # a mean and its standard error
_LEAST_16_BIT = 0.01  # nats a request
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
        planned = [
            Problem(key, f"is for {what} and is not available in this version", "remove it")
            for key, what in schema.PLANNED_SECTIONS.items()
            if key in value
        ]
        if planned:
            raise Invalid(planned)
    registration = read_as(Registration, value)
    problems = dict.fromkeys(_cross_check(registration))  # blocks with one fault report it once
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


def family_names(registration: Registration) -> dict[str, tuple[str, int]]:
    """Return family name -> (axis, index of the block that builds it), in alphabetical order."""
    return {
        block.name.replace("{axis}", axis): (axis, index)
        for index, block in enumerate(registration.families)
        for axis in (registration.axes if block.axes == "all" else block.axes)
    }


def off_axes(registration: Registration, claims: Claims, axis: str) -> tuple[str, ...]:
    """Return the axes a claim about ``axis`` counts as off-target, in alphabetical order."""
    if isinstance(claims.off, tuple):
        return tuple(other for other in claims.off if other != axis)
    return tuple(
        other
        for other, what in registration.axes.items()
        if other != axis and (claims.off == "all" or what.domain == registration.axes[axis].domain)
    )


def task_name(measure: TaskMeasure, axis: str) -> str:
    """Return the name of the task that scores an axis."""
    if isinstance(measure.task, dict):
        return measure.task[axis]
    return measure.task.replace("{axis}", axis)


def needs_null(registration: Registration, claims: Claims) -> bool:
    """Whether judging the block needs random expert draws."""
    return "null" in grid.matters(registration.rules[claims.rule])


def block_alpha(registration: Registration, claims: Claims) -> float:
    """Return the family-wise level of one block: confirmatory blocks share alpha equally (Bonferroni)."""
    confirmatory = sum(block.tier == "confirmatory" for block in registration.claims)
    return registration.inference.alpha / (confirmatory if claims.tier == "confirmatory" else 1)


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
        return Problem(where, "is not a key of a registration", _nearest(path, types))
    if kind in ("literal_error", "union_tag_invalid"):
        found = context.get("tag") or detail["input"]
        if not isinstance(found, str):
            return Problem(where, f"is {_short(found)}", f"expected {context.get('expected')}")
        union = ".".join(part for part in path if isinstance(part, str) and part != "kind")
        for name, kinds in schema.PLANNED.items():
            if found in kinds and (union == name or union.startswith(name + ".") or union + ".kind" == name):
                return Problem(where, f"{found!r} ({kinds[found]}) is not available in this version")
        if types is vars(schema) and any(
            found in kinds and union.startswith(n) for n, kinds in schema.ELSEWHERE.items()
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


def _nearest(path: tuple[int | str, ...], types: Mapping[str, Any]) -> str:
    known = {name for part in types.values() if hasattr(part, "model_fields") for name in part.model_fields}
    if path[-1] in known:
        return "it belongs to another part"
    near = difflib.get_close_matches(str(path[-1]), sorted(known), n=1)
    return f"did you mean {near[0]!r}?" if near else "remove it"


def _short(value: Any) -> str:
    text = "null" if value is None else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _cross_check(registration: Registration) -> Iterator[Problem]:
    yield from _references(registration)
    yield from _repeats(registration)
    yield from _families(registration)
    yield from _engine(registration)
    known = [
        (index, claims)
        for index, claims in enumerate(registration.claims)
        if claims.rule in registration.rules and claims.measure in registration.measures
    ]
    unread = [*_looks(registration), *_expressions(registration)]
    yield from unread
    if unread:  # what follows needs the levels of looks and the names in expressions
        return
    for index, claims in known:
        yield from _claims(registration, index, claims)
    yield from _controls(registration)
    yield from _diagnosis(registration)
    if len(known) == len(registration.claims):
        yield from _multiverse(registration)


def _references(registration: Registration) -> Iterator[Problem]:
    def known(where: str, name: str, table: Any, what: str) -> Iterator[Problem]:
        if name not in table:
            yield Problem(where, f"{name!r} is not one of the {what}", f"known: {', '.join(table)}")

    for name, measure in registration.measures.items():
        yield from known(f"measures.{name}.corpus", measure.corpus, registration.corpora, "corpora")
        yield from _measure(registration, name, measure)
    if registration.atlas is not None:
        yield from known("atlas.corpus", registration.atlas.corpus, registration.corpora, "corpora")
    for index, claims in enumerate(registration.claims):
        where = f"claims[{index}]"
        yield from known(f"{where}.model", claims.model, registration.models, "models")
        yield from known(f"{where}.measure", claims.measure, registration.measures, "measures")
        yield from known(f"{where}.rule", claims.rule, registration.rules, "rules")
        for axis in claims.off if isinstance(claims.off, tuple) else ():
            yield from known(f"{where}.off", axis, registration.axes, "axes")
    blocks = [claims.id for claims in registration.claims]
    for block, count in Counter(blocks).items():
        if count > 1:
            yield Problem("claims", f"the id {block!r} is used {count} times", "give each block its own id")
    for index, replication in enumerate(registration.replication):
        for block in replication.claims:
            yield from known(f"replication[{index}].claims", block, blocks, "claims")
        if replication.require > len(replication.claims):
            yield Problem(f"replication[{index}].require", f"is {replication.require} of {len(replication.claims)}")


def _measure(registration: Registration, name: str, measure: TaskMeasure) -> Iterator[Problem]:
    where = f"measures.{name}"
    if measure.unit == "cluster" and measure.cluster is None:
        yield Problem(f"{where}.cluster", "is missing", "unit: cluster needs the item field that names the cluster")
    if measure.unit == "item" and measure.cluster is not None:
        found = f"is {measure.cluster!r}, and unit is item, which takes items of one cluster for independent"
        yield Problem(f"{where}.cluster", found, "write unit: cluster, or remove it")
    if isinstance(measure.task, dict):
        if set(measure.task) != set(registration.axes):
            found, expected = ", ".join(sorted(measure.task)), ", ".join(registration.axes)
            yield Problem(f"{where}.task", f"names tasks for {found}", f"one for each axis: {expected}")
    elif "{" in measure.task.replace("{axis}", ""):
        yield Problem(f"{where}.task", f"is {measure.task!r}", "only {axis} stands for something")


def _repeats(registration: Registration) -> Iterator[Problem]:
    """Yield names that stand twice in a list: what is listed twice must not count twice."""
    lists = {f"replication[{n}].claims": entry.claims for n, entry in enumerate(registration.replication)}
    for n, claims in enumerate(registration.claims):
        lists |= {
            f"claims[{n}].{key}": names
            for key in ("families", "off")
            if isinstance(names := getattr(claims, key), tuple)
        }
    for where, names in lists.items():
        yield from repeats(where, names)


def repeats(where: str, names: Iterable[str]) -> Iterator[Problem]:
    """Yield the names that stand twice in the list at a place."""
    for name, count in Counter(names).items():
        if count > 1:
            yield Problem(where, f"names {name!r} {count} times", "name each once")


def _families(registration: Registration) -> Iterator[Problem]:
    if registration.families and registration.atlas is None:
        yield Problem("atlas", "is missing", "families need the model's layout and routing: say on which corpus")
    names: Counter[str] = Counter()
    for index, block in enumerate(registration.families):
        where = f"families[{index}]"
        axes = registration.axes if block.axes == "all" else block.axes
        names.update(block.name.replace("{axis}", axis) for axis in axes)
        for axis in axes:
            if axis not in registration.axes:
                yield Problem(
                    f"{where}.axes", f"{axis!r} is not one of the axes", f"known: {', '.join(registration.axes)}"
                )
        if isinstance(block.build, ExplicitFamily):
            if not any(block.build.cells.values()):
                yield Problem(f"{where}.build.cells", "is empty", "a family has at least one expert")
            for layer, experts in block.build.cells.items():
                if len(set(experts)) < len(experts) or any(expert < 0 for expert in experts):
                    yield Problem(f"{where}.build.cells.{layer}", "repeats an expert or has a negative one")
    for name, count in names.items():
        if count > 1:
            yield Problem(
                "families", f"the name {name!r} is used {count} times", "put {axis} or another word into name"
            )


def _expressions(registration: Registration) -> Iterator[Problem]:
    for name, rule in registration.rules.items():
        if isinstance(rule, ExpressionRule):
            for field in ("confirm", "refute"):
                text = getattr(rule, field)
                try:
                    if text is not None:
                        rules.parse(text, f"rules.{name}.{field}")
                except Invalid as error:
                    yield from error.problems


def _claims(registration: Registration, index: int, claims: Claims) -> Iterator[Problem]:
    where, families = f"claims[{index}]", family_names(registration)
    named = tuple(families) if claims.families == "all" else claims.families
    if not named:
        yield Problem(f"{where}.families", "is empty", "these rules judge families; register at least one")
    for name in named:
        if name not in families:
            yield Problem(f"{where}.families", f"{name!r} is not one of the families", f"known: {', '.join(families)}")
        elif families[name][0] in registration.axes and not off_axes(registration, claims, families[name][0]):
            yield Problem(f"{where}.off", f"the family {name!r} has no off-target axis", "name at least one")
    if not needs_null(registration, claims):
        return
    null = registration.controls.null
    if null is None:
        yield Problem("controls.null", "is missing", f"the rule {claims.rule!r} compares with random experts")
    elif registration.rules[claims.rule].kind == "modular":
        alpha, needed = _smallest_level(registration, claims), _draws_needed(registration, claims)
        if null.draws < needed:
            yield Problem(
                "controls.null.draws",
                f"{null.draws} draws cannot bring {len(named)} claims ({claims.id}) to p <= {alpha:.4g}: "
                f"the smallest p they can give is {1 / (null.draws + 1):.3g}",
                f"register at least {needed}",
            )
        elif null.draws < len(named):  # in max-T every family is assigned a draw of its own
            found = f"{null.draws} draws for {len(named)} claims ({claims.id})"
            yield Problem("controls.null.draws", found, "register at least one for each claim")


def _engine(registration: Registration) -> Iterator[Problem]:
    """Yield a tolerance that no two ways of computing in 16 bits can keep: it would stop the run."""
    engine = registration.engine
    if engine.kind == "stock" or engine.tolerance >= _LEAST_16_BIT:
        return
    for name, model in registration.models.items():
        if model.dtype in ("bfloat16", "float16"):
            found = f"is {engine.tolerance:g} nats a request, and models.{name} computes in {model.dtype}"
            yield Problem("engine.tolerance", found, f"register {_LEAST_16_BIT:g} or more, say 0.5, or float32")


def _smallest_level(registration: Registration, claims: Claims) -> float:
    """Return the smallest level a block is judged at: where looks are registered, that of one of them."""
    alpha, count = block_alpha(registration, claims), looks.part_count(registration)
    if claims.tier == "control":
        return alpha
    numbers = [*range(1, count), None]
    return min(looks.level(registration, alpha, number, range(1, count)) for number in numbers)


def _looks(registration: Registration) -> Iterator[Problem]:
    stopping = registration.stopping
    if not isinstance(stopping, Looks):
        return
    if list(stopping.at) != sorted(set(stopping.at)):
        yield Problem("stopping.at", "does not rise", "name each look once, the earliest first")
        return
    for part in ("diagnosis", "multiverse"):
        if getattr(registration, part) is not None:
            yield Problem(part, "is for studies that are judged once", "remove it, or register stopping: {kind: fixed}")
    for name in registration.measures:
        ends = looks.boundaries(registration, name)
        if ends[0] < _LEAST_ITEMS or any(end <= start for start, end in pairwise(ends)):
            yield Problem("stopping.at", f"cuts the items of {name} at {ends}", "every part needs items, the first two")
    for claims in registration.claims:
        lowest, smallest = _smallest_level(registration, claims), 1 / (registration.inference.resamples + 1)
        if smallest > lowest:
            found = f"{registration.inference.resamples} give no p below {smallest:.2g}, and a look has {lowest:.2g}"
            yield Problem("inference.resamples", found, "register more, or later looks")
            return


def _draws_needed(registration: Registration, claims: Claims) -> int:
    """Return the smallest R whose randomisation floor 1/(R+1), estimated by max-T assignments, stays under alpha."""
    alpha, assignments = _smallest_level(registration, claims), registration.inference.resamples

    def reaches(draws: int) -> bool:
        floor = 1 / (draws + 1)
        return floor + 3 * math.sqrt(floor * (1 - floor) / assignments) <= alpha

    return bisect_left(range(sys.maxsize), True, lo=math.ceil(1 / alpha) - 1, key=reaches)


def _controls(registration: Registration) -> Iterator[Problem]:
    null = registration.controls.null
    by_mass = null is not None and (
        null.match == "mass" or any("mass" in (entry.null or ()) for entry in registration.multiverse or ())
    )
    if null is not None and by_mass != (null.tolerance is not None):
        expected = "say how close, as a fraction: 0.02" if by_mass else "remove it"
        yield Problem("controls.null.tolerance", f"is {null.tolerance} with match: {null.match}", expected)
    families = len(family_names(registration))
    counts = {
        claims.id: families if claims.families == "all" else len(claims.families)
        for claims in registration.claims
        if claims.tier == "control"
    }
    yield from control_problems(registration.controls, counts)
    gated = {control.claims for control in (registration.controls.positive, registration.controls.negative) if control}
    for index, claims in enumerate(registration.claims):
        if claims.tier == "control" and claims.id not in gated:
            yield Problem(f"claims[{index}].tier", f"no control uses the block {claims.id!r}", "name it under controls")


def control_problems(controls: ModelControls, counts: Mapping[str, int | None]) -> Iterator[Problem]:
    """Yield what is wrong with controls on models.

    Args:
        controls: as registered.
        counts: block of tier control -> the number of its claims, None where only the evidence can tell.
    """
    for name in ("positive", "negative"):
        control: ModelControl | None = getattr(controls, name)
        if control is None:
            continue
        where = f"controls.{name}"
        if control.claims not in counts:
            yield Problem(f"{where}.claims", f"{control.claims!r} is not a block of tier control")
        if (control.at_least is None) == (control.at_most is None):
            yield Problem(where, "needs either at_least or at_most", "say how many of its claims")
        elif count := counts.get(control.claims):
            if control.at_least is not None and not 0 < control.at_least <= count:
                found = f"is {control.at_least} of {count} claims, which decides nothing"
                yield Problem(f"{where}.at_least", found, f"register 1 to {count}")
            if control.at_most is not None and control.at_most >= count:
                found = f"is {control.at_most} of {count} claims, which decides nothing"
                yield Problem(f"{where}.at_most", found, "register fewer than there are")


def _diagnosis(registration: Registration) -> Iterator[Problem]:
    diagnosis = registration.diagnosis
    if diagnosis is None:
        return
    if len(set(diagnosis.scenarios)) < len(diagnosis.scenarios):
        yield Problem("diagnosis.scenarios", "names a scenario twice", "name each once")
    for name in diagnosis.effects:
        if name not in registration.measures:
            known = ", ".join(registration.measures)
            yield Problem(f"diagnosis.effects.{name}", "is not one of the measures", f"known: {known}")
    for claims in registration.claims:
        rule, planned = registration.rules[claims.rule], diagnosis.effects.get(claims.measure)
        if planned is None or isinstance(rule, ExpressionRule) or claims.tier != "confirmatory":
            continue
        where, random = f"diagnosis.effects.{claims.measure}", planned.random if rule.kind == "modular" else 0.0
        if planned.on <= rule.kappa * planned.off:
            yield Problem(where, "makes the claims false", f"on is above kappa * off ({rule.kappa * planned.off:g})")
        if planned.on <= random + rule.minimum_effect:
            bar = random + rule.minimum_effect
            yield Problem(where, "makes the claims false", f"on is above random + minimum effect ({bar:g})")


def _multiverse(registration: Registration) -> Iterator[Problem]:
    blocks = {claims.id: claims for claims in registration.claims}
    for index, entry in enumerate(registration.multiverse or ()):
        if sum(other.id == entry.id for other in registration.multiverse or ()) > 1:
            yield Problem(f"multiverse[{index}].id", f"{entry.id!r} is used twice", "give each entry its own id")
        if entry.claims not in blocks:
            known = f"known: {', '.join(blocks)}"
            yield Problem(f"multiverse[{index}].claims", f"{entry.claims!r} is not one of the claims", known)
            continue
        claims = blocks[entry.claims]
        families = len(family_names(registration)) if claims.families == "all" else len(claims.families)
        yield from grid.problems(registration, families, index, block_alpha(registration, claims))
