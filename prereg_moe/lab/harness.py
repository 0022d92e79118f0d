"""lm-evaluation-harness as the scorer: plan once, compute, replay.

:class:`Harness` runs stock ``lm_eval.evaluate`` twice. The first run only *plans*: every
tokenised request is written down and nothing is computed. The requests are then answered under
an intervention, by lm-eval's own HFLM scorer, and a second stock run *replays* the answers, so
that every score is lm-eval's. A request that is not in the plan raises; lm-eval's caches, which
do not know the model or the data, are never used.

Only likelihood requests are answered (multiple_choice, loglikelihood, loglikelihood_rolling).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import lm_eval
import torch
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from prereg_moe import canonical
from prereg_moe.errors import Deviated, Invalid, Problem, Stopped
from prereg_moe.evidence import Scores
from prereg_moe.registration.schema import Engine

__all__ = ["Harness", "Plan", "TaskSpec"]

Request: TypeAlias = tuple[tuple[int, ...], tuple[int, ...]]  # token ids of context and continuation
Answer: TypeAlias = tuple[float, bool]  # log-likelihood in nats, whether greedy decoding gives it
_FEWSHOT_SEED = 1234


@dataclass(frozen=True, slots=True)
class TaskSpec:
    """One lm-eval task as a measure uses it.

    Attributes:
        axis: the axis it scores.
        name: its name in the task folder.
        items: the registered items, in order: each must come back as the task's document.
        skip: how many documents stand before the first of them.
        metric: the metric whose per-item value is taken.
    """

    axis: str
    name: str
    items: tuple[Mapping[str, Any], ...]
    skip: int
    metric: str


@dataclass(frozen=True, slots=True)
class Plan:
    """Every request of a measure, tokenised once.

    Attributes:
        requests: in the order lm-eval asked, each once.
        tokens: (task name, document number) -> tokens scored.
        digest: digest of requests and counts.
    """

    requests: tuple[Request, ...]
    tokens: Mapping[tuple[str, int], int]
    digest: str


class _Scorer(HFLM):  # type: ignore[misc]  # lm_eval ships no types
    """HFLM that writes its requests down (``answers is None``) or answers them from a table."""

    def __init__(self, model: Any, tokenizer: Any, engine: Engine) -> None:
        super().__init__(
            pretrained=model,
            tokenizer=tokenizer,
            batch_size=engine.batch_size,
            max_length=engine.max_length,
            softmax_dtype="float32",  # bfloat16 softmax is up to 3.9 nats wrong a document
        )
        self.asked: dict[Request, None] = {}
        self.tokens: dict[tuple[str, int], int] = {}
        self.answers: Mapping[Request, Answer] | None = None
        self._memo: dict[Any, list[int]] = {}

    def tok_encode(self, string: str, *args: Any, **kwargs: Any) -> list[int]:
        key = (string, args, tuple(sorted(kwargs.items())))
        if key not in self._memo:
            self._memo[key] = super().tok_encode(string, *args, **kwargs)
        return self._memo[key]

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = True) -> list[Answer]:  # noqa: ARG002 - lm_eval's signature
        return [self._one(super(_Scorer, self).loglikelihood, request) for request in requests]

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = True) -> list[float]:  # noqa: ARG002 - lm_eval's signature
        return [self._one(super(_Scorer, self).loglikelihood_rolling, request) for request in requests]

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:  # noqa: ARG002 - lm_eval's signature
        raise Invalid(Problem(requests[0].task_name, "generates text", "this version scores likelihood tasks only"))

    def _one(self, ask: Any, request: Any) -> Any:
        """Answer one request through HFLM's own windows and token pairs, and count what it scores."""
        self._now = (request.task_name, request.doc_id)
        self.tokens.setdefault(self._now, 0)
        return ask([request], disable_tqdm=True)[0]

    def _loglikelihood_tokens(self, requests: Sequence[Any], *args: Any, **kwargs: Any) -> list[Answer]:  # noqa: ARG002 - lm_eval's signature
        keys = [(tuple(context), tuple(continuation)) for _, context, continuation in requests]
        if self.answers is None:
            self.asked.update(dict.fromkeys(keys))
            self.tokens[self._now] += sum(len(continuation) for _, continuation in keys)
            return [(0.0, False)] * len(keys)
        missing = [key for key in keys if key not in self.answers]
        if missing:
            raise Stopped(Problem(self._now[0], f"asks {len(missing)} requests that are not in the plan"))
        return [self.answers[key] for key in keys]

    def compute(self, requests: Sequence[Request]) -> list[Answer]:
        """Return HFLM's own answers, batched by length over all requests."""
        with torch.inference_mode():
            answers: list[Answer] = HFLM._loglikelihood_tokens(  # noqa: SLF001 - the stock scorer is this method
                self, [(("", ""), list(context), list(target)) for context, target in requests], disable_tqdm=True
            )
        return answers


