"""Evidence: one canonical file a condition, and gathering them into exactly what was planned.

A file holds, for each axis and in the order the frozen registration lists the items: the
task's metric as lm-evaluation-harness scored it, the number of tokens scored, the value that
is judged, and the raw responses that were scored; the intervention's proof; and the
environment that can change a value. It holds nothing that cannot (time, host, workers), so the
same study gives the same bytes.

:func:`gather` accepts exactly the plan: a missing condition is `NotCheckable`, an edited one
`Tampered`, another item, environment or intervention `Deviated`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from prereg_moe import canonical
from prereg_moe.errors import Deviated, NotCheckable, PreregError, Problem, Tampered
from prereg_moe.frozen import Condition, Frozen
from prereg_moe.registration.schema import Zero

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["SCHEMA", "Agreement", "Evidence", "Scores", "document", "file_name", "gather", "manifest"]

SCHEMA = "prereg-moe/evidence/1"
_KEYS = {"schema", "condition", "plan", "axes", "proof", "environment"}
_COLUMNS = {"metric", "tokens", "values", "responses"}


@dataclass(frozen=True, slots=True)
class Scores:
    """What one condition scored on one axis, item by item in the frozen order.

    Attributes:
        metric: the task's metric, as lm-eval returned it.
        tokens: tokens lm-eval scored for the item.
        responses: what the model answered, as lm-eval scored it (JSON values).
    """

    metric: tuple[float, ...]
    tokens: tuple[int, ...]
    responses: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far a sharing engine's evidence lies from `stock`, on the requests that both computed.

    Attributes:
        conditions: how many were compared.
        requests: how many of their requests were.
        largest: farthest two log-likelihoods of one request lie apart, in nats.
        flips: requests whose continuation is the greedy one for one engine only.
        tolerance: how far they may lie apart, as registered.
        by_stock: why conditions were computed by stock as a whole -> how many.
    """

    conditions: int
    requests: int
    largest: float
    flips: int
    tolerance: float
    by_stock: Mapping[str, int]

    @classmethod
    def of(cls, records: Sequence[Mapping[str, Any]], tolerance: float) -> Agreement:
        """Return what the ``engine`` entries of evidence files say together."""
        checks = [record["check"] for record in records if "check" in record]
        reasons = Counter("; ".join(record["not_shared"]) for record in records if "check" not in record)
        return cls(
            conditions=len(checks),
            requests=sum(check["requests"] for check in checks),
            largest=max((check["largest"] for check in checks), default=0.0),
            flips=sum(check.get("flips", 0) for check in checks),
            tolerance=tolerance,
            by_stock=dict(sorted(reasons.items())),
        )


@dataclass(frozen=True, slots=True)
class Evidence:
    """The per-item values of every planned condition.

    Attributes:
        digest: digest of the manifest: condition digest -> file digest.
        values: condition digest -> axis -> values in the frozen item order.
        environment: what computed them, the same for all.
        frozen: the frozen registration they belong to.
    """

    digest: str
    values: Mapping[str, Mapping[str, NDArray[np.float64]]]
    environment: Mapping[str, Any]
    frozen: Frozen

    def first(self, look: int) -> Evidence:
        """Return what an earlier look saw of this evidence."""
        frozen = self.frozen.first(look)
        values = {
            digest: {
                axis: self.values[digest][axis][: len(ids)] for axis, ids in frozen.items(condition.measure).items()
            }
            for digest, condition in frozen.judged.items()
        }
        return replace(self, values=values, frozen=frozen)

    def to_frame(self) -> pd.DataFrame:
        """Return a frame with one row an item.

        Columns: model, measure, condition (digest), role (baseline | ablation), axis, item, value.
        """
        import pandas as pd  # a frame is asked for rarely and pandas takes a second to import

        rows = [
            (c.model, c.measure, digest, "baseline" if c.is_baseline else "ablation", axis, item, value)
            for digest, c in self.frozen.judged.items()
            for axis, values in self.values[digest].items()
            for item, value in zip(self.frozen.items(c.measure)[axis], values.tolist(), strict=True)
        ]
        return pd.DataFrame(rows, columns=["model", "measure", "condition", "role", "axis", "item", "value"])


def file_name(condition: str) -> str:
    """Return the file name of a condition's evidence."""
    return condition.removeprefix("sha256:") + ".json"


