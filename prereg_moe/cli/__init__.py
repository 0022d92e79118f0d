"""The command line: one verb a stage, each a thin call into the library.

What is printed is in `show`. A stage is imported when its verb is used, so that ``--help``, ``check``,
``freeze`` and ``status`` start without scipy, and nothing but the lab's workers loads torch.
An expected error is one line a problem (what, where, what to do) and the exit code of its
fault; with ``--json`` the last line of output is one JSON document.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.markup import escape
from rich.table import Table

from prereg_moe import __version__
from prereg_moe.cli import show
from prereg_moe.errors import Invalid, NotCheckable, PreregError, Problem, Stopped

if TYPE_CHECKING:
    from prereg_moe.registry import Registry

__all__ = ["cli", "main"]

_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
_root = click.option(
    "--root",
    type=click.Path(path_type=Path, file_okay=False),
    help="The registry: the folder that holds registrations/. Default: the nearest one upwards.",
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        code = cli.main(args=arguments, prog_name="prereg-moe", standalone_mode=False)
    except PreregError as error:
        _fail(error, as_json="--json" in arguments)
        sys.exit(error.exit_code)
    except click.UsageError as error:
        error.show()
        sys.exit(Invalid.exit_code)
    except (click.Abort, KeyboardInterrupt):
        show.err.print("interrupted; what is written stays, run the command again to go on")
        sys.exit(Stopped.exit_code)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(Stopped.exit_code)
    except ModuleNotFoundError as error:
        lab = Problem("lab", f"the package {error.name} is not installed", "install it: pip install 'prereg-moe[lab]'")
        _fail(Invalid(lab), as_json="--json" in arguments)
        sys.exit(Invalid.exit_code)
    except Exception as error:  # the one place where a bug becomes a message
        if os.environ.get("PREREG_MOE_DEBUG"):
            raise
        show.err.print(f"[red]a bug in prereg-moe:[/] {escape(repr(error))}; set PREREG_MOE_DEBUG=1 to see where")
        sys.exit(Stopped.exit_code)
    sys.exit(code if isinstance(code, int) else 0)


def _fail(error: PreregError, *, as_json: bool) -> None:
    for problem in error.problems:
        show.err.print(f"[red]error:[/] {escape(str(problem))}")
    if as_json:
        problems = [{"where": p.where, "found": p.found, "todo": p.todo} for p in error.problems]
        show.print_json({"exit_code": error.exit_code, "problems": problems})


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="prereg-moe")
def cli() -> None:
    """Checkable causal claims about mixture-of-experts language models.

    Write a registration, freeze it, run it, judge it, report it; let anyone audit it.

    Exit codes: 0 done - 2 wrong usage or invalid document - 3 tampered - 4 evidence missing - 5 deviated from the
    registration - 6 the run stopped.
    """


@cli.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False), default=Path("prereg-moe-demo"))
@click.option("--workers", type=click.IntRange(1), help="Worker processes. Default: one a processor.")
@_json
def demo(folder: Path, workers: int | None, as_json: bool) -> None:
    """Run the whole job on the embedded models, from a registration to an audited report.

    \b
    Example:
      prereg-moe demo
    """
    from prereg_moe.demo import demo as demo_

    folder = folder.resolve()
    with show.steps(as_json) as steps:
        shown = demo_(folder, workers=workers or _processors(), steps=steps)
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


@cli.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--id", "id_", default="my-study", show_default=True, help="The registration's id and folder name.")
@click.option(
    "--study",
    type=click.Choice(["modularity"]),
    default="modularity",
    show_default=True,
    help="What kind of claim to start from.",
)
@click.option(
    "--model",
    default="OLMoE-1B-7B",
    show_default=True,
    help="A model to start from: OLMoE-1B-7B, or a source such as ./model.",
)
@_json
def init(folder: Path, id_: str, study: str, model: str, as_json: bool) -> None:
    """Write a commented registration to start from, and the JSON Schema for editors.

    \b
    Example:
      prereg-moe init my-registry --id arabic-experts --model ./model
    """
    from prereg_moe.begin import begin

    written = begin(folder.resolve(), id_, study, model)
    show.say({"files": [str(path) for path in written]}, [f"wrote {escape(str(path))}" for path in written], as_json)


@cli.command()
@click.argument("registration", type=click.Path(path_type=Path))
@_root
@_json
def check(registration: Path, root: Path | None, as_json: bool) -> None:
    """Report every problem of a registration, and what freezing it would pin.

    Reads local files only; nothing is written or downloaded.

    \b
    Example:
      prereg-moe check registrations/testbed
    """
    from prereg_moe.freezing import check as check_

    if (registration / "registrations").is_dir():
        here = sorted(path.parent.name for path in registration.glob("registrations/*/registration.yaml"))
        raise Invalid(Problem(str(registration), "is a registry", f"check one of {', '.join(here) or 'none'}"))
    if not registration.exists():
        registration = _registry(root).registration(str(registration))
    folder = registration if registration.is_dir() else registration.parent
    checked = check_(registration, root.resolve() if root else _root_of(folder))
    document = {
        "id": checked.registration.id,
        "claims": checked.claims,
        "conditions": checked.conditions,
        "item_scores": checked.scores,
        "pending": [str(problem) for problem in checked.pending],
        "advice": [str(problem) for problem in checked.advice],
    }
    lines = [
        f"[green]valid[/]: {escape(checked.registration.id)}, {checked.claims} claims, at most {checked.conditions} "
        f"conditions and {checked.scores} item scores",
        *(f"[yellow]before freezing:[/] {escape(str(problem))}" for problem in checked.pending),
        *(f"[yellow]consider:[/] {escape(str(problem))}" for problem in checked.advice),
    ]
    show.say(document, lines, as_json)


@cli.command()
@click.argument("model")
@_json
def inspect(model: str, as_json: bool) -> None:
    """Show the MoE layers, routers and experts found in a local model folder, or why it cannot be used.

    \b
    Example:
      prereg-moe inspect ./model
    """
    from prereg_moe import lab

    found = lab.inspect(Path(model))
    table = Table(box=None)
    for name in ("layer", "router", "experts", "k", "selection"):
        table.add_column(name)
    for layer in found["layers"]:
        table.add_row(
            *(escape(str(layer.get(name, "-"))) for name in ("layer", "router", "n_experts", "top_k", "selection"))
        )
    show.say(found, [f"{escape(found['model'])}: {len(found['layers'])} MoE layers", table], as_json)


def _ids(_context: click.Context, _option: click.Parameter, text: str | None) -> tuple[int, ...] | None:
    """Return the expert ids of a comma-separated list, None where none was given."""
    words = [word.strip() for word in text.split(",")] if text and text.strip() else []
    if wrong := [word for word in words if not (word.isascii() and word.isdigit() and len(word) < 10)]:
        raise click.BadParameter(f"{wrong[0]!r} is not an expert id; write for example 66,102")
    return None if text is None else tuple(map(int, words))


_file = click.Path(path_type=Path, dir_okay=False)


@cli.command()
@click.argument("id_", metavar="[ID]", required=False)
@click.option("--mass", type=_file, help="Describe routing mass that others released (JSON) instead of recording.")
@click.option("--families", type=_file, help="With --mass: a released map of families to derive and compare.")
@click.option("--summary", type=_file, help="With --mass: a released summary (coverage, overlap) to compare.")
@click.option("--exclude", callback=_ids, help="With --mass: ids no family may hold. Default: the shared-core rule.")
@click.option("--size", type=click.IntRange(1), help="With --mass: ids a family. Default: as released, else 16.")
@_root
@_json
def atlas(
    id_: str | None,
    mass: Path | None,
    families: Path | None,
    summary: Path | None,
    exclude: tuple[int, ...] | None,
    size: int | None,
    root: Path | None,
    as_json: bool,
) -> None:
    """Record the routing of the registered models on the atlas corpus, and seal it.

    With --mass, describe routing mass released by others: coverage, lift, correlation, overlap, families, and which
    released tables and families follow from it. Both say whether expert ids mean anything across layers.

    \b
    Example:
      prereg-moe atlas testbed
      prereg-moe atlas --mass atlas_mass.json --families prereg_map.json --summary atlas_summary.json
    """
    of_mass = {"--families": families, "--summary": summary, "--exclude": exclude, "--size": size}
    if (id_ is None) == (mass is None):
        raise click.UsageError("name either a registration's ID or a file by --mass")
    if mass is None and (given := [name for name, value in of_mass.items() if value is not None]):
        raise click.UsageError(f"{given[0]} describes released mass; give --mass too")
    if mass is not None:
        _describe_mass(mass, families, summary, exclude, size, as_json)
    elif id_ is not None:
        _record_atlas(root, id_, as_json)


def _describe_mass(
    mass: Path,
    families: Path | None,
    summary: Path | None,
    exclude: tuple[int, ...] | None,
    size: int | None,
    as_json: bool,
) -> None:
    from prereg_moe.atlas.describe import describe_released
    from prereg_moe.atlas.released import read_families, read_mass, read_summary
    from prereg_moe.atlas.view import view_released

    released = read_mass(mass)
    document = describe_released(
        released,
        families=read_families(families, released.atlas) if families else None,
        summary=read_summary(summary, released.atlas) if summary else None,
        exclude=exclude,
        size=size,
    )
    show.say(document, [*show.tables(view_released(document))], as_json)


def _record_atlas(root: Path | None, name: str, as_json: bool) -> None:
    from prereg_moe import canonical, lab
    from prereg_moe.atlas import RoutingAtlas
    from prereg_moe.atlas.describe import describe_registered
    from prereg_moe.atlas.view import view_registered
    from prereg_moe.registration import load
    from prereg_moe.registry import now

    registry, id_ = _study(root, name)
    with show.progress("atlas", as_json) as progress:
        head = lab.atlas(registry, id_, time=now(), progress=progress)
    path = registry.registration(id_) / "atlas.json"
    registration = load(registry.registration(id_) / "registration.yaml")
    models = {
        model: describe_registered(registration, RoutingAtlas.from_json(table))
        for model, table in canonical.read(path)["models"].items()
    }
    lines = [*show.tables(view_registered(models)), f"wrote {escape(str(path))}", f"head {head}"]
    show.say({"atlas_file": str(path), "head": head, "models": models}, lines, as_json)


@cli.command()
@click.argument("id_", metavar="ID")
@click.option("--studies", type=click.IntRange(20), help="Simulated studies. Default: as registered, or 200.")
@click.option("--pilot", metavar="ID", help="A finished registration here whose evidence gives the spread of items.")
@click.option(
    "--workers",
    type=click.IntRange(1),
    help="Worker processes; they cannot change the figures. Default: one a processor.",
)
@_root
@_json
def diagnose(
    id_: str, studies: int | None, pilot: str | None, workers: int | None, root: Path | None, as_json: bool
) -> None:
    """Simulate the registered rule where the truth is known: its error rates, power, coverage; and seal them.

    \b
    Example:
      prereg-moe diagnose testbed --studies 100
    """
    from prereg_moe.diagnosing.stage import diagnose_registered
    from prereg_moe.freezing import unmet_demands
    from prereg_moe.registration import load
    from prereg_moe.registry import now

    registry, id_ = _study(root, id_)
    pilot = None if pilot is None else _study(root or registry.root, pilot)[1]
    with show.progress("diagnose", as_json) as progress:
        diagnosis, path, head = diagnose_registered(
            registry,
            id_,
            studies=studies,
            pilot=pilot,
            workers=workers or _processors(),
            time=now(),
            progress=progress,
        )
    registration = load(registry.registration(id_) / "registration.yaml")
    unmet = [str(problem) for problem in unmet_demands(registry, registration)]
    if as_json:
        show.print_json({**diagnosis.document, "unmet": unmet, "head": head})
        return
    show.show_diagnosis(diagnosis.document)
    lines = [*(f"[yellow]not shown:[/] {escape(line)}" for line in unmet), f"wrote {escape(str(path))}", f"head {head}"]
    show.say(None, lines, as_json)


@cli.command()
@click.argument("id_", metavar="ID")
@_root
@_json
def freeze(id_: str, root: Path | None, as_json: bool) -> None:
    """Freeze a registration: canonical bytes, every digest pinned, families and null draws written out.

    \b
    Example:
      prereg-moe freeze testbed
    """
    from prereg_moe import ledger
    from prereg_moe.freezing import freeze as freeze_
    from prereg_moe.freezing import unmet_demands
    from prereg_moe.registry import now

    registry, id_ = _study(root, id_)
    frozen = freeze_(registry, id_, time=now())
    unmet = [str(problem) for problem in unmet_demands(registry, frozen.registration)]
    head = ledger.head(ledger.parse(registry.ledger()))
    inference = frozen.registration.inference
    lines = [
        f"frozen {frozen.digest}",
        f"{len(frozen.plan)} conditions; alpha {inference.alpha}, {inference.resamples} resamples, "
        f"{100 * inference.interval.level:.6g}% {inference.interval.kind} intervals, seed {inference.seed}",
        *(f"[yellow]warning:[/] {escape(line)}" for line in unmet),
        f"head {head}",
    ]
    document = {"registration": frozen.digest, "conditions": len(frozen.plan), "head": head, "unmet": unmet}
    show.say(document, lines, as_json)


@cli.command()
@click.argument("id_", metavar="ID")
@click.option("--dry-run", is_flag=True, help="Only say what would be run.")
@click.option(
    "--workers",
    type=click.IntRange(1),
    help="Worker processes; they cannot change the evidence. Default: one a processor.",
)
@_root
@_json
def run(id_: str, dry_run: bool, workers: int | None, root: Path | None, as_json: bool) -> None:
    """Compute the missing conditions of a frozen registration. Killed, it goes on where it was.

    \b
    Example:
      prereg-moe run testbed --workers 2
    """
    from prereg_moe import lab
    from prereg_moe.registry import now

    registry, id_ = _study(root, id_)
    if dry_run:
        conditions, scores = lab.outlook(registry, id_)
        show.say(
            {"missing": conditions, "item_scores": scores},
            [f"{conditions} conditions missing, {scores} item scores"],
            as_json,
        )
        return
    with show.progress("run", as_json) as progress:
        done, head = lab.run(registry, id_, workers=workers or _processors(), time=now(), progress=progress)
    what = f"{done} conditions computed" if done else "nothing to do: the evidence is complete"
    show.say({"computed": done, "head": head}, [what, f"head {head}"], as_json)


@cli.command()
@click.argument("id_", metavar="[ID]", required=False)
@_root
@_json
def status(id_: str | None, root: Path | None, as_json: bool) -> None:
    """Say where each registration stands, and the ledger's head.

    \b
    Example:
      prereg-moe status
    """
    from prereg_moe import ledger

    registry = _registry(root)
    seals = ledger.parse(registry.ledger())
    folders = sorted(path.parent.name for path in (registry.root / "registrations").glob("*/registration.yaml"))
    names = [_study(root, id_)[1]] if id_ else folders
    stages = {name: show.STANDS.get(ledger.stage(seals, name) or "", "written") for name in names}
    lines = [f"{escape(name)}: {stage}" for name, stage in stages.items()] or ["no registration here"]
    show.say(
        {"registrations": stages, "head": ledger.head(seals)},
        [*lines, f"head {ledger.head(seals) or 'none: nothing is sealed yet'}"],
        as_json,
    )


@cli.command()
@click.argument("id_", metavar="ID")
@_root
@_json
def verdict(id_: str, root: Path | None, as_json: bool) -> None:
    """Judge complete evidence by the registered rules, and seal the verdicts.

    \b
    Example:
      prereg-moe verdict testbed
    """
    from prereg_moe.registry import now
    from prereg_moe.stages import verdict as judge

    registry, id_ = _study(root, id_)
    with show.waiting("judging", as_json):
        verdicts, head = judge(registry, id_, time=now())
    if as_json:
        show.print_json({**verdicts.document, "head": head})
        return
    show.show_verdicts(verdicts.document)
    show.out.print(f"head {head}")


@cli.command()
@click.argument("id_", metavar="ID")
@click.option("--format", "formats", default="md,tex", show_default=True, help="Comma-separated: md, tex.")
@_root
@_json
def report(id_: str, formats: str, root: Path | None, as_json: bool) -> None:
    """Render sealed verdicts by the frozen templates.

    \b
    Example:
      prereg-moe report testbed --format md,tex
    """
    from prereg_moe.registry import now
    from prereg_moe.stages import render

    registry, id_ = _study(root, id_)
    written, head = render(registry, id_, [name.strip() for name in formats.split(",")], time=now())
    lines = [*(f"wrote {escape(str(path))}" for path in written), f"head {head}"]
    show.say({"files": [str(path) for path in written], "head": head}, lines, as_json)


@cli.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--head", "expected", help="The ledger's head you were given: sha256:...")
@_root
@_json
def audit(path: Path, expected: str | None, root: Path | None, as_json: bool) -> None:
    """Recompute everything from the bytes, in numbered steps; needs no model and no torch.

    PATH is a registry, a registration's folder, or its id.

    \b
    Example:
      prereg-moe audit prereg-moe-demo --head sha256:...
    """
    from prereg_moe.auditing import audit as audit_

    registry, ids = _audited(path, root)
    with show.waiting("recomputing", as_json):
        results = [audit_(registry, id_, expected_head=expected) for id_ in ids]
    code = next((code for code in (3, 4, 5, 2) if any(result.exit_code == code for result in results)), 0)
    if as_json:
        show.print_json({"exit_code": code, "registrations": [show.audit_json(result) for result in results]})
    else:
        for result in results:
            show.show_audit(result)
    sys.exit(code)


# ------------------------------------------------------------------ finding things


def _registry(root: Path | None) -> Registry:
    from prereg_moe.registry import Registry

    return Registry.find(root or Path.cwd())


def _root_of(folder: Path) -> Path:
    try:
        return _registry(folder).root
    except Invalid:
        return folder.resolve()  # a document outside any registry can still be read


def _study(root: Path | None, name: str) -> tuple[Registry, str]:
    """Return the registry and the id a user means by an id or by a registration's folder."""
    folder = Path(name)
    if (folder / "registration.yaml").is_file():
        return _registry(root or folder), folder.resolve().name
    registry = _registry(root)
    if Path(name).name != name or not (registry.registration(name) / "registration.yaml").is_file():
        raise Invalid(Problem(name, "is not a registration here", f"look in {registry.root / 'registrations'}"))
    return registry, name


def _audited(path: Path, root: Path | None) -> tuple[Registry, list[str]]:
    from prereg_moe import ledger
    from prereg_moe.registry import Registry

    if (path / "registrations").is_dir():
        registry = Registry(path.resolve())
        seals, _ = ledger.examine(registry.ledger())
        folders = sorted(entry.parent.name for entry in (path / "registrations").glob("*/frozen.json"))
        ids = list(dict.fromkeys([*(seal.registration for seal in seals), *folders]))
        if not ids:
            raise NotCheckable(Problem(str(path), "holds nothing that was sealed", "there is nothing to audit yet"))
        return registry, ids
    if path.is_dir() and path.resolve().parent.name in ("registrations", "reports"):
        return Registry(path.resolve().parent.parent), [path.resolve().name]
    registry, id_ = _study(root, str(path))
    return registry, [id_]


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
