"""Peers side by side: what other packages record and mask on the same tiny models, judged by our spy.

    python tests/peers/interventions.py            # print the table
    python tests/peers/interventions.py --write    # put it into docs/interventions.md
    python tests/peers/interventions.py --write --nnterp OTHER/bin/python

Run it in an environment of its own that has the project's packages and
``pip install moewatch plumb-moe nnsight nnterp transformer-lens``; a peer that is not installed is left
out. nnterp wants an older nnsight: ``--nnterp`` asks the Python of another environment, made by
``pip install nnterp 'nnsight<0.6'``, what it offers there. Each peer is used as its own documentation
says. The spy (tests/lab/oracles.py) counts what the experts are called with, which is what a recorder
must report and what a mask must change.
"""

from __future__ import annotations

import argparse
import functools
import importlib.metadata
import importlib.util
import logging
import re
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "lab")]

from oracles import most_used, selected, sites, spying  # noqa: E402  found by the path above
from tiny_configs import REQUIRED, build  # noqa: E402

from prereg_moe.lab.capture import Recorder  # noqa: E402
from prereg_moe.lab.intervene import Mask, intervene  # noqa: E402
from prereg_moe.lab.models import discover  # noqa: E402

PAGE = ROOT / "docs" / "interventions.md"
IDS = torch.randint(3, 128, (2, 9), generator=torch.Generator().manual_seed(0))
PEERS = {
    "moewatch": "moewatch",
    "plumb-moe": "plumb",
    "nnsight": "nnsight",
    "nnterp": "nnterp",
    "transformer-lens": "transformer_lens",
}
NNTERP = """
import importlib.metadata, re, nnterp
names = [name for name in dir(nnterp.StandardizedTransformer) if re.search("rout|expert|gate(?!d)", name)]
version = importlib.metadata.version
says = f"has {', '.join(names)}" if names else "has no name for routers or experts"
print(f"nnterp {version('nnterp')} beside nnsight {version('nnsight')} {says}")
"""


def logits(model: Any) -> torch.Tensor:
    """The model's logits on the common batch."""
    with torch.no_grad():
        out: torch.Tensor = model(input_ids=IDS).logits
    return out


def truth(model: Any) -> list[np.ndarray]:
    """How often each expert was selected, layer by layer."""
    return [used.numpy() for _, used in sorted(selected(model, input_ids=IDS).items())]


def verdict(found: list[np.ndarray], expected: list[np.ndarray]) -> str:
    """Compare shares of slots, layer by layer."""
    if not found or not any(one.sum() for one in found):
        return "records nothing"
    right = sum(
        one.shape == two.shape and bool(np.allclose(one / max(one.sum(), 1e-9), two / two.sum(), atol=1e-4))
        for one, two in zip(found, expected, strict=False)
    )
    return "right" if right == len(expected) == len(found) else f"wrong ({right} of {len(expected)} layers right)"


def ours_records(model: Any) -> str:
    """`Recorder`."""
    recorder = Recorder()
    with intervene(discover(model), recorder=recorder):
        logits(model)
    counts = recorder.counts()[0]
    return verdict([*counts.astype(float)], truth(model))


def moewatch_records(model: Any) -> str:
    """`moewatch.audit` and its report's utilisation."""
    from moewatch import WatchConfig, audit

    report = audit(model, [{"input_ids": IDS}], steps=1, config=WatchConfig.silent(), verbose=False)
    return verdict([np.asarray(one.token_counts, dtype=float) for one in report.utilization().values()], truth(model))


def plumb_records(model: Any) -> str:
    """`plumb.hook.ProfilingHooks` and its counter."""
    from plumb.counter import ActivationCounter
    from plumb.hook import ProfilingHooks

    expected = truth(model)
    counter = ActivationCounter(window_size=100_000)
    hooks = ProfilingHooks(counter)
    k = int(expected[0].sum()) // IDS.numel()
    hooks.attach(model, top_k=k)
    logits(model)
    hooks.detach()
    layers: dict[int, np.ndarray] = {}
    for (layer, expert), count in counter.snapshot().items():
        layers.setdefault(layer, np.zeros(len(expected[0])))[expert] += count
    return verdict([layers[one] for one in sorted(layers)], expected)