class Harness:
    """One model's tasks of one measure, behind lm-eval.

    Args:
        model: a transformers causal LM in eval mode.
        tokenizer: its tokenizer.
        folder: the folder of task YAML files.
        specs: the tasks to score.
        engine: batch size and lengths.
    """

    def __init__(self, model: Any, tokenizer: Any, folder: Path, specs: Sequence[TaskSpec], engine: Engine) -> None:
        with _quiet():
            self._scorer = _Scorer(model, tokenizer, engine)
            self._tasks = _load_tasks(folder, [spec.name for spec in specs])
        self._specs = tuple(specs)
        self.plan = self._make_plan()

    def answer(self) -> dict[Request, Answer]:
        """Return the model's answer to every planned request, as it stands (or is intervened on) now.

        Raises:
            Stopped: an answer is not finite.
        """
        with _quiet():
            answers = self._scorer.compute(self.plan.requests)
        bad = sum(not math.isfinite(value) for value, _ in answers)
        if bad:
            raise Stopped(
                Problem("model", f"{bad} of {len(answers)} log-likelihoods are not finite", "nothing was written")
            )
        return dict(zip(self.plan.requests, answers, strict=True))

    def score(self, answers: Mapping[Request, Answer]) -> dict[str, Scores]:
        """Return axis -> what lm-eval makes of the answers, items in the registered order.

        Raises:
            Deviated: a task's documents are not the registered items.
            Invalid: a task has no such metric.
        """
        self._scorer.answers = answers
        samples = self._evaluate()
        return {spec.axis: self._scores(spec, samples[spec.name]) for spec in self._specs}

    def _make_plan(self) -> Plan:
        samples = self._evaluate()
        for spec in self._specs:
            self._scores(spec, samples[spec.name])  # documents and metric are checked before anything is computed
        requests = tuple(self._scorer.asked)
        problems = [p for spec in self._specs for p in self._preflight(spec)]
        too_long = sum(len(c) + len(t) > self._scorer.max_length + 1 for c, t in requests)
        if too_long:
            problems.append(
                Problem("requests", f"{too_long} are longer than {self._scorer.max_length} tokens", "shorten the items")
            )
        if problems:
            raise Invalid(problems)
        for task in self._tasks["tasks"].values():
            task.build_all_requests = partial(_reuse, task)  # rebuilding costs a third of a condition's scoring
        tokens = dict(self._scorer.tokens)
        listed = {
            "requests": [[list(context), list(target)] for context, target in requests],
            "tokens": [[name, number, count] for (name, number), count in sorted(tokens.items())],
        }
        return Plan(requests, tokens, canonical.digest(listed))

    def _preflight(self, spec: TaskSpec) -> Iterator[Problem]:
        counts = [self._scorer.tokens.get((spec.name, number), 0) for number in range(len(spec.items))]
        if empty := [spec.items[number]["id"] for number, count in enumerate(counts) if count == 0]:
            yield Problem(spec.name, f"{len(empty)} items have nothing to score, the first {empty[0]!r}", "remove them")
        prompts = {str(instance.args) for instance in self._tasks["tasks"][spec.name].instances}
        if len(prompts) == 1 < len(spec.items):
            yield Problem(spec.name, "asks the same of every item", "a column in its YAML is misspelt")

    def _evaluate(self) -> dict[str, list[dict[str, Any]]]:
        chosen = {spec.name: list(range(spec.skip, spec.skip + len(spec.items))) for spec in self._specs}
        with _quiet():
            results = lm_eval.evaluate(
                lm=self._scorer, task_dict=self._tasks, samples=chosen, bootstrap_iters=0, log_samples=True
            )
        samples: dict[str, list[dict[str, Any]]] = results["samples"]
        return samples

    def _scores(self, spec: TaskSpec, samples: list[dict[str, Any]]) -> Scores:
        if [sample["doc"] for sample in samples] != list(spec.items):
            raise Deviated(
                Problem(
                    spec.name,
                    "its documents are not the registered items",
                    "the task must read the corpus file as it is",
                )
            )
        if spec.metric not in samples[0]:
            raise Invalid(
                Problem(spec.name, f"has no metric {spec.metric!r}", f"it has {', '.join(samples[0]['metrics'])}")
            )
        return Scores(
            metric=tuple(float(sample[spec.metric]) for sample in samples),
            tokens=tuple(self._scorer.tokens.get((spec.name, number), 0) for number in range(len(samples))),
            responses=tuple(_plain(sample["resps"]) for sample in samples),
        )


def _load_tasks(folder: Path, names: list[str]) -> Any:
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    unknown = sorted(set(names) - set(manager.all_tasks))
    if unknown:
        raise Invalid(
            Problem(str(folder.name), f"has no task {', '.join(unknown)}", f"it has {', '.join(manager.all_tasks)}")
        )
    tasks = manager.load(names)
    for task in tasks["tasks"].values():
        if task.get_config("num_fewshot") is None:
            task.set_config("num_fewshot", 0)
        task.set_fewshot_seed(_FEWSHOT_SEED)
    return tasks


def _reuse(task: Any, **_: Any) -> None:
    """Stand in for ``build_all_requests`` once they are built: the same requests, unanswered."""
    for instance in task.instances:
        instance.resps, instance.filtered_resps = [], {}


def _plain(value: Any) -> Any:
    """Return lm-eval's nested tuples and lists as JSON."""
    return [_plain(part) for part in value] if isinstance(value, (list, tuple)) else value


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep lm-eval's progress talk off the terminal; its errors come as exceptions."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(before)
