"""The registration: what an author writes (`document`), what it may say (`schema`), how it is read (`loading`).

`planned` is what a later version may say. `coherence` is what only the whole of it can tell, `implied`
what follows from it, `looks` its interim looks, `grid` the specifications of its multiverse, `demand`
what it asks of its diagnosis.
"""

from prereg_moe.registration.coherence import control_problems, repeats
from prereg_moe.registration.grid import Specification, blocks, registered, specifications, vary
from prereg_moe.registration.implied import (
    block_alpha,
    family_names,
    needs_null,
    off_axes,
    spares,
    task_name,
    undiagnosed,
)
from prereg_moe.registration.loading import differences, expand, load, parse, read_as
from prereg_moe.registration.looks import boundaries, level, part_count, part_of, split
from prereg_moe.registration.schema import SCHEMA, Registration

__all__ = [
    "SCHEMA",
    "Registration",
    "Specification",
    "block_alpha",
    "blocks",
    "boundaries",
    "control_problems",
    "differences",
    "expand",
    "family_names",
    "level",
    "load",
    "needs_null",
    "off_axes",
    "parse",
    "part_count",
    "part_of",
    "read_as",
    "registered",
    "repeats",
    "spares",
    "specifications",
    "split",
    "task_name",
    "undiagnosed",
    "vary",
]
