"""Interventions, compiled: for each routed layer, what its router and its experts must do differently.

All that can be wrong with a specification is found here, before the model is touched, and reported
at once. Several conditions become rows of one table, so that a batch can hold them all.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, TypeAlias

import torch
from torch import Tensor

from prereg_moe.errors import Invalid, PreregError, Problem
from prereg_moe.lab.intervene.guards import Starved
from prereg_moe.lab.intervene.operators import (
    ByRow,
    Force,
    Intervention,
    KeepOnly,
    Mask,
    Mean,
    Noise,
    Resample,
    RouterNoise,
    Scale,
    Scope,
    SkipSlots,
    TopK,
)
from prereg_moe.lab.intervene.tokens import Needs, Tokens
from prereg_moe.lab.models import MoE, MoELayer, Unsupported
from prereg_moe.lab.models.ops import device_of

__all__ = ["CellEdit", "Edit", "LayerPlan", "Plan", "Rule", "compile_plan"]

CellEdit: TypeAlias = Scale | Mean | Resample | Noise
_ROUTER: Final = (Mask, KeepOnly, Force, TopK, RouterNoise)


@dataclass(frozen=True, slots=True, eq=False)
class Rule:
    """Classes marked for each condition, for the tokens of a scope."""

    scope: Scope
    table: Tensor  # bool (conditions, classes)

    def at(self, tokens: Tokens) -> Tensor:
        """Return the marked classes of each token: bool (T, classes), or (1, classes) where all are alike."""
        marked = self.table
        if tokens.conditions is not None:
            marked = marked[tokens.conditions.to(marked.device)].repeat_interleave(tokens.width, 0)
        inside = tokens.inside(self.scope)
        return marked if inside is None else marked & inside.to(marked.device)[:, None]


@dataclass(frozen=True, slots=True, eq=False)
class Edit:
    """One operator at one layer, under one condition (None: all). ``cells``, bool (experts), is None for `SkipSlots`
    and `RouterNoise`."""

    operator: Intervention
    scope: Scope
    condition: int | None = None
    cells: Tensor | None = None


@dataclass(frozen=True, slots=True, eq=False)
class LayerPlan:
    """All that is done at one layer. ``min_live``: fewest selectable classes of each condition."""

    layer: MoELayer
    masks: tuple[Rule, ...] = ()
    renorm: tuple[Rule, ...] = ()
    forced: tuple[Rule, ...] = ()
    top_k: int | None = None
    noises: tuple[Edit, ...] = ()
    skips: tuple[Edit, ...] = ()
    edits: tuple[Edit, ...] = ()
    min_live: tuple[int, ...] = ()
    masked_cells: tuple[int, ...] = ()
    edited_cells: tuple[int, ...] = ()

    @property
    def routes(self) -> bool:
        """Whether the router is edited."""
        return bool(self.masks or self.forced or self.noises or self.top_k is not None)

    @property
    def acts(self) -> bool:
        """Whether anything is edited."""
        return self.routes or bool(self.edits or self.skips)


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """What a session does, layer by layer, in decoder order."""

    layers: tuple[LayerPlan, ...]
    conditions: int
    needs: Needs
    scopes: tuple[tuple[Scope, int | None], ...]  # those that must meet a token


@dataclass(frozen=True, slots=True)
class _Entry:
    """An operator with its scope, condition and, by layer, its experts (None: no cells)."""

    operator: Intervention
    scope: Scope
    condition: int | None
    layers: dict[int, tuple[int, ...] | None] = field(default_factory=dict)

    def under(self, condition: int) -> bool:
        return self.condition is None or self.condition == condition

    def meets(self, other: _Entry) -> bool:
        same = None in {self.condition, other.condition} or self.condition == other.condition
        return same and self.scope.meets(other.scope)


def compile_plan(moe: MoE, interventions: Sequence[Intervention | ByRow], scope: Scope) -> Plan:
    """Return what a session must do.

    Raises:
        Invalid: cells outside the model, contradictions, operators that cannot be combined.
        Unsupported: a layer's router cannot be edited exactly.
        Starved: a router could be left with fewer than k selectable experts.
    """
    byrow = [one for one in interventions if isinstance(one, ByRow)]
    if len(byrow) > 1:
        raise Invalid(Problem("interventions", "hold two ByRow", "put all conditions into one"))
    conditions = byrow[0].conditions if byrow else ((),)
    placed: list[tuple[Intervention, int | None]] = []
    for one in interventions:
        if isinstance(one, ByRow):
            continue
        if not isinstance(one, Intervention):
            raise Invalid(
                Problem("interventions", f"hold a {type(one).__name__}", "use the operators of lab.intervene")
            )
        placed.append((one, None))
    placed += [(one, number) for number, condition in enumerate(conditions) for one in condition]
    problems: list[Problem] = []
    entries = [_enter(moe, one, condition, scope, problems) for one, condition in placed]
    if problems:
        raise Invalid(problems)
    faults: list[PreregError] = []
    layers = tuple(_compile_layer(layer, entries, len(conditions), faults) for layer in moe.layers)
    for kind in (Invalid, Unsupported, Starved):
        found = [problem for fault in faults if type(fault) is kind for problem in fault.problems]
        if found:
            raise kind(found)
    return Plan(layers, len(conditions), _needs(entries), _scopes(entries))


def _enter(moe: MoE, operator: Intervention, condition: int | None, session: Scope, problems: list[Problem]) -> _Entry:
    """Return an operator's entry; faults of its cells and layers are added to ``problems``."""
    scope = operator.scope or session
    known = {layer.index: layer for layer in moe.layers}
    wanted = known.keys() if scope.layers is None else set(scope.layers)
    name = type(operator).__name__
    todo = f"MoE layers are {sorted(known)}"
    problems += [Problem(f"{name}.scope", f"layer {one} is not an MoE layer", todo) for one in wanted - known.keys()]
    layers: dict[int, tuple[int, ...] | None] = {}
    if isinstance(operator, (TopK, RouterNoise, SkipSlots)):
        layers = dict.fromkeys(sorted(wanted & known.keys()))
        if isinstance(operator, TopK) and not scope.everywhere:
            problems.append(
                Problem("TopK.scope", "names tokens", "k is one number for a whole batch; scope it by layer")
            )
    else:
        for index, experts in operator.cells.items():
            if index not in known:
                problems.append(Problem(f"{name}.cells", f"layer {index} is not an MoE layer", todo))
                continue
            count = known[index].n_experts
            problems += [
                Problem(f"{name}.cells", f"layer {index} has no expert {one}", f"use 0 to {count - 1}")
                for one in experts
                if one >= count
            ]
            if isinstance(operator, KeepOnly):
                experts = tuple(one for one in range(count) if one not in set(experts))
            if experts and index in wanted:
                layers[index] = tuple(experts)
    return _Entry(operator, replace(scope, layers=None), condition, layers)


