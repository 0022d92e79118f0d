"""Scoring again: lm-evaluation-harness on the responses that evidence stores, without a model.

Evidence holds what the model answered, as lm-eval scored it. The same tasks, answered from that
table, must give the same metric for every item; then the scores are lm-eval's and not typed.
What this cannot show is that a model gave the answers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lm_eval.api.model import LM

from prereg_moe import canonical, evidence, store
from prereg_moe.errors import NotCheckable, Problem, Tampered
from prereg_moe.freezing import compare_pins, load_frozen
from prereg_moe.frozen import Frozen
from prereg_moe.lab.tasks import Sample, Tasks, tasks_of
from prereg_moe.registry import Registry, find_source

__all__ = ["rescore"]

_SHOWN = 5


def rescore(root: Path, id_: str) -> Iterator[str]:
    """Score the sealed evidence of a registration again; yield a label for every condition.

    Raises:
        NotCheckable: the run is not finished, or a task or its corpus is not on this machine.
        Tampered: a stored metric is not what lm-eval makes of the stored responses.
    """
    registry = Registry(root)
    frozen = store.reached(registry, load_frozen(registry, id_))
    store.gather(registry, frozen)
    _have_tasks(registry, frozen)
    tasks: dict[str, Tasks] = {}
    for digest, condition in frozen.plan.items():
        name = evidence.file_name(digest)
        if condition.measure not in tasks:
            tasks[condition.measure] = _tasks(registry, frozen, condition.measure)
        made = canonical.read(registry.evidence(id_) / name)["axes"]
        wrong = list(_differences(tasks[condition.measure], made, name))
        if wrong:
            raise Tampered(wrong[:_SHOWN])
        yield name


class _Stored(LM):  # type: ignore[misc]  # lm_eval ships no types
    """Answers each request by what is stored for its task, document and place."""

    def __init__(self, responses: Mapping[str, list[Any]]) -> None:
        super().__init__()
        self._responses = responses

    def loglikelihood(self, requests: list[Any]) -> list[Any]:
        return [tuple(self._stored(request)) for request in requests]

    def loglikelihood_rolling(self, requests: list[Any]) -> list[Any]:
        return [self._stored(request) for request in requests]

    def generate_until(self, requests: list[Any]) -> list[Any]:
        return [self._stored(request) for request in requests]

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:  # noqa: ARG002 - lm_eval's signature
        return "\n".join(turn["content"] for turn in chat_history)  # prompts are built and answered from the table

    def _stored(self, request: Any) -> Any:
        return self._responses[request.task_name][request.doc_id][request.idx][0]


def _tasks(registry: Registry, frozen: Frozen, measure: str) -> Tasks:
    registration = frozen.run_as
    folder = registry.registration(registration.id)

    def find(source: str) -> Path:
        return find_source(source, folder, registry.root)

    return tasks_of(registration, measure, find)


def _have_tasks(registry: Registry, frozen: Frozen) -> None:
    """Refuse where tasks or corpora are not the frozen ones; models are not needed here."""
    changed, absent = compare_pins(registry, frozen)
    if changed:
        raise Tampered(changed)
    if needed := [problem for problem in absent if not problem.where.startswith("models")]:
        raise NotCheckable(needed)


def _differences(tasks: Tasks, made: Mapping[str, Any], name: str) -> Iterator[Problem]:
    stored = {spec.name: made[spec.axis]["responses"] for spec in tasks.specs}
    try:
        samples = tasks.evaluate(_Stored(stored))
    except (LookupError, TypeError, ValueError) as error:  # responses of another shape than the task's requests
        yield Problem(name, f"its responses do not answer the task's requests ({error!r})", "restore it")
        return
    tasks.keep_requests()
    for spec in tasks.specs:
        again: list[Sample] = samples[spec.name]
        for item, sample, metric in zip(spec.items, again, made[spec.axis]["metric"], strict=True):
            if float(sample[spec.metric]) != metric:
                found = f"{spec.metric} of item {item['id']} is {metric!r}"
                yield Problem(f"{name}, {spec.axis}", found, f"lm-eval makes {float(sample[spec.metric])!r} of it")
