"""A registration is held against the files at hand: what it names and they have not is refused before it is frozen."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from world import AXES, EXPERTS, ID, LAYERS, SIZE, TOP_K, World

from prereg_moe.atlas import Layout, configured
from prereg_moe.taskfiles import DEFAULT_METRICS, metrics, read_tasks

Cli = Callable[..., Any]
CONFIG = {"num_hidden_layers": 1 + max(LAYERS), "num_experts": EXPERTS}


def edited(world: World, change: Callable[[dict[str, Any]], Any]) -> None:
    path = world.folder / "registration.yaml"
    document = yaml.safe_load(path.read_text("utf-8"))
    change(document)
    path.write_text(yaml.safe_dump(document, sort_keys=False, allow_unicode=True), "utf-8")


def refused(world: World, run_cli: Cli) -> list[str]:
    """Return the problems that `check` and `freeze` both report, having checked that nothing was frozen."""
    said = [run_cli(verb, ID, "--root", world.root) for verb in ("check", "freeze")]
    assert [one.code for one in said] == [2, 2], said
    assert said[0].lines == said[1].lines
    assert not (world.folder / "frozen.json").exists()
    return [line.removeprefix("error: ") for line in said[0].lines]


# ------------------------------------------------------------------ tasks and metrics


def test_a_task_that_is_not_there_is_told_its_neighbour(world_at: Callable[[str], World], run_cli: Cli) -> None:
    world = world_at("recorded")
    edited(world, lambda document: document["measures"]["nll"].update(task="world_nl_{axis}"))
    have = ", ".join(sorted(f"world_nll_{axis}" for axis in AXES))
    assert refused(world, run_cli) == [
        f"measures.nll.task: 'world_nl_{axis}' is not a task of ./tasks; it has {have}; "
        f"did you mean 'world_nll_{axis}'?"
        for axis in sorted(AXES)
    ]


def test_a_metric_that_is_not_there_is_told_what_there_are(world_at: Callable[[str], World], run_cli: Cli) -> None:
    world = world_at("recorded")
    edited(world, lambda document: document["measures"]["nll"].update(metric="nl"))
    first = min(AXES)
    assert refused(world, run_cli) == [
        f"measures.nll.metric: 'nl' is not a metric of world_nll_{first}; it lists acc, nll; did you mean 'nll'?"
    ]


def test_the_embedded_tasks_are_read_through_what_they_include(tmp_path: Path, run_cli: Cli) -> None:
    testbed = Path(__file__).parents[1] / "registrations/testbed/registration.yaml"
    text = testbed.read_text("utf-8")
    measures = text.count("metric: nll")
    assert measures, "it is to be misspelt"
    (tmp_path / "registration.yaml").write_text(text.replace("metric: nll", "metric: nlll"), "utf-8")
    said = run_cli("check", tmp_path)
    assert (said.code, len(said.lines)) == (2, measures), said.err
    assert "it lists nll; did you mean 'nll'?" in said.err


TASKS: dict[str, tuple[str, tuple[str, ...] | None]] = {
    "what is listed": ("metric_list: [{metric: acc}, {metric: acc_norm}]", ("acc", "acc_norm")),
    "nothing is listed: lm-eval's own": ("output_type: multiple_choice", DEFAULT_METRICS["multiple_choice"]),
    "nothing is said: text is generated": ("doc_to_text: x", DEFAULT_METRICS["generate_until"]),
    "what its code reports, listed": ("process_results: !function a.b\nmetric_list: [{metric: mine}]", ("mine",)),
    "what its code reports, not listed": ("process_results: !function a.b", None),
    "a base's code taken back": ("process_results: null\noutput_type: loglikelihood", DEFAULT_METRICS["loglikelihood"]),
    "a task in Python": ("class: !function a.B", None),
    "a metric in Python": ("metric_list: [{metric: !function a.b}]", None),
    "a metric that reports several": ("metric_list: [{metric: rouge, hf_evaluate: true}]", None),
    "a list that is none": ("metric_list: acc", None),
    "another output type": ("output_type: dance", None),
}


@pytest.mark.parametrize(("text", "expected"), TASKS.values(), ids=TASKS)
def test_what_a_task_reports(text: str, expected: tuple[str, ...] | None, tmp_path: Path) -> None:
    (tmp_path / "one.yaml").write_text(f"task: one\n{text}\n", "utf-8")
    assert metrics(read_tasks(tmp_path)["one"]) == expected


def test_files_that_are_no_tasks_are_passed_over(tmp_path: Path) -> None:
    for name, text in {
        "torn": "task: [",
        "list": "- task: a",
        "group": "group: g\ntask: [a, b]",
        "loop": "include: loop.yaml\ntask: c",
    }.items():
        (tmp_path / f"{name}.yaml").write_text(text, "utf-8")
    assert set(read_tasks(tmp_path)) == {"c"}


# ------------------------------------------------------------------ experts


def explicit(cells: dict[str, list[int]]) -> Callable[[dict[str, Any]], Any]:
    return lambda document: document["families"][0].update(build={"kind": "explicit", "cells": cells})


def sized(size: int, unit: str = "per_layer", **exclude: Any) -> Callable[[dict[str, Any]], Any]:
    build = {"kind": "top_lift", "size": size, "unit": unit, "exclude": exclude or {"kind": "none"}}
    return lambda document: document["families"][0].update(build=build)


TOO_MUCH: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "more experts a layer than there are": (sized(EXPERTS + 1), f"size: is {EXPERTS + 1}, and "),
    "more than all layers have": (
        sized(EXPERTS * (1 + max(LAYERS)) + 1, "cells"),
        "experts in each of ",
    ),
    "more than are left": (sized(9, kind="ids", ids=[0, 1, 2, 3, 99]), f"register at most {EXPERTS - 4}"),
    "a layer that is not there": (explicit({"7": [0, 1]}), "layer 7: is not an MoE layer"),
    "an expert that is not there": (
        explicit({"1": [0, EXPERTS]}),
        f"experts [{EXPERTS}] do not exist; experts are 0 to {EXPERTS - 1}",
    ),
}


@pytest.mark.parametrize("told_by", ["atlas.json", "config.json"])
@pytest.mark.parametrize(("change", "expected"), TOO_MUCH.values(), ids=TOO_MUCH)
def test_what_no_model_could_hold_is_refused(
    change: Callable[[dict[str, Any]], Any],
    expected: str,
    told_by: str,
    world_at: Callable[[str], World],
    run_cli: Cli,
) -> None:
    world = world_at("recorded" if told_by == "atlas.json" else "authored")
    if told_by == "config.json":
        (world.folder / "models/standard/config.json").write_text(json.dumps(CONFIG))
    edited(world, change)
    problems = refused(world, run_cli)
    assert expected in problems[0]
    assert "standard" in problems[0]
    models = 1 if told_by == "config.json" else 3
    assert len(problems) == models, problems


def test_what_the_model_holds_is_not_refused(world_at: Callable[[str], World], run_cli: Cli) -> None:
    world = world_at("recorded")
    for change in (sized(SIZE), sized(EXPERTS - TOP_K), sized(EXPERTS, "cells"), explicit({"1": [0, EXPERTS - 1]})):
        edited(world, change)
        assert run_cli("check", ID, "--root", world.root).code == 0


def test_a_size_that_starves_a_router_is_refused_where_the_routing_is_changed(
    world_at: Callable[[str], World], run_cli: Cli
) -> None:
    world = world_at("recorded")
    edited(world, sized(EXPERTS - TOP_K + 1))
    for model, problem in zip(("planted", "randomised", "standard"), sorted(refused(world, run_cli)), strict=True):
        assert f"size: masks {EXPERTS - TOP_K + 1} of {EXPERTS} experts of each layer of {model}" in problem
        assert f"the router needs {TOP_K} left" in problem
    edited(world, lambda made: made.update(intervention={"kind": "zero"}))
    assert run_cli("check", ID, "--root", world.root).code == 0


def test_where_nothing_tells_nothing_is_refused(authored: World, run_cli: Cli) -> None:
    edited(authored, sized(10_000))
    assert run_cli("check", ID, "--root", authored.root).code == 0


CONFIGS: dict[str, tuple[str, Layout | None]] = {
    "plain": (json.dumps(CONFIG), Layout((0, 1, 2), EXPERTS, 0)),
    "beside a tower of another kind": (json.dumps({"text_config": CONFIG}), Layout((0, 1, 2), EXPERTS, 0)),
    "dense": (json.dumps({"num_hidden_layers": 4}), None),
    "numbers as text": (json.dumps(CONFIG | {"num_experts": "8"}), None),
    "a truth for a number": (json.dumps(CONFIG | {"num_experts": True}), None),
    "absurd": (json.dumps(CONFIG | {"num_hidden_layers": 10**12}), None),
    "no object": ("[1]", None),
    "no JSON": ("{", None),
    "deep": ("[" * 100_000, None),
}


@pytest.mark.parametrize(("text", "expected"), CONFIGS.values(), ids=CONFIGS)
def test_what_a_configuration_says_of_experts(text: str, expected: Layout | None, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text, "utf-8")
    assert configured(tmp_path) == expected


def test_a_model_that_is_not_here_says_nothing(tmp_path: Path) -> None:
    assert configured(tmp_path / "none") is None
