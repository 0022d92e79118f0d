"""Runs of lm-evaluation-harness: results and samples as ``lm_eval --log_samples`` writes them become paired cells.

A run is believed only as far as its files agree with themselves (hashes follow from the samples,
means of samples are those of the results, there are as many as the results say), with its
registration (model, version), and with its baseline (settings, and exactly the same requests). What
does not agree is refused by name. Samples are matched by the hashes of document, prompt and target,
never by ``doc_id``, which counts positions.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from prereg_moe import canonical
from prereg_moe.errors import Deviated, Invalid, NotCheckable, Problem, Tampered
from prereg_moe.importing.schema import Imported, Run, Samples, TaskScore

__all__ = ["read_samples"]

_SHOWN = 5
_RESULTS = re.compile(r"results_(?P<date>.+)\.json")
_SLACK = 1e-9  # of a mean against the results' own, relative: floats summed in another order
# what may differ between a baseline and its ablation: where the weights lie, and what cannot change a score
_FREE = {"pretrained", "tokenizer"}
_CONFIG = (
    "model",
    "model_num_parameters",
    "model_dtype",
    "batch_size",
    "limit",
    "gen_kwargs",
    "random_seed",
    "numpy_seed",
    "torch_seed",
    "fewshot_seed",
)
_TOP = (
    "lm_eval_version",
    "transformers_version",
    "max_length",
    "chat_template_sha",
    "system_instruction_sha",
    "fewshot_as_multiturn",
    "tokenizer_bos_token",
    "tokenizer_eos_token",
)


@dataclass(frozen=True, slots=True)
class _Sample:
    """One sample: its position in its run, its metric and its raw responses."""

    doc_id: Any
    value: float
    responses: Any


@dataclass(frozen=True, slots=True)
class _Loaded:
    """One run: its settings, and axis -> hashes -> samples (several where documents repeat)."""

    name: str
    settings: Mapping[str, Any]
    axes: Mapping[str, Mapping[str, list[_Sample]]]


def read_samples(document: Imported, sources: Mapping[str, bytes]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the cells ``ablation/axis`` with a difference a sample, + is harm, and what the files say of the tool.

    Args:
        document: the registration; its evidence names runs, tasks and metrics.
        sources: path below the imported folder -> bytes.

    Raises:
        Invalid: a file is not what lm-eval writes.
        NotCheckable: results or samples are missing.
        Tampered: a run's files do not agree with one another.
        Deviated: another model, version or setting than registered or than the baseline's; other requests; an
            ablation that changed no response.
    """
    evidence = document.evidence
    if not isinstance(evidence, Samples):
        raise Invalid(Problem("evidence.kind", f"is {evidence.kind}", f"use `prereg-moe import {evidence.kind}`"))
    baseline = _load(evidence, "baseline", evidence.baseline, sources)
    cells: dict[str, Any] = {}
    for name, run in evidence.ablations.items():
        ablated = _load(evidence, name, run, sources)
        _same_settings(baseline, ablated)
        for axis, score in evidence.axes.items():
            cells[f"{name}/{axis}"] = _pair(baseline, ablated, axis, score)
        _refuse_unchanged(baseline, ablated)
    return {"cells": cells}, {"tool": "lm-eval", "version": evidence.version, "settings": dict(baseline.settings)}


# ------------------------------------------------------------------ one run


def _load(evidence: Samples, name: str, run: Run, sources: Mapping[str, bytes]) -> _Loaded:
    folder = PurePosixPath(run.folder)
    files = {path: data for path, data in sources.items() if PurePosixPath(path).is_relative_to(folder)}
    found = [path for path in files if _RESULTS.fullmatch(PurePosixPath(path).name)]
    if len(found) != 1:
        todo = "give one run a folder, written with --output_path and --log_samples"
        kind = NotCheckable if not found else Invalid
        raise kind(Problem(f"{name} ({run.folder})", f"holds {len(found)} results_*.json", todo))
    results = _json(files[found[0]], found[0])
    _registered(evidence, name, run, results)
    date = _RESULTS.fullmatch(PurePosixPath(found[0]).name)
    axes = {
        axis: _axis(f"{name}, {score.task}", score, results, files, date["date"] if date else "")
        for axis, score in evidence.axes.items()
    }
    return _Loaded(name, _settings(evidence, results), axes)


def _registered(evidence: Samples, name: str, run: Run, results: Mapping[str, Any]) -> None:
    problems = []
    if results.get("model_name") != run.model:
        found = f"was made by the model {results.get('model_name')!r}"
        problems.append(Problem(name, found, f"{run.model!r} is registered"))
    if results.get("lm_eval_version") != evidence.version:
        found = f"was made by lm-eval {results.get('lm_eval_version')}"
        problems.append(Problem(name, found, f"{evidence.version} is registered"))
    if _part(results, "config").get("use_cache"):
        problems.append(Problem(name, "used --use_cache", "that cache does not know models: run it again without"))
    if problems:
        raise Deviated(problems)


