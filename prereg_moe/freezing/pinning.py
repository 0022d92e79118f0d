"""Pins: the digests of the files a study names, taken at the freeze and compared ever after."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from prereg_moe import canonical, templating
from prereg_moe.errors import Invalid, NotCheckable, Problem
from prereg_moe.frozen import Frozen
from prereg_moe.registration import Registration, expand
from prereg_moe.registry import Registry, find_source, read_bytes

__all__ = ["atlas_inputs", "compare_pins", "pin_corpus", "pin_folder", "pin_model", "pins_of", "read_templates"]

_MODEL_SUFFIXES = frozenset({".json", ".safetensors", ".txt", ".model", ".jinja"})


def pins_of(registration: Registration, folder: Path, root: Path) -> dict[str, Any]:
    """Return the digests of every model, corpus and task a registration names.

    Raises:
        NotCheckable: a file it names is not there.
    """

    def at(source: str) -> Path:
        return find_source(source, folder, root)

    return {
        "models": {name: pin_model(at(model.source)) for name, model in registration.models.items()},
        "corpora": {name: pin_corpus(registration, name, at(c.source)) for name, c in registration.corpora.items()},
        "tasks": {source: pin_folder(at(source)) for source in _tasks(registration)},
    }


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


def _tasks(registration: Registration) -> list[str]:
    return sorted({measure.tasks for measure in registration.measures.values()})
