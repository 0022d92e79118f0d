"""Cheats of a study's course: what was made up, registered beside it, begun, looked at, amended and deviated from.

Where the study never did what is cheated of, its copy first does it honestly (``first``).
"""

from __future__ import annotations

import shutil
from dataclasses import replace

from prereg_moe import amending, canonical, ledger, record, stages
from prereg_moe.attack.changes import confirm, kinder
from prereg_moe.attack.copies import Copy, ImportedCopy, NotHere
from prereg_moe.attack.kinds import LEDGER, OTHER, cheat
from prereg_moe.errors import Invalid
from prereg_moe.frozen import Frozen
from prereg_moe.registration import expand

__all__ = ["amended", "deviate", "variants_owned"]


def _run_here(copy: Copy) -> None:
    if isinstance(copy, ImportedCopy):
        raise NotHere("it was run elsewhere: it shares no alpha, and has nothing to amend or to deviate from")


# ------------------------------------------------------------------ what nobody can see


@cheat("numbers made up before anything was sealed", tier="nothing")
def _(copy: Copy) -> str:
    """Invents the effect, judges, reports and seals that: the head given is the invention's own."""
    copy.invent()
    copy.remake()
    return LEDGER


# ------------------------------------------------------------------ variants


def _variants(copy: Copy) -> None:
    """Freeze two variants of the study, which are about the same thing."""
    _run_here(copy)
    if not record.claim_space(copy.frozen):
        raise NotHere("it confirms nothing, so that nothing is gained by another try")
    made = []
    for id_ in (f"{copy.id}-b", f"{copy.id}-c"):
        document = {**copy.frozen.document, "registration": {**copy.frozen.document["registration"], "id": id_}}
        path = copy.registry.registration(id_) / "frozen.json"
        digest = canonical.write(path, document)
        body = record.freeze_body(Frozen.from_bytes(path.read_bytes()))
        freeze = copy.seals[copy.at("freeze")]
        made.append(replace(freeze, registration=id_, files={copy.registry.name(path): digest}, body=body))
    copy.insert(copy.at("freeze"), *made)


def variants_owned(copy: Copy) -> None:
    """Freeze two variants, and judge the study at the alpha they share."""
    _variants(copy)
    copy.remake()


def _is_variant(copy: Copy, seal: ledger.Seal) -> bool:
    return seal.registration in (f"{copy.id}-b", f"{copy.id}-c")


@cheat("several variants are registered, and one judged as if it were alone", row=5, needs="verdict")
def _(copy: Copy) -> str:
    """Freezes two variants in the same registry and keeps the verdict at the whole alpha."""
    _variants(copy)
    return "verdict.json"


@cheat("the variants that lost are dropped", row=5, tier="head", needs="verdict", first=variants_owned)
def _(copy: Copy) -> str:
    """Takes two frozen variants out of the ledger, judges again at the whole alpha and rebuilds everything."""
    copy.reseal(lambda seal: None if _is_variant(copy, seal) else seal)
    copy.remake()
    return LEDGER


@cheat("a variant is said to be about something else", row=5, needs="verdict", first=variants_owned)
def _(copy: Copy) -> str:
    """Lets the seals of two variants name other weights, so that they share no alpha, and rebuilds everything."""

    def elsewhere(seal: ledger.Seal) -> ledger.Seal:
        spaces = [{**space, "weights": OTHER} for space in seal.body.get("claim_space", [])]
        return replace(seal, body={**seal.body, "claim_space": spaces}) if _is_variant(copy, seal) else seal

    copy.reseal(elsewhere)
    copy.remake()
    return f"{copy.id}-b"


@cheat("a variant is said to be about nothing", row=5, needs="verdict", first=variants_owned)
def _(copy: Copy) -> str:
    """Lets the seals of two variants claim nothing, so that they share no alpha, and rebuilds everything."""

    def nothing(seal: ledger.Seal) -> ledger.Seal:
        return replace(seal, body={**seal.body, "claim_space": []}) if _is_variant(copy, seal) else seal

    copy.reseal(nothing)
    copy.remake()
    return f"{copy.id}-b"


# ------------------------------------------------------------------ runs


def _run_twice(copy: Copy) -> None:
    """Begin the run once more, which the verdict owns up to."""
    copy.insert(copy.at("start"), copy.seals[copy.at("start")])
    copy.remake()


