"""Statistics for claims about interventions: arrays in, frozen values out.

Nothing here reads a file, a registration or a clock. Names are loaded when they are first used, so that
drawing null families (``resample``, numpy only) does not wait for scipy.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prereg_moe.stats.equivalence import (
        Absence,
        Equivalence,
        absence,
        noninferior,
        power_equivalence,
        power_t,
        tost,
    )
    from prereg_moe.stats.intervals import Estimate, bootstrap, bootstrap_many
    from prereg_moe.stats.multiplicity import adjust, fixed_sequence, partial_conjunction, stepdown_maxt
    from prereg_moe.stats.nulls import BeatsNull, beats_null
    from prereg_moe.stats.resample import sample, stream
    from prereg_moe.stats.selectivity import Selective, selective

_HOME = {
    "Absence": "equivalence",
    "BeatsNull": "nulls",
    "Equivalence": "equivalence",
    "Estimate": "intervals",
    "Selective": "selectivity",
    "absence": "equivalence",
    "adjust": "multiplicity",
    "beats_null": "nulls",
    "bootstrap": "intervals",
    "bootstrap_many": "intervals",
    "fixed_sequence": "multiplicity",
    "noninferior": "equivalence",
    "partial_conjunction": "multiplicity",
    "power_equivalence": "equivalence",
    "power_t": "equivalence",
    "sample": "resample",
    "selective": "selectivity",
    "stepdown_maxt": "multiplicity",
    "stream": "resample",
    "tost": "equivalence",
}

__all__ = [
    "Absence",
    "BeatsNull",
    "Equivalence",
    "Estimate",
    "Selective",
    "absence",
    "adjust",
    "beats_null",
    "bootstrap",
    "bootstrap_many",
    "fixed_sequence",
    "noninferior",
    "partial_conjunction",
    "power_equivalence",
    "power_t",
    "sample",
    "selective",
    "stepdown_maxt",
    "stream",
    "tost",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
