"""The cheats of the record itself: each takes a copy of a study, does what a cheat would do, and returns what must be
named. A cheat's docstring says what it does.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from prereg_moe import canonical, ledger, rules
from prereg_moe.attack.copies import Copy, NotHere
from prereg_moe.attack.kinds import LEDGER, cheat
from prereg_moe.registry import read_bytes


def kinder(registered: dict[str, Any]) -> None:
    """Double alpha in a registration; published numbers have none, so their first rule lets more pass."""
    if inference := registered.get("inference"):
        inference["alpha"] = min(2 * inference["alpha"], 0.49)
        return
    rule = registered["rules"][sorted(registered["rules"])[0]]
    rule["confirm"] = f"({rules.NAMED.get(rule['confirm'], rule['confirm'])}) or on.est > 0"


def confirm(document: Any) -> None:
    """Turn one verdict over, to confirmed where it was anything else; or the reading of a published number."""
    if "readings" in document:
        document["readings"][0]["reading"] = "FALSE" if document["readings"][0]["reading"] == "TRUE" else "TRUE"
        return
    entry = next((entry for entry in document["verdicts"] if entry["verdict"] != "CONFIRMED"), document["verdicts"][0])
    entry["verdict"] = "REFUTED" if entry["verdict"] == "CONFIRMED" else "CONFIRMED"


def _claims(document: Any) -> str:
    """Return the part of a verdict document that holds its claims."""
    return "readings" if "readings" in document else "verdicts"


def _first(document: Any) -> Any:
    """Return the first column of an evidence document."""
    return document["axes"][sorted(document["axes"])[0]]


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
    name = copy.edit(copy.folder / "frozen.json", lambda document: kinder(document["registration"]))
    copy.reseal()
    return name


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


def year_before(time: str) -> str:
    """Return a seal's time a year earlier."""
    return f"{int(time[:4]) - 1:04}{time[4:]}"


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
    seals[-1] = replace(seals[-1], files={**seals[-1].files, "../outside.json": "sha256:" + "0" * 64})
    copy.chain(seals)
    return "../outside.json"


# ------------------------------------------------------------------ families and draws


@cheat("a family is dropped from the report", row=7)
def _(copy: Copy) -> str:
    """Removes one claim from verdict.json and seals it again."""
    name = copy.edit(copy.reports / "verdict.json", lambda document: document[_claims(document)].pop(0))
    copy.reseal()
    return name


@cheat("a family is dropped from the frozen file", row=7, needs="freeze")
def _(copy: Copy) -> str:
    """Removes one family that was derived from the atlas, and seals the rest again."""
    if not copy.frozen.document.get("families"):
        raise NotHere("it has no families")
    name = copy.edit(copy.folder / "frozen.json", lambda document: document["families"].pop(0))
    copy.reseal()
    return name


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

    name = copy.edit(copy.folder / "frozen.json", choose)
    copy.reseal()
    return name


@cheat("kinder random sets", needs="freeze")
def _(copy: Copy) -> str:
    """Removes the random set that harms most from the null control, and seals it again."""
    if not copy.frozen.document.get("draws"):
        raise NotHere("it compares with no random sets")
    name = copy.edit(copy.folder / "frozen.json", lambda document: document["draws"][0]["cells"].pop())
    copy.reseal()
    return name


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
    name = copy.edit(copy.folder / "frozen.json", lambda document: document["pins"].update(atlas=pin))
    copy.reseal()
    return name


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
    copy.edit(copy.folder / "frozen.json", lambda d: d["pins"][kind][source].update({file: "sha256:" + "0" * 64}))
    copy.reseal()
    return file


@cheat("only the items that came out well are judged", row=9, needs="freeze")
def _(copy: Copy) -> str:
    """Removes an item from the frozen list, and seals it again."""
    if "items" not in copy.frozen.document:
        raise NotHere("it lists no items: its sources do")

    def drop(document: Any) -> None:
        measure = next(iter(document["items"].values()))
        measure[sorted(measure)[0]].pop()

    name = copy.edit(copy.folder / "frozen.json", drop)
    copy.reseal()
    return name


@cheat("the run stopped early", row=9, needs="finish")
def _(copy: Copy) -> str:
    """Removes the last item from one condition's evidence, and seals it again."""

    def stop(document: Any) -> None:
        for column in _first(document).values():
            column.pop()

    name = copy.edit(copy.condition(0, baseline=False), stop)
    copy.reseal()
    return name


