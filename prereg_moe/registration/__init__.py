"""The registration: what an author writes (`document`), what it may say (`schema`), what it must be (`loading`).

`grid` holds the specifications of a registered multiverse.
"""

from prereg_moe.registration.grid import Specification, blocks, registered, specifications, vary
from prereg_moe.registration.loading import (
    block_alpha,
    control_problems,
    differences,
    expand,
    family_names,
    load,
    needs_null,
    off_axes,
    parse,
    read_as,
    repeats,
    task_name,
)
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
    "specifications",
    "split",
    "task_name",
    "vary",
]
