"""The reference engine: lm-evaluation-harness's own HFLM scorer under the intervention, case by case."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from prereg_moe.lab.engines.base import Case, Found
from prereg_moe.lab.intervene import intervene
from prereg_moe.lab.models import MoE

__all__ = ["Stock"]


class Stock:
    """Answers every request as HFLM does.

    Args:
        moe: the model.
        requests: the planned requests, or the planned prompts.
        score: HFLM's answers to them, as the model stands now (`Harness.stock`, `Harness.write`).
        record: what the evidence says of the engine, where another one was registered.
    """

    def __init__(
        self,
        moe: MoE,
        requests: Sequence[Any],
        score: Callable[[Sequence[Any]], Mapping[Any, Any]],
        record: Mapping[str, Any] | None = None,
    ) -> None:
        self._moe = moe
        self._requests = requests
        self._score = score
        self._record = record

    def answer(self, cases: Sequence[Case]) -> Iterator[Found]:
        """Yield what was computed for each case.

        Raises:
            Stopped: a guard fired, or an answer is not finite.
        """
        for case in cases:
            if not case.interventions:
                yield Found(self._score(self._requests), None, self._record)
                continue
            with intervene(self._moe, *case.interventions) as session:
                answers = self._score(self._requests)
            yield Found(answers, session.proof().to_dict(), self._record)