@cheat("one condition comes from another machine", row=10, needs="finish")
def _(copy: Copy) -> str:
    """Gives one condition another environment, and seals it again."""
    name = copy.edit(copy.condition(0, baseline=False), lambda d: d["environment"].update(device="another"))
    copy.reseal()
    return name


# ------------------------------------------------------------------ amending


@cheat("an amendment behind the evidence", row=11, needs="finish")
def _(copy: Copy) -> str:
    """Puts a new freeze behind the finished run."""
    seals = list(ledger.parse(copy.registry.ledger()))
    frozen = next(seal for seal in seals if seal.kind == "freeze" and seal.registration == copy.id)
    copy.chain([*seals, frozen])
    return LEDGER


@cheat("an interim look nobody registered", row=11, needs="finish")
def _(copy: Copy) -> str:
    """Judges before the run is finished, and seals it where it happened."""
    seals = [seal for seal in copy.seals if seal.registration == copy.id]
    finish = next(number for number, seal in enumerate(seals) if seal.kind in ("finish", "import"))
    copy.chain([*seals[:finish], replace(seals[finish], kind="verdict", body={}, files={}), *seals[finish:]])
    return LEDGER


# ------------------------------------------------------------------ results


@cheat("a verdict is edited", row=12)
def _(copy: Copy) -> str:
    """Turns one verdict over in verdict.json, and seals it again."""
    name = copy.edit(copy.reports / "verdict.json", confirm)
    copy.reseal()
    return name


@cheat("a failed control is hidden", row=12)
def _(copy: Copy) -> str:
    """Says the opposite of how the controls came out, and seals it again."""

    def hide(document: Any) -> None:
        if not document.get("controls"):
            raise NotHere("it has no controls")
        document["controls"][0]["holds"] = not document["controls"][0]["holds"]

    name = copy.edit(copy.reports / "verdict.json", hide)
    copy.reseal()
    return name


@cheat("a report is edited", row=12)
def _(copy: Copy) -> str:
    """Adds a sentence to the report, and seals it again."""
    path = sorted(copy.reports.glob("report.*"))[0]
    copy.write(path, lambda data: data + b"\nAll of this was confirmed.\n")
    copy.reseal()
    return path.name


@cheat("the report's template is replaced", row=12)
def _(copy: Copy) -> str:
    """Writes another template, renders the report by it, and seals both again."""
    path = sorted(copy.reports.glob("report.*"))[0]
    template = copy.folder / "templates" / f"{path.name}.j2"
    template.write_text("Everything was confirmed.\n")
    path.write_text("Everything was confirmed.\n")
    copy.reseal()
    return template.name


@cheat("the aggregate is right and a sample is wrong", row=12)
def _(copy: Copy) -> str:
    """Moves harm from one item to another, so that the mean stays, and seals it again."""

    def move(document: Any) -> None:
        column = _first(document)
        metric, tokens, values = (column[name] for name in ("metric", "tokens", "values"))
        per_token = values[0] != metric[0] or (metric[0] == 0 and tokens[0] > 1)
        step = tokens[0] * tokens[1] / 4
        metric[0], metric[1] = metric[0] + step, metric[1] - step * (tokens[1] / tokens[0] if per_token else 1)
        for n in (0, 1):
            values[n] = metric[n] / tokens[n] if per_token else metric[n]

    path = copy.condition(0, baseline=False)
    copy.edit(path, move)
    copy.reseal()
    return "verdict.json"


@cheat("a value that does not follow from its score", row=12, needs="finish")
def _(copy: Copy) -> str:
    """Edits the judged value of one item and not the metric it is made of, and seals it again."""

    def edit(document: Any) -> None:
        _first(document)["values"][0] += 1.0

    name = copy.edit(copy.condition(0, baseline=False), edit)
    copy.reseal()
    return name


@cheat("a report with other line ends", row=12)
def _(copy: Copy) -> str:
    """Saves the report with the line ends of another system."""
    return copy.write(sorted(copy.reports.glob("report.*"))[0], lambda data: data.replace(b"\n", b"\r\n"))


# ------------------------------------------------------------------ evidence


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
    copy.edit(path, lambda document: document.update(axes=baseline["axes"]))
    copy.reseal()
    return "verdict.json"


