"""An lm-eval task's loader and score for passages in a JSON-lines file.

Copy this folder to score your own text: put ``{"id": ..., "text": ...}`` lines in a file beside
the YAML and name it under ``dataset_kwargs: file``. The path is relative to this folder.
"""

import json
from pathlib import Path
from typing import Any

from datasets import Dataset


def load(file: str, **metadata: Any) -> dict[str, Dataset]:  # noqa: ARG001 - lm-eval passes the YAML's metadata too
    """Return the file's passages as the split ``test``, read afresh and never from a cache."""
    with (Path(__file__).parent / file).open(encoding="utf-8") as lines:
        return {"test": Dataset.from_list([json.loads(line) for line in lines])}


def nll(doc: dict[str, str], results: list[float]) -> dict[str, float]:  # noqa: ARG001 - lm-eval's signature
    """Return the passage's negative log-likelihood in nats, summed over its tokens."""
    return {"nll": -results[0]}
