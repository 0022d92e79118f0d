"""The registration: what an author writes (`document`), what it may say (`schema`), what it must be (`loading`).

`grid` holds the specifications of a registered multiverse.
"""

from prereg_moe.registration.grid import Specification, blocks, registered, specifications, vary
from prereg_moe.registration.loading import (
    block_alpha,
    differences,
    expand,
    family_names,
    load,
    needs_null,
    off_axes,
    parse,
    read_as,
    task_name,
)
from prereg_moe.registration.schema import SCHEMA, Registration

__all__ = [
    "SCHEMA",
    "Registration",
    "Specification",
    "block_alpha",
    "blocks",
    "differences",
    "expand",
    "family_names",
    "load",
    "needs_null",
    "off_axes",
    "parse",
    "read_as",
    "registered",
    "specifications",
    "task_name",
    "vary",
]
