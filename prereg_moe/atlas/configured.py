"""What a model's ``config.json`` says of its experts: enough to refuse what no atlas of it could hold."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from prereg_moe.atlas.routing import Layout
from prereg_moe.canonical import read_bytes
from prereg_moe.errors import PreregError

__all__ = ["EXPERT_COUNTS", "configured"]

EXPERT_COUNTS: Final = ("num_routed_experts", "num_experts", "n_routed_experts", "num_local_experts")


def configured(folder: Path) -> Layout | None:
    """Return a model's layers and experts by its configuration, None where it does not say.

    Every decoder layer counts, for configurations have no common word for those without experts, and ``top_k`` is 0.
    """
    try:
        config = json.loads(read_bytes(folder / "config.json"))
    except (PreregError, ValueError, RecursionError):
        return None
    parts = [config, config.get("text_config")] if isinstance(config, dict) else []
    for part in parts:
        if isinstance(part, dict):
            layers = _count(part, "num_hidden_layers")
            experts = next(filter(None, (_count(part, name) for name in EXPERT_COUNTS)), None)
            if layers and experts:
                return Layout(tuple(range(layers)), experts, 0)
    return None


def _count(config: Mapping[str, Any], name: str) -> int | None:
    value = config.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= 100_000 else None
