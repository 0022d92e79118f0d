"""Cheats of evidence made elsewhere: its sources, what was derived from them, what is said of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from prereg_moe import canonical
from prereg_moe.attack.copies import Copy, ImportedCopy, NotHere
from prereg_moe.attack.kinds import LEDGER, OTHER, cheat


def _imported(copy: Copy) -> ImportedCopy:
    if not isinstance(copy, ImportedCopy):
        raise NotHere("it was run here")
    return copy


@cheat("a source is edited and sealed again", row=12, needs="import")
def _(copy: Copy) -> str:
    """Changes a number of an imported file, and seals it again."""
    name = _imported(copy).invent()
    copy.reseal()
    return name


@cheat("a source is edited, and everything made again from it", row=2, tier="head", needs="import")
def _(copy: Copy) -> str:
    """Changes a number of an imported file; derives, judges and reports again, rebuilds the ledger."""
    _imported(copy).invent()
    copy.remake()
    return LEDGER


@cheat("a source is left out", row=6, needs="import")
def _(copy: Copy) -> str:
    """Deletes an imported file, and its name from the ledger."""
    path = _imported(copy).sources[-1]
    path.unlink()
    copy.reseal()
    return path.name


@cheat("a row is left out of a source and sealed again", row=9, needs="import")
def _(copy: Copy) -> str:
    """Removes the last row of an imported file, and seals it again."""
    path = _imported(copy).sources[-1]
    copy.write(path, lambda data: b"".join(data.splitlines(keepends=True)[:-1]))
    copy.reseal()
    return path.name


@cheat("a row is left out of a source, and everything made again", row=9, tier="head", needs="import")
def _(copy: Copy) -> str:
    """Removes the last row of an imported file, where nothing says how many there are, and makes all of it again."""
    _imported(copy).shorten()
    copy.remake()
    return LEDGER


@cheat("another source beside the imported ones, sealed with them", row=9, needs="import")
def _(copy: Copy) -> str:
    """Adds a file to the imported ones, to be read from later, and lets the import seal it."""
    path = _imported(copy).sources[-1]
    other = path.with_name(f"more-{path.name}")
    other.write_bytes(path.read_bytes())
    name, digest = copy.registry.name(other), canonical.digest_file(other)
    copy.reseal(lambda seal: replace(seal, files={**seal.files, name: digest}) if copy.own(seal, "import") else seal)
    return other.name


@cheat("imported evidence is edited", row=12, needs="import")
def _(copy: Copy) -> str:
    """Drops a claim's or a cell's evidence from what was derived, and seals it again."""

    def drop(document: Any) -> None:
        [part] = document["evidence"].values()
        part.pop(sorted(part)[0])

    return copy.forge(_imported(copy).reports / "imported.json", drop)


@cheat("evidence imported for another registration", needs="import")
def _(copy: Copy) -> str:
    """Puts what another registration imported in place of this one's, and seals it again."""
    path = _imported(copy).reports / "imported.json"
    return copy.forge(path, lambda document: document.update(registration=OTHER))


@cheat("released files that were not checked", row=12, needs="import")
def _(copy: Copy) -> str:
    """Names another file as the one that was checked, makes all behind it again, and leaves the import's seal."""
    _claim_check(_imported(copy))
    copy.remake()
    return LEDGER


@cheat("released files that were not checked, in the seal too", row=12, tier="head", needs="import")
def _(copy: Copy) -> str:
    """The same, and the import's seal says so: the released files themselves would show it without the head."""
    checks = _claim_check(_imported(copy))
    copy.reseal(lambda seal: replace(seal, body={**seal.body, "checks": checks}) if copy.own(seal, "import") else seal)
    copy.remake()
    return LEDGER


def _claim_check(copy: ImportedCopy) -> dict[str, str]:
    """Name another digest for a released file and return all of them."""
    if copy.imported["checks"] is None:
        raise NotHere("no released file was checked")
    checks: dict[str, str] = copy.imported["checks"]["files"]
    checks[sorted(checks)[0]] = OTHER
    copy.edit(copy.reports / "imported.json", lambda document: document["checks"].update(files=checks))
    return checks


@cheat("what such evidence can show is overstated", row=12, needs="import")
def _(copy: Copy) -> str:
    """Says in verdict.json that evidence made elsewhere proves what it cannot, and seals it again."""
    path = _imported(copy).reports / "verdict.json"
    if not path.exists():
        raise NotHere("it is not judged")
    return copy.forge(path, lambda document: document.update(cap="This proves it."))


@cheat("an import is said to have been run here", needs="import")
def _(copy: Copy) -> str:
    """Puts the start of a run in front of the import, as if this had been computed here."""
    at = _imported(copy).at("import")
    copy.insert(at, replace(copy.seals[at], kind="start", files={}, body={"missing": 1, "workers": 1}))
    return LEDGER
