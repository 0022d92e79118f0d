"""Freezing: from an authored registration and the bytes it names to one frozen document and its seal.

:func:`check` says what freezing would pin and what is still missing; :func:`freeze` pins it.
Nothing is loaded but bytes: weights, tokenizers, task files, corpora and templates are hashed,
items are listed by id, families and null draws are derived from the sealed atlas and written
out.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice, product
from pathlib import Path
from typing import Any

import prereg_moe
from prereg_moe import canonical, ledger, record, templating
from prereg_moe.atlas import RoutingAtlas
from prereg_moe.errors import Deviated, Invalid, NotCheckable, Problem, Tampered, shaped
from prereg_moe.frozen import SCHEMA, Frozen, challenged, derive
from prereg_moe.hub import missing_data
from prereg_moe.registration import Registration, blocks, demand, expand, family_names, load, needs_null
from prereg_moe.registration.schema import Claims, TaskMeasure
from prereg_moe.registry import Registry, find_source, read_bytes

__all__ = [
    "Checked",
    "answered",
    "atlas_inputs",
    "check",
    "compare_pins",
    "freeze",
    "frozen_atlases",
    "list_items",
    "load_frozen",
    "pin_corpus",
    "pin_folder",
    "pin_model",
    "read_atlases",
    "read_frozen",
    "read_items",
    "read_templates",
    "unmet_demands",
]

_MODEL_SUFFIXES = frozenset({".json", ".safetensors", ".txt", ".model", ".jinja"})
_MAX_LINE = 1 << 24


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
    if folder.resolve().parent == (root / "registrations").resolve():
        problems = [*_other_name(registration, folder.resolve().name), *problems]
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


def freeze(registry: Registry, id_: str, *, time: str) -> Frozen:
    """Write ``frozen.json`` (and the templates) of a registration, seal them, and return it.

    Raises:
        Invalid: the document, or what it names, cannot be frozen; all problems at once.
        Deviated: it is frozen already.
        NotCheckable: a file it names is not there.
        Tampered: the atlas or the diagnosis is not the one that was sealed.
    """
    folder = registry.registration(id_)
    seals = ledger.parse(registry.ledger())
    if ledger.stage(seals, id_) not in ledger.FOLLOWS["freeze"]:
        raise Deviated(
            Problem(id_, "is frozen already", f"`prereg-moe amend {id_}` before it is run, or register a new study")
        )
    source = folder / "registration.yaml"
    registration = load(source)
    if problems := _other_name(registration, id_):
        raise Invalid(problems)
    atlases, atlas_digest = _atlas(registry, registration, seals)
    templates = read_templates(registration, folder, registry.root)
    document = {
        "schema": SCHEMA,
        "software": {"prereg-moe": prereg_moe.__version__},
        "registration": expand(registration),
        "pins": {
            **_pins(registration, folder, registry.root),
            "atlas": atlas_digest,
            "diagnosis": _diagnosis(registry, registration, seals),
            "document": canonical.digest_file(source),
            "templates": {name: canonical.digest(text) for name, text in templates.items()},
        },
        **list_items(registration, folder, registry.root),
        **derive(registration, atlases),
    }
    if superseded := record.supersedes(seals, id_):
        document["supersedes"] = superseded
    frozen = Frozen.from_bytes(canonical.dumps(document))
    copies = []
    for name, text in templates.items():
        canonical.write(folder / "templates" / name, text)
        copies.append(folder / "templates" / name)
    canonical.write(folder / "frozen.json", document)
    registry.seal("freeze", id_, [source, folder / "frozen.json", *copies], time=time, body=record.freeze_body(frozen))
    return frozen


def load_frozen(registry: Registry, id_: str) -> Frozen:
    """Return the frozen registration as it was sealed.

    Raises:
        Invalid, NotCheckable, Tampered: as for :func:`read_frozen`.
    """
    data = read_frozen(registry, id_)
    return answered(registry, Frozen.from_bytes(data, registry.name(registry.registration(id_) / "frozen.json")))


def read_frozen(registry: Registry, id_: str) -> bytes:
    """Return the bytes of a frozen registration, whatever its evidence, as they were sealed.

    Raises:
        Invalid: there is no such registration, or it was never frozen.
        NotCheckable: its file is gone.
        Tampered: its bytes are not the ones sealed.
    """
    path = registry.registration(id_) / "frozen.json"
    if not path.parent.is_dir():
        raise Invalid(Problem(id_, "is not a registration here", f"look in {registry.root / 'registrations'}"))
    files = ledger.sealed_files(ledger.parse(registry.ledger()), id_)
    if registry.name(path) not in files:
        raise Invalid(Problem(id_, "is not frozen", f"run `prereg-moe freeze {id_}`"))
    return registry.read_sealed(files, path, "")


def answered(registry: Registry, frozen: Frozen) -> Frozen:
    """Return a frozen registration with the draws its sealed challenge gave, itself where there is none.

    Raises:
        NotCheckable: the sealed draws are gone.
        Tampered: they are not the ones that were sealed, or of another registration.
    """
    if not challenged(frozen.registration):
        return frozen
    path = registry.registration(frozen.registration.id) / "draws.json"
    seals, _ = ledger.examine(registry.ledger())
    sealed = ledger.sealed_files(seals, frozen.registration.id).get(registry.name(path))
    if sealed is None:
        return frozen
    data = read_bytes(path)
    document = canonical.loads(data, registry.name(path))
    if canonical.digest(data) != sealed or document["registration"] != frozen.digest:
        raise Tampered(Problem(registry.name(path), "is not the file that was sealed", "restore it"))
    return replace(frozen, answer=document)


def frozen_atlases(registry: Registry, frozen: Frozen) -> dict[str, RoutingAtlas]:
    """Return model -> the routing atlas that was frozen, nothing where none is registered.

    Raises:
        NotCheckable: it is gone.
        Tampered: it is not the one that was frozen.
    """
    if frozen.registration.atlas is None:
        return {}
    path = registry.registration(frozen.registration.id) / "atlas.json"
    if canonical.digest_file(path) != frozen.document["pins"]["atlas"]:
        raise Tampered(Problem("atlas.json", "is not the atlas that was frozen", "restore it"))
    return read_atlases(path)[1]


def compare_pins(registry: Registry, frozen: Frozen) -> tuple[list[Problem], list[Problem]]:
    """Return (what is no longer the frozen bytes, what is not on this machine) of weights, tasks and corpora."""
    registration, pins = frozen.registration, frozen.document["pins"]
    folder = registry.registration(registration.id)
    named: list[tuple[str, str, str, Callable[[Path], dict[str, str]]]] = [
        *(("models", name, model.source, pin_model) for name, model in registration.models.items()),
        *(
            ("corpora", name, corpus.source, partial(pin_corpus, registration, name))
            for name, corpus in registration.corpora.items()
        ),
        *(("tasks", source, source, pin_folder) for source in _tasks(registration)),
    ]
    changed: list[Problem] = []
    absent: list[Problem] = []
    for kind, name, source, pin in named:
        path = find_source(source, folder, registry.root)
        if not path.exists():
            absent.append(Problem(f"{kind}.{name}", f"{source} is not here", "get it to check its digests"))
            continue
        try:
            found = pin(path)
        except NotCheckable as error:
            changed += error.problems
            continue
        changed += [
            Problem(f"{kind}.{name}", f"{file} is not what was frozen", "restore it, or register a new study")
            for pinned in [pins[kind].get(name, {})]
            for file in sorted(set(found) | set(pinned))
            if found.get(file) != pinned.get(file)
        ]
    return changed, absent


def read_templates(registration: Registration, folder: Path, root: Path) -> dict[str, bytes]:
    """Return file name -> bytes of the report templates: the package's, and instead of them the registration's own.

    Raises:
        NotCheckable: the registered folder cannot be read.
        Invalid: it holds no template, one that makes no report, or one that cannot be parsed.
    """
    texts = {name: text.encode() for name, text in templating.reports().items()}
    source = registration.report.template
    if source == "default":
        return texts
    own = {path.name: read_bytes(path) for path in sorted(find_source(source, folder, root).glob("*.j2"))}
    problems = [
        Problem(f"report.template, {name}", "is the template of no report", f"name it one of {', '.join(texts)}")
        for name in own
        if name not in texts
    ]
    if not own:
        problems.append(Problem("report.template", f"{source} holds no template", f"it may hold {', '.join(texts)}"))
    for name, text in own.items():
        try:
            templating.check(text.decode(), f"report.template, {name}")
        except UnicodeDecodeError:
            problems.append(Problem(f"report.template, {name}", "is not UTF-8 text", "save it as such"))
        except Invalid as error:
            problems += error.problems
    if problems:
        raise Invalid(problems)
    return texts | own


def pin_folder(folder: Path, suffixes: frozenset[str] | None = None) -> dict[str, str]:
    """Return file name (relative, forward slashes) -> digest of every file below a folder.

    Args:
        suffixes: take only these; hidden files and byte code are never taken.

    Raises:
        NotCheckable: the folder holds no such file.
    """
    files = {
        path.relative_to(folder).as_posix(): canonical.digest_file(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and not any(part.startswith(".") or part == "__pycache__" for part in path.relative_to(folder).parts)
        and (suffixes is None or path.suffix in suffixes)
    }
    if not files:
        raise NotCheckable(Problem(str(folder), "holds no file to pin", "look at the source it is named by"))
    return files


def pin_model(folder: Path) -> dict[str, str]:
    """Return the digests of a model's weights, configuration and tokenizer files."""
    return pin_folder(folder, _MODEL_SUFFIXES)


