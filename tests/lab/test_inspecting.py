"""What `inspect` says of a model, from its configuration alone, and of everything that is not one."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_configs import FURTHER, REFUSED, REQUIRED, build, config_of, shared
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from prereg_moe.cli import show
from prereg_moe.errors import Invalid
from prereg_moe.lab.capture import Recorder
from prereg_moe.lab.intervene import ByRow, Mask, Scope, Starved, guards, intervene
from prereg_moe.lab.intervene.plan import compile_plan
from prereg_moe.lab.models import MoE, Unsupported, discover
from prereg_moe.lab.models.outline import outline

Cli = Callable[..., Any]
PAGE = Path(__file__).parents[2] / "docs" / "interventions.md"
every_architecture = pytest.mark.parametrize(
    "name", [*REQUIRED, *(pytest.param(name, marks=pytest.mark.torture) for name in FURTHER)]
)


@cache
def outlined(name: str) -> MoE:
    return discover(outline(config_of(name)))


# ------------------------------------------------------------------ without weights


@every_architecture
def test_an_outline_tells_what_the_model_with_its_weights_tells(name: str) -> None:
    found, expected = (moe.describe() for moe in (outlined(name), discover(shared(name))))
    assert found["layers"] == expected["layers"]


@every_architecture
def test_it_counts_parameters_as_the_model_does(name: str) -> None:
    sizes = [sum(one.numel() for one in model.parameters()) for model in (outlined(name).model, shared(name))]
    assert sizes[0] == sizes[1]


@every_architecture
def test_renorm_stays_with_the_tokens_it_masks_where_that_is_said(name: str) -> None:
    """Every row is one token and masks, in one layer, one expert that its token does not select."""
    model = build(name, seed=3)
    moe = discover(model)
    layer = next(one for one in reversed(moe.layers) if not one.refusal)
    if layer.no_logits:
        pytest.skip("renorm is refused there")
    tokens = torch.arange(3, 128)[:, None]
    seen: list[Any] = []
    with torch.no_grad(), intervene(moe, recorder=Recorder(sink=seen.append), padding="none"):
        before = model(input_ids=tokens).logits
    (chosen,) = [one.experts for one in seen if one.layer == layer.index]
    idle = [[one for one in range(layer.n_experts) if one not in set(row)] for row in chosen.tolist()]
    masks = ByRow(tuple((Mask({layer.index: row[: layer.max_masked]}, "renorm"),) for row in idle))
    with torch.no_grad(), intervene(moe, masks, padding="none"):
        after = model(input_ids=tokens).logits
    assert bool((before - after).abs().max() < 2e-6) == layer.renorm_is_local


@pytest.mark.parametrize("name", ["olmoe", "deepseek_v2", "deepseek_v3", "dots1", "longcat_flash", "zaya"])
@pytest.mark.parametrize("gates", ["renorm", "original"])
def test_as_many_experts_can_be_masked_as_is_said(name: str, gates: Any) -> None:
    moe = outlined(name)
    layer = moe.layers[-1]
    size = layer.classes // layer.groups
    for first in range(0, layer.n_experts, size):  # the worst choice is whole groups
        cells = [(first + number) % layer.n_experts for number in range(layer.max_masked)]
        compile_plan(moe, [Mask({layer.index: cells}, gates)], Scope())
    if layer.max_masked < layer.n_experts and gates == "original":
        with pytest.raises(Starved):
            compile_plan(moe, [Mask({layer.index: range(layer.max_masked + 1)}, gates)], Scope())


def row_of(name: str) -> str:
    """Return an architecture's row of the page's table."""
    try:
        layers = outlined(name).layers
    except Invalid as error:
        return f"| {name} | | | | | | | | {error.problems[0]} |"
    layer = layers[-1]
    refused = "; ".join({f"layer {one.index}: {one.refusal}" for one in layers if one.refusal})
    extra = layer.classes - layer.n_experts
    cells = (
        name,
        type(layer.router).__name__,
        ", ".join(layer.steps),
        f"{layer.n_experts} + {extra} no-op" if extra else layer.n_experts,
        layer.top_k,
        f"{layer.groups_kept} of {layer.groups}" if layer.groups > 1 else "",
        "yes" if layer.normalised else "no",
        "" if layer.no_logits else "yes" if layer.renorm_is_local else "no",
        refused or (layer.no_logits and f"gates `renorm`: {layer.no_logits}"),
    )
    return f"| {' | '.join(map(str, cells))} |"


def test_the_page_lists_every_architecture_as_it_is_found(request: pytest.FixtureRequest) -> None:
    names = ("architecture", "router", "selection", "E", "k", "groups", "gates sum alike", "`renorm` local", "refused")
    rows = [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    table = "\n".join([*rows, *(row_of(name) for name in (*REQUIRED, *FURTHER, *REFUSED))])
    marked = re.compile("(?<=<!-- architectures -->\n).*?(?=\n<!-- end -->)", re.DOTALL)
    page = PAGE.read_text("utf-8")
    if request.config.getoption("--update"):
        PAGE.write_text(marked.sub(lambda _: table, page), encoding="utf-8")
    found = marked.search(PAGE.read_text("utf-8"))
    assert found is not None
    assert found[0] == table, "run `pytest tests/lab/test_inspecting.py --update`"


def test_the_page_says_of_every_guard_what_to_do() -> None:
    told = set(re.findall(r"^\| `(\w+)` \| [^|]+ \| [^|]+ \|$", PAGE.read_text("utf-8"), re.MULTILINE))
    assert {*guards.__all__, Unsupported.__name__} <= told


# ------------------------------------------------------------------ the command


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model with weights and a tokenizer."""
    folder = tmp_path_factory.mktemp("inspect") / "olmoe"
    build("olmoe").save_pretrained(folder)
    words = Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="a"))
    PreTrainedTokenizerFast(tokenizer_object=words).save_pretrained(folder)
    return folder


