"""The default engine beside the naive loop, one ``lm_eval.simple_evaluate`` a condition, in one run.

    python tests/benchmarks/sweep.py [--docs 12] [--json FILE]

Two models: the testbed's standard checkpoint on passages, and a random 8-layer Qwen3-MoE made from a config
on four-way multiple choice. Three kinds of conditions: a family in every layer, one expert in one layer, a
family in the last layer. Figures are CPU time of one thread, the naive loop and the engine in turns, so that a
busy machine slows both; the engine's time holds planning, probing, checking and replaying. Exits 1 where a ratio
is below its limit, a request lies more than 1e-3 nats apart, or greedy decoding, a score or a hash differs.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}

import lm_eval
import numpy as np
import torch
import transformers
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

import prereg_moe.lab.testbed as testbed
from prereg_moe.lab.engines.base import Case
from prereg_moe.lab.engines.sweep import Sweep, Work
from prereg_moe.lab.harness import Harness
from prereg_moe.lab.intervene import Mask, intervene
from prereg_moe.lab.models import MoE, discover, load_model
from prereg_moe.lab.tasks import Tasks, TaskSpec

FOLDER = Path(testbed.__file__).parent
AXES = ("en", "ar", "code")
TOLERANCE = 1e-3
LIMITS = {
    ("testbed", "families, all layers"): 1.8,
    ("testbed", "one expert, one layer"): 3.0,
    ("testbed", "last layer"): 5.0,
    ("8 layers, choices", "families, all layers"): 2.5,
    ("8 layers, choices", "one expert, one layer"): 4.0,
    ("8 layers, choices", "last layer"): 10.0,
}
CHOICES = """\
task: {name}
custom_dataset: !function choices.load
dataset_kwargs:
  file: {name}.jsonl
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{context}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{answer}}}}"
target_delimiter: ""
num_fewshot: 0
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
metadata:
  version: 1.0
"""


@dataclass(frozen=True)
class Setting:
    """A model and its tasks."""

    name: str
    moe: MoE
    tokenizer: Any
    folder: Path
    specs: tuple[TaskSpec, ...]


def passages(axis: str) -> list[dict[str, Any]]:
    """The testbed's passages of an axis, on B."""
    lines = (FOLDER / f"corpora/B/{axis}.jsonl").read_text("utf-8").splitlines()
    return [json.loads(line) for line in lines]


def on_testbed(docs: int) -> Setting:
    """The testbed's standard model on passages."""
    model, tokenizer = load_model(FOLDER / "models/standard")
    specs = tuple(TaskSpec(axis, f"testbed_nll_{axis}_B", tuple(passages(axis)[:docs]), 0, "nll") for axis in AXES)
    return Setting("testbed", discover(model), tokenizer, FOLDER / "tasks", specs)


