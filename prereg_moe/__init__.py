"""Checkable causal claims about mixture-of-experts language models.

The stages of a study, each taking what the one before returned::

    registration = load(path)            # Registration
    diagnosis = diagnose(registration)   # Diagnosis: error rates and power of its rule
    frozen = freeze(registry, id, ...)   # Frozen
    evidence = gather(registry, frozen)  # Evidence (made by `prereg_moe.lab.run`)
    verdicts = judge(evidence)           # Verdicts
    text = render(verdicts.document, template)
    result = audit(registry, id)         # Audit

Names are imported when they are first used, so that importing the package costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prereg_moe.auditing import Audit, audit
    from prereg_moe.diagnosing import Diagnosis, diagnose
    from prereg_moe.evidence import Evidence
    from prereg_moe.freezing import Checked, check, freeze, load_frozen
    from prereg_moe.frozen import Frozen
    from prereg_moe.registration import Registration, load
    from prereg_moe.registry import Registry
    from prereg_moe.report import render
    from prereg_moe.store import gather
    from prereg_moe.verdict import Verdicts, judge

__version__ = "0.1.0"

_HOME = {
    "Audit": "auditing",
    "Checked": "freezing",
    "Diagnosis": "diagnosing",
    "Evidence": "evidence",
    "Frozen": "frozen",
    "Registration": "registration",
    "Registry": "registry",
    "Verdicts": "verdict",
    "audit": "auditing",
    "check": "freezing",
    "diagnose": "diagnosing",
    "freeze": "freezing",
    "gather": "store",
    "judge": "verdict",
    "load": "registration",
    "load_frozen": "freezing",
    "render": "report",
}

__all__ = [
    "Audit",
    "Checked",
    "Diagnosis",
    "Evidence",
    "Frozen",
    "Registration",
    "Registry",
    "Verdicts",
    "__version__",
    "audit",
    "check",
    "diagnose",
    "freeze",
    "gather",
    "judge",
    "load",
    "load_frozen",
    "render",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
