"""Cheats of spelling: bytes that two readers would read in two ways, or no reader at all."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from prereg_moe import canonical
from prereg_moe.attack.changes import first_column
from prereg_moe.attack.copies import Copy, NotHere
from prereg_moe.attack.kinds import cheat
from prereg_moe.registry import read_bytes


def _respelt(copy: Copy, path: Path, old: bytes, new: bytes) -> str:
    """Spell something of a document in another way, and seal it again."""
    name = copy.write(path, lambda data: data.replace(old, new, 1))
    copy.reseal()
    return name


@cheat("a key that stands twice", needs="freeze")
def _(copy: Copy) -> str:
    """Writes the question twice into frozen.json, so that two readers read two studies."""
    return _respelt(copy, copy.folder / "frozen.json", b'"question":', b'"question":"Another?","question":')


@cheat("a number in another spelling", needs="freeze")
def _(copy: Copy) -> str:
    """Writes a number of frozen.json with an exponent: the same number, other bytes."""
    path = copy.folder / "frozen.json"
    number = re.search(rb":[0-9.]+(?=[,}])", read_bytes(path))
    if number is None:
        raise NotHere("it holds no number")
    return _respelt(copy, path, number[0], number[0] + b"e0")


@cheat("a minus zero", needs="finish")
def _(copy: Copy) -> str:
    """Writes -0.0 for a number that no document needs."""
    return _respelt(copy, copy.condition(0, baseline=False), b'"leaks":0', b'"leaks":-0.0')


@cheat("a number that is none", needs="finish")
def _(copy: Copy) -> str:
    """Writes NaN for a score, which every comparison lets pass."""
    path = copy.condition(0, baseline=False)
    value = canonical.dumps(first_column(canonical.read(path))["values"][0])
    return _respelt(copy, path, value, b"NaN")


@cheat("a number no float can hold", needs="finish")
def _(copy: Copy) -> str:
    """Writes an integer of a thousand digits for a count."""
    return _respelt(copy, copy.condition(0, baseline=False), b'"leaks":0', b'"leaks":' + b"9" * 1000)


@cheat("nested deeper than any reader goes", needs="freeze")
def _(copy: Copy) -> str:
    """Writes a hundred thousand brackets into frozen.json."""
    deep = b"[" * 100_000 + b"]" * 100_000
    return _respelt(copy, copy.folder / "frozen.json", b'"software":', b'"deep":' + deep + b',"software":')


@cheat("another document of the right form", needs="freeze")
def _(copy: Copy) -> str:
    """Replaces the lists in frozen.json by numbers, and seals it again."""

    def other(document: Any) -> None:
        document.update(families=3, draws="none", items=[], layout=None)

    return copy.forge(copy.folder / "frozen.json", other)
