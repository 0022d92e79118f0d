"""The frozen registration: the authored document, everything derived from it, every digest it rests on.

`freeze` composes it once; from then on a study is this one canonical JSON file, and its digest
is the study's name. Families and null draws stand in it as explicit lists beside the rules
that built them, so that nothing depends on a seed being replayed the same way. A registration may
leave the draws to a reviewer's challenge (``controls.null.seed: challenge``): they then stand in a
document of their own, sealed behind the freeze, and before it there is no plan.

A **condition** is the unit of work: one intervention on one model under one measure. The plan
is a pure function of the frozen registration, and a condition's digest names its evidence.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, ValidationError

from prereg_moe import canonical
from prereg_moe.atlas import (
    Cells,
    Layout,
    RoutingAtlas,
    build_family,
    draw_matched,
    draw_nulls,
    family_share,
    size_of,
)
from prereg_moe.errors import Invalid, NotCheckable, Problem, Tampered, shaped
from prereg_moe.registration import (
    Registration,
    blocks,
    boundaries,
    expand,
    family_names,
    needs_null,
    parse,
    part_count,
    split,
)
from prereg_moe.registration.document import place
from prereg_moe.registration.schema import Claims, ExplicitFamily, Intervention, KeepOnly, NullControl, TopLift, Zero

__all__ = ["SCHEMA", "Condition", "Frozen", "cells_to_json", "challenged", "derive"]

SCHEMA = "prereg-moe/frozen/1"
_KEYS = {"schema", "registration", "pins", "items", "clusters", "layout", "families", "draws", "software"}
_MOST = 20  # problems that are said
_ListedCells = Annotated[list[tuple[NonNegativeInt, list[NonNegativeInt]]], Field(min_length=1)]
_MAY = {"supersedes"}  # keys that stand only where there is something to say


class _Part(BaseModel):
    model_config = ConfigDict(strict=True)


class _Pins(_Part):
    models: dict[str, dict[str, str]]
    corpora: dict[str, dict[str, str]]
    tasks: dict[str, dict[str, str]]
    templates: dict[str, str]
    document: str
    atlas: str | None
    diagnosis: str | None


class _Layout(_Part):
    layers: list[NonNegativeInt]
    experts: PositiveInt
    top_k: PositiveInt


class _Family(_Part):
    model: str
    name: str
    axis: str
    cells: _ListedCells
    share: float | None
    uniform: float | None


class _Draws(_Part):
    model: str
    unit: str
    cells: Annotated[list[_ListedCells], Field(min_length=1)]


class _Shape(_Part):
    """What a frozen registration holds beside the registration itself; further keys are looked at where they are."""

    pins: _Pins
    items: dict[str, dict[str, list[str]]]
    clusters: dict[str, dict[str, list[str]] | None]
    layout: dict[str, _Layout]
    families: list[_Family]
    draws: list[_Draws] | None
    software: dict[str, str]


def cells_to_json(cells: Cells) -> list[list[Any]]:
    """Return cells as ``[[layer, [expert, ...]], ...]``, ascending."""
    return [[layer, sorted(experts)] for layer, experts in sorted(cells.items())]


def _cells(document: list[list[Any]]) -> dict[int, tuple[int, ...]]:
    return {layer: tuple(experts) for layer, experts in document}


@dataclass(frozen=True, slots=True)
class Condition:
    """One intervention on one model under one measure.

    Attributes:
        registration: digest of the frozen registration.
        model: name of the model.
        measure: name of the measure.
        intervention: the registered operator, None for the baseline.
        cells: what it is given: the cells that are masked, zeroed or kept; empty for the baseline.
    """

    registration: str
    model: str
    measure: str
    intervention: Intervention | None
    cells: Cells

    @property
    def is_baseline(self) -> bool:
        """Whether nothing is intervened on."""
        return self.intervention is None

    def to_json(self) -> dict[str, Any]:
        """Return what the condition's digest is over."""
        intervention = None
        if self.intervention is not None:
            intervention = {**expand(self.intervention), "cells": cells_to_json(self.cells)}
        return {
            "registration": self.registration,
            "model": self.model,
            "measure": self.measure,
            "intervention": intervention,
        }

    @property
    def digest(self) -> str:
        """The condition's name: ``sha256:<hex>``."""
        return canonical.digest(self.to_json())


