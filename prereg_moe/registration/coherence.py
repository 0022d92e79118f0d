"""What only the whole document can tell: whether its parts fit each other.

Names must be known and stand once, claims must be decidable with the registered draws, resamples and
looks, and controls must be able to fail.
"""

from __future__ import annotations

import math
import sys
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from typing import Any

from prereg_moe import rules
from prereg_moe.errors import Invalid, Problem
from prereg_moe.registration import grid, implied, looks
from prereg_moe.registration.implied import block_alpha, family_names, needs_null, off_axes
from prereg_moe.registration.schema import (
    Claims,
    ExplicitFamily,
    ExpressionRule,
    KeepOnly,
    Looks,
    ModelControl,
    ModelControls,
    ModularRule,
    Registration,
    SelectiveRule,
    TaskMeasure,
)

__all__ = ["control_problems", "problems", "repeats"]

_LEAST_ITEMS = 2  # a mean and its standard error
_LEAST_16_BIT = 0.01  # nats a request


def problems(registration: Registration) -> Iterator[Problem]:
    """Yield what is wrong with a registration whose parts are each of their form."""
    yield from _references(registration)
    yield from _repeats(registration)
    yield from _families(registration)
    yield from _kept(registration)
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


def _kept(registration: Registration) -> Iterator[Problem]:
    """Yield what makes no sense where families are kept and not removed."""
    if not isinstance(registration.intervention, KeepOnly):
        return
    for name, rule in registration.rules.items():
        published = isinstance(rule, ExpressionRule) and {rule.confirm, rule.refute} & set(rules.NAMED)
        if isinstance(rule, ModularRule | SelectiveRule) or published:
            found = "claims that an axis is harmed, and keep_only leaves the family to serve it"
            yield Problem(f"rules.{name}", found, "register kind: noninferiority, or intervention: {kind: mask, ...}")
    for index, block in enumerate(registration.families):
        where, build = f"families[{index}].build", block.build
        if build.unit == "cells":
            found = "is cells, and a layer of which a set holds no cell would keep all of its experts"
            yield Problem(f"{where}.unit", found, "use per_layer or global_id: they keep as many in every layer")
        if not isinstance(build, ExplicitFamily):
            continue
        empty = [layer for layer, experts in build.cells.items() if not experts]
        for layer in empty:
            found = "is empty, and a router needs experts to choose from"
            yield Problem(f"{where}.cells.{layer}", found, "say which are kept, or leave the layer out: it keeps all")
        if len(sizes := sorted({len(experts) for experts in build.cells.values()})) > 1 and not empty:
            found = f"keeps {sizes[0]} to {sizes[-1]} experts a layer, and random sets keep as many in each"
            yield Problem(f"{where}.cells", found, "keep as many in every layer, or register families apart")


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
    if needs_null(registration, claims):
        yield from _draws(registration, claims, len(named))


def _draws(registration: Registration, claims: Claims, count: int) -> Iterator[Problem]:
    """Yield what is wrong with the random sets that a block of so many claims is compared with."""
    null = registration.controls.null
    if null is None:
        yield Problem("controls.null", "is missing", f"the rule {claims.rule!r} compares with random experts")
    elif not isinstance(registration.rules[claims.rule], ExpressionRule):
        alpha, needed = _smallest_level(registration, claims), _draws_needed(registration, claims)
        if null.draws < needed:
            yield Problem(
                "controls.null.draws",
                f"{null.draws} draws cannot bring {count} claims ({claims.id}) to p <= {alpha:.4g}: "
                f"the smallest p they can give is {1 / (null.draws + 1):.3g}",
                f"register at least {needed}",
            )
        elif null.draws < count:  # in max-T every family is assigned a draw of its own
            found = f"{null.draws} draws for {count} claims ({claims.id})"
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
    if undiagnosed := implied.undiagnosed(registration):
        yield undiagnosed
    for claims in registration.claims:
        rule, planned = registration.rules[claims.rule], diagnosis.effects.get(claims.measure)
        if planned is None or not isinstance(rule, ModularRule | SelectiveRule) or claims.tier != "confirmatory":
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
