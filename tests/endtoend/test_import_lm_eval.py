"""Runs of the stock `lm_eval` command on a saved model and on a copy with experts zeroed, taken in and judged."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file, save_file

from prereg_moe import canonical, importing, lab
from prereg_moe.auditing import audit
from prereg_moe.errors import Deviated, Invalid, NotCheckable, PreregError, Tampered
from prereg_moe.importing import schema
from prereg_moe.importing.samples import read_samples
from prereg_moe.registry import Registry

TESTBED = Path(lab.__file__).parent / "testbed"
AXES, ITEMS, ID, TIME = ("ar", "en"), 12, "elsewhere", "2026-01-01T00:00:00Z"

Edit = Callable[[dict[str, Any]], Any]


def zeroed(source: Path, target: Path) -> None:
    """Save a copy of a model in which a quarter of the experts of every layer contribute nothing."""
    shutil.copytree(source, target)
    tensors = load_file(target / "model.safetensors")
    for name, value in tensors.items():
        if name.endswith("down_proj.weight") and int(name.split(".experts.")[1].split(".")[0]) % 4 == 0:
            tensors[name] = np.zeros_like(value)
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})


def lm_eval(model: Path, output: Path) -> None:
    """Run the command as its users do."""
    command = [
        *(str(Path(sys.executable).with_name("lm_eval")), "--model", "hf"),
        *("--model_args", f"pretrained={model},dtype=float32", "--device", "cpu", "--batch_size", "4"),
        *("--tasks", ",".join(f"testbed_nll_{axis}_B" for axis in AXES), "--include_path", str(TESTBED / "tasks")),
        *("--limit", str(ITEMS), "--output_path", str(output), "--log_samples"),
    ]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    subprocess.run(command, env=environment, check=True, capture_output=True, timeout=600)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three runs: the model, its ablated copy, and another model."""
    folder = tmp_path_factory.mktemp("lm_eval")
    zeroed(TESTBED / "models" / "standard", folder / "models" / "ablated")
    for name in ("standard", "randomised"):
        shutil.copytree(TESTBED / "models" / name, folder / "models" / name)
    for run, model in (("base", "standard"), ("ablated", "ablated"), ("other", "randomised")):
        lm_eval(folder / "models" / model, folder / "runs" / run)
    return folder


@pytest.fixture
def runs(made: Path, tmp_path: Path) -> Path:
    """A copy of the runs that a test may change."""
    return Path(shutil.copytree(made / "runs", tmp_path / "runs"))


def document(made: Path, ablated: str = "ablated") -> dict[str, Any]:
    return {
        "schema": "prereg-moe/import/1",
        "id": ID,
        "title": "A quarter of the experts, zeroed elsewhere",
        "question": "Does it harm the model?",
        "authors": ["The tests"],
        "foreknowledge": "None of the scores was seen.",
        "provenance": {
            "source": "runs of the test",
            "made_by": "lm_eval on a laptop",
            "intervention": "down projections of every fourth expert set to zero in a saved copy",
        },
        "evidence": {
            "kind": "lm-eval",
            "version": "0.4.13",
            "axes": {axis: {"task": f"testbed_nll_{axis}_B", "metric": "nll", "harm": "increase"} for axis in AXES},
            "baseline": {"folder": "base", "model": str(made / "models" / "standard")},
            "ablations": {
                "quarter": {"folder": ablated, "model": str(made / "models" / "ablated"), "axis": "ar"},
            },
        },
        "rules": {
            "harm": {"kind": "superiority", "test": "sign_flip"},
            "spares": {"kind": "noninferiority", "margin": 1.0, "scale": "raw", "unit": "item"},
            "module": {"kind": "selective", "kappa": 3, "minimum_effect": 0.05},
        },
        "claims": [
            {"id": "harm", "hypothesis": "Zeroing harms the axis.", "rule": "harm"},
            {"id": "spares", "hypothesis": "It costs less than a nat.", "tier": "exploratory", "rule": "spares"},
            {"id": "module", "hypothesis": "They are a module.", "tier": "exploratory", "rule": "module"},
        ],
        "inference": {"alpha": 0.05, "method": "holm", "seed": "5", "resamples": 999},
    }


def read(made: Path, runs: Path, ablated: str = "ablated") -> dict[str, Any]:
    study = schema.parse(document(made, ablated))
    files = {
        path.relative_to(runs).as_posix(): path.read_bytes()
        for path in runs.rglob("*.json*")
        if "other" not in path.parts
    }
    return read_samples(study, files)[0]["cells"]


def one(folder: Path, pattern: str) -> Path:
    [path] = folder.rglob(pattern)
    return path


def edit_rows(path: Path, edit: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]) -> None:
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in edit(rows)), "utf-8")


