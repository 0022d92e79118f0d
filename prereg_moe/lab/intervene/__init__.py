"""Interventions on routing and experts that are exact, or refused, and that prove they happened.

    with intervene(moe, Mask({3: [1, 2]}), recorder=recorder) as session:
        model(input_ids, attention_mask=mask)
        proof = session.proof()

`operators` holds what can be done and the laws of composition; `plan` compiles it for a model;
`router` edits a router's own comparisons; `outputs` changes contributions; `session` puts all of it
on a model and takes it off; `guards` are the errors that stop a run.
"""

from prereg_moe.lab.intervene.guards import HooksLost, Leak, Nested, NeverFired, NotFinite, Starved, Unreadable
from prereg_moe.lab.intervene.operators import (
    ByRow,
    Cells,
    Force,
    Gates,
    Intervention,
    KeepOnly,
    Mask,
    Mean,
    Noise,
    Resample,
    RouterNoise,
    Scale,
    Scope,
    SkipSlots,
    TopK,
    cells_of,
)
from prereg_moe.lab.intervene.session import Proof, Session, intervene

__all__ = [
    "ByRow",
    "Cells",
    "Force",
    "Gates",
    "HooksLost",
    "Intervention",
    "KeepOnly",
    "Leak",
    "Mask",
    "Mean",
    "Nested",
    "NeverFired",
    "Noise",
    "NotFinite",
    "Proof",
    "Resample",
    "RouterNoise",
    "Scale",
    "Scope",
    "Session",
    "SkipSlots",
    "Starved",
    "TopK",
    "Unreadable",
    "cells_of",
    "intervene",
]
