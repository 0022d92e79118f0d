"""Studies of experts that are zeroed and of experts that are kept, checked against models whose weights say so."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

from prereg_moe import canonical
from prereg_moe.freezing import load_frozen
from prereg_moe.frozen import Condition, Frozen
from prereg_moe.lab import worker
from prereg_moe.lab.capture import Recorder
from prereg_moe.lab.engines import Case
from prereg_moe.lab.intervene import intervene
from prereg_moe.registration.schema import Zero
from prereg_moe.registry import Registry
from tests.endtoend.studies import TINY, command, copy_until_frozen, evidence_digests, kill_at

SMALL = {
    "draws: 22": "draws: 4",
    "  negative: {claims: control, at_most: 0}\n": "",
    "alpha: 0.05": "alpha: 0.24",
    "items: 6}": "items: 4}",
    TINY[TINY.index("  - {id: control") : TINY.index("inference:")]: "",
}
ZERO = {"{kind: mask, gates: renorm}": "{kind: zero}"}
KEEP = {
    "{kind: mask, gates: renorm}": "{kind: keep_only, gates: renorm}",
    "size: 4": "size: 8",
    "{kind: modular, kappa: 3, minimum_effect: 0.05}": "{kind: noninferiority, margin: 2.5, better_than_random: true}",
}
NATS = 1e-3


def text(changes: Mapping[str, str], engine: str = "{kind: sweep, pack: 6}") -> str:
    """Return the tiny study cut down, with other things in it."""
    made = TINY
    for old, new in {**SMALL, **changes, "{kind: sweep, pack: 6}": engine}.items():
        assert old in made, f"the tiny study no longer says {old!r}"
        made = made.replace(old, new)
    return made


def registered(tiny: Path, root: Path, document: str) -> Path:
    """Freeze a document beside the tiny study's atlas, instead of the tiny study."""
    copy_until_frozen(tiny, root, "tiny")
    (root / "amended.yaml").write_text(document, "utf-8")
    done = command("amend", "tiny", root / "amended.yaml", "--reason", "another operator", "--root", root)
    assert done.returncode == 0, done.stderr
    return root