def _settings(evidence: Samples, results: Mapping[str, Any]) -> dict[str, Any]:
    """Return every setting that a baseline and its ablations must share."""
    config = _part(results, "config")
    arguments = config.get("model_args")
    kept = {key: value for key, value in arguments.items() if key not in _FREE} if isinstance(arguments, dict) else {}
    tasks = {
        score.task: {
            "version": _part(results, "versions").get(score.task),
            "n-shot": _part(results, "n-shot").get(score.task),
            "config": canonical.digest(_task_config(_part(_part(results, "configs"), score.task))),
        }
        for score in evidence.axes.values()
    }
    top = {key: results.get(key) for key in _TOP}
    return {**top, **{key: config.get(key) for key in _CONFIG}, "model_args": kept, "tasks": tasks}


def _task_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a task's configuration without its metadata, which names the model and absolute paths."""
    return {key: value for key, value in config.items() if key != "metadata"}


def _axis(
    where: str, score: TaskScore, results: Mapping[str, Any], files: Mapping[str, bytes], date: str
) -> dict[str, list[_Sample]]:
    name = f"samples_{score.task}_{date}.jsonl"
    found = [path for path in files if PurePosixPath(path).name == name]
    if len(found) != 1:
        others = [PurePosixPath(path).name for path in files if f"samples_{score.task}_" in path]
        had = f"; there is {others[0]}, of another run" if others else ""
        raise NotCheckable(Problem(where, f"has no {name}{had}", "samples are written by --log_samples"))
    rows = [
        row
        for number, line in enumerate(files[found[0]].decode("utf-8", "replace").split("\n"), 1)
        if line.strip() and (row := _json(line.encode(), f"{found[0]}:{number}")).get("filter", "none") == score.filter
    ]
    samples: dict[str, list[_Sample]] = {}
    problems: list[Problem] = []
    for row in rows:
        problems += _broken(row, where)
        samples.setdefault(_key(row), []).append(_sample(row, score, where))
    if problems:
        raise Tampered(problems[:_SHOWN])
    _agree(where, score, results, rows, samples)
    return samples


def _key(row: Mapping[str, Any]) -> str:
    return "/".join(str(row.get(name)) for name in ("doc_hash", "prompt_hash", "target_hash"))


def _broken(row: Mapping[str, Any], where: str) -> list[Problem]:
    """Return which hashes of a sample do not follow from what it says; lm-eval's own formulas."""
    prompt = row.get("arguments")
    first: Any = next(iter(prompt.values()), None) if isinstance(prompt, dict) else None
    made = {
        "doc_hash": json.dumps(row.get("doc"), indent=2, ensure_ascii=False),
        "prompt_hash": first.get("arg_0") if isinstance(first, dict) else None,
        "target_hash": row.get("target"),
    }
    return [
        Problem(f"{where}, doc_id {row.get('doc_id')}", f"was changed: its {name} does not follow", "restore it")
        for name, text in made.items()
        if not isinstance(text, str) or hashlib.sha256(text.encode("utf-8", "replace")).hexdigest() != row.get(name)
    ]


def _sample(row: Mapping[str, Any], score: TaskScore, where: str) -> _Sample:
    if not isinstance(row.get("doc_id"), int):
        raise Invalid(Problem(where, f"has the doc_id {row.get('doc_id')!r}", "it counts samples, from 0"))
    value = row.get(score.metric)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        found = f"{score.metric} is {value!r}"
        raise Invalid(Problem(f"{where}, doc_id {row.get('doc_id')}", found, "a score is one finite number a sample"))
    return _Sample(row.get("doc_id"), float(value), row.get("resps"))


def _agree(
    where: str,
    score: TaskScore,
    results: Mapping[str, Any],
    rows: list[Any],
    samples: Mapping[str, list[_Sample]],
) -> None:
    """Refuse samples that are not those the results were computed from."""
    expected = _part(_part(results, "n-samples"), score.task).get("effective")
    if expected != len(rows):
        numbers = range(expected) if isinstance(expected, int) and expected < 1 << 24 else ()
        gone = [str(number) for number in numbers if number not in {row.get("doc_id") for row in rows}]
        which = f": doc_id {', '.join(gone[:_SHOWN])} is missing" if gone else ""
        found = f"holds {len(rows)} samples{which}"
        raise NotCheckable(Problem(where, found, f"the results were computed from {expected}"))
    ordered = sorted(rows, key=lambda row: int(row["doc_id"]))
    joined = "".join(str(row.get(name)) for row in ordered for name in ("doc_hash", "prompt_hash", "target_hash"))
    stated = _part(results, "task_hashes").get(score.task)
    one_filter = len({row.get("doc_id") for row in rows}) == len(rows) and score.filter == "none"
    if one_filter and stated != hashlib.sha256(joined.encode()).hexdigest():
        found = "holds other samples than the results were computed from (task hash)"
        raise Tampered(Problem(where, found, "restore the files lm-eval wrote"))
    metrics = _part(_part(results, "configs"), score.task).get("metric_list") or []
    means = any(one.get("metric") == score.metric and one.get("aggregation") == "mean" for one in metrics)
    reported = _part(_part(results, "results"), score.task).get(f"{score.metric},{score.filter}")
    values = [sample.value for group in samples.values() for sample in group]
    mean = math.fsum(values) / len(values) if values else math.nan
    if means and (not isinstance(reported, int | float) or not math.isclose(mean, reported, rel_tol=_SLACK)):
        found = f"its samples have a mean {score.metric} of {mean:.6g}, the results say {reported}"
        todo = "a sample was changed, or these are the samples of another run"
        raise Tampered(Problem(where, found, todo))


