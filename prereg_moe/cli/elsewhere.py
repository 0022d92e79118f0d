"""Evidence made elsewhere: the group `import`, and what the other verbs do for such a study."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from prereg_moe.cli import show
from prereg_moe.cli.common import find_study, json_option, root_option
from prereg_moe.errors import Invalid, Problem

if TYPE_CHECKING:
    from prereg_moe.registry import Registry

__all__ = ["import_"]

_STYLE = {"TRUE": "green", "FALSE": "red", "UNDECIDABLE": "yellow"}
_source = click.Path(path_type=Path)


@click.group("import")
def import_() -> None:
    """Take in evidence made elsewhere, for a frozen registration of schema prereg-moe/import/1.

    The files are copied and sealed, and the evidence is derived from them; `verdict`, `report` and `audit` go on from
    there. What evidence of a kind can support at most is shown in every report.

    \b
    Example:
      prereg-moe import summary command-a-plus table1.csv
    """


@import_.command()
@click.argument("id_", metavar="ID")
@click.argument("file", type=_source)
@click.option("--data", type=_source, help="The folder of files released beside the numbers: they are checked, too.")
@root_option
@json_option
def summary(id_: str, file: Path, data: Path | None, root: Path | None, as_json: bool) -> None:
    """Take in published estimates as printed (CSV, one row a claim): `verdict` then gives readings, never verdicts.

    \b
    Example:
      prereg-moe import summary command-a-plus table1.csv --data released/
    """
    _take_in(id_, "summary", file, data, root, as_json)


@import_.command()
@click.argument("id_", metavar="ID")
@click.argument("file", type=_source)
@root_option
@json_option
def rows(id_: str, file: Path, root: Path | None, as_json: bool) -> None:
    """Take in the score of every item in every registered cell (CSV, JSON, JSON lines, Parquet).

    \b
    Example:
      prereg-moe import rows routing-audit rows.csv
    """
    _take_in(id_, "rows", file, None, root, as_json)


@import_.command("lm-eval")
@click.argument("id_", metavar="ID")
@click.argument("folder", type=_source)
@root_option
@json_option
def lm_eval(id_: str, folder: Path, root: Path | None, as_json: bool) -> None:
    """Take in results and samples as `lm_eval --log_samples` writes them: a baseline and its ablations.

    FOLDER holds the registered runs, each the --output_path of one. Samples are matched by the hashes of document,
    prompt and target; what does not match is refused by name.

    \b
    Example:
      prereg-moe import lm-eval my-ablation runs/
    """
    _take_in(id_, "lm-eval", folder, None, root, as_json)


def _take_in(id_: str, kind: str, source: Path, data: Path | None, root: Path | None, as_json: bool) -> None:
    from prereg_moe.importing import take_in
    from prereg_moe.registry import now

    registry, id_ = find_study(root, id_)
    _require(registry, id_)
    with show.waiting("importing", as_json):
        imported, head = take_in(registry, id_, kind, source, data=data, time=now())
    evidence = imported["evidence"]
    if kind == "summary":
        what = f"{len(evidence['claims'])} rows of printed numbers"
    else:
        items = sum(len(cell["items"]) for cell in evidence["cells"].values())
        what = f"{len(evidence['cells'])} cells, {items} paired items"
    checked = "" if imported["checks"] is None else f"; {len(imported['checks']['files'])} released files checked"
    lines = [f"{what} from {len(imported['sources'])} files{checked}", f"head {head}"]
    show.say({"sources": imported["sources"], "checks": imported["checks"], "head": head}, lines, as_json)


def _require(registry: Registry, id_: str) -> None:
    from prereg_moe.importing import is_imported

    if not is_imported(registry.registration(id_)):
        raise Invalid(Problem(id_, "is a study that is run here", f"run `prereg-moe run {id_}`"))


def check(path: Path, as_json: bool) -> None:
    """Check a registration of evidence made elsewhere."""
    from prereg_moe.importing import check as check_

    checked = check_(path)
    document = {
        "id": checked.registration.id,
        "kind": checked.registration.evidence.kind,
        "claims": checked.claims,
        "pending": [str(problem) for problem in checked.pending],
        "advice": [str(problem) for problem in checked.advice],
    }
    lines = [
        f"[green]valid[/]: {escape(checked.registration.id)}, evidence made elsewhere ({document['kind']}), "
        f"{checked.claims} claims",
        *(f"[yellow]before freezing:[/] {escape(str(problem))}" for problem in checked.pending),
        *(f"[yellow]consider:[/] {escape(str(problem))}" for problem in checked.advice),
    ]
    show.say(document, lines, as_json)


def diagnose(registry: Registry, id_: str, studies: int | None, as_json: bool) -> None:
    """Simulate the rules of a published summary."""
    from prereg_moe.importing import diagnose as diagnose_
    from prereg_moe.registry import now

    with show.progress("diagnose", as_json) as progress:
        document, path, head = diagnose_(registry, id_, studies=studies, time=now(), progress=progress)
    if as_json:
        show.print_json({**document, "head": head})
        return
    title = f"percent of {document['settings']['studies']} studies in which a family passes"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for column in ("rule", "items", "at the boundary: each", "any", "random: each", "any", "true: each"):
        table.add_column(column)
    for rule, scenarios in document["rules"].items():
        for scenario, rates in scenarios.items():
            shown = [rates.get(truth, {}).get(who) for truth, who in _RATES]
            table.add_row(escape(rule), scenario, *("-" if r is None else f"{100 * r['estimate']:.1f}" for r in shown))
    show.say(None, [table, f"wrote {escape(str(path))}", f"head {head}"], as_json)


_RATES = (("boundary", "each"), ("boundary", "any"), ("random", "each"), ("random", "any"), ("planned", "each"))


def freeze(registry: Registry, id_: str, as_json: bool) -> None:
    """Freeze a registration of evidence made elsewhere."""
    from prereg_moe import ledger
    from prereg_moe.importing import freeze as freeze_
    from prereg_moe.registry import now

    frozen = freeze_(registry, id_, time=now())
    head = ledger.head(ledger.parse(registry.ledger()))
    todo = f"next: prereg-moe import {frozen.registration.evidence.kind} {id_} ..."
    show.say({"registration": frozen.digest, "head": head}, [f"frozen {frozen.digest}", todo, f"head {head}"], as_json)


def verdict(registry: Registry, id_: str, as_json: bool) -> None:
    """Judge evidence made elsewhere."""
    from prereg_moe.importing import verdict as verdict_
    from prereg_moe.registry import now

    with show.waiting("judging", as_json):
        document, head = verdict_(registry, id_, time=now())
    if as_json:
        show.print_json({**document, "head": head})
        return
    show.out.print(_readings(document) if document["kind"] == "summary" else _verdicts(document))
    show.out.print(f"[dim]{escape(document['cap'])}[/]\nhead {head}")


def _readings(document: Any) -> Table:
    from prereg_moe.report import effect

    table = Table(title="readings of printed numbers, never verdicts", title_justify="left", box=SIMPLE_HEAD)
    for column in ("claim", "reading", "margin from", "to", "missing"):
        table.add_column(column, overflow="fold")
    for entry in document["readings"]:
        margin = entry["margin"] or (None, None)
        missing = ", ".join(one["quantity"] for one in entry["missing"])
        reading = f"[{_STYLE[entry['reading']]}]{entry['reading']}[/]"
        table.add_row(f"{escape(entry['block'])}.{escape(entry['claim'])}", reading, *map(effect, margin), missing)
    return table


def _verdicts(document: Any) -> Table:
    from prereg_moe.report import effect, p_value

    table = Table(title=escape(document["study"]["title"]), title_justify="left", box=SIMPLE_HEAD)
    for column in ("claim", "verdict", "margin", "adj. p", "why"):
        table.add_column(column, overflow="fold")
    for entry in document["verdicts"]:
        table.add_row(
            escape(entry["claim"]),
            f"[{show.STYLE[entry['verdict']]}]{entry['verdict']}[/]",
            effect(entry["margin"]),
            p_value(entry["p_adjusted"]),
            ", ".join(entry["reasons"]),
        )
    return table