def edit_results(folder: Path, edit: Edit) -> None:
    path = one(folder, "results_*.json")
    value = json.loads(path.read_text("utf-8"))
    edit(value)
    path.write_text(json.dumps(value), "utf-8")


# ------------------------------------------------------------------ taken in and judged


def test_a_run_of_the_stock_command_is_imported_judged_reported_and_audited(
    made: Path, runs: Path, tmp_path: Path, run_cli: Callable[..., Any]
) -> None:
    registry = Registry(tmp_path / "registry")
    path = registry.registration(ID) / "registration.yaml"
    canonical.write(path, yaml.safe_dump(document(made)).encode())
    at = ("--root", registry.root)
    assert run_cli("freeze", ID, *at).code == 0
    said = run_cli("import", "lm-eval", ID, runs, *at)
    assert (said.code, f"2 cells, {2 * ITEMS} paired items" in said.out) == (0, True)
    document_ = run_cli("verdict", ID, *at, "--json").json
    found = {entry["claim"]: entry for entry in document_["verdicts"]}
    harmed = {axis: found[f"harm.quarter/{axis}"] for axis in AXES}
    assert {entry["verdict"] for entry in harmed.values()} == {"CONFIRMED"}
    assert found["spares.quarter/ar"]["verdict"] == "REFUTED"
    assert found["module.quarter"]["verdict"] != "CONFIRMED"  # every fourth expert serves every language
    assert run_cli("report", ID, *at).code == 0
    text = (registry.reports(ID) / "report.md").read_text("utf-8")
    assert importing.CAPS["lm-eval"] in text
    assert "lm-eval 0.4.13" in text
    result = audit(registry, ID)
    assert result.exit_code == 0, result
    assert not (registry.reports(ID) / "sources" / "other").exists()


def test_the_differences_are_those_of_lm_evals_own_scores(made: Path, runs: Path) -> None:
    cells = read(made, runs)
    for axis in AXES:
        means = [
            json.loads(one(runs / run, "results_*.json").read_text("utf-8"))["results"][f"testbed_nll_{axis}_B"]
            for run in ("base", "ablated")
        ]
        expected = means[1]["nll,none"] - means[0]["nll,none"]
        assert float(np.mean(cells[f"quarter/{axis}"]["deltas"])) == pytest.approx(expected, rel=1e-9)


def test_reordered_items_change_nothing(made: Path, runs: Path) -> None:
    expected = read(made, runs)
    for path in (runs / "ablated").rglob("samples_*.jsonl"):
        edit_rows(path, lambda rows: rows[::-1])
    assert read(made, runs) == expected

    for axis in AXES:  # the same run with its documents in another order: lm-eval numbers and hashes them so
        path, task = one(runs / "ablated", f"samples_testbed_nll_{axis}_B_*.jsonl"), f"testbed_nll_{axis}_B"
        edit_rows(path, renumbered)
        edit_results(runs / "ablated", lambda value, t=task, p=path: value["task_hashes"].update({t: task_hash(p)}))
    assert read(made, runs) == expected


