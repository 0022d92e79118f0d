"""Attacking one's own study: every known cheat is played on a copy of it, and the audit has to see it.

Nothing is done to the study itself. What no audit of a folder can see is listed as such
(:data:`UNSEEN`), and one such cheat is played, so that nobody takes silence for innocence.

    kinds       what a cheat is, and what a reader must hold to see it
    copies      a copy of a study, and what every forger does to it
    changes     what is changed in a document
    history, design, results, files, spelling, course, elsewhere, vouched
                the cheats by theme, in the order they are played
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from prereg_moe import ledger
from prereg_moe.attack import course, design, elsewhere, files, history, kinds, results, spelling, vouched
from prereg_moe.attack.copies import Copy, NotHere
from prereg_moe.attack.kinds import ROWS, TIERS, Cheat, NotTried
from prereg_moe.auditing import BYTE_STEPS, STEPS, Audit, Finding, audit
from prereg_moe.errors import Problem, Tampered
from prereg_moe.registry import Registry
from prereg_moe.trust import Known

__all__ = ["CHEATS", "ROWS", "TIERS", "UNSEEN", "Cheat", "Outcome", "play"]

UNSEEN = (
    "Private pilots: somebody ran the study with other seeds, items or families before registering this one.",
    "Numbers that were made up, or came from other code, before anything was sealed.",
    "A study in another registry, or one that was never published.",
    "The time: a ledger tells it by its author's clock. Only a time stamp or a public history says not later than.",
    "An author and a witness (a time-stamp authority, a reviewer, a host) who lie together.",
    "An installation of prereg-moe that was changed: audit with your own.",
    "That two studies are about the same thing, where bytes of weights or texts differ or axes were left out.",
    "What is said in words, in a registration or by a report's own template: it is its authors', and only frozen.",
)


_THEMES = [theme.__name__ for theme in (history, design, results, files, spelling, course, elsewhere, vouched)]
CHEATS = sorted(kinds.CHEATS, key=lambda cheat: _THEMES.index(cheat.play.__module__))
_FOLDER, _BEYOND = TIERS[:2], TIERS[2:]  # what steps find, and what the audit's tiers do
_NAMES = {"git": "order in git"}  # a tier as the audit names it


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one cheat.

    Attributes:
        cheat: what was tried.
        result: ``caught``, ``missed``, ``not here`` (nothing to play it on), ``not tried`` (what it is
            played with is not installed) or ``unseen`` (as it must be: nothing could show it).
        tier: what the reader had to hold, where it was caught.
        finding: the first finding that names it, where it was caught.
        exit_code: of an audit by such a reader.
        said: the detail that names it; otherwise why it was not played or what is missing.
    """

    cheat: Cheat
    result: str
    tier: str | None = None
    finding: Finding | None = None
    exit_code: int = 0
    said: str = ""

    @property
    def as_it_should(self) -> bool:
        """Whether it was caught at its tier or below, or cannot be."""
        if self.result == "caught":
            return TIERS.index(self.tier or "") <= TIERS.index(self.cheat.tier)
        return self.result != "missed"


Progress = Callable[[int, int, str], None]


def play(registry: Registry, id_: str, *, progress: Progress = lambda _done, _total, _label: None) -> list[Outcome]:
    """Return what came of every cheat on a copy of a registration; the registration is only read.

    Raises:
        Tampered: the study does not hold as it is, so that nothing would be learned.
        Invalid, NotCheckable: it cannot be copied.
    """
    with tempfile.TemporaryDirectory(prefix="prereg-moe-") as folder:
        pristine = Copy.of(registry, id_, Path(folder, "pristine"))
        head = ledger.head(ledger.parse(registry.ledger()))
        honest = audit(pristine.registry, id_, expected_head=head)
        if honest.exit_code:
            found = "does not hold as it is, so an attack would teach nothing"
            raise Tampered(Problem(id_, found, f"see `prereg-moe audit {id_}`"))
        outcomes: list[Outcome] = []
        stages: dict[Callable[[Copy], None], Copy | NotHere] = {}
        for number, cheat in enumerate(CHEATS):
            progress(number, len(CHEATS), cheat.name)
            if cheat.needs not in pristine.reached:
                outcomes.append(Outcome(cheat, "not here", said=f"it has no {cheat.needs}"))
                continue
            if cheat.first not in stages:
                stages[cheat.first] = _prepared(pristine, cheat, Path(folder, str(number)))
            outcomes.append(_play(cheat, stages[cheat.first]))
        progress(len(CHEATS), len(CHEATS), "")
    return outcomes


