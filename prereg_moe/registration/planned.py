"""What the vocabulary has a place for and no registration of this version may say.

A registration that names one is told so, so that one written for a later version is never half understood.
"""

from __future__ import annotations

__all__ = ["ELSEWHERE", "KINDS", "SECTIONS"]

# place -> kind -> what it is for
KINDS: dict[str, dict[str, str]] = {
    "measures": {
        "observable": "routing, hidden states or expert contributions, for studies without an intervention",
        "cost": "parameters, bytes, slots, step time",
        "weights": "a statistic of the weights alone",
        "pool": "operators over a frozen sample pool",
    },
    "intervention": {
        "none": "observation only",
        "identity": "a sham intervention",
        "skip_slots": "the lowest-weight slots are skipped",
        "capacity": "tokens over an expert's capacity are dropped",
        "gate_override": "top-1, native or soft-all gates",
        "document_pool": "a pool of experts per document",
        "variant": "another checkpoint or training recipe",
        "patch": "a block's output is replaced at a position",
        "corrupt": "noise on input embeddings",
        "reweight": "units are reweighted over slices",
        "decode": "a decoding policy",
    },
    "rules": {
        "association": "a rank correlation and its interval",
        "dose_response": "an ordered trend",
        "difference_in_differences": "an interaction contrast",
        "concordance": "agreement between replications",
        "cost_bound": "a bound on a cost ratio",
        "harm_bound": "a zero-event bound",
        "conjunction": "several rules at once",
    },
    "controls.null": {
        "mass_matched_sets": "random sets with the family's routing mass: register random_sets, match: mass",
        "permutation": "labels, rows or pairs permuted",
        "random_router": "the same hidden states under a random router",
        "random_direction": "a random direction in hidden space",
        "wrong_target": "another axis's family",
        "lowest_weight": "the lowest-weight experts",
    },
    "families.build": {
        "top_mass": "the experts with the largest routing mass",
        "chooser": "experts chosen token by token",
        "discovery": "experts selected on a discovery split",
    },
    "inference.multiplicity.method": {
        "fixed_sequence": "claims tested in order",
        "graphical": "alpha passed along a graph",
    },
    "stopping": {"e_process": "always-valid evidence"},
}
# place -> kinds for evidence made elsewhere, in a document of their own (`prereg_moe.importing`)
ELSEWHERE: dict[str, frozenset[str]] = {
    "measures": frozenset({"rows"}),
    "intervention": frozenset({"external"}),
    "rules": frozenset({"superiority", "equivalence", "absence", "dual_test"}),
}
SECTIONS: dict[str, str] = {
    "arms": "training recipes or checkpoints compared over seeds",
    "segments": "prompt and generated parts of a sequence",
    "splits": "discovery and validation parts of a corpus",
    "preconditions": "gates that must hold before a claim is judged",
}
