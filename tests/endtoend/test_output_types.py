"""Own tasks of every output type, written as a user would, run unchanged under interventions."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.endtoend.studies import TESTBED, command, write_registration

BASE = """\
custom_dataset: !function own.load
dataset_kwargs: {{file: ../items/{axis}.jsonl}}
test_split: test
num_fewshot: 0
task: {task}_{axis}
"""
TASKS = {
    "choice": """\
output_type: multiple_choice
doc_to_text: "{{text[:40]}}"
doc_to_choice: "{{[text[40:52], 'xyzzy', 'qq qq', '7 7 7']}}"
doc_to_target: 0
target_delimiter: ""
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
""",
    "solution": """\
output_type: loglikelihood
doc_to_text: "{{text[:30]}}"
doc_to_target: "{{text[30:70]}}"
process_results: !function own.nll
metric_list: [{metric: nll, aggregation: mean, higher_is_better: false}]
""",
    "passage": """\
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
process_results: !function own.nll
metric_list: [{metric: nll, aggregation: mean, higher_is_better: false}]
""",
    "writing": """\
output_type: generate_until
doc_to_text: "{{text[:40]}}"
doc_to_target: "{{text[40:60]}}"
generation_kwargs: {until: ["\\n"], do_sample: false, max_gen_toks: 6}
process_results: !function own.letters
metric_list:
  - {metric: letters, aggregation: mean, higher_is_better: true}
  - {metric: nll, aggregation: mean, higher_is_better: false}
""",
}
OWN = """\
import json
import shutil
from pathlib import Path

from datasets import Dataset


def load(file, **metadata):
    with (Path(__file__).parent / file).open(encoding="utf-8") as lines:
        return {"test": Dataset.from_list([json.loads(line) for line in lines])}


def nll(doc, results):
    value = results[0]
    return {"nll": -(value[0] if isinstance(value, (list, tuple)) else value)}


def letters(doc, results):
    return {"nll": 0.0, "letters": float(sum(c.isalpha() and c.isascii() for c in results[0]))}
"""
REGISTRATION = """\
schema: prereg-moe/1
id: types
title: Four kinds of task
question: Does every kind run?
authors: [tests]
foreknowledge: None.
models: {subject: {source: "testbed:models/planted"}}
corpora: {mine: {source: ./items}}
axes: {en: {domain: language}, ar: {domain: language}}
measures:
  choice: {kind: task, tasks: ./tasks, task: "choice_{axis}", metric: acc, per: item, harm: decrease, corpus: mine,
           items: 6}
  solution: {kind: task, tasks: ./tasks, task: "solution_{axis}", metric: nll, per: token, harm: increase,
             corpus: mine, items: 6}
  passage: {kind: task, tasks: ./tasks, task: {en: passage_en, ar: passage_ar}, metric: nll, per: token,
            harm: increase, corpus: mine, items: 6, skip: 2}
  writing: {kind: task, tasks: ./tasks, task: "writing_{axis}", metric: letters, per: item, harm: decrease,
            corpus: mine, items: 6}
atlas: {corpus: mine, items: 8}
families:
  - {axes: all, build: {kind: top_lift, size: 4, unit: per_layer, exclude: {kind: none}}}
intervention: {kind: mask, gates: renorm}
rules: {selective: {kind: selective, kappa: 3, minimum_effect: 0.05}}
claims:
  - {id: choice, hypothesis: H, tier: exploratory, model: subject, families: all, measure: choice, off: all,
     rule: selective}
  - {id: solution, hypothesis: H, tier: exploratory, model: subject, families: all, measure: solution, off: all,
     rule: selective}
  - {id: passage, hypothesis: H, tier: exploratory, model: subject, families: all, measure: passage, off: all,
     rule: selective}
  - {id: writing, hypothesis: H, tier: exploratory, model: subject, families: all, measure: writing, off: all,
     rule: selective}
inference: {alpha: 0.05, seed: "3"}
"""
AXES = ("en", "ar")


def build(root: Path) -> Path:
    folder = write_registration(root, "types", REGISTRATION)
    (folder / "items").mkdir()
    (folder / "tasks").mkdir()
    (folder / "tasks/own.py").write_text(OWN, "utf-8")
    for axis in AXES:
        lines = (TESTBED / f"corpora/B/{axis}.jsonl").read_text("utf-8").splitlines()[:10]
        (folder / f"items/{axis}.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
        for task, body in TASKS.items():
            (folder / f"tasks/{task}_{axis}.yaml").write_text(BASE.format(axis=axis, task=task) + body, "utf-8")
    return folder


@pytest.fixture(scope="module")
def observed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The registry of a study whose atlas is made."""
    root = tmp_path_factory.mktemp("observed")
    done = command("atlas", build(root))
    assert done.returncode == 0, done.stderr
    return root


