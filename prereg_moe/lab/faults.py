"""Errors that cross from a worker's process to the parent's: as plain values, and back."""

from __future__ import annotations

import os

from prereg_moe import errors
from prereg_moe.errors import PreregError, Problem

__all__ = ["Fault", "fault", "raised"]

Fault = tuple[str, list[tuple[str, str, str]]]  # an error's name and its problems


def fault(error: Exception) -> Fault:
    """Return what a worker says of an error: the name of one of ours, and its problems."""
    if isinstance(error, PreregError):
        name = type(error).__name__ if hasattr(errors, type(error).__name__) else type(error).__mro__[1].__name__
        return name, [(p.where, p.found, p.todo) for p in error.problems]
    if isinstance(error, ModuleNotFoundError):
        found = f"the package {error.name} is not installed"
        return "Invalid", [("lab", found, "install the lab: pip install 'prereg-moe[lab]'")]
    if isinstance(error, MemoryError):
        return "Stopped", [("worker", "ran out of memory", "register a smaller batch_size")]
    if os.environ.get("PREREG_MOE_DEBUG"):
        raise error
    return "Stopped", [("worker", f"{type(error).__name__}: {error}", "set PREREG_MOE_DEBUG=1 to see where")]


def raised(what: Fault) -> PreregError:
    """Return the error a worker said, to be raised here."""
    name, problems = what
    error: PreregError = getattr(errors, name)([Problem(*problem) for problem in problems])
    return error
