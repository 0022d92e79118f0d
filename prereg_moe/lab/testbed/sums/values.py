"""An lm-eval task that has a model write the value of an expression, and makes its own items.

``python values.py`` writes the four files of items again: logarithms, square roots, exponentials
and ratios of the numbers the testbed's training text is about.
"""

import json
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

from datasets import Dataset

_NUMBER = re.compile(r"\s*(-?\d+(?:\.\d+)?)")
_DIGITS = 12


def load(file: str, **metadata: Any) -> dict[str, Dataset]:  # noqa: ARG001 - lm-eval passes the YAML's metadata too
    """Return the file's expressions as the split ``test``, read afresh and never from a cache."""
    with (Path(__file__).parent / file).open(encoding="utf-8") as lines:
        return {"test": Dataset.from_list([json.loads(line) for line in lines])}


def judge(doc: dict[str, str], results: list[str]) -> dict[str, float]:
    """Return whether a number was written, whether it is right to two digits, and how many digits are.

    ``digits`` counts the leading characters of the value that were written, so it still tells
    small models apart that get no value right.
    """
    found = _NUMBER.match(results[0])
    written = found[1] if found else ""
    same = next((i for i, (a, b) in enumerate(zip(written, doc["value"], strict=False)) if a != b), len(written))
    right = bool(written) and abs(float(written) - float(doc["value"])) <= 0.01 * abs(float(doc["value"]))
    return {"right": float(right), "number": float(bool(written)), "digits": float(min(same, len(doc["value"])))}


def items() -> dict[str, list[dict[str, str]]]:
    """Return axis -> its items."""
    whole = range(2, 60)
    tables = {
        "log": [(f"log({n})", Decimal(n).ln()) for n in whole],
        "sqrt": [(f"sqrt({n})", Decimal(n).sqrt()) for n in whole],
        "exp": [(f"exp({Decimal(n) / 10})", (Decimal(n) / 10).exp()) for n in whole],
        "ratio": [(f"{n}/{n % 7 + 2}", Decimal(n) / Decimal(n % 7 + 2)) for n in whole],
    }
    return {
        axis: [
            {"id": f"{axis}-{number:02}", "text": text, "value": f"{value:.{_DIGITS}f}"}
            for number, (text, value) in enumerate(rows)
        ]
        for axis, rows in tables.items()
    }


if __name__ == "__main__":
    for axis, rows in items().items():
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (Path(__file__).parent / f"{axis}.jsonl").write_text(text, encoding="utf-8")
