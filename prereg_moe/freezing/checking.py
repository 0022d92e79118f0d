"""Before anything is frozen: what stands in the way, what is still missing, and what an author should know."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from pathlib import Path

from prereg_moe.errors import Invalid, NotCheckable, Problem
from prereg_moe.freezing.fitting import misfits
from prereg_moe.freezing.items import cluster_of, read_items
from prereg_moe.freezing.pinning import read_templates
from prereg_moe.hub import missing_data
from prereg_moe.registration import Registration, blocks, family_names, load, needs_null, spares
from prereg_moe.registration.schema import Claims, TaskMeasure
from prereg_moe.registry import find_source

__all__ = ["Checked", "check", "other_name"]


@dataclass(frozen=True, slots=True)
class Checked:
    """What `check` found: the registration, what freezing still waits for, and what to think about.

    Attributes:
        registration: the valid registration.
        pending: what must be there before it can be frozen.
        advice: choices that weaken the study, said once.
        claims: claims it makes.
        conditions: conditions it would run at most (families of one size share their null draws).
        scores: item scores that is.
    """

    registration: Registration
    pending: tuple[Problem, ...]
    advice: tuple[Problem, ...]
    claims: int
    conditions: int
    scores: int


def check(path: Path, root: Path | None = None) -> Checked:
    """Return what freezing the registration at ``path`` would need; nothing is written or downloaded.

    Raises:
        Invalid: with every problem of the document.
    """
    path = _document(path)
    registration = load(path)
    folder, root = path.parent, root or path.parent
    problems, pending = _lacking(registration, folder, root)
    problems += misfits(registration, folder, root)
    if folder.resolve().parent == (root / "registrations").resolve():
        problems = [*other_name(registration.id, folder.resolve().name), *problems]
    if problems:
        raise Invalid(problems)
    if registration.atlas is not None and not (folder / "atlas.json").exists():
        pending.append(Problem("atlas", "is not made yet", "run `prereg-moe atlas`"))
    if registration.diagnosis is not None and not (folder / "diagnosis.json").exists():
        pending.append(Problem("diagnosis", "is not made yet", "run `prereg-moe diagnose`"))
    pending += missing_data(registration, lambda source: find_source(source, folder, root))
    read_templates(registration, folder, root)
    claims, conditions, scores = _count(registration)
    return Checked(registration, tuple(pending), tuple(_advice(registration)), claims, conditions, scores)


def other_name(id_: str, folder: str) -> list[Problem]:
    """Return what is wrong where a registration's id is not the name of its folder."""
    if id_ == folder:
        return []
    return [Problem("id", f"is {id_!r} in the folder {folder!r}", "give both the same name")]


def _document(path: Path) -> Path:
    return path / "registration.yaml" if path.is_dir() else path


def _lacking(registration: Registration, folder: Path, root: Path) -> tuple[list[Problem], list[Problem]]:
    """Return (what is wrong with the items that are here, what is not here), before any routing is recorded."""
    absent = [
        Problem(where, f"{source} is not here", _way_to(source, path))
        for where, source in _sources(registration)
        if not (path := find_source(source, folder, root)).exists()
    ]
    wanted: list[tuple[str, int, int, TaskMeasure | None]]
    wanted = [(measure.corpus, measure.skip, measure.items, measure) for measure in registration.measures.values()]
    if (atlas := registration.atlas) is not None:
        wanted.append((atlas.corpus, atlas.skip, atlas.items, None))
    wrong: list[Problem] = []
    for (name, skip, count, measure), axis in product(wanted, registration.axes):
        corpus = registration.corpora[name]
        source, file = find_source(corpus.source, folder, root), corpus.file.replace("{axis}", axis)
        if not source.exists():
            continue
        if not (source / file).exists():
            absent.append(Problem(f"corpora.{name}", f"{file} is not in {corpus.source}", "get it before freezing"))
            continue
        try:
            for item in read_items(source / file, skip, count):
                if measure is not None and measure.unit == "cluster":
                    cluster_of(measure, item)
        except (Invalid, NotCheckable) as error:
            wrong += error.problems
    return list(dict.fromkeys(wrong)), list(dict.fromkeys(absent))


def _way_to(source: str, path: Path) -> str:
    return f"put it, or a link to it, at {path}" if source.startswith("./") else "get it before freezing"


def _sources(registration: Registration) -> list[tuple[str, str]]:
    return [
        *((f"models.{name}.source", model.source) for name, model in registration.models.items()),
        *((f"corpora.{name}.source", corpus.source) for name, corpus in registration.corpora.items()),
        *((f"measures.{name}.tasks", measure.tasks) for name, measure in registration.measures.items()),
    ]


def _count(registration: Registration) -> tuple[int, int, int]:
    """Return (claims, conditions, item scores); the last two at most: sets matched by size are shared."""
    names = family_names(registration)

    def families(claims: Claims) -> tuple[str, ...]:
        return tuple(names) if claims.families == "all" else claims.families

    cells: dict[tuple[object, ...], int] = {}  # (model, measure, what is done to what) -> conditions
    for varied, claims in blocks(registration):
        where, done = (claims.model, claims.measure), varied.intervention
        cells[*where, None] = 1
        null = varied.controls.null if needs_null(varied, claims) else None
        for family in families(claims):
            cells[*where, done, family] = 1
            if null is not None:
                cells[*where, done, null.match, family if null.match == "mass" else names[family][1]] = null.draws
    scores = sum(n * registration.measures[str(m)].items * len(registration.axes) for (_, m, *_), n in cells.items())
    return sum(len(families(claims)) for claims in registration.claims), sum(cells.values()), scores


def _advice(registration: Registration) -> list[Problem]:
    advice = [
        Problem(f"controls.{name}", "is missing", "without it nobody can tell a broken rule from a true finding")
        for name in ("positive", "negative")
        if getattr(registration.controls, name) is None
    ]
    for index, claims in enumerate(registration.claims):
        if claims.tier == "confirmatory" and registration.rules[claims.rule].kind == "expression":
            advice.append(
                Problem(
                    f"claims[{index}].rule",
                    "is an expression: its error rate is not controlled",
                    f"prefer kind: {'noninferiority' if spares(registration, claims) else 'modular'}",
                )
            )
        measure, atlas = registration.measures[claims.measure], registration.atlas
        if atlas is not None and measure.corpus == atlas.corpus and _chosen_by_routing(registration, claims):
            first, last = max(measure.skip, atlas.skip), min(measure.skip + measure.items, atlas.skip + atlas.items)
            if first < last:
                found = f"takes {last - first} items an axis that families are chosen on, which flatters them"
                advice.append(Problem(f"measures.{claims.measure}", found, "use skip, or another corpus"))
        if measure.items < registration.inference.few_units:
            advice.append(
                Problem(
                    f"measures.{claims.measure}.items",
                    f"{measure.items} items an axis",
                    f"results below {registration.inference.few_units} are flagged FEW_UNITS",
                )
            )
    return list(dict.fromkeys(advice))  # blocks of one measure say the same


def _chosen_by_routing(registration: Registration, claims: Claims) -> bool:
    names = family_names(registration)
    chosen = names if claims.families == "all" else claims.families
    return any(registration.families[names[name][1]].build.kind == "top_lift" for name in chosen)
