"""Cheats of results: amended afterwards, or said otherwise in verdicts, reports and samples."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from prereg_moe import ledger
from prereg_moe.attack.changes import confirm, first_column
from prereg_moe.attack.copies import Copy, NotHere
from prereg_moe.attack.kinds import LEDGER, cheat

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
    return copy.forge(copy.reports / "verdict.json", confirm)


@cheat("a failed control is hidden", row=12)
def _(copy: Copy) -> str:
    """Says the opposite of how the controls came out, and seals it again."""

    def hide(document: Any) -> None:
        if not document.get("controls"):
            raise NotHere("it has no controls")
        document["controls"][0]["holds"] = not document["controls"][0]["holds"]

    return copy.forge(copy.reports / "verdict.json", hide)


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
        column = first_column(document)
        metric, tokens, values = (column[name] for name in ("metric", "tokens", "values"))
        per_token = values[0] != metric[0] or (metric[0] == 0 and tokens[0] > 1)
        step = tokens[0] * tokens[1] / 4
        metric[0], metric[1] = metric[0] + step, metric[1] - step * (tokens[1] / tokens[0] if per_token else 1)
        for n in (0, 1):
            values[n] = metric[n] / tokens[n] if per_token else metric[n]

    path = copy.condition(0, baseline=False)
    copy.forge(path, move)
    return "verdict.json"


@cheat("a value that does not follow from its score", row=12, needs="finish")
def _(copy: Copy) -> str:
    """Edits the judged value of one item and not the metric it is made of, and seals it again."""

    def edit(document: Any) -> None:
        first_column(document)["values"][0] += 1.0

    return copy.forge(copy.condition(0, baseline=False), edit)


@cheat("a report with other line ends", row=12)
def _(copy: Copy) -> str:
    """Saves the report with the line ends of another system."""
    return copy.write(sorted(copy.reports.glob("report.*"))[0], lambda data: data.replace(b"\n", b"\r\n"))