@pytest.fixture(scope="module", params=[ZERO, KEEP], ids=["zero", "keep_only"])
def study(request: pytest.FixtureRequest, tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study under one operator, by the sharing engine: killed, resumed, judged and reported."""
    root = registered(tiny, tmp_path_factory.mktemp("operators"), text(request.param))
    kill_at(root, 2, "--shard", "1/2")
    before = {name: digest for name, digest in evidence_digests(root, "tiny").items() if name.endswith(".json")}
    assert 2 <= len(before) < 8
    for verb in ("run", "verdict", "report"):
        done = command(verb, "tiny", "--root", root, *(["--workers", "1"] if verb == "run" else []))
        assert done.returncode == 0, done.stderr
    assert before.items() <= evidence_digests(root, "tiny").items()
    return root


@pytest.fixture(scope="module")
def frozen(study: Path) -> Frozen:
    return load_frozen(Registry(study), "tiny")


@pytest.fixture(scope="module")
def bench(study: Path, frozen: Frozen) -> Any:
    """What a worker loads."""
    worker.pin(1)
    return worker._Bench(Registry(study), frozen.registration)


def made(root: Path, condition: Condition) -> Any:
    return canonical.read(root / "reports/tiny/evidence" / f"{condition.digest.removeprefix('sha256:')}.json")


def scored(found: Mapping[str, Any]) -> list[float]:
    """Return the log-likelihood of every passage, axis by axis."""
    return [value for axis in sorted(found) for value in found[axis].metric]


def recorded(root: Path, condition: Condition) -> list[float]:
    axes = made(root, condition)["axes"]
    return [value for axis in sorted(axes) for value in axes[axis]["metric"]]


def test_the_audit_holds_and_the_proofs_fit_the_operator(study: Path, frozen: Frozen) -> None:
    done = command("audit", study, "--json")
    assert done.returncode == 0, done.stdout
    conditions = list(frozen.plan.values())
    assert len(conditions) == 1 + 3 + 4
    experts, layers = frozen.document["layout"]["subject"]["experts"], frozen.document["layout"]["subject"]["layers"]
    for condition in conditions[1:]:
        proof, cells = made(study, condition)["proof"], sum(map(len, condition.cells.values()))
        assert proof["leaks"] == 0
        assert set(proof["fired"]) == {str(layer) for layer in layers}
        if condition.to_json()["intervention"]["kind"] == "zero":
            assert (proof["masked_cells"], proof["edited_cells"]) == (0, cells)
            assert proof["edited_slots"] > 0
        else:
            assert (proof["masked_cells"], proof["edited_cells"]) == (len(layers) * experts - cells, 0)
            assert proof["min_live"] == 8


def test_both_engines_agree(study: Path, frozen: Frozen, bench: Any) -> None:
    harness = bench.harness("subject", "nll")
    stock = worker.Stock(bench.load("subject"), harness.plan.requests, harness.stock)
    for condition in list(frozen.plan.values())[1:5:3]:  # a family and a random set
        [found] = stock.answer([Case(condition.digest, worker._interventions(condition))])
        assert np.abs(np.array(scored(harness.score(found.answers))) - recorded(study, condition)).max() < NATS
        here, there = found.proof or {}, made(study, condition)["proof"]
        names = ("leaks", "masked_cells", "edited_cells", "min_live")
        assert {name: here[name] for name in names} == {name: there[name] for name in names}


def test_scores_are_those_of_a_model_whose_weights_say_so(study: Path, frozen: Frozen, bench: Any) -> None:
    condition = frozen.ablation(frozen.registration.claims[0], "ar")
    model = bench.load("subject").model
    kind = condition.to_json()["intervention"]["kind"]
    other = zeroed(model, condition) if kind == "zero" else pruned(model, condition)
    tasks = worker.tasks_of(frozen.registration, "nll", bench.path)
    harness = worker.Harness(other, bench.tokenizer("subject"), tasks, batch_size=8, max_length=None)
    apart = np.array(scored(harness.score(harness.stock(harness.plan.requests)))) - recorded(study, condition)
    assert np.abs(apart).max() < NATS
    baseline = np.array(recorded(study, frozen.baseline(frozen.registration.claims[0])))
    assert np.abs(baseline - recorded(study, condition)).max() > 1  # the intervention does something


def test_zeroing_experts_that_no_token_selects_is_the_baseline_and_says_so(frozen: Frozen, bench: Any) -> None:
    """By either engine: the layers ran, no slot held these experts, and the scores are the baseline's."""
    moe, harness = bench.load("subject"), bench.harness("subject", "nll")
    [context, target] = request = min(harness.plan.requests, key=lambda one: len(one[1]))
    recorder = Recorder()
    with torch.inference_mode(), intervene(moe, recorder=recorder):
        moe.model(torch.tensor([(context + target)[:-1]]))
    unused = np.flatnonzero(recorder.counts()[0, 0] == 0)
    condition = Condition(frozen.digest, "subject", "nll", Zero(kind="zero"), {moe.indices[0]: (int(unused[0]),)})
    case = Case(condition.digest, worker._interventions(condition))
    sharing = worker.Sweep(moe, [request], harness.stock, max_length=512, batch_tokens=512, check=1, tolerance=NATS)
    for engine in (worker.Stock(moe, [request], harness.stock), sharing):
        [found, baseline] = engine.answer([case, Case("sha256:0", ())])
        assert found.answers[request][0] == pytest.approx(baseline.answers[request][0], abs=NATS)
        assert found.proof is not None
        assert (found.proof["edited_cells"], found.proof["edited_slots"]) == (1, 0)
        assert found.proof["fired"][str(moe.indices[0])] > 0


def zeroed(model: Any, condition: Condition) -> Any:
    """Return the model with the last map of every expert named set to nothing."""
    other = Qwen3MoeForCausalLM(model.config).eval()
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        for layer, experts in condition.cells.items():
            other.model.layers[layer].mlp.experts.down_proj[list(experts)] = 0
    return other


def pruned(model: Any, condition: Condition) -> Any:
    """Return a smaller model that has the experts named and no others, nor rows of the router for them."""
    [count] = {len(experts) for experts in condition.cells.values()}
    assert len(condition.cells) == len(model.model.layers)
    settings = {**model.config.to_dict(), "num_experts": count, "num_local_experts": count}
    other = Qwen3MoeForCausalLM(Qwen3MoeConfig(**settings)).eval()
    weights = dict(model.state_dict())
    for layer, experts in condition.cells.items():
        for name in ("experts.gate_up_proj", "experts.down_proj", "gate.weight"):
            key = f"model.layers.{layer}.mlp.{name}"
            weights[key] = weights[key][list(experts)]
    other.load_state_dict(weights)
    return other
