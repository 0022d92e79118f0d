"""lm-evaluation-harness as the scorer: plan once, compute, replay.

:class:`Harness` runs stock ``lm_eval.evaluate`` twice. The first run only *plans*: every
tokenised request is written down and nothing is computed. The requests are then answered under
an intervention by an engine (`lab.engines`), and a second stock run *replays* the answers, so
that every score is lm-eval's. A request that is not in the plan raises; lm-eval's caches, which
do not know the model or the data, are never used.

All four output types are answered: multiple_choice, loglikelihood and loglikelihood_rolling ask for
likelihoods of tokens, generate_until for text. One measure asks for one or the other.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from prereg_moe import canonical
from prereg_moe.errors import Invalid, Problem, Stopped
from prereg_moe.evidence import Scores
from prereg_moe.lab.engines.base import Answer, Prompt, Request
from prereg_moe.lab.tasks import Sample, Tasks, TaskSpec, plain, quiet

__all__ = ["Harness", "Plan"]


@dataclass(frozen=True, slots=True)
class Plan:
    """Every request of a measure, tokenised once.

    Attributes:
        requests: in the order lm-eval asked, each once.
        prompts: the same, of tasks that generate text.
        tokens: (task name, document number) -> tokens scored; tokens read, where text is generated.
        digest: digest of requests and counts.
    """

    requests: tuple[Request, ...]
    prompts: tuple[Prompt, ...]
    tokens: Mapping[tuple[str, int], int]
    digest: str


class _Scorer(HFLM):  # type: ignore[misc]  # lm_eval ships no types
    """HFLM that writes its requests down (``answers is None``) or answers them from a table."""

    def __init__(self, model: Any, tokenizer: Any, batch_size: int, max_length: int | None) -> None:
        super().__init__(
            pretrained=model,
            tokenizer=tokenizer,
            batch_size=batch_size,
            max_length=max_length,
            softmax_dtype="float32",  # bfloat16 softmax is up to 3.9 nats wrong a document
        )
        self.asked: dict[Request, None] = {}
        self.prompts: dict[Prompt, None] = {}
        self.tokens: dict[tuple[str, int], int] = {}
        self.answers: Mapping[Any, Any] | None = None
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

    def generate_until(self, requests: list[Any], disable_tqdm: bool = True) -> list[str]:  # noqa: ARG002 - lm_eval's signature
        return [self._text(request) for request in requests]

    def _text(self, request: Any) -> str:
        """Answer one prompt, and count the tokens it is read by."""
        context, settings = request.args
        prompt = (context, json.dumps(settings, sort_keys=True))
        self._now = (request.task_name, request.doc_id)
        if self.answers is None:
            self.prompts[prompt] = None
            self.tokens[self._now] = self.tokens.get(self._now, 0) + len(self.tok_encode(context))
            return ""
        if prompt not in self.answers:
            raise Stopped(Problem(self._now[0], "asks for a text that is not in the plan"))
        text: str = self.answers[prompt]
        return text

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

    def write(self, prompts: Sequence[Prompt]) -> list[str]:
        """Return the texts HFLM lets the model write, batched by length and settings over all prompts."""
        requests = [
            Instance("generate_until", {}, (context, json.loads(settings)), index)
            for index, (context, settings) in enumerate(prompts)
        ]
        with torch.inference_mode():
            texts: list[str] = HFLM.generate_until(self, requests, disable_tqdm=True)
        return texts


class Harness:
    """One model's tasks of one measure, behind lm-eval.

    Args:
        model: a transformers causal LM in eval mode.
        tokenizer: its tokenizer.
        tasks: what is scored.
        batch_size: requests HFLM answers at once.
        max_length: most tokens fed to the model; None takes what HFLM reads from its configuration.
    """

    def __init__(self, model: Any, tokenizer: Any, tasks: Tasks, *, batch_size: int, max_length: int | None) -> None:
        with quiet():
            self._scorer = _Scorer(model, tokenizer, batch_size, max_length)
        self._tasks = tasks
        self.plan = self._make_plan()

    @property
    def max_length(self) -> int:
        """Most tokens HFLM feeds the model at once."""
        longest: int = self._scorer.max_length
        return longest

    def stock(self, requests: Sequence[Request]) -> dict[Request, Answer]:
        """Return HFLM's own answers to requests, by the model as it stands (or is intervened on) now.

        Raises:
            Stopped: an answer is not finite.
        """
        with quiet():
            answers = self._scorer.compute(requests)
        bad = sum(not math.isfinite(value) for value, _ in answers)
        if bad:
            raise Stopped(
                Problem("model", f"{bad} of {len(answers)} log-likelihoods are not finite", "nothing was written")
            )
        return dict(zip(requests, answers, strict=True))

    def write(self, prompts: Sequence[Prompt]) -> dict[Prompt, str]:
        """Return the texts the model writes, as it stands (or is intervened on) now."""
        with quiet():
            return dict(zip(prompts, self._scorer.write(prompts), strict=True))

    def score(self, answers: Mapping[Request, Answer] | Mapping[Prompt, str]) -> dict[str, Scores]:
        """Return axis -> what lm-eval makes of the answers, items in the registered order.

        Raises:
            Deviated: a task's documents are not the registered items.
            Invalid: a task has no such metric.
        """
        samples = self.samples(answers)
        return {spec.axis: self._scores(spec, samples[spec.name]) for spec in self._tasks.specs}

    def samples(self, answers: Mapping[Request, Answer] | Mapping[Prompt, str]) -> dict[str, list[Sample]]:
        """Return task name -> lm-eval's samples, scored by lm-eval from the answers."""
        self._scorer.answers = answers
        return self._tasks.evaluate(self._scorer)

    def _make_plan(self) -> Plan:
        self._tasks.evaluate(self._scorer)  # documents and metrics are checked before anything is computed
        requests, prompts = tuple(self._scorer.asked), tuple(self._scorer.prompts)
        if requests and prompts:
            raise Invalid(Problem("tasks", "some score text and some generate it", "register a measure for each kind"))
        problems = [p for spec in self._tasks.specs for p in self._preflight(spec)]
        too_long = sum(len(c) + len(t) > self._scorer.max_length + 1 for c, t in requests)
        if too_long:
            problems.append(
                Problem("requests", f"{too_long} are longer than {self._scorer.max_length} tokens", "shorten the items")
            )
        problems += _prompt_problems(self._scorer, prompts)
        if problems:
            raise Invalid(problems)
        self._tasks.keep_requests()
        tokens = dict(self._scorer.tokens)
        listed = {
            "requests": [[list(context), list(target)] for context, target in requests],
            "tokens": [[name, number, count] for (name, number), count in sorted(tokens.items())],
        }
        if prompts:
            listed["prompts"] = [list(prompt) for prompt in prompts]
        return Plan(requests, prompts, tokens, canonical.digest(listed))

    def _preflight(self, spec: TaskSpec) -> Iterator[Problem]:
        counts = [self._scorer.tokens.get((spec.name, number), 0) for number in range(len(spec.items))]
        if empty := [spec.items[number]["id"] for number, count in enumerate(counts) if count == 0]:
            yield Problem(spec.name, f"{len(empty)} items have nothing to score, the first {empty[0]!r}", "remove them")
        asked: dict[int, list[Any]] = {}  # of a document: one request, or one a choice
        for instance in self._tasks.instances(spec.name):
            asked.setdefault(instance.doc_id, []).append(instance.args)
        if len({str(requests) for requests in asked.values()}) == 1 < len(spec.items):
            yield Problem(spec.name, "asks the same of every item", "a column in its YAML is misspelt")

    def _scores(self, spec: TaskSpec, samples: list[Sample]) -> Scores:
        return Scores(
            metric=tuple(float(sample[spec.metric]) for sample in samples),
            tokens=tuple(self._scorer.tokens.get((spec.name, number), 0) for number in range(len(samples))),
            responses=tuple(plain(sample["resps"]) for sample in samples),
        )


def _prompt_problems(scorer: _Scorer, prompts: Sequence[Prompt]) -> list[Problem]:
    """Return which prompts would be cut, or answered by chance."""
    problems = []
    sampled = [settings for _, settings in prompts if json.loads(settings).get("do_sample")]
    if sampled:
        problems.append(
            Problem("generation_kwargs", "ask for sampling, which gives another text every time", "do_sample: false")
        )
    room = [json.loads(settings).get("max_gen_toks", scorer.max_gen_toks) for _, settings in prompts]
    cut = sum(
        len(scorer.tok_encode(context)) + more > scorer.max_length
        for (context, _), more in zip(prompts, room, strict=True)
    )
    if cut:
        problems.append(
            Problem("prompts", f"{cut} leave no room to write in {scorer.max_length} tokens", "lower max_gen_toks")
        )
    return problems