@dataclass(frozen=True)
class Frozen:
    """A frozen registration; build it with :meth:`from_bytes`.

    Attributes:
        document: the canonical JSON document.
        registration: the authored registration in it.
        digest: the study's name, ``sha256:<hex>``.
        answer: the draws a challenge gave (`draws.json`), where the registration waits for one.
        look: number of the interim look whose items are all that is seen; None sees every item.
    """

    document: Mapping[str, Any]
    registration: Registration
    digest: str
    answer: Mapping[str, Any] | None = None
    look: int | None = None

    @classmethod
    def from_bytes(cls, data: bytes, where: str = "frozen.json") -> Frozen:
        """Return the frozen registration in canonical bytes.

        Raises:
            Tampered: the bytes are not canonical, or no frozen registration.
        """
        document = canonical.loads(data, where)
        if not isinstance(document, dict) or document.get("schema") != SCHEMA or set(document) - _MAY != _KEYS:
            raise Tampered(Problem(where, "is not a frozen registration", "restore the file that `freeze` wrote"))
        try:
            registration = parse(document["registration"])
        except Invalid as error:
            raise Tampered([Problem(f"{where}, {p.where}", p.found, p.todo) for p in error.problems]) from error
        if (document["draws"] is None) != challenged(registration):
            raise Tampered(Problem(where, "holds null draws a challenge should give, or lacks those it registers"))
        made = cls(document, registration, canonical.digest(data))
        made._check(data, where)
        return made

    def _check(self, data: bytes, where: str) -> None:
        """Refuse what is a frozen registration by its keys only: every stage behind relies on the rest."""
        try:
            _Shape.model_validate_json(data)
        except ValidationError as error:
            found = [Problem(f"{where}, {place(detail['loc'])}", detail["msg"]) for detail in error.errors()[:_MOST]]
            raise Tampered(found) from error
        axes = set(self.registration.axes)
        for measure in self.registration.measures:
            items, clusters = self.document["items"].get(measure, {}), self.document["clusters"].get(measure, {})
            sizes = {axis: len(ids) for axis, ids in items.items()}
            grouped = {axis: len(ids) for axis, ids in clusters.items()} if clusters is not None else sizes
            if set(items) != axes or grouped != sizes or not all(sizes.values()):
                raise Tampered(Problem(f"{where}, items.{measure}", "does not list the items of every axis"))
        if self.document["draws"] is not None:
            with shaped(where):  # every condition names a family, random sets and a layout that have to be there
                for condition in self.plan.values():
                    self.masked(condition)

    def under(self, registration: Registration) -> Frozen:
        """Return this study read under a variant of its registration: a specification of its multiverse, or an
        amended plan.

        Conditions keep the study's digest; the bytes, items, families and draws are those that were frozen.
        """
        return replace(self, registration=registration)

    def first(self, look: int | None) -> Frozen:
        """Return this study with the items that an interim look sees, and no others; with all where it is None."""
        return replace(self, look=look)

    @cached_property
    def run_as(self) -> Registration:
        """The registration as it is run: where looks are registered, every part of a measure is a measure."""
        return split(self.registration)

    def _cut(self, listed: Mapping[str, list[str]], measure: str) -> Mapping[str, list[str]]:
        """Return of an axis's list what this look, or the named part of a measure, holds."""
        name, _, part = measure.partition("@")
        ends = (0, *boundaries(self.registration, name))
        start, end = (ends[int(part) - 1], ends[int(part)]) if part else (0, ends[self.look or -1])
        return {axis: ids[start:end] for axis, ids in listed.items()}

    def items(self, measure: str) -> Mapping[str, list[str]]:
        """Return axis -> item ids, in the order they are scored."""
        return self._cut(self.document["items"][measure.partition("@")[0]], measure)

    def clusters(self, measure: str) -> Mapping[str, list[str]] | None:
        """Return axis -> the cluster of each item, None where items are the units."""
        clusters = self.document["clusters"][measure.partition("@")[0]]
        return None if clusters is None else self._cut(clusters, measure)

    @cached_property
    def families(self) -> Mapping[tuple[str, str], dict[int, tuple[int, ...]]]:
        """(model, family) -> cells."""
        return {(entry["model"], entry["name"]): _cells(entry["cells"]) for entry in self.document["families"]}

    @cached_property
    def _draws(self) -> Mapping[tuple[object, ...], list[dict[int, tuple[int, ...]]]]:
        entries = self.document["draws"] if self.answer is None else self.answer["draws"]
        if entries is None:
            todo = f"get a nonce for it and run `prereg-moe trust challenge {self.registration.id}`"
            raise NotCheckable(Problem("controls.null", "its draws wait for a reviewer's challenge", todo))
        return {_draws_key(entry): [_cells(draw) for draw in entry["cells"]] for entry in entries}

    def axis_of(self, family: str) -> str:
        """Return the axis a family is hypothesised for."""
        return family_names(self.registration)[family][0]

    def families_of(self, claims: Claims) -> tuple[str, ...]:
        """Return the names of the families a block of claims is about."""
        return tuple(family_names(self.registration)) if claims.families == "all" else claims.families

    def baseline(self, claims: Claims) -> Condition:
        """Return the condition every effect of the block is measured from."""
        return Condition(self.digest, claims.model, claims.measure, None, {})

    def ablation(self, claims: Claims, family: str) -> Condition:
        """Return the condition that intervenes on a family."""
        return self._under(claims, self.families[claims.model, family])

    def draws(self, claims: Claims, family: str) -> tuple[Condition, ...]:
        """Return the conditions that do the same to random sets of the family's size (or its size and mass)."""
        null, cells = self.registration.controls.null, self.families[claims.model, family]
        if null is not None and null.match == "mass":
            key: tuple[object, ...] = (claims.model, family)
        else:
            unit = self.registration.families[family_names(self.registration)[family][1]].build.unit
            key = (claims.model, unit, size_of(cells, unit), () if unit == "cells" else tuple(cells))
        return tuple(self._under(claims, draw) for draw in self._draws[key])

    def _under(self, claims: Claims, cells: Cells) -> Condition:
        return Condition(self.digest, claims.model, claims.measure, self.registration.intervention, cells)

    def masked(self, condition: Condition) -> int:
        """Return how many cells a condition makes unselectable."""
        cells = sum(len(experts) for experts in condition.cells.values())
        if isinstance(condition.intervention, KeepOnly):
            return len(condition.cells) * int(self.document["layout"][condition.model]["experts"]) - cells
        return 0 if isinstance(condition.intervention, Zero) else cells

    @cached_property
    def plan(self) -> Mapping[str, Condition]:
        """Every condition of the study by its digest, each once, in the order they are run.

        Where looks are registered a condition is one part of a measure's items, first parts first.
        """
        parts = part_count(self.registration)
        if parts == 1:
            return self.judged
        return {
            part.digest: part
            for number in range(1, (self.look or parts) + 1)
            for whole in self.judged.values()
            for part in [replace(whole, measure=f"{whole.measure}@{number}")]
        }

    def parts(self, whole: Condition) -> tuple[Condition, ...]:
        """Return the conditions whose items together are those of a condition that is judged."""
        number = self.look or part_count(self.registration)
        if part_count(self.registration) == 1:
            return (whole,)
        return tuple(replace(whole, measure=f"{whole.measure}@{part}") for part in range(1, number + 1))

    @cached_property
    def judged(self) -> Mapping[str, Condition]:
        """Every condition that is judged by its digest, baselines first within a block, each once."""
        return {
            condition.digest: condition
            for registration, claims in blocks(self.registration)
            for condition in self.under(registration).conditions(claims)
        }

    def conditions(self, claims: Claims) -> Iterator[Condition]:
        """Yield the conditions a block is judged by, the baseline first; some more than once."""
        families = self.families_of(claims)
        yield self.baseline(claims)
        yield from (self.ablation(claims, family) for family in families)
        if needs_null(self.registration, claims):
            yield from (draw for family in families for draw in self.draws(claims, family))