def document(
    frozen: Frozen,
    condition: Condition,
    scores: Mapping[str, Scores],
    *,
    plan: str,
    proof: Mapping[str, Any] | None,
    environment: Mapping[str, Any],
    engine: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return a condition's evidence as the JSON document that is written.

    Args:
        scores: axis -> what was scored, items in the frozen order.
        plan: digest of the tokenised requests.
        proof: what the intervention's guards counted, None for the baseline.
        environment: what can change a value.
        engine: what the engine says of itself and of its check; None for `stock`, which has nothing to say.

    Raises:
        Deviated: the scores are not of the registered items.
        Tampered: a value is not finite.
    """
    per_token = frozen.run_as.measures[condition.measure].per == "token"
    made = {
        "schema": SCHEMA,
        "condition": condition.to_json(),
        "plan": plan,
        "axes": {
            axis: {
                "metric": list(score.metric),
                "tokens": list(score.tokens),
                "values": [m / t if per_token else m for m, t in zip(score.metric, score.tokens, strict=True)],
                "responses": list(score.responses),
            }
            for axis, score in scores.items()
        },
        "proof": None if proof is None else dict(proof),
        "environment": dict(environment),
    }
    if engine is not None:
        made["engine"] = dict(engine)
    _raise(_problems(frozen, condition, made, "evidence"))
    return made


def manifest(files: Mapping[str, bytes]) -> dict[str, str]:
    """Return file name -> digest of evidence files, as ``evidence.json`` holds it."""
    return {name: canonical.digest(files[name]) for name in sorted(files)}


def gather(frozen: Frozen, files: Mapping[str, bytes]) -> Evidence:
    """Return the evidence in the files, which are exactly the planned ones.

    Args:
        files: file name -> bytes; a mapping may read them when they are asked for, and each is asked for once.

    Raises:
        NotCheckable: a planned condition has no file.
        Tampered: a file is not canonical, or its numbers do not follow from its responses.
        Deviated: a file nobody planned, other items, another intervention or environment.
    """
    planned = {file_name(digest): condition for digest, condition in frozen.plan.items()}
    missing = [name for name in planned if name not in files]
    if missing:
        raise NotCheckable(
            Problem(
                "evidence",
                f"{len(missing)} of {len(planned)} conditions are missing, the first {missing[0]}",
                "run the rest",
            )
        )
    problems: list[PreregError] = [
        Deviated(Problem(n, "is not in the plan", "remove it")) for n in sorted(set(files) - set(planned))
    ]
    together = _Together()
    values: dict[str, dict[str, NDArray[np.float64]]] = {}
    digests: dict[str, str] = {}
    for name, condition in planned.items():  # one file at a time: a study may be larger than memory
        data = files[name]
        digests[name] = canonical.digest(data)
        try:
            made = canonical.loads(data, name)
        except Tampered as error:
            problems.append(error)
            continue
        found = _problems(frozen, condition, made, name)
        problems += found
        if not found:
            together.add(name, made)
            values[condition.digest] = {
                axis: np.array(made["axes"][axis]["values"], dtype=np.float64) for axis in frozen.registration.axes
            }
    _raise(problems or together.problems)
    whole = {digest: _joined([values[part.digest] for part in frozen.parts(c)]) for digest, c in frozen.judged.items()}
    return Evidence(canonical.digest(dict(sorted(digests.items()))), whole, together.environment, frozen)


def _joined(parts: Sequence[Mapping[str, NDArray[np.float64]]]) -> Mapping[str, NDArray[np.float64]]:
    """Return axis -> values in the frozen item order, part behind part."""
    return parts[0] if len(parts) == 1 else {axis: np.concatenate([part[axis] for part in parts]) for axis in parts[0]}


def _raise(problems: Sequence[PreregError]) -> None:
    """Raise the gravest kind of error found, with all problems of every kind."""
    for kind in (Tampered, NotCheckable, Deviated):
        if any(isinstance(error, kind) for error in problems):
            raise kind([problem for error in problems for problem in error.problems])


def _problems(frozen: Frozen, condition: Condition, made: Any, where: str) -> list[PreregError]:
    if (
        not isinstance(made, dict)
        or set(made) - {"engine"} != _KEYS
        or made["schema"] != SCHEMA
        or not isinstance(made["axes"], dict)
        or not isinstance(made["environment"], dict)
    ):
        return [Tampered(Problem(where, "is not an evidence file"))]
    problems: list[PreregError] = []
    if made["condition"] != condition.to_json():
        problems.append(Deviated(Problem(where, "is of another condition", "its name is the condition's digest")))
    if set(made["axes"]) != set(frozen.registration.axes):
        return [*problems, Deviated(Problem(where, f"has the axes {', '.join(made['axes'])}"))]
    per_token = frozen.run_as.measures[condition.measure].per == "token"
    for axis, column in made["axes"].items():
        problems += _axis(column, len(frozen.items(condition.measure)[axis]), f"{where}, {axis}", per_token=per_token)
    problems += _engine(frozen, made.get("engine"), where)
    return problems + _proof(frozen, condition, made["proof"], where)


def _engine(frozen: Frozen, record: Any, where: str) -> list[PreregError]:
    """Return what is wrong with what an engine says of itself: `stock` says nothing, others how far `stock` lies."""
    engine = frozen.registration.engine
    if engine.kind == "stock" or (isinstance(record, dict) and record.get("computed_by") == "stock"):
        wrong = engine.kind == "stock" and record is not None
        return [Deviated(Problem(where, "was computed by another engine than registered"))] if wrong else []
    check = record.get("check") if isinstance(record, dict) else None
    largest = check.get("largest") if isinstance(check, dict) else None
    if not isinstance(largest, (int, float)) or not 0 <= largest <= engine.tolerance:
        found = f"its engine was checked as {check!r}"
        return [Deviated(Problem(where, found, f"stock may lie {engine.tolerance:g} nats apart, and must be asked"))]
    return []


def _axis(column: Any, items: int, where: str, *, per_token: bool) -> list[PreregError]:
    if not isinstance(column, dict) or set(column) != _COLUMNS or not all(isinstance(c, list) for c in column.values()):
        return [Tampered(Problem(where, "is not a table of metric, tokens, values, responses"))]
    if any(len(values) != items for values in column.values()):
        return [Deviated(Problem(where, f"has {len(column['values'])} items", f"{items} are registered"))]
    for metric, tokens, value in zip(column["metric"], column["tokens"], column["values"], strict=True):
        numbers = isinstance(metric, (int, float)) and isinstance(value, (int, float)) and isinstance(tokens, int)
        if not numbers or not math.isfinite(metric) or tokens < 1:
            return [Tampered(Problem(where, f"holds {metric!r} over {tokens!r} tokens", "scores are finite numbers"))]
        if value != (metric / tokens if per_token else metric):
            return [
                Tampered(Problem(where, f"the value {value!r} does not follow from {metric!r} over {tokens} tokens"))
            ]
    return []


def _proof(frozen: Frozen, condition: Condition, proof: Any, where: str) -> list[PreregError]:
    """Return what is wrong with the proof that an intervention happened (or that none did)."""
    if condition.is_baseline:
        return [] if proof is None else [Deviated(Problem(where, "a baseline with an intervention's proof"))]
    masked = frozen.masked(condition)
    if not isinstance(proof, dict) or proof.get("leaks") != 0 or proof.get("masked_cells") != masked:
        return [Deviated(Problem(where, f"its proof is {proof!r}", f"expected no leak and {masked} masked cells"))]
    if isinstance(condition.intervention, Zero):
        cells, slots = sum(len(experts) for experts in condition.cells.values()), proof.get("edited_slots")
        if proof.get("edited_cells") != cells or type(slots) is not int or slots < 0:
            expected = f"expected {cells} edited cells and a count of the slots that held them"
            return [Deviated(Problem(where, f"its proof is {proof!r}", expected))]
    fired = proof.get("fired")
    layers = {str(layer) for layer in condition.cells}
    if not isinstance(fired, dict) or any(not fired.get(layer) for layer in layers):
        return [Deviated(Problem(where, "a layer it names never fired", "the intervention did not happen"))]
    return []


class _Together:
    """Watches for what keeps conditions from being compared: other environments, requests or token counts."""

    def __init__(self) -> None:
        self.environment: Mapping[str, Any] = {}
        self.problems: list[PreregError] = []
        self._requests: dict[tuple[str, str], tuple[str, Any]] = {}

    def add(self, name: str, made: Mapping[str, Any]) -> None:
        if not self._requests:
            self.environment = made["environment"]
        elif made["environment"] != self.environment:
            found = Problem(name, "was computed in another environment", "run all conditions in one")
            self.problems.append(Deviated(found))
        group = (made["condition"]["model"], made["condition"]["measure"])
        requests = (made["plan"], {axis: column["tokens"] for axis, column in made["axes"].items()})
        if self._requests.setdefault(group, requests) != requests:
            found = Problem(name, "answers other requests than its baseline", "run it again")
            self.problems.append(Deviated(found))