def _needs(entries: Sequence[_Entry]) -> Needs:
    """Return what must be known of tokens to apply these entries."""
    resample = any(isinstance(one.operator, Resample) for one in entries)
    return Needs(
        real=resample,
        positions=any(one.scope.positions is not None for one in entries),
        segments=any(one.scope.segment != "all" for one in entries),
        key=resample or any(isinstance(one.operator, (RouterNoise, Noise)) for one in entries),
    )


def _scopes(entries: Sequence[_Entry]) -> tuple[tuple[Scope, int | None], ...]:
    """Return the scopes and conditions under which something must happen."""
    scoped = [(one.scope, one.condition) for one in entries if one.layers and not one.scope.everywhere]
    return tuple(dict.fromkeys(scoped))


def _compile_layer(layer: MoELayer, entries: Sequence[_Entry], conditions: int, faults: list[PreregError]) -> LayerPlan:
    """Return one layer's plan; what is wrong is added to ``faults``."""
    here = [one for one in entries if layer.index in one.layers]
    if not here:
        return LayerPlan(
            layer,
            min_live=(layer.classes,) * conditions,
            masked_cells=(0,) * conditions,
            edited_cells=(0,) * conditions,
        )
    faults += _contradictions(layer, here)
    if layer.refusal and any(isinstance(one.operator, _ROUTER) for one in here):
        faults.append(Unsupported(Problem(_where(layer), f"its router cannot be edited: {layer.refusal}")))
    needy = [one for one in here if _gates(one) == "renorm" or isinstance(one.operator, RouterNoise)]
    if needy and layer.no_logits and not layer.refusal:
        found = f"its logits cannot be told: {layer.no_logits}"
        faults.append(Unsupported(Problem(_where(layer), found, "masks with gates='original' do not need them")))
    device = device_of(layer.router)
    top_k = next((one.operator.k for one in here if isinstance(one.operator, TopK)), None)
    masks = [one for one in here if isinstance(one.operator, (Mask, KeepOnly))]
    forced = [one for one in here if isinstance(one.operator, Force)]
    gated = [one for one in masks if _gates(one) == "renorm"]
    edits = tuple(_edit(one, layer, device) for one in here if isinstance(one.operator, CellEdit))
    live = [_starve(layer, masks, number, top_k or layer.top_k, faults) for number in range(conditions)]
    faults += _overforced(layer, forced, conditions, top_k or layer.top_k)
    rules = _rules(masks, layer, conditions, device)
    return LayerPlan(
        layer,
        masks=rules,
        renorm=rules if gated == masks else _rules(gated, layer, conditions, device),
        forced=_rules(forced, layer, conditions, device),
        top_k=None if top_k == layer.top_k else top_k,
        noises=tuple(_edit(one, layer, device) for one in here if isinstance(one.operator, RouterNoise)),
        skips=tuple(_edit(one, layer, device) for one in here if isinstance(one.operator, SkipSlots)),
        edits=edits,
        min_live=tuple(live),
        masked_cells=_counts(masks, layer, conditions),
        edited_cells=_counts([one for one in here if isinstance(one.operator, CellEdit)], layer, conditions),
    )