def described(name: str, folder: Path, **changes: Any) -> Path:
    """Write the configuration of an architecture alone."""
    config_of(name, **changes).save_pretrained(folder)
    return folder


def looked_at(run_cli: Cli, *arguments: object) -> Any:
    said = run_cli("inspect", *arguments, "--json")
    return json.loads(said.out.splitlines()[-1])


def test_a_whole_model_is_described(whole: Path, run_cli: Cli) -> None:
    said = run_cli("inspect", whole)
    assert said.code == 0
    assert "OlmoeForCausalLM (olmoe)" in said.out
    assert "whole by their names and shapes" in said.out
    assert "any 5 of 8 experts" in said.out
    assert "register original" in said.out
    found = looked_at(run_cli, whole)
    assert found["weights"] is True
    assert found["size"]["stored_bytes"] == (whole / "model.safetensors").stat().st_size
    assert found["size"]["parameters"] == sum(one.numel() for one in shared("olmoe").parameters())
    assert found["maskable_layers"] == [0, 1, 2]
    assert found["layers"][0]["gates"] == ["renorm", "original"]
    assert set(found["layers"][0]["operators"].values()) == {""}


def test_a_model_larger_than_any_laptop_is_described_from_its_configuration(tmp_path: Path, run_cli: Cli) -> None:
    large = {"num_experts": 512, "moe_intermediate_size": 8192, "hidden_size": 4096, "num_hidden_layers": 2}
    found = looked_at(run_cli, described("qwen3_moe", tmp_path, **large))
    assert found["weights"] is False
    assert found["size"]["parameters"] > 100e9
    assert found["size"]["active"] < 2e9
    assert found["layers"][0]["max_masked"] == 509


def test_alike_layers_are_told_once(tmp_path: Path, run_cli: Cli) -> None:
    said = run_cli("inspect", described("qwen3_moe", tmp_path, num_hidden_layers=48, mlp_only_layers=[1]))
    assert said.out.count("Qwen3MoeTopKRouter") == 1
    assert "47 layers: 0,2-47" in said.out
    assert "dense, nothing to mask: layers 1" in said.out
    assert "no weights here" in said.out