# ------------------------------------------------------------------ a run against its baseline


def _same_settings(baseline: _Loaded, ablated: _Loaded) -> None:
    problems = []
    for key, expected in baseline.settings.items():
        found = ablated.settings[key]
        if key == "tasks":
            problems += [
                Problem(ablated.name, f"{task}: its {part} is not the baseline's", "run both with the same task")
                for task, parts in expected.items()
                for part, value in parts.items()
                if found[task][part] != value
            ]
        elif found != expected:
            todo = "it is another model" if key == "model_num_parameters" else "run both with the same settings"
            problems.append(Problem(ablated.name, f"{key} is {found!r}, the baseline's {expected!r}", todo))
    if problems:
        raise Deviated(problems)


def _pair(baseline: _Loaded, ablated: _Loaded, axis: str, score: TaskScore) -> dict[str, Any]:
    """Return the differences of one ablation on one axis, in the order of the samples' hashes."""
    before, after = baseline.axes[axis], ablated.axes[axis]
    _same_requests(before, after, f"{ablated.name}, {score.task}")
    sign = 1.0 if score.harm == "increase" else -1.0
    items, deltas = [], []
    for key in sorted(before):
        pairs = zip(_ordered(before[key]), _ordered(after[key]), strict=True)
        for number, (one, other) in enumerate(pairs):
            name = hashlib.sha256(key.encode()).hexdigest()[:16]
            items.append(name if number == 0 else f"{name}-{number + 1}")
            deltas.append(sign * (other.value - one.value) + 0.0)
    return {"items": items, "clusters": None, "deltas": deltas}


def _ordered(samples: list[_Sample]) -> list[_Sample]:
    return sorted(samples, key=lambda sample: sample.value)


def _same_requests(before: Mapping[str, list[_Sample]], after: Mapping[str, list[_Sample]], where: str) -> None:
    gone = Counter({key: len(group) for key, group in before.items()})
    come = Counter({key: len(group) for key, group in after.items()})
    missing, extra = gone - come, come - gone
    ids = {sample.doc_id: key for key in extra for sample in after[key]}
    changed, absent = [], []
    for key in missing:
        for sample in before[key]:
            if sample.doc_id in ids:
                changed.append(_changed(sample.doc_id, key, ids[sample.doc_id], where))
            else:
                absent.append(Problem(where, f"lacks the baseline's sample doc_id {sample.doc_id}", "run it again"))
    if changed:
        raise Deviated(changed[:_SHOWN])
    if absent:
        raise NotCheckable(absent[:_SHOWN])
    if extra:
        names = ", ".join(str(sample.doc_id) for key in list(extra)[:_SHOWN] for sample in after[key])
        raise Deviated(Problem(where, f"has samples the baseline lacks: doc_id {names}", "run both on the same items"))


def _changed(doc_id: Any, before: str, after: str, where: str) -> Problem:
    parts = ("document", "prompt", "target")
    differ = [part for part, one, other in zip(parts, before.split("/"), after.split("/"), strict=True) if one != other]
    return Problem(
        where, f"its doc_id {doc_id} has another {' and '.join(differ)} than the baseline's", "run both alike"
    )


def _refuse_unchanged(baseline: _Loaded, ablated: _Loaded) -> None:
    same = all(
        [sample.responses for sample in _ordered(before[key])] == [one.responses for one in _ordered(after[key])]
        for axis, before in baseline.axes.items()
        for after in [ablated.axes[axis]]
        for key in before
    )
    if same:
        found = "answered every request exactly as the baseline did"
        raise Deviated(Problem(ablated.name, found, "its ablation did nothing, or a cache answered for it"))


# ------------------------------------------------------------------ JSON


def _json(data: bytes, where: str) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise Invalid(Problem(where, f"is not JSON ({error})", "restore the file lm-eval wrote")) from error
    if not isinstance(value, dict):
        raise Invalid(Problem(where, "is no JSON object", "restore the file lm-eval wrote"))
    return value


def _part(value: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """Return a part of lm-eval's results, empty where it is not there."""
    part = value.get(key)
    return part if isinstance(part, dict) else {}
