"""Edge cases and laws of interventions, on few architectures; test_architectures.py covers them all."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from oracles import fingerprint, most_used, selected, spying
from tiny_configs import build, shared
from torch import nn

from prereg_moe.errors import Invalid, Stopped
from prereg_moe.lab.capture import Recorder
from prereg_moe.lab.intervene import (
    ByRow,
    Force,
    HooksLost,
    KeepOnly,
    Leak,
    Mask,
    Mean,
    Nested,
    NeverFired,
    Noise,
    NotFinite,
    Resample,
    RouterNoise,
    Scale,
    Scope,
    SkipSlots,
    Starved,
    TopK,
    Unreadable,
    cells_of,
    intervene,
)
from prereg_moe.lab.models import MoE, Unsupported, discover

IDS = torch.randint(3, 128, (3, 9), generator=torch.Generator().manual_seed(0))


def found(name: str, **changes: Any) -> MoE:
    return discover(build(name, **changes) if changes else shared(name))


def logits(moe: MoE, ids: torch.Tensor = IDS, **call: Any) -> torch.Tensor:
    with torch.no_grad():
        out: torch.Tensor = moe.model(input_ids=ids, **call).logits
    return out


def under(moe: MoE, *interventions: Any, ids: torch.Tensor = IDS, **options: Any) -> torch.Tensor:
    with intervene(moe, *interventions, **options) as session:
        out = logits(moe, ids)
        session.proof()
    return out


def test_a_dense_layer_is_named() -> None:
    with pytest.raises(Invalid, match=r"layer 0 is not an MoE layer; MoE layers are \[1, 2\]"):
        intervene(found("deepseek_v3"), Mask({0: [1]}))


@pytest.mark.parametrize(
    "cells", [{0: [-1]}, {0: [True]}, {0: [1.0]}, {0: 1}, {-1: [0]}, {0: "12"}, {0: [1, 1]}, [[1]]]
)
def test_cells_that_are_not_cells(cells: Any) -> None:
    with pytest.raises(Invalid):
        Mask(cells)


def test_expert_beyond_the_last_and_all_problems_at_once() -> None:
    with pytest.raises(Invalid) as caught:
        intervene(found("olmoe"), Mask({0: [8], 7: [0]}), Scale({1: [9]}))
    assert len(caught.value.problems) == 3
    assert "layer 0 has no expert 8; use 0 to 7" in str(caught.value)


@pytest.mark.parametrize("mask", [np.zeros((3, 8)), np.zeros((3, 7), bool), np.zeros((2, 8), bool), np.zeros(8, bool)])
def test_boolean_masks_of_another_type_or_shape(mask: Any) -> None:
    with pytest.raises(Invalid, match="mask: has"):
        cells_of(found("olmoe"), mask)


def test_boolean_mask_becomes_cells() -> None:
    mask = np.zeros((3, 8), bool)
    mask[1, [2, 5]] = True
    assert cells_of(found("olmoe"), mask) == {1: (2, 5)}


@pytest.mark.parametrize(
    ("interventions", "reason"),
    [
        ((Mask({0: [1]}), Force({0: [1]})), "both masked and forced"),
        ((Mask({0: [1]}), Mask({0: [2]}, "original")), "disagree on gates"),
        ((Force({0: [0, 1]}), Force({0: [2, 3]})), "4 experts are forced, it selects 3"),
        ((TopK(2), TopK(3)), "two TopK"),
        ((TopK(9),), "top-k 9, it has 8 classes"),
        ((Scale({0: [1]}), Noise({0: [1]}, 1.0)), "two interventions"),
        ((Mask({0: [1]}), Scale({0: [1]})), "can never be changed"),
        ((SkipSlots(3),), "skip 3 of 3"),
        ((SkipSlots(1), TopK(2)), "act at once"),
        ((Mean({0: [1]}, {1: np.zeros((8, 32))}),), "no (8, hidden) vectors"),
        ((Mask({0: [1]}, scope=Scope(layers=(5,))),), "layer 5 is not an MoE layer"),
        ((TopK(2, scope=Scope(positions=(1,))),), "names tokens"),
        ((ByRow(((),)), ByRow(((),))), "two ByRow"),
        ((nn.Identity(),), "hold a Identity"),
    ],
)
def test_contradictions_are_refused_before_the_model_is_touched(interventions: Any, reason: str) -> None:
    with pytest.raises(Invalid) as caught:
        intervene(found("olmoe"), *interventions)
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    "make",
    [
        lambda: TopK(0),
        lambda: TopK(True),
        lambda: SkipSlots(0),
        lambda: Mask({}, "other"),  # type: ignore[arg-type]
        lambda: Scale({}, float("nan")),
        lambda: Noise({}, -1.0),
        lambda: Mean({}, {0: [[float("inf")]]}),
        lambda: Scope(positions=()),
        lambda: Scope(segment="middle"),  # type: ignore[arg-type]
        lambda: ByRow(()),
        lambda: ByRow(((TopK(2),),)),
    ],
)
def test_operators_check_themselves(make: Any) -> None:
    with pytest.raises(Invalid):
        make()


class TestStarvation:
    def test_exactly_k_left_is_allowed(self) -> None:
        moe = found("olmoe")
        with spying(moe.model) as spy:
            under(moe, KeepOnly({0: [1, 4, 6]}))
        assert spy.used()[0].nonzero().flatten().tolist() == [1, 4, 6]

    @pytest.mark.parametrize("kept", [[1, 4], []])
    def test_fewer_than_k_is_an_error(self, kept: list[int]) -> None:
        with pytest.raises(Starved, match=f"{len(kept)} of 8 classes are selectable, it selects 3"):
            intervene(found("olmoe"), KeepOnly({0: kept}))

    def test_top_k_counts(self) -> None:
        with pytest.raises(Starved):
            intervene(found("olmoe"), TopK(5), Mask({0: [0, 1, 2, 3]}))

    def test_a_dead_group_is_allowed_and_never_searched(self) -> None:
        moe = found("deepseek_v3")
        dead = {layer: [4, 5, 6, 7] for layer in moe.indices}
        with spying(moe.model) as spy:
            under(moe, Mask(dead))
        assert spy.leaks(dead) == 0

    def test_groups_left_with_too_little_are_an_error(self) -> None:
        moe = found("deepseek_v3")
        with pytest.raises(Starved, match=r"groups keep \[1, 0, 0, 0\]|1 of 16"):
            intervene(moe, KeepOnly({1: [0]}))
        under(moe, KeepOnly({1: [0, 4]}))
        with pytest.raises(Starved, match="groups keep"):  # original gates: a dead group may be preferred
            intervene(moe, KeepOnly({1: [0, 4]}, "original"))

    def test_masks_on_different_segments_do_not_add_up(self) -> None:
        prompt, rest = Scope(segment="prompt"), Scope(segment="generated")
        one, other = {0: [0, 1, 2, 3]}, {0: [4, 5, 6, 7]}
        intervene(found("olmoe"), Mask(one, scope=prompt), Mask(other, scope=rest))
        with pytest.raises(Starved):
            intervene(found("olmoe"), Mask(one, scope=prompt), Mask(other, scope=prompt))

    def test_masks_on_positions_that_overlap_add_up_where_they_do(self) -> None:
        one, two = Scope(positions=(1, 2)), Scope(positions=(2, 3))
        moe = found("olmoe")
        with pytest.raises(Starved, match="2 of 8 classes"):
            intervene(moe, Mask({0: [0, 1, 2]}, scope=one), Mask({0: [3, 4, 5]}, scope=two))
        with intervene(moe, Mask({0: [0, 1, 2]}, scope=one), Mask({0: [3, 4]}, scope=two), padding="none") as session:
            logits(moe)
            assert session.proof().min_live == 3
        intervene(moe, Force({0: [0, 1]}, scope=Scope(positions=(1,))), Force({0: [2, 3]}, scope=Scope(positions=(2,))))

    def test_no_op_classes_stay_selectable(self) -> None:
        moe = found("zaya")
        recorder = Recorder()
        with intervene(moe, Mask({layer: list(range(8)) for layer in moe.indices}), recorder=recorder) as session:
            logits(moe)
            assert session.proof().min_live == 1
        assert recorder.counts().sum() == 0
        assert (recorder.totals().void == IDS.numel()).all()

    def test_longcat_zero_experts_stay_selectable(self) -> None:
        moe = found("longcat_flash")
        cells = {layer: list(range(7)) for layer in moe.indices}
        with spying(moe.model) as spy:
            under(moe, Mask(cells))
        assert spy.leaks(cells) == 0


class TestRouters:
    @pytest.mark.parametrize("sign", [1.0, -1.0])
    @pytest.mark.parametrize("name", ["deepseek_v3", "ernie4_5_moe", "lfm2_moe"])
    def test_a_bias_that_wants_the_masked_experts(self, name: str, sign: float) -> None:
        moe = found(name, seed=3)
        cells = {layer.index: [0, layer.n_experts - 1] for layer in moe.layers}
        with torch.no_grad():
            for path, tensor in (*moe.model.named_buffers(), *moe.model.named_parameters()):
                if path.endswith(("correction_bias", "expert_bias")):
                    tensor.fill_(-sign)
                    tensor[..., [0, -1]] = 50.0 * sign
        with spying(moe.model) as spy:
            under(moe, Mask(cells))
        assert spy.leaks(cells) == 0

    def test_softmax_that_underflows_to_ties(self) -> None:
        moe = found("olmoe", seed=4)
        with torch.no_grad():
            for layer in moe.layers:
                layer.router.weight.mul_(1e4)
        cells = {layer: [0, 1, 2, 3] for layer in moe.indices}
        with spying(moe.model) as spy:
            under(moe, Mask(cells))
        assert spy.leaks(cells) == 0

    def test_all_scores_at_minus_infinity_are_caught(self) -> None:
        moe = found("mixtral", seed=5)
        with torch.no_grad():
            moe.layers[1].router.weight.fill_(float("nan"))
        with pytest.raises(NotFinite, match="layer 1"), intervene(moe, Mask({1: [0]})):
            logits(moe)

    def test_a_router_that_decides_elsewhere_is_caught(self) -> None:
        """Its forward returns indices our edits cannot reach: the leak check stops it."""
        moe = found("mixtral", seed=6)
        router = moe.layers[0].router
        original = type(router).forward

        class Stubborn(type(router)):  # type: ignore[misc]
            def forward(self, *args: Any) -> Any:
                out = original(self, *args)
                return (*out[:2], torch.zeros_like(out[2]) + torch.arange(out[2].shape[-1]))

        router.__class__ = Stubborn
        with (
            pytest.raises(Leak, match=r"layer 0 .*masked experts were selected 27 times"),
            intervene(moe, Mask({0: [0]})),
        ):
            logits(moe)

    def test_a_layer_without_readable_logits_takes_original_gates_only(self) -> None:
        moe = found("inkling_text")
        with pytest.raises(Unsupported, match="original"):
            intervene(moe, Mask({0: [0]}))
        under(moe, Mask({0: [0]}, "original"))

    def test_hash_layers_are_refused_and_the_others_are_not(self) -> None:
        moe = found("deepseek_v4")
        with pytest.raises(Unsupported, match=r"layer 0 .*without comparing scores"):
            intervene(moe, Mask({0: [0]}))
        under(moe, Mask({1: [0]}))
        under(moe, Scale({0: [0, 1, 2]}))

    def test_soft_capped_and_three_dimensional_routers(self) -> None:
        for name in ("laguna", "zaya", "dbrx", "gemma4_text"):
            moe = found(name)
            cells = most_used(moe.model, 2, input_ids=IDS)
            with spying(moe.model) as spy:
                under(moe, Mask(cells))
            assert spy.leaks(cells) == 0

    def test_two_comparisons_of_one_token_force_two_experts(self) -> None:
        moe = found("phimoe")
        with spying(moe.model) as spy:
            under(moe, Force({0: [2, 7]}))
        assert (spy.slots[0][0][:, [2, 7]] == 1).all()

    def test_k_that_is_fixed_in_code_is_refused(self) -> None:
        with pytest.raises(Unsupported, match="its k is fixed"):
            intervene(found("phimoe"), TopK(1))


class TestLaws:
    @pytest.mark.parametrize("gates", ["renorm", "original"])
    @pytest.mark.parametrize("name", ["olmoe", "deepseek_v3"])
    def test_two_masks_are_their_union(self, name: str, gates: Any) -> None:
        moe = found(name)
        layer = moe.indices[0]
        one = under(moe, Mask({layer: [0, 3]}, gates), Mask({layer: [3, 5]}, gates))
        assert torch.equal(one, under(moe, Mask({layer: [0, 3, 5]}, gates)))
        assert torch.equal(one, under(moe, Mask({layer: [3, 5]}, gates), Mask({layer: [0, 3]}, gates)))

    def test_keep_only_is_the_mask_of_the_rest(self) -> None:
        moe = found("olmoe")
        one = under(moe, KeepOnly({1: [0, 2, 3, 6]}))
        assert torch.equal(one, under(moe, Mask({1: [1, 4, 5, 7]})))

    @pytest.mark.parametrize("name", ["olmoe", "gpt_oss", "deepseek_v2", "llama4_text", "jamba"])
    def test_forcing_k_experts_is_keeping_exactly_those(self, name: str) -> None:
        moe = found(name)
        layer = moe.layers[-1]
        cells = {layer.index: list(range(layer.top_k))}  # the first k share a group where there are groups
        if layer.groups == 1:  # the order of slots may differ, and with it the last bit of their sum
            torch.testing.assert_close(under(moe, Force(cells)), under(moe, KeepOnly(cells, "original")))
        with spying(moe.model) as spy:
            under(moe, Force(cells))
        assert (spy.slots[layer.index][0][:, cells[layer.index]] == 1).all()

    def test_zero_mean_is_zero_factor(self) -> None:
        moe = found("qwen3_moe")
        cells = most_used(moe.model, 2, input_ids=IDS)
        means = {layer: np.zeros((8, 32)) for layer in cells}
        assert torch.equal(under(moe, Mean(cells, means)), under(moe, Scale(cells, 0.0)))

    def test_factor_one_and_noise_zero_change_nothing_but_rounding(self) -> None:
        moe = found("qwen3_moe")
        cells = most_used(moe.model, 2, input_ids=IDS)
        assert torch.equal(under(moe, Scale(cells, 1.0)), logits(moe))
        assert torch.equal(under(moe, Noise(cells, 0.0)), logits(moe))
        assert torch.equal(under(moe, RouterNoise(0.0)), logits(moe))
        assert torch.equal(under(moe, TopK(3)), logits(moe))

    def test_expert_operators_on_other_cells_commute(self) -> None:
        moe = found("qwen3_moe")
        one, two = Scale({0: [0, 1]}, 0.5), Noise({0: [2, 3]}, 0.5)
        assert torch.equal(under(moe, one, two), under(moe, two, one))

    def test_mean_of_a_constant_expert_changes_nothing(self) -> None:
        """Where an expert always gives the same vector, its mean replaces it exactly, up to rounding."""
        moe = found("gpt_oss", seed=7)  # it has biases: without weights an expert gives its bias
        with torch.no_grad():
            experts = moe.layers[0].experts
            experts.down_proj[2] = 0
        cells, recorder = {0: [2]}, Recorder(outputs=True)
        with intervene(moe, recorder=recorder):
            before = logits(moe)
        np.testing.assert_allclose(recorder.output_means()[0][2], experts.down_proj_bias[2].detach().numpy(), rtol=1e-6)
        torch.testing.assert_close(under(moe, Mean(cells, recorder.output_means())), before, rtol=1e-4, atol=1e-5)
        assert not torch.allclose(under(moe, Scale(cells, 0.0)), before, atol=1e-5)

    def test_experts_may_be_renumbered(self) -> None:
        """Permuting experts in the weights and in the cells gives the same model."""
        moe = found("qwen3_moe", seed=8)
        order = [3, 0, 7, 1, 6, 2, 5, 4]
        other = copy.deepcopy(moe.model)
        with torch.no_grad():
            for layer in discover(other).layers:
                layer.router.weight.copy_(layer.router.weight[order])
                for parameter in layer.experts.parameters():
                    parameter.copy_(parameter[order])
        one = under(moe, Mask({0: [3, 6], 2: [7]}))
        two = under(discover(other), Mask({0: [order.index(3), order.index(6)], 2: [order.index(7)]}))
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-6)

    def test_scale_is_linear_in_the_last_layer(self) -> None:
        moe = found("granitemoe", num_hidden_layers=1)
        hidden: dict[float, torch.Tensor] = {}
        for factor in (0.0, 0.5, 1.0):
            handle = moe.layers[0].block.register_forward_hook(
                lambda _m, _a, out, factor=factor: hidden.__setitem__(factor, out[0] if isinstance(out, tuple) else out)
            )
            under(moe, Scale({0: [0, 1, 2, 3]}, factor))
            handle.remove()
        torch.testing.assert_close(hidden[0.5], (hidden[0.0] + hidden[1.0]) / 2, rtol=1e-4, atol=1e-6)


class TestOperators:
    def test_top_k(self) -> None:
        for name in ("olmoe", "deepseek_v3", "dbrx", "gpt_oss", "glm4_moe", "llama4_text"):
            moe = found(name)
            for k in (1, 4):
                with spying(moe.model) as spy:
                    under(moe, TopK(k))
                assert all((table.sum(-1) == k).all() for tables in spy.slots.values() for table in tables)

    def test_top_k_of_all_experts(self) -> None:
        moe = found("olmoe")
        with spying(moe.model) as spy:
            under(moe, TopK(8, scope=Scope(layers=(1,))))
        assert spy.slots[1][0].min() == 1
        assert spy.slots[0][0].sum() == IDS.numel() * 3

    @pytest.mark.parametrize("which", ["lowest", "highest"])
    def test_skipped_slots_are_slots_with_gate_zero(self, which: Any) -> None:
        moe = found("olmoe")
        experts = moe.layers[0].experts
        original = type(experts).forward
        calls: list[torch.Tensor] = []

        class Watching(type(experts)):  # type: ignore[misc]
            def forward(self, hidden: Any, index: Any, gates: Any) -> Any:
                calls.append(gates)
                return original(self, hidden, index, gates)

        experts.__class__ = Watching
        try:
            logits(moe)
            under(moe, SkipSlots(1, which))
            under(moe, SkipSlots(1, which, "renorm"))
        finally:
            experts.__class__ = Watching.__mro__[1]
        plain, dropped, grown = calls
        gone = plain.min(-1).values if which == "lowest" else plain.max(-1).values
        torch.testing.assert_close(dropped.sum(-1), plain.sum(-1) - gone)
        assert ((dropped == 0).sum(-1) == 1).all()
        torch.testing.assert_close(grown.sum(-1), plain.sum(-1))

    def test_resample_takes_the_same_experts_of_another_token(self) -> None:
        """In a batch of two tokens each must get the other's output; alone it is refused."""
        moe = found("qwen3_moe")
        every = {0: list(range(8))}
        seen: dict[str, torch.Tensor] = {}

        def keep(_module: Any, args: Any, out: Any) -> None:
            seen.setdefault("hidden", args[0])
            seen["index"], seen["gates"] = args[1:]

        handle = moe.layers[0].experts.register_forward_hook(keep)
        block = moe.layers[0].block.register_forward_hook(lambda _m, _a, out: seen.__setitem__("out", out))
        under(moe, Resample(every), ids=IDS[:1, :2])
        handle.remove()
        block.remove()
        expected = type(moe.layers[0].experts).forward(
            moe.layers[0].experts, seen["hidden"].flip(0), seen["index"], seen["gates"]
        )
        torch.testing.assert_close(seen["out"].view_as(expected), expected)
        with pytest.raises(NeverFired, match="no second token"), intervene(moe, Resample(every)):
            logits(moe, IDS[:1, :1])

    def test_random_operators_depend_on_seed_and_batch_alone(self) -> None:
        moe = found("qwen3_moe")
        cells = {0: [0, 1, 2, 3]}
        for make in (
            lambda seed: Noise(cells, 0.5, seed),
            lambda seed: RouterNoise(0.5, seed),
            lambda seed: Resample(cells, seed),
        ):
            with intervene(moe, make(1)):
                first = logits(moe)
                logits(moe, IDS[:2])
                assert torch.equal(logits(moe), first)
            assert torch.equal(under(moe, make(1)), first)
            assert not torch.equal(under(moe, make(2)), first)

    def test_random_operators_do_not_depend_on_torch_defaults(self) -> None:
        moe, outs = found("qwen3_moe"), []
        for dtype in (torch.float32, torch.float64):
            torch.set_default_dtype(dtype)
            try:
                outs.append(under(moe, RouterNoise(0.5, 1), Noise({0: [1]}, 0.5)))
            finally:
                torch.set_default_dtype(torch.float32)
        assert torch.equal(*outs)

    def test_random_operators_are_normal_and_independent(self) -> None:
        moe, ids, seen = found("qwen3_moe"), torch.randint(3, 128, (16, 64)), {}
        handles = [
            layer.router.register_forward_hook(
                lambda _m, args, out, at=layer: seen.__setitem__(
                    at.index, out[0] - args[0].reshape(-1, 32) @ at.router.weight.T
                )
            )
            for layer in moe.layers
        ]
        under(moe, RouterNoise(0.5, 1), ids=ids, padding="none")
        for handle in handles:
            handle.remove()
        drawn = torch.stack([seen[layer] for layer in moe.indices]).double().numpy() / 0.5  # (layers, tokens, experts)
        count = drawn[0].size
        assert scipy.stats.kstest(drawn.ravel(), "norm").pvalue > 1e-3
        for rows in (drawn.reshape(3, -1), drawn.transpose(2, 0, 1).reshape(8, -1), drawn[0].reshape(16, -1)):
            limit = 4.5 / np.sqrt(rows.shape[1])
            assert np.abs(np.corrcoef(rows) - np.eye(len(rows))).max() < limit
        assert count == 16 * 64 * 8

    def test_a_resample_draws_from_rows_of_its_own_condition(self) -> None:
        moe, every = found("qwen3_moe", implementation="batched_mm"), {2: list(range(8))}
        first = {0: list(range(8))}
        outs = []
        for other in ((), (Scale(first, 5.0),)):
            with intervene(moe, ByRow((other, (Resample(every),), ()))):
                outs.append(logits(moe))
        assert not torch.equal(outs[0][0], outs[1][0])
        assert torch.equal(outs[0][1], outs[1][1])

    @pytest.mark.parametrize(("name", "operator"), [("qwen3_moe", Scale), ("llama4_text", Scale), ("olmoe", SkipSlots)])
    def test_what_is_no_number_any_more_stops_the_run(self, name: str, operator: Any) -> None:
        moe = found(name, seed=21)
        if operator is Scale:
            operators = (Scale({0: list(range(8))}, 1e300),)
        else:  # one gate is 1, the others 0: renormalising without it divides by 0
            operators = (SkipSlots(1, "highest", "renorm"),)
            with torch.no_grad():
                for layer in moe.layers:
                    layer.router.weight.mul_(1e4)
        with pytest.raises(NotFinite, match="NaN or infinite"), intervene(moe, *operators):
            logits(moe)

    def test_gated_inputs_refuse_what_is_not_exact(self) -> None:
        moe = found("llama4_text")
        for operator in (Mean({0: [1]}, {0: np.zeros((8, 32))}), Resample({0: [1]}), Noise({0: [1]}, 1.0)):
            with pytest.raises(Unsupported, match="gates multiply the inputs"):
                intervene(moe, operator)