def test_a_refused_layer_cannot_be_overlooked(tmp_path: Path, run_cli: Cli) -> None:
    folder = described("deepseek_v4", tmp_path)
    said = run_cli("inspect", folder)
    assert said.code == 0
    assert "layer 0  CANNOT BE MASKED" in said.out
    assert "DeepseekV4HashRouter selects experts without comparing scores" in said.out
    found = looked_at(run_cli, folder)
    assert found["maskable_layers"] == [1, 2, 3]
    refused = found["layers"][0]
    assert (refused["gates"], refused["max_masked"]) == ([], 0)
    possible = {name for name, why in refused["operators"].items() if not why}
    assert possible == {"Scale", "Mean", "Resample", "Noise", "SkipSlots"}


def test_a_model_of_which_nothing_can_be_masked_is_not_a_success(tmp_path: Path, run_cli: Cli) -> None:
    folder = described("deepseek_v4", tmp_path, mlp_layer_types=["hash_moe"] * 4)
    said = run_cli("inspect", folder)
    assert said.code == 2
    assert (
        "No layer of this model can be masked; a registration can still have its experts contribute `zero`" in said.out
    )
    assert run_cli("inspect", folder, "--json").code == 2


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("longcat_flash", "8 and 2 no-op classes, 3 a token"),
        ("inkling_text", "register original; renorm is refused: InklingTopkRouter makes 0 linear maps"),
        ("llama4_text", "gates multiply what goes into the experts"),
        ("llama4_text", "Mean, Resample, Noise: not exact"),
        ("deepseek_v3", "searches 2 of 4"),
        ("deepseek_v3", "any 6 of 16 experts, more where they are spread over groups"),
        ("dbrx", "in the block"),
        ("phimoe", "TopK: its k is fixed in its code"),
        ("qwen2_moe", "shared by all tokens: shared_expert"),
    ],
)
def test_what_a_researcher_must_know_is_said(name: str, text: str, tmp_path: Path, run_cli: Cli) -> None:
    out = run_cli("inspect", described(name, tmp_path)).out
    assert text in " ".join(out.split())


