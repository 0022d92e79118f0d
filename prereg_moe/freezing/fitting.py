"""What the files at hand tell of a valid registration: whether its tasks, their metrics and its experts are there.

Nothing is loaded: tasks are read as YAML, experts from the atlas beside the registration or else from the
``config.json`` of its models. What neither tells is found when routing is recorded, or a run is planned.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from pathlib import Path

from prereg_moe.atlas import Layout, configured
from prereg_moe.errors import PreregError, Problem
from prereg_moe.freezing.reading import read_atlases
from prereg_moe.registration import Registration, family_names, task_name
from prereg_moe.registration.schema import KeepOnly, TopLift, Zero
from prereg_moe.registry import find_source
from prereg_moe.taskfiles import metrics, read_tasks

__all__ = ["misfits"]

_SHOWN = 12


def misfits(registration: Registration, folder: Path, root: Path) -> list[Problem]:
    """Return what a registration names and the files at hand show not to be there.

    Args:
        registration: the study.
        folder: its folder, with its atlas where one was made.
        root: the registry's root.
    """

    def find(source: str) -> Path:
        return find_source(source, folder, root)

    found = [problem for name, measure in registration.measures.items() for problem in _tasks(registration, name, find)]
    layouts = _recorded(folder / "atlas.json")
    for model in dict.fromkeys(claims.model for claims in registration.claims):
        layout = layouts.get(model) or configured(find(registration.models[model].source))
        if layout is not None:
            found += _families(registration, model, layout)
    return list(dict.fromkeys(found))


def _tasks(registration: Registration, name: str, find: Callable[[str], Path]) -> Iterator[Problem]:
    """Yield the tasks of a measure that its folder lacks, and its metric where a task does not report it."""
    measure = registration.measures[name]
    if not find(measure.tasks).is_dir():
        return
    known = read_tasks(find(measure.tasks))
    for task in dict.fromkeys(task_name(measure, axis) for axis in registration.axes):
        if task not in known:
            todo = _nearest(task, known, "it has")
            yield Problem(f"measures.{name}.task", f"{task!r} is not a task of {measure.tasks}", todo)
        elif (reported := metrics(known[task])) is not None and measure.metric not in reported:
            todo = _nearest(measure.metric, reported, "it lists")
            yield Problem(f"measures.{name}.metric", f"{measure.metric!r} is not a metric of {task}", todo)
            return  # the tasks of other axes would say the same


def _nearest(name: str, known: Collection[str], have: str) -> str:
    """Return what to write in the place of a name nobody knows."""
    near = difflib.get_close_matches(name, known, n=1)
    shown = ", ".join(sorted(known)[:_SHOWN]) + (", ..." if len(known) > _SHOWN else "")
    return f"{have} {shown or 'none'}" + (f"; did you mean {near[0]!r}?" if near else "")


def _recorded(path: Path) -> dict[str, Layout]:
    """Return the layouts in an atlas file; none where it is not there, or freezing will say what is wrong with it."""
    try:
        return {model: atlas.layout for model, atlas in read_atlases(path)[1].items()}
    except PreregError:
        return {}


def _families(registration: Registration, model: str, layout: Layout) -> Iterator[Problem]:
    """Yield the families that a model has not the layers or experts for."""
    for index in dict.fromkeys(index for _, index in family_names(registration).values()):
        build, where = registration.families[index].build, f"families[{index}].build"
        if not isinstance(build, TopLift):
            cells = {int(layer): experts for layer, experts in build.cells.items()}
            yield from replace(layout, top_k=0).check(cells, f"{where}.cells of {model}")  # starving is the operator's
            continue
        barred = set(build.exclude.ids) & set(range(layout.experts)) if build.exclude.kind == "ids" else set()
        most = (layout.experts - len(barred)) * (len(layout.layers) if build.unit == "cells" else 1)
        if build.size > most:
            found = f"is {build.size}, and {model} has {layout.experts} experts in each of {len(layout.layers)} layers"
            yield Problem(f"{where}.size", found, f"register at most {most}")
        elif build.unit != "cells" and not isinstance(registration.intervention, Zero):
            any_of_that_size = {layout.layers[0]: tuple(range(build.size))}
            kept = isinstance(registration.intervention, KeepOnly)
            for problem in layout.check(any_of_that_size, model, kept=kept):
                yield Problem(f"{where}.size", f"{problem.found} of each layer of {model}", problem.todo)
