"""Routing mass released by others: read strictly, summarised, and compared with the tables they printed.

The format is that of the atlas released with arXiv 2606.25092, JSON:

    model        text
    num_experts  experts a layer
    top_k        experts a token
    categories   the axes, in order
    layers       decoder indices, ascending
    mass         axis -> layer as text -> one number an expert, not negative

``capture_errs``, where given, counts tokens the capture lost. Other keys are not read. A map of
families (``families``: axis -> ids, optionally ``family_K``, ``roles.shared_core``,
``family_mean_lift``, ``inter_axis_correlation``, ``topK_jaccard``) and a summary
(``per_category_cov_mass``, ``cross_category_topK_jaccard``) can be compared with what follows from
the mass. A printed number agrees when the derived one rounds to it at the table's precision.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from prereg_moe.atlas.routing import Layout, RoutingAtlas
from prereg_moe.errors import Invalid, NotCheckable, Problem

__all__ = ["MAX_BYTES", "Printed", "Released", "ReleasedTables", "read_families", "read_mass", "read_summary"]

MAX_BYTES = 64 << 20
_MAX_EXPERTS, _MAX_LAYERS, _MAX_AXES, _MAX_PROBLEMS = 4096, 1024, 256, 20
_MAX_MASS = 1e15  # tokens times anything: a larger number is no routing mass
_OVERLAP = re.compile(r"(?:cross_category_)?top([1-9][0-9]{0,3})_jaccard")


@dataclass(frozen=True, slots=True)
class Released:
    """A routing atlas made elsewhere.

    Attributes:
        model: what its authors call the model.
        atlas: the table.
        lost: tokens their capture lost, None where they do not say.
    """

    model: str
    atlas: RoutingAtlas
    lost: int | None


@dataclass(frozen=True, slots=True)
class Printed:
    """A table of printed numbers.

    Attributes:
        name: the key it was released under.
        values: row -> number; rows are ``axis``, ``axis|axis`` or ``axis|K``.
        decimals: the most decimals any of them is printed with.
    """

    name: str
    values: Mapping[str, float]
    decimals: int

    def differing(self, derived: Mapping[str, float], *, slack: float = 1e-12) -> tuple[str, ...]:
        """Return the rows whose derived number does not round to the printed one.

        Args:
            derived: every row's number.
            slack: what the rounding of the released mass itself can change.
        """
        half = max(0.5 * 10.0**-self.decimals, slack) + 1e-15
        return tuple(row for row, value in self.values.items() if not abs(derived[row] - value) <= half)


@dataclass(frozen=True, slots=True)
class ReleasedTables:
    """What was released beside the mass.

    Attributes:
        families: axis -> ids, empty where none were released.
        size: experts a family, None where not said.
        core: ids called shared, None where not said.
        lift: mean lift of each family.
        correlation: of every two axes.
        overlap: K -> Jaccard of the top K ids of every two axes.
        coverage: share of the top K ids, rows ``axis|K``.
    """

    families: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    size: int | None = None
    core: tuple[int, ...] | None = None
    lift: Printed | None = None
    correlation: Printed | None = None
    overlap: tuple[tuple[int, Printed], ...] = ()
    coverage: Printed | None = None


def read_mass(path: Path) -> Released:
    """Return the routing mass in a file.

    Raises:
        NotCheckable: it cannot be read.
        Invalid: it is too large, not JSON, or not of the format above; with every problem found.
    """
    document = _read(path, float)
    if "mass" not in document:
        raise Invalid(Problem(f"{path.name}, mass", "is missing", "docs/atlas.md says what such a file holds"))
    problems = list(_first(_head_problems(document)))
    if problems:
        raise Invalid([Problem(f"{path.name}, {p.where}", p.found, p.todo) for p in problems])
    problems = list(_first(_mass_problems(document)))
    if problems:
        raise Invalid([Problem(f"{path.name}, {p.where}", p.found, p.todo) for p in problems])
    axes, layers = tuple(document["categories"]), tuple(document["layers"])
    mass = np.array([[document["mass"][axis][str(layer)] for layer in layers] for axis in axes], dtype=np.float64)
    layout = Layout(layers, document["num_experts"], document["top_k"])
    return Released(document["model"], RoutingAtlas(axes, layout, mass), document.get("capture_errs"))


def read_families(path: Path, atlas: RoutingAtlas) -> ReleasedTables:
    """Return the families (and tables) released in a map, checked against the mass's axes and experts.

    Raises:
        NotCheckable: it cannot be read.
        Invalid: it is not such a map, or of another atlas.
    """
    document = _read(path, Decimal)
    reader = _Reader(path.name, atlas)
    families = reader.families(document.get("families"))
    roles = document.get("roles", {})
    core = roles.get("shared_core") if isinstance(roles, dict) else None
    size = document.get("family_K")
    if size is not None and not (_is_int(size) and 1 <= size <= atlas.layout.experts):
        reader.refuse("family_K", _is(size), f"expected 1 to {atlas.layout.experts}")
    tables = ReleasedTables(
        families=families,
        size=size,
        core=None if core is None else reader.ids("roles.shared_core", core),
        lift=reader.table(document, "family_mean_lift", families.__contains__),
        correlation=reader.table(document, "inter_axis_correlation", reader.pair),
        overlap=reader.overlaps(document),
    )
    reader.done()
    return tables


def read_summary(path: Path, atlas: RoutingAtlas) -> ReleasedTables:
    """Return the coverage and overlap tables released in a summary.

    Raises:
        NotCheckable: it cannot be read.
        Invalid: it is not such a summary, or of another atlas.
    """
    document = _read(path, Decimal)
    reader = _Reader(path.name, atlas)
    nested = document.get("per_category_cov_mass")
    rows: dict[str, Any] = {}
    if nested is not None and not isinstance(nested, dict):
        reader.refuse("per_category_cov_mass", _is(nested), "expected axis -> K -> share")
    for axis, row in nested.items() if isinstance(nested, dict) else ():
        if isinstance(row, dict):
            rows |= {f"{axis}|{size}": value for size, value in row.items()}
        else:
            reader.refuse(f"per_category_cov_mass.{_short(axis)}", _is(row), "expected K -> share")
    coverage = reader.table({"per_category_cov_mass": rows}, "per_category_cov_mass", reader.axis_size)
    tables = ReleasedTables(coverage=coverage if rows else None, overlap=reader.overlaps(document))
    if not rows and not tables.overlap:
        reader.refuse("", "holds neither coverage nor overlap", "give a summary like atlas_summary.json")
    reader.done()
    return tables


class _Reader:
    """Checks a released document's parts against an atlas and keeps every problem."""

    def __init__(self, name: str, atlas: RoutingAtlas) -> None:
        self._name, self._atlas, self._problems = name, atlas, list[Problem]()

    def refuse(self, where: str, found: str, todo: str = "") -> None:
        self._problems.append(Problem(f"{self._name}, {where}" if where else self._name, found, todo))

    def done(self) -> None:
        if self._problems:
            raise Invalid(list(_first(iter(self._problems))))

    def axis(self, row: str) -> bool:
        return row in self._atlas.axes

    def pair(self, row: str) -> bool:
        return any(row == f"{a}|{b}" for a in self._atlas.axes for b in self._atlas.axes if a != b)

    def axis_size(self, row: str) -> bool:
        axis, _, size = row.rpartition("|")
        return (
            self.axis(axis) and size.isascii() and size.isdigit() and 1 <= int(size[:9]) <= self._atlas.layout.experts
        )

    def ids(self, where: str, value: Any) -> tuple[int, ...]:
        experts = self._atlas.layout.experts
        good = isinstance(value, list) and all(_is_int(e) and 0 <= e < experts for e in value)
        if not good or len(set(value)) < len(value):
            self.refuse(where, _is(value), f"expected different expert ids, 0 to {experts - 1}")
            return ()
        return tuple(sorted(value))

    def families(self, value: Any) -> dict[str, tuple[int, ...]]:
        if not isinstance(value, dict) or not value:
            self.refuse("families", _is(value), "expected axis -> expert ids")
            return {}
        for axis in value:
            if not self.axis(axis):
                self.refuse(f"families.{_short(axis)}", "is not an axis of the mass", f"axes: {self._axes()}")
            elif value[axis] == []:
                self.refuse(f"families.{axis}", "is empty", "a family has at least one expert")
        return {axis: self.ids(f"families.{axis}", ids) for axis, ids in value.items() if self.axis(axis)}

    def table(self, document: Mapping[str, Any], name: str, known: Callable[[str], bool]) -> Printed | None:
        value = document.get(name)
        if value is None:
            return None
        if not isinstance(value, dict):
            self.refuse(name, _is(value), "expected a table of numbers")
            return None
        for row, number in value.items():
            if not known(row):
                self.refuse(f"{name}.{_short(row)}", "is no row of this atlas", f"axes: {self._axes()}")
            elif not _is_number(number):
                self.refuse(f"{name}.{row}", _is(number), "expected a finite number")
        good = {row: number for row, number in value.items() if known(row) and _is_number(number)}
        return Printed(name, {row: float(n) for row, n in good.items()}, max(map(_decimals, good.values()), default=0))

    def overlaps(self, document: Mapping[str, Any]) -> tuple[tuple[int, Printed], ...]:
        found = []
        for name in document:
            if match := _OVERLAP.fullmatch(name):
                table, size = self.table(document, name, self.pair), int(match[1])
                if size > self._atlas.layout.experts:
                    self.refuse(name, f"is of {size} experts", f"the mass has {self._atlas.layout.experts} a layer")
                elif table is not None:
                    found.append((size, table))
        return tuple(found)

    def _axes(self) -> str:
        return ", ".join(self._atlas.axes)


