"""Make the testbed again: ``python -m prereg_moe.lab.testbed.build [corpora|models|table|describe|all] [--work DIR]``.

``corpora``  downloads the pinned wheels into ``DIR/wheels``, writes ``corpora/`` and ``tasks/``
             here, and the training text, which is not shipped, into ``DIR``
``models``   trains the tokenizer and the checkpoints on one thread and writes ``models/``
``table``    measures the ablation table of the shipped checkpoints again
``describe`` prints the tables of ``docs/testbed.md`` from the manifests

Corpora repeat byte for byte with the Python version in their manifest. Checkpoints repeat bit for
bit on one machine, and elsewhere only statistically; the shipped ones are known by their digests.
"""

from __future__ import annotations

import json
import platform
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click

from prereg_moe.canonical import digest_file
from prereg_moe.errors import NotCheckable, PreregError, Problem
from prereg_moe.lab.testbed import AXES, CHECKPOINTS, CORPORA, CORPUS_NAMES, MODELS, TASKS, corpus_file, task_name
from prereg_moe.lab.testbed.extract import extract
from prereg_moe.lab.testbed.sources import Wheel, fetch

__all__ = ["build_corpora", "build_models", "describe", "main", "measure"]

_STATEMENT = (
    "Mostly short interface messages of open-source software, joined into passages in an arbitrary order, not "
    "prose; code is Python functions without comments; math is doctest formulas and, in train and A, generated "
    "arithmetic. No source of corpus B was used for training or for corpus A."
)
_DRAWS = 39
_MEASURED = 60  # passages of each axis of B in the ablation table
_SEED = 1

Say = Callable[[str], None]


def build_corpora(work: Path, say: Say) -> None:
    """Write corpora, licences, manifest and tasks into the package, and ``train.json`` into ``work``."""
    say("fetching the sources")
    wheels = fetch(work / "wheels")
    say("extracting passages")
    corpora = extract(wheels)
    shutil.rmtree(CORPORA, ignore_errors=True)
    files = {}
    for corpus in CORPUS_NAMES:
        for axis in AXES:
            path = corpus_file(corpus, axis)
            _write_passages(path, corpus, axis, corpora[corpus][axis])
            files[f"{corpus}/{axis}.jsonl"] = {"sha256": digest_file(path), "passages": len(corpora[corpus][axis])}
            _write_task(axis, corpus)
    _write_json(work / "train.json", corpora["train"])
    training = {
        "sha256": digest_file(work / "train.json"),
        "passages": {axis: len(corpora["train"][axis]) for axis in AXES},
    }
    _write_json(CORPORA / "manifest.json", _corpora_manifest(wheels) | {"training_text": training, "files": files})