def _where(layer: MoELayer) -> str:
    return f"layer {layer.index} ({layer.path}, {type(layer.router).__name__})"


def _gates(entry: _Entry) -> str:
    return entry.operator.gates if isinstance(entry.operator, (Mask, KeepOnly)) else ""


def _experts(entry: _Entry, layer: MoELayer) -> frozenset[int]:
    return frozenset(entry.layers.get(layer.index) or ())


def _union(entries: Sequence[_Entry], layer: MoELayer) -> frozenset[int]:
    """Return the experts the entries name."""
    return frozenset().union(*(_experts(one, layer) for one in entries))


def _counts(entries: Sequence[_Entry], layer: MoELayer, conditions: int) -> tuple[int, ...]:
    """Return how many experts the entries name under each condition, in any scope."""
    under = ([one for one in entries if one.under(number)] for number in range(conditions))
    return tuple(len(_union(mine, layer)) for mine in under)


def _edit(entry: _Entry, layer: MoELayer, device: torch.device) -> Edit:
    experts = entry.layers[layer.index]
    cells = None
    if experts is not None:
        cells = torch.zeros(layer.n_experts, dtype=torch.bool, device=device)
        cells[list(experts)] = True
    return Edit(entry.operator, entry.scope, entry.condition, cells)


def _rules(entries: Sequence[_Entry], layer: MoELayer, conditions: int, device: torch.device) -> tuple[Rule, ...]:
    """Return one table for each scope among the entries; classes that are no experts stay unmarked."""
    tables: dict[Scope, Tensor] = {}
    for one in entries:
        table = tables.setdefault(one.scope, torch.zeros(conditions, layer.classes, dtype=torch.bool))
        rows = slice(None) if one.condition is None else slice(one.condition, one.condition + 1)
        table[rows, sorted(_experts(one, layer))] = True
    return tuple(Rule(scope, table.to(device)) for scope, table in tables.items())


def _contradictions(layer: MoELayer, here: Sequence[_Entry]) -> Iterator[PreregError]:
    """Yield what cannot be true at once of two operators at this layer, and what one asks of it that it cannot do."""
    for number, one in enumerate(here):
        fault = _alone(layer, one)
        if fault is not None:
            yield fault
        for two in here[number + 1 :]:
            found = _clash(layer, one, two) if one.meets(two) else ""
            if found:
                yield Invalid(Problem(_where(layer), found))


def _alone(layer: MoELayer, entry: _Entry) -> PreregError | None:
    """Return why a layer cannot do what one operator asks."""
    where, operator = _where(layer), entry.operator
    if isinstance(operator, TopK):
        if operator.k > layer.classes:
            return Invalid(Problem(where, f"top-k {operator.k}, it has {layer.classes} classes", "use a smaller k"))
        if operator.k != layer.top_k and not (layer.settable_k or layer.refusal):
            return Unsupported(Problem(where, "its k is fixed in its code"))
    if isinstance(operator, SkipSlots) and operator.slots >= layer.top_k:
        return Invalid(Problem(where, f"skip {operator.slots} of {layer.top_k} slots", "skip fewer than k"))
    if isinstance(operator, Mean):
        means = operator.means.get(layer.index)
        if means is None or len(means) != layer.n_experts:
            return Invalid(Problem(where, f"Mean has no ({layer.n_experts}, hidden) vectors for it"))
    linear = (Mean, Resample, Noise, SkipSlots) if layer.takes != "indices" else (Scale, Mean, Resample, Noise)
    if layer.no_outputs and isinstance(operator, linear):
        return Unsupported(Problem(where, f"{type(operator).__name__} is not exact: {layer.no_outputs}"))
    return None