class TestScopes:
    def test_positions(self) -> None:
        moe = found("qwen3_moe")
        cells = most_used(moe.model, 2, input_ids=IDS)
        scope = Scope(positions=(2, 5))
        with spying(moe.model) as spy, intervene(moe, Mask(cells), scope=scope, padding="none"):
            masked = logits(moe)
        assert spy.slots[0][0].view(3, 9, -1)[:, [2, 5]][..., cells[0]].sum() == 0
        assert spy.slots[0][0][..., cells[0]].sum() > 0
        torch.testing.assert_close(masked[:, :2], logits(moe)[:, :2])

    def test_positions_do_not_count_padding(self) -> None:
        moe = found("qwen3_moe")
        cells = most_used(moe.model, 2, input_ids=IDS)
        padded = torch.cat([torch.zeros(3, 4, dtype=torch.long), IDS], 1)
        mask = torch.cat([torch.zeros(3, 4, dtype=torch.long), torch.ones_like(IDS)], 1)
        with spying(moe.model) as spy, intervene(moe, Mask(cells, scope=Scope(positions=(2,)))):
            logits(moe, padded, attention_mask=mask)
        table = spy.slots[0][0].view(3, 13, -1)
        assert table[:, 6][..., cells[0]].sum() == 0

    def test_layers(self) -> None:
        moe = found("qwen3_moe")
        cells = {0: [0], 1: [1], 2: [2]}
        one = under(moe, Mask(cells), scope=Scope(layers=(1,)))
        assert torch.equal(one, under(moe, Mask({1: [1]})))

    @pytest.mark.parametrize("cache", [True, False])
    @pytest.mark.parametrize("segment", ["prompt", "generated"])
    def test_segments_of_generate(self, segment: Any, cache: bool) -> None:
        moe = found("qwen3_moe")
        cells = most_used(moe.model, 2, input_ids=IDS)
        options = {"max_new_tokens": 5, "do_sample": False, "use_cache": cache, "eos_token_id": None}
        with torch.no_grad(), spying(moe.model) as spy, intervene(moe, Mask(cells), scope=Scope(segment=segment)):
            moe.model.generate(IDS, attention_mask=torch.ones_like(IDS), **options)
        last = spy.slots[0][-1].view(3, -1, 8)
        if cache:
            prompt, generated = spy.slots[0][0], torch.cat(spy.slots[0][1:])
        else:
            prompt, generated = last[:, :9], last[:, 9:]
        inside, outside = (prompt, generated) if segment == "prompt" else (generated, prompt)
        assert inside[..., cells[0]].sum() == 0
        assert outside[..., cells[0]].sum() > 0

    def test_segments_of_a_scored_text_need_prompt_lengths(self) -> None:
        moe = found("qwen3_moe")
        cells = most_used(moe.model, 2, input_ids=IDS)
        with intervene(moe, Mask(cells), scope=Scope(segment="generated"), padding="none") as session:
            with pytest.raises(Unreadable, match="prompt_lengths"):
                logits(moe)
            session.batch(prompt_lengths=[3, 5, 8])
            with spying(moe.model) as spy:
                logits(moe)
        table = spy.slots[0][0].view(3, 9, -1)
        for row, length in enumerate((3, 5, 8)):
            assert table[row, length:][:, cells[0]].sum() == 0
        assert table[2, :8][:, cells[0]].sum() > 0

    def test_a_scope_that_meets_no_token_is_not_an_intervention(self) -> None:
        moe = found("qwen3_moe")
        with intervene(moe, Mask({0: [0]}), scope=Scope(positions=(50,)), padding="none") as session:
            logits(moe)
            with pytest.raises(NeverFired, match="no token was ever in scope"):
                session.proof()


