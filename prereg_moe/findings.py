"""What a look at a study finds: it holds, it fails, or it could not look. No look raises."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from prereg_moe.errors import PreregError, Tampered

__all__ = ["Finding", "NotDue", "find"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What one step found.

    Attributes:
        step: its number, from 1.
        name: what it is about.
        outcome: ``holds``, ``fails`` or ``unchecked``.
        details: what was counted, or every problem.
        exit_code: 0, or the code of the gravest problem.
    """

    step: int
    name: str
    outcome: str
    details: tuple[str, ...]
    exit_code: int = 0


class NotDue(Exception):
    """A step cannot look: what it needs is not here or not made yet."""


def find(number: int, name: str, step: Callable[[], Iterator[str]]) -> Finding:
    """Return what a step finds; it yields what it counted, or raises."""
    try:
        return Finding(number, name, "holds", tuple(step()))
    except NotDue as reason:
        return Finding(number, name, "unchecked", tuple(str(line) for line in reason.args))
    except PreregError as error:
        return Finding(number, name, "fails", tuple(map(str, error.problems)), error.exit_code)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OSError, RecursionError) as error:
        # bytes that pass as JSON but have another shape than ours
        found = f"{name} has another shape than prereg-moe writes ({error!r})"
        return Finding(number, name, "fails", (found,), Tampered.exit_code)
