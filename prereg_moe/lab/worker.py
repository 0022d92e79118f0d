"""What a worker process does: load a model once, plan a measure once, then condition after condition.

Run by `runner` in processes of its own; every function yields what it has to say.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import transformers

from prereg_moe import canonical, evidence
from prereg_moe.errors import Deviated, Invalid, Problem
from prereg_moe.freezing import load_frozen, read_items
from prereg_moe.frozen import Condition, Frozen
from prereg_moe.lab.capture import Recorder
from prereg_moe.lab.engines import Case, Engine
from prereg_moe.lab.engines.stock import Stock
from prereg_moe.lab.engines.sweep import Sweep
from prereg_moe.lab.harness import Harness
from prereg_moe.lab.intervene import Intervention, KeepOnly, Mask, Scale, Starved, intervene
from prereg_moe.lab.models import MoE, Unsupported, discover, load_model
from prereg_moe.lab.rescoring import rescore
from prereg_moe.lab.tasks import tasks_of
from prereg_moe.registration import Registration, family_names, parse, schema
from prereg_moe.registry import Registry, find_source

__all__ = ["Session", "compute", "environment", "outlook", "pin", "record", "rescore"]

_PACKAGES = ("prereg-moe", "torch", "transformers", "lm-eval", "tokenizers", "numpy")
_ATLAS_BATCH = 16
_OUTLOOK_REQUESTS = 16
_DONE = {"mask": "masked", "zero": "zeroed", "keep_only": "kept"}
_STOCK_BATCH = 32  # what HFLM computes at once where another engine is registered


def pin(threads: int) -> None:
    """Compute with this many threads, whatever the machine has."""
    torch.set_num_threads(threads)
    transformers.logging.set_verbosity_error()  # its advice is about training and sharding


def compute(root: Path, id_: str, packs: Sequence[Sequence[str]], missing: Collection[str]) -> Iterator[str]:
    """Compute packs of conditions and write the evidence of those that are missing; yield a label for each.

    Raises:
        Stopped: a guard fired, a response is not finite, or a file cannot be written.
        Deviated: the model or the task is not what was registered.
    """
    session = Session(root, id_)
    for pack in packs:
        yield from session.compute(pack, missing)


class Session:
    """A study in one process: the model and the tasks it has loaded now, and what it computes with them."""

    def __init__(self, root: Path, id_: str) -> None:
        self._registry = Registry(root)
        self._frozen = load_frozen(self._registry, id_)
        self._bench = _Bench(self._registry, self._frozen.run_as)
        self._around = environment(self._frozen.registration)
        self._fed, self._since = 0, time.perf_counter()  # for the display alone

    def compute(self, pack: Sequence[str], missing: Collection[str]) -> Iterator[str]:
        """Compute one pack, write the evidence of those of its conditions that are missing, yield a label for each."""
        frozen, bench = self._frozen, self._bench
        conditions = [frozen.plan[digest] for digest in pack]
        model, measure = conditions[0].model, conditions[0].measure
        _same_layout(frozen, model, bench.load(model))
        harness = bench.harness(model, measure)
        engine = bench.engine(model, measure)
        cases = [Case(condition.digest, _interventions(condition)) for condition in conditions]
        each = sum(len(context) + len(target) - 1 for context, target in harness.plan.requests)
        for condition, found in zip(conditions, engine.answer(cases), strict=True):
            self._fed += each
            if condition.digest not in missing:
                continue  # it was written before the run was interrupted, with these bytes
            made = evidence.document(
                frozen,
                condition,
                harness.score(found.answers),
                plan=harness.plan.digest,
                proof=found.proof,
                engine=found.record,
                environment=self._around,
            )
            folder = self._registry.evidence(frozen.registration.id)
            canonical.write(folder / evidence.file_name(condition.digest), made)
            speed = self._fed / (time.perf_counter() - self._since)
            yield f"{_label(condition)}, {speed:,.0f} tokens/s" if each else _label(condition)


def outlook(root: Path, id_: str, digests: Sequence[str]) -> Iterator[Any]:
    """Check conditions before they are run; yield (done, of, name) for each model and measure, then what they cost.

    Every task is planned and every mask compiled; the time is what `stock` would take, measured on a few requests.

    Raises:
        Invalid: tasks cannot be scored as registered, or masks leave a router too few experts. All problems at once.
    """
    frozen = load_frozen(Registry(root), id_)
    bench = _Bench(Registry(root), frozen.registration)
    groups: dict[tuple[str, str], list[Condition]] = {}
    for condition in (frozen.plan[digest] for digest in digests):
        groups.setdefault((condition.model, condition.measure), []).append(condition)
    tokens, seconds = 0, 0.0
    problems: dict[Problem, None] = {}  # each once: conditions share their faults
    for done, ((model, measure), conditions) in enumerate(groups.items(), start=1):
        _same_layout(frozen, model, bench.load(model))
        for condition in conditions:
            with _noted(problems, f"{model}, {measure}"):
                intervene(bench.load(model), *_interventions(condition))  # compiled and thrown away
        with _noted(problems, f"{model}, {measure}"):
            asked, taken = _measured(bench.harness(model, measure))
            tokens, seconds = tokens + asked * len(conditions), seconds + taken * len(conditions)
        yield done, len(groups), f"{model}, {measure}"
    if problems:
        raise Invalid(problems)
    yield {"tokens": tokens, "seconds": seconds}


@contextmanager
def _noted(problems: dict[Problem, None], where: str) -> Iterator[None]:
    """Go on behind what cannot be scored or masked as registered, and keep what was said of it."""
    try:
        yield
    except (Invalid, Starved) as error:
        problems |= dict.fromkeys(Problem(f"{where}, {one.where}", one.found, one.todo) for one in error.problems)


def _measured(harness: Harness) -> tuple[int, float]:
    """Return the tokens one condition feeds, and the seconds `stock` would take for them; 0 for generated text."""
    lengths = [len(context) + len(target) - 1 for context, target in harness.plan.requests]
    if not lengths:
        return 0, 0.0
    some = harness.plan.requests[:_OUTLOOK_REQUESTS]
    harness.stock(some)  # the first time is slower than those after it
    start = time.perf_counter()
    harness.stock(some)
    taken = time.perf_counter() - start
    return sum(lengths), taken * sum(lengths) / sum(lengths[:_OUTLOOK_REQUESTS])


def record(root: Path, document: Mapping[str, Any]) -> Iterator[Any]:
    """Record the routing of every model of a registration; yield (done, of, name), then the tables.

    Every text of the atlas corpus runs through the untouched model once; padding is not counted.

    Raises:
        Invalid: a model has no layout that can be observed, layers that differ, or layers that the registered
            families hold and the intervention cannot edit.
    """
    registration = parse(document)
    bench = _Bench(Registry(root), registration)
    models: dict[str, Any] = {}
    for done, name in enumerate(registration.models, start=1):
        models[name] = _routing(bench, name)
        yield (done, len(registration.models), name)
    yield {"models": models, "environment": environment(registration)}


def environment(registration: Registration) -> dict[str, Any]:
    """Return what can change a value and is not frozen: versions, device, processor capability."""
    made = {
        "packages": {name: version(name) for name in _PACKAGES},
        "python": ".".join(platform.python_version_tuple()[:2]),
        "machine": platform.machine(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "device": registration.engine.device,
        "threads": registration.engine.threads,
    }
    if registration.engine.device != "cpu":
        made["devices"] = sorted({torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())})
    return made


@dataclass
class _Bench:
    """The model and the harness that are loaded now; another one takes their place."""

    registry: Registry
    registration: Registration
    _moe: tuple[str, MoE, Any] | None = None
    _harness: tuple[tuple[str, str], Harness] | None = None
    _engine: tuple[tuple[str, str], Engine] | None = None

    def path(self, source: str) -> Path:
        return find_source(source, self.registry.registration(self.registration.id), self.registry.root)

    def load(self, name: str) -> MoE:
        if self._moe is None or self._moe[0] != name:
            self._moe = self._harness = self._engine = None  # free the old model before the new one is loaded
            spec = self.registration.models[name]
            model, tokenizer = load_model(
                self.path(spec.source),
                dtype=spec.dtype,
                experts_implementation=spec.experts_implementation,
                device=self.registration.engine.device,
            )
            self._moe = (name, discover(model), tokenizer)
        return self._moe[1]

    def tokenizer(self, name: str) -> Any:
        self.load(name)
        return None if self._moe is None else self._moe[2]

    def harness(self, model: str, name: str) -> Harness:
        moe = self.load(model)
        if self._harness is None or self._harness[0] != (model, name):
            engine = self.registration.engine
            made = Harness(
                moe.model,
                self.tokenizer(model),
                tasks_of(self.registration, name, self.path),
                batch_size=engine.batch_size if engine.kind == "stock" else _STOCK_BATCH,
                max_length=engine.max_length,
            )
            self._harness = ((model, name), made)
        return self._harness[1]

    def engine(self, model: str, measure: str) -> Engine:
        if self._engine is None or self._engine[0] != (model, measure):
            self._engine = ((model, measure), self._made(model, measure))
        return self._engine[1]

    def _made(self, model: str, measure: str) -> Engine:
        moe, harness, settings = self.load(model), self.harness(model, measure), self.registration.engine
        if harness.plan.prompts and self.registration.measures[measure].per == "token":
            found = "divides by tokens that are scored, and its tasks generate text"
            raise Invalid(Problem(f"measures.{measure}.per", found, "register per: item"))
        if harness.plan.prompts:  # no engine writes text faster than the reference does
            record = None if settings.kind == "stock" else {"computed_by": "stock", "not_shared": ["generated text"]}
            return Stock(moe, harness.plan.prompts, harness.write, record)
        if settings.kind == "stock":
            return Stock(moe, harness.plan.requests, harness.stock)
        return Sweep(
            moe,
            harness.plan.requests,
            harness.stock,
            max_length=harness.max_length,
            batch_tokens=settings.batch_tokens,
            check=settings.check,
            tolerance=settings.tolerance,
        )

    def items(self, corpus: str, axis: str, skip: int, count: int) -> list[dict[str, Any]]:
        spec = self.registration.corpora[corpus]
        return read_items(self.path(spec.source) / spec.file.replace("{axis}", axis), skip, count)


def _interventions(condition: Condition) -> tuple[Intervention, ...]:
    """Return what a condition does to the model."""
    return () if condition.intervention is None else (_operator(condition.intervention, condition.cells),)


def _operator(
    registered: schema.Mask | schema.KeepOnly | schema.Zero, cells: Mapping[int, Sequence[int]]
) -> Intervention:
    match registered:
        case schema.Mask(gates=gates):
            return Mask(cells, gates=gates)
        case schema.KeepOnly(gates=gates):
            return KeepOnly(cells, gates=gates)
        case schema.Zero():
            return Scale(cells, factor=0.0)


def _same_layout(frozen: Frozen, name: str, moe: MoE) -> None:
    layout = frozen.document["layout"][name]
    if list(moe.indices) != layout["layers"] or moe.n_experts != layout["experts"]:
        raise Deviated(Problem(f"models.{name}", "is laid out otherwise than its atlas", "freeze a new atlas"))


def _label(condition: Condition) -> str:
    cells = sum(len(experts) for experts in condition.cells.values())
    done = f"{cells} cells {_DONE[condition.intervention.kind]}" if condition.intervention else "baseline"
    return f"{condition.model}, {condition.measure}: {done}"


def _routing(bench: _Bench, name: str) -> dict[str, Any]:
    """Return one model's layout and its routing mass, axis by axis."""
    settings = bench.registration.atlas
    if settings is None:
        raise Invalid(Problem("atlas", "is not registered", "say on which corpus routing is recorded"))
    moe, tokenizer = bench.load(name), bench.tokenizer(name)
    sizes = {(layer.n_experts, layer.top_k) for layer in moe.layers}
    if len(sizes) != 1:
        found = f"has layers with {sorted(sizes)} (experts, top-k)"
        raise Invalid(Problem(f"models.{name}", found, "this version needs them equal"))
    _refuse_uneditable(bench.registration, name, moe)
    mass = {}
    for axis in bench.registration.axes:
        recorder, device = Recorder(), next(moe.model.parameters()).device
        items = bench.items(settings.corpus, axis, settings.skip, settings.items)
        with torch.inference_mode(), intervene(moe, recorder=recorder):
            for batch in _batches([str(item.get(settings.text, "")) for item in items], tokenizer):
                moe.model(**{key: value.to(device) for key, value in batch.items()})
        mass[axis] = recorder.mass()[0].tolist()
    experts, top_k = sizes.pop()
    return {"layers": list(moe.indices), "experts": experts, "top_k": top_k, "mass": mass, "found": moe.describe()}