def renumbered(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return samples as lm-eval would write them had their documents stood in the opposite order."""
    turned = sorted(rows, key=lambda row: row["doc_id"], reverse=True)
    return [{**row, "doc_id": number} for number, row in enumerate(turned)]


def task_hash(path: Path) -> str:
    """Return what lm-eval writes as the hash of a task's samples."""
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    joined = "".join(row["doc_hash"] + row["prompt_hash"] + row["target_hash"] for row in rows)
    return hashlib.sha256(joined.encode()).hexdigest()


# ------------------------------------------------------------------ refused with the right words


def refused(made: Path, runs: Path, error: type[PreregError], *words: str) -> bool:
    """Whether reading the runs is refused with these words; another error, or none, is raised."""
    with pytest.raises(error) as raised:
        read(made, runs)
    return all(word in str(raised.value) for word in words)


def test_a_missing_sample_is_named(made: Path, runs: Path) -> None:
    path = one(runs / "ablated", "samples_testbed_nll_ar_B_*")
    edit_rows(path, lambda rows: [row for row in rows if row["doc_id"] != 5])
    words = ("quarter, testbed_nll_ar_B", "doc_id 5 is missing", f"computed from {ITEMS}")
    assert refused(made, runs, NotCheckable, *words)


def test_a_run_on_fewer_documents_is_compared_with_its_baseline(made: Path, runs: Path) -> None:
    """Not only the file: the results, too, are of eleven samples."""
    study = schema.parse(document(made))
    path = one(runs / "ablated", "samples_testbed_nll_ar_B_*")
    edit_rows(path, lambda rows: [row for row in rows if row["doc_id"] != 5])
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]

    def shorten(value: dict[str, Any]) -> None:
        value["n-samples"]["testbed_nll_ar_B"]["effective"] = len(rows)
        value["task_hashes"]["testbed_nll_ar_B"] = task_hash(path)
        value["results"]["testbed_nll_ar_B"]["nll,none"] = float(np.mean([row["nll"] for row in rows]))

    edit_results(runs / "ablated", shorten)
    assert study.evidence.kind == "lm-eval"
    assert refused(made, runs, NotCheckable, "lacks the baseline's sample doc_id 5")


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda row: row["doc"].update(text="something else"), "doc_id 3: was changed: its doc_hash does not follow"),
        (lambda row: row.update(target="something else"), "doc_id 3: was changed: its target_hash does not follow"),
        (lambda row: row["arguments"]["gen_args_0"].update(arg_0="x"), "its prompt_hash does not follow"),
        (
            lambda row: row.update(nll=row["nll"] + 0.01),
            "a sample was changed, or these are the samples of another run",
        ),
    ],
    ids=["document", "target", "prompt", "score"],
)
def test_a_changed_sample_is_named(made: Path, runs: Path, edit: Edit, said: str) -> None:
    def change(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        edit(next(row for row in rows if row["doc_id"] == 3))
        return rows

    edit_rows(one(runs / "ablated", "samples_testbed_nll_ar_B_*"), change)
    assert refused(made, runs, Tampered, "quarter, testbed_nll_ar_B", said)


def test_another_models_samples_beside_these_results_are_refused(made: Path, runs: Path) -> None:
    target = one(runs / "ablated", "samples_testbed_nll_ar_B_*")
    target.write_bytes(one(runs / "other", "samples_testbed_nll_ar_B_*").read_bytes())
    assert refused(made, runs, Tampered, "these are the samples of another run")


def test_another_models_run_is_refused_by_the_model_it_names(made: Path, runs: Path) -> None:
    shutil.rmtree(runs / "ablated")
    shutil.copytree(runs / "other", runs / "ablated")
    assert refused(made, runs, Deviated, "quarter: was made by the model", "randomised", "is registered")


def test_the_baseline_itself_is_no_ablation(made: Path, runs: Path) -> None:
    shutil.rmtree(runs / "ablated")
    shutil.copytree(runs / "base", runs / "ablated")
    edit_results(runs / "ablated", lambda value: value.update(model_name=str(made / "models" / "ablated")))
    assert refused(made, runs, Deviated, "answered every request exactly as the baseline did")


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda v: v["config"].update(model_num_parameters=7), "it is another model"),
        (lambda v: v["config"].update(batch_size="64"), "batch_size is '64', the baseline's '4'"),
        (lambda v: v["config"].update(use_cache="cache"), "that cache does not know models"),
        (lambda v: v["config"]["model_args"].update(dtype="bfloat16"), "model_args is"),
        (lambda v: v.update(lm_eval_version="0.4.2"), "was made by lm-eval 0.4.2"),
        (lambda v: v["n-shot"].update(testbed_nll_ar_B=5), "its n-shot is not the baseline's"),
        (lambda v: v["configs"]["testbed_nll_en_B"].update(doc_to_target="{{id}}"), "its config is not the baseline's"),
    ],
    ids=["model", "batch", "cache", "dtype", "version", "shots", "task"],
)
def test_other_settings_are_named(made: Path, runs: Path, edit: Edit, said: str) -> None:
    edit_results(runs / "ablated", edit)
    assert refused(made, runs, Deviated, said)


def test_files_that_are_not_one_run_are_refused(made: Path, runs: Path) -> None:
    results = one(runs / "ablated", "results_*.json")
    shutil.copy(results, results.with_name("results_2020-01-01T00-00-00.000000.json"))
    assert refused(made, runs, Invalid, "holds 2 results_*.json")
    results.unlink()
    assert refused(made, runs, NotCheckable, "there is samples_testbed_nll_ar_B_", "of another run")
    shutil.rmtree(runs / "ablated")
    assert refused(made, runs, NotCheckable, "holds 0 results_*.json")


def test_a_run_outside_the_folder_is_not_followed(made: Path, runs: Path, tmp_path: Path) -> None:
    registry = Registry(tmp_path / "registry")
    value = document(made, "../runs/ablated")
    shutil.copytree(runs / "base", tmp_path / "here" / "base")
    canonical.write(registry.registration(ID) / "registration.yaml", yaml.safe_dump(value).encode())
    importing.freeze(registry, ID, time=TIME)
    with pytest.raises(Invalid, match="leaves"):
        importing.take_in(registry, ID, "lm-eval", tmp_path / "here", time=TIME)