def pin_corpus(registration: Registration, name: str, folder: Path) -> dict[str, str]:
    """Return the digests of a corpus's files, one an axis."""
    corpus = registration.corpora[name]
    names = [corpus.file.replace("{axis}", axis) for axis in registration.axes]
    return {file: canonical.digest_file(folder / file) for file in sorted(set(names))}


def atlas_inputs(registration: Registration, folder: Path, root: Path) -> dict[str, Any]:
    """Return what a routing atlas is of: settings, and the digests of models and corpus."""
    if registration.atlas is None:
        raise Invalid(Problem("atlas", "is not registered", "say on which corpus routing is recorded"))
    corpus = registration.atlas.corpus
    return {
        "settings": expand(registration)["atlas"],
        "axes": list(registration.axes),
        "models": {
            name: {
                "dtype": model.dtype,
                "experts_implementation": model.experts_implementation,
                "files": pin_model(find_source(model.source, folder, root)),
            }
            for name, model in registration.models.items()
        },
        "corpus": pin_corpus(registration, corpus, find_source(registration.corpora[corpus].source, folder, root)),
    }


def read_items(path: Path, skip: int, count: int) -> list[dict[str, Any]]:
    """Return ``count`` items of a corpus file behind the first ``skip``, each with a text ``id``.

    Raises:
        NotCheckable: the file cannot be read.
        Invalid: a line is no JSON object with an id, an id repeats, or there are too few.
    """
    items: list[dict[str, Any]] = []
    file = "/".join(path.parts[-2:])  # files of several corpora have one name
    seen: set[str] = set()
    for number, line in enumerate(islice(_lines(path), skip + count), start=1):
        try:
            item = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise Invalid(Problem(f"{file}:{number}", "is not JSON", "write one object a line")) from error
        name = item.get("id") if isinstance(item, dict) else None
        if not isinstance(name, str) or not name or name in seen:
            raise Invalid(Problem(f"{file}:{number}", f"has the id {name!r}", "every item needs its own text id"))
        seen.add(name)
        if number > skip:
            items.append(item)
    if len(items) < count:
        raise Invalid(Problem(file, f"has {len(items)} items behind the first {skip}", f"{count} are registered"))
    return items


