"""The shipped testbed is what its manifests say, loads offline, and scores through lm-eval."""

from __future__ import annotations

import json
import math
import zipfile
from pathlib import Path
from typing import Any

import pytest

from prereg_moe.canonical import digest_file
from prereg_moe.errors import NotCheckable
from prereg_moe.lab import testbed
from prereg_moe.lab.testbed import AXES, CHECKPOINTS, CORPORA, CORPUS_NAMES, MODELS, TASKS
from prereg_moe.lab.testbed.extract import extract
from prereg_moe.lab.testbed.sources import Source, Wheel

MB = 1_000_000


def passages(corpus: str, axis: str) -> list[dict[str, str]]:
    with testbed.corpus_file(corpus, axis).open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def corpora() -> dict[tuple[str, str], list[dict[str, str]]]:
    return {(corpus, axis): passages(corpus, axis) for corpus in CORPUS_NAMES for axis in AXES}


@pytest.fixture(scope="module")
def corpora_manifest() -> Any:
    return json.loads((CORPORA / "manifest.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def models_manifest() -> Any:
    return json.loads((MODELS / "manifest.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def scored() -> Any:
    """The first six passages of every task, scored by lm-eval on the standard model, and the model."""
    pytest.importorskip("lm_eval")
    return score(TASKS, [testbed.task_name(axis, corpus) for axis in AXES for corpus in CORPUS_NAMES], limit=6)


class TestCorpora:
    def test_every_file_has_the_digest_and_size_in_the_manifest(self, corpora_manifest, corpora):
        assert {f"{corpus}/{axis}.jsonl" for corpus, axis in corpora} == set(corpora_manifest["files"])
        for name, entry in corpora_manifest["files"].items():
            assert digest_file(CORPORA / name) == entry["sha256"]
            assert len(corpora[name[0], name[2:].removesuffix(".jsonl")]) == entry["passages"]

    def test_every_axis_has_150_passages_with_unique_ids(self, corpora):
        ids = [item["id"] for items in corpora.values() for item in items]
        assert len(ids) == len(set(ids))
        for (corpus, axis), items in corpora.items():
            assert len(items) >= 150
            assert all(item["id"].startswith(f"{corpus}-{axis}-") and item["text"].strip() for item in items)

    def test_no_passage_occurs_twice_in_or_across_the_corpora(self, corpora):
        texts = [item["text"] for items in corpora.values() for item in items]
        assert len(texts) == len(set(texts))

    def test_no_source_serves_both_b_and_anything_else(self, corpora_manifest):
        of_b = {s["package"] for s in corpora_manifest["sources"] if s["use"] == "B"}
        others = {s["package"] for s in corpora_manifest["sources"] if s["use"] != "B"}
        assert of_b
        assert of_b.isdisjoint(others)

    def test_every_source_ships_its_licence(self, corpora_manifest):
        for source in corpora_manifest["sources"]:
            assert source["licence"] in {"Apache-2.0", "BSD-3-Clause", "MIT"}
            assert source["sha256"].startswith("sha256:")
            assert source["licence_files"]
            assert all(len((CORPORA / name).read_text(encoding="utf-8")) > 100 for name in source["licence_files"])

    def test_the_shipped_text_is_small(self):
        assert sum(path.stat().st_size for path in CORPORA.rglob("*") if path.is_file()) < 1.5 * MB


class TestExtraction:
    """Passages from two small wheels made here: one for training, one for corpus B."""

    WORDS = ("la casa de los gatos", "el perro del vecino", "una carta para la escuela", "los libros en la mesa")

    def wheel(self, folder: Path, use: str, messages: list[str]) -> Wheel:
        path = folder / f"{use}-1.0-py3-none-any.whl"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("pkg/translations/es.json", json.dumps(messages))
            archive.writestr("bundled/translations/es.json", json.dumps(["el texto de otra gente en la misma rueda"]))
            archive.writestr(f"{use}-1.0.dist-info/LICENSE", "Do as you like.")
        return Wheel(Source(use, "1.0", "MIT", use, ("messages",), folder="pkg/"), path)

    def test_what_begins_like_training_text_is_not_in_b(self, tmp_path):
        shared = [f"{words} número {n} que es de la primera serie" for n in range(8) for words in self.WORDS]
        own = [f"{n} {words} que sólo se usa para la prueba" for n in range(8) for words in self.WORDS]
        train = self.wheel(tmp_path, "train", shared)
        corpora = extract([train, self.wheel(tmp_path, "B", [text + " y más" for text in shared] + own)])
        assert "primera serie" in " ".join(corpora["train"]["es"])
        assert "prueba" in " ".join(corpora["B"]["es"])
        assert "primera serie" not in " ".join(corpora["B"]["es"])

    def test_only_the_sources_own_folder_is_read(self, tmp_path):
        wheel = self.wheel(tmp_path, "train", ["la única frase de la prueba que es larga"])
        assert [name for name, _ in wheel.members(".json")] == ["pkg/translations/es.json"]
        assert wheel.licences() == {"LICENSE": b"Do as you like."}

    def test_a_wheel_without_a_licence_is_refused(self, tmp_path):
        path = tmp_path / "x-1.0-py3-none-any.whl"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("pkg/__init__.py", "")
        with pytest.raises(NotCheckable, match="no licence text"):
            Wheel(Source("x", "1.0", "MIT", "B", ()), path).licences()


class TestModels:
    def test_every_file_has_the_digest_in_the_manifest(self, models_manifest):
        assert set(models_manifest["checkpoints"]) == set(CHECKPOINTS)
        for name, entry in models_manifest["checkpoints"].items():
            assert {path.name for path in (MODELS / name).iterdir()} == set(entry["files"])
            assert all(digest_file(MODELS / name / file) == sha for file, sha in entry["files"].items())

    def test_the_three_are_at_most_25_megabytes_and_hold_no_pickle(self):
        files = [path for path in MODELS.rglob("*") if path.is_file()]
        assert sum(path.stat().st_size for path in files) <= 25 * MB
        assert {path.suffix for path in files} <= {".json", ".safetensors"}

    def test_the_table_says_what_a_control_must(self, models_manifest):
        table = {name: entry["ablation_on_B"]["axes"] for name, entry in models_manifest["checkpoints"].items()}
        for axis in AXES:
            planted, randomised = table["planted"][axis], table["randomised"][axis]
            assert planted["equals_planted"]
            assert planted["on"] > 0.4
            assert planted["on"] > 3 * planted["worst_off"]
            assert planted["on"] - planted["null_mean"] > 0.05
            assert planted["worst_off"] < 0.03
            assert max(map(abs, randomised["effects"].values())) < 0.02

    def test_the_three_share_one_tokenizer(self):
        assert len({digest_file(MODELS / name / "tokenizer.json") for name in CHECKPOINTS}) == 1

    @pytest.mark.parametrize("name", CHECKPOINTS)
    def test_a_checkpoint_loads_offline_in_an_ordinary_way(self, name):
        transformers = pytest.importorskip("transformers")
        model = transformers.AutoModelForCausalLM.from_pretrained(MODELS / name, local_files_only=True)
        tokenizer = transformers.AutoTokenizer.from_pretrained(MODELS / name, local_files_only=True)
        assert model.config.model_type == "qwen3_moe"
        assert model.config.num_hidden_layers == testbed.LAYERS
        assert model.config.num_experts == len(AXES) * testbed.EXPERTS_PER_FAMILY
        text = "مرحبا, 世界: x**2 = 4\n"
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text

    def test_the_atlas_on_a_finds_the_planted_families_in_every_layer(self):
        pytest.importorskip("torch")
        from prereg_moe.lab.testbed.ablate import Subject, families, routing_mass

        texts = {axis: [item["text"] for item in passages("A", axis)[:40]] for axis in AXES}
        found = families(routing_mass(Subject.load(MODELS / "planted"), texts))
        for axis in AXES:
            assert [tuple(cells) for cells in found[axis]] == [testbed.planted_family(axis)] * testbed.LAYERS


class TestTasks:
    def test_every_task_scores_the_first_passages_of_its_own_file(self, scored):
        samples, _ = scored
        for axis in AXES:
            for corpus in CORPUS_NAMES:
                rows = samples[testbed.task_name(axis, corpus)]
                assert [row["doc"] for row in rows] == passages(corpus, axis)[:6]
                assert all(isinstance(row["nll"], float) and math.isfinite(row["nll"]) for row in rows)

    def test_the_score_is_minus_the_log_likelihood_of_a_plain_forward(self, scored):
        import torch

        samples, lm = scored
        for rows in samples.values():
            row = rows[0]
            ids = torch.tensor([[0, *lm.tokenizer(row["doc"]["text"])["input_ids"]]])
            with torch.inference_mode():
                log_p = lm.model(input_ids=ids).logits.log_softmax(-1)
            plain = -log_p[0, :-1].gather(-1, ids[0, 1:, None]).sum().item()
            assert row["nll"] == pytest.approx(plain, abs=1e-2)

    def test_the_folder_can_be_copied_for_a_users_own_text(self, tmp_path):
        pytest.importorskip("lm_eval")
        for name in ("_base.yaml", "passages.py"):
            (tmp_path / name).write_bytes((TASKS / name).read_bytes())
        (tmp_path / "own.yaml").write_text("include: _base.yaml\ntask: own\ndataset_kwargs:\n  file: own.jsonl\n")
        (tmp_path / "own.jsonl").write_text('{"id": "1", "text": "A passage of my own."}\n')
        samples, _ = score(tmp_path, ["own"], limit=None)
        assert samples["own"][0]["doc"]["id"] == "1"

    def test_the_folder_holds_little_python(self):
        assert len((TASKS / "passages.py").read_text(encoding="utf-8").splitlines()) <= 25

    def test_the_page_in_docs_shows_the_manifests_figures(self):
        from prereg_moe.lab.testbed.build import describe

        page = (Path(__file__).parents[2] / "docs" / "testbed.md").read_text(encoding="utf-8")
        assert describe() in page, "paste what `python -m prereg_moe.lab.testbed.build describe` prints"


def score(folder: Path, names: list[str], *, limit: int | None) -> Any:
    """Return lm-eval's samples by task, ordered by document, and the HFLM that made them."""
    import lm_eval
    import torch
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

    model = AutoModelForCausalLM.from_pretrained(MODELS / "standard", dtype=torch.float32, local_files_only=True)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(MODELS / "standard", local_files_only=True)
    lm = HFLM(
        pretrained=model, tokenizer=tokenizer, batch_size=16, max_length=512, softmax_dtype="float32", device="cpu"
    )
    tasks = TaskManager(include_path=str(folder), include_defaults=False).load(names)["tasks"]
    for task in tasks.values():
        task.set_config("num_fewshot", 0)
    result = lm_eval.evaluate(lm=lm, task_dict=tasks, limit=limit, bootstrap_iters=0, log_samples=True)
    by_document = {task: sorted(rows, key=lambda row: int(row["doc_id"])) for task, rows in result["samples"].items()}
    return by_document, lm
