"""Programs of operators against a slow reference that computes one layer by hand, token by token, from its weights.

The reference knows operators only by what docs/interventions.md says of them: it never calls the model's router or
experts, and shares no code with `prereg_moe.lab.intervene`. One router of each kind: a softmax whose gates are
normalised, and one whose gates are not; a sigmoid with a correction bias and groups; a softmax over what was selected.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_configs import build

from prereg_moe.errors import Invalid
from prereg_moe.lab.capture import Recorder
from prereg_moe.lab.intervene import (
    ByRow,
    Force,
    Intervention,
    KeepOnly,
    Mask,
    Mean,
    Scale,
    Scope,
    SkipSlots,
    Starved,
    TopK,
    intervene,
)
from prereg_moe.lab.models import MoE, discover

ROWS, WIDTH, HIDDEN = 2, 4, 32
LENGTHS = (4, 3)
IDS = torch.randint(3, 128, (ROWS, WIDTH), generator=torch.Generator().manual_seed(0))
LAYER = {"olmoe": 0, "qwen3_moe": 0, "deepseek_v3": 1, "gpt_oss": 0}
NEVER, ALWAYS = -np.inf, np.inf


@cache
def found(name: str) -> MoE:
    layers = LAYER[name] + 1  # the layer under test is the last, so what enters it is the same under any program
    return discover(build(name, dtype=torch.float64, implementation="eager", num_hidden_layers=layers))


def hidden_and_output(moe: MoE, *program: Any, recorder: Recorder | None = None) -> tuple[np.ndarray, np.ndarray]:
    """What enters the block, and what its experts give, each (tokens, hidden)."""
    layer, seen = moe.layers[-1], {}
    handles = [
        layer.router.register_forward_pre_hook(lambda _m, args: seen.__setitem__("in", args[0])),
        layer.experts.register_forward_hook(lambda _m, _a, out: seen.__setitem__("out", out)),
    ]
    try:
        with torch.no_grad(), intervene(moe, *program, recorder=recorder) as session:
            session.batch(lengths=LENGTHS, prompt_lengths=(2, 1))
            moe.model(IDS)
            for condition in range(session.conditions):
                session.proof(condition)
    finally:
        for handle in handles:
            handle.remove()
    return tuple(seen[name].reshape(-1, HIDDEN).double().numpy() for name in ("in", "out"))


# ---------------------------------------------------------------------------------------------- the reference


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def softmax(x: np.ndarray) -> np.ndarray:
    weights = np.exp(x - x.max())
    return weights / weights.sum()


def best(keys: np.ndarray, k: int) -> list[int]:
    return np.argsort(-keys, kind="stable")[:k].tolist()


@dataclass
class Token:
    """What a token's operators add up to."""

    masked: set[int]
    forced: set[int]
    k: int
    renorm: bool

    def keys(self, scores: np.ndarray) -> np.ndarray:
        keys = scores.copy()
        keys[list(self.masked)] = NEVER
        keys[list(self.forced)] = ALWAYS
        return keys


