"""What interventions and recording cost, as ratios to the plain forward, in one run.

    python tests/benchmarks/interventions.py [--tokens 512] [--repeats 15] [--json FILE]

A random Qwen3-MoE-style model of 64 experts, k = 8. Every variant is timed in turn, round after
round, against a plain forward timed next to it, so that a busy machine slows both; the figure is the
median of the ratios. Exits 1 if masking costs more than 1.25, recording counts and mass more than
1.15, or a recorder's memory depends on tokens.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from prereg_moe.lab.capture import Recorder
from prereg_moe.lab.intervene import ByRow, Force, KeepOnly, Mask, Noise, Scale, SkipSlots, TopK, intervene
from prereg_moe.lab.models import MoE, discover

LIMITS = {"mask": 1.25, "record counts and mass": 1.15}


def model() -> Any:
    """A random model, wide enough that its experts dominate."""
    config = transformers.Qwen3MoeConfig(
        vocab_size=512,
        hidden_size=256,
        intermediate_size=256,
        moe_intermediate_size=128,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=32,
        num_experts=64,
        num_experts_per_tok=8,
        norm_topk_prob=True,
    )
    torch.manual_seed(0)
    return transformers.AutoModelForCausalLM.from_config(config).eval()


def variants(moe: MoE, rows: int) -> dict[str, Callable[[], AbstractContextManager[Any]]]:
    """What is timed, by name."""
    quarter = {layer: tuple(range(16)) for layer in moe.indices}
    by_row = ByRow(tuple((Mask({layer: range(row, row + 16) for layer in moe.indices}),) for row in range(rows)))
    return {
        "plain again": nullcontext,
        "session, nothing in it": lambda: intervene(moe),
        "mask": lambda: intervene(moe, Mask(quarter)),
        "mask, original gates": lambda: intervene(moe, Mask(quarter, "original")),
        "mask by row": lambda: intervene(moe, by_row),
        "keep a quarter": lambda: intervene(moe, KeepOnly(quarter)),
        "force 2": lambda: intervene(moe, Force(dict.fromkeys(moe.indices, (0, 1)))),
        "top-k 4": lambda: intervene(moe, TopK(4)),
        "zero contribution": lambda: intervene(moe, Scale(quarter)),
        "noise": lambda: intervene(moe, Noise(quarter, 0.1)),
        "skip 1 slot": lambda: intervene(moe, SkipSlots(1)),
        "record counts and mass": lambda: intervene(moe, recorder=Recorder(), padding="none"),
        "record softmax and pairs too": lambda: intervene(
            moe, recorder=Recorder(softmax=True, pairs=True), padding="none"
        ),
        "record outputs too": lambda: intervene(moe, recorder=Recorder(outputs=True), padding="none"),
        "mask and record": lambda: intervene(moe, Mask(quarter), recorder=Recorder(), padding="none"),
    }


def seconds(moe: MoE, ids: torch.Tensor) -> float:
    """Time of one forward."""
    start = time.perf_counter()
    with torch.no_grad():
        moe.model(ids)
    return time.perf_counter() - start


def measure(moe: MoE, ids: torch.Tensor, repeats: int) -> dict[str, float]:
    """Median ratio of each variant to the plain forwards on both sides of it."""
    ratios: dict[str, list[float]] = {}
    chosen = variants(moe, len(ids))
    for _ in range(3):
        seconds(moe, ids)
    for _ in range(repeats):
        for name, variant in chosen.items():
            before = seconds(moe, ids)
            with variant():
                inside = seconds(moe, ids)
            ratios.setdefault(name, []).append(2 * inside / (before + seconds(moe, ids)))
    return {name: float(np.median(values)) for name, values in ratios.items()}


def recorder_bytes(moe: MoE, tokens: int) -> int:
    """Memory a recorder holds after a forward."""
    recorder = Recorder(softmax=True, pairs=True)
    with torch.no_grad(), intervene(moe, recorder=recorder, padding="none"):
        moe.model(torch.randint(1, 512, (1, tokens)))
    return sum(array.nbytes for array in recorder.totals().arrays().values())


def main() -> int:
    """Measure, print, and compare with the limits."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    moe = discover(model())
    ids = torch.randint(1, 512, (8, options.tokens // 8), generator=torch.Generator().manual_seed(0))
    ratios = measure(moe, ids, options.repeats)
    memory = {str(tokens): recorder_bytes(moe, tokens) for tokens in (64, 512)}
    failed = [name for name, limit in LIMITS.items() if ratios[name] > limit]
    if len(set(memory.values())) > 1:
        failed.append("memory")
    width = max(map(len, ratios))
    lines = [
        f"{name:{width}}  {ratio:5.2f}{'  over ' + str(LIMITS[name]) if name in failed else ''}"
        for name, ratio in ratios.items()
    ]
    sys.stdout.write("\n".join([*lines, f"recorder: {memory} bytes after so many tokens", ""]))
    if options.json:
        options.json.write_text(json.dumps({"ratios": ratios, "recorder_bytes": memory}, indent=1) + "\n")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
