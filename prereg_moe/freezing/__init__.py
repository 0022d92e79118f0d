"""Freezing: from an authored registration and the bytes it names to one frozen document and its seal.

:func:`check` says what freezing would pin and what is still missing; :func:`freeze` pins it.
Nothing is loaded but bytes: weights, tokenizers, task files, corpora and templates are hashed,
items are listed by id, families and null draws are derived from the sealed atlas and written
out.

    checking   what stands in the way of a freeze, and what weakens the study
    fitting    what it names and the files at hand show not to be there
    pinning    the digests of the files it names
    items      the items of its corpora, by id
    sealing    the document composed, written and sealed
    reading    what was frozen, read as it was sealed
"""

from prereg_moe.freezing.checking import Checked, check, other_name
from prereg_moe.freezing.items import list_items, read_items
from prereg_moe.freezing.pinning import atlas_inputs, compare_pins
from prereg_moe.freezing.reading import answered, frozen_atlases, load_frozen, read_frozen
from prereg_moe.freezing.sealing import freeze, sealed_diagnosis, unmet_demands, write_frozen

__all__ = [
    "Checked",
    "answered",
    "atlas_inputs",
    "check",
    "compare_pins",
    "freeze",
    "frozen_atlases",
    "list_items",
    "load_frozen",
    "other_name",
    "read_frozen",
    "read_items",
    "sealed_diagnosis",
    "unmet_demands",
    "write_frozen",
]
