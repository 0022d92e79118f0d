"""What a report calls an intervention: the words of the operator that was registered."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["WORDS", "Words"]


@dataclass(frozen=True, slots=True)
class Words:
    """One operator in prose.

    Attributes:
        doing: as in "the effect of masking each family".
        done: as in "the masked family".
        effects: as in "effects of masking".
    """

    doing: str
    done: str
    effects: str


WORDS = {
    "mask": Words("masking", "masked", "masking"),
    "zero": Words("zeroing", "zeroed", "zeroing"),
    "keep_only": Words("keeping only", "kept", "keeping a family only"),
}