class TestRows:
    def test_every_operator_by_row(self) -> None:
        moe = found("qwen3_moe", implementation="batched_mm")
        cells = most_used(moe.model, 2, input_ids=IDS)
        conditions = (
            (Mask(cells),),
            (Scale(cells, 0.5), Force({1: [7]})),
            (KeepOnly({0: [0, 1, 2, 3]}, "original"), SkipSlots(1)),
        )
        with intervene(moe, ByRow(conditions)) as session:
            mixed = logits(moe)
            proofs = [session.proof(number) for number in range(3)]
        assert [one.masked_cells for one in proofs] == [6, 0, 4]
        assert [one.edited_cells for one in proofs] == [0, 6, 0]
        assert [one.forwards for one in proofs] == [1, 1, 1]
        assert [one.slots for one in proofs] == [81, 81, 81]
        for row, condition in enumerate(conditions):
            assert torch.equal(mixed[row], under(moe, *condition)[row])

    def test_rows_may_repeat_and_order_is_said(self) -> None:
        moe = found("qwen3_moe", implementation="batched_mm")
        cells = most_used(moe.model, 2, input_ids=IDS)
        with intervene(moe, ByRow(((), (Mask(cells),)))) as session:
            session.batch(rows=[1, 0, 1])
            mixed = logits(moe)
            assert session.proof(1).slots == 2 * 9 * 3 * 3
        whole, plain = under(moe, Mask(cells)), logits(moe)
        assert torch.equal(mixed, torch.stack([whole[0], plain[1], whole[2]]))

    def test_rows_that_do_not_match_the_batch(self) -> None:
        moe = found("qwen3_moe")
        with intervene(moe, ByRow(((), ()))) as session:
            with pytest.raises(Invalid, match="has 3 rows, there are 2 conditions"):
                logits(moe)
            session.batch(rows=[0, 1])
            with pytest.raises(Invalid, match=r"batch.rows: is given for 2 rows, the batch has 3"):
                logits(moe)
            session.batch(rows=[0, 1, 2])
            with pytest.raises(Invalid, match="names condition 2"):
                logits(moe)

    def test_a_condition_without_rows_has_no_proof(self) -> None:
        moe = found("qwen3_moe")
        with intervene(moe, ByRow(((), (Mask({0: [1]}),)))) as session:
            session.batch(rows=[0, 0, 0])
            logits(moe)
            session.proof(0)
            with pytest.raises(NeverFired, match="condition 1"):
                session.proof(1)


