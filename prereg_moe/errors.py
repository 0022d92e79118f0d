"""What can go wrong, by whose fault, and the exit code each fault has.

    PreregError
    ├── Invalid        2  the document or the call is wrong: its author mends it
    ├── Tampered       3  bytes do not match what was sealed
    ├── NotCheckable   4  evidence is missing or incomplete
    ├── Deviated       5  what was done is not what was registered
    └── Stopped        6  a run stopped: a guard, no space, no memory

Every error carries its problems, all of them, each with its place, what was found, what was
expected and what to do. A statistical outcome is never an exception: too little data is the
verdict INCONCLUSIVE.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

__all__ = [
    "Deviated",
    "Invalid",
    "NotCheckable",
    "PreregError",
    "Problem",
    "Stopped",
    "Tampered",
    "shaped",
]


@dataclass(frozen=True, slots=True)
class Problem:
    """One fault: where it is (``families[2].axis``, a file, a layer), what was found there, what to do."""

    where: str
    found: str
    todo: str = ""

    def __str__(self) -> str:
        line = f"{self.where}: {self.found}" if self.where else self.found
        return f"{line}; {self.todo}" if self.todo else line


class PreregError(Exception):
    """Base of every expected error; ``problems`` is never empty.

    Args:
        problems: one problem, several, or a bare sentence.
    """

    exit_code = 2

    def __init__(self, problems: Problem | str | Iterable[Problem]) -> None:
        if isinstance(problems, str):
            problems = Problem("", problems)
        self.problems: tuple[Problem, ...] = (problems,) if isinstance(problems, Problem) else tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))


class Invalid(PreregError):
    """The document or the call is wrong; its author mends it."""


class Tampered(PreregError):
    """Bytes do not match the digest that was sealed."""

    exit_code = 3


class NotCheckable(PreregError):
    """Evidence that is needed is missing or incomplete."""

    exit_code = 4


class Deviated(PreregError):
    """What was done is not what was registered."""

    exit_code = 5


class Stopped(PreregError):
    """A run stopped: a guard fired, the disk is full, memory ran out."""

    exit_code = 6


@contextmanager
def shaped(where: str) -> Iterator[None]:
    """Say of a document that is JSON but not of the shape prereg-moe writes that it is tampered.

    For reading what was sealed: its bytes are canonical, and somebody else may have written them.

    Raises:
        Tampered: reading it inside the block failed.
    """
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError) as error:
        raise Tampered(
            Problem(where, f"has another shape than prereg-moe writes ({error!r:.200})", "restore it")
        ) from error