def _head_problems(document: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield what is wrong with everything but the numbers."""
    model, experts, top_k = document.get("model"), document.get("num_experts"), document.get("top_k")
    if not _is_name(model, 500):
        yield Problem("model", _is(model), "expected printable text")
    if not (_is_int(experts) and 2 <= experts <= _MAX_EXPERTS):
        yield Problem("num_experts", _is(experts), f"expected a whole number, 2 to {_MAX_EXPERTS}")
    elif not (_is_int(top_k) and 1 <= top_k <= experts):
        yield Problem("top_k", _is(top_k), f"expected a whole number, 1 to {experts}")
    axes, layers = document.get("categories"), document.get("layers")
    if not (isinstance(axes, list) and 2 <= len(axes) <= _MAX_AXES and all(_is_name(axis, 64) for axis in axes)):
        yield Problem("categories", _is(axes), f"expected 2 to {_MAX_AXES} printable names without |")
    elif len(set(axes)) < len(axes):
        yield Problem("categories", "repeats a name", "name each axis once")
    if not (isinstance(layers, list) and 1 <= len(layers) <= _MAX_LAYERS and all(map(_is_int, layers))):
        yield Problem("layers", _is(layers), f"expected 1 to {_MAX_LAYERS} decoder indices")
    elif layers[0] < 0 or any(b <= a for a, b in pairwise(layers)):
        yield Problem("layers", "are not ascending from 0 or more", "list each decoder index once, in order")
    lost = document.get("capture_errs", 0)
    if not (_is_int(lost) and lost >= 0):
        yield Problem("capture_errs", _is(lost), "expected a count")
    if not isinstance(document.get("mass"), dict):
        yield Problem("mass", _is(document.get("mass")), "expected axis -> layer -> numbers")


def _mass_problems(document: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield what is wrong with the numbers of a document whose head is right."""
    experts, layers = document["num_experts"], [str(layer) for layer in document["layers"]]
    yield from _same_keys("mass", document["mass"], document["categories"], "categories")
    for axis in document["categories"]:
        rows = document["mass"].get(axis)
        if rows is None:
            continue
        if not isinstance(rows, dict):
            yield Problem(f"mass.{axis}", _is(rows), "expected layer -> numbers")
            continue
        yield from _same_keys(f"mass.{axis}", rows, layers, "layers")
        for layer in layers:
            if layer in rows and (found := _row_problem(rows[layer], experts)):
                yield Problem(f"mass.{axis}.{layer}", *found)


def _row_problem(row: Any, experts: int) -> tuple[str, str] | None:
    if not isinstance(row, list) or len(row) != experts:
        found = f"has {len(row)} numbers" if isinstance(row, list) else _is(row)
        return found, f"expected one number for each of {experts} experts; layers of other sizes cannot be read"
    for expert, value in enumerate(row):
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _MAX_MASS:
            return f"has {_short(value)} for expert {expert}", f"expected tokens: a number from 0 to {_MAX_MASS:g}"
    if not sum(row) > 0:
        return "is all zero", "a layer nothing was routed in has no shares: leave the layer out"
    return None


def _same_keys(where: str, found: Mapping[str, Any], expected: Sequence[str], listed: str) -> Iterator[Problem]:
    missing = [key for key in expected if key not in found]
    extra = [key for key in found if key not in set(expected)]
    if missing:
        yield Problem(where, f"lacks {_short(missing)}", f"every one of {listed} needs its numbers")
    if extra:
        yield Problem(where, f"has {_short(extra)}", f"not one of {listed}: name it there or remove it")


def _read(path: Path, number: Callable[[str], Any]) -> dict[str, Any]:
    """Return the JSON object in a file of bounded size."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise NotCheckable(Problem(str(path), f"cannot be read ({error.strerror})", "name a JSON file")) from error
    if len(data) > MAX_BYTES:
        raise Invalid(Problem(path.name, f"has more than {MAX_BYTES} bytes", "give one model's atlas a file"))
    try:
        document = json.loads(data, parse_float=number, parse_constant=_refuse, object_pairs_hook=_object)
    except (ValueError, RecursionError, ArithmeticError) as error:
        found = "is nested too deeply" if isinstance(error, RecursionError) else f"is not JSON ({error})"
        raise Invalid(Problem(path.name, found, "give the JSON file as it was released")) from error
    if not isinstance(document, dict):
        raise Invalid(Problem(path.name, _is(document), "expected a JSON object"))
    return document


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON number")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        repeated, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise ValueError(f"the key {_short(repeated)} is repeated")
    return made


def _first(problems: Iterator[Problem]) -> Iterator[Problem]:
    """Yield the first problems, and say that there are more."""
    for count, problem in enumerate(problems):
        if count == _MAX_PROBLEMS:
            yield Problem(problem.where, "and more problems after this place", "mend these first")
            return
        yield problem


def _is_int(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    if not isinstance(value, int | Decimal) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(float(value))
    except OverflowError:
        return False


def _is_name(value: Any, length: int) -> bool:
    return isinstance(value, str) and 0 < len(value) <= length and value.isprintable() and "|" not in value


def _decimals(value: Any) -> int:
    exponent = value.as_tuple().exponent if isinstance(value, Decimal) else 0
    return max(0, -exponent) if isinstance(exponent, int) else 0


def _is(value: Any) -> str:
    return "is missing" if value is None else f"is {_short(value)}"


def _short(value: Any) -> str:
    text = repr(str(value) if isinstance(value, Decimal) else value)
    return text if len(text) <= 60 else text[:57] + "..."
