"""Statistics for claims about interventions: arrays in, frozen values out.

Nothing here reads a file, a registration or a clock. Names are loaded when they are first used, so that
drawing null families (``resample``, numpy only) does not wait for scipy.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prereg_moe.stats.association import Association, Concordance, concordance, spearman, spearman_many
    from prereg_moe.stats.effects import clustered_mean, cohen_dz, crossed_mean, event_rate, fieller, hedges_gz
    from prereg_moe.stats.equivalence import (
        Absence,
        Equivalence,
        absence,
        detectable,
        noninferior,
        power_equivalence,
        power_t,
        tost,
        within_margin,
    )
    from prereg_moe.stats.intervals import (
        Estimate,
        IntervalKind,
        Sides,
        bootstrap,
        bootstrap_many,
        weighted_correlation,
    )
    from prereg_moe.stats.multiplicity import Adjustment, adjust, fixed_sequence, partial_conjunction, stepdown_maxt
    from prereg_moe.stats.multiverse import (
        JointNull,
        Specification,
        SpecificationCurve,
        joint_null,
        specification_curve,
    )
    from prereg_moe.stats.nulls import BeatsNull, beats_null
    from prereg_moe.stats.paired import RandomisationTest, mcnemar, permute_groups, sign_flip, signed_rank
    from prereg_moe.stats.readings import Published, compare, published
    from prereg_moe.stats.resample import cluster_means, sample, stream
    from prereg_moe.stats.screens import Screen, ScreenedAxis, screen
    from prereg_moe.stats.selectivity import Contrast, FamilySelectivity, Selective, selective

_HOME = {
    "Absence": "equivalence",
    "Adjustment": "multiplicity",
    "Association": "association",
    "BeatsNull": "nulls",
    "Concordance": "association",
    "Contrast": "selectivity",
    "Equivalence": "equivalence",
    "Estimate": "intervals",
    "FamilySelectivity": "selectivity",
    "IntervalKind": "intervals",
    "JointNull": "multiverse",
    "Published": "readings",
    "RandomisationTest": "paired",
    "Screen": "screens",
    "ScreenedAxis": "screens",
    "Selective": "selectivity",
    "Sides": "intervals",
    "Specification": "multiverse",
    "SpecificationCurve": "multiverse",
    "absence": "equivalence",
    "adjust": "multiplicity",
    "beats_null": "nulls",
    "bootstrap": "intervals",
    "bootstrap_many": "intervals",
    "cluster_means": "resample",
    "clustered_mean": "effects",
    "cohen_dz": "effects",
    "compare": "readings",
    "concordance": "association",
    "detectable": "equivalence",
    "crossed_mean": "effects",
    "event_rate": "effects",
    "fieller": "effects",
    "fixed_sequence": "multiplicity",
    "hedges_gz": "effects",
    "joint_null": "multiverse",
    "mcnemar": "paired",
    "noninferior": "equivalence",
    "partial_conjunction": "multiplicity",
    "permute_groups": "paired",
    "power_equivalence": "equivalence",
    "power_t": "equivalence",
    "published": "readings",
    "sample": "resample",
    "screen": "screens",
    "selective": "selectivity",
    "sign_flip": "paired",
    "signed_rank": "paired",
    "spearman": "association",
    "spearman_many": "association",
    "specification_curve": "multiverse",
    "stepdown_maxt": "multiplicity",
    "stream": "resample",
    "tost": "equivalence",
    "weighted_correlation": "intervals",
    "within_margin": "equivalence",
}

__all__ = [
    "Absence",
    "Adjustment",
    "Association",
    "BeatsNull",
    "Concordance",
    "Contrast",
    "Equivalence",
    "Estimate",
    "FamilySelectivity",
    "IntervalKind",
    "JointNull",
    "Published",
    "RandomisationTest",
    "Screen",
    "ScreenedAxis",
    "Selective",
    "Sides",
    "Specification",
    "SpecificationCurve",
    "absence",
    "adjust",
    "beats_null",
    "bootstrap",
    "bootstrap_many",
    "cluster_means",
    "clustered_mean",
    "cohen_dz",
    "compare",
    "concordance",
    "crossed_mean",
    "detectable",
    "event_rate",
    "fieller",
    "fixed_sequence",
    "hedges_gz",
    "joint_null",
    "mcnemar",
    "noninferior",
    "partial_conjunction",
    "permute_groups",
    "power_equivalence",
    "power_t",
    "published",
    "sample",
    "screen",
    "selective",
    "sign_flip",
    "signed_rank",
    "spearman",
    "spearman_many",
    "specification_curve",
    "stepdown_maxt",
    "stream",
    "tost",
    "weighted_correlation",
    "within_margin",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