def challenged(registration: Registration) -> bool:
    """Whether the null draws wait for a reviewer's challenge."""
    null = getattr(registration.controls, "null", None)  # evidence made elsewhere has none
    return null is not None and null.seed == "challenge"


def derive(registration: Registration, atlases: Mapping[str, RoutingAtlas], seed: str | None = None) -> dict[str, Any]:
    """Return what follows from a registration and its models' atlases: layouts, families and null draws, explicitly.

    Random sets matched by size are shared by the families of one model, unit, size and layers; sets
    matched by mass are one family's, and name it.

    Args:
        seed: what a challenge gave. Without it the registered seed draws; where none is registered
            draws are made once, to know that they can be, and ``draws`` is None.

    Raises:
        Invalid: a family or draw the models cannot be given, each with its place.
    """
    waiting = challenged(registration) and seed is None
    used = dict.fromkeys(claims.model for claims in registration.claims)
    families: list[dict[str, Any]] = []
    draws: dict[tuple[object, ...], dict[str, Any]] = {}
    problems: list[Problem] = []
    for model in used:
        atlas = atlases[model]
        if isinstance(registration.intervention, Zero):  # it keeps the routing, so it starves no router
            atlas = replace(atlas, layout=replace(atlas.layout, top_k=0))
        for name, (axis, index) in family_names(registration).items():
            build = registration.families[index].build
            where = f"families[{index}], {model}, {name}"
            try:
                cells = _family(registration, build, axis, atlas, where)
                for null in _compared(registration, model, name):
                    seeded = null if seed is None else null.model_copy(update={"seed": seed})
                    entry = _draws(seeded, registration, atlas, model, name, cells)
                    draws.setdefault(_draws_key(entry), entry)
            except Invalid as error:
                problems += [
                    problem if problem.where.startswith(where) else Problem(where, problem.found, problem.todo)
                    for problem in error.problems
                ]
                continue
            share = family_share(atlas, axis, cells)
            families.append(
                {
                    "model": model,
                    "name": name,
                    "axis": axis,
                    "cells": cells_to_json(cells),
                    "share": share[0] if share else None,
                    "uniform": share[1] if share else None,
                }
            )
    if problems:
        raise Invalid(problems)
    return {
        "layout": {model: _layout(atlases[model].layout) for model in used},
        "families": families,
        "draws": None if waiting else list(draws.values()),
    }