def mask_verdict(model: Any, cells: dict[int, list[int]], run: Callable[[], torch.Tensor]) -> str:
    """Say whether masked experts were still selected, and whether anything changed."""
    before = logits(model)
    with spying(model) as spy:
        after = run()
    leaks = spy.leaks(cells)
    slots = int(sum(used.sum() for layer, used in spy.used().items() if layer in cells))
    if leaks == 0:
        return "masks"
    same = bool(torch.equal(before, after))
    return f"no effect, bit for bit ({leaks} of {slots} slots leak)" if same else f"leaks {leaks} of {slots} slots"


def ours_masks(model: Any) -> str:
    """`Mask`."""
    cells, moe = most_used(model, 2, input_ids=IDS), discover(model)

    def run() -> torch.Tensor:
        with intervene(moe, Mask(cells)):
            return logits(model)

    return mask_verdict(model, cells, run)


def nnsight_masks(model: Any) -> str:
    """The common recipe in a trace: the router's first output at −∞ for the masked experts."""
    from nnsight import NNsight

    cells = most_used(model, 2, input_ids=IDS)
    paths = {id(module): path for path, module in model.named_modules()}
    blocks = sites(model)
    traced = NNsight(model)

    def envoy(layer: int) -> Any:
        block = blocks[layer]
        router = block.gate if hasattr(block, "gate") else block.router
        parts = paths[id(router)].split(".")
        return functools.reduce(lambda at, part: at[int(part)] if part.isdigit() else getattr(at, part), parts, traced)

    routers = [(envoy(layer), experts) for layer, experts in sorted(cells.items())]

    def run() -> torch.Tensor:
        with torch.no_grad(), traced.trace(IDS):
            for router, experts in routers:
                first = router.output[0] if isinstance(router.output, tuple) else router.output
                first[..., experts] = float("-inf")
            out = traced.output.logits.save()  # exists once the trace has run
        return out  # noqa: RET504  the trace is left between the two

    return mask_verdict(model, cells, run)


def bridged(model: Any) -> Any:
    """`TransformerBridge.boot_transformers` on a model in memory; it reads a configuration and a tokenizer as files."""
    from tokenizers import Tokenizer, models
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"a": 0, "b": 1, "c": 2}, unk_token="a"))
    special = dict.fromkeys(("bos_token", "eos_token"), "c") | dict.fromkeys(("pad_token", "unk_token"), "a")
    with tempfile.TemporaryDirectory() as folder:
        model.config.architectures = [type(model).__name__]
        model.config.save_pretrained(folder)
        PreTrainedTokenizerFast(tokenizer_object=words, **special).save_pretrained(folder)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        return TransformerBridge.boot_transformers(folder, hf_model=model, tokenizer=tokenizer, device="cpu")


def bridge_hooks(bridge: Any, name: str) -> dict[int, str]:
    """The hooks of a name, by layer; an alias on the block goes before the router's own."""
    found = sorted((hook for hook in bridge.hook_dict if hook.endswith(f".{name}")), key=len, reverse=True)
    return {int(hook.split(".")[1]): hook for hook in found}


def bridge_records(model: Any) -> str:
    """`run_with_cache` of its `hook_expert_indices`."""
    expected, bridge = truth(model), bridged(model)
    hooks = bridge_hooks(bridge, "hook_expert_indices")
    if not hooks:
        return "has no hook for it"
    cache = bridge.run_with_cache(IDS, names_filter=list(hooks.values()))[1]
    count = len(expected[0])
    picked = [cache[hook].long().flatten() for _, hook in sorted(hooks.items()) if hook in cache]
    return verdict([torch.bincount(one, minlength=count)[:count].numpy().astype(float) for one in picked], expected)


