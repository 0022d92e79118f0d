"""The testbed's multiple-choice and generation tasks: their items are what their code says, their answers findable."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest
import yaml

import prereg_moe.lab.testbed as testbed

FOLDER = Path(testbed.__file__).parent


def module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name.replace("/", "_"), FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def _task(axis: str, corpus: str) -> str:
    return f"testbed_choice_{axis}.yaml" if corpus == "B" else f"testbed_choice_{axis}_A.yaml"


@pytest.fixture(scope="module")
def continuation() -> ModuleType:
    return module("choices/continuation")


@pytest.fixture(scope="module")
def values() -> ModuleType:
    return module("sums/values")


@pytest.mark.parametrize("corpus", testbed.CORPUS_NAMES)
@pytest.mark.parametrize("axis", testbed.AXES)
def test_the_right_choice_goes_on_the_passage_and_the_others_are_of_its_axis(
    continuation: ModuleType, axis: str, corpus: str
):
    task = yaml.load((FOLDER / "choices" / _task(axis, corpus)).read_text("utf-8"), yaml.BaseLoader)
    assert task["task"] == _task(axis, corpus).removesuffix(".yaml")
    assert task["dataset_kwargs"]["file"] == f"../corpora/{corpus}/{axis}.jsonl"
    passages = [json.loads(line) for line in testbed.corpus_file(corpus, axis).read_text("utf-8").splitlines()]
    places = set()
    for doc in passages[:60]:
        choices, right = continuation.choices(doc), continuation.answer(doc)
        assert len(choices) == 4
        assert doc["text"].startswith(continuation.context(doc) + choices[right])
        assert all(any(choice in other["text"] for other in passages) for choice in choices)
        assert min(map(len, choices)) > 0
        places.add(right)
    assert places == {0, 1, 2, 3}, "the right choice stands at every place"


def test_the_sums_are_what_their_code_writes(values: ModuleType):
    for axis, rows in values.items().items():
        lines = (FOLDER / "sums" / f"{axis}.jsonl").read_text("utf-8").splitlines()
        assert [json.loads(line) for line in lines] == rows


@pytest.mark.parametrize(
    ("written", "right", "number", "digits"),
    [
        (" 1.4142 x", 1, 1, 6),
        ("1.41", 1, 1, 4),
        ("1.5", 0, 1, 2),
        ("-1.4", 0, 1, 0),
        ("about 1", 0, 0, 0),
        ("", 0, 0, 0),
    ],
)
def test_a_sum_is_judged_by_the_number_it_begins_with(
    values: ModuleType, written: str, right: float, number: float, digits: float
):
    doc = {"id": "sqrt-00", "text": "sqrt(2)", "value": "1.414213562373"}
    assert values.judge(doc, [written]) == {"right": right, "number": number, "digits": digits}
