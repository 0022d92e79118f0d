"""The grid of a multiverse: every registered way to judge a block of claims, and what each is as a registration.

A **specification** is one choice for each dimension. A choice that cannot matter under a rule (a
correction where nothing is tested, random sets where none are compared with) is None, so that no
analysis is counted twice. :func:`vary` turns a specification into the registration it stands for;
whatever judges a registration judges a specification by the same code.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import astuple, dataclass
from itertools import product
from typing import Any

from prereg_moe import rules
from prereg_moe.errors import Problem
from prereg_moe.registration.schema import Claims, ExpressionRule, Multiverse, Registration, Zero

__all__ = [
    "DIMENSIONS",
    "LIMIT",
    "Specification",
    "blocks",
    "matters",
    "problems",
    "registered",
    "specifications",
    "vary",
]

LIMIT = 10_000  # claims x specifications of an entry: a verdict.json of some megabytes
DIMENSIONS = ("measure", "rule", "correction", "interval", "null", "gates")
_LISTS = {
    "measure": "measures",
    "rule": "rules",
    "correction": "corrections",
    "interval": "intervals",
    "null": "null",
    "gates": "gates",
}
_BY_RULE = ("correction", "interval", "null")


@dataclass(frozen=True, slots=True)
class Specification:
    """One way to judge a block of claims.

    Attributes:
        measure: name of the measure, which carries corpus and metric.
        rule: name of the rule.
        correction: over the families of the block; None where the rule tests nothing.
        interval: kind of interval; None where no verdict hangs on one.
        null: what random sets are matched by; None where the rule compares with none.
        gates: gate rule of the intervention; None where it has none.
    """

    measure: str
    rule: str
    correction: str | None
    interval: str | None
    null: str | None
    gates: str | None

    def choices(self) -> dict[str, str | None]:
        """Return dimension -> choice."""
        return dict(zip(DIMENSIONS, astuple(self), strict=True))

    def changes(self, other: Specification) -> dict[str, str]:
        """Return the choices that differ from another specification's, leaving out what cannot matter here."""
        theirs = other.choices()
        return {name: mine for name, mine in self.choices().items() if mine is not None and mine != theirs[name]}


def matters(rule: Any) -> frozenset[str]:
    """Return which of correction, interval and null can change a verdict by this rule."""
    if not isinstance(rule, ExpressionRule):
        compares = rule.kind == "modular" or (rule.kind == "noninferiority" and rule.better_than_random)
        return frozenset({"correction", "null"} if compares else {"correction"})
    names = {name for text in (rule.confirm, rule.refute) if text for name in rules.parse(text).names}
    found = {"null"} if any(name.startswith("null.") for name in names) else set()
    if rule.worst_off == "upper_bound" or any(name.endswith((".lo", ".hi")) for name in names):
        found.add("interval")
    return frozenset(found)


def registered(registration: Registration, claims: Claims) -> Specification:
    """Return the registered choice in every dimension, also in those that cannot matter under the block's rule."""
    null = registration.controls.null
    return Specification(
        measure=claims.measure,
        rule=claims.rule,
        correction=registration.inference.multiplicity.method,
        interval=registration.inference.interval.kind,
        null=null.match if null is not None else None,
        gates=None if isinstance(registration.intervention, Zero) else registration.intervention.gates,
    )


def specifications(registration: Registration, multiverse: Multiverse) -> tuple[Specification, ...]:
    """Return the specifications of an entry, each once, in an order that the order of its lists cannot change."""
    listed = _listed(registration, multiverse)
    found = []
    for rule in listed["rule"]:
        held = matters(registration.rules[str(rule)])
        choices = [
            (rule,) if name == "rule" else (None,) if name in _BY_RULE and name not in held else listed[name]
            for name in DIMENSIONS
        ]
        found += [Specification(*choice) for choice in product(*choices)]  # type: ignore[arg-type] # str where not None
    return tuple(sorted(found, key=lambda one: [choice or "" for choice in astuple(one)]))


def vary(registration: Registration, claims: Claims, specification: Specification) -> tuple[Registration, Claims]:
    """Return the registration and the block a specification stands for; the correction is `decide`'s argument."""
    null, inference, intervention = registration.controls.null, registration.inference, registration.intervention
    if specification.gates is not None:
        intervention = intervention.model_copy(update={"gates": specification.gates})
    if null is not None and specification.null is not None:
        null = null.model_copy(update={"match": specification.null})
    kind = specification.interval or inference.interval.kind
    varied = registration.model_copy(
        update={
            "intervention": intervention,
            "controls": registration.controls.model_copy(update={"null": null}),
            "inference": inference.model_copy(
                update={"interval": inference.interval.model_copy(update={"kind": kind})}
            ),
        }
    )
    return varied, claims.model_copy(update={"measure": specification.measure, "rule": specification.rule})