class TestGuards:
    def test_no_forward_no_proof(self) -> None:
        with intervene(found("olmoe"), Mask({0: [1]})) as session, pytest.raises(NeverFired):
            session.proof()

    def test_proof_is_json_and_the_same_for_the_same_batches(self) -> None:
        moe, proofs = found("olmoe"), []
        for _ in range(2):
            with intervene(moe, Mask({0: [1, 2], 2: [3]})) as session:
                logits(moe)
                logits(moe, IDS[:1])
                proofs.append(session.proof().to_dict())
        assert proofs[0] == proofs[1]
        assert proofs[0] == {
            "forwards": 2,
            "leaks": 0,
            "fired": {"0": 2, "2": 2},
            "slots": 2 * (27 + 9) * 3,
            "masked_cells": 3,
            "edited_cells": 0,
            "edited_slots": 0,
            "min_live": 6,
        }

    def test_nested_use_is_refused(self) -> None:
        moe = found("olmoe")
        with intervene(moe, Mask({0: [1]})), pytest.raises(Nested), intervene(moe):
            pass
        session = intervene(moe)
        with session:
            pass
        with pytest.raises(Nested), session:
            pass

    def test_a_block_that_bypasses_its_experts_is_noticed(self) -> None:
        moe = found("olmoe", seed=9)
        block = moe.layers[1].block
        with intervene(moe, Mask({1: [0]})):
            block.__class__ = type("Fused", (type(block),), {"forward": lambda self, hidden: hidden})
            with pytest.raises(NeverFired, match="layer 1: ran 0 times"):
                logits(moe)

    def test_a_replaced_block_is_noticed(self) -> None:
        moe = found("olmoe", seed=10)
        moe.model.model.layers[1].mlp = copy.deepcopy(moe.model.model.layers[1].mlp)
        with pytest.raises(Invalid, match="another module than was discovered"), intervene(moe, Mask({1: [0]})):
            pass

    @pytest.mark.parametrize("what", ["experts", "router", "model"])
    def test_hooks_removed_by_someone_else_are_noticed(self, what: str) -> None:
        moe = found("olmoe", seed=11)
        mark = fingerprint(moe.model)
        module = moe.model if what == "model" else getattr(moe.layers[0], what)

        def run() -> None:
            with intervene(moe, Mask({0: [1]})):
                del module.__dict__["forward"]
                logits(moe)

        with pytest.raises(HooksLost):
            run()
        assert fingerprint(moe.model) == mark

    def test_a_wrapper_put_on_top_survives_and_is_reported(self) -> None:
        moe = found("olmoe", seed=12)
        experts, before = moe.layers[0].experts, logits(moe)

        def run() -> None:
            with intervene(moe, Mask({0: [1]})):
                ours = experts.forward
                experts.forward = lambda *args: ours(*args)

        with pytest.raises(HooksLost):
            run()
        assert torch.equal(logits(moe), before)
        del experts.__dict__["forward"]

    def test_a_part_of_the_model_called_alone_is_refused(self) -> None:
        moe = found("olmoe")
        with pytest.raises(Unreadable, match="outside the model's own forward"), intervene(moe, Mask({0: [1]})):
            moe.model.model(input_ids=IDS)

    def test_training_mode_is_refused(self) -> None:
        moe = found("olmoe", seed=13)
        with intervene(moe, Mask({0: [1]})):
            moe.model.train()
            with pytest.raises(Invalid, match="training"):
                logits(moe)
        with pytest.raises(Invalid, match="training"), intervene(moe):
            pass

    def test_a_part_in_training_mode_is_refused(self) -> None:
        moe = found("mixtral", router_jitter_noise=0.5)
        moe.layers[0].block.train()
        with pytest.raises(Invalid, match=r"layers.0.mlp: is in training mode"), intervene(moe):
            pass
        with pytest.raises(Invalid, match="training mode"):
            discover(moe.model)

    def test_a_model_compiled_after_discovery_is_refused(self) -> None:
        moe = found("olmoe", seed=15)
        moe.model.model.layers[0].compile(backend="eager")
        with pytest.raises(Unsupported, match="is compiled"), intervene(moe, Mask({0: [1]})):
            pass

    def test_a_model_is_not_copied_inside_a_session(self) -> None:
        """The copy would go on running the original, weights and all."""
        moe = found("olmoe", seed=16)
        with intervene(moe, Mask({0: [1]})):
            for copied in (copy.deepcopy, pickle.dumps):
                with pytest.raises(Nested, match="copied inside a session"):
                    copied(moe.model)
        mark = fingerprint(moe.model)
        assert fingerprint(copy.deepcopy(moe.model)) == mark

    def test_a_model_and_its_body_share_one_session(self) -> None:
        moe = found("olmoe", seed=17)
        body = discover(moe.model.model)
        with intervene(moe, Mask({0: [1]})), pytest.raises(Nested), intervene(body, Mask({0: [2]})):
            pass
        with intervene(body, Mask({0: [2]})), pytest.raises(Nested), intervene(moe):
            pass

    def test_one_forward_at_a_time(self) -> None:
        moe, caught = found("olmoe", seed=18), []

        def again(*_: Any) -> None:
            try:
                logits(moe)
            except Unreadable as error:
                caught.append(error)

        handle = moe.model.model.register_forward_hook(again)
        under(moe, Mask({0: [1]}))
        handle.remove()
        assert len(caught) == 1

    def test_conditions_that_do_not_exist_have_no_proof(self) -> None:
        moe = found("olmoe")
        with intervene(moe, Mask({0: [1]})) as session:
            logits(moe)
            for condition in (-1, 1):
                with pytest.raises(Invalid, match="does not exist"):
                    session.proof(condition)

    def test_guards_stop_the_run(self) -> None:
        for kind in (Leak, NotFinite, NeverFired, HooksLost, Starved, Nested, Unreadable):
            assert issubclass(kind, Stopped)
            assert kind.exit_code == 6