def _refuse_uneditable(registration: Registration, name: str, moe: MoE) -> None:
    """Refuse a model whose families will hold layers that the intervention cannot edit: frozen, none could be run.

    Families of single cells may turn out to hold none of these layers, and are left to the run.
    """
    names = family_names(registration)
    held: set[int] = set()
    for claims in registration.claims:
        for family in names if claims.families == "all" else claims.families:
            build = registration.families[names[family][1]].build
            if claims.model == name and build.kind == "explicit":
                held |= set(map(int, build.cells))
            elif claims.model == name and build.unit != "cells":
                held |= set(moe.indices)
    problems: list[Problem] = []
    for layer in moe.layers:
        experts = range(1, layer.n_experts) if registration.intervention.kind == "keep_only" else [0]
        try:
            if layer.index in held:
                intervene(moe, _operator(registration.intervention, {layer.index: tuple(experts)}))
        except Unsupported as error:
            todo = "register families of other layers, written out (kind: explicit)"
            problems += [Problem(f"models.{name}, {one.where}", one.found, todo) for one in error.problems]
    if problems:
        raise Unsupported(problems)


def _batches(texts: list[str], tokenizer: Any) -> Iterator[dict[str, torch.Tensor]]:
    """Yield token ids and attention masks, padded on the right, in the order of the items."""
    for start in range(0, len(texts), _ATLAS_BATCH):
        rows = [tokenizer(text)["input_ids"] for text in texts[start : start + _ATLAS_BATCH]]
        width = max(map(len, rows))
        ids = torch.zeros(len(rows), width, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for index, row in enumerate(rows):
            ids[index, : len(row)] = torch.tensor(row)
            mask[index, : len(row)] = 1
        yield {"input_ids": ids, "attention_mask": mask}