@cheat("a run is begun again and nobody told", row=6, needs="verdict")
def _(copy: Copy) -> str:
    """Leaves the start of a run that was thrown away in the ledger and out of the verdict."""
    copy.insert(copy.at("start"), copy.seals[copy.at("start")])
    return "verdict.json"


@cheat("the start of a discarded run is dropped", row=6, tier="head", needs="verdict", first=_run_twice)
def _(copy: Copy) -> str:
    """Takes the start of a run that was thrown away out of the ledger, judges again and rebuilds everything."""
    seals = copy.seals
    del seals[copy.at("start")]
    copy.chain(seals)
    copy.remake()
    return LEDGER


@cheat("a run that never began", row=6, needs="finish")
def _(copy: Copy) -> str:
    """Takes all start records out of the ledger, so that nobody can count them."""
    copy.at("start")
    copy.reseal(lambda seal: None if copy.own(seal, "start") else seal)
    return LEDGER


# ------------------------------------------------------------------ looks


def _look(copy: Copy) -> ledger.Seal:
    """Return the first look's seal."""
    return copy.seals[copy.at("look")]


def _look_file(copy: Copy) -> str:
    return f"looks/{_look(copy).body['look']}.json"


@cheat("a look nobody registered, sealed as one", row=9, needs="finish")
def _(copy: Copy) -> str:
    """Looks at the evidence in the middle of the run and seals that, where no look is registered."""
    at = copy.at("start")
    if getattr(copy.frozen.registration.stopping, "kind", None) == "looks":
        raise NotHere("looks are registered")
    start = copy.seals[at]
    copy.insert(at + 1, replace(start, kind="look", files={}, body={"look": 1}), start)
    return "look 1"


@cheat("a look is taken twice", row=9, needs="look")
def _(copy: Copy) -> str:
    """Takes the same look again when more evidence is there, and pays for one."""
    start, look = copy.seals[copy.at("start")], _look(copy)
    copy.insert(copy.at("look") + 1, start, look)
    return "verdict.json"


@cheat("what a look showed is hidden", row=9, needs="look")
def _(copy: Copy) -> str:
    """Deletes what a look showed."""
    (copy.reports / _look_file(copy)).unlink()
    return _look_file(copy)


@cheat("what a look showed is edited", row=9, needs="look")
def _(copy: Copy) -> str:
    """Turns a verdict of a look over, and seals it again."""
    copy.forge(copy.reports / _look_file(copy), confirm)
    return _look_file(copy)


@cheat("a look that was taken is forgotten", row=9, tier="head", needs="look")
def _(copy: Copy) -> str:
    """Drops a look with its seal, so that it costs nothing, judges again and rebuilds everything."""
    (copy.reports / _look_file(copy)).unlink()
    copy.reseal(lambda seal: None if copy.own(seal, "look") else seal)
    copy.remake()
    return LEDGER


# ------------------------------------------------------------------ amendments and deviations


@cheat("an amendment behind the start", row=11, needs="start")
def _(copy: Copy) -> str:
    """Seals an amendment and a new freeze when the run has begun."""
    freeze, at = copy.seals[copy.at("freeze")], copy.at("start")
    body = {"number": 1, "reason": "a slip of the pen", "superseded": copy.frozen.digest}
    copy.insert(at + 1, replace(freeze, kind="amend", body=body), freeze)
    return LEDGER


def amended(copy: Copy) -> None:
    """Let the study have been amended before it began, as everything behind it owns up to; nothing where it was."""
    _run_here(copy)
    if "amend" in copy.reached:
        return
    at, folder = copy.at("freeze"), copy.folder / "superseded" / "1"
    freeze, number, reason = copy.seals[at], 1, "The title was too short."
    old = {**copy.frozen.document, "registration": {**copy.frozen.document["registration"], "title": "Before"}}
    superseded = canonical.write(folder / "frozen.json", old)
    canonical.write(folder / "registration.yaml", old["registration"])
    body = record.freeze_body(Frozen.from_bytes((folder / "frozen.json").read_bytes()))
    standing = [copy.folder / name for name in ("atlas.json", "diagnosis.json") if (copy.folder / name).exists()]
    kept = {copy.registry.name(path): canonical.digest_file(path) for path in (*folder.iterdir(), *standing)}
    said = {"number": number, "reason": reason, "superseded": superseded}
    copy.insert(at, replace(freeze, body=body), replace(freeze, kind="amend", files=kept, body=said))
    supersedes = {"number": number, "registration": superseded, "reason": reason}
    copy.refreeze({**copy.frozen.document, "supersedes": supersedes})