def _prepared(pristine: Copy, cheat: Cheat, root: Path) -> Copy | NotHere:
    """Return a copy on which what honestly comes before a cheat was done, or why it cannot be."""
    copy = pristine.again(root)
    try:
        cheat.first(copy)
    except NotHere as reason:
        return reason
    return copy


def _play(cheat: Cheat, before: Copy | NotHere) -> Outcome:
    if isinstance(before, NotHere):
        return Outcome(cheat, "not here", said=str(before))
    with tempfile.TemporaryDirectory(prefix="prereg-moe-") as folder:
        copy = before.again(Path(folder, "copy"))
        try:
            published = copy.head
            named = cheat.play(copy)
            known = cheat.known()
        except NotHere as reason:
            return Outcome(cheat, "not here", said=str(reason))
        except NotTried as reason:
            return Outcome(cheat, "not tried", said=str(reason))
        except ModuleNotFoundError as error:
            todo = "install it: pip install 'prereg-moe[trust]'"
            return Outcome(cheat, "not tried", said=f"the package {error.name} is not installed; {todo}")
        return _judge(cheat, named, _audit(copy, cheat, named, published, known))


def _audit(copy: Copy, cheat: Cheat, named: str, published: str, known: Known) -> Audit:
    """Return the audit of a copy, as far as it has to go.

    Where it is found, nothing more is computed; and what is seen with more than the bytes is seen without
    computing (that the bytes alone do not show it, the tests make sure of).
    """
    given = published if cheat.tier in _FOLDER else copy.head
    tiers = [_NAMES.get(tier, tier) for tier in _BEYOND] if cheat.tier in _BEYOND else []
    found = audit(copy.registry, copy.id, expected_head=given, known=known, steps=(*BYTE_STEPS, *tiers))
    for step in STEPS[len(BYTE_STEPS) :] if cheat.tier in ("bytes", "nothing") else ():
        failed = [one for one in found.findings if one.exit_code == Tampered.exit_code and one.name != "head"]
        if any(_naming(one, named) for one in failed):
            break
        more = audit(copy.registry, copy.id, expected_head=given, steps=(step,))
        found = replace(found, findings=(*found.findings, *more.findings))
    return found


def _judge(cheat: Cheat, named: str, result: Audit) -> Outcome:
    """Return at which tier the findings show the cheat, and where: the folder's own findings come first."""
    if cheat.tier == "nothing":
        return Outcome(cheat, "missed" if result.exit_code else "unseen", exit_code=result.exit_code)
    failed = [finding for finding in result.findings if finding.outcome == "fails"]
    by_bytes = [finding for finding in failed if finding.name != "head"]
    beyond = [
        (tier, [one.finding for one in result.tiers if one.finding.name == _NAMES.get(tier, tier)]) for tier in _BEYOND
    ]
    for tier, found in (("bytes", by_bytes), ("head", failed), *beyond):
        for finding in found:
            if finding.outcome == "fails" and (said := _naming(finding, named)):
                code = Audit(result.registration, result.head, tuple(found)).exit_code
                return Outcome(cheat, "caught", tier, finding, code, said)
    said = f"nothing names {named}" if failed else "every step holds"
    return Outcome(cheat, "missed", exit_code=result.exit_code, said=said)


def _naming(finding: Finding, named: str) -> str | None:
    """Return what a finding says of a name, None where it says nothing of it."""
    return next((detail for detail in finding.details if named in detail), None)
