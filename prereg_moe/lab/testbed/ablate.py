"""What each checkpoint's families do: a routing atlas on A, an ablation table on B.

This is the builder's own quick check, without lm-eval and without inference. The figures it
writes to ``models/manifest.json`` describe the shipped weights; the verdicts about them are made
by the main job.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from prereg_moe.lab.testbed import AXES, EXPERTS_PER_FAMILY, LAYERS, planted_family
from prereg_moe.lab.testbed.train import encode

__all__ = ["Subject", "ablation_table", "families", "routing_mass"]

_LONGEST = 512
_BATCH = 50
Cells = Sequence[Sequence[int]]  # for each layer the experts of a family
Texts = Mapping[str, Sequence[str]]
Floats = npt.NDArray[np.float64]


@dataclass(slots=True)
class Subject:
    """A shipped checkpoint with hooks on its routers.

    Attributes:
        masked: for each layer the experts that cannot be chosen; empty for the model as it is.
    """

    model: Any
    tokenizer: Any
    masked: Cells = ()

    @classmethod
    def load(cls, folder: Path) -> Subject:
        """Return the checkpoint in a folder, in single precision."""
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True).eval()
        subject = cls(model, PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True))
        for number, layer in enumerate(model.model.layers):
            layer.mlp.gate.register_forward_hook(subject._mask_hook(number))
        return subject

    def _mask_hook(self, layer: int) -> Callable[..., Any]:
        def hook(gate: Any, _: Any, output: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
            if not self.masked:
                return output
            logits = output[0].index_fill(-1, torch.tensor(list(self.masked[layer])), -torch.inf)
            weights, chosen = logits.softmax(-1).topk(gate.top_k, -1)
            return output[0], weights / weights.sum(-1, keepdim=True), chosen

        return hook

    @torch.inference_mode()
    def nats_per_token(self, texts: Sequence[str]) -> Floats:
        """Return the mean negative log-likelihood of each text's tokens, shape (text,)."""
        means = []
        for ids, mask in self._batches(texts):
            scored = mask[:, 1:]
            hidden = self.model.model(input_ids=ids).last_hidden_state[:, :-1][scored]
            nats = torch.zeros_like(scored, dtype=torch.float32)
            nats[scored] = F.cross_entropy(self.model.lm_head(hidden), ids[:, 1:][scored], reduction="none")
            means.append(nats.sum(1) / scored.sum(1))
        scores: Floats = torch.cat(means).double().numpy()
        return scores

    @torch.inference_mode()
    def mass(self, texts: Sequence[str]) -> Floats:
        """Return each expert's share of the renormalised gate weight of all tokens, shape (layer, expert)."""
        recorded: list[list[tuple[torch.Tensor, torch.Tensor]]] = [[] for _ in range(LAYERS)]
        handles = [
            layer.mlp.gate.register_forward_hook(lambda gate, args, output, to=to: to.append(output[1:]))  # noqa: ARG005 - torch's signature
            for layer, to in zip(self.model.model.layers, recorded, strict=True)
        ]
        masks = []
        for ids, mask in self._batches(texts):
            self.model.model(input_ids=ids)
            masks.append(mask.reshape(-1))
        for handle in handles:
            handle.remove()
        experts = self.model.config.num_experts
        shares: Floats = np.stack([_share(layer, masks, experts) for layer in recorded])
        return shares

    def _batches(self, texts: Sequence[str]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        return [encode(self.tokenizer, texts[i : i + _BATCH], _LONGEST) for i in range(0, len(texts), _BATCH)]


def _share(routed: Sequence[tuple[torch.Tensor, torch.Tensor]], masks: Sequence[torch.Tensor], experts: int) -> Floats:
    total: Floats = np.zeros(experts)
    for (weights, chosen), mask in zip(routed, masks, strict=True):
        np.add.at(total, chosen[mask].flatten().numpy(), weights[mask].flatten().double().numpy())
    total /= total.sum()
    return total


def routing_mass(subject: Subject, texts: Texts) -> Floats:
    """Return the atlas: each expert's share of the gate weight, shape (axis, layer, expert)."""
    return np.stack([subject.mass(texts[axis]) for axis in AXES])


def families(mass: Floats) -> dict[str, Cells]:
    """Return for each axis and layer the experts of highest lift: share over mean share of all axes.

    Args:
        mass: (axis, layer, expert).
    """
    lift = mass / np.maximum(mass.mean(0), 1e-12)
    top = np.argsort(-lift, axis=-1, kind="stable")[..., :EXPERTS_PER_FAMILY]
    return {axis: np.sort(top[k], axis=-1).tolist() for k, axis in enumerate(AXES)}


def ablation_table(subject: Subject, corpus_a: Texts, corpus_b: Texts, *, draws: int, seed: int) -> dict[str, Any]:
    """Return what masking each atlas family, and random families of the same size, does on B.

    Effects are means over passages of the difference in nats a token, masked minus as it is;
    positive is harm.
    """
    mass = routing_mass(subject, corpus_a)
    found = families(mass)
    baseline = _scores(subject, corpus_b, ())
    effects = {axis: _effects(subject, corpus_b, found[axis], baseline) for axis in AXES}
    generator = np.random.Generator(np.random.PCG64(seed))
    nulls = [_effects(subject, corpus_b, _random_cells(generator, mass.shape[-1]), baseline) for _ in range(draws)]
    return {
        "draws": draws,
        "seed": seed,
        "axes": {
            axis: {
                "baseline": round(float(baseline[axis].mean()), 4),
                "own_share": round(float(_own_share(mass[k], found[axis])), 3),
                "equals_planted": all(tuple(cells) == planted_family(axis) for cells in found[axis]),
                "effects": effects[axis],
                "on": effects[axis][axis],
                "worst_off": max(effects[axis][other] for other in AXES if other != axis),
                "null_mean": round(float(np.mean([null[axis] for null in nulls])), 4),
                "null_max": max(null[axis] for null in nulls),
            }
            for k, axis in enumerate(AXES)
        },
    }


def _scores(subject: Subject, texts: Texts, cells: Cells) -> dict[str, Floats]:
    subject.masked = cells
    scores = {axis: subject.nats_per_token(texts[axis]) for axis in AXES}
    subject.masked = ()
    return scores


def _effects(subject: Subject, texts: Texts, cells: Cells, baseline: Mapping[str, Floats]) -> dict[str, float]:
    scores = _scores(subject, texts, cells)
    return {axis: round(float((scores[axis] - baseline[axis]).mean()), 4) for axis in AXES}


def _random_cells(generator: np.random.Generator, experts: int) -> Cells:
    return [generator.choice(experts, EXPERTS_PER_FAMILY, replace=False).tolist() for _ in range(LAYERS)]


def _own_share(mass: Floats, cells: Cells) -> float:
    return float(np.mean([mass[layer][list(experts)].sum() for layer, experts in enumerate(cells)]))