def _forget_amendments(copy: Copy) -> None:
    """Drop every amendment from the ledger, with the freezes it superseded and what was kept of them."""
    seals = copy.seals
    last = max(n for n, seal in enumerate(seals) if copy.own(seal, "amend"))
    gone = [n for n in range(last + 1) if copy.own(seals[n], "freeze")]
    gone += [n for n in range(last + 1) if copy.own(seals[n], "amend")]
    shutil.rmtree(copy.folder / "superseded")
    copy.chain(seal for n, seal in enumerate(seals) if n not in gone)


@cheat("an amendment is hidden", row=11, needs="finish", first=amended)
def _(copy: Copy) -> str:
    """Takes an amendment and what it superseded out of the ledger and the folder, and rebuilds the chain."""
    _forget_amendments(copy)
    return "frozen.json"


@cheat("an amendment is forgotten", row=11, tier="head", needs="finish", first=amended)
def _(copy: Copy) -> str:
    """The same, and the frozen registration says no more that it supersedes another: all behind it is made again."""
    _forget_amendments(copy)
    copy.refreeze({name: part for name, part in copy.frozen.document.items() if name != "supersedes"})
    return LEDGER


@cheat("the registration that was superseded is deleted", row=11, needs="finish", first=amended)
def _(copy: Copy) -> str:
    """Deletes what an amendment superseded, and seals the rest again."""
    name = _superseded(copy)
    (copy.folder / name).unlink()
    copy.reseal()
    return name


@cheat("the registration that was superseded is made kinder", row=11, needs="finish", first=amended)
def _(copy: Copy) -> str:
    """Edits what an amendment superseded, so that less seems to have been amended, and seals it again."""
    name = _superseded(copy)
    copy.forge(copy.folder / name, lambda document: kinder(document["registration"]))
    return name


def _superseded(copy: Copy) -> str:
    return f"superseded/{copy.seals[copy.at('amend')].body['number']}/frozen.json"


def deviate(copy: Copy) -> None:
    """Record a kinder plan as a deviation, and judge under both."""
    _run_here(copy)
    registered = dict(expand(copy.frozen.registration))
    registered["inference"] = dict(registered["inference"])
    kinder(registered)
    plan, time = copy.registry.root.parent / "plan.yaml", copy.seals[-1].time
    plan.write_bytes(canonical.dumps(registered))  # JSON is YAML
    words = {"type_": "analysis", "reason": "A slip of the pen.", "timing": "after_data", "impact": "A kinder bar."}
    try:
        amending.deviate(copy.registry, copy.id, **words, plan=plan, time=time)
    except Invalid as error:
        raise NotHere(f"its plan cannot be made kinder ({error})") from error
    stages.verdict(copy.registry, copy.id, time=time)


def _deviation(copy: Copy) -> tuple[int, int]:
    """Return where the last deviation stands in the ledger, and its number."""
    seals = copy.seals
    at = max(n for n, seal in enumerate(seals) if copy.own(seal, "deviation"))
    return at, seals[at].body["number"]


@cheat("a deviation is dropped", row=11, tier="head", needs="finish", first=deviate)
def _(copy: Copy) -> str:
    """Takes a deviation and its plan out of the record, judges again and rebuilds everything."""
    at, number = _deviation(copy)
    seals = copy.seals
    (copy.folder / f"deviations/{number}.json").unlink()
    copy.chain(seals[:at])  # behind it is only the verdict it called for
    copy.remake()
    return LEDGER


@cheat("a deviation is made to come before the data", row=11, needs="finish", first=deviate)
def _(copy: Copy) -> str:
    """Says of a deviation that it was decided before any evidence was looked at, and rebuilds the chain."""
    at, _number = _deviation(copy)
    seals = copy.seals
    seals[at] = replace(seals[at], body={**seals[at].body, "timing": "before_data"})
    copy.chain(seals)
    return "verdict.json"


@cheat("a deviation's plan is edited", row=11, needs="finish", first=deviate)
def _(copy: Copy) -> str:
    """Makes the amended plan kinder still, and seals it again."""
    _at, number = _deviation(copy)
    copy.forge(copy.folder / f"deviations/{number}.json", kinder)
    return f"deviations/{number}.json"
