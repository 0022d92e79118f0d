"""The verbs before the freeze: begin, look, record, simulate, freeze."""

from __future__ import annotations

from pathlib import Path

import click
from rich.markup import escape

from prereg_moe.cli import show
from prereg_moe.cli.common import (
    find_study,
    json_option,
    processors,
    refuse_imported,
    registry_of,
    root_of,
    root_option,
)
from prereg_moe.errors import Invalid, Problem

__all__ = ["atlas", "check", "diagnose", "freeze", "init", "inspect"]


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--id", "id_", default="my-study", show_default=True, help="The registration's id and folder name.")
@click.option(
    "--study",
    type=click.Choice(["modularity", "multiverse", "pruning", "rows", "lm-eval", "summary"]),
    default="modularity",
    show_default=True,
    help="What to start from. multiverse and pruning run as they are, on the embedded model; rows, lm-eval and"
    " summary take in evidence made elsewhere.",
)
@click.option(
    "--model",
    help="A model to start from: OLMoE-1B-7B, or a source: ./model is registrations/ID/model."
    " Default: OLMoE-1B-7B, or the embedded one.",
)
@json_option
def init(folder: Path, id_: str, study: str, model: str | None, as_json: bool) -> None:
    """Write a commented registration to start from, and the JSON Schema for editors.

    A model ./FOLDER is one beside the registration that is written: put it, or a link to it, there.

    \b
    Examples:
      prereg-moe init my-registry --id arabic-experts --model ./model
      prereg-moe init my-registry --id their-scores --study rows
    """
    from prereg_moe.begin import begin

    written = begin(folder.resolve(), id_, study, model)
    show.say({"files": [str(path) for path in written]}, [f"wrote {escape(str(path))}" for path in written], as_json)


@click.command()
@click.argument("registration", type=click.Path(path_type=Path))
@root_option
@json_option
def check(registration: Path, root: Path | None, as_json: bool) -> None:
    """Report every problem of a registration, and what is missing before it can be frozen.

    Reads local files only, tasks and metrics in the task files, experts in the atlas or the models' config.json.
    Nothing is written or downloaded.

    \b
    Example:
      prereg-moe check registrations/testbed
    """
    from prereg_moe.preparing import check as check_

    if (registration / "registrations").is_dir():
        here = sorted(path.parent.name for path in registration.glob("registrations/*/registration.yaml"))
        raise Invalid(Problem(str(registration), "is a registry", f"check one of {', '.join(here) or 'none'}"))
    if not registration.exists():
        registration = registry_of(root).registration(str(registration))
    folder = registration if registration.is_dir() else registration.parent
    found = check_(registration, root.resolve() if root else root_of(folder))
    remarks = _remarks(root, folder, found.id)
    document = {
        "id": found.id,
        **found.counts,
        "pending": [str(problem) for problem in found.pending],
        "advice": [str(problem) for problem in found.advice],
        "standing": remarks,
    }
    lines = [
        f"[green]valid[/]: {escape(found.id)}, {escape(found.says)}",
        *(f"[yellow]before freezing:[/] {escape(str(problem))}" for problem in found.pending),
        *(f"[yellow]consider:[/] {escape(str(problem))}" for problem in found.advice),
        *(f"[yellow]note:[/] {escape(remark)}" for remark in remarks),
    ]
    show.say(document, lines, as_json)


def _remarks(root: Path | None, folder: Path, id_: str) -> list[str]:
    """Return what the ledger has to say of a registration that is checked, nothing where it lies in no registry."""
    from prereg_moe import ledger
    from prereg_moe.standing import standing

    try:
        registry = registry_of(root or folder)
    except Invalid:
        return []
    if folder.resolve() != registry.registration(id_).resolve():
        return []
    return standing(registry, id_, ledger.parse(registry.ledger())).remarks(id_)


@click.command()
@click.argument("model")
@json_option
def inspect(model: str, as_json: bool) -> int:
    """Show how a model routes and which interventions it allows, or why none.

    MODEL is a folder, or ORG/NAME in the hub's local cache. Nothing is downloaded and no weight is read, so config.json
    is enough and a model may be larger than this machine. Weights that lie beside it are checked to be whole.

    The exit code is 2 for a model that cannot be used, and for one of which no layer can be masked.

    \b
    Example:
      prereg-moe inspect ./model
      prereg-moe inspect allenai/OLMoE-1B-7B-0924
    """
    from prereg_moe import lab

    with show.waiting("building it without its weights", as_json):
        found = lab.inspect(model)
    if as_json:
        show.print_json(found)
    else:
        show.show_model(found)
    return 0 if found["maskable_layers"] else Invalid.exit_code


