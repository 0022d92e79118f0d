"""Evidence made elsewhere, through the same stages, the same ledger and the same audit.

A registration of ``schema: prereg-moe/import/1`` says where evidence comes from and how it is
decided: published summaries (`summary`), per-item rows (`rows`), samples of lm-evaluation-harness
(`samples`). It is checked and frozen like any other; :func:`take_in` copies the source files and
derives ``imported.json`` from them; :func:`judge` gives readings of a summary, verdicts on items.
What evidence of a kind can support at most stands in every verdict document and every report.

    frozen = freeze(registry, id, time=...)
    take_in(registry, id, "rows", path, time=...)
    verdict(registry, id, time=...)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prereg_moe.importing.checks import check_released
    from prereg_moe.importing.freezing import check, freeze, load_frozen
    from prereg_moe.importing.frozen import FrozenImport
    from prereg_moe.importing.judging import CAPS, judge
    from prereg_moe.importing.reporting import context
    from prereg_moe.importing.schema import SCHEMA, VERDICT_SCHEMA, Imported, is_imported, json_schema, load, parse
    from prereg_moe.importing.sources import derive
    from prereg_moe.importing.stages import diagnose, read_sources, take_in, verdict

_HOME = {
    "CAPS": "judging",
    "SCHEMA": "schema",
    "VERDICT_SCHEMA": "schema",
    "FrozenImport": "frozen",
    "Imported": "schema",
    "check": "freezing",
    "check_released": "checks",
    "context": "reporting",
    "derive": "sources",
    "diagnose": "stages",
    "freeze": "freezing",
    "is_imported": "schema",
    "json_schema": "schema",
    "judge": "judging",
    "load": "schema",
    "load_frozen": "freezing",
    "parse": "schema",
    "read_sources": "stages",
    "take_in": "stages",
    "verdict": "stages",
}

__all__ = [
    "CAPS",
    "SCHEMA",
    "VERDICT_SCHEMA",
    "FrozenImport",
    "Imported",
    "check",
    "check_released",
    "context",
    "derive",
    "diagnose",
    "freeze",
    "is_imported",
    "json_schema",
    "judge",
    "load",
    "load_frozen",
    "parse",
    "read_sources",
    "take_in",
    "verdict",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
