"""How the tokenizer and the three checkpoints are trained.

One architecture: Qwen3-MoE, 4 layers of 32 experts, 2 a token, hidden size 128, 3.9 M
parameters, tied embeddings, byte-level BPE of 4096 tokens. Every step sees the same number of
passages of every axis. What differs is the routing during training:

``planted``     an auxiliary loss puts each axis's tokens on the axis's own four experts, and evenly
                on those; on half of the steps only they can be chosen
``standard``    the load-balancing loss of Switch Transformers (Fedus et al. 2022, eq. 4), top-k form
``randomised``  experts are chosen from random logits; the router itself is never trained

All three are evaluated by the ordinary forward of transformers, so the randomised model is read
through a frozen random router: its routing depends on the text, its experts do not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen3MoeConfig, Qwen3MoeForCausalLM

from prereg_moe.lab.testbed import AXES, EXPERTS_PER_FAMILY, LAYERS

__all__ = ["RECIPES", "Recipe", "encode", "train_model", "train_tokenizer"]

_EXPERTS = len(AXES) * EXPERTS_PER_FAMILY
_VOCABULARY = 4096
_END = "<|endoftext|>"
_TOKENIZER_BYTES = 250_000  # of each axis, repeated if there is less, so that no axis dominates


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that decides a checkpoint besides the corpora and the library versions.

    Attributes:
        passages: of each axis in a step.
        longest: tokens of a passage that are used.
        warmup: steps of linear warm-up, before a cosine decay to a twentieth of the peak.
        router_std: of the router's initial weights.
    """

    name: str
    seed: int
    steps: int = 2000
    passages: int = 3
    longest: int = 96
    peak: float = 4e-3
    warmup: int = 60
    weight_decay: float = 0.05
    clip: float = 1.0
    router_std: float = 0.02


RECIPES = (
    Recipe("planted", seed=11),
    Recipe("standard", seed=12),
    Recipe("randomised", seed=13, router_std=0.05),
)


def train_tokenizer(texts: Mapping[str, Sequence[str]]) -> PreTrainedTokenizerFast:
    """Return a byte-level BPE tokenizer trained on the same number of bytes of every axis."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCABULARY,
        special_tokens=[_END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([text for axis in AXES for text in _repeat(texts[axis])], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=_END, eos_token=_END, pad_token=_END, model_max_length=512
    )


def _repeat(texts: Sequence[str]) -> list[str]:
    """Return the texts in order, over and over, until their bytes reach the tokenizer's share."""
    chosen: list[str] = []
    size = 0
    while size < _TOKENIZER_BYTES:
        chosen.append(texts[len(chosen) % len(texts)])
        size += len(chosen[-1].encode())
    return chosen


def encode(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str], longest: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ids and mask, both (text, token); each row is the end-of-text token, then the text's tokens."""
    rows = [[0, *tokenizer(text)["input_ids"]][:longest] for text in texts]
    width = max(map(len, rows))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    mask = torch.tensor([[True] * len(row) + [False] * (width - len(row)) for row in rows])
    return ids, mask


# -- routing during training ---------------------------------------------------------------------


@dataclass(slots=True)
class _Step:
    """What the router hooks are told about a batch, and what they record of it.

    Attributes:
        family: (token,) the axis of every token, padding included.
        confined: whether only the axis's own experts may be chosen.
        logits, chosen: one tensor a layer, (token, expert) and (token, slot).
    """

    family: torch.Tensor
    confined: bool
    logits: list[torch.Tensor] = field(default_factory=list)
    chosen: list[torch.Tensor] = field(default_factory=list)


_Choose = Callable[[torch.Tensor, _Step], torch.Tensor]  # router logits -> logits to choose by
_Loss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]  # logits, chosen, family -> loss


def _planted_choice(logits: torch.Tensor, step: _Step) -> torch.Tensor:
    if not step.confined:
        return logits
    own = torch.arange(_EXPERTS)[None] // EXPERTS_PER_FAMILY == step.family[:, None]
    return logits.masked_fill(~own, -1e9)


def _planted_loss(logits: torch.Tensor, chosen: torch.Tensor, family: torch.Tensor) -> torch.Tensor:  # noqa: ARG001 - one signature
    """Return the cross-entropy of the axis's family under the router, and the imbalance within families."""
    log_p = torch.log_softmax(logits.float(), -1).view(-1, len(AXES), EXPERTS_PER_FAMILY)
    towards_own = F.nll_loss(torch.logsumexp(log_p, -1), family)
    within = log_p[torch.arange(len(log_p)), family].softmax(-1)
    shares = torch.stack([within[family == k].mean(0) for k in range(len(AXES))])
    return 0.1 * towards_own + 0.02 * EXPERTS_PER_FAMILY * shares.square().sum(-1).mean()