def route(name: str, weights: dict[str, np.ndarray], x: np.ndarray, token: Token) -> tuple[list[int], np.ndarray]:
    """The experts of one token and their gates, from the definition of each architecture's router."""
    logits = weights["router"] @ x + weights.get("router_bias", 0)
    if token.renorm:
        logits[list(token.masked)] = NEVER
    if name in {"olmoe", "qwen3_moe"}:
        p = softmax(logits)
        chosen = best(token.keys(p), token.k)
        return chosen, p[chosen] / (p[chosen].sum() if name == "qwen3_moe" else 1)
    if name == "gpt_oss":
        chosen = best(token.keys(logits), token.k)
        return chosen, softmax(logits[chosen])
    scores = sigmoid(logits)
    biased = scores + weights["bias"]
    groups = biased.reshape(4, 4)
    hidden = token.masked if token.renorm else set()
    votes = []
    for number, group in enumerate(groups):
        alive = sorted((v for i, v in enumerate(group) if number * 4 + i not in hidden), reverse=True)
        forced = any(one // 4 == number for one in token.forced)
        votes.append(ALWAYS if forced else sum(alive[:2]) if alive else NEVER)
    kept = best(np.array(votes), 2)
    keys = token.keys(np.where(np.isin(np.arange(16) // 4, kept), biased, NEVER))
    chosen = best(keys, token.k)
    return chosen, scores[chosen] / (scores[chosen].sum() + 1e-20) * 2.5


def expert(name: str, weights: dict[str, np.ndarray], number: int, x: np.ndarray) -> np.ndarray:
    up, down = weights["up"][number], weights["down"][number]
    if name == "gpt_oss":  # transposed, interleaved, clamped, with biases
        both = x @ up + weights["up_bias"][number]
        gate, linear = np.minimum(both[::2], 7.0), np.clip(both[1::2], -7.0, 7.0)
        return ((linear + 1) * gate * sigmoid(1.702 * gate)) @ down + weights["down_bias"][number]
    gate, linear = np.split(up @ x, 2)
    return down @ (gate * sigmoid(gate) * linear)


def weights_of(moe: MoE) -> dict[str, np.ndarray]:
    layer = moe.layers[-1]
    names = {"weight": "router", "bias": "router_bias", "e_score_correction_bias": "bias"}
    found = {names[path]: value for path, value in layer.router.state_dict().items() if path in names}
    names = {"gate_up_proj": "up", "down_proj": "down", "gate_up_proj_bias": "up_bias", "down_proj_bias": "down_bias"}
    found |= {names[path]: value for path, value in layer.experts.state_dict().items()}
    return {key: value.double().numpy() for key, value in found.items()}


def in_scope(scope: Scope | None, row: int, place: int) -> bool:
    if scope is None or (scope.positions is None and scope.segment == "all"):
        return True
    prompt = place < (2, 1)[row]
    return (
        place < LENGTHS[row]  # padding is in no scope
        and (scope.positions is None or place in scope.positions)
        and (scope.segment == "all" or (scope.segment == "prompt") == prompt)
    )


def contribution(
    name: str, moe: MoE, weights: dict[str, np.ndarray], x: np.ndarray, acting: Sequence[Intervention]
) -> tuple[list[int], np.ndarray]:
    """One token under its operators: the experts selected, and the sum of what they contribute."""
    layer = moe.layers[-1]
    every, token = set(range(layer.n_experts)), Token(set(), set(), layer.top_k, renorm=False)
    for one in acting:
        cells = set(getattr(one, "cells", {}).get(layer.index, ()))
        if isinstance(one, KeepOnly):
            cells = every - cells
            token.masked |= cells
        elif isinstance(one, Mask):
            token.masked |= cells
        elif isinstance(one, Force):
            token.forced |= cells
        elif isinstance(one, TopK):
            token.k = one.k
        if isinstance(one, (Mask, KeepOnly)) and cells:  # one without cells is the identity
            token.renorm = one.gates == "renorm"
    chosen, gates = route(name, weights, x, token)
    gates = gates.copy()
    for one in acting:
        if isinstance(one, SkipSlots):
            order = np.argsort(gates if one.which == "lowest" else -gates, kind="stable")
            total = gates.sum()
            gates[order[: one.slots]] = 0
            if one.gates == "renorm":
                gates *= total / gates.sum()
    out = np.zeros(HIDDEN)
    for number, gate in zip(chosen, gates, strict=True):
        gives = expert(name, weights, number, x)
        for one in acting:
            if isinstance(one, (Scale, Mean)) and number in one.cells.get(layer.index, ()):
                gives = one.factor * gives if isinstance(one, Scale) else one.means[layer.index][number]
        out += gate * gives
    return chosen, out


def reference(name: str, moe: MoE, program: Sequence[Any], entering: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What a layer's experts give under a program, and how often each expert is selected by a real token."""
    weights, layer = weights_of(moe), moe.layers[-1]
    out, counts = np.zeros_like(entering), np.zeros(layer.n_experts, int)
    for row, place in itertools.product(range(ROWS), range(WIDTH)):
        ops = [op for one in program for op in (one.conditions[row] if isinstance(one, ByRow) else (one,))]
        acting = [one for one in ops if in_scope(one.scope, row, place)]
        chosen, out[row * WIDTH + place] = contribution(name, moe, weights, entering[row * WIDTH + place], acting)
        if place < LENGTHS[row]:
            counts += np.bincount(chosen, minlength=layer.n_experts)
    return out, counts


# ------------------------------------------------------------------------------------------ programs


SCOPES = (
    st.none()
    | st.sampled_from(["prompt", "generated"]).map(lambda part: Scope(segment=part))
    | st.sets(st.integers(0, 2), min_size=1).map(lambda places: Scope(positions=tuple(places)))
)


def operators(name: str) -> st.SearchStrategy[Intervention]:
    layer = found(name).layers[-1]
    cells = st.sets(st.integers(0, layer.n_experts - 1), min_size=1, max_size=3).map(
        lambda ids: {layer.index: tuple(ids)}
    )
    kept = st.sets(st.integers(0, layer.n_experts - 1), min_size=layer.n_experts - 3).map(
        lambda ids: {layer.index: tuple(ids)}
    )
    gates = st.sampled_from(["renorm", "original"])
    means = {layer.index: np.random.default_rng(0).normal(size=(layer.n_experts, HIDDEN))}
    return st.one_of(
        st.builds(Mask, cells, gates, SCOPES),
        st.builds(KeepOnly, kept, gates, SCOPES),
        st.builds(Force, cells, SCOPES),
        st.builds(TopK, st.integers(1, 4)),
        st.builds(Scale, cells, st.sampled_from([0.0, 0.5, -2.0]), SCOPES),
        st.builds(lambda cells, scope: Mean(cells, means, scope), cells, SCOPES),
        st.builds(SkipSlots, st.just(1), st.sampled_from(["lowest", "highest"]), gates, SCOPES),
    )


@st.composite
def programs(draw: st.DrawFn, name: str) -> tuple[Any, ...]:
    some = st.lists(operators(name), max_size=3).map(tuple)
    shared = draw(some)
    if draw(st.booleans()):
        return shared
    rows = tuple(tuple(one for one in draw(some) if not isinstance(one, TopK)) for _ in range(ROWS))
    return (*shared, ByRow(rows))


@pytest.mark.parametrize("examples", [40, pytest.param(1500, marks=pytest.mark.torture)])
@pytest.mark.parametrize("name", LAYER)
def test_a_program_does_what_its_operators_say(name: str, examples: int) -> None:
    moe, ran = found(name), []
    entering, _ = hidden_and_output(moe)

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(programs(name))
    def check(program: tuple[Any, ...]) -> None:
        try:
            intervene(moe, *program)
        except (Invalid, Starved):
            return  # contradictions; test_intervene.py says which
        recorder = Recorder()
        _, out = hidden_and_output(moe, *program, recorder=recorder)
        expected, counts = reference(name, moe, program, entering)
        np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-6)  # routers compute in float32
        np.testing.assert_array_equal(recorder.counts()[0, -1], counts)
        _, again = hidden_and_output(moe, *reversed(program))
        np.testing.assert_allclose(again, out, rtol=1e-9, atol=1e-12)
        ran.append(program)

    check()
    assert len(ran) >= examples // 4