def _family(
    registration: Registration, build: TopLift | ExplicitFamily, axis: str, atlas: RoutingAtlas, where: str
) -> dict[int, tuple[int, ...]]:
    cells = build_family(build, axis, atlas)
    size_of(cells, build.unit)  # refuses what no random set could match
    if problems := atlas.layout.check(cells, where, kept=isinstance(registration.intervention, KeepOnly)):
        raise Invalid(problems)
    return cells


def _compared(registration: Registration, model: str, family: str) -> list[NullControl]:
    """Return the random sets a family is compared with, registered or in a multiverse, each way of matching once."""
    found = {
        varied.controls.null.match: varied.controls.null
        for varied, claims in blocks(registration)
        if claims.model == model
        and (claims.families == "all" or family in claims.families)
        and needs_null(varied, claims)
        and varied.controls.null is not None
    }
    return list(found.values())


def _draws(
    null: NullControl, registration: Registration, atlas: RoutingAtlas, model: str, family: str, cells: Cells
) -> dict[str, Any]:
    """Return the entry of the random sets a family is compared with."""
    axis, index = family_names(registration)[family]
    unit = registration.families[index].build.unit
    size = size_of(cells, unit)
    if null.match == "mass":
        matched = draw_matched(
            atlas,
            cells,
            axis,
            unit=unit,
            tolerance=null.tolerance or 0.0,
            draws=null.draws,
            seed=null.seed,
            labels=(model, family),
        )
        return {
            "model": model,
            "family": family,
            "unit": unit,
            "size": size,
            "share": [draw.share for draw in matched],
            "cells": [cells_to_json(draw.cells) for draw in matched],
        }
    layout = atlas.layout if unit == "cells" else replace(atlas.layout, layers=tuple(sorted(cells)))
    drawn = draw_nulls(layout, unit=unit, size=size, draws=null.draws, seed=null.seed, model=model)
    return {"model": model, "unit": unit, "size": size, "cells": [cells_to_json(draw) for draw in drawn]}


def _draws_key(entry: Mapping[str, Any]) -> tuple[object, ...]:
    """Return what a family's draws are found by: its name where they are its own, else what they are shared by."""
    if "family" in entry:
        return entry["model"], entry["family"]
    layers = () if entry["unit"] == "cells" else tuple(layer for layer, _ in entry["cells"][0])
    return entry["model"], entry["unit"], entry["size"], layers


def _layout(layout: Layout) -> dict[str, Any]:
    return {"layers": list(layout.layers), "experts": layout.experts, "top_k": layout.top_k}
