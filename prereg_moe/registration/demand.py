"""What a registration demands of its diagnosis, compared with the diagnosis file; numbers in, problems out.

Freezing asks this question, so nothing here needs scipy.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from prereg_moe.errors import Problem
from prereg_moe.registration.schema import Diagnosis

__all__ = ["SCHEMA", "incomplete", "unmet"]

SCHEMA = "prereg-moe/diagnosis/1"


def incomplete(diagnosis: Diagnosis, document: Mapping[str, Any]) -> list[Problem]:
    """Return how a diagnosis falls short of the registered one: fewer studies, resamples or scenarios."""
    settings = document["settings"]
    problems = [
        Problem("diagnosis", f"has {settings[name]} {name}", f"{least} are registered")
        for name, least in (("studies", diagnosis.studies), ("resamples", diagnosis.resamples))
        if settings[name] < least
    ]
    missing = [name for name in diagnosis.scenarios if name not in document["scenarios"]]
    if missing:
        problems.append(Problem("diagnosis", f"leaves out {', '.join(missing)}", "diagnose every registered scenario"))
    return problems


def unmet(diagnosis: Diagnosis, document: Mapping[str, Any]) -> list[Problem]:
    """Return every registered demand the diagnosis does not show to be met.

    A bound is shown where the whole Monte-Carlo interval lies on its right side: at every boundary of
    every registered scenario for the family-wise error, in every registered scenario for power.
    """
    return list(_unmet(diagnosis, document))


def _unmet(diagnosis: Diagnosis, document: Mapping[str, Any]) -> Iterator[Problem]:
    fwer, power = diagnosis.demand.fwer_at_most, diagnosis.demand.power_at_least
    for name in diagnosis.scenarios:
        figures = document["scenarios"].get(name)
        if figures is None:
            continue  # said by `incomplete`
        for boundary, rate in figures["family_wise_error"].items():
            if fwer is not None and not rate["high"] <= fwer:
                yield _problem(name, f"family-wise error at the boundary of {boundary}", rate, f"at most {fwer:g}")
        rate = figures["power"]["each"]
        if power is not None and not rate["low"] >= power:
            yield _problem(name, "power", rate, f"at least {power:g}")


def _problem(scenario: str, what: str, rate: Mapping[str, Any], demanded: str) -> Problem:
    found = f"{what} is {rate['estimate']:.3f} ({rate['low']:.3f} to {rate['high']:.3f})"
    return Problem(f"diagnosis.{scenario}", found, f"{demanded} is demanded: change the design, or simulate more")
