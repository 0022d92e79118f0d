"""Finding routed layers by structure, refusing by name, and loading a folder whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from oracles import fingerprint
from safetensors.torch import load_file, save_file
from tiny_configs import CONFIGS, FURTHER, REFUSED, REQUIRED, build, shared
from tokenizers import Tokenizer, models
from torch import nn
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

from prereg_moe.errors import Invalid, Stopped
from prereg_moe.lab.capture import Recorder
from prereg_moe.lab.intervene import Mask, Scale, intervene
from prereg_moe.lab.models import Unsupported, discover, load_model

# What the table of architectures says: decoder layers that route, experts, k, (groups, kept, votes).
TABLE: dict[str, tuple[tuple[int, ...], int, int, tuple[int, int, int]]] = {
    "mixtral": ((0, 1, 2), 8, 2, (1, 1, 0)),
    "olmoe": ((0, 1, 2), 8, 3, (1, 1, 0)),
    "qwen2_moe": ((0, 1, 2), 8, 3, (1, 1, 0)),
    "qwen3_moe": ((0, 1, 2), 8, 3, (1, 1, 0)),
    "qwen3_next": ((0, 1, 2, 3), 8, 3, (1, 1, 0)),
    "deepseek_v2": ((1, 2), 8, 2, (4, 2, 1)),
    "deepseek_v3": ((1, 2), 16, 2, (4, 2, 2)),
    "gpt_oss": ((0, 1, 2), 8, 2, (1, 1, 0)),
    "granitemoe": ((0, 1, 2), 8, 2, (1, 1, 0)),
    "phimoe": ((0, 1, 2), 8, 2, (1, 1, 0)),
    "glm4_moe": ((1, 2), 8, 2, (1, 1, 0)),
    "ernie4_5_moe": ((1, 2), 8, 2, (1, 1, 0)),
    "jamba": ((1, 3), 8, 2, (1, 1, 0)),
    "dbrx": ((0, 1, 2), 8, 2, (1, 1, 0)),
    "llama4_text": ((0, 1, 2, 3), 8, 1, (1, 1, 0)),
    "minimax": ((0, 1, 2), 8, 2, (1, 1, 0)),
    "hunyuan_v1_moe": ((0, 1, 2), 8, 2, (1, 1, 0)),
    "dots1": ((1, 2), 8, 2, (2, 1, 2)),
    "flex_olmo": ((0, 1, 2), 8, 3, (1, 1, 0)),
    "cohere2_moe": ((0, 1, 2), 8, 2, (1, 1, 0)),
    "lfm2_moe": ((1, 2, 3), 8, 2, (1, 1, 0)),
    "nemotron_h": ((1, 3), 16, 2, (4, 2, 2)),
}


@pytest.mark.parametrize("name", REQUIRED)
def test_what_is_found(name: str) -> None:
    moe = discover(shared(name))
    layers, experts, k, groups = TABLE[name]
    assert moe.indices == layers
    for layer in moe.layers:
        assert (layer.n_experts, layer.classes, layer.top_k) == (experts, experts, k)
        assert (layer.groups, layer.groups_kept, layer.group_votes) == groups
        assert layer.selects == ("block" if name == "dbrx" else "router")
        assert layer.takes == ("gated inputs" if name == "llama4_text" else "indices")
        assert not layer.refusal
        assert not layer.no_logits


@pytest.mark.torture
@pytest.mark.parametrize("name", FURTHER)
def test_every_other_architecture_is_found(name: str) -> None:
    moe = discover(shared(name))
    assert moe.layers
    refused = {layer.index for layer in moe.layers if layer.refusal}
    assert refused == ({0} if name == "deepseek_v4" else set())


@pytest.mark.parametrize("name", REFUSED)
def test_other_layouts_are_refused_by_name(name: str) -> None:
    with pytest.raises(Unsupported, match=REFUSED[name][1]):
        discover(shared(name))


@pytest.mark.torture
def test_no_causal_language_model_with_experts_is_forgotten() -> None:
    """Every class whose code says `self.experts =` is in tiny_configs, or wraps one that is."""
    wrappers = {"dots3_note", "gemma4", "llama4", "qwen3_5_moe", "qwen4_exp"}
    known = set(CONFIGS) | wrappers
    missing = set()
    for config, model in MODEL_FOR_CAUSAL_LM_MAPPING.items():
        for kind in model if isinstance(model, tuple) else (model,):
            source = Path(__import__("sys").modules[kind.__module__].__file__ or "").read_text()
            if "self.experts =" in source and f"class {kind.__name__}(" in source and config.model_type not in known:
                missing.add(config.model_type)
    assert missing == set()


def test_discovery_leaves_the_model_as_it_was() -> None:
    for name in ("qwen3_moe", "dbrx", "llama4_text"):
        mark = fingerprint(shared(name))
        state = torch.random.get_rng_state()
        discover(shared(name))
        assert fingerprint(shared(name)) == mark
        assert torch.equal(torch.random.get_rng_state(), state)


def test_the_description_is_json_and_says_what_matters() -> None:
    described = json.loads(json.dumps(discover(shared("deepseek_v3")).describe()))
    assert described["model"] == "DeepseekV3ForCausalLM"
    assert described["experts_implementation"] == "grouped_mm"
    layer = described["layers"][0]
    assert layer["layer"] == 1
    assert layer["router"] == "DeepseekV3TopkRouter"
    assert layer["gates_normalised"] is True
    assert layer["shared"] == ["shared_experts"]
    assert layer["steps"] == ["linear to 16", "sigmoid", "topk2 of 4×4", "topk2 of 4", "topk2 of 16"]
    assert discover(shared("olmoe")).describe()["layers"][0]["gates_normalised"] is False


class Toy(nn.Module):
    """A model around one decoder layer."""

    def __init__(self, *blocks: nn.Module) -> None:
        super().__init__()
        self.embed = nn.Embedding(16, 4)
        self.layers = nn.ModuleList(blocks)
        self.eval()

    def get_input_embeddings(self) -> nn.Module:
        return self.embed

    def forward(self, input_ids: torch.Tensor, use_cache: bool = False) -> torch.Tensor:
        hidden = self.embed(input_ids).flatten(0, 1)
        for block in self.layers:
            hidden = block(hidden)
        return hidden


class Experts(nn.Module):
    num_experts = 4

    def forward(self, hidden: torch.Tensor, index: torch.Tensor, gates: torch.Tensor) -> torch.Tensor:
        return hidden * gates.sum(-1, keepdim=True)


class Inside(Experts):
    def forward(self, hidden: torch.Tensor, index: torch.Tensor, gates: torch.Tensor) -> torch.Tensor:
        return super().forward(hidden, index, gates).tanh()


class Adapted(nn.Linear):
    def __init__(self) -> None:
        super().__init__(4, 4)
        self.low, self.high = nn.Linear(4, 2), nn.Parameter(torch.randn(1, 2, 4))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return super().forward(hidden) + torch.bmm(self.low(hidden)[None], self.high)[0]


class Block(nn.Module):
    """A plain block; ``how`` makes it odd."""

    def __init__(self, how: str = "") -> None:
        super().__init__()
        self.how = how
        self.gate = nn.Linear(4, 4)
        self.experts: nn.Module = nn.ModuleList([nn.Linear(4, 4) for _ in range(4)]) if how == "list" else Experts()
        if how == "two routers":
            self.router = nn.Linear(4, 4)
        if how == "nested":
            self.inner = Block()

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        scores = self.gate(hidden)
        if self.how == "random":
            scores = scores + torch.randn_like(scores)
        if self.how == "capped":
            scores = scores.tanh()
        if self.how == "functional":
            scores = hidden @ self.gate.weight.T
        gates, index = scores.softmax(-1).topk(3 if self.how == "greedy" and len(hidden) > 40 else 2)
        if self.how == "capacity" and len(hidden) > 40:
            gates, index = scores.softmax(-1).topk(2, sorted=False)
        if self.how == "empty slots" and len(hidden) > 40:
            index = torch.where(gates < gates.max(), -1, index)
        if self.how == "chooses tokens":
            gates, index = scores.softmax(-1).T[:3].topk(2)
        if self.how == "keywords":
            return self.experts(hidden, index=index, gates=gates)
        if self.how == "twice":
            self.experts(hidden, index, gates)
        if self.how == "fused":
            return hidden
        if self.how == "chooses tokens":
            return self.experts(hidden[:3], index, gates)
        if self.how == "strange":
            return self.experts(hidden, index.float(), gates)
        return self.experts(hidden, gates, index) if self.how == "swapped" else self.experts(hidden, index, gates)


class TestLayouts:
    def test_a_plain_one_is_found(self) -> None:
        assert discover(Toy(Block(), Block())).indices == (0, 1)

    def test_arguments_of_experts_may_be_swapped(self) -> None:
        assert discover(Toy(Block("swapped"))).layers[0].top_k == 2

    @pytest.mark.parametrize(
        ("how", "reason"),
        [
            ("list", "layers.0: Block keeps ModuleList beside"),
            ("two routers", "beside .*gate.*router"),
            ("nested", "layer 0: routes twice: layers.0 and layers.0.inner"),
            ("keywords", "called with keywords"),
            ("twice", "called the experts 2 times"),
            ("fused", "called the experts 0 times"),
            ("strange", "neither top-k indices nor"),
            ("random", "draws random numbers in evaluation mode"),
            ("chooses tokens", r"hands its experts \(3, 2\) slots for 32 tokens"),
        ],
    )
    def test_odd_ones_are_refused(self, how: str, reason: str) -> None:
        with pytest.raises(Unsupported, match=reason):
            discover(Toy(Block(how)))

    @pytest.mark.parametrize(
        ("how", "reason"),
        [
            ("greedy", "selected 3 experts, not 2"),
            ("capacity", "compared experts 2 times, 1 times when discovered"),
            ("empty slots", "selected experts below 0"),
        ],
    )
    def test_a_router_that_is_another_in_a_long_batch_stops_the_run(self, how: str, reason: str) -> None:
        model = Toy(Block(how))
        moe, ids = discover(model), torch.arange(48).view(2, 24) % 16
        with intervene(moe, Mask({0: [0]})):
            model(ids[:1])
            with pytest.raises(Stopped, match=reason):
                model(ids)

    def test_experts_that_use_gates_in_another_way_are_not_edited(self) -> None:
        block = Block()
        block.experts = Inside()
        moe = discover(Toy(block))
        with pytest.raises(Unsupported, match="not proportional to their gates"):
            intervene(moe, Scale({0: [0]}, 0.5))
        intervene(moe, Mask({0: [0]}))

    def test_capped_logits_cannot_be_removed(self) -> None:
        moe = discover(Toy(Block("capped")))
        with pytest.raises(Unsupported, match="caps its logits"):
            intervene(moe, Mask({0: [0]}))
        intervene(moe, Mask({0: [0]}, "original"))

    def test_an_adapter_of_the_router_is_a_second_map(self) -> None:
        """As LoRA writes one: the logits are a sum that no single call gives."""
        block = Block()
        block.gate = Adapted()
        moe = discover(Toy(block))
        with pytest.raises(Unsupported, match="makes 2 linear maps onto 4 classes"):
            intervene(moe, Mask({0: [0]}))
        with pytest.raises(Invalid, match="logits cannot be told"), intervene(moe, recorder=Recorder(softmax=True)):
            pass
        with intervene(moe, Mask({0: [0]}, "original"), recorder=Recorder()) as session:
            session.batch(mask=torch.ones(1, 6, dtype=torch.bool))
            moe.model(torch.arange(6)[None])
            assert session.proof().leaks == 0

    def test_layers_that_share_or_run_twice_are_refused(self) -> None:
        one, two = Block(), Block()
        with pytest.raises(Unsupported, match="layers that run twice"):
            discover(Toy(one, one))
        two.gate = one.gate
        with pytest.raises(Unsupported, match=r"layer 1 .*shares its Linear with layer 0"):
            discover(Toy(one, two))

    def test_a_compiled_model_is_refused(self) -> None:
        model = Toy(Block())
        model.layers[0].compile(backend="eager")
        with pytest.raises(Unsupported, match="compiled"):
            discover(model)

    def test_a_model_in_training_mode_is_refused(self) -> None:
        with pytest.raises(Invalid, match="training mode"):
            discover(Toy(Block()).train())

    def test_a_layer_that_does_not_route_has_no_name(self) -> None:
        with pytest.raises(Invalid, match="layer 1: is not an MoE layer"):
            discover(Toy(Block())).layer(1)


@pytest.fixture(autouse=True, scope="module")
def quiet() -> Any:
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    yield
    if bars:
        transformers_logging.enable_progress_bar()


def save(name: str, folder: Path) -> Any:
    model = build(name)
    model.save_pretrained(folder)
    words = Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="a"))
    PreTrainedTokenizerFast(tokenizer_object=words).save_pretrained(folder)
    return model


class TestLoading:
    @pytest.mark.parametrize("name", ["olmoe", "deepseek_v3", "dbrx"])
    def test_a_folder_comes_back_to_the_bit(self, name: str, tmp_path: Path) -> None:
        model = save(name, tmp_path)
        loaded, tokenizer = load_model(tmp_path)
        ids = torch.arange(3, 9)[None]
        with torch.no_grad():
            assert torch.equal(loaded(ids).logits, model(ids).logits)
        assert not loaded.training
        assert tokenizer("a").input_ids == [0]

    def test_dtype_and_implementation(self, tmp_path: Path) -> None:
        save("olmoe", tmp_path)
        loaded, _ = load_model(tmp_path, dtype="bfloat16", experts_implementation="batched_mm")
        assert loaded.dtype == torch.bfloat16
        assert discover(loaded).implementation == "batched_mm"

    @pytest.mark.parametrize(
        ("options", "reason"),
        [
            ({"dtype": "int8"}, "'int8' is not a dtype"),
            ({"experts_implementation": "fast"}, "'fast' is not an implementation"),
            ({"device": "nowhere"}, "'nowhere' cannot hold the model"),
        ],
    )
    def test_wrong_options(self, options: dict[str, str], reason: str, tmp_path: Path) -> None:
        save("olmoe", tmp_path)
        with pytest.raises(Invalid, match=reason):
            load_model(tmp_path, **options)  # type: ignore[arg-type]

    def test_no_folder_and_an_empty_one(self, tmp_path: Path) -> None:
        with pytest.raises(Invalid, match="is not a folder"):
            load_model(tmp_path / "none")
        with pytest.raises(Invalid, match=r"has no config.json"):
            load_model(tmp_path)

    @pytest.mark.parametrize("damage", ["missing", "mismatched", "cut", "gone", "config", "pickle", "remote"])
    def test_damaged_folders(self, damage: str, tmp_path: Path) -> None:
        save("olmoe", tmp_path)
        weights, config = tmp_path / "model.safetensors", tmp_path / "config.json"
        if damage in {"missing", "mismatched"}:
            tensors = load_file(weights)
            first = tensors.pop("lm_head.weight")
            if damage == "mismatched":
                tensors["lm_head.weight"] = first[:5].contiguous()
            save_file(tensors, weights, metadata={"format": "pt"})
        elif damage == "cut":
            weights.write_bytes(weights.read_bytes()[:1000])
        elif damage == "gone":
            weights.unlink()
        elif damage == "config":
            config.write_text("{")
        elif damage == "pickle":
            torch.save(load_file(weights), tmp_path / "pytorch_model.bin")
            weights.unlink()
        else:
            code = json.loads(config.read_text()) | {
                "model_type": "mine",
                "auto_map": {"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"},
            }
            config.write_text(json.dumps(code))
            (tmp_path / "code.py").write_text("raise SystemExit('this ran')")
        with pytest.raises(Invalid) as caught:
            load_model(tmp_path)
        assert str(tmp_path) in str(caught.value)
        if damage in {"missing", "mismatched"}:
            assert f"1 weights are {damage}, the first is lm_head.weight" in str(caught.value)

    def test_a_model_that_is_no_language_model(self, tmp_path: Path) -> None:
        (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit"}))
        with pytest.raises(Invalid, match="vit has no causal language model"):
            load_model(tmp_path)