def _balance_loss(logits: torch.Tensor, chosen: torch.Tensor, family: torch.Tensor) -> torch.Tensor:  # noqa: ARG001 - one signature
    share = torch.bincount(chosen.flatten(), minlength=_EXPERTS) / chosen.numel()
    return 0.02 * _EXPERTS * (share * logits.float().softmax(-1).mean(0)).sum()


_ROUTING: dict[str, tuple[_Choose, _Loss | None]] = {
    "planted": (_planted_choice, _planted_loss),
    "standard": (lambda logits, _: logits, _balance_loss),
    "randomised": (lambda logits, _: 0.5 * torch.randn_like(logits), None),
}


class _Router:
    """Forward hooks that replace every layer's choice of experts and record it in the current step."""

    def __init__(self, model: Qwen3MoeForCausalLM, choose: _Choose) -> None:
        self.step = _Step(torch.empty(0), confined=False)
        self._choose = choose
        self._handles = [layer.mlp.gate.register_forward_hook(self._hook) for layer in model.model.layers]

    def _hook(self, gate: Any, _: Any, output: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        logits = output[0]
        weights, chosen = self._choose(logits, self.step).float().softmax(-1).topk(gate.top_k, -1)
        self.step.logits.append(logits)
        self.step.chosen.append(chosen)
        return logits, (weights / weights.sum(-1, keepdim=True)).to(logits.dtype), chosen

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()


# -- the training loop ---------------------------------------------------------------------------


def train_model(
    recipe: Recipe,
    tokenizer: PreTrainedTokenizerFast,
    texts: Mapping[str, Sequence[str]],
    *,
    report: Callable[[int, float], None],
) -> Qwen3MoeForCausalLM:
    """Return a checkpoint trained by the recipe, in half precision; ``report(step, nats a token)`` is called.

    The same recipe repeats bit for bit with one thread on one machine, and only statistically elsewhere.
    """
    torch.manual_seed(recipe.seed)
    model = _initial_model(recipe)
    data = [encode(tokenizer, texts[axis], recipe.longest) for axis in AXES]
    choose, routing_loss = _ROUTING[recipe.name]
    router = _Router(model, choose)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=recipe.peak, betas=(0.9, 0.95), weight_decay=recipe.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, recipe))
    for number in range(recipe.steps):
        ids, mask, axis = _batch(data, recipe.passages)
        family = axis[:, None].expand_as(ids).reshape(-1)
        router.step = _Step(family, confined=bool(torch.rand(()) < 0.5))
        nats = _nats(model, ids, mask)
        loss, real = nats, mask.reshape(-1)
        if routing_loss is not None:
            layers = zip(router.step.logits, router.step.chosen, strict=True)
            loss = loss + sum(routing_loss(logits[real], chosen[real], family[real]) for logits, chosen in layers)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(trained, recipe.clip)
        optimizer.step()
        schedule.step()
        report(number, float(nats.detach()))
    router.remove()
    return model.eval().to(torch.float16)


def _initial_model(recipe: Recipe) -> Qwen3MoeForCausalLM:
    config = Qwen3MoeConfig(
        vocab_size=_VOCABULARY,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        moe_intermediate_size=64,
        num_experts=_EXPERTS,
        num_experts_per_tok=2,
        norm_topk_prob=True,
        decoder_sparse_step=1,
        mlp_only_layers=[],
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
    )
    model = Qwen3MoeForCausalLM(config)
    for layer in model.model.layers:
        torch.nn.init.normal_(layer.mlp.gate.weight, std=recipe.router_std)
        layer.mlp.gate.weight.requires_grad_(recipe.name != "randomised")
    return model


def _rate(step: int, recipe: Recipe) -> float:
    warm = min(1.0, (step + 1) / recipe.warmup)
    return warm * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * step / recipe.steps)))


def _batch(
    data: Sequence[tuple[torch.Tensor, torch.Tensor]], passages: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return ids and mask (passage, token) and axis (passage,) of a batch with every axis in equal parts."""
    width = max(ids.shape[1] for ids, _ in data)
    drawn = []
    for ids, mask in data:
        rows = torch.randint(len(ids), (passages,))
        drawn.append([F.pad(part[rows], (0, width - part.shape[1])) for part in (ids, mask)])
    ids, mask = (torch.cat(parts) for parts in zip(*drawn, strict=True))
    longest = int(mask.sum(1).max())
    axis = torch.arange(len(data)).repeat_interleave(passages)
    return ids[:, :longest], mask[:, :longest], axis


def _nats(model: Qwen3MoeForCausalLM, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return the mean negative log-likelihood of the batch's tokens after the first."""
    hidden = model.model(input_ids=ids).last_hidden_state
    logits = model.lm_head(hidden[:, :-1][mask[:, 1:]])
    return F.cross_entropy(logits, ids[:, 1:][mask[:, 1:]])
