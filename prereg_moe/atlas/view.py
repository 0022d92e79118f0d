"""An atlas's description as titled tables and sentences, for whoever prints them.

Takes the documents of `describe`; adds words and rounding, no numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Section", "view_registered", "view_released"]

_WIDE = 14  # axes a printed matrix has at most
_FEW = 0.05  # a layer-shuffle p up to which ids are called more than labels


@dataclass(frozen=True, slots=True)
class Section:
    """A part of a page.

    Attributes:
        title: what it shows.
        columns: names of the columns, empty without a table.
        rows: cells as text.
        lines: sentences below.
    """

    title: str
    columns: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    lines: tuple[str, ...] = ()


def view_released(document: Mapping[str, Any]) -> tuple[Section, ...]:
    """Return the page of released routing mass."""
    released = document["released"] or {}
    sections = [
        _head(document),
        _coverage(document),
        _matrix("Correlation of pooled shares", document["axes"], document["correlation"]),
        _overlap(document),
        _families(document, released.get("families")),
    ]
    if released:
        sections.append(_agreement(released))
    sections.append(
        _shuffle(document["layer_shuffle"], f"{', '.join(document['group'])} minus overlap with the other axes")
    )
    return tuple(sections)


def view_registered(models: Mapping[str, Mapping[str, Any]]) -> tuple[Section, ...]:
    """Return the summary of the atlas of each registered model."""
    sections = []
    for model, summary in models.items():
        rows = tuple(
            (name, entry["axis"], _number(entry["share"]), _number(entry["uniform"]), entry.get("problem", ""))
            for name, entry in summary["families"].items()
        )
        if rows:
            columns = ("family", "axis", "share of its axis", "uniform", "")
            sections.append(Section(f"{model}: routing that families take on their own axis", columns, rows))
        sections.append(
            _shuffle(summary["layer_shuffle"], f"{summary['group']} minus overlap with the other domains", model)
        )
    return tuple(sections)


def _head(document: Mapping[str, Any]) -> Section:
    lines = [
        f"{document['layers']} layers of {document['experts']} experts, {document['top_k']} a token; "
        f"{len(document['axes'])} axes"
    ]
    if not document["tokens_even"]:
        lines.append("An axis's mass differs between layers: gates do not sum to one per token, or tokens were lost.")
    if document["lost"]:
        lines.append(f"The capture lost {document['lost']} tokens.")
    return Section(document["model"], lines=tuple(lines))


def _coverage(document: Mapping[str, Any]) -> Section:
    sizes = list(next(iter(document["coverage"].values())))
    rows = tuple(
        (axis, f"{document['tokens'][axis]:.0f}", *(_number(row[size]) for size in sizes))
        for axis, row in document["coverage"].items()
    )
    return Section("Coverage: share of an axis's mass that its top ids take", ("axis", "tokens", *sizes), rows)


def _overlap(document: Mapping[str, Any]) -> Section:
    pairs, size = document["overlap"]["pairs"], document["overlap"]["size"]
    expected = next(iter(pairs.values()))["expected"]
    below = sum(pair["p"] <= 0.05 for pair in pairs.values())
    return _matrix(
        f"Overlap (intersection over union) of the top {size} ids",
        document["axes"],
        {key: pair["iou"] for key, pair in pairs.items()},
        f"Sets with nothing in common but their size overlap {expected:.3f}; {below} of {len(pairs)} pairs are above "
        "it at p <= .05, each taken alone.",
    )


def _matrix(title: str, axes: Sequence[str], values: Mapping[str, float | None], *lines: str) -> Section:
    """Return the lower triangle of a table of pairs, where it fits a page."""
    if len(axes) > _WIDE:
        return Section(title, lines=(*lines, f"{len(values)} pairs: print them with --json."))
    rows = tuple(
        (axis, *(_number(values[f"{other}|{axis}"]) for other in axes[:row]), *[""] * (len(axes) - 1 - row))
        for row, axis in enumerate(axes)
        if row
    )
    return Section(title, ("", *axes[:-1]), rows, lines)


def _families(document: Mapping[str, Any], released: Mapping[str, Any] | None) -> Section:
    families = document["families"]
    rows = [
        [axis, f"{families['mean_lift'][axis]:.3f}", " ".join(map(str, ids))] for axis, ids in families["ids"].items()
    ]
    columns = ["axis", "mean lift", f"top {families['size']} ids by lift"]
    excluded = ", ".join(map(str, families["excluded"])) or "none"
    lines = [f"Excluded by {families['excluded_by']}: {excluded}."]
    if released is not None:
        columns.append("released")
        for row in rows:
            row.append(_difference(released["axes"].get(row[0])))
        differing = {axis: len(entry["missing"]) for axis, entry in released["axes"].items() if not entry["reproduced"]}
        lines.append(f"The rule reproduces {released['reproduced']} of {released['of']} released families.")
        if differing:
            named = ", ".join(f"{axis} ({_count(ids)})" for axis, ids in differing.items())
            lines.append(f"Not reproduced: {named}.")
        needed = released["needed_exclusions"]
        lines.append(
            f"The released families are top ids by lift where {', '.join(map(str, needed['ids'])) or 'nothing'} "
            f"{'is' if len(needed['ids']) < 2 else 'are'} excluded: {needed['reproduced']} of {released['of']}."
        )
    return Section("Families", tuple(columns), tuple(map(tuple, rows)), tuple(lines))


def _difference(entry: Mapping[str, Any] | None) -> str:
    if entry is None:
        return "-"
    if entry["reproduced"]:
        return "the same"
    return f"{', '.join(map(str, entry['missing'])) or 'none'} for {', '.join(map(str, entry['instead'])) or 'none'}"


def _count(ids: int) -> str:
    return f"{ids} id" if ids == 1 else f"{ids} ids"


def _agreement(released: Mapping[str, Any]) -> Section:
    rows = tuple(
        (entry["table"], f"{entry['equal']} of {entry['of']}", ", ".join(entry["differing"][:5]))
        for entry in released["tables"]
    )
    lines = []
    if core := released["shared_core"]:
        follows = "follows the rule" if core["follows"] else "does not follow the rule"
        lines.append(
            f"The released shared core ({', '.join(map(str, core['ids'])) or 'none'}) {follows}: pooled share at least "
            "1/E on every axis."
        )
    return Section("Released tables that follow from the mass", ("table", "equal", "differing"), rows, tuple(lines))


def _shuffle(checks: Sequence[Mapping[str, Any]], compared: str, model: str = "") -> Section:
    names = {"lift": "mean lift of the top ids", "separation": "separation gap"}
    rows = tuple(
        (
            names[check["statistic"]],
            f"{check['observed']:.4f}",
            f"{check['mean']:.4f} ± {check['sd']:.4f}",
            f"{check['p']:.3f}",
            f"{check['cells']:.4f}",
        )
        for check in checks
    )
    labels = all(check["p"] > _FEW for check in checks)
    line = (
        "Ids shuffled layer by layer do as well: nothing here says that an id means the same in two layers. Register "
        "families per_layer or as cells."
        if labels
        else "Ids pooled over layers find more than shuffled ids do."
    )
    title = f"Layer shuffle, {checks[0]['shuffles']} times"
    return Section(
        f"{model}: {title[0].lower()}{title[1:]}" if model else title,
        ("statistic", "ids", "shuffled", "p", "cells"),
        rows,
        (line, f"Separation gap: overlap within {compared}.") if len(checks) > 1 else (line,),
    )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
