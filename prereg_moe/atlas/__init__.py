"""The routing atlas: which experts an axis's tokens are routed to, and what is derived from that.

    routing      the table of mass, shares, lift
    configured   what a model's configuration says of its experts, before there is an atlas
    families     families of experts by a stated rule
    nulls        random sets matched by size or by mass
    statistics   coverage, correlation, overlap, layer shuffle
    released     routing mass released by others, and how far their tables follow from it

Numpy only: `atlas`, `freeze` and `audit` derive all of it without torch and without scipy.
"""

from __future__ import annotations

from prereg_moe.atlas.configured import configured
from prereg_moe.atlas.families import build_family, needed_exclusions, shared_core
from prereg_moe.atlas.nulls import MatchedDraw, draw_matched, draw_nulls, size_of
from prereg_moe.atlas.routing import Cells, Layout, RoutingAtlas, family_share, lift, pooled, share
from prereg_moe.atlas.statistics import (
    LayerShuffle,
    Overlap,
    correlation,
    coverage,
    family_lift,
    iou,
    layer_shuffle,
    overlap,
    separation,
    top,
)

__all__ = [
    "Cells",
    "LayerShuffle",
    "Layout",
    "MatchedDraw",
    "Overlap",
    "RoutingAtlas",
    "build_family",
    "configured",
    "correlation",
    "coverage",
    "draw_matched",
    "draw_nulls",
    "family_lift",
    "family_share",
    "iou",
    "layer_shuffle",
    "lift",
    "needed_exclusions",
    "overlap",
    "pooled",
    "separation",
    "share",
    "shared_core",
    "size_of",
    "top",
]
