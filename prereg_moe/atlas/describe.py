"""What an atlas says, as one JSON document: of released mass, and of a registered model.

Numbers are unrounded; a correlation that does not exist is null. Pairs of axes are keyed
``first|second`` in the order of the axes.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from prereg_moe.atlas.families import build_family, needed_exclusions, shared_core
from prereg_moe.atlas.released import Printed, Released, ReleasedTables
from prereg_moe.atlas.routing import Array, RoutingAtlas, family_share, lift, pooled
from prereg_moe.atlas.statistics import correlation, coverage, family_lift, iou, layer_shuffle, overlap, top
from prereg_moe.errors import Invalid, Problem
from prereg_moe.registration import Registration, family_names
from prereg_moe.registration.schema import ExclusionRule, TopLift

__all__ = ["describe_registered", "describe_released"]

_SIZE = 16  # experts a family, where neither the call nor the released map says it
_COVERED = (8, 16, 32, 64, 96)
_MASS_ROUNDING = 1e-10  # coverage can change by this much with the 8 decimals of released mass


def describe_released(
    released: Released,
    *,
    families: ReleasedTables | None = None,
    summary: ReleasedTables | None = None,
    exclude: Sequence[int] | None = None,
    size: int | None = None,
) -> dict[str, Any]:
    """Return every statistic of released mass, its families by the documented rule, and what released tables agree.

    Args:
        released: the mass.
        families: the map released beside it.
        summary: the summary released beside it.
        exclude: ids no family may hold; by default the shared core by its rule (a pooled share of at
            least 1/E on every axis).
        size: experts a family; by default the map's ``family_K`` or largest family, else 16, or half the experts
            where that is less.

    Raises:
        Invalid: an id that does not exist, or too few experts left.
    """
    atlas, table = released.atlas, pooled(released.atlas.mass)
    experts = atlas.layout.experts
    half = max(1, experts // 2)
    if size is None:
        size = min(_SIZE, half) if families is None else families.size or max(map(len, families.families.values()))
    core = [int(expert) for expert in shared_core(table).nonzero()[0]]
    excluded = sorted(set(exclude)) if exclude is not None else core
    if wrong := [expert for expert in excluded if not 0 <= expert < experts]:
        raise Invalid(Problem("--exclude", f"{wrong} do not exist", f"experts are 0 to {experts - 1}"))
    built = _families(atlas, excluded, size)
    languages = [_is_language(axis) for axis in atlas.axes]
    group = languages if sum(languages) >= 2 and not all(languages) else None
    printed = [tables for tables in (families, summary) if tables is not None]
    tokens = atlas.mass.sum(axis=2)
    document: dict[str, Any] = {
        "model": released.model,
        "lost": released.lost,
        "layers": len(atlas.layout.layers),
        "experts": experts,
        "top_k": atlas.layout.top_k,
        "axes": list(atlas.axes),
        "tokens": dict(zip(atlas.axes, tokens.mean(axis=1).tolist(), strict=True)),
        "tokens_even": bool(((tokens.max(axis=1) - tokens.min(axis=1)) <= 1e-6 * tokens.max(axis=1)).all()),
        "coverage": _coverage(atlas, [k for k in _COVERED if k < experts] or [half]),
        "correlation": _pairs(atlas.axes, correlation(table)),
        "overlap": {"size": half, "pairs": _overlaps(atlas.axes, table, half)},
        "shared_core": {"rule": "pooled share >= 1/E on every axis", "ids": core},
        "families": {
            "rule": f"top {size} by lift, unit global_id",
            "size": size,
            "excluded": excluded,
            "excluded_by": "the call" if exclude is not None else "the shared-core rule",
            "ids": built,
            "mean_lift": dict(zip(atlas.axes, family_lift(table, list(built.values())).tolist(), strict=True)),
        },
        "layer_shuffle": [check.to_json() for check in layer_shuffle(atlas.mass, size, group=group)],
        "group": [axis for axis, member in zip(atlas.axes, languages, strict=True) if member and group],
        "released": None,
    }
    if printed:
        document["released"] = {
            "families": _compared_families(atlas, table, families, built, size) if families else None,
            "shared_core": {"ids": list(families.core), "follows": list(families.core) == core}
            if families and families.core is not None
            else None,
            "tables": _compared_tables(atlas, table, printed),
        }
    return document


def describe_registered(registration: Registration, atlas: RoutingAtlas) -> dict[str, Any]:
    """Return a short summary of a registered model's atlas: its families' shares and the layer-shuffle check.

    The separation gap is that of the domain with most axes (the first of equals), where it has two
    or more and another domain exists. A family that cannot be built says why.
    """
    families: dict[str, Any] = {}
    sizes = []
    for name, (axis, index) in family_names(registration).items():
        build = registration.families[index].build
        try:
            cells = build_family(build, axis, atlas)
        except Invalid as error:
            families[name] = {"axis": axis, "share": None, "uniform": None, "problem": str(error.problems[0])}
            continue
        shares = family_share(atlas, axis, cells)
        families[name] = {"axis": axis, "share": shares and shares[0], "uniform": shares and shares[1]}
        sizes.append(max(len(experts) for experts in cells.values()))
    domains = [registration.axes[axis].domain if axis in registration.axes else "" for axis in atlas.axes]
    largest, count = Counter(domains).most_common(1)[0]
    group = [domain == largest for domain in domains] if 2 <= count < len(domains) else None
    size = min(max(sizes, default=1), atlas.layout.experts)
    return {
        "families": families,
        "group": largest if group else None,
        "layer_shuffle": [check.to_json() for check in layer_shuffle(atlas.mass, size, group=group)],
    }


def _families(atlas: RoutingAtlas, excluded: Sequence[int], size: int) -> dict[str, list[int]]:
    rule = TopLift(kind="top_lift", size=size, unit="global_id", exclude=ExclusionRule(kind="ids", ids=tuple(excluded)))
    first = atlas.layout.layers[0]
    return {axis: list(build_family(rule, axis, atlas)[first]) for axis in atlas.axes}


def _is_language(axis: str) -> bool:
    """Whether an axis is named by a two-letter language code (ISO 639-1)."""
    return len(axis) == 2 and axis.isascii() and axis.isalpha() and axis.islower()


def _coverage(atlas: RoutingAtlas, sizes: Sequence[int]) -> dict[str, dict[str, float]]:
    table = coverage(atlas.mass, sizes).tolist()
    return {axis: dict(zip(map(str, sizes), row, strict=True)) for axis, row in zip(atlas.axes, table, strict=True)}


def _pairs(axes: Sequence[str], table: Array) -> dict[str, float | None]:
    """Return ``a|b`` -> number, null where it does not exist."""
    return {
        f"{a}|{b}": float(table[i, j]) if math.isfinite(table[i, j]) else None
        for (i, a), (j, b) in combinations(enumerate(axes), 2)
    }


def _overlaps(axes: Sequence[str], table: Array, size: int) -> dict[str, dict[str, float]]:
    sets = top(table, size)
    found = {}
    for (i, a), (j, b) in combinations(enumerate(axes), 2):
        pair = overlap(sets[i], sets[j])
        found[f"{a}|{b}"] = {"iou": pair.iou, "expected": pair.expected, "p": pair.p}
    return found


def _compared_families(
    atlas: RoutingAtlas, table: Array, released: ReleasedTables, built: Mapping[str, list[int]], size: int
) -> dict[str, Any]:
    """Return which released families the rule gives, how far the others are from it, and what it would take."""
    compared = {
        axis: {
            "reproduced": list(ids) == built[axis],
            "missing": sorted(set(ids) - set(built[axis])),
            "instead": sorted(set(built[axis]) - set(ids)),
        }
        for axis, ids in released.families.items()
    }
    needed = needed_exclusions(lift(table), {atlas.axes.index(axis): ids for axis, ids in released.families.items()})
    try:
        again = _families(atlas, needed, size)
        repaired = sum(list(ids) == again[axis] for axis, ids in released.families.items())
    except Invalid:
        repaired = 0
    return {
        "reproduced": sum(entry["reproduced"] is True for entry in compared.values()),
        "of": len(compared),
        "axes": compared,
        "needed_exclusions": {"ids": list(needed), "reproduced": repaired},
    }


def _compared_tables(atlas: RoutingAtlas, table: Array, released: Sequence[ReleasedTables]) -> list[dict[str, Any]]:
    """Return how many numbers of each released table follow from the mass, and which do not."""
    compared = []
    for tables in released:
        if tables.lift is not None:
            rows = [axis for axis in tables.lift.values if axis in tables.families]
            lifts = lift(table)
            derived = {axis: float(lifts[atlas.axes.index(axis), list(tables.families[axis])].mean()) for axis in rows}
            compared.append(_agreement(tables.lift, derived))
        if tables.correlation is not None:
            compared.append(_agreement(tables.correlation, _both_ways(atlas.axes, correlation(table))))
        for size, printed in tables.overlap:
            compared.append(_agreement(printed, _both_ways(atlas.axes, iou(top(table, size)))))
        if tables.coverage is not None:
            sizes = sorted({int(row.rpartition("|")[2]) for row in tables.coverage.values})
            derived = {
                f"{axis}|{size}": value for axis, row in _coverage(atlas, sizes).items() for size, value in row.items()
            }
            compared.append(_agreement(tables.coverage, derived, slack=_MASS_ROUNDING))
    return compared


def _both_ways(axes: Sequence[str], table: Array) -> dict[str, float]:
    return {f"{a}|{b}": float(table[i, j]) for i, a in enumerate(axes) for j, b in enumerate(axes) if i != j}


def _agreement(printed: Printed, derived: Mapping[str, float], *, slack: float = 1e-12) -> dict[str, Any]:
    differing = printed.differing(derived, slack=slack)
    return {
        "table": printed.name,
        "equal": len(printed.values) - len(differing),
        "of": len(printed.values),
        "differing": list(differing),
    }