@cheat("evidence of another study", needs="finish")
def _(copy: Copy) -> str:
    """Puts the scores of another registration under the name of this one's condition, and seals it again."""
    other = "sha256:" + "1" * 64
    name = copy.edit(copy.condition(0, baseline=False), lambda d: d["condition"].update(registration=other))
    copy.reseal()
    return name


@cheat("an intervention that did not happen", needs="finish")
def _(copy: Copy) -> str:
    """Removes the proof that experts were masked, and seals it again."""
    name = copy.edit(copy.condition(0, baseline=False), lambda document: document.update(proof=None))
    copy.reseal()
    return name


@cheat("an intervention that leaked", needs="finish")
def _(copy: Copy) -> str:
    """Keeps evidence in which masked experts still took part, and seals it again."""
    name = copy.edit(copy.condition(0, baseline=False), lambda document: document["proof"].update(leaks=3))
    copy.reseal()
    return name


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
    at = max(n for n, seal in enumerate(seals) if (seal.registration, seal.kind) == (copy.id, "report"))
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
    name = copy.edit(path, lambda document: document.update(registration="sha256:" + "1" * 64))
    pin = canonical.digest_file(path)
    copy.edit(copy.folder / "frozen.json", lambda document: document["pins"].update(diagnosis=pin))
    copy.reseal()
    return name


# ------------------------------------------------------------------ two readings of the same bytes


def _respelt(copy: Copy, old: bytes, new: bytes) -> str:
    """Spell something of frozen.json in another way, and seal it again."""
    name = copy.write(copy.folder / "frozen.json", lambda data: data.replace(old, new, 1))
    copy.reseal()
    return name


@cheat("a key that stands twice", needs="freeze")
def _(copy: Copy) -> str:
    """Writes the question twice into frozen.json, so that two readers read two studies."""
    return _respelt(copy, b'"question":', b'"question":"Another?","question":')


@cheat("a number in another spelling", needs="freeze")
def _(copy: Copy) -> str:
    """Writes a number of frozen.json with an exponent: the same number, other bytes."""
    number = re.search(rb":[0-9.]+(?=[,}])", read_bytes(copy.folder / "frozen.json"))
    if number is None:
        raise NotHere("it holds no number")
    return _respelt(copy, number[0], number[0] + b"e0")


@cheat("a minus zero", needs="finish")
def _(copy: Copy) -> str:
    """Writes -0.0 for a number that no document needs."""
    path = copy.condition(0, baseline=False)
    name = copy.write(path, lambda data: data.replace(b'"leaks":0', b'"leaks":-0.0', 1))
    copy.reseal()
    return name


@cheat("a number that is none", needs="finish")
def _(copy: Copy) -> str:
    """Writes NaN for a score, which every comparison lets pass."""
    value = canonical.dumps(_first(canonical.read(copy.condition(0, baseline=False)))["values"][0])
    name = copy.write(copy.condition(0, baseline=False), lambda data: data.replace(value, b"NaN", 1))
    copy.reseal()
    return name


@cheat("a number no float can hold", needs="finish")
def _(copy: Copy) -> str:
    """Writes an integer of a thousand digits for a count."""
    path = copy.condition(0, baseline=False)
    name = copy.write(path, lambda data: data.replace(b'"leaks":0', b'"leaks":' + b"9" * 1000, 1))
    copy.reseal()
    return name


@cheat("nested deeper than any reader goes", needs="freeze")
def _(copy: Copy) -> str:
    """Writes a hundred thousand brackets into frozen.json."""
    deep = b"[" * 100_000 + b"]" * 100_000
    return _respelt(copy, b'"software":', b'"deep":' + deep + b',"software":')


@cheat("another document of the right form", needs="freeze")
def _(copy: Copy) -> str:
    """Replaces the lists in frozen.json by numbers, and seals it again."""

    def other(document: Any) -> None:
        document.update(families=3, draws="none", items=[], layout=None)

    name = copy.edit(copy.folder / "frozen.json", other)
    copy.reseal()
    return name


# ------------------------------------------------------------------ what nobody can see


@cheat("numbers made up before anything was sealed", tier="nothing")
def _(copy: Copy) -> str:
    """Invents the effect, judges, reports and seals that: the head given is the invention's own."""
    copy.invent()
    copy.rejudge()
    copy.reseal()
    return LEDGER
