"""The tasks lm-evaluation-harness brings along: scored from the local cache, refused at once where it is empty."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import datasets
import pytest

from prereg_moe import canonical
from prereg_moe.registry import find_source
from prereg_moe.taskfiles import DEFAULT_METRICS, metrics, read_tasks
from tests.endtoend.studies import command, process, write_registration

REGISTRATION = """\
schema: prereg-moe/1
id: arc
title: Two tasks of lm-eval's own
question: Do experts matter to them?
authors: [tests]
foreknowledge: None.
models: {subject: {source: "testbed:models/planted"}}
corpora: {arc: {source: ./items}}
axes: {easy: {domain: capability}, challenge: {domain: capability}}
measures:
  acc: {kind: task, tasks: "lm-eval:arc", task: "arc_{axis}", metric: acc, per: item, harm: decrease, corpus: arc,
        items: 5}
atlas: {corpus: arc, text: question, items: 5}
families:
  - {axes: all, build: {kind: top_lift, size: 4, unit: per_layer, exclude: {kind: none}}}
intervention: {kind: mask, gates: renorm}
rules: {selective: {kind: selective, kappa: 3, minimum_effect: 0.05}}
claims:
  - {id: main, hypothesis: H, tier: exploratory, model: subject, families: all, measure: acc, off: all, rule: selective}
inference: {alpha: 0.05, seed: "3"}
engine: {kind: sweep}
"""
CONFIGURATIONS = {"easy": "ARC-Easy", "challenge": "ARC-Challenge"}


def documents(axis: str) -> list[dict[str, Any]]:
    """Questions as the hub has them; those of one configuration without an id."""
    ends = ["and then it fell", "of the two of them", "in the middle", "which is why"]
    return [
        ({"id": f"Q{number}"} if axis == "easy" else {})
        | {
            "question": f"The {axis} one was number {number}, and what came behind it?",
            "choices": {"text": ends[number % 4 :] + ends[: number % 4], "label": ["A", "B", "C", "D"]},
            "answerKey": "ABCD"[number % 3],
        }
        for number in range(5)
    ]


def fill_cache(home: Path) -> None:
    """Leave in a cache what a download of the data set would have left."""
    for axis, name in CONFIGURATIONS.items():
        source = home / f"{axis}.jsonl"
        source.parent.mkdir(parents=True, exist_ok=True)
        source.write_text("".join(json.dumps(one) + "\n" for one in documents(axis)), "utf-8")
        splits = dict.fromkeys(("train", "validation", "test"), str(source))
        made = datasets.load_dataset_builder("json", name, data_files=splits, cache_dir=str(home / "made"))
        made.download_and_prepare()
        kept = shutil.copytree(made.cache_dir, home / f"datasets/allenai___ai2_arc/{name}/0.0.0/{'0' * 40}")
        for file in kept.glob("json-*"):
            file.rename(file.with_name(file.name.replace("json", "ai2_arc")))


def author(root: Path) -> None:
    folder = write_registration(root, "arc", REGISTRATION) / "items"
    folder.mkdir()
    for axis in CONFIGURATIONS:
        items = [{"id": f"{number}"} | document for number, document in enumerate(documents(axis))]
        (folder / f"{axis}.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items), "utf-8")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A study that was run from a cache, and the variable that says where the cache lies."""
    root = tmp_path_factory.mktemp("arc")
    cache = {"HF_HOME": str(root / "cache")}
    fill_cache(root / "cache")
    author(root)
    for verb in ("atlas", "freeze", "run"):
        done = command(verb, "arc", "--root", root, **cache)
        assert done.returncode == 0, (verb, done.stderr)
    return root, cache


def test_a_task_by_its_name_is_scored_from_the_local_cache(study: tuple[Path, dict[str, str]]) -> None:
    root, cache = study
    files = [canonical.read(path) for path in (root / "reports/arc/evidence").iterdir()]
    assert len(files) == 3
    for made in files:
        assert {axis: len(column["values"]) for axis, column in made["axes"].items()} == {"easy": 5, "challenge": 5}
        assert all(len(one) == 4 for column in made["axes"].values() for one in column["responses"])
        assert {value for column in made["axes"].values() for value in column["values"]} <= {0.0, 1.0}
    pins = canonical.read(root / "registrations/arc/frozen.json")["pins"]["tasks"]["lm-eval:arc"]
    assert {"arc_easy.yaml", "arc_challenge.yaml"} <= pins.keys()
    done = command("rescore", "arc", "--root", root, **cache)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("arguments", [["run"], ["run", "--dry-run"], ["rescore"]], ids=" ".join)
def test_without_the_data_set_one_line_says_so_at_once(
    study: tuple[Path, dict[str, str]], tmp_path: Path, arguments: list[str]
) -> None:
    root = shutil.copytree(study[0], tmp_path / "copy", ignore=shutil.ignore_patterns("cache"))
    if arguments[0] == "run":
        shutil.rmtree(root / "reports/arc/evidence")
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    start = time.monotonic()
    done = process(*arguments, "arc", "--root", root, HF_HOME=str(tmp_path / "empty"))
    assert time.monotonic() - start < 5
    assert done.returncode == 4
    (line,) = done.stderr.splitlines()
    told = (
        "measures.acc.task: reads allenai/ai2_arc, ARC-Challenge, ARC-Easy of the hub, which is not in the local cache"
    )
    assert told in line
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before
    assert not (tmp_path / "empty").exists()


def test_what_is_said_of_its_metrics_without_it_is_what_it_says() -> None:
    from lm_eval.api.registry import DEFAULT_METRIC_REGISTRY

    assert {kind: tuple(names) for kind, names in DEFAULT_METRIC_REGISTRY.items()} == DEFAULT_METRICS


def test_its_own_tasks_are_read_as_it_reads_them() -> None:
    from lm_eval.tasks import TaskManager

    folder = find_source("lm-eval:arc", Path(), Path())
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    assert set(read_tasks(folder)) == set(manager.all_subtasks)
    assert metrics(read_tasks(folder)["arc_easy"]) == ("acc", "acc_norm")
