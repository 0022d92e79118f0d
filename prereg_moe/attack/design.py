"""Cheats of a study's design: its families and random sets, and all that is measured with."""

from __future__ import annotations

from typing import Any

from prereg_moe import canonical
from prereg_moe.attack.changes import claims_of, first_column
from prereg_moe.attack.copies import Copy, NotHere
from prereg_moe.attack.kinds import LEDGER, OTHER, cheat

# ------------------------------------------------------------------ families and draws


@cheat("a family is dropped from the report", row=7)
def _(copy: Copy) -> str:
    """Removes one claim from verdict.json and seals it again."""
    return copy.forge(copy.reports / "verdict.json", lambda document: document[claims_of(document)].pop(0))


@cheat("a family is dropped from the frozen file", row=7, needs="freeze")
def _(copy: Copy) -> str:
    """Removes one family that was derived from the atlas, and seals the rest again."""
    if not copy.frozen.document.get("families"):
        raise NotHere("it has no families")
    return copy.forge(copy.folder / "frozen.json", lambda document: document["families"].pop(0))


@cheat("only the family that came out is claimed", row=7, tier="head", needs="finish")
def _(copy: Copy) -> str:
    """Registers in hindsight one family instead of all, which need not share its alpha with the others."""
    copy.rewrite(copy.claim_first)
    return LEDGER


@cheat("a family is chosen by hand", needs="freeze")
def _(copy: Copy) -> str:
    """Puts another expert into a family than the registered rule takes, and seals it again."""
    if not copy.frozen.document.get("families"):
        raise NotHere("it has no families")

    def choose(document: Any) -> None:
        entry = document["families"][0]
        layer, experts = entry["cells"][0]
        layout = document["layout"][entry["model"]]["experts"]
        other = next(expert for expert in reversed(range(layout)) if expert not in experts)
        entry["cells"][0] = [layer, sorted([*experts[1:], other])]

    return copy.forge(copy.folder / "frozen.json", choose)


@cheat("kinder random sets", needs="freeze")
def _(copy: Copy) -> str:
    """Removes the random set that harms most from the null control, and seals it again."""
    if not copy.frozen.document.get("draws"):
        raise NotHere("it compares with no random sets")
    return copy.forge(copy.folder / "frozen.json", lambda document: document["draws"][0]["cells"].pop())


@cheat("routing that was never recorded", needs="freeze")
def _(copy: Copy) -> str:
    """Edits the atlas the families are derived from, pins it and seals it again."""
    path = copy.folder / "atlas.json"
    if not path.exists():
        raise NotHere("it has no atlas")

    def reverse(document: Any) -> None:
        for table in document["models"].values():
            table["mass"] = {axis: [row[::-1] for row in rows] for axis, rows in table["mass"].items()}

    copy.edit(path, reverse)
    pin = canonical.digest_file(path)
    return copy.forge(copy.folder / "frozen.json", lambda document: document["pins"].update(atlas=pin))


# ------------------------------------------------------------------ what was measured with


@cheat("the metric's code is edited", row=8, needs="freeze")
def _(copy: Copy) -> str:
    """Edits a task's file; where tasks lie elsewhere, pins and seals other bytes instead."""
    return _swap(copy, "tasks")


@cheat("an item of a corpus is edited", row=9, needs="freeze")
def _(copy: Copy) -> str:
    """Edits one text; where corpora lie elsewhere, pins and seals other bytes instead."""
    return _swap(copy, "corpora")


@cheat("the weights are others", row=10, needs="freeze")
def _(copy: Copy) -> str:
    """Pins other weights than the ones that are there, and seals that again."""
    return _swap(copy, "models")


def _swap(copy: Copy, kind: str) -> str:
    """Change a source that lies in the copy, or the digest it is pinned by; return the file's name."""
    path = copy.source(kind) if kind != "models" else None
    if path is not None:
        path.write_bytes(path.read_bytes() + b"\n# edited\n")
        return path.name
    pins = copy.frozen.document["pins"].get(kind, {})
    source = next(iter(pins), None)
    if source is None:
        raise NotHere(f"it pins no {kind}")
    file: str = sorted(pins[source])[-1]
    copy.forge(copy.folder / "frozen.json", lambda d: d["pins"][kind][source].update({file: OTHER}))
    return file


@cheat("only the items that came out well are judged", row=9, needs="freeze")
def _(copy: Copy) -> str:
    """Removes an item from the frozen list, and seals it again."""
    if "items" not in copy.frozen.document:
        raise NotHere("it lists no items: its sources do")

    def drop(document: Any) -> None:
        measure = next(iter(document["items"].values()))
        measure[sorted(measure)[0]].pop()

    return copy.forge(copy.folder / "frozen.json", drop)


@cheat("the run stopped early", row=9, needs="finish")
def _(copy: Copy) -> str:
    """Removes the last item from one condition's evidence, and seals it again."""

    def stop(document: Any) -> None:
        for column in first_column(document).values():
            column.pop()

    return copy.forge(copy.condition(0, baseline=False), stop)


@cheat("one condition comes from another machine", row=10, needs="finish")
def _(copy: Copy) -> str:
    """Gives one condition another environment, and seals it again."""
    return copy.forge(copy.condition(0, baseline=False), lambda d: d["environment"].update(device="another"))