class TestRuntime:
    @pytest.mark.parametrize("cache", [True, False])
    def test_generate_with_and_without_cache(self, cache: bool) -> None:
        moe = found("olmoe")
        cells = most_used(moe.model, 2, input_ids=IDS)
        outs = []
        for use_cache in (cache, True):
            with torch.no_grad(), intervene(moe, Mask(cells)) as session:
                outs.append(
                    moe.model.generate(
                        IDS, attention_mask=torch.ones_like(IDS), max_new_tokens=4, do_sample=False, use_cache=use_cache
                    )
                )
                assert session.proof().forwards == outs[-1].shape[1] - 9
        assert torch.equal(*outs)

    def test_drafting_with_some_of_the_layers_is_refused_before_it_begins(self) -> None:
        moe = found("olmoe")
        layers = moe.model.config.num_hidden_layers
        with pytest.raises(Unreadable, match="assistant_early_exit"), intervene(moe, Mask({0: [1]})):
            moe.model.generate(IDS[:1], attention_mask=torch.ones_like(IDS[:1]), assistant_early_exit=1)
        assert moe.model.config.num_hidden_layers == layers

    def test_drafting_from_the_prompt_says_the_same(self) -> None:
        moe = found("olmoe")
        options = {"attention_mask": torch.ones_like(IDS[:1]), "max_new_tokens": 8, "do_sample": False}
        with torch.no_grad(), intervene(moe, Mask(most_used(moe.model, 2, input_ids=IDS))):
            plain, drafted = (
                moe.model.generate(IDS[:1], **options, **extra) for extra in ({}, {"prompt_lookup_num_tokens": 2})
            )
        assert torch.equal(plain, drafted)

    def test_batch_against_alone(self) -> None:
        moe = found("qwen3_moe")
        cells = most_used(moe.model, 2, input_ids=IDS)
        with intervene(moe, Mask(cells), Scale({0: [one for one in range(8) if one not in cells[0]][:2]}, 0.3)):
            together = logits(moe)
            alone = torch.cat([logits(moe, IDS[row : row + 1]) for row in range(3)])
        torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)

    def test_autocast(self) -> None:
        moe = found("qwen3_moe")
        cells = most_used(moe.model, 2, input_ids=IDS)
        with spying(moe.model) as spy, torch.autocast("cpu", torch.bfloat16), intervene(moe, Mask(cells)) as session:
            logits(moe)
            assert session.proof().leaks == 0
        assert spy.leaks(cells) == 0

    def test_bfloat16_and_each_implementation(self) -> None:
        for implementation in ("eager", "grouped_mm", "batched_mm"):
            moe = found("qwen3_moe", dtype=torch.bfloat16, implementation=implementation)
            cells = most_used(moe.model, 2, input_ids=IDS)
            with spying(moe.model) as spy:
                under(moe, Mask(cells))
            assert spy.leaks(cells) == 0

    def test_gradients_flow_and_masked_experts_get_none(self) -> None:
        moe = found("qwen3_moe", seed=14)
        with intervene(moe, Mask({0: [1, 2]})):
            moe.model(input_ids=IDS).logits.sum().backward()
        gradient = moe.layers[0].experts.down_proj.grad
        assert gradient is not None
        assert float(gradient[[1, 2]].abs().sum()) == 0.0
        assert float(gradient[[0, 3, 4]].abs().sum()) > 0.0
        row = moe.layers[0].router.weight.grad
        assert row is not None
        assert bool(torch.isfinite(row).all())
        assert float(row[[1, 2]].abs().sum()) == 0.0

    def test_router_logits_can_still_be_asked_for(self) -> None:
        moe = found("qwen3_moe")
        with torch.no_grad(), intervene(moe, Mask({0: [1, 2]})):
            out = moe.model(input_ids=IDS, output_router_logits=True)
        assert torch.isneginf(out.router_logits[0][:, [1, 2]]).all()

    def test_positional_call_and_embeddings(self) -> None:
        moe = found("qwen3_moe")
        cells = most_used(moe.model, 2, input_ids=IDS)
        masked = under(moe, Mask(cells))
        with torch.no_grad(), intervene(moe, Mask(cells)):
            assert torch.equal(moe.model(IDS).logits, masked)
            embeddings = moe.model.get_input_embeddings()(IDS)
            assert torch.equal(moe.model(inputs_embeds=embeddings).logits, masked)

    def test_gate_inflation_is_what_original_gates_avoid(self) -> None:
        """Where gates are not normalised after top-k, renorm changes tokens that never met a masked expert."""
        moe = found("olmoe")
        counts = selected(moe.model, input_ids=IDS[:1, :4])
        cells = {2: (counts[2] == 0).nonzero().flatten().tolist()[:3]}
        before = logits(moe, IDS[:1, :4])
        assert not torch.equal(under(moe, Mask(cells, "renorm"), ids=IDS[:1, :4]), before)
        assert torch.equal(under(moe, Mask(cells, "original"), ids=IDS[:1, :4]), before)
