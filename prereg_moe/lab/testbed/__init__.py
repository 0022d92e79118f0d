"""The embedded testbed: two real corpora and three trained mixtures of experts, with known truth.

Eight axes, each with corpus ``A`` (for the routing atlas) and corpus ``B`` (for confirmation,
from sources no model was trained on), and three checkpoints of one architecture:

``planted``     the positive control: axis *k* was trained onto experts *4k … 4k+3* of every layer
``standard``    the realistic subject: an ordinary load-balancing loss
``randomised``  the negative control: experts trained under random routing, so none is special

Only paths and names live here, so importing it costs nothing. ``docs/testbed.md`` says what the
text is and is not; ``build.py`` makes everything again.
"""

from __future__ import annotations

from pathlib import Path

__all__ = [
    "AXES",
    "CHECKPOINTS",
    "CORPORA",
    "CORPUS_NAMES",
    "EXPERTS_PER_FAMILY",
    "LAYERS",
    "MODELS",
    "TASKS",
    "corpus_file",
    "planted_family",
    "task_name",
]

AXES = ("en", "es", "fr", "ar", "zh", "ja", "code", "math")
CORPUS_NAMES = ("A", "B")
CHECKPOINTS = ("planted", "standard", "randomised")
EXPERTS_PER_FAMILY = 4
LAYERS = 4

_HERE = Path(__file__).parent
MODELS = _HERE / "models"
CORPORA = _HERE / "corpora"
TASKS = _HERE / "tasks"


def corpus_file(corpus: str, axis: str) -> Path:
    """Return the JSON-lines file of one axis in corpus ``A`` or ``B``."""
    return CORPORA / corpus / f"{axis}.jsonl"


def task_name(axis: str, corpus: str) -> str:
    """Return the lm-eval task that scores one axis on one corpus."""
    return f"testbed_nll_{axis}_{corpus}"


def planted_family(axis: str) -> tuple[int, ...]:
    """Return the experts, the same in every layer, that the planted model was trained to use for an axis."""
    first = AXES.index(axis) * EXPERTS_PER_FAMILY
    return tuple(range(first, first + EXPERTS_PER_FAMILY))
