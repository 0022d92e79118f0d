"""The lm-evaluation-harness tasks of a measure: loaded from their folder, run by lm-eval, read item by item.

Whatever answers the requests (a model, a table of stored responses), what is done with the
answers is stock ``lm_eval.evaluate``, so every score is lm-eval's own.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import lm_eval
from lm_eval.tasks import TaskManager

from prereg_moe.errors import Deviated, Invalid, NotCheckable, Problem
from prereg_moe.freezing import read_items
from prereg_moe.registration import Registration, task_name

__all__ = ["Sample", "TaskSpec", "Tasks", "plain", "quiet", "tasks_of"]

_FEWSHOT_SEED = 1234

Sample = dict[str, Any]  # what lm-eval says of one document


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


class Tasks:
    """The tasks of one measure.

    Args:
        folder: the folder of task YAML files.
        specs: the tasks to score.
        fewshot: worked examples before each item; None leaves it to the task.
        chat_template: whether prompts go through the tokenizer's chat template.

    Raises:
        Invalid: the folder has no such task.
        NotCheckable: one cannot be loaded offline.
    """

    def __init__(
        self, folder: Path, specs: Sequence[TaskSpec], *, fewshot: int | None = None, chat_template: bool = False
    ) -> None:
        self.specs = tuple(specs)
        self._chat = chat_template
        with quiet():
            self._loaded = _load(folder, [spec.name for spec in specs], fewshot)

    def instances(self, name: str) -> list[Any]:
        """Return the requests lm-eval built for a task, once it was evaluated."""
        built: list[Any] = self._loaded["tasks"][name].instances
        return built

    def keep_requests(self) -> None:
        """Build requests no more, nor read documents and targets: they are the same every time, and most of scoring."""
        for spec in self.specs:
            task = self._loaded["tasks"][spec.name]
            task.build_all_requests = partial(_reuse, task)
            documents = list(task.doc_iterator(samples=_chosen(spec)))
            targets = {id(document): task.doc_to_target(document) for _, document in documents}
            task.doc_iterator = partial(_again, documents)
            task.doc_to_target = partial(_known, targets, task.doc_to_target)

    def evaluate(self, lm: Any) -> dict[str, list[Sample]]:
        """Return task name -> lm-eval's samples of the registered items, answered by ``lm``.

        Raises:
            Deviated: a task's documents are not the registered items.
            Invalid: a task has no such metric.
        """
        chosen = {spec.name: _chosen(spec) for spec in self.specs}
        with quiet():
            results = lm_eval.evaluate(
                lm=lm,
                task_dict=self._loaded,
                samples=chosen,
                bootstrap_iters=0,
                log_samples=True,
                apply_chat_template=self._chat,
            )
        samples: dict[str, list[Sample]] = results["samples"]
        for spec in self.specs:
            _check(spec, samples[spec.name])
        return samples


def tasks_of(registration: Registration, measure: str, find: Callable[[str], Path]) -> Tasks:
    """Return the tasks a measure uses, one an axis, with their registered items.

    Args:
        registration: the study.
        measure: the measure's name.
        find: where a source lies on this machine.
    """
    settings = registration.measures[measure]
    corpus = registration.corpora[settings.corpus]
    specs = [
        TaskSpec(
            axis=axis,
            name=task_name(settings, axis),
            items=tuple(
                read_items(find(corpus.source) / corpus.file.replace("{axis}", axis), settings.skip, settings.items)
            ),
            skip=settings.skip,
            metric=settings.metric,
        )
        for axis in registration.axes
    ]
    return Tasks(find(settings.tasks), specs, fewshot=settings.fewshot, chat_template=bool(settings.chat_template))


def plain(value: Any) -> Any:
    """Return lm-eval's nested tuples and lists as JSON."""
    return [plain(part) for part in value] if isinstance(value, (list, tuple)) else value


@contextmanager
def quiet() -> Iterator[None]:
    """Keep lm-eval's progress talk off the terminal; its errors come as exceptions."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(before)


def _load(folder: Path, names: list[str], fewshot: int | None) -> Any:
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    unknown = sorted(set(names) - set(manager.all_subtasks))
    if unknown:
        raise Invalid(
            Problem(str(folder.name), f"has no task {', '.join(unknown)}", f"it has {', '.join(manager.all_subtasks)}")
        )
    try:
        tasks = manager.load(names)
    except (OSError, ValueError) as error:  # what `datasets` raises where a data set is not there; or a task's own code
        if not (isinstance(error, OSError) or str(error).startswith("Couldn't find cache")):
            raise
        found = f"cannot be loaded offline ({error!r:.200})"
        raise NotCheckable(Problem(", ".join(names), found, "get its data set before the run")) from error
    for task in tasks["tasks"].values():
        if fewshot is not None or task.get_config("num_fewshot") is None:
            task.set_config("num_fewshot", fewshot or 0)
        task.set_fewshot_seed(_FEWSHOT_SEED)
    return tasks


def _chosen(spec: TaskSpec) -> list[int]:
    """Return the numbers of the registered items among a task's documents."""
    return list(range(spec.skip, spec.skip + len(spec.items)))


def _again(documents: list[tuple[int, Any]], **_: Any) -> Iterator[tuple[int, Any]]:
    """Stand in for ``doc_iterator`` once it has read the documents; an edited one is seen by `_check`."""
    return iter(documents)


def _known(targets: Mapping[int, Any], compute: Callable[..., Any], document: Any, *more: Any, **named: Any) -> Any:
    """Stand in for ``doc_to_target`` once the targets of the kept documents are known."""
    known = not (more or named) and id(document) in targets
    return targets[id(document)] if known else compute(document, *more, **named)


def _reuse(task: Any, **_: Any) -> None:
    """Stand in for ``build_all_requests`` once they are built: the same requests, unanswered."""
    for instance in task.instances:
        instance.resps, instance.filtered_resps = [], {}


def _is_item(document: Mapping[str, Any], item: Mapping[str, Any]) -> bool:
    """Return whether a task's document is an item, whose id may be the corpus's own."""
    return document == item or document == {name: value for name, value in item.items() if name != "id"}


def _check(spec: TaskSpec, samples: list[Sample]) -> None:
    documents = [sample["doc"] for sample in samples]
    if len(documents) != len(spec.items) or not all(map(_is_item, documents, spec.items)):
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
