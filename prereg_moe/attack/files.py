"""Cheats of the files: evidence in another's place, links, and whatever nobody sealed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from prereg_moe import canonical
from prereg_moe.attack.copies import Copy, NotHere
from prereg_moe.attack.kinds import OTHER, cheat


@cheat("two conditions change places", needs="finish")
def _(copy: Copy) -> str:
    """Swaps the evidence of two interventions under their names, and seals it again."""
    one, other = copy.condition(0, baseline=False), copy.condition(1, baseline=False)
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)
    copy.reseal()
    return one.name


@cheat("items change places between two conditions")
def _(copy: Copy) -> str:
    """Gives an intervention the scores of the unmasked model, and seals it again."""
    baseline = canonical.read(copy.condition(0, baseline=True))
    path = copy.condition(0, baseline=False)
    copy.forge(path, lambda document: document.update(axes=baseline["axes"]))
    return "verdict.json"


@cheat("evidence of another study", needs="finish")
def _(copy: Copy) -> str:
    """Puts the scores of another registration under the name of this one's condition, and seals it again."""
    return copy.forge(copy.condition(0, baseline=False), lambda d: d["condition"].update(registration=OTHER))


@cheat("an intervention that did not happen", needs="finish")
def _(copy: Copy) -> str:
    """Removes the proof that experts were masked, and seals it again."""
    return copy.forge(copy.condition(0, baseline=False), lambda document: document.update(proof=None))


@cheat("an intervention that leaked", needs="finish")
def _(copy: Copy) -> str:
    """Keeps evidence in which masked experts still took part, and seals it again."""
    return copy.forge(copy.condition(0, baseline=False), lambda document: document["proof"].update(leaks=3))


@cheat("an intervention on nothing", needs="finish")
def _(copy: Copy) -> str:
    """Keeps evidence whose guards saw no expert masked and no contribution changed, and seals it again."""
    nothing = {"masked_cells": 0, "edited_cells": 0, "edited_slots": 0}
    return copy.forge(copy.condition(0, baseline=False), lambda document: document["proof"].update(nothing))


@cheat("evidence nobody planned", needs="finish")
def _(copy: Copy) -> str:
    """Adds a run beside the planned ones, to choose from later."""
    path = copy.registry.evidence(copy.id) / f"{'f' * 64}.json"
    path.write_bytes(copy.condition(0, baseline=False).read_bytes())
    return path.name


@cheat("evidence that is a link", needs="finish")
def _(copy: Copy) -> str:
    """Puts a link in place of a file, to be turned to other bytes later."""
    path = copy.condition(0, baseline=False)
    moved = path.rename(copy.registry.root / "elsewhere.json")
    path.symlink_to(moved)
    return path.name


@cheat("a second report beside the sealed one")
def _(copy: Copy) -> str:
    """Adds Report.md beside report.md, which some machines take for the same file."""
    path = sorted(copy.reports.glob("report.*"))[0]
    other = path.with_name(path.name.capitalize())
    if other.exists():
        raise NotHere("this file system ignores case")
    other.write_text("Everything was confirmed.\n")
    return other.name


@cheat("a name with other letters that look alike", needs="finish")
def _(copy: Copy) -> str:
    """Adds verdict.json with a Cyrillic e beside the sealed one."""
    path = copy.reports / "v\u0435rdict.json"
    path.write_text("{}")
    return path.name


@cheat("a file nobody sealed", needs="freeze")
def _(copy: Copy) -> str:
    """Leaves notes in the registration's folder."""
    path = copy.folder / "notes.txt"
    path.write_text("tried alpha = 0.1 as well\n")
    return path.name


@cheat("a page of one's own, sealed with the reports")
def _(copy: Copy) -> str:
    """Writes a page beside the reports that says what they do not, and lets the last seal bind it."""
    return _sealed_too(copy, copy.reports / "summary.md")


@cheat("a picture of one's own, said to be drawn by another program")
def _(copy: Copy) -> str:
    """Adds a figure no verdict has, drawn by a program no reader has to compare it with."""
    return _sealed_too(copy, copy.reports / "figures/everything.png", matplotlib="0.1")


def _sealed_too(copy: Copy, path: Path, **body: Any) -> str:
    """Write a file and let the last report's seal bind it."""
    digest = canonical.write(path, b"Everything was confirmed.\n")
    seals = copy.seals
    at = max(n for n, seal in enumerate(seals) if copy.own(seal, "report"))
    files = {**seals[at].files, copy.registry.name(path): digest}
    seals[at] = replace(seals[at], files=files, body={**seals[at].body, **body})
    copy.chain(seals)
    return copy.registry.name(path)


@cheat("the report of a study nobody registered", needs="freeze")
def _(copy: Copy) -> str:
    """Puts a report beside the others that no registration and no seal stand behind."""
    path = copy.registry.reports(f"{copy.id}-again") / "report.md"
    canonical.write(path, b"Everything was confirmed.\n")
    return copy.registry.name(path.parent)


@cheat("a folder that is a link", needs="finish")
def _(copy: Copy) -> str:
    """Puts a link in place of the folder of reports, to be turned to another folder later."""
    moved = copy.reports.rename(copy.registry.root / "elsewhere")
    copy.reports.symlink_to(moved)
    return f"reports/{copy.id}/"


@cheat("the diagnosis of another registration", needs="diagnosis")
def _(copy: Copy) -> str:
    """Puts the error rates of another design in place of this one's, pins and seals them."""
    path = copy.folder / "diagnosis.json"
    name = copy.edit(path, lambda document: document.update(registration=OTHER))
    pin = canonical.digest_file(path)
    copy.forge(copy.folder / "frozen.json", lambda document: document["pins"].update(diagnosis=pin))
    return name
