"""A model folder, a corpus and a task folder of one's own, instead of the testbed's."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, DeepseekV3Config, DeepseekV3ForCausalLM, OlmoeConfig, OlmoeForCausalLM

from tests.endtoend.studies import TESTBED, command, write_registration
from tests.lab.tiny_configs import build

COMMON: dict[str, Any] = {
    "vocab_size": 4096,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
}
MODELS = {
    "olmoe": lambda: OlmoeForCausalLM(
        OlmoeConfig(**COMMON, intermediate_size=16, num_key_value_heads=4, num_experts=16, num_experts_per_tok=2)
    ),
    "deepseek_v3": lambda: DeepseekV3ForCausalLM(
        DeepseekV3Config(
            **COMMON,
            intermediate_size=48,
            moe_intermediate_size=16,
            num_key_value_heads=4,
            n_routed_experts=16,
            num_experts_per_tok=2,
            n_group=4,
            topk_group=2,
            n_shared_experts=1,
            first_k_dense_replace=1,
            q_lora_rank=16,
            kv_lora_rank=16,
            qk_nope_head_dim=8,
            qk_rope_head_dim=8,
            v_head_dim=8,
        )
    ),
}
REGISTRATION = """\
schema: prereg-moe/1
id: own
title: Random weights
question: Is a random model modular?
authors: [tests]
foreknowledge: The weights are random.
models: {{subject: {{source: ./model}}}}
corpora: {{mine: {{source: ./corpus}}}}
axes: {{no: {{domain: language}}, en: {{domain: language}}}}
measures:
  nll: {{kind: task, tasks: ./tasks, task: "own_{{axis}}", metric: nll, per: token, harm: increase,
         corpus: mine, skip: 4, items: 5}}
atlas: {{corpus: mine, items: 4}}
families:
  - {{axes: all, build: {{kind: top_lift, size: 2, unit: {unit}, exclude: {{kind: none}}}}}}
intervention: {{kind: mask, gates: {gates}}}
controls: {{null: {{kind: random_sets, draws: 22, seed: "1"}}}}
rules: {{modular: {{kind: modular, kappa: 3, minimum_effect: 0.05}}}}
claims:
  - {{id: main, hypothesis: H, tier: confirmatory, model: subject, families: all, measure: nll, off: all,
       rule: modular}}
inference: {{alpha: 0.05, seed: "1"}}
"""


def build_study(root: Path, name: str, unit: str, gates: str) -> Path:
    folder = write_registration(root, "own", REGISTRATION.format(unit=unit, gates=gates))
    torch.manual_seed(0)
    MODELS[name]().eval().save_pretrained(folder / "model")
    AutoTokenizer.from_pretrained(TESTBED / "models/standard").save_pretrained(folder / "model")
    (folder / "corpus").mkdir()
    (folder / "tasks").mkdir()
    shutil.copy(TESTBED / "tasks/passages.py", folder / "tasks")
    shutil.copy(TESTBED / "tasks/_base.yaml", folder / "tasks")
    for axis, source in (("no", "es"), ("en", "en")):
        lines = (TESTBED / f"corpora/B/{source}.jsonl").read_text("utf-8").splitlines()[:9]
        (folder / f"corpus/{axis}.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
        task = f"include: _base.yaml\ntask: own_{axis}\ndataset_kwargs:\n  file: ../corpus/{axis}.jsonl\n"
        (folder / f"tasks/{axis}.yaml").write_text(task, "utf-8")
    return folder


@pytest.mark.parametrize(
    ("name", "unit", "gates"),
    [("olmoe", "global_id", "renorm"), ("deepseek_v3", "cells", "original")],
    ids=["a random Olmoe, ids pooled over layers", "a random DeepSeek-V3, single cells"],
)
def test_an_own_model_and_corpus_are_judged(name: str, unit: str, gates: str, tmp_path: Path) -> None:
    folder = build_study(tmp_path, name, unit, gates)
    for verb in ("check", "atlas", "freeze", "run", "verdict", "report"):
        done = command(verb, folder, "--json", *(["--workers", "1"] if verb == "run" else []))
        assert done.returncode == 0, (verb, done.stderr)
    verdicts = json.loads((tmp_path / "reports/own/verdict.json").read_bytes())["verdicts"]
    assert {entry["axis"] for entry in verdicts} == {"no", "en"}
    assert all(entry["verdict"] in ("REFUTED", "INCONCLUSIVE") for entry in verdicts)
    proof = [json.loads(path.read_bytes())["proof"] for path in (tmp_path / "reports/own/evidence").iterdir()]
    masked = [one for one in proof if one is not None]
    assert len(proof) - len(masked) == 1
    assert all(one["leaks"] == 0 and one["masked_cells"] > 0 and all(one["fired"].values()) for one in masked)
    assert command("audit", tmp_path).returncode == 0


@pytest.fixture(scope="module")
def observed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The registry of a random Olmoe whose atlas is made."""
    root = tmp_path_factory.mktemp("observed")
    assert command("atlas", build_study(root, "olmoe", "per_layer", "renorm")).returncode == 0
    return root


@pytest.fixture
def folder(observed: Path, tmp_path: Path) -> Path:
    """A copy of its registration."""
    return shutil.copytree(observed, tmp_path, dirs_exist_ok=True) / "registrations/own"


def test_a_corpus_changed_after_freezing_stops_the_run(folder: Path, tmp_path: Path) -> None:
    assert command("freeze", folder).returncode == 0
    with (folder / "corpus/en.jsonl").open("a") as file:
        file.write('{"id": "late", "text": "one more"}\n')
    done = command("run", folder)
    assert done.returncode == 3
    assert "corpora.mine: en.jsonl is not what was frozen" in done.stderr
    assert not (tmp_path / "reports").exists()


def test_a_task_that_asks_every_item_the_same_is_refused(folder: Path) -> None:
    base = folder / "tasks/_base.yaml"
    base.write_text(base.read_text("utf-8").replace('"{{text}}"', '"text of the passage"'), "utf-8")
    assert command("freeze", folder).returncode == 0
    done = command("run", folder, "--workers", "1")
    assert done.returncode == 2
    assert "asks the same of every item" in done.stderr


def test_a_task_whose_code_fails_stops_the_run_in_one_line(folder: Path) -> None:
    code = folder / "tasks/passages.py"
    code.write_text(
        code.read_text("utf-8").replace("return {", 'raise ValueError("no score today")\n    return {', 1), "utf-8"
    )
    assert command("freeze", folder).returncode == 0
    done = command("run", folder, "--workers", "1")
    assert done.returncode == 6
    assert "Traceback" not in done.stderr
    assert "no score today" in done.stderr


def test_a_layer_that_no_mask_can_edit_is_refused_before_anything_is_sealed(tmp_path: Path) -> None:
    folder = build_study(tmp_path, "olmoe", "per_layer", "original")
    build("deepseek_v4", vocab_size=4096).save_pretrained(folder / "model")
    done = command("atlas", folder)
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert line.startswith("error: models.subject, layer 0 ("), line
    assert "its router cannot be edited" in line
    assert not (tmp_path / "registrations/LEDGER.jsonl").exists()
    path = folder / "registration.yaml"
    authored = path.read_text("utf-8")
    for text in (
        authored.replace("kind: mask, gates: original", "kind: zero"),
        authored.replace(
            "{kind: top_lift, size: 2, unit: per_layer, exclude: {kind: none}}",
            '{kind: explicit, cells: {"1": [0, 3]}}',
        ),
    ):
        assert text != authored
        path.write_text(text, "utf-8")
        done = command("atlas", folder)
        assert done.returncode == 0, done.stderr
