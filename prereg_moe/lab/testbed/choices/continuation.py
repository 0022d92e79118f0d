"""An lm-eval task that asks which words go on a passage: its own, or those of three others of its axis.

The second halves begin behind the middle and are cut to a few characters. The others are of the
passages that stand next in the file, so they are of one language and one source. Which place the
right one has follows from the passage's id.
"""

import json
import zlib
from functools import cache
from pathlib import Path
from typing import Any

from datasets import Dataset

_CHOICES = 4
_LENGTH = 12  # characters: behind them another message may begin, which nothing before it tells of


def load(file: str, **metadata: Any) -> dict[str, Dataset]:  # noqa: ARG001 - lm-eval passes the YAML's metadata too
    """Return the file's passages as the split ``test``, read afresh and never from a cache."""
    return {"test": Dataset.from_list(_passages(file))}


def context(doc: dict[str, str]) -> str:
    """Return the first half of a passage."""
    return _halves(doc["text"])[0]


def choices(doc: dict[str, str]) -> list[str]:
    """Return four beginnings of second halves, the passage's own at the place :func:`answer` says."""
    corpus, axis, _ = doc["id"].split("-")
    passages = _passages(f"../corpora/{corpus}/{axis}.jsonl")
    here = next(number for number, passage in enumerate(passages) if passage["id"] == doc["id"])
    others = [passages[(here + step) % len(passages)]["text"] for step in range(1, _CHOICES)]
    halves = [_halves(text)[1] for text in others]
    halves.insert(answer(doc), _halves(doc["text"])[1])
    return halves


def answer(doc: dict[str, str]) -> int:
    """Return the place of the right choice."""
    return zlib.crc32(doc["id"].encode()) % _CHOICES


def _halves(text: str) -> tuple[str, str]:
    """Return a text up to its middle (to a space, where one is near) and the beginning of what follows."""
    middle = len(text) // 2
    space = text.find(" ", middle, middle + 20)
    cut = middle if space < 0 else space
    return text[:cut], text[cut : cut + _LENGTH]


@cache
def _passages(file: str) -> list[dict[str, str]]:
    with (Path(__file__).parent / file).open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]
