"""Laws of evidence: exactly the plan, in any order, and no edit goes unseen."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from world import AXES, ENVIRONMENT, ID, ITEMS, World, proof

from prereg_moe import canonical, evidence, store
from prereg_moe.errors import Deviated, NotCheckable, PreregError, Tampered
from prereg_moe.evidence import Scores
from prereg_moe.frozen import Condition, Frozen

shared = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def finished(stages_of_a_world: dict[str, Path]) -> World:
    """The world after its run, for reading only."""
    return World(stages_of_a_world["computed"])


@pytest.fixture(scope="module")
def plan(finished: World) -> Frozen:
    return finished.frozen


@pytest.fixture(scope="module")
def files(finished: World) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in finished.evidence}


@settings(shared, max_examples=6)
@given(st.randoms(use_true_random=False))
def test_the_order_of_files_does_not_exist(plan: Frozen, files: dict[str, bytes], random: Any) -> None:
    pairs = list(files.items())
    random.shuffle(pairs)
    gathered, again = evidence.gather(plan, files), evidence.gather(plan, dict(pairs))
    assert again.digest == gathered.digest
    for digest, axes in gathered.values.items():
        for axis, values in axes.items():
            assert np.array_equal(values, again.values[digest][axis])


@settings(shared, max_examples=60)
@given(st.data())
def test_any_changed_byte_of_sealed_evidence_is_named(finished: World, files: dict[str, bytes], data: Any) -> None:
    name = data.draw(st.sampled_from(sorted(files)))
    at = data.draw(st.integers(0, len(files[name]) - 1))
    byte = files[name][at] ^ data.draw(st.integers(1, 255))
    sealed = store.manifest(finished.registry, ID)
    forged = files | {name: files[name][:at] + bytes([byte]) + files[name][at + 1 :]}
    with pytest.raises(Tampered) as caught:
        store._only_sealed(forged, sealed)
    assert [problem.where for problem in caught.value.problems] == [name]


@settings(shared, max_examples=40)
@given(st.data())
def test_any_missing_files_are_missed(plan: Frozen, files: dict[str, bytes], data: Any) -> None:
    gone = data.draw(st.sets(st.sampled_from(sorted(files)), min_size=1, max_size=5))
    with pytest.raises(NotCheckable, match=f"{len(gone)} of {len(files)} conditions are missing"):
        evidence.gather(plan, {name: data_ for name, data_ in files.items() if name not in gone})


@settings(shared, max_examples=12)
@given(st.data())
def test_files_that_change_places_are_not_the_plan(plan: Frozen, files: dict[str, bytes], data: Any) -> None:
    one, other = data.draw(st.lists(st.sampled_from(sorted(files)), min_size=2, max_size=2, unique=True))
    with pytest.raises(Deviated, match="is of another condition"):
        evidence.gather(plan, files | {one: files[other], other: files[one]})


Edit = Callable[[dict[str, Any]], Any]


def _set(path: str, value: Any) -> Edit:
    *parents, last = path.split(".")

    def edit(document: Any) -> None:
        for part in parents:
            document = document[part]
        document[int(last) if isinstance(document, list) else last] = value

    return edit


# an edit of an ablation's document (before any seal) -> the error it is
EDITS: dict[str, tuple[Edit, type[PreregError], str]] = {
    "a value that does not follow from the metric": (_set("axes.no.values.0", 1.0), Tampered, "does not follow"),
    "a metric that does not give the value": (_set("axes.no.metric.0", 1.0), Tampered, "does not follow"),
    "another number of tokens": (_set("axes.no.tokens.0", 17), Tampered, "does not follow"),
    "no tokens": (_set("axes.no.tokens.0", 0), Tampered, "over 0 tokens"),
    "a null among the metrics": (_set("axes.no.metric.0", None), Tampered, "holds None"),
    "text among the values": (_set("axes.no.values.0", "2"), Tampered, "holds"),
    "a column left out": (lambda d: d["axes"]["no"].pop("responses"), Tampered, "is not a table"),
    "a column too many": (_set("axes.no.note", []), Tampered, "is not a table"),
    "a column that is no list": (_set("axes.no.values", 3), Tampered, "is not a table"),
    "an item left out": (lambda d: [c.pop() for c in d["axes"]["no"].values()], Deviated, f"{ITEMS} are registered"),
    "a response left out": (lambda d: d["axes"]["no"]["responses"].pop(), Deviated, "are registered"),
    "an axis left out": (lambda d: d["axes"].pop("no"), Deviated, "has the axes"),
    "an axis too many": (lambda d: d["axes"].update(fr=d["axes"]["no"]), Deviated, "has the axes"),
    "another schema": (_set("schema", "prereg-moe/evidence/2"), Tampered, "is not an evidence file"),
    "a key too many": (_set("note", "x"), Tampered, "is not an evidence file"),
    "axes that are no table": (_set("axes", []), Tampered, "is not an evidence file"),
    "another model": (_set("condition.model", "planted"), Deviated, "of another condition"),
    "another registration": (_set("condition.registration", "sha256:" + "0" * 64), Deviated, "of another condition"),
    "no proof": (_set("proof", None), Deviated, "its proof is None"),
    "a leak": (_set("proof.leaks", 1), Deviated, "its proof is"),
    "fewer masked cells": (_set("proof.masked_cells", 3), Deviated, "expected no leak and 4 masked cells"),
    "a layer that never fired": (_set("proof.fired.1", 0), Deviated, "never fired"),
    "a layer that is not counted": (lambda d: d["proof"]["fired"].pop("2"), Deviated, "never fired"),
    "another environment": (_set("environment.threads", 2), Deviated, "another environment"),
    "other requests": (_set("plan", "sha256:" + "0" * 64), Deviated, "other requests"),
}


def masked(plan: Frozen) -> Condition:
    return next(condition for condition in plan.plan.values() if not condition.is_baseline)


@pytest.mark.parametrize("name", EDITS)
def test_evidence_is_refused_with(name: str, plan: Frozen, files: dict[str, bytes]) -> None:
    edit, kind, words = EDITS[name]
    file = evidence.file_name(masked(plan).digest)
    document = canonical.loads(files[file])
    edit(document)
    with pytest.raises(kind, match=words) as caught:
        evidence.gather(plan, files | {file: canonical.dumps(document)})
    assert type(caught.value) is kind
    assert file in str(caught.value)


def test_a_baseline_with_a_proof_is_refused(plan: Frozen, files: dict[str, bytes]) -> None:
    baseline = next(condition for condition in plan.plan.values() if condition.is_baseline)
    file = evidence.file_name(baseline.digest)
    document = canonical.loads(files[file]) | {"proof": proof(masked(plan))}
    with pytest.raises(Deviated, match="a baseline with an intervention's proof"):
        evidence.gather(plan, files | {file: canonical.dumps(document)})


def test_the_gravest_fault_gives_the_code_and_all_are_said(plan: Frozen, files: dict[str, bytes]) -> None:
    first, second, *_ = sorted(files)
    forged = files | {first: b"{}", second: b"nonsense", "extra.json": b"{}"}
    with pytest.raises(Tampered) as caught:
        evidence.gather(plan, forged)
    assert {problem.where for problem in caught.value.problems} == {first, second, "extra.json"}


json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats(-1, 1) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@settings(shared, max_examples=100)
@given(st.data())
def test_any_other_value_anywhere_is_refused_or_is_equal(plan: Frozen, files: dict[str, bytes], data: Any) -> None:
    condition = masked(plan)
    document = canonical.loads(files[evidence.file_name(condition.digest)])
    path = data.draw(
        st.sampled_from([("axes",), ("axes", "no"), ("axes", "no", "values"), ("axes", "no", "tokens", 0), ("proof",),
                         ("axes", "no", "values", 0), ("condition",), ("condition", "intervention"), ("proof", "fired"),
                         ("schema",), ("proof", "masked_cells")])
    )  # fmt: skip
    value = data.draw(json_values)
    inner = document
    for part in path[:-1]:
        inner = inner[part]
    assume(inner[path[-1]] != value)
    inner[path[-1]] = value
    assert evidence._problems(plan, condition, document, "file"), f"{path} may be {value!r}"


# ------------------------------------------------------------------ making it


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_score_that_is_not_finite_never_becomes_evidence(value: float, finished: World, plan: Frozen) -> None:
    condition = masked(plan)
    scores = {axis: finished.scores(condition, axis, ITEMS) for axis in AXES}
    bad = Scores((value, *scores["no"].metric[1:]), scores["no"].tokens, scores["no"].responses)
    with pytest.raises(Tampered, match="scores are finite numbers"):
        evidence.document(
            plan, condition, scores | {"no": bad}, plan="p", proof=proof(condition), environment=ENVIRONMENT
        )


def test_an_intervention_that_did_not_happen_never_becomes_evidence(finished: World, plan: Frozen) -> None:
    condition = masked(plan)
    with pytest.raises(Deviated, match="never fired"):
        finished.made(plan, condition, proof=proof(condition) | {"fired": {"1": 0, "2": 0}})
    with pytest.raises(Deviated, match="expected no leak"):
        finished.made(plan, condition, proof=proof(condition) | {"leaks": 2})


def test_a_frame_has_a_row_an_item(finished: World, plan: Frozen, files: dict[str, bytes]) -> None:
    frame = evidence.gather(plan, files).to_frame()
    assert list(frame.columns) == ["model", "measure", "condition", "role", "axis", "item", "value"]
    assert len(frame) == len(plan.plan) * len(AXES) * ITEMS
    assert set(frame["role"]) == {"baseline", "ablation"}
    assert frame["value"].notna().all()
