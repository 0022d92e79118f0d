"""What a cheat is, and what a reader must hold to see it.

A cheat's **tier** is the least of these:

* ``bytes``: the folder alone;
* ``head``: the ledger's head, given to the reader when the study was published;
* ``git``: the history the study was committed to;
* ``signature``: the author's signature, and the key it is known by;
* ``time stamp``: a stamp, and the authority that gave it;
* ``challenge``: the reviewer's challenge in the record;
* ``nothing``: whatever a reader holds, this is not seen.

Behind ``head`` the cheat is given every benefit: it also published the head of what it made.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from prereg_moe.attack.copies import Copy
from prereg_moe.trust import Known

__all__ = ["CHEATS", "LEDGER", "OTHER", "ROWS", "TIERS", "Cheat", "NotTried", "cheat"]

TIERS = ("bytes", "head", "git", "signature", "time stamp", "challenge")
LEDGER = "LEDGER.jsonl"
OTHER = "sha256:" + "0" * 64  # the digest of something else
ROWS = (
    "edit the bar after freezing",
    "rewrite the whole record consistently",
    "backdate",
    "run first, register later",
    "register several variants, keep the winner",
    "discard runs, truncate the log",
    "drop a family, split the denominator",
    "swap the metric's code",
    "add data, stop early",
    "swap the model or environment",
    "amend after looking",
    "alter results or the report",
)


class NotTried(Exception):
    """What the cheat is played with is not installed."""


def _nothing(copy: Copy) -> None:
    """Add nothing to a study."""


@dataclass(frozen=True, slots=True)
class Cheat:
    """One thing an author might do to a study.

    Attributes:
        name: what it is called.
        what: what it does, a sentence.
        row: the row of :data:`ROWS` it is of, from 1; None for the ones beyond it.
        tier: what a reader must hold to see it, one of :data:`TIERS`, or ``nothing``.
        needs: the seal the study must have reached.
        play: does it to a copy and returns the name a finding has to say.
        first: what honestly came first, and the head that was published is behind it.
        known: returns the keys and authorities the reader knows.
    """

    name: str
    what: str
    row: int | None
    tier: str
    needs: str
    play: Callable[[Copy], str]
    first: Callable[[Copy], None] = _nothing
    known: Callable[[], Known] = Known


CHEATS: list[Cheat] = []


def cheat(
    name: str,
    *,
    row: int | None = None,
    tier: str = "bytes",
    needs: str = "report",
    first: Callable[[Copy], None] = _nothing,
    known: Callable[[], Known] = Known,
) -> Callable[[Callable[[Copy], str]], Callable[[Copy], str]]:
    """Add a cheat to :data:`CHEATS`: the decorated function plays it, and its docstring says what it does."""

    def add(play: Callable[[Copy], str]) -> Callable[[Copy], str]:
        what = " ".join((play.__doc__ or "").split())
        CHEATS.append(Cheat(name, what, row, tier, needs, play, first, known))
        return play

    return add