def _clash(layer: MoELayer, one: _Entry, two: _Entry) -> str:
    """Return why two operators that meet at a token contradict each other, or ""."""
    both = sorted(_experts(one, layer) & _experts(two, layer))
    masks = [isinstance(entry.operator, (Mask, KeepOnly)) for entry in (one, two)]
    forces = [isinstance(entry.operator, Force) for entry in (one, two)]
    cells = [isinstance(entry.operator, CellEdit) for entry in (one, two)]
    if all(masks) and _gates(one) != _gates(two):
        return "masks disagree on gates: renorm and original"
    if any(masks) and any(forces) and both:
        return f"experts {both} are both masked and forced"
    if any(masks) and any(cells) and both:
        return f"experts {both} are masked, so what they contribute can never be changed"
    if all(cells) and both:
        return f"experts {both} have two interventions on what they contribute"
    for kind in (TopK, RouterNoise, SkipSlots):
        if isinstance(one.operator, kind) and isinstance(two.operator, kind):
            return f"two {kind.__name__} act at once"
    if isinstance(one.operator, TopK | SkipSlots) and isinstance(two.operator, TopK | SkipSlots):
        return "TopK and SkipSlots act at once"
    return ""


def _together(entries: Sequence[_Entry], condition: int) -> Iterator[list[_Entry]]:
    """Yield, for each kind of token there can be under a condition, the entries that act on it."""
    mine = [one for one in entries if one.under(condition)]
    scopes = list(dict.fromkeys(one.scope for one in mine))
    named = sorted({place for scope in scopes for place in scope.positions or ()})
    kinds = itertools.product((None, *named), ("prompt", "generated"))  # None: at a position that none names
    for acting in dict.fromkeys(tuple(scope.holds(*kind) for scope in scopes) for kind in kinds):
        here = set(itertools.compress(scopes, acting))
        yield [one for one in mine if one.scope in here]


def _starve(layer: MoELayer, masks: Sequence[_Entry], condition: int, k: int, faults: list[PreregError]) -> int:
    """Return the fewest classes a token under a condition can choose from; add a fault if they are too few."""
    fewest = layer.classes
    for mine in _together(masks, condition):
        gone = _union(mine, layer)
        live = layer.classes - len(gone)
        fewest = min(fewest, live)
        if live < k:
            found = f"{live} of {layer.classes} classes are selectable, it selects {k}"
            faults.append(Starved(Problem(_where(layer), found, f"mask at most {layer.classes - k}")))
        elif layer.groups > 1 and _group_starves(left := _left(layer, gone), layer.groups_kept, k, gates=mine):
            found = f"groups keep {left} selectable experts, and {layer.groups_kept} groups are searched for {k}"
            faults.append(Starved(Problem(_where(layer), found, "leave k in any groups the router may search")))
    return fewest


def _left(layer: MoELayer, gone: frozenset[int]) -> list[int]:
    """Return how many experts of each group are selectable."""
    size = layer.classes // layer.groups
    return [size - sum(one // size == group for one in gone) for group in range(layer.groups)]


def _group_starves(left: Sequence[int], kept: int, k: int, *, gates: Sequence[_Entry]) -> bool:
    """Return whether some choice of groups leaves fewer than k experts.

    With gates "renorm" a group without selectable experts is never preferred; with "original" groups are
    chosen as if nothing were masked.
    """
    blind = any(_gates(one) == "original" for one in gates)
    searched = sorted(one for one in left if one or blind)
    return sum(searched[:kept]) < k


def _overforced(layer: MoELayer, forced: Sequence[_Entry], conditions: int, k: int) -> Iterator[PreregError]:
    """Yield a fault where more experts, or experts of more groups, are forced than the router can take."""
    size = layer.classes // layer.groups
    together = [mine for number in range(conditions) for mine in _together(forced, number)]
    for experts in {_union(mine, layer) for mine in together}:
        if len(experts) > k:
            yield Invalid(Problem(_where(layer), f"{len(experts)} experts are forced, it selects {k}"))
        groups = len({one // size for one in experts})
        if layer.groups > 1 and groups > layer.groups_kept:
            found = f"forced experts lie in {groups} groups, it searches {layer.groups_kept}"
            yield Invalid(Problem(_where(layer), found))