def test_it_fits_a_narrow_terminal(whole: Path, run_cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(show.out, "width", 50)
    paragraph = run_cli("inspect", whole).out.split("\n\n")[1]
    assert max(map(len, paragraph.splitlines())) <= 50
    assert "Mask, KeepOnly," in paragraph


# ------------------------------------------------------------------ names


def test_a_name_of_the_hub_is_looked_up_in_its_cache(
    whole: Path, tmp_path: Path, run_cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    said = run_cli("inspect", "org/model")
    assert said.code == 2
    assert said.lines == [
        "error: org/model: is neither a folder here nor one model in the hub's local cache; nothing is downloaded"
        " here, and config.json is enough to inspect it: hf download org/model config.json"
    ]
    assert "is not a folder here; give the folder" in run_cli("inspect", "./model").err, "no name of the hub"
    cache, commits = tmp_path / "models--org--model", ("a" * 40, "b" * 40)
    for commit in commits:
        shutil.copytree(whole, cache / "snapshots" / commit)
    assert run_cli("inspect", "org/model").code == 2  # two commits, and none is named
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text(commits[1])
    assert looked_at(run_cli, "org/model")["folder"].endswith(commits[1])
    assert looked_at(run_cli, f"hf:org/model@{commits[0]}")["folder"].endswith(commits[0])
    assert "write hf:ORG/NAME@" in run_cli("inspect", "hf:org/model").err


def test_an_embedded_model_is_named_as_in_a_registration(run_cli: Cli) -> None:
    assert looked_at(run_cli, "testbed:models/standard")["model_type"] == "qwen3_moe"


# ------------------------------------------------------------------ what is no model


def weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def configured(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")


OWN = {"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"}
BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "no config.json": (lambda f: (f / "config.json").unlink(), "has no config.json; give the folder"),
    "a config.json that is not JSON": (lambda f: (f / "config.json").write_text("{"), "its config.json cannot be read"),
    "a config.json that is a list": (lambda f: (f / "config.json").write_text("[]"), "its config.json cannot be read"),
    "a config.json of other bytes": (
        lambda f: (f / "config.json").write_bytes(b"\xff\xfe\0"),
        "its config.json cannot",
    ),
    "a model type nobody knows": (lambda f: configured(f, model_type="megamoe"), "`megamoe`"),
    "code of its own": (lambda f: configured(f, model_type="mine", auto_map=OWN), "code of its own (auto_map)"),
    "a model without a causal form": (lambda f: configured(f, model_type="vit"), "vit has no causal language model"),
    "a number that is text": (lambda f: configured(f, num_experts="many"), "expected int, got str (value: 'many')"),
    "more experts a token than there are": (lambda f: configured(f, num_experts_per_tok=9), "its own forward fails"),
    "no layers": (lambda f: configured(f, num_hidden_layers=0), "is dense, or keeps its experts in another way"),
    "weights that lack one": (lambda f: weights(f, lambda t: t.pop("lm_head.weight")), "1 weights are missing"),
    "weights of another shape": (
        lambda f: weights(f, lambda t: t.update({"lm_head.weight": t["lm_head.weight"][:5].clone()})),
        "1 weights are mismatched, the first is lm_head.weight",
    ),
    "weights cut short": (lambda f: cut(f / "model.safetensors"), "its weights cannot be read"),
    "a pointer in place of weights": (
        lambda f: (f / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n"),
        "its weights cannot be read",
    ),
    "pickled weights": (pickled, "get the whole checkpoint, as safetensors"),
    "no tokenizer": (lambda f: [path.unlink() for path in f.glob("token*")], "its tokenizer turns text into no tokens"),
    "a broken tokenizer": (lambda f: (f / "tokenizer.json").write_text("{"), "its tokenizer cannot be read"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_folder_is_one_line(name: str, whole: Path, tmp_path: Path, run_cli: Cli) -> None:
    damage, reason = BAD[name]
    folder = Path(shutil.copytree(whole, tmp_path / "model"))
    damage(folder)
    said = run_cli("inspect", folder)
    assert said.code == 2
    assert len(said.lines) == 1, said.err
    assert reason in said.err
    assert "; " in said.err, "what to do"
    assert said.out == ""


@pytest.mark.parametrize("name", REFUSED)
def test_a_model_without_one_router_a_layer_is_refused(name: str, tmp_path: Path, run_cli: Cli) -> None:
    said = run_cli("inspect", described(name, tmp_path))
    assert said.code == 2
    assert all(line.startswith("error: ") and "; " in line for line in said.lines)
    assert REFUSED[name][1] in said.err


def test_a_configuration_its_own_code_cannot_run_is_one_line(tmp_path: Path, run_cli: Cli) -> None:
    configured(described("deepseek_v3", tmp_path), n_group=0)
    said = run_cli("inspect", tmp_path)
    assert (said.code, len(said.lines)) == (2, 1)
    assert "its own forward fails" in said.err


def test_what_is_no_folder_is_one_line(tmp_path: Path, run_cli: Cli) -> None:
    (tmp_path / "file").write_text("")
    for model, reason in (("file", "is a file; give the folder that holds it"), ("none", "is not a folder here")):
        said = run_cli("inspect", tmp_path / model)
        assert (said.code, len(said.lines)) == (2, 1)
        assert reason in said.err


def test_problems_are_one_json_document_where_asked(tmp_path: Path, run_cli: Cli) -> None:
    found = looked_at(run_cli, tmp_path)
    assert found["exit_code"] == 2
    assert found["problems"][0]["found"] == "has no config.json"
