"""What a registration implies without saying it: family names, off-target axes, tasks, levels."""

from __future__ import annotations

from prereg_moe.errors import Problem
from prereg_moe.registration import grid
from prereg_moe.registration.schema import Claims, KeepOnly, Registration, TaskMeasure

__all__ = ["block_alpha", "family_names", "needs_null", "off_axes", "spares", "task_name", "undiagnosed"]


def family_names(registration: Registration) -> dict[str, tuple[str, int]]:
    """Return family name -> (axis, index of the block that builds it), in alphabetical order."""
    return {
        block.name.replace("{axis}", axis): (axis, index)
        for index, block in enumerate(registration.families)
        for axis in (registration.axes if block.axes == "all" else block.axes)
    }


def off_axes(registration: Registration, claims: Claims, axis: str) -> tuple[str, ...]:
    """Return the axes a claim about ``axis`` counts as off-target, in alphabetical order."""
    if isinstance(claims.off, tuple):
        return tuple(other for other in claims.off if other != axis)
    return tuple(
        other
        for other, what in registration.axes.items()
        if other != axis and (claims.off == "all" or what.domain == registration.axes[axis].domain)
    )


def task_name(measure: TaskMeasure, axis: str) -> str:
    """Return the name of the task that scores an axis."""
    if isinstance(measure.task, dict):
        return measure.task[axis]
    return measure.task.replace("{axis}", axis)


def needs_null(registration: Registration, claims: Claims) -> bool:
    """Whether judging the block needs random expert draws."""
    return "null" in grid.matters(registration.rules[claims.rule])


def spares(registration: Registration, claims: Claims) -> bool:
    """Whether the block claims little harm, and not much: then a family is to harm less than random sets do."""
    kept = isinstance(registration.intervention, KeepOnly)
    return kept or registration.rules[claims.rule].kind == "noninferiority"


def undiagnosed(registration: Registration) -> Problem | None:
    """Return why error rates of the study cannot be simulated, None where they can: simulated families harm."""
    blocks = [claims for claims in registration.claims if claims.rule in registration.rules]
    if any(spares(registration, claims) for claims in blocks):
        return Problem(
            "diagnosis", "simulates claims of harm, and a claim here is that there is little", "leave it out"
        )
    return None


def block_alpha(registration: Registration, claims: Claims) -> float:
    """Return the family-wise level of one block: confirmatory blocks share alpha equally (Bonferroni)."""
    confirmatory = sum(block.tier == "confirmatory" for block in registration.claims)
    return registration.inference.alpha / (confirmatory if claims.tier == "confirmatory" else 1)
