"""The sharing engine against plain forwards: every architecture, every operator, exact zeros, budgets, packs."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from tiny_configs import ROUTABLE, shared

from prereg_moe.lab.engines.base import Answer, Case, Request
from prereg_moe.lab.engines.sweep import Sweep
from prereg_moe.lab.intervene import Intervention, Mask, intervene
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
