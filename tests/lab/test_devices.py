"""Models that accelerate spreads out: interventions, captures and engines act in them as in a model in one place.

There is one device here. Layers are held in main memory or on disk and handed in when they are needed, by the same
hooks that move tensors from one device to the next.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import accelerate
import numpy as np
import pytest
import torch
import transformers
from test_engines import TOLERANCE, cases_of, farthest, plainly, reference, requests_of, sweep
from tiny_configs import build, shared

from prereg_moe.errors import Invalid, Stopped
from prereg_moe.lab import testbed
from prereg_moe.lab.capture import Recorder
from prereg_moe.lab.intervene import Force, Intervention, Mask, Mean, intervene
from prereg_moe.lab.models import MoE, discover, load_model

NAMES = ("qwen3_moe", "olmoe", "deepseek_v3")
STANDARD = Path(testbed.__file__).parent / "models/standard"
IDS = torch.arange(3, 40).view(1, -1)


@functools.cache
def spread(name: str, folder: Path) -> MoE:
    """Return a model whose layers lie in memory and on disk in turns; on disk is meta between forwards."""
    model = build(name)
    parts = [part for part, _ in model.model.named_children() if part != "layers"]
    places: dict[str, Any] = dict.fromkeys((*(f"model.{part}" for part in parts), "lm_head"), "cpu")
    places |= {f"model.layers.{one}": "disk" if one % 2 else "cpu" for one in range(len(model.model.layers))}
    accelerate.dispatch_model(model, places, main_device="cpu", offload_dir=folder / name, force_hooks=True)
    assert any(weight.is_meta for weight in model.parameters())
    return discover(model)


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("disk")


@pytest.mark.parametrize("name", NAMES)
def test_the_same_is_found_and_computed(name: str, disk: Path) -> None:
    moe, whole, requests = spread(name, disk), discover(shared(name)), requests_of()
    assert moe.describe() == whole.describe()
    assert farthest(plainly(moe.model, requests), plainly(whole.model, requests)) <= TOLERANCE
    gates = "original" if name == "deepseek_v3" else "renorm"
    engine = sweep(moe, requests)
    assert engine.exact == sweep(whole, requests).exact
    for case, found in zip(cases_of(moe, gates), engine.answer(cases_of(moe, gates)), strict=True):
        assert found.record is not None
        assert found.record["computed_by"] == "sweep"
        assert farthest(found.answers, reference(whole, requests, case.interventions)) <= TOLERANCE


@pytest.mark.parametrize("layer", [0, 1], ids=["in memory", "on disk"])
def test_every_guard_counts_as_in_one_place(layer: int, disk: Path) -> None:
    moe, whole = spread("qwen3_moe", disk), discover(shared("qwen3_moe"))
    for operator in (Mask({layer: (0, 3)}), Force({layer: (4,)}), Mean({layer: (1,)}, {layer: np.full((8, 32), 0.3)})):
        proofs, logits = zip(*(_under(one, operator) for one in (moe, whole)), strict=True)
        assert proofs[0] == proofs[1]
        assert torch.allclose(logits[0], logits[1], atol=1e-4)


def _under(moe: MoE, operator: Intervention) -> tuple[Any, torch.Tensor]:
    with torch.inference_mode(), intervene(moe, operator) as session:
        logits = moe.model(input_ids=IDS, use_cache=False).logits
    return session.proof(), logits


def test_routing_is_captured_as_in_one_place(disk: Path) -> None:
    found = []
    for moe in (spread("qwen3_moe", disk), discover(shared("qwen3_moe"))):
        recorder = Recorder()
        with torch.inference_mode(), intervene(moe, recorder=recorder):
            moe.model(input_ids=IDS, use_cache=False)
        found.append(recorder.totals().counts)
    np.testing.assert_array_equal(*found)


def test_a_router_on_disk_that_decides_elsewhere_is_caught(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moe = spread("qwen3_moe", disk)
    router: Any = moe.layer(1).router
    own = router._old_forward  # what accelerate calls once the weights are there

    def stubborn(*args: Any) -> Any:
        logits, gates, index = own(*args)
        return logits, gates, torch.arange(index.shape[-1]).expand_as(index)

    monkeypatch.setattr(router, "_old_forward", stubborn)
    found = r"layer 1 .*masked experts were selected 37 times"
    with torch.inference_mode(), pytest.raises(Stopped, match=found), intervene(moe, Mask({1: (0,)})):
        moe.model(input_ids=IDS, use_cache=False)


def test_a_registered_model_is_spread_and_computes_the_same() -> None:
    one, two = (load_model(STANDARD, device=device)[0] for device in ("cpu", "auto"))
    with torch.inference_mode():
        assert torch.equal(one(input_ids=IDS).logits, two(input_ids=IDS).logits)


def test_a_model_whose_embedding_fits_nowhere_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def elsewhere(*_: Any, **__: Any) -> Any:
        return accelerate.cpu_offload(build("qwen3_moe"), torch.device("cpu")), {}

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", elsewhere)
    with pytest.raises(Invalid, match="no device can hold even the embedding"):
        load_model(STANDARD, device="auto")


def test_a_model_offloaded_whole_is_found_masked_and_recorded() -> None:
    whole, away = discover(shared("qwen3_moe")), build("qwen3_moe")
    accelerate.cpu_offload(away, execution_device=torch.device("cpu"))
    assert all(weight.is_meta for weight in away.parameters())
    found, seen = discover(away), []
    for moe in (whole, found):
        recorder = Recorder(softmax=True, pairs=True, outputs=True)
        with torch.no_grad(), intervene(moe, Mask({0: [1, 2], 2: [3]}), recorder=recorder):
            seen.append((moe.model(IDS).logits, recorder.totals().arrays()))
    assert torch.equal(seen[0][0], seen[1][0])
    for name, value in seen[0][1].items():
        np.testing.assert_array_equal(value, seen[1][1][name], err_msg=name)