@pytest.fixture(scope="module")
def study(observed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = shutil.copytree(observed, tmp_path_factory.mktemp("types"), dirs_exist_ok=True)
    for verb in ("check", "freeze", "run", "verdict", "report"):
        done = command(verb, root / "registrations/types")
        assert done.returncode == 0, (verb, done.stderr)
    return root


@pytest.fixture(scope="module")
def evidence(study: Path) -> dict[tuple[str, bool], list[dict[str, Any]]]:
    """Return (measure, is the baseline) -> evidence."""
    found: dict[tuple[str, bool], list[dict[str, Any]]] = {}
    for path in (study / "reports/types/evidence").iterdir():
        made = json.loads(path.read_bytes())
        found.setdefault((made["condition"]["measure"], made["proof"] is None), []).append(made)
    return found


def test_every_kind_is_scored_with_and_without_the_intervention(evidence: dict[tuple[str, bool], list[Any]]) -> None:
    assert {key: len(found) for key, found in evidence.items()} == {
        (measure, baseline): 1 if baseline else 2
        for measure in ("choice", "solution", "passage", "writing")
        for baseline in (True, False)
    }
    for made in (one for found in evidence.values() for one in found):
        assert all(len(column["values"]) == 6 for column in made["axes"].values())
        assert made["proof"] is None or made["proof"]["leaks"] == 0


@pytest.mark.parametrize("measure", ["choice", "solution", "passage", "writing"])
def test_the_intervention_reaches_every_kind(evidence: dict[tuple[str, bool], list[Any]], measure: str) -> None:
    baseline = evidence[measure, True][0]["axes"]
    changed = [
        made["axes"][axis]["responses"] != baseline[axis]["responses"]
        for made in evidence[measure, False]
        for axis in AXES
    ]
    assert any(changed), "masking a planted family changes what the model answers"


def test_text_is_written_and_stored_as_lm_eval_scored_it(evidence: dict[tuple[str, bool], list[Any]]) -> None:
    column = evidence["writing", True][0]["axes"]["en"]
    texts = [responses[0][0] for responses in column["responses"]]
    assert all(isinstance(text, str) for text in texts)
    assert column["values"] == [float(sum(c.isalpha() and c.isascii() for c in text)) for text in texts]
    assert len(set(texts)) > 1


def test_the_study_is_audited_and_every_kind_scored_again(study: Path) -> None:
    assert command("audit", study).returncode == 0
    done = command("rescore", "types", "--root", study)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            "per: item, harm: decrease,\n            corpus",
            "per: token, harm: decrease,\n            corpus",
            "register per: item",
        ),
        ("task: {en: passage_en, ar: passage_ar}", "task: {en: passage_en, ar: writing_ar}", "a measure for each kind"),
        ("task: {en: passage_en, ar: passage_ar}", "task: {en: passage_en}", "one for each axis: ar, en"),
        (
            "task: {en: passage_en, ar: passage_ar}",
            "task: {en: passage_en, ar: passage_xx}",
            "'passage_xx' is not a task of ./tasks; it has choice_ar",
        ),
    ],
    ids=["per token of generated text", "two kinds in a measure", "an axis without a task", "a task that is not there"],
)
def test_what_cannot_be_scored_is_said(observed: Path, tmp_path: Path, old: str, new: str, said: str) -> None:
    assert old in REGISTRATION
    folder = shutil.copytree(observed, tmp_path, dirs_exist_ok=True) / "registrations/types"
    (folder / "registration.yaml").write_text(REGISTRATION.replace(old, new), "utf-8")
    for verb in (["check"], ["freeze"], ["run", "--workers", "1"]):
        done = command(*verb, folder)
        if done.returncode:
            break
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert not (tmp_path / "reports/types/evidence.json").exists()


def test_sampling_is_refused(observed: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(observed, tmp_path, dirs_exist_ok=True) / "registrations/types"
    for axis in AXES:
        path = folder / f"tasks/writing_{axis}.yaml"
        path.write_text(
            path.read_text("utf-8").replace("do_sample: false", "do_sample: true, temperature: 1.0"), "utf-8"
        )
    assert command("freeze", folder).returncode == 0
    done = command("run", folder, "--workers", "1")
    assert done.returncode == 2
    assert "do_sample: false" in done.stderr
