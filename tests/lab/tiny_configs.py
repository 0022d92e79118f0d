"""Tiny random models of every mixture-of-experts causal language model in transformers.

Weights are normal, routers wide enough that tokens differ in their experts, and correction biases
are not zero, so that what only shows in trained models (biases that win, groups that lose) shows here.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import cache
from typing import Any, Final

import torch
import transformers
from torch import nn

BASE: Final[Mapping[str, Any]] = {
    "vocab_size": 128,
    "hidden_size": 32,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LATENT: Final[Mapping[str, Any]] = {
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "num_key_value_heads": 4,
}
LINEAR_ATTENTION: Final[Mapping[str, Any]] = {
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "num_hidden_layers": 4,
}
SMALL: Final[Mapping[str, Any]] = {"moe_intermediate_size": 16}
SHARED: Final[Mapping[str, Any]] = {"shared_expert_intermediate_size": 16}
ROUTED: Final[Mapping[str, Any]] = {"n_routed_experts": 8, "num_experts_per_tok": 2, **SMALL}
EXPERTS: Final[Mapping[str, Any]] = {"num_experts": 8, "num_experts_per_tok": 2, **SMALL}
LOCAL: Final[Mapping[str, Any]] = {"num_local_experts": 8, "num_experts_per_tok": 2}
THREE: Final[Mapping[str, Any]] = {**EXPERTS, "num_experts_per_tok": 3}
GROUPED: Final[Mapping[str, Any]] = {**ROUTED, "n_routed_experts": 16, "n_group": 4, "topk_group": 2}
FLAT: Final[Mapping[str, Any]] = {"n_group": 1, "topk_group": 1, "first_k_dense_replace": 1}

INDEXED: Final[Mapping[str, Any]] = {"index_n_heads": 2, "index_head_dim": 16}

# The 22 architectures of the note.
REQUIRED: Final[Mapping[str, Mapping[str, Any]]] = {
    "mixtral": LOCAL,
    "olmoe": {"num_experts": 8, "num_experts_per_tok": 3},
    "qwen2_moe": {**THREE, **SHARED},
    "qwen3_moe": {**THREE, "norm_topk_prob": True},
    "qwen3_next": {**THREE, **SHARED, **LINEAR_ATTENTION},
    "deepseek_v2": {
        **ROUTED,
        **LATENT,
        "n_group": 4,
        "topk_group": 2,
        "topk_method": "group_limited_greedy",
        "first_k_dense_replace": 1,
    },
    "deepseek_v3": {**GROUPED, **LATENT, "first_k_dense_replace": 1},
    "gpt_oss": LOCAL,
    "granitemoe": LOCAL,
    "phimoe": LOCAL,
    "glm4_moe": {**ROUTED, **FLAT},
    "ernie4_5_moe": {
        "moe_num_experts": 8,
        "moe_k": 2,
        "moe_layer_start_index": 1,
        "moe_num_shared_experts": 1,
        **SMALL,
    },
    "jamba": {
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "num_hidden_layers": 4,
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "mamba_d_state": 4,
        "mamba_dt_rank": 4,
        "use_mamba_kernels": False,
    },
    "dbrx": {
        "d_model": 32,
        "n_heads": 4,
        "n_layers": 3,
        "vocab_size": 128,
        "max_seq_len": 256,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 10000.0},
        "ffn_config": {"hidden_size": 32, "ffn_hidden_size": 24, "moe_num_experts": 8, "moe_top_k": 2},
    },
    "llama4_text": {
        "num_local_experts": 8,
        "num_experts_per_tok": 1,
        "intermediate_size_mlp": 24,
        "interleave_moe_layer_step": 1,
        "num_hidden_layers": 4,
    },
    "minimax": {**LOCAL, "block_size": 16},
    "hunyuan_v1_moe": {"num_experts": 8, "moe_topk": 2},
    "dots1": {**ROUTED, "n_shared_experts": 1, "n_group": 2, "topk_group": 1, "first_k_dense_replace": 1},
    "flex_olmo": {"num_experts": 8, "num_experts_per_tok": 3},
    "cohere2_moe": {"num_experts": 8, "num_experts_per_tok": 2, "num_shared_experts": 1},
    "lfm2_moe": {
        **EXPERTS,
        "num_dense_layers": 1,
        "num_hidden_layers": 4,
        "layer_types": ["conv", "full_attention", "conv", "full_attention"],
    },
    "nemotron_h": {
        **GROUPED,
        "moe_shared_expert_intermediate_size": 16,
        "layers_block_type": ["mamba", "moe", "attention", "moe"],
        "mamba_num_heads": 4,
        "mamba_head_dim": 8,
        "n_groups": 2,
        "ssm_state_size": 8,
        "mamba_n_groups": 2,
        "chunk_size": 16,
        "use_mamba_kernels": False,
        "moe_latent_size": None,
    },
}
# Every other causal language model of the installed transformers with a mixture of experts.
FURTHER: Final[Mapping[str, Mapping[str, Any]]] = {
    "afmoe": {**EXPERTS, "num_dense_layers": 1, "num_shared_experts": 1},
    "aria_text": {"moe_num_experts": 8, "moe_topk": 2, "moe_num_shared_experts": 1},
    "axk1": {**ROUTED, **FLAT, **LATENT},
    "axk2": {**ROUTED, **FLAT, **LATENT},
    "bailing_hybrid": {**EXPERTS, **FLAT, **LATENT, "num_hidden_layers": 4, "layer_group_size": 2},
    "beam": {**EXPERTS, **FLAT, "num_hidden_layers": 4, "n_group": 2},
    "deepseek_v32": {**ROUTED, **FLAT, **LATENT, **INDEXED},
    "deepseek_v4": {
        **ROUTED,
        "num_hidden_layers": 4,
        "mlp_layer_types": ["hash_moe", "moe", "moe", "moe"],
        "num_key_value_heads": 1,
        "q_lora_rank": 16,
        "o_groups": 2,
        "o_lora_rank": 8,
        "index_n_heads": 2,
        "index_head_dim": 8,
    },
    "dots3_note_text": {**ROUTED, **FLAT, **LATENT, **INDEXED, "shared_experts_intermediate_size": 16},
    "exaone_moe": {
        **EXPERTS,
        "n_group": 2,
        "topk_group": 1,
        "num_shared_experts": 1,
        "first_k_dense_replace": 1,
    },
    "flint": EXPERTS,
    "gemma4_text": {
        "enable_moe_block": True,
        "num_experts": 8,
        "top_k_experts": 2,
        "vocab_size_per_layer_input": 128,
        "hidden_size_per_layer_input": 8,
        **SMALL,
    },
    "glm4_moe_lite": {**ROUTED, **LATENT},
    "glm_moe_dsa": {**ROUTED, **FLAT, **LATENT, **INDEXED},
    "granitemoe_swa": LOCAL,
    "granitemoehybrid": {
        **LOCAL,
        "shared_intermediate_size": 16,
        "layer_types": ["attention"] * 3,
        "mamba_n_heads": 4,
        "mamba_d_head": 16,
        "mamba_n_groups": 1,
    },
    "granitemoeshared": {**LOCAL, "shared_intermediate_size": 16},
    "hy_v3": EXPERTS,
    "hy_v4": {**ROUTED, **FLAT, **LATENT, "head_dim": 16, **INDEXED},
    "inkling_text": {**ROUTED, "rel_extent": 16, "swa_num_attention_heads": 4, "swa_num_key_value_heads": 2},
    "inkling2_text": {**ROUTED, "rel_extent": 16, "swa_num_attention_heads": 4, "swa_num_key_value_heads": 2},
    "kimi_linear": {
        **EXPERTS,
        **LATENT,
        "num_hidden_layers": 4,
        "linear_attn_config": {
            "kda_layers": [1, 2],
            "full_attn_layers": [3, 4],
            "num_heads": 2,
            "head_dim": 8,
            "short_conv_kernel_size": 4,
        },
    },
    "kolibri1": EXPERTS,
    "laguna": {**EXPERTS, **SHARED},
    "longcat_flash": {
        "n_routed_experts": 8,
        "moe_topk": 3,
        "zero_expert_num": 2,
        "expert_ffn_hidden_size": 16,
        "ffn_hidden_size": 24,
        "num_layers": 2,
        **LATENT,
    },
    "mellum": EXPERTS,
    "mimo_v2_flash": ROUTED,
    "minimax_m2": LOCAL,
    "minimax_m3_vl_text": LOCAL,
    "qwen3_5_moe_text": {**THREE, **SHARED, **LINEAR_ATTENTION},
    "qwen4_exp_text": {
        **THREE,
        **SHARED,
        **LINEAR_ATTENTION,
        "indexer_n_heads": 2,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 8,
        "indexer_budget": 16,
        "indexer_compress_ratio": 4,
    },
    "solar_open": ROUTED,
    "zaya": {**EXPERTS, "num_experts_per_tok": 1, "router_hidden_size": 8},
}
# Refused, with the reason a part of which must be given.
REFUSED: Final[Mapping[str, tuple[Mapping[str, Any], str]]] = {
    "jetmoe": ({**LOCAL, "kv_channels": 8}, "JetMoeMoA"),
    "doge": ({"is_moe": True, "num_experts": 16, "num_experts_per_tok": 4}, "no module `experts`"),
    "llama": ({}, "dense"),
}
CONFIGS: Final[Mapping[str, Mapping[str, Any]]] = {
    **REQUIRED,
    **FURTHER,
    **{name: config for name, (config, _) in REFUSED.items()},
}
ROUTABLE: Final = (*REQUIRED, *FURTHER)
_BIASES: Final = ("e_score_correction_bias", "expert_bias", "balancing_biases", "moe_statics.e_score_correction_bias")


def config_of(name: str, **changes: Any) -> Any:
    """Return the tiny configuration of an architecture."""
    values = copy.deepcopy({**({} if name == "dbrx" else BASE), **CONFIGS[name], **changes})
    return transformers.AutoConfig.for_model(name, **values)


def build(
    name: str, *, seed: int = 0, dtype: torch.dtype = torch.float32, implementation: str | None = None, **changes: Any
) -> Any:
    """Return a tiny random model, in evaluation mode.

    ``implementation`` is how experts are computed; architectures that leave no choice ignore it.
    """
    config = config_of(name, **changes)
    kind = transformers.MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    if implementation is not None and kind._can_set_experts_implementation():
        config._experts_implementation = implementation
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
    randomise(model, seed + 1)
    return model


@cache
def shared(name: str, dtype: torch.dtype = torch.float32, implementation: str | None = None) -> Any:
    """Return one model of an architecture for all tests that leave it as it is."""
    return build(name, dtype=dtype, implementation=implementation)


def randomise(model: nn.Module, seed: int) -> None:
    """Draw weights, and correction biases, from normal distributions."""
    source = torch.Generator().manual_seed(seed)

    def normal(tensor: torch.Tensor, spread: float) -> None:
        tensor.copy_(torch.randn(tensor.shape, generator=source, dtype=torch.float64) * spread)

    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() >= 2 and parameter.is_floating_point():
                normal(parameter, 0.35 if "gate.w" in name or "router" in name else 0.12)
        for name, tensor in (*model.named_buffers(), *model.named_parameters()):
            if name.endswith(_BIASES):
                normal(tensor, 0.3)
