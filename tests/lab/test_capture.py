"""What a recorder counts, and what it must not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import transformers
from oracles import spying
from tiny_configs import build, shared

from prereg_moe.errors import Invalid, NotCheckable, Stopped
from prereg_moe.lab.capture import Recorder, Routing, Totals
from prereg_moe.lab.intervene import Mask, Scale, Unreadable, intervene
from prereg_moe.lab.models import MoE, discover

IDS = torch.randint(3, 128, (3, 9), generator=torch.Generator().manual_seed(0))
LENGTHS = [9, 4, 6]


def found(name: str, **changes: Any) -> MoE:
    return discover(build(name, **changes) if changes else shared(name))


def record(moe: MoE, ids: torch.Tensor = IDS, *, batch: dict[str, Any] | None = None, **call: Any) -> Recorder:
    recorder = Recorder(softmax=True, pairs=True)
    with torch.no_grad(), intervene(moe, recorder=recorder) as session:
        if batch:
            session.batch(**batch)
        moe.model(input_ids=ids, **call)
    return recorder


def padded(side: str, pad: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """IDS cut to LENGTHS and padded on one side, and the mask that says so."""
    ids, mask = torch.full_like(IDS, pad), torch.zeros_like(IDS)
    for row, length in enumerate(LENGTHS):
        place = slice(0, length) if side == "right" else slice(9 - length, 9)
        ids[row, place], mask[row, place] = IDS[row, :length], 1
    return ids, mask


def row_by_row(moe: MoE) -> Totals:
    totals = None
    for row, length in enumerate(LENGTHS):
        one = record(moe, IDS[row : row + 1, :length]).totals()
        totals = one if totals is None else totals + one
    assert totals is not None
    return totals


@pytest.mark.parametrize("name", ["olmoe", "deepseek_v3", "dbrx", "llama4_text", "gpt_oss", "zaya", "longcat_flash"])
class TestSums:
    def test_counts_mass_and_probability_add_up(self, name: str) -> None:
        moe = found(name)
        recorder = record(moe)
        totals, tokens = recorder.totals(), IDS.numel()
        k = np.array([layer.top_k for layer in moe.layers])
        np.testing.assert_array_equal(totals.tokens, np.full((1, len(moe.layers)), tokens))
        np.testing.assert_array_equal(totals.counts.sum(-1) + totals.void, tokens * k[None])
        assert (totals.mass.sum(-1) + totals.void_mass == tokens << 32).all()
        np.testing.assert_allclose(recorder.mass().sum(-1), tokens - totals.void_mass / 2**32)
        if all(layer.classes == layer.n_experts for layer in moe.layers):
            np.testing.assert_allclose(recorder.softmax_mass().sum(-1), tokens, rtol=1e-8)
        assert (recorder.entropy() <= np.log(max(layer.classes for layer in moe.layers)) + 1e-9).all()
        np.testing.assert_allclose(np.nansum(recorder.load(), -1)[totals.counts.sum(-1) > 0], 1)
        pairs = recorder.coactivation()
        np.testing.assert_array_equal(np.diagonal(pairs, axis1=1, axis2=2), totals.counts[0])
        np.testing.assert_array_equal(pairs, pairs.transpose(0, 2, 1))

    def test_counts_are_the_spys(self, name: str) -> None:
        moe = found(name)
        with spying(moe.model) as spy:
            recorder = record(moe)
        for place, layer in enumerate(moe.layers):
            np.testing.assert_array_equal(recorder.counts()[0, place], spy.used()[layer.index].numpy())


def test_mass_is_renormalised_gates_computed_by_hand() -> None:
    moe = found("olmoe")  # its gates do not add up to 1
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    handle = moe.layers[1].experts.register_forward_pre_hook(lambda _m, args: seen.append(args[1:]))
    recorder = record(moe)
    handle.remove()
    index, gates = seen[0]
    mass, raw = np.zeros(8), np.zeros(8)
    for experts, weights in zip(index.tolist(), gates.double().tolist(), strict=True):
        for expert, weight in zip(experts, weights, strict=True):
            mass[expert] += weight / sum(weights)
            raw[expert] += weight
    np.testing.assert_allclose(recorder.mass()[0, 1], mass, atol=27 * 3 / 2**32)
    np.testing.assert_allclose(recorder.gate_mass()[0, 1], raw, atol=27 * 3 / 2**32)
    assert raw.sum() < 0.9 * mass.sum()


def test_softmax_and_entropy_by_hand() -> None:
    moe = found("qwen3_moe")
    with torch.no_grad():
        out = moe.model(input_ids=IDS, output_router_logits=True)
    p = torch.softmax(out.router_logits[2].double(), -1)
    recorder = record(moe)
    np.testing.assert_allclose(recorder.softmax_mass()[0, 2], p.sum(0).numpy(), rtol=1e-8)
    np.testing.assert_allclose(recorder.entropy()[0, 2], float(-(p * p.log()).sum(-1).mean()), rtol=1e-8)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", ["qwen3_moe", "deepseek_v3", "zaya"])
def test_padding_never_counts(name: str, side: str) -> None:
    moe = found(name)
    ids, mask = padded(side)
    alone = row_by_row(moe)
    for recorder in (
        record(moe, ids, attention_mask=mask),
        record(moe, ids, attention_mask=mask, batch={"mask": mask.bool()}),
    ):
        totals = recorder.totals()
        np.testing.assert_array_equal(totals.tokens, alone.tokens)
        np.testing.assert_array_equal(totals.counts, alone.counts)
        np.testing.assert_allclose(totals.mass, alone.mass, atol=2**32 * 1e-4)


class TestWithoutAttentionMask:
    """As lm-evaluation-harness calls a model: rows padded with 0 at the end, and no mask."""

    def test_lengths_make_it_right(self) -> None:
        moe = found("qwen3_moe")
        recorder = record(moe, padded("right")[0], batch={"lengths": LENGTHS})
        np.testing.assert_array_equal(recorder.counts(), row_by_row(moe).counts)

    def test_a_padding_id_makes_it_right(self) -> None:
        moe, recorder = found("qwen3_moe"), Recorder()
        with torch.no_grad(), intervene(moe, recorder=recorder, padding=0):
            moe.model(padded("right")[0])
        np.testing.assert_array_equal(recorder.counts(), row_by_row(moe).counts)

    def test_what_may_be_padding_is_refused(self) -> None:
        moe = found("qwen3_moe")
        for side in ("left", "right"):
            with pytest.raises(Unreadable, match="what may be padding"):
                record(moe, padded(side)[0])

    def test_what_cannot_be_padding_counts(self) -> None:
        moe = found("qwen3_moe")
        assert record(moe).totals().tokens.tolist() == [[27, 27, 27]]
        assert record(moe, padded("right")[0][:1]).totals().tokens.tolist() == [[9, 9, 9]]

    def test_none_says_that_nothing_is_padding(self) -> None:
        moe, recorder = found("qwen3_moe"), Recorder()
        with torch.no_grad(), intervene(moe, recorder=recorder, padding="none"):
            moe.model(padded("right")[0])
        assert recorder.totals().tokens.tolist() == [[27, 27, 27]]

    def test_padding_is_not_asked_for_where_it_does_not_matter(self) -> None:
        moe = found("qwen3_moe")
        with torch.no_grad(), intervene(moe, Mask({0: [1]})) as session:
            moe.model(padded("right")[0])
            assert session.proof().slots == 81

    def test_a_mask_that_says_nothing_about_padding_is_refused(self) -> None:
        moe = found("qwen3_moe")
        square = torch.ones(3, 1, 9, 9, dtype=torch.bool).tril()
        with pytest.raises(Unreadable, match=r"not \(rows, tokens\)"):
            record(moe, attention_mask=square)
        record(moe, attention_mask=square, batch={"lengths": [9, 9, 9]})


class TestGroups:
    def test_labels_of_rows(self) -> None:
        moe, recorder = found("qwen3_moe"), Recorder(groups=3)
        with torch.no_grad(), intervene(moe, recorder=recorder) as session:
            session.batch(labels=[2, 0, 2], lengths=LENGTHS)
            moe.model(padded("right")[0])
        assert recorder.totals().tokens.tolist() == [[4] * 3, [0] * 3, [15] * 3]
        expected = record(moe, IDS[1:2, :4]).counts()[0]
        np.testing.assert_array_equal(recorder.counts()[0], expected)
        assert np.isnan(recorder.load()[1]).all()

    @pytest.mark.parametrize("batch", [{"labels": [0, 3, 1]}, {"labels": [0, -1, 1]}])
    def test_unknown_groups(self, batch: Any) -> None:
        with (
            pytest.raises(Invalid, match="use 0 to 2"),
            intervene(found("olmoe"), recorder=Recorder(groups=3)) as session,
        ):
            session.batch(**batch)

    def test_groups_need_labels(self) -> None:
        moe = found("olmoe")
        with pytest.raises(Invalid, match=r"batch.labels"), intervene(moe, recorder=Recorder(groups=2)):
            moe.model(IDS)

    @pytest.mark.parametrize(
        "batch",
        [{"lengths": [9, 9]}, {"labels": [0]}, {"mask": np.ones((3, 8), bool)}, {"mask": np.ones((2, 9), bool)}],
    )
    def test_facts_about_another_batch(self, batch: Any) -> None:
        with pytest.raises(Invalid, match="batch"):
            record(found("olmoe"), batch=batch)

    @pytest.mark.parametrize(
        "batch",
        [{"mask": np.ones((3, 9))}, {"mask": np.ones(9, bool)}, {"mask": np.ones((3, 9), bool), "lengths": [9, 9, 9]}],
    )
    def test_masks_that_are_not_masks(self, batch: Any) -> None:
        with pytest.raises(Invalid, match="not one mask"):
            record(found("olmoe"), batch=batch)


class TestAdding:
    def test_batches_and_shards_add_up_to_the_bit(self) -> None:
        """Where routing itself does not depend on the batch, neither do the sums, in any order."""
        moe = found("qwen3_moe")
        rows = [record(moe, IDS[row : row + 1]).totals() for row in range(3)]
        recorder = Recorder(softmax=True, pairs=True)
        for row in (2, 0, 1):
            with torch.no_grad(), intervene(moe, recorder=recorder):
                moe.model(IDS[row : row + 1])
        for one, two in (
            (rows[0] + rows[1] + rows[2], recorder.totals()),
            (rows[2] + (rows[1] + rows[0]), recorder.totals()),
        ):
            for name, array in one.arrays().items():
                np.testing.assert_array_equal(array, two.arrays()[name], err_msg=name)

    def test_arrays_come_back(self) -> None:
        totals = record(found("olmoe")).totals()
        again = Totals.from_arrays(totals.arrays())
        assert again.layers == totals.layers
        np.testing.assert_array_equal((again + totals).counts, 2 * totals.counts)

    def test_other_models_and_other_statistics_do_not_add(self) -> None:
        totals = record(found("olmoe")).totals()
        with pytest.raises(Invalid):
            _ = totals + record(found("deepseek_v3")).totals()
        plain = Recorder()
        with torch.no_grad(), intervene(found("olmoe"), recorder=plain):
            shared("olmoe")(IDS)
        with pytest.raises(Invalid, match="softmax"):
            _ = totals + plain.totals()
        with pytest.raises(Invalid, match="another model"), intervene(found("deepseek_v3"), recorder=plain):
            pass

    def test_memory_does_not_depend_on_tokens(self) -> None:
        moe, sizes = found("olmoe"), []
        for width in (4, 200):
            recorder = Recorder(softmax=True, pairs=True)
            with torch.no_grad(), intervene(moe, recorder=recorder):
                moe.model(torch.randint(3, 128, (1, width)))
            sizes.append(sum(value.nbytes for value in recorder._sums.values()))
            assert not recorder._pending
        assert sizes[0] == sizes[1]


class TestExactly:
    """What made sums wrong, and said nothing."""

    def test_pairs_under_autocast(self) -> None:
        moe, ids = found("qwen3_moe"), torch.randint(3, 128, (30, 40), generator=torch.Generator().manual_seed(1))
        recorder = Recorder(pairs=True)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16), intervene(moe, recorder=recorder, padding="none"):
            moe.model(ids)
        diagonal = np.diagonal(recorder.coactivation(), axis1=1, axis2=2)
        assert diagonal.max() > 256  # where bfloat16 stops counting
        np.testing.assert_array_equal(diagonal, recorder.counts()[0])

    def test_sums_that_do_not_fit_are_not_given(self) -> None:
        moe, recorder = found("qwen3_moe"), Recorder()
        with torch.no_grad(), intervene(moe, recorder=recorder):
            moe.model(IDS)
        totals = recorder.totals()
        totals.mass[:] = 2**62
        with pytest.raises(Invalid, match="mass: has a sum below 0"):
            _ = totals + totals
        recorder._sums["entropy"] = torch.full_like(recorder._sums["tokens"], 2**63 - 1)
        recorder.softmax = True
        recorder._sums["softmax"] = torch.zeros_like(recorder._sums["mass"])
        with torch.no_grad(), pytest.raises(Stopped, match="entropy is below 0"), intervene(moe, recorder=recorder):
            moe.model(IDS)
        assert recorder._sums["tokens"].sum() == totals.tokens.sum()

    def test_a_mask_that_does_not_match_its_cache(self) -> None:
        moe = found("qwen3_moe")
        cache = transformers.StaticCache(config=moe.model.config, max_cache_len=20)
        mask = torch.cat([torch.ones_like(IDS), torch.zeros(3, 11, dtype=torch.long)], 1)
        with pytest.raises(Unreadable, match="20 columns in its mask, 0 tokens in its cache and 9 new"):
            record(moe, attention_mask=mask, past_key_values=cache)

    @pytest.mark.parametrize("pads", [([1], 0), ([0, 2], 2)])
    def test_one_padding_id_at_a_beginning_and_ends_of_text(self, pads: Any) -> None:
        (rows, pad), ids = pads, IDS.clone()
        ids[rows, 0 if pad == 0 else -1] = pad
        with pytest.raises(Unreadable, match="what may be padding"):
            record(found("qwen3_moe"), ids)

    def test_lengths_beyond_the_batch(self) -> None:
        with pytest.raises(Invalid, match=r"are \[10, 4, 6\], the batch is 9 wide"):
            record(found("qwen3_moe"), batch={"lengths": [10, 4, 6]})

    def test_several_texts_in_a_row_count_and_have_no_places(self) -> None:
        moe, places = found("qwen3_moe"), torch.arange(9).repeat(3)[None]
        recorder = record(moe, IDS.view(1, 27), position_ids=places)
        assert recorder.totals().tokens.tolist() == [[27] * 3]
        sink = Recorder(sink=lambda _: None)
        with pytest.raises(Unreadable, match="several texts in a row"), intervene(moe, recorder=sink):
            moe.model(IDS.view(1, 27), position_ids=places)


class TestOnRequest:
    def test_records_per_token(self) -> None:
        moe, seen = found("qwen3_moe"), list[Routing]()
        ids, mask = padded("left")
        recorder = Recorder(sink=seen.append)
        with torch.no_grad(), intervene(moe, recorder=recorder):
            moe.model(ids, attention_mask=mask)
            moe.model(ids, attention_mask=mask)
        assert [(one.layer, one.forward) for one in seen] == [(0, 0), (1, 0), (2, 0), (0, 1), (1, 1), (2, 1)]
        first = seen[0]
        assert first.experts.shape == first.gates.shape == (sum(LENGTHS), 3)
        np.testing.assert_array_equal(first.position, np.concatenate([np.arange(one) for one in LENGTHS]))
        np.testing.assert_array_equal(first.row, np.repeat([0, 1, 2], LENGTHS))
        np.testing.assert_array_equal(first.column[:9], np.arange(9))
        counts = np.bincount(np.concatenate([one.experts.ravel() for one in seen if one.layer == 1]), minlength=8)
        np.testing.assert_array_equal(counts, recorder.counts()[0, 1])

    def test_output_means_and_norms_by_hand(self) -> None:
        moe, recorder = found("qwen3_moe"), Recorder(outputs=True)
        seen: list[tuple[torch.Tensor, ...]] = []
        handle = moe.layers[0].experts.register_forward_pre_hook(lambda _m, args: seen.append(args))
        with torch.no_grad(), intervene(moe, recorder=recorder):
            moe.model(IDS)
        handle.remove()
        hidden, index, _ = seen[0]
        experts = moe.layers[0].experts
        expert = int(index[0, 0])
        mine = hidden[(index == expert).any(-1)]
        with torch.no_grad():
            gate, up = (mine @ experts.gate_up_proj[expert].T).chunk(2, -1)
            outputs = (torch.nn.functional.silu(gate) * up) @ experts.down_proj[expert].T
        np.testing.assert_allclose(
            recorder.output_means()[0][expert], outputs.double().mean(0).numpy(), rtol=1e-4, atol=1e-7
        )
        np.testing.assert_allclose(recorder.output_norms()[0, expert], float(outputs.norm(dim=-1).mean()), rtol=1e-4)

    def test_what_was_not_recorded_is_not_given(self) -> None:
        moe, recorder = found("olmoe"), Recorder()
        with pytest.raises(NotCheckable):
            recorder.mass()
        with torch.no_grad(), intervene(moe, recorder=recorder):
            moe.model(IDS)
        for method in (
            recorder.softmax_mass,
            recorder.entropy,
            recorder.coactivation,
            recorder.output_means,
            recorder.output_norms,
        ):
            with pytest.raises(Invalid, match="did not record"):
                method()

    @pytest.mark.parametrize(
        ("name", "option"), [("llama4_text", "outputs"), ("inkling_text", "softmax"), ("deepseek_v4", "softmax")]
    )
    def test_what_cannot_be_recorded_is_refused(self, name: str, option: str) -> None:
        with pytest.raises(Invalid, match="layer 0"), intervene(found(name), recorder=Recorder(**{option: True})):
            pass

    @pytest.mark.parametrize("groups", [0, -1])
    def test_no_groups(self, groups: int) -> None:
        with pytest.raises(Invalid):
            Recorder(groups=groups)


class TestGenerate:
    def options(self, moe: MoE, **changes: Any) -> dict[str, Any]:
        return {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0, **changes}

    @pytest.mark.parametrize("cache", [True, False])
    def test_rows_that_have_ended_do_not_count(self, cache: bool) -> None:
        """A batch counts what its rows count alone, although ended rows are fed padding until all have ended."""
        moe = found("qwen3_moe")
        ids, mask = padded("left")
        with torch.no_grad():
            free = moe.model.generate(ids, attention_mask=mask, **self.options(moe, eos_token_id=None))
        ends = int(free[1, 10])  # row 1 ends after two tokens, if not before
        options = self.options(moe, eos_token_id=ends, use_cache=cache)
        together, alone = Recorder(), Recorder()
        with torch.no_grad(), intervene(moe, recorder=together):
            out = moe.model.generate(ids, attention_mask=mask, **options)
        with torch.no_grad(), intervene(moe, recorder=alone):
            for row, length in enumerate(LENGTHS):
                one = IDS[row : row + 1, :length]
                moe.model.generate(one, attention_mask=torch.ones_like(one), **options)
        assert (out[1, 11:] == 0).all()
        np.testing.assert_array_equal(together.totals().tokens, alone.totals().tokens)
        np.testing.assert_array_equal(together.counts(), alone.counts())

    def test_a_padding_id_that_a_row_says_itself_does_not_end_it(self) -> None:
        moe, recorder = found("qwen3_moe"), Recorder()
        mask, options = torch.ones_like(IDS[:1]), self.options(moe, eos_token_id=127, max_new_tokens=8)
        with torch.no_grad():
            said = int(moe.model.generate(IDS[:1], attention_mask=mask, **options)[0, 10])
            with intervene(moe, recorder=recorder):
                out = moe.model.generate(IDS[:1], attention_mask=mask, **{**options, "pad_token_id": said})
        assert int((out[0, 9:-1] == said).sum()) > 0
        assert (recorder.totals().tokens == out.shape[1] - 1).all()

    def test_a_mask_of_ones_is_left_out_by_transformers_and_still_known(self) -> None:
        """Rows that have ended are fed padding, which must not look like a batch that may be padded."""
        moe, recorder = found("qwen3_moe"), Recorder()
        mask, options = torch.ones_like(IDS), self.options(moe, eos_token_id=127)
        with torch.no_grad():
            ends = int(moe.model.generate(IDS, attention_mask=mask, **options)[1, 10])
            with intervene(moe, recorder=recorder):
                out = moe.model.generate(IDS, attention_mask=mask, **{**options, "eos_token_id": ends})
        assert (out[1, 11:] == 0).all()
        assert 27 < recorder.totals().tokens[0, 0] < 3 * (out.shape[1] - 1)

    def test_chunks_of_a_prompt_count_once(self) -> None:
        moe, (ids, mask), counts = found("qwen3_moe"), padded("left"), []
        for chunk in ({}, {"prefill_chunk_size": 4}):
            recorder = Recorder()
            with torch.no_grad(), intervene(moe, recorder=recorder):
                moe.model.generate(ids, attention_mask=mask, **self.options(moe, eos_token_id=127), **chunk)
            counts.append(recorder.counts())
        np.testing.assert_array_equal(*counts)

    def test_beams_are_refused(self) -> None:
        moe = found("qwen3_moe")
        with pytest.raises(Unreadable, match="searches beams"), intervene(moe, recorder=Recorder()):
            moe.model.generate(IDS, **self.options(moe, num_beams=2))

    def test_the_model_generates_as_before_afterwards(self) -> None:
        moe = found("qwen3_moe")
        assert "generate" not in moe.model.__dict__
        with intervene(moe, Scale({0: [0]})):
            assert "generate" in moe.model.__dict__
        assert "generate" not in moe.model.__dict__


def test_interventions_on_outputs_do_not_change_what_routing_is_in_that_layer() -> None:
    moe = found("qwen3_moe")
    plain, scaled = Recorder(), Recorder()
    with torch.no_grad(), intervene(moe, recorder=plain):
        moe.model(IDS)
    with torch.no_grad(), intervene(moe, Scale({0: list(range(8))}), recorder=scaled):
        moe.model(IDS)
    np.testing.assert_array_equal(plain.totals().mass[:, 0], scaled.totals().mass[:, 0])
    assert (plain.totals().mass[:, 1] != scaled.totals().mass[:, 1]).any()
