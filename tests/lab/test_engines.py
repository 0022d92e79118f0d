"""The sharing engine against plain forwards: every architecture, every operator, exact zeros, budgets, packs."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from tiny_configs import ROUTABLE, build, shared

from prereg_moe.errors import Stopped
from prereg_moe.evidence import Agreement
from prereg_moe.lab.engines.base import Answer, Case, Request
from prereg_moe.lab.engines.sweep import Sweep
from prereg_moe.lab.intervene import Force, Intervention, KeepOnly, Mask, Mean, Noise, Scale, intervene
from prereg_moe.lab.models import MoE, discover

LENGTH = 64
TOLERANCE = 1e-3


def requests_of(seed: int = 0) -> tuple[Request, ...]:
    """Texts of several lengths, one with four choices, one with single-token choices, one that must be cut."""
    draw = np.random.default_rng(seed)

    def text(count: int) -> tuple[int, ...]:
        return tuple(draw.integers(3, 120, count).tolist())

    found = [((1,), text(count)) for count in (30, 23, 5, 31)]
    found += [((1, *text(9)), text(6))]
    context = (1, *text(24))
    found += [(context, text(count)) for count in (7, 3, 9, 1)]
    context = (1, *text(12))
    found += [(context, text(1)) for _ in range(4)]
    found += [((1, *text(58)), text(12))]
    return tuple(dict.fromkeys(found))


def plainly(model: Any, requests: Sequence[Request]) -> Mapping[Request, Answer]:
    """Return answers by one plain forward a request."""
    answers = {}
    with torch.inference_mode():
        for context, tokens in requests:
            ids = torch.tensor([(context + tokens)[-(LENGTH + 1) :][:-1]])
            logits = model(input_ids=ids, use_cache=False).logits[0, -len(tokens) :]
            scores = torch.log_softmax(logits.float(), -1)
            wanted = torch.tensor(tokens)
            value = scores.gather(1, wanted[:, None]).double().sum()
            answers[context, tokens] = (float(value), bool((scores.argmax(-1) == wanted).all()))
    return answers


def sweep(moe: MoE, requests: Sequence[Request], *, budget: int = 256, tolerance: float = TOLERANCE) -> Sweep:
    score = functools.partial(plainly, moe.model)
    return Sweep(moe, requests, score, max_length=LENGTH, batch_tokens=budget, check=2, tolerance=tolerance)


def reference(moe: MoE, requests: Sequence[Request], interventions: Sequence[Intervention]) -> Mapping[Request, Answer]:
    with intervene(moe, *interventions):
        return plainly(moe.model, requests)


def farthest(found: Mapping[Request, Answer], wanted: Mapping[Request, Answer]) -> float:
    assert found.keys() == wanted.keys()
    return max(abs(found[one][0] - wanted[one][0]) for one in wanted)


def cases_of(moe: MoE, gates: Any = "renorm") -> list[Case]:
    """A baseline, a family over all layers, one expert in the first, a middle and the last layer."""
    layers = moe.indices
    family = dict.fromkeys(layers, (0, 1))
    masks = [Mask(family, gates)] + [Mask({one: (2,)}, gates) for one in sorted({layers[0], layers[-1]})]
    return [Case("baseline", ()), *(Case(f"mask {number}", (mask,)) for number, mask in enumerate(masks))]


@pytest.mark.parametrize("name", ROUTABLE)
def test_every_architecture_is_computed_as_by_plain_forwards(name: str) -> None:
    moe = discover(shared(name))
    if moe.layers[0].refusal:
        pytest.skip(f"its router cannot be masked: {moe.layers[0].refusal}")
    requests = requests_of()
    engine = sweep(moe, requests)
    gates = "original" if any(layer.no_logits or layer.groups > 1 for layer in moe.layers) else "renorm"
    cases = cases_of(moe, gates)
    for case, found in zip(cases, engine.answer(cases), strict=True):
        wanted = reference(moe, requests, case.interventions)
        assert farthest(found.answers, wanted) <= TOLERANCE


@functools.cache
def qwen(dtype: torch.dtype = torch.float32) -> MoE:
    return discover(shared("qwen3_moe", dtype))


@pytest.mark.parametrize("gates", ["renorm", "original"])
@pytest.mark.parametrize("budget", [40, 4096], ids=["a row a batch", "all in one batch"])
def test_another_budget_lies_within_the_tolerance(gates: Any, budget: int) -> None:
    requests, cases = requests_of(), cases_of(qwen(), gates)
    for one, two in zip(
        sweep(qwen(), requests).answer(cases), sweep(qwen(), requests, budget=budget).answer(cases), strict=True
    ):
        assert farthest(one.answers, two.answers) <= TOLERANCE


def test_the_same_pack_gives_the_same_bits_whatever_was_computed_before() -> None:
    requests, cases = requests_of(), cases_of(qwen())
    engine = sweep(qwen(), requests)
    first = [found.answers for found in engine.answer(cases)]
    list(engine.answer(cases[:2]))
    assert [found.answers for found in engine.answer(cases)] == first
    assert [found.answers for found in sweep(qwen(), requests).answer(cases)] == first


def test_packed_conditions_are_computed_as_each_alone() -> None:
    requests, cases = requests_of(), cases_of(qwen())
    engine = sweep(qwen(), requests)
    for case, found in zip(cases, list(engine.answer(cases)), strict=True):
        (alone,) = engine.answer([case])
        assert farthest(found.answers, alone.answers) <= TOLERANCE


@pytest.mark.parametrize("operator", [Mask, Scale], ids=["mask", "zero contribution"])
def test_a_request_that_selects_none_of_the_cells_has_the_baselines_bits(operator: Any) -> None:
    requests = requests_of()
    moe, engine = qwen(), sweep(qwen(), requests)
    changed = 0
    for expert in range(moe.n_experts):
        case = Case(f"{expert}", (operator({moe.indices[-1]: (expert,)}),))
        baseline, found = engine.answer([Case("baseline", ()), case])
        for request in requests:
            ids = torch.tensor([(request[0] + request[1])[-(LENGTH + 1) :][:-1]])
            selected = selection(moe, ids, moe.indices[-1])[-len(request[1]) :]
            if expert not in selected:
                assert found.answers[request] == baseline.answers[request]
            changed += found.answers[request] != baseline.answers[request]
        assert found.record is not None
        assert (found.record["untouched"] < found.record["rows"]) == (found.answers != baseline.answers)
    assert changed > len(requests)


def selection(moe: MoE, ids: torch.Tensor, layer: int) -> torch.Tensor:
    """Return the experts selected at each token of one row: (tokens, k)."""
    seen: list[torch.Tensor] = []
    handle = moe.layer(layer).experts.register_forward_pre_hook(lambda _, args: seen.append(args[1]))
    with torch.inference_mode():
        moe.model(input_ids=ids, use_cache=False)
    handle.remove()
    return seen[0]


OPERATORS: dict[str, Any] = {
    "keep only": lambda moe: KeepOnly(dict.fromkeys(moe.indices, (0, 1, 2, 5))),
    "half a contribution": lambda moe: Scale(dict.fromkeys(moe.indices, (1, 3)), 0.5),
    "force": lambda moe: Force({moe.indices[1]: (4,)}),
    "mean": lambda moe: Mean({moe.indices[1]: (1, 2)}, {moe.indices[1]: np.full((8, 32), 0.3)}),
    "noise, which acts on whole batches": lambda moe: Noise({moe.indices[0]: (1,)}, 0.0),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_every_operator_is_computed_as_by_plain_forwards(name: str) -> None:
    operator, requests = OPERATORS[name](qwen()), requests_of()
    _, found = sweep(qwen(), requests).answer([Case("baseline", ()), Case(name, (operator,))])
    assert farthest(found.answers, reference(qwen(), requests, [operator])) <= TOLERANCE
    assert found.record is not None
    assert found.record["computed_by"] == ("stock" if name.startswith("noise") else "sweep")


def test_bfloat16_lies_within_what_bfloat16_can_hold() -> None:
    moe, requests = qwen(torch.bfloat16), requests_of()
    cases = cases_of(moe)
    for case, found in zip(cases, sweep(moe, requests, tolerance=0.5).answer(cases), strict=True):
        assert farthest(found.answers, reference(moe, requests, case.interventions)) <= 0.5


def test_answers_that_differ_from_stock_stop_the_run() -> None:
    requests = requests_of()

    def wrong(asked: Sequence[Request]) -> Mapping[Request, Answer]:
        return {one: (value + 0.01, greedy) for one, (value, greedy) in plainly(qwen().model, asked).items()}

    engine = Sweep(qwen(), requests, wrong, max_length=LENGTH, batch_tokens=256, check=2, tolerance=TOLERANCE)
    with pytest.raises(Stopped, match=r"differs from stock by 0\.01"):
        list(engine.answer(cases_of(qwen())))


def test_one_condition_far_from_stock_is_computed_by_stock(monkeypatch: pytest.MonkeyPatch) -> None:
    moe, requests = qwen(), requests_of()
    cases = cases_of(moe)
    assert len(cases) > 2
    engine = sweep(moe, requests)
    near = engine._apart
    monkeypatch.setattr(engine, "_apart", lambda case, answers: (0.05, 0) if case is cases[1] else near(case, answers))
    found = list(engine.answer(cases))
    assert [one.record["computed_by"] for one in found if one.record] == [
        "stock" if case is cases[1] else "sweep" for case in cases
    ]
    assert found[1].record == {"computed_by": "stock", "not_shared": ["a request lay 0.05 nats from stock"]}
    assert found[1].answers == reference(moe, requests, cases[1].interventions)


def test_a_greedy_answer_that_differs_from_stocks_is_counted() -> None:
    moe, requests = qwen(), requests_of()

    def otherwise(asked: Sequence[Request]) -> Mapping[Request, Answer]:
        return {one: (value, not greedy) for one, (value, greedy) in plainly(moe.model, asked).items()}

    engine = Sweep(moe, requests, otherwise, max_length=LENGTH, batch_tokens=256, check=2, tolerance=TOLERANCE)
    (found,) = engine.answer([Case("baseline", ())])
    assert found.record is not None
    assert found.record["check"]["flips"] == 2
    agreement = Agreement.of([found.record, found.record], TOLERANCE)
    assert (agreement.conditions, agreement.requests, agreement.flips) == (2, 4, 4)
    assert "flips" not in next(iter(sweep(moe, requests).answer([Case("baseline", ())]))).record["check"]


def test_a_model_that_cannot_be_taken_apart_is_computed_by_stock(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build("qwen3_moe")
    monkeypatch.setattr(type(model), "get_output_embeddings", lambda _: None)
    moe, requests = discover(model), requests_of()
    cases = cases_of(moe)
    for case, found in zip(cases, sweep(moe, requests).answer(cases), strict=True):
        assert found.answers == reference(moe, requests, case.interventions)
        assert found.record == {
            "computed_by": "stock",
            "not_shared": [f"{type(model).__name__} has no head of its own"],
        }


@pytest.mark.parametrize("name", ["qwen3_next", "jamba", "lfm2_moe"])
def test_recurrent_layers_do_not_share_contexts_and_say_so(name: str) -> None:
    engine = sweep(discover(shared(name)), requests_of())
    assert not engine.exact.trees
    assert any("contexts of several choices" in note for note in engine.exact.notes)


def test_a_sliding_window_shorter_than_a_text_is_noticed_where_it_matters() -> None:
    moe = discover(build("mixtral", sliding_window=8))
    requests = requests_of()
    engine, cases = sweep(moe, requests), cases_of(moe)
    assert not engine.exact.trees
    for case, found in zip(cases, engine.answer(cases), strict=True):
        assert farthest(found.answers, reference(moe, requests, case.interventions)) <= TOLERANCE


@pytest.mark.parametrize("name", ["olmoe", "ernie4_5_moe", "deepseek_v3"])
def test_gates_that_feel_masks_of_unselected_experts_are_noticed(name: str) -> None:
    assert not sweep(discover(shared(name)), requests_of()).exact.local


def test_no_batch_is_larger_than_the_budget_nor_its_states() -> None:
    requests, widest = requests_of(), []
    moe = discover(build("qwen3_moe"))
    budget = 96
    engine = sweep(moe, requests, budget=budget)
    moe.model.register_forward_pre_hook(
        lambda _, args, named: widest.append(named["input_ids"].numel()), with_kwargs=True
    )
    list(engine.answer(cases_of(moe)))
    longest = max(
        len(context) + sum(len(tail) for head, tail in requests if head == context) for context, _ in requests
    )
    assert max(widest) <= max(budget, longest)


def test_less_is_computed_than_the_plain_way_and_never_less_than_must_be() -> None:
    requests, moe = requests_of(), qwen()
    engine = sweep(moe, requests)
    cases = [Case("baseline", ()), *(Case(f"{one}", (Mask({moe.indices[-1]: (one,)}),)) for one in range(6))]
    list(engine.answer(cases))
    plain = sum(len(context) + len(tail) - 1 for context, tail in requests) * len(moe.layers) * len(cases)
    assert engine.work.needed_layers <= engine.work.layers < plain / 3
    baseline = sweep(moe, requests)
    list(baseline.answer(cases[:1]))
    more, must = (getattr(engine.work, name) - getattr(baseline.work, name) for name in ("layers", "needed_layers"))
    assert 0 < must <= more, "in the last layer nothing but scored tokens is computed, or has to be"
    assert engine.work.needed_heads == engine.work.heads