def on_choices(docs: int, folder: Path) -> Setting:
    """A random 8-layer model on multiple choice: how a passage goes on, against three from the same axis."""
    _, tokenizer = load_model(FOLDER / "models/standard")
    config = transformers.Qwen3MoeConfig(
        vocab_size=4096,
        hidden_size=128,
        intermediate_size=256,
        moe_intermediate_size=64,
        num_hidden_layers=8,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        num_experts=32,
        num_experts_per_tok=2,
        norm_topk_prob=True,
        max_position_embeddings=512,
    )
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for layer in model.model.layers:
            layer.mlp.gate.weight.normal_(0, 0.3)  # tokens differ in their experts, as in trained models
    (folder / "choices.py").write_text((FOLDER / "tasks/passages.py").read_text("utf-8"), "utf-8")
    specs = []
    for axis in AXES:
        items = _choices([item["text"] for item in passages(axis)], docs)
        (folder / f"{axis}.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items), "utf-8")
        (folder / f"{axis}.yaml").write_text(CHOICES.format(name=axis), "utf-8")
        specs.append(TaskSpec(axis, axis, tuple(items), 0, "acc"))
    return Setting("8 layers, choices", discover(model), tokenizer, folder, tuple(specs))


def _choices(texts: list[str], docs: int) -> list[dict[str, Any]]:
    cuts = [len(text) * 3 // 4 for text in texts]
    ends = [text[cut : cut + 40] for text, cut in zip(texts, cuts, strict=True)]
    return [
        {
            "id": f"{number}",
            "context": texts[number][: cuts[number]],
            "choices": [ends[(number + step * (len(texts) // 4)) % len(texts)] for step in range(4)],
            "answer": 0,
        }
        for number in range(docs)
    ]


def kinds(moe: MoE) -> dict[str, list[Mask]]:
    """The conditions compared."""
    draw = np.random.default_rng(0)
    layers, last = moe.indices, moe.indices[-1]

    def some(count: int) -> list[int]:
        return draw.permutation(moe.n_experts)[:count].tolist()

    return {
        "families, all layers": [Mask({layer: some(4) for layer in layers}) for _ in range(19)],
        "one expert, one layer": [Mask({layers[n % len(layers)]: some(1)}) for n in range(16)],
        "last layer": [Mask({last: some(4)}) for _ in range(19)],
    }


def naively(setting: Setting, masks: Sequence[Mask]) -> list[dict[str, list[dict[str, Any]]]]:
    """What a user would write: simple_evaluate, condition by condition; returns lm-eval's samples."""
    lm = HFLM(pretrained=setting.moe.model, tokenizer=setting.tokenizer, batch_size=32, softmax_dtype="float32")
    manager = TaskManager(include_path=str(setting.folder), include_defaults=False)
    chosen = {spec.name: list(range(len(spec.items))) for spec in setting.specs}

    def once() -> dict[str, list[dict[str, Any]]]:
        samples: dict[str, list[dict[str, Any]]] = lm_eval.simple_evaluate(
            model=lm, tasks=list(chosen), task_manager=manager, samples=chosen, bootstrap_iters=0, log_samples=True
        )["samples"]
        return samples

    found = [once()]
    for mask in masks:
        with intervene(setting.moe, mask):
            found.append(once())
    return found


def swept(setting: Setting, masks: Sequence[Mask]) -> tuple[list[dict[str, list[dict[str, Any]]]], Work]:
    """The default engine with its default settings; returns lm-eval's samples and what was computed."""
    tasks = Tasks(setting.folder, setting.specs)
    harness = Harness(setting.moe.model, setting.tokenizer, tasks, batch_size=32, max_length=None)
    engine = Sweep(
        setting.moe,
        harness.plan.requests,
        harness.stock,
        max_length=harness.max_length,
        batch_tokens=4096,
        check=4,
        tolerance=TOLERANCE,
    )
    cases = [Case("baseline", ()), *(Case(f"{number}", (mask,)) for number, mask in enumerate(masks))]
    return [harness.samples(one.answers) for one in engine.answer(cases)], engine.work


def cpu(work: Callable[[], Any]) -> tuple[np.ndarray, Any]:
    """CPU seconds of this process and of programs it starts (lm-eval describes the machine), and what was returned."""
    start = os.times()
    result = work()
    end = os.times()
    return np.array([end[0] + end[1] - start[0] - start[1], end[2] + end[3] - start[2] - start[3]]), result


def compare(
    naive: list[dict[str, list[dict[str, Any]]]], found: list[dict[str, list[dict[str, Any]]]]
) -> dict[str, Any]:
    """How far the two lie apart."""
    apart, flips, scores, hashes = 0.0, 0, 0, 0
    for one, two in zip(naive, found, strict=True):
        for task, samples in one.items():
            for a, b in zip(samples, two[task], strict=True):
                for (x, greedy), (y, other) in zip(_pairs(a), _pairs(b), strict=True):
                    apart, flips = max(apart, abs(x - y)), flips + (greedy != other)
                scores += "acc" in a and a["acc"] != b["acc"]
                hashes += any(a[name] != b[name] for name in ("doc_hash", "prompt_hash", "target_hash"))
    return {"apart": apart, "flips": flips, "scores": scores, "hashes": hashes}


def _pairs(sample: dict[str, Any]) -> list[tuple[float, Any]]:
    flat = [one[0] if isinstance(one[0], (list, tuple)) else one for one in sample["resps"]]
    return [(float(one[0]), one[1] if len(one) > 1 else None) for one in flat]


def measure(setting: Setting, masks: Sequence[Mask], rounds: int) -> dict[str, Any]:
    """Both in turns; the figure is the ratio of their sums."""
    naive, fast = np.zeros(2), np.zeros(2)
    for _ in range(rounds):
        seconds, slow = cpu(lambda: naively(setting, masks))
        naive += seconds
        seconds, (found, work) = cpu(lambda: swept(setting, masks))
        fast += seconds
    return {
        "conditions": len(masks) + 1,
        "naive_seconds": float(naive.sum() / rounds),
        "engine_seconds": float(fast.sum() / rounds),
        "ratio": float(naive.sum() / fast.sum()),
        "ratio_alone": float(naive[0] / fast[0]),
        "work": vars(work),
        **compare(slow, found),
    }


def main() -> int:
    """Measure, print, and compare with the limits."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--docs", type=int, default=40, help="documents a task; there are three tasks")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    logging.disable(logging.ERROR)
    results, failed = {}, 0
    with tempfile.TemporaryDirectory() as folder, Path(os.devnull).open("w", encoding="utf-8") as nothing:
        for setting in (on_testbed(options.docs), on_choices(options.docs, Path(folder))):
            for kind, masks in kinds(setting.moe).items():
                screen, sys.stderr = sys.stderr, nothing  # lm-eval's bars
                try:
                    figures = measure(setting, masks, options.rounds)
                finally:
                    sys.stderr = screen
                limit = LIMITS[setting.name, kind]
                bad = figures["ratio"] < limit or figures["apart"] > TOLERANCE
                bad = bad or any(figures[name] for name in ("flips", "scores", "hashes"))
                failed += bad
                results[f"{setting.name}: {kind}"] = figures
                work = figures["work"]
                sys.stdout.write(
                    f"{setting.name:18} {kind:22} naive {figures['naive_seconds']:6.1f} s  engine"
                    f" {figures['engine_seconds']:6.1f} s  ratio {figures['ratio']:5.2f} (at least {limit:g})"
                    f"{'  FAILED' if bad else ''}, without the programs lm-eval starts {figures['ratio_alone']:.2f}\n"
                    f"{'':18} furthest apart {figures['apart']:.1e} nats, {figures['flips']} greedy flips,"
                    f" {figures['scores']} scores and {figures['hashes']} hashes differ\n"
                    f"{'':18} tokens x layers {work['layers']:,}, unavoidable {work['needed_layers']:,};"
                    f" tokens through the head {work['heads']:,}, unavoidable {work['needed_heads']:,}\n"
                )
                sys.stdout.flush()
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n", "utf-8")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
