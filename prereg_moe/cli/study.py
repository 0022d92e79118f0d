"""The verbs behind the freeze: run, judge, report, and the whole job on the embedded models."""

from __future__ import annotations

import os
import re
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click
from rich.markup import escape

from prereg_moe.cli import show
from prereg_moe.cli.common import find_study, json_option, processors, refuse_imported, registry_of, root_option
from prereg_moe.errors import PreregError

if TYPE_CHECKING:
    from prereg_moe.registry import Registry

__all__ = ["demo", "report", "rescore", "run", "status", "verdict"]


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False), default=Path("prereg-moe-demo"))
@click.option("--workers", type=click.IntRange(1), help="Worker processes. Default: one a processor.")
@json_option
def demo(folder: Path, workers: int | None, as_json: bool) -> None:
    """Run the whole job on the embedded models, from a registration to an audited report.

    \b
    Example:
      prereg-moe demo
    """
    from prereg_moe.demo import demo as demo_

    folder = folder.resolve()
    with show.steps(as_json) as steps:
        shown = demo_(folder, workers=workers or processors(), steps=steps)
    if as_json:
        show.print_json(shown.summary)
    else:
        show.show_verdicts(shown.verdicts)
        for name, value in shown.summary.items():
            show.out.print(f"{name:13} {escape(str(value))}")
        show.out.print(
            f"\nAudit it again: prereg-moe audit {escape(os.path.relpath(folder))} --head {shown.summary['head']}"
        )
    sys.exit(shown.summary["audit"])


def _shard(_context: click.Context, _option: click.Parameter, text: str | None) -> tuple[int, int] | None:
    """Return (i, n) of "i/n", None where none was given."""
    if text is None:
        return None
    found = re.fullmatch(r"([1-9][0-9]{0,5})/([1-9][0-9]{0,5})", text)
    if found is None or int(found[1]) > int(found[2]):
        raise click.BadParameter(f"{text!r} is not a shard; write for example 3/8, the third of eight")
    return int(found[1]), int(found[2])


@click.command()
@click.argument("id_", metavar="ID")
@click.option(
    "--dry-run", is_flag=True, help="Only say what would be run, and all that would stop it; nothing is sealed."
)
@click.option(
    "--workers",
    type=click.IntRange(1),
    help="Worker processes; they cannot change the evidence. Default: one a processor.",
)
@click.option("--shard", metavar="I/N", callback=_shard, help="Compute the I-th of N parts only, for a job array.")
@click.option(
    "--executor",
    type=click.Choice(["local", "ray"]),
    default="local",
    show_default=True,
    help="Processes of this machine, or actors of a Ray cluster (RAY_ADDRESS); they cannot change the evidence.",
)
@root_option
@json_option
def run(
    id_: str,
    dry_run: bool,
    workers: int | None,
    shard: tuple[int, int] | None,
    executor: Literal["local", "ray"],
    root: Path | None,
    as_json: bool,
) -> None:
    """Compute the missing conditions of a frozen registration. Killed, it goes on where it was.

    A shard computes its part and seals no evidence: when all shards are done (and, where they ran on other machines,
    their evidence files are copied together), `run` without --shard does what is still missing and seals it.

    \b
    Example:
      prereg-moe run testbed --workers 2
      prereg-moe run testbed --shard 3/8
    """
    from prereg_moe import lab, ledger
    from prereg_moe.registry import now

    registry, id_ = find_study(root, id_)
    refuse_imported(registry, id_)
    if dry_run:
        with show.progress("planning", as_json) as progress:
            found = lab.outlook(registry, id_, progress=progress)
        minutes = found["seconds"] / 60 / (workers or processors())
        lines = [f"{found['missing']} conditions missing, {found['item_scores']} item scores"]
        if found["tokens"]:
            lines.append(
                f"{found['tokens']:,} tokens; one condition after another would take {minutes:.1f} minutes here"
            )
        show.say(found, lines, as_json)
        return
    before = registry.ledger()
    try:
        with show.progress("run", as_json) as progress:
            ran = lab.run(
                registry,
                id_,
                workers=workers or processors(),
                time=now(),
                progress=progress,
                shard=shard,
                executor=executor,
            )
    except PreregError:
        if (data := registry.ledger()) != before:
            show.err.print(f"head {ledger.head(ledger.parse(data))}: the start is sealed, the run is not finished")
        raise
    if shard is not None:
        shared = f"shard {shard[0]} of {shard[1]}"
        what = f"{shared}: {ran.computed} conditions computed; `prereg-moe run {id_}` seals the whole"
    else:
        what = f"{ran.computed} conditions computed" if ran.computed else "nothing to do: the evidence is complete"
        if ledger.stage(ledger.parse(registry.ledger()), id_) == "start":
            what += f"; the registered look can be taken: `prereg-moe look {id_}`, or run on"
    document = {"computed": ran.computed, "head": ran.head, "agreement": ran.agreement and asdict(ran.agreement)}
    show.say(document, [what, *show.agreement(ran.agreement), f"head {ran.head}"], as_json)


