"""What engines are given and what they give back. No torch here: the parent process reads it too."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

if TYPE_CHECKING:
    from prereg_moe.lab.intervene import Intervention

__all__ = ["Answer", "Case", "Engine", "Found", "Prompt", "Request"]

Request: TypeAlias = tuple[tuple[int, ...], tuple[int, ...]]
"""Token ids of a context and of its continuation."""

Answer: TypeAlias = tuple[float, bool]
"""The continuation's log-likelihood in nats, and whether greedy decoding gives it."""

Prompt: TypeAlias = tuple[str, str]
"""What a model is to go on writing, and the task's generation settings as canonical JSON; its answer is a text."""


@dataclass(frozen=True, slots=True)
class Case:
    """One condition: its digest, and what is done to the model (nothing for a baseline)."""

    digest: str
    interventions: tuple[Intervention, ...]


@dataclass(frozen=True, slots=True)
class Found:
    """What an engine computed for one case.

    Attributes:
        answers: the answer to every planned request, or the text for every planned prompt.
        proof: what the intervention's guards counted, None for a baseline.
        record: what the engine says of itself, as JSON, for the evidence; None where there is nothing to say.
    """

    answers: Mapping[Request, Answer] | Mapping[Prompt, str]
    proof: Mapping[str, Any] | None
    record: Mapping[str, Any] | None = None


class Engine(Protocol):
    """Answers a plan's requests under one case after another."""

    def answer(self, cases: Sequence[Case]) -> Iterator[Found]:
        """Yield what was computed for each case of one pack, in order.

        Raises:
            Stopped: a guard fired, an answer is not finite, or the engine disagrees with `stock`.
        """