def _ids(_context: click.Context, _option: click.Parameter, text: str | None) -> tuple[int, ...] | None:
    """Return the expert ids of a comma-separated list, None where none was given."""
    words = [word.strip() for word in text.split(",")] if text and text.strip() else []
    if wrong := [word for word in words if not (word.isascii() and word.isdigit() and len(word) < 10)]:
        raise click.BadParameter(f"{wrong[0]!r} is not an expert id; write for example 66,102")
    return None if text is None else tuple(map(int, words))


_file = click.Path(path_type=Path, dir_okay=False)


@click.command()
@click.argument("id_", metavar="[ID]", required=False)
@click.option("--mass", type=_file, help="Describe routing mass that others released (JSON) instead of recording.")
@click.option("--families", type=_file, help="With --mass: a released map of families to derive and compare.")
@click.option("--summary", type=_file, help="With --mass: a released summary (coverage, overlap) to compare.")
@click.option("--exclude", callback=_ids, help="With --mass: ids no family may hold. Default: the shared-core rule.")
@click.option(
    "--size",
    type=click.IntRange(1),
    help="With --mass: ids a family. Default: as released, else 16, or half the experts where that is less.",
)
@root_option
@json_option
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

    registry, id_ = find_study(root, name)
    refuse_imported(registry, id_)
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


@click.command()
@click.argument("id_", metavar="ID")
@click.option("--studies", type=click.IntRange(20), help="Simulated studies. Default: as registered, or 200.")
@click.option("--pilot", metavar="ID", help="A finished registration here whose evidence gives the spread of items.")
@click.option(
    "--workers",
    type=click.IntRange(1),
    help="Worker processes; they cannot change the figures. Default: one a processor.",
)
@root_option
@json_option
def diagnose(
    id_: str, studies: int | None, pilot: str | None, workers: int | None, root: Path | None, as_json: bool
) -> None:
    """Simulate the registered rule where the truth is known: its error rates, power, coverage; and seal them.

    \b
    Example:
      prereg-moe diagnose testbed --studies 100
    """
    from prereg_moe.preparing import diagnose as diagnose_
    from prereg_moe.registry import now

    registry, id_ = find_study(root, id_)
    pilot = None if pilot is None else find_study(root or registry.root, pilot)[1]
    with show.progress("diagnose", as_json) as progress:
        diagnosis, path, unmet, head = diagnose_(
            registry,
            id_,
            studies=studies,
            pilot=pilot,
            workers=workers or processors(),
            time=now(),
            progress=progress,
        )
    if as_json:
        show.print_json({**diagnosis, "unmet": list(unmet), "head": head})
        return
    show.show_diagnosis(diagnosis)
    lines = [*(f"[yellow]not shown:[/] {escape(line)}" for line in unmet), f"wrote {escape(str(path))}", f"head {head}"]
    show.say(None, lines, as_json)


@click.command()
@click.argument("id_", metavar="ID")
@root_option
@json_option
def freeze(id_: str, root: Path | None, as_json: bool) -> None:
    """Freeze a registration: canonical bytes, every digest pinned, families and null draws written out.

    \b
    Example:
      prereg-moe freeze testbed
    """
    from prereg_moe.preparing import freeze as freeze_
    from prereg_moe.registry import now

    registry, id_ = find_study(root, id_)
    with show.waiting("reading every byte", as_json):
        sealed = freeze_(registry, id_, time=now())
    lines = [
        f"frozen {sealed.digest}",
        escape(sealed.says),
        *(f"[yellow]warning:[/] {escape(line)}" for line in (*sealed.unmet, *sealed.shared)),
        f"next: {escape(sealed.todo)}",
        f"head {sealed.head}",
    ]
    document = {
        "registration": sealed.digest,
        "conditions": sealed.conditions,
        "head": sealed.head,
        "unmet": list(sealed.unmet),
        "shared": list(sealed.shared),
    }
    show.say(document, lines, as_json)
