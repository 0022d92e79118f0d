"""The registration: what an author writes (`document`), what it may say (`schema`), what it must be (`loading`)."""

from prereg_moe.registration.loading import (
    block_alpha,
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
    "block_alpha",
    "expand",
    "family_names",
    "load",
    "needs_null",
    "off_axes",
    "parse",
    "read_as",
    "task_name",
]
