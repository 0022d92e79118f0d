"""A run that is only planned: what it would feed, and everything that would stop it, before anything is written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from prereg_moe import canonical
from tests.endtoend.studies import command, copy_until_frozen
from tests.endtoend.test_own_model import build_study

MEASURES = """\
  long: {kind: task, tasks: ./tasks, task: "long_{axis}", metric: acc, per: item, harm: decrease, corpus: mine,
         items: 5}
  empty: {kind: task, tasks: ./tasks, task: "empty_{axis}", metric: nll, per: token, harm: increase, corpus: mine,
          items: 5}
  same: {kind: task, tasks: ./tasks, task: "same_{axis}", metric: acc, per: item, harm: decrease, corpus: mine,
         items: 5}
"""
CHOICE = """\
include: _base.yaml
task: {name}_{axis}
dataset_kwargs: {{file: ../corpus/{axis}.jsonl}}
output_type: multiple_choice
doc_to_text: "{text}"
doc_to_choice: [one, two]
doc_to_target: 0
process_results: null
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
"""
EMPTY = """\
include: _base.yaml
task: empty_{axis}
dataset_kwargs: {{file: ../corpus/{axis}.jsonl}}
doc_to_target: ""
"""
REGISTRATION = """\
schema: prereg-moe/1
id: own
title: Everything wrong that a plan can show
question: Is it said before anything is computed?
authors: [tests]
foreknowledge: The weights are random.
models: {subject: {source: ./model}}
corpora: {mine: {source: ./corpus}}
axes: {no: {domain: language}, en: {domain: language}}
measures:
MEASURES
atlas: {corpus: mine, items: 4}
families:
  - {axes: all, build: {kind: explicit, cells: {"1": [0, 1, 2, 3, 4, 5, 6, 7]}}}
intervention: {kind: mask, gates: original}
rules: {selective: {kind: selective, kappa: 3, minimum_effect: 0.05}}
claims:
CLAIMS
inference: {alpha: 0.05, seed: "1"}
"""
CLAIM = (
    "  - {id: NAME, hypothesis: H, tier: exploratory, model: subject, families: all, measure: NAME, off: all,"
    " rule: selective}\n"
)


def test_a_plan_says_what_it_would_feed_and_writes_nothing(tiny: Path, tmp_path: Path) -> None:
    copy_until_frozen(tiny, tmp_path, "tiny")
    shutil.copytree(tiny / "reports/tiny/evidence", tmp_path / "reports/tiny/evidence")
    files = sorted((tmp_path / "reports/tiny/evidence").iterdir())
    gone = [canonical.read(path) for path in files[::4]]
    for path in files[::4]:
        path.unlink()
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    done = command("run", "tiny", "--root", tmp_path, "--dry-run", "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["missing"] == len(gone)
    assert said["item_scores"] == len(gone) * 3 * 6
    assert said["tokens"] == sum(sum(column["tokens"]) for made in gone for column in made["axes"].values())
    assert 0 < said["seconds"] < 600
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_everything_that_would_stop_a_run_is_said_at_once(tmp_path: Path) -> None:
    folder = build_study(tmp_path, "deepseek_v3", "cells", "original")
    claims = "".join(CLAIM.replace("NAME", name) for name in ("long", "empty", "same"))
    text = REGISTRATION.replace("MEASURES\n", MEASURES).replace("CLAIMS\n", claims)
    (folder / "registration.yaml").write_text(text, "utf-8")
    for axis in ("no", "en"):
        for name, asked in (("long", "{{text * 40}}"), ("same", "what is it?")):
            body = CHOICE.format(name=name, axis=axis, text=asked)
            (folder / f"tasks/{name}_{axis}.yaml").write_text(body, "utf-8")
        (folder / f"tasks/empty_{axis}.yaml").write_text(EMPTY.format(axis=axis), "utf-8")
    for verb in ("atlas", "freeze"):
        done = command(verb, folder)
        assert done.returncode == 0, done.stderr
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    done = command("run", folder, "--dry-run")
    assert done.returncode == 2
    lines = [line.removeprefix("error: ") for line in done.stderr.splitlines()]
    wanted = [
        "subject, long, requests: 20 are longer than 256 tokens; shorten the items",
        *(f"subject, empty, empty_{axis}: 5 items have nothing to score, the first" for axis in ("en", "no")),
        *(f"subject, {name}, {name}_{axis}: asks the same" for name in ("empty", "same") for axis in ("en", "no")),
        *(f"subject, {name}, layer 1 " for name in ("long", "empty", "same")),
    ]
    assert [sum(line.startswith(one) for line in lines) for one in wanted] == [1] * len(wanted), done.stderr
    assert len(lines) == len(wanted)
    assert all("groups keep [0, 0, 4, 4] selectable experts" in line for line in lines if "layer 1 " in line)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    kept = text.replace("[0, 1, 2, 3, 4, 5, 6, 7]", "[8, 9, 10, 11, 12, 13, 14, 15]").replace("mask", "keep_only")
    kept = kept.replace("{kind: selective, kappa: 3, minimum_effect: 0.05}", "{kind: noninferiority, margin: 1}")
    (tmp_path / "kept.yaml").write_text(kept, "utf-8")
    done = command("amend", folder, tmp_path / "kept.yaml", "--reason", "the same experts, said the other way round")
    assert done.returncode == 0, done.stderr
    done = command("run", folder, "--dry-run")
    assert done.returncode == 2
    assert [line.removeprefix("error: ") for line in done.stderr.splitlines()] == lines
