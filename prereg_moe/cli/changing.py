"""The verbs that leave the straight line, and say so: amendments before a run, looks during it, deviations behind."""

from __future__ import annotations

from pathlib import Path

import click
from rich.markup import escape

from prereg_moe.cli import show
from prereg_moe.cli.common import find_study, json_option, refuse_imported, root_option

__all__ = ["amend", "deviate", "look"]

_TYPES = "data, exclusions, measure, model, intervention, environment, analysis, claims, stopping, procedure"


@click.command()
@click.argument("id_", metavar="ID")
@click.argument("registration", type=click.Path(path_type=Path))
@click.option("--reason", required=True, help="Why, in words; every report shows it.")
@root_option
@json_option
def amend(id_: str, registration: Path, reason: str, root: Path | None, as_json: bool) -> None:
    """Supersede a frozen registration that no run has begun on, and freeze the new one.

    REGISTRATION is the new registration.yaml. The old one is kept in superseded/, with everything it was frozen with.

    \b
    Example:
      prereg-moe amend my-study amended.yaml --reason "the corpus has 80 items, not 120"
    """
    from prereg_moe.amending import amend as amend_
    from prereg_moe.registry import now

    registry, id_ = find_study(root, id_)
    refuse_imported(registry, id_)
    with show.waiting("reading every byte", as_json):
        amended = amend_(registry, id_, registration, reason=reason, time=now())
    kept = registry.registration(id_) / "superseded" / str(amended.number)
    lines = [
        f"amended; what was frozen before is in {escape(str(kept))}",
        *(f"[yellow]before it can be frozen:[/] {escape(str(problem))}" for problem in amended.pending),
        f"frozen {amended.frozen.digest}" if amended.frozen else f"then: prereg-moe freeze {escape(id_)}",
        f"head {amended.head}",
    ]
    document = {
        "amendment": amended.number,
        "superseded": str(kept),
        "registration": amended.frozen.digest if amended.frozen else None,
        "pending": [str(problem) for problem in amended.pending],
        "head": amended.head,
    }
    show.say(document, lines, as_json)


@click.command()
@click.argument("id_", metavar="ID")
@click.option("--type", "type_", required=True, help=f"What departs: {_TYPES}.")
@click.option("--reason", required=True, help="Why, in words; every report shows it.")
@click.option("--timing", required=True, help="before_data or after_data: when it was decided.")
@click.option("--impact", required=True, help="What it may change, in words; every report shows it.")
@click.option("--plan", type=click.Path(path_type=Path), help="An amended registration.yaml.")
@root_option
@json_option
def deviate(
    id_: str, type_: str, reason: str, timing: str, impact: str, plan: Path | None, root: Path | None, as_json: bool
) -> None:
    """Record a departure from a registration whose run began.

    With --plan (another registration.yaml that differs in rules, inference, claims, replication or the bounds of
    controls) the next verdict shows what it would have found beside the registered verdicts, as POST-HOC.

    \b
    Example:
      prereg-moe deviate my-study --type analysis --timing after_data --reason "a slip" --impact "more may pass"
    """
    from prereg_moe.amending import deviate as deviate_
    from prereg_moe.registry import now

    registry, id_ = find_study(root, id_)
    refuse_imported(registry, id_)
    said = {"type_": type_, "reason": reason, "timing": timing, "impact": impact}
    number, head = deviate_(registry, id_, **said, plan=plan, time=now())
    lines = [f"deviation {number} is recorded; the next verdict and every report behind it show it", f"head {head}"]
    show.say({"deviation": number, "head": head}, lines, as_json)


@click.command()
@click.argument("id_", metavar="ID")
@root_option
@json_option
def look(id_: str, root: Path | None, as_json: bool) -> None:
    """Take the interim look whose evidence is complete, at the part of alpha it was registered to spend.

    What is confirmed or refuted then stays so. Behind it, go on with `run`, or stop and judge with `verdict`. A study
    that registers no look shows no estimate before its evidence is complete.

    \b
    Example:
      prereg-moe look my-study
    """
    from prereg_moe.registry import now
    from prereg_moe.stages import look as look_

    registry, id_ = find_study(root, id_)
    refuse_imported(registry, id_)
    with show.waiting("looking", as_json):
        verdicts, head = look_(registry, id_, time=now())
    show.say_verdicts(verdicts.document, head, as_json)
