"""Cheats of a record's history: the bar it began with, its times, its runs, the lines of its ledger."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from prereg_moe import canonical, ledger
from prereg_moe.attack.changes import kinder, year_before
from prereg_moe.attack.copies import Copy
from prereg_moe.attack.kinds import LEDGER, OTHER, cheat

# ------------------------------------------------------------------ the bar


@cheat("the bar is moved in the registration", row=1, needs="freeze")
def _(copy: Copy) -> str:
    """Doubles alpha in registration.yaml and leaves the rest."""
    registered = canonical.loads(canonical.dumps(copy.frozen.document["registration"]))
    kinder(registered)
    return copy.write(copy.folder / "registration.yaml", lambda _: canonical.dumps(registered))


@cheat("the bar is moved in the frozen file and sealed again", row=1, needs="freeze")
def _(copy: Copy) -> str:
    """Doubles alpha in frozen.json and gives every seal the digests of today."""
    return copy.forge(copy.folder / "frozen.json", lambda document: kinder(document["registration"]))


@cheat("a kinder bar, and everything rewritten to follow", row=2, tier="head", needs="finish")
def _(copy: Copy) -> str:
    """Doubles alpha in every document, judges and reports again, rebuilds the ledger: one consistent record."""
    copy.rewrite(kinder)
    return LEDGER


@cheat("the hypothesis is written afterwards", row=2, tier="head", needs="freeze")
def _(copy: Copy) -> str:
    """Rewrites the hypothesis in hindsight, and everything behind it to follow."""

    def hindsight(registered: dict[str, Any]) -> None:
        registered["claims"][0]["hypothesis"] = "What we found is what we always expected."

    copy.rewrite(hindsight)
    return LEDGER


# ------------------------------------------------------------------ time


@cheat("one seal's time is edited", row=3, needs="start")
def _(copy: Copy) -> str:
    """Moves the time of the freeze back a year and leaves the chain."""

    def earlier(data: bytes) -> bytes:
        number = next(n for n, seal in enumerate(ledger.parse(data)) if seal.kind == "freeze")
        lines = data.splitlines(keepends=True)
        seal = ledger.parse(data)[number]
        lines[number] = replace(seal, time=year_before(seal.time)).line + b"\n"
        return b"".join(lines)

    copy.write(copy.registry.ledger_path, earlier)
    return LEDGER


@cheat("every seal is moved back a year, the chain rebuilt", row=3, tier="head", needs="freeze")
def _(copy: Copy) -> str:
    """Backdates the whole ledger; only who holds its head, a time stamp or a git history knows better."""
    copy.reseal(lambda seal: replace(seal, time=year_before(seal.time)))
    return LEDGER


@cheat("evidence sealed before the freeze", row=4, needs="finish")
def _(copy: Copy) -> str:
    """Puts the run's seals before the freeze, as they happened, and rebuilds the chain."""
    seals = [seal for seal in ledger.parse(copy.registry.ledger()) if seal.registration == copy.id]
    first = [seal for seal in seals if seal.kind in ("start", "finish", "import")]
    copy.chain(first + [seal for seal in seals if seal not in first])
    return LEDGER


# ------------------------------------------------------------------ runs


@cheat("an unwelcome condition is deleted", row=6, needs="finish")
def _(copy: Copy) -> str:
    """Deletes the evidence of one intervention."""
    path = copy.condition(0, baseline=False)
    path.unlink()
    return path.name


@cheat("an unwelcome condition is deleted and the rest sealed again", row=6, needs="finish")
def _(copy: Copy) -> str:
    """Deletes the evidence of one intervention, and its line in the list of evidence."""
    path = copy.condition(0, baseline=False)
    path.unlink()
    copy.reseal()
    return path.name


@cheat("the ledger is cut behind the run", row=6, needs="verdict")
def _(copy: Copy) -> str:
    """Drops the last seals, so that verdict and report can be made again until they please."""
    stop = {"verdict", "report"}
    copy.reseal(lambda seal: None if seal.kind in stop and seal.registration == copy.id else seal)
    return "verdict.json"


@cheat("an unwelcome verdict is forgotten", row=6, tier="head", needs="verdict")
def _(copy: Copy) -> str:
    """Drops the verdict and the report with their seals: the study was never judged."""
    dropped = [seal for seal in copy.seals if seal.kind in ("verdict", "report") and seal.registration == copy.id]
    copy.reseal(lambda seal: None if seal in dropped else seal)
    for name in {name for seal in dropped for name in seal.files}:
        (copy.registry.root / name).unlink()
    return LEDGER


@cheat("the ledger is emptied", row=6, needs="freeze")
def _(copy: Copy) -> str:
    """Leaves the files and no ledger."""
    copy.registry.ledger_path.write_bytes(b"")
    return copy.id


@cheat("a line of the ledger stands twice", needs="freeze")
def _(copy: Copy) -> str:
    """Repeats the last line."""
    copy.write(copy.registry.ledger_path, lambda data: data + data.splitlines(keepends=True)[-1])
    return LEDGER


@cheat("a fork of the ledger", needs="start")
def _(copy: Copy) -> str:
    """Puts another line behind the same line, as if both had followed it."""

    def fork(data: bytes) -> bytes:
        last = ledger.parse(data)[-1]
        return data + replace(last, time=year_before(last.time)).line + b"\n"

    copy.write(copy.registry.ledger_path, fork)
    return LEDGER


@cheat("two lines of the ledger change places", needs="start")
def _(copy: Copy) -> str:
    """Swaps the last two lines."""

    def swap(data: bytes) -> bytes:
        lines = data.splitlines(keepends=True)
        return b"".join([*lines[:-2], lines[-1], lines[-2]])

    copy.write(copy.registry.ledger_path, swap)
    return LEDGER


@cheat("a seal over a file outside the registry", needs="report")
def _(copy: Copy) -> str:
    """Lets the last seal bind a file that is not in the record."""
    seals = list(ledger.parse(copy.registry.ledger()))
    seals[-1] = replace(seals[-1], files={**seals[-1].files, "../outside.json": OTHER})
    copy.chain(seals)
    return "../outside.json"