def _write_passages(path: Path, corpus: str, axis: str, passages: Sequence[str]) -> None:
    lines = [
        json.dumps({"id": f"{corpus}-{axis}-{number:04d}", "text": text}, ensure_ascii=False)
        for number, text in enumerate(passages)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _write_task(axis: str, corpus: str) -> None:
    name = task_name(axis, corpus)
    text = f"include: _base.yaml\ntask: {name}\ndataset_kwargs:\n  file: ../corpora/{corpus}/{axis}.jsonl\n"
    (TASKS / f"{name}.yaml").write_text(text, encoding="utf-8")


def _corpora_manifest(wheels: Sequence[Wheel]) -> dict[str, Any]:
    return {
        "statement": _STATEMENT,
        "python": platform.python_version(),
        "sources": [
            asdict(wheel.source)
            | {"file": wheel.path.name, "sha256": digest_file(wheel.path), "licence_files": _copy_licences(wheel)}
            for wheel in wheels
        ],
        "generated": "part of math in train and A: seeded arithmetic written by extract.py, Apache-2.0",
    }


def _copy_licences(wheel: Wheel) -> list[str]:
    folder = CORPORA / "licences"
    folder.mkdir(exist_ok=True)
    names = []
    for name, text in wheel.licences().items():
        names.append(f"licences/{wheel.source.package}.{name.removesuffix('.txt').removesuffix('.md')}.txt")
        (CORPORA / names[-1]).write_bytes(text)
    return names


def build_models(work: Path, say: Say, names: Sequence[str] = CHECKPOINTS) -> None:
    """Train the named checkpoints on ``train.json`` in ``work`` and write them, one folder each.

    Raises:
        NotCheckable: ``work`` has no training text.
    """
    import torch

    from prereg_moe.lab.testbed.train import RECIPES, train_model, train_tokenizer

    torch.set_num_threads(1)
    path = work / "train.json"
    if not path.exists():
        raise NotCheckable(Problem(str(path), "is missing", "build the corpora first, with the same --work"))
    texts = json.loads(path.read_text(encoding="utf-8"))
    say("training the tokenizer")
    tokenizer = train_tokenizer(texts)
    for recipe in RECIPES:
        if recipe.name in names:
            model = train_model(recipe, tokenizer, texts, report=_reporter(recipe.name, recipe.steps, say))
            folder = MODELS / recipe.name
            shutil.rmtree(folder, ignore_errors=True)
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            for file in folder.iterdir():
                file.chmod(0o644)  # safetensors writes files only their owner can read


def _reporter(name: str, steps: int, say: Say) -> Callable[[int, float], None]:
    def report(step: int, nats: float) -> None:
        if step % 100 == 0 or step == steps - 1:
            say(f"{name}: step {step} of {steps}, {nats:.3f} nats a token")

    return report


def measure(say: Say) -> None:
    """Measure every shipped checkpoint on the shipped corpora and write ``models/manifest.json``."""
    import torch

    from prereg_moe.lab.testbed.ablate import Subject, ablation_table
    from prereg_moe.lab.testbed.train import RECIPES

    torch.set_num_threads(1)
    corpus_a = {axis: _passages("A", axis) for axis in AXES}
    corpus_b = {axis: _passages("B", axis)[:_MEASURED] for axis in AXES}
    checkpoints = {}
    for recipe in RECIPES:
        say(f"measuring {recipe.name}")
        folder = MODELS / recipe.name
        subject = Subject.load(folder)
        checkpoints[recipe.name] = {
            "files": {path.name: digest_file(path) for path in sorted(folder.iterdir())},
            "recipe": asdict(recipe),
            "parameters": sum(parameter.numel() for parameter in subject.model.parameters()),
            "ablation_on_B": ablation_table(subject, corpus_a, corpus_b, draws=_DRAWS, seed=_SEED),
        }
    libraries = {name: version(name) for name in ("torch", "transformers", "tokenizers", "numpy")}
    manifest = {"versions": libraries, "threads": 1, "passages_measured": _MEASURED, "checkpoints": checkpoints}
    _write_json(MODELS / "manifest.json", manifest)


def describe() -> str:
    """Return the manifests as Markdown: the sources, then what each checkpoint's families do."""
    sources = json.loads((CORPORA / "manifest.json").read_text(encoding="utf-8"))["sources"]
    lines = ["| source | version | licence | used for | what |", "|---|---|---|---|---|"]
    for source in sources:
        cells = (source["package"], source["version"], source["licence"], source["use"], ", ".join(source["kind"]))
        lines.append(f"| {' | '.join(cells)} |")
    checkpoints = json.loads((MODELS / "manifest.json").read_text(encoding="utf-8"))["checkpoints"]
    for name, entry in checkpoints.items():
        lines += [
            "",
            f"**{name}**",
            "",
            "| axis | nats a token | own share | on | worst off | random, mean | random, max |",
        ]
        lines.append("|---|---|---|---|---|---|---|")
        for axis, row in entry["ablation_on_B"]["axes"].items():
            figures = (row[key] for key in ("baseline", "own_share", "on", "worst_off", "null_mean", "null_max"))
            lines.append(f"| {axis} | {' | '.join(f'{value:.3f}' for value in figures)} |")
    return "\n".join(lines)


def _passages(corpus: str, axis: str) -> list[str]:
    with corpus_file(corpus, axis).open(encoding="utf-8") as lines:
        return [json.loads(line)["text"] for line in lines]


def _write_json(path: Path, document: Any) -> None:
    path.write_text(json.dumps(document, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


@click.command()
@click.argument("stage", type=click.Choice(["corpora", "models", "table", "describe", "all"]), default="all")
@click.option(
    "--work", type=click.Path(path_type=Path), default=Path("testbed-work"), help="Folder for what is not shipped."
)
@click.option("--only", type=click.Choice(CHECKPOINTS), multiple=True, help="Train only these checkpoints.")
def main(stage: str, work: Path, only: tuple[str, ...]) -> None:
    """Build the testbed's corpora, its models, or both (about half an hour of one core)."""
    try:
        if stage in ("corpora", "all"):
            build_corpora(work, click.echo)
        if stage in ("models", "all"):
            build_models(work, click.echo, only or CHECKPOINTS)
        if stage in ("table", "models", "all"):
            measure(click.echo)
        if stage == "describe":
            click.echo(describe())
    except PreregError as error:
        click.echo(str(error), err=True)
        raise SystemExit(error.exit_code) from error


if __name__ == "__main__":
    main()