@click.command()
@click.argument("id_", metavar="ID")
@root_option
@json_option
def rescore(id_: str, root: Path | None, as_json: bool) -> None:
    """Let lm-evaluation-harness score the stored responses again, and compare. Needs the tasks, not the models.

    \b
    Example:
      prereg-moe rescore testbed
    """
    from prereg_moe import lab

    registry, id_ = find_study(root, id_)
    refuse_imported(registry, id_)
    with show.progress("rescore", as_json) as progress:
        count = lab.rescore(registry, id_, progress=progress)
    show.say(
        {"conditions": count},
        [f"{count} conditions: every metric is what lm-eval makes of the stored responses"],
        as_json,
    )


@click.command()
@click.argument("id_", metavar="[ID]", required=False)
@root_option
@json_option
def status(id_: str | None, root: Path | None, as_json: bool) -> None:
    """Say where each registration stands, and the ledger's head.

    \b
    Example:
      prereg-moe status
    """
    from prereg_moe import ledger
    from prereg_moe.standing import STANDS, standing

    registry = registry_of(root)
    data = registry.ledger()
    seals = ledger.parse(data)
    folders = sorted(path.parent.name for path in (registry.root / "registrations").glob("*/registration.yaml"))
    names = [find_study(root, id_)[1]] if id_ else folders
    found = {name: standing(registry, name, seals) for name in names}
    stages = {name: STANDS.get(one.stage or "", "written") for name, one in found.items()}
    lines = [
        line
        for name, one in found.items()
        for line in (
            f"{escape(name)}: {stages[name]}",
            *(f"  [yellow]{escape(remark)}[/]" for remark in one.remarks(name)),
        )
    ]
    if torn := ledger.torn(data):
        lines.append(f"[yellow]the ledger's last line is torn ({len(torn)} bytes); the next seal drops it[/]")
    show.say(
        {
            "registrations": stages,
            "standing": {name: one.to_json() for name, one in found.items()},
            "head": ledger.head(seals),
        },
        [*(lines or ["no registration here"]), f"head {ledger.head(seals) or 'none: nothing is sealed yet'}"],
        as_json,
    )


@click.command()
@click.argument("id_", metavar="ID")
@root_option
@json_option
def verdict(id_: str, root: Path | None, as_json: bool) -> None:
    """Judge complete evidence by the registered rules, and seal the verdicts.

    \b
    Example:
      prereg-moe verdict testbed
    """
    from prereg_moe.registry import now
    from prereg_moe.stages import verdict as judge

    registry, id_ = find_study(root, id_)
    with show.waiting("judging", as_json):
        verdicts, head = judge(registry, id_, time=now())
    show.say_verdicts(verdicts.document, head, as_json)


@click.command()
@click.argument("id_", metavar="[ID]", required=False)
@click.option(
    "--format",
    "formats",
    help="Comma-separated: md, html, tex, bib, csv; figures as svg, pdf, png."
    " Default: every one whose template was frozen, and svg.",
)
@click.option("--index", is_flag=True, help="Write reports/index.html and .md over all registrations instead.")
@root_option
@json_option
def report(id_: str | None, formats: str | None, index: bool, root: Path | None, as_json: bool) -> None:
    """Render sealed verdicts by the frozen templates, and draw their figures.

    \b
    Example:
      prereg-moe report testbed --format html,tex,bib,pdf
      prereg-moe report --index
    """
    if index == (id_ is not None) or (index and formats):
        raise click.UsageError("give an ID, or --index alone")
    if id_ is None:
        _index(registry_of(root), as_json)
    else:
        _report(*find_study(root, id_), formats, as_json)


def _index(registry: Registry, as_json: bool) -> None:
    from prereg_moe.indexing import write

    written = [str(path) for path in write(registry)]
    show.say({"files": written}, [f"wrote {escape(path)}" for path in written], as_json)


def _report(registry: Registry, id_: str, formats: str | None, as_json: bool) -> None:
    from prereg_moe.registry import now
    from prereg_moe.stages import render

    names = [name.strip() for name in formats.split(",")] if formats else None
    with show.waiting("rendering", as_json):
        written, head = render(registry, id_, names, time=now())
    lines = [*(f"wrote {escape(str(path))}" for path in written), f"head {head}"]
    show.say({"files": [str(path) for path in written], "head": head}, lines, as_json)