def bridge_masks(model: Any) -> str:
    """`run_with_hooks` of its `hook_expert_weights`, −∞ for the masked experts: it selects anew by what is left."""
    cells, bridge = most_used(model, 2, input_ids=IDS), bridged(model)
    hooks = bridge_hooks(bridge, "hook_expert_weights")
    if not hooks.keys() >= cells.keys():
        return "has no hook for it"
    idle: list[int] = []
    for block in sites(model).values():
        block.experts.register_forward_pre_hook(lambda _, args: idle.append(int((args[-1] == 0).sum())))

    def edit(experts: list[int]) -> Callable[..., torch.Tensor]:
        def hook(weights: torch.Tensor, hook: Any) -> torch.Tensor:
            edited = weights.clone()
            edited[..., experts] = float("-inf")
            return edited

        return hook

    def run() -> torch.Tensor:
        idle.clear()
        with torch.no_grad():
            out: torch.Tensor = bridge.run_with_hooks(
                IDS, fwd_hooks=[(hooks[at], edit(cells[at])) for at in sorted(cells)]
            )
        return out

    found = mask_verdict(model, cells, run)
    return f"{found}, but {sum(idle)} freed slots get gate 0" if found == "masks" and sum(idle) else found


def nnterp_reaches(python: str) -> str:
    """Whether its standard names reach routers or experts at all."""
    done = subprocess.run([python, "-W", "ignore", "-c", NNTERP], capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return done.stdout.strip().splitlines()[-1]
    beside = f"nnterp {importlib.metadata.version('nnterp')} cannot be imported beside nnsight"
    why = done.stderr.strip().splitlines()[-1].partition(": ")[2]
    return f"{beside} {importlib.metadata.version('nnsight')} ({why})"


COLUMNS: dict[str, tuple[str, Callable[[Any], str]]] = {
    "prereg-moe records": ("", ours_records),
    "moewatch records": ("moewatch", moewatch_records),
    "plumb-moe records": ("plumb-moe", plumb_records),
    "prereg-moe masks": ("", ours_masks),
    "nnsight, router output at −∞": ("nnsight", nnsight_masks),
    "TransformerBridge records": ("transformer-lens", bridge_records),
    "TransformerBridge, expert weights at −∞": ("transformer-lens", bridge_masks),
}


def attempt(name: str, function: Callable[[Any], str]) -> str:
    """Run one peer on a fresh model; what it raises is its result."""
    try:
        return function(build(name))
    except Exception as error:  # noqa: BLE001  a peer may raise anything
        unknown = "supported architecture" in str(error)  # of transformer-lens
        return "does not know it" if unknown else f"error: {type(error).__name__}"


def peers_table(nnterp: str | None) -> str:
    """One row per architecture of the note."""
    here = {peer for peer, module in PEERS.items() if importlib.util.find_spec(module)}
    columns = {title: run for title, (peer, run) in COLUMNS.items() if not peer or peer in here}
    lines = ["| | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    lines += [f"| {name} | " + " | ".join(attempt(name, run) for run in columns.values()) + " |" for name in REQUIRED]
    versions = ", ".join(f"{peer} {importlib.metadata.version(peer)}" for peer in sorted(here))
    if "nnterp" in here:
        lines += ["", f"{'; '.join(nnterp_reaches(one) for one in (sys.executable, nnterp) if one)}."]
    return "\n".join(
        [*lines, "", f"Measured with transformers {importlib.metadata.version('transformers')}, {versions}."]
    )


def main() -> int:
    """Print the table, or write it between its marks."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--nnterp", help="a Python that has nnterp and an nnsight it works with")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    table = peers_table(options.nnterp)
    if not options.write:
        sys.stdout.write(table + "\n")
        return 0
    page = PAGE.read_text(encoding="utf-8")
    mark = re.compile("(<!-- peers -->\n).*?(<!-- end -->)", re.DOTALL)
    page = mark.sub(lambda found: f"{found[1]}{table}\n{found[2]}", page)
    PAGE.write_text(page, encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