def blocks(registration: Registration) -> Iterator[tuple[Registration, Claims]]:
    """Yield every block evidence is needed for: the registered ones, then those of the multiverses.

    Specifications that need the same evidence are one block.
    """
    yield from ((registration, claims) for claims in registration.claims)
    for entry in registration.multiverse or ():
        claims = next(claims for claims in registration.claims if claims.id == entry.claims)
        needed = {(one.measure, one.null, one.gates): one for one in specifications(registration, entry)}
        yield from (vary(registration, claims, one) for one in needed.values())


def problems(registration: Registration, families: int, index: int, alpha: float) -> Iterator[Problem]:
    """Yield what is wrong with an entry of the multiverse whose block is known.

    Args:
        registration: the study; its rules can be parsed.
        families: how many families the block judges.
        index: place of the entry.
        alpha: the block's family-wise level.
    """
    entry, where = (registration.multiverse or ())[index], f"multiverse[{index}]"
    claims = next(claims for claims in registration.claims if claims.id == entry.claims)
    listed, authored = _listed(registration, entry), registered(registration, claims).choices()
    found = [
        *_unknown(where, listed["measure"], registration.measures, "measures"),
        *_unknown(where, listed["rule"], registration.rules, "rules"),
    ]
    for name, choices in listed.items():
        if len(set(choices)) < len(choices):
            found.append(Problem(f"{where}.{_LISTS[name]}", "names a choice twice", "name each once"))
        if authored[name] is not None and authored[name] not in choices:
            found.append(
                Problem(f"{where}.{_LISTS[name]}", f"leaves out the registered choice {authored[name]!r}", "add it")
            )
    yield from found
    if not found:
        yield from _idle(registration, entry, where, listed)
        yield from _unattainable(registration, families, where, listed, alpha)
        outcomes = len(specifications(registration, entry)) * families
        if outcomes > LIMIT:
            todo = f"at most {LIMIT}: leave choices out, or split the entry"
            yield Problem(where, f"is {outcomes} outcomes ({families} claims)", todo)


def _listed(registration: Registration, entry: Multiverse) -> dict[str, tuple[str | None, ...]]:
    """Return dimension -> the choices of an entry, the registered one where it lists none."""
    claims = next(claims for claims in registration.claims if claims.id == entry.claims)
    authored = registered(registration, claims).choices()
    return {name: getattr(entry, key) or (authored[name],) for name, key in _LISTS.items()}


def _unknown(where: str, names: tuple[str | None, ...], known: Any, what: str) -> Iterator[Problem]:
    for name in names:
        if name not in known:
            yield Problem(f"{where}.{what}", f"{name!r} is not one of the {what}", f"known: {', '.join(known)}")


def _idle(
    registration: Registration, entry: Multiverse, where: str, listed: dict[str, tuple[str | None, ...]]
) -> Iterator[Problem]:
    """Yield lists that no rule of the grid can be changed by, and random sets that are not registered."""
    held = frozenset[str]().union(*(matters(registration.rules[str(rule)]) for rule in listed["rule"]))
    if entry.gates is not None and isinstance(registration.intervention, Zero):
        yield Problem(f"{where}.gates", "are what zero keeps as they are", "remove it")
    kinds = {registration.rules[str(rule)].kind for rule in listed["rule"]}
    if "noninferiority" in kinds and kinds & {"modular", "selective"}:
        yield Problem(f"{where}.rules", "claim little harm and much of it", "list rules that claim the same")
    for name in _BY_RULE:
        if getattr(entry, _LISTS[name]) is not None and name not in held:
            yield Problem(f"{where}.{_LISTS[name]}", "matters to no rule of the grid", "remove it, or add such a rule")
    if "null" in held and registration.controls.null is None:
        yield Problem("controls.null", "is missing", f"a rule of {where} compares with random experts")


def _unattainable(
    registration: Registration, families: int, where: str, listed: dict[str, tuple[str | None, ...]], alpha: float
) -> Iterator[Problem]:
    """Yield corrections under which no data could confirm a claim by a rule that tests against random sets."""
    null = registration.controls.null
    tests = [rule for name in listed["rule"] if not isinstance(rule := registration.rules[str(name)], ExpressionRule)]
    if null is None or not any("null" in matters(rule) for rule in tests):
        return
    harmonic = sum(1 / rank for rank in range(1, families + 1))
    factors = {"bonferroni": float(families), "holm": float(families), "by": harmonic}  # of the smallest p, if all tie
    for correction in listed["correction"]:
        factor = factors.get(str(correction), 1.0)
        needed = max(math.ceil(factor / alpha - 1e-9) - 1, families)  # max-T assigns every family a draw of its own
        if null.draws < needed:
            found = f"{correction} over {families} claims needs more than {null.draws} draws to reach {alpha:.3g}"
            yield Problem(f"{where}.corrections", found, f"leave it out, or register {needed} draws")