def _lines(path: Path) -> Iterator[str]:
    """Yield the lines of a corpus that are not blank, however long the file is."""
    try:
        with path.open("rb") as file:
            while line := file.readline(_MAX_LINE):
                if text := line.decode("utf-8", "replace").strip():
                    yield text
    except OSError as error:
        raise NotCheckable(Problem(str(path), f"cannot be read ({error.strerror})")) from error


def _other_name(registration: Registration, folder: str) -> list[Problem]:
    if registration.id == folder:
        return []
    return [Problem("id", f"is {registration.id!r} in the folder {folder!r}", "give both the same name")]


def _lacking(registration: Registration, folder: Path, root: Path) -> tuple[list[Problem], list[Problem]]:
    """Return (what is wrong with the items that are here, what is not here), before any routing is recorded."""
    absent = [
        Problem(where, f"{source} is not here", "get it before freezing")
        for where, source in _sources(registration)
        if not find_source(source, folder, root).exists()
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
                    _cluster(measure, item)
        except (Invalid, NotCheckable) as error:
            wrong += error.problems
    return list(dict.fromkeys(wrong)), list(dict.fromkeys(absent))


def _document(path: Path) -> Path:
    return path / "registration.yaml" if path.is_dir() else path


def _sources(registration: Registration) -> list[tuple[str, str]]:
    return [
        *((f"models.{name}.source", model.source) for name, model in registration.models.items()),
        *((f"corpora.{name}.source", corpus.source) for name, corpus in registration.corpora.items()),
        *((f"measures.{name}.tasks", measure.tasks) for name, measure in registration.measures.items()),
    ]


def _pins(registration: Registration, folder: Path, root: Path) -> dict[str, Any]:
    def at(source: str) -> Path:
        return find_source(source, folder, root)

    return {
        "models": {name: pin_model(at(model.source)) for name, model in registration.models.items()},
        "corpora": {name: pin_corpus(registration, name, at(c.source)) for name, c in registration.corpora.items()},
        "tasks": {source: pin_folder(at(source)) for source in _tasks(registration)},
    }


def _tasks(registration: Registration) -> list[str]:
    return sorted({measure.tasks for measure in registration.measures.values()})


def list_items(registration: Registration, folder: Path, root: Path) -> dict[str, Any]:
    """Return the ids of the items every measure scores, and their clusters, as a frozen document lists them.

    Raises:
        NotCheckable: a corpus file cannot be read.
        Invalid: a corpus does not hold the registered items.
    """
    items: dict[str, dict[str, list[str]]] = {}
    clusters: dict[str, dict[str, list[str]] | None] = {}
    for name, measure in registration.measures.items():
        found = {axis: _measured(registration, measure, axis, folder, root) for axis in registration.axes}
        items[name] = {axis: [item["id"] for item in axis_items] for axis, axis_items in found.items()}
        clusters[name] = None
        if measure.unit == "cluster":
            clusters[name] = {
                axis: [_cluster(measure, item) for item in axis_items] for axis, axis_items in found.items()
            }
    return {"items": items, "clusters": clusters}


def _measured(
    registration: Registration, measure: TaskMeasure, axis: str, folder: Path, root: Path
) -> list[dict[str, Any]]:
    corpus = registration.corpora[measure.corpus]
    path = find_source(corpus.source, folder, root) / corpus.file.replace("{axis}", axis)
    return read_items(path, measure.skip, measure.items)


def _cluster(measure: TaskMeasure, item: Mapping[str, Any]) -> str:
    value = item.get(measure.cluster or "")
    if not isinstance(value, str) or not value:
        raise Invalid(Problem(item["id"], f"has no text field {measure.cluster!r}", "every item names its cluster"))
    return value


def _atlas(
    registry: Registry, registration: Registration, seals: tuple[ledger.Seal, ...]
) -> tuple[dict[str, RoutingAtlas], str | None]:
    """Return model -> atlas and the atlas file's digest, having checked that it is of the registered bytes."""
    if registration.atlas is None:
        return {}, None
    path = registry.registration(registration.id) / "atlas.json"
    if not path.exists():
        raise Invalid(Problem("atlas", "is not made yet", f"run `prereg-moe atlas {registration.id}` first"))
    digest = canonical.digest_file(path)
    if ledger.sealed_files(seals, registration.id).get(registry.name(path)) != digest:
        raise Tampered(Problem(registry.name(path), "is not the file that was sealed", "make the atlas again"))
    inputs, atlases = read_atlases(path)
    if inputs != atlas_inputs(registration, path.parent, registry.root):
        raise Invalid(Problem("atlas", "was made of other weights, items or settings", "make the atlas again"))
    if absent := set(registration.models) - set(atlases):
        raise Tampered(Problem("atlas", f"holds no routing of {', '.join(sorted(absent))}", "make the atlas again"))
    return atlases, digest


def read_atlases(path: Path) -> tuple[Any, dict[str, RoutingAtlas]]:
    """Return what an atlas file says it is of, and the atlas of each model.

    Raises:
        NotCheckable: it cannot be read.
        Tampered: it is no atlas file.
    """
    document = canonical.read(path)
    with shaped(path.name):
        tables = document["models"].items()
        return document["inputs"], {
            name: RoutingAtlas.from_json(table, f"{path.name}, {name}") for name, table in tables
        }


def unmet_demands(registry: Registry, registration: Registration) -> list[Problem]:
    """Return the registered demands that the diagnosis beside a registration does not show to be met.

    Raises:
        NotCheckable: the diagnosis cannot be read.
        Tampered: it is not canonical JSON.
    """
    if registration.diagnosis is None:
        return []
    document = canonical.read(registry.registration(registration.id) / "diagnosis.json")
    with shaped("diagnosis.json"):
        return demand.unmet(registration.diagnosis, document)


def _diagnosis(registry: Registry, registration: Registration, seals: tuple[ledger.Seal, ...]) -> str | None:
    """Return the digest of the sealed diagnosis, which is of this document and meets what it demands; or None."""
    path = registry.registration(registration.id) / "diagnosis.json"
    sealed = ledger.sealed_files(seals, registration.id).get(registry.name(path))
    again = f"run `prereg-moe diagnose {registration.id}`"
    if not path.exists():
        if registration.diagnosis is None and sealed is None:
            return None
        raise Invalid(Problem("diagnosis", "is not made yet" if sealed is None else "is sealed and missing", again))
    digest = canonical.digest_file(path)
    if sealed != digest:
        raise Tampered(Problem(registry.name(path), "is not the file that was sealed", again))
    document = canonical.read(path)
    if not isinstance(document, dict) or document.get("schema") != demand.SCHEMA:
        raise Invalid(Problem(registry.name(path), "is no diagnosis", again))
    if document.get("registration") != canonical.digest(expand(registration)):
        raise Invalid(Problem("diagnosis", "is of another registration.yaml than the one here", again))
    if registration.diagnosis is not None:
        with shaped(registry.name(path)):
            problems = demand.incomplete(registration.diagnosis, document)
            if registration.diagnosis.on_failure == "refuse":
                problems += demand.unmet(registration.diagnosis, document)
        if problems:
            raise Invalid(problems)
    return digest


def _count(registration: Registration) -> tuple[int, int, int]:
    """Return (claims, conditions, item scores); the last two at most: sets matched by size are shared."""
    names = family_names(registration)

    def families(claims: Claims) -> tuple[str, ...]:
        return tuple(names) if claims.families == "all" else claims.families

    cells: dict[tuple[object, ...], int] = {}  # (model, measure, what is masked) -> conditions
    for varied, claims in blocks(registration):
        where, gates = (claims.model, claims.measure), varied.intervention.gates
        cells[*where, None] = 1
        null = varied.controls.null if needs_null(varied, claims) else None
        for family in families(claims):
            cells[*where, gates, family] = 1
            if null is not None:
                cells[*where, gates, null.match, family if null.match == "mass" else names[family][1]] = null.draws
    scores = sum(n * registration.measures[str(m)].items * len(registration.axes) for (_, m, *_), n in cells.items())
    return sum(len(families(claims)) for claims in registration.claims), sum(cells.values()), scores


def _chosen_by_routing(registration: Registration, claims: Claims) -> bool:
    names = family_names(registration)
    chosen = names if claims.families == "all" else claims.families
    return any(registration.families[names[name][1]].build.kind == "top_lift" for name in chosen)


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
                    "prefer kind: modular",
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
