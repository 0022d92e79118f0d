"""What the command line shows: tables, bars and JSON documents. Only here is anything printed."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

if TYPE_CHECKING:
    from prereg_moe.atlas.view import Section

__all__ = [
    "STYLE",
    "agreement",
    "audit_json",
    "claim_json",
    "err",
    "out",
    "outcome_json",
    "print_json",
    "progress",
    "say",
    "say_verdicts",
    "show_attack",
    "show_audit",
    "show_claims",
    "show_diagnosis",
    "show_model",
    "show_verdicts",
    "steps",
    "tables",
    "waiting",
]

STYLE = {"CONFIRMED": "green", "REFUTED": "red", "INCONCLUSIVE": "yellow", "INVALID": "magenta"}
_READING = {"TRUE": "green", "FALSE": "red", "UNDECIDABLE": "yellow"}
_PLAIN: dict[str, Any] = {"box": SIMPLE_HEAD, "pad_edge": False, "padding": (0, 1, 0, 0)}  # fits 80 columns
_OUTCOME = {"holds": "green", "fails": "red", "unchecked": "yellow"}


class _Console(Console):
    """A console that leaves a closed pipe to `main` (Rich would exit with 1, which means something else here)."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


out = _Console(highlight=False, soft_wrap=True)
err = _Console(stderr=True, highlight=False, soft_wrap=True)


def print_json(document: Any) -> None:
    """Print one JSON document on one line."""
    click.echo(json.dumps(document, ensure_ascii=False, sort_keys=True))


def say(document: Any, lines: Sequence[Any], as_json: bool) -> None:
    """Print the document for a program, or the lines for a person."""
    if as_json:
        print_json(document)
        return
    for line in lines:
        out.print(line)


def waiting(title: str, as_json: bool) -> AbstractContextManager[Any]:
    """Show a person, on stderr, that something of unknown length goes on."""
    return nullcontext() if as_json else err.status(title)


def tables(sections: Iterable[Section]) -> Iterator[Any]:
    """Yield what a person sees of titled tables and sentences."""
    for section in sections:
        yield f"[bold]{escape(section.title)}[/]"
        if section.columns:
            table = Table(box=None, padding=(0, 1 if len(section.columns) > 8 else 2, 0, 0))
            for name in section.columns:
                table.add_column(escape(name), overflow="fold")
            for row in section.rows:
                table.add_row(*map(escape, row))
            yield table
        yield from map(escape, section.lines)
        yield ""


@contextmanager
def progress(title: str, as_json: bool) -> Iterator[Callable[[int, int, str], None]]:
    """Show what is done of one stage and the time that remains."""
    with steps(as_json) as step:
        yield step(title)


@contextmanager
def steps(as_json: bool) -> Iterator[Callable[[str], Callable[[int, int, str], None]]]:
    """Show a bar a stage, on stderr and only to a person."""
    columns = (
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[label]}"),
    )
    with Progress(*columns, console=err, disable=as_json or not err.is_terminal) as bar:

        def step(title: str) -> Callable[[int, int, str], None]:
            task = bar.add_task(title, total=None, label="")

            def update(done: int, total: int, label: str) -> None:
                bar.update(task, completed=done, total=total, label=escape(label))

            return update

        yield step


def agreement(found: Any) -> Iterator[str]:
    """Yield what a person is told of how far a run's engine lies from `stock`; nothing where it is `stock`."""
    if found is None:
        return
    if found.conditions:
        yield (
            f"{found.requests} requests of {found.conditions} conditions were computed by stock as well: at most"
            f" {found.largest:.2g} nats apart ({found.tolerance:g} are allowed), {found.flips} greedy answers differ"
        )
    for why, count in found.by_stock.items():
        yield f"{count} conditions were computed by stock alone: {escape(why)}"


def say_verdicts(document: Any, head: str, as_json: bool) -> None:
    """Print what was judged and the ledger's head, for a program or for a person."""
    if as_json:
        print_json({**document, "head": head})
        return
    show_verdicts(document)
    out.print(f"head {head}")


def show_verdicts(document: Any) -> None:
    """Print the verdicts, or the readings, of a verdict document."""
    from prereg_moe.importing import VERDICT_SCHEMA

    if document["schema"] != VERDICT_SCHEMA:
        _show_verdicts(document)
        return
    out.print(_readings(document) if document["kind"] == "summary" else _verdicts(document))
    out.print(f"[dim]{escape(document['cap'])}[/]")


def _show_verdicts(document: Any) -> None:
    """Print the confirmatory verdicts of a study, how its controls came out and what verdicts hang on."""
    from prereg_moe.report import effect, interval, p_value

    confirmatory = [entry for entry in document["verdicts"] if entry["tier"] == "confirmatory"]
    table = Table(
        title=escape(document["study"]["title"]),
        title_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),  # all of it fits 80 columns
    )
    table.add_column("claim", overflow="fold")
    table.add_column("verdict", no_wrap=True, min_width=max(map(len, STYLE)))  # the one thing that is never cut
    for name in ("on-target", "worst off", "margin", "adj. p"):
        table.add_column(name, overflow="fold")
    for entry in confirmatory or document["verdicts"]:
        estimates = entry["estimates"]
        table.add_row(
            escape(entry["claim"]),
            f"[{STYLE[entry['verdict']]}]{entry['verdict']}[/]",
            interval(estimates["on"]),
            f"{effect(estimates['worst_off']['estimate'])} @{escape(estimates['worst_off']['axis'])}",
            effect(entry["margin"]),
            p_value(entry["p_adjusted"]),
        )
    out.print(table)
    for entry in confirmatory:
        if entry["verdict"] != "CONFIRMED":
            out.print(f"[dim]{escape(entry['claim'])}: {', '.join([*entry['reasons'], *entry['flags']])}[/]")
    for control in document["controls"]:
        held = "[green]passed[/]" if control["holds"] else "[red]FAILED[/]"
        out.print(f"{control['name']} control: {control['confirmed']} of {control['of']} confirmed, {held}")
    for entry in document.get("multiverse", ()):
        out.print(f"multiverse, {escape(entry['claim'])}: {escape(entry['fragility']['statement'])}")


def _readings(document: Any) -> Table:
    from prereg_moe.report import effect

    table = Table(title="readings of printed numbers, never verdicts", title_justify="left", box=SIMPLE_HEAD)
    for column in ("claim", "reading", "margin from", "to", "missing"):
        table.add_column(column, overflow="fold")
    for entry in document["readings"]:
        margin = entry["margin"] or (None, None)
        missing = ", ".join(one["quantity"] for one in entry["missing"])
        reading = f"[{_READING[entry['reading']]}]{entry['reading']}[/]"
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
            f"[{STYLE[entry['verdict']]}]{entry['verdict']}[/]",
            effect(entry["margin"]),
            p_value(entry["p_adjusted"]),
            ", ".join(entry["reasons"]),
        )
    return table


def show_diagnosis(document: Any) -> None:
    """Print a diagnosis: of a study, or of the rules of published numbers."""
    (_show_scenarios if "scenarios" in document else _show_rules)(document)


_RATES = (("boundary", "each"), ("boundary", "any"), ("random", "each"), ("random", "any"), ("planned", "each"))


def _show_rules(document: Any) -> None:
    """Print how often the rules of published numbers pass, one row a rule and scenario."""
    table = Table(
        title=f"percent of {document['settings']['studies']} studies in which a family passes",
        title_justify="left",
        **_PLAIN,
    )
    for column in ("rule", "items", "at the boundary: each", "any", "random: each", "any", "true: each"):
        table.add_column(column)
    for rule, scenarios in document["rules"].items():
        for scenario, rates in scenarios.items():
            shown = [rates.get(truth, {}).get(who) for truth, who in _RATES]
            table.add_row(escape(rule), scenario, *("-" if r is None else f"{100 * r['estimate']:.1f}" for r in shown))
    out.print(table)


def _show_scenarios(document: Any) -> None:
    """Print one row a scenario and, where there are several blocks, one for each and for replications."""
    settings = document["settings"]
    if settings["resamples"] < settings["registered_resamples"]:
        fewer = f"{settings['resamples']} resamples; {settings['registered_resamples']} are registered"
        out.print(f"[dim]simulated with {fewer}[/]")
    title = f"percent of {settings['studies']} studies, beside it the end of the 95% interval that counts"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for column in ("scenario", "at κ", "at δ0", "power", "controls", "coverage", "flips", "needs"):
        table.add_column(column, no_wrap=True)
    for name, figures in document["scenarios"].items():
        factor = figures["minimum_detectable_effect"]["factor"]
        table.add_row(
            escape(name),
            *_errors_and_power(figures),
            "/".join(_percent(figures["controls"].get(role)) for role in ("positive", "negative")),
            _percent(figures["coverage"]["on"]),
            _percent(figures["flips"]),
            "-" if factor is None else f"{factor:.1f}x",
        )
    out.print(table)
    out.print(
        "[dim]at κ, at δ0: any family wrongly confirmed, an off-axis at on/κ or the effect at the minimum; power: a "
        "claim confirmed as planned, after the controls; controls: how often the positive and the negative one pass; "
        "coverage: intervals that hold; flips: verdicts that differ between two replications; needs: times the planned "
        "effects for the power demanded (or 80%), controls aside[/]"
    )
    if any(len(figures["blocks"]) > 1 for figures in document["scenarios"].values()):
        _show_blocks(document)


def _show_blocks(document: Any) -> None:
    """Print the figures of every block alone, exploratory ones too, and of the replications."""
    table = Table(title="each alone", title_justify="left", box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("claims", overflow="fold")
    for column in ("scenario", "at κ", "at δ0", "power"):
        table.add_column(column, no_wrap=True)
    for name, figures in document["scenarios"].items():
        for block, alone in figures["blocks"].items():
            role = document["settings"]["blocks"][block]["role"]
            label = f"{block} ({role})" if role == "exploratory" else block
            table.add_row(escape(label), escape(name), *_errors_and_power(alone))
        for replication, joint in figures.get("replications", {}).items():
            table.add_row(escape(f"{replication} (replication)"), escape(name), *_errors_and_power(joint))
    out.print(table)


def _errors_and_power(figures: Any) -> tuple[str, str, str]:
    """Return, in percent, both errors with their upper and the power with its lower bound."""
    at_kappa, at_minimum = (figures["family_wise_error"][kind] for kind in ("selectivity", "minimum_effect"))
    power = figures["power"]["each"]
    return (
        f"{100 * at_kappa['estimate']:.1f}<{100 * at_kappa['high']:.1f}",
        f"{100 * at_minimum['estimate']:.1f}<{100 * at_minimum['high']:.1f}",
        "-" if power is None else f"{100 * power['estimate']:.0f}>{100 * power['low']:.0f}",
    )


def _percent(rate: Any) -> str:
    return "-" if rate is None else f"{100 * rate['estimate']:.0f}"


def show_model(found: Any) -> None:
    """Print what can be done to a model: once for all layers that are alike."""
    size = found["size"]
    out.print(f"[bold]{escape(found['model'])}[/] ({escape(found['model_type'])}) in {escape(found['folder'])}")
    out.print(
        f"{_billions(size['parameters'])} parameters, {size['in_experts'] / size['parameters']:.0%} of them in experts;"
        f" at most {_billions(size['active'])} work on a token"
    )
    loaded = f"{_gigabytes(size['float32_bytes'])} to load in float32, {_gigabytes(size['bfloat16_bytes'])} in bfloat16"
    stored = size["stored_bytes"]
    here = f"{_gigabytes(stored)} of weights here, whole by their names and shapes; " if stored else ""
    out.print(here + loaded)
    out.print(f"experts_implementation: {', '.join(found['experts_implementations'])}")
    if not found["weights"]:
        out.print("[yellow]no weights here:[/] all of this follows from config.json; a run needs the whole checkpoint")
    if found["quantisation"]:
        how = escape(found["quantisation"])
        out.print(
            f"[yellow]quantised ({how}):[/] a run computes in the registered dtype, where transformers can do that"
        )
    if found["dense_layers"]:
        out.print(f"dense, nothing to mask: layers {_ranges(found['dense_layers'])}")
    alike: dict[str, list[Any]] = {}
    for layer in found["layers"]:
        told = {name: value for name, value in layer.items() if name not in {"layer", "path"}}
        alike.setdefault(json.dumps(told), []).append(layer)
    for layers in alike.values():
        _show_layers(layers)
    if not found["maskable_layers"]:
        zeroed = any(not layer["operators"]["Scale"] for layer in found["layers"])
        left = "; a registration can still have its experts contribute `zero`" if zeroed else ""
        out.print(f"\n[red]No layer of this model can be masked[/]{left}.")


def _show_layers(layers: Sequence[Any]) -> None:
    """Print one paragraph on layers that differ in nothing but their place."""
    one, numbers = layers[0], [layer["layer"] for layer in layers]
    number = "layer" if len(numbers) == 1 else f"{len(numbers)} layers:"
    refused = "" if one["gates"] else "  [bold red]CANNOT BE MASKED[/]"
    out.print(f"\n[bold]{number} {_ranges(numbers)}[/]{refused}")
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False, pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in _about(one):
        table.add_row(name, text)
    out.print(table)


def _about(layer: Any) -> Iterator[tuple[str, str]]:
    """Yield what is to be said of a layer: a word, and the text on it."""
    extra = f" and {layer['no_op_classes']} no-op classes" if layer["no_op_classes"] else ""
    yield (
        "experts",
        f"{layer['n_experts']}{extra}, {layer['top_k']} a token"
        + (f"; shared by all tokens: {escape(', '.join(layer['shared']))}" if layer["shared"] else ""),
    )
    yield "router", f"{escape(layer['router'])}: {escape(', '.join(layer['steps']) or 'no comparison')}"
    if layer["groups_kept"] < layer["groups"]:
        yield "groups", f"searches {layer['groups_kept']} of {layer['groups']}"
    if layer["selection"] != "in the router":
        yield "selects", escape(layer["selection"])
    if layer["experts_take"] != "indices":
        yield "inputs", "gates multiply what goes into the experts, not what comes out"
    if layer["refusal"]:
        yield "[red]refused[/]", f"[red]{escape(layer['refusal'])}; its router cannot be edited[/]"
    if layer["gates"]:
        more = ", more where they are spread over groups" if layer["groups_kept"] < layer["groups"] else ""
        yield "mask", f"any {layer['max_masked']} of {layer['n_experts']} experts{more}"
        yield "gates", _gate_rules(layer)
    refusals: dict[str, list[str]] = {}
    for name, why in layer["operators"].items():
        refusals.setdefault(why, []).append(name)
    yield "can", ", ".join(refusals.pop("", ["record only"])) + (", recording" if "" not in refusals else "")
    for why, names in refusals.items():
        if layer["refusal"] and layer["refusal"] in why:
            why = "its router cannot be edited"
        yield "[yellow]cannot[/]", f"{', '.join(names)}: {escape(why)}"


def _gate_rules(layer: Any) -> str:
    """Return which gate rule to register, and why."""
    if "renorm" not in layer["gates"]:
        return f"[yellow]register original; renorm is refused: {escape(layer['no_logits'])}[/]"
    if layer["renorm_is_local"]:
        return "renorm or original: both leave a token alone that selects no masked expert"
    why = "its groups are chosen anew" if layer["gates_normalised"] else "its other gates grow"
    return (
        "[yellow]register original to change only tokens that would select a masked expert; with renorm any token may "
        f"change, for {why} (so does published work that masks logits)[/]"
    )


def _ranges(numbers: Sequence[int]) -> str:
    """Return whole numbers in order as ``0-2,5``."""
    runs: list[list[int]] = []
    for one in sorted(numbers):
        if runs and one == runs[-1][-1] + 1:
            runs[-1].append(one)
        else:
            runs.append([one])
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def _billions(count: int) -> str:
    return next(
        (f"{count / size:.3g}{unit}" for size, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M")) if count >= size),
        str(count),
    )


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.3g} GB" if count >= 1e8 else f"{count / 1e6:.2g} MB"


def show_audit(result: Any) -> None:
    """Print the numbered findings of an audit."""
    out.print(f"[bold]{escape(result.registration)}[/], head {result.head or 'none: nothing is sealed yet'}")
    for finding in result.findings:
        _show_finding(finding)
    if result.tiers:
        out.print("What backs it, and what each part proves:")
    for tier in result.tiers:
        _show_finding(tier.finding)
        if tier.finding.outcome == "holds":
            out.print(f"   proves: {escape(tier.proves)}\n   does not prove: {escape(tier.does_not_prove)}")


def _show_finding(finding: Any) -> None:
    out.print(f"{finding.step:2} {finding.name:18} [{_OUTCOME[finding.outcome]}]{finding.outcome}[/]")
    for detail in finding.details:
        out.print(f"   {escape(detail)}", style="dim" if finding.outcome == "holds" else "")


def audit_json(result: Any) -> dict[str, Any]:
    """Return the findings of an audit as plain JSON."""
    return {
        "registration": result.registration,
        "head": result.head,
        "exit_code": result.exit_code,
        "findings": [_finding_json(finding) for finding in result.findings],
        "tiers": [
            _finding_json(tier.finding) | {"proves": tier.proves, "does_not_prove": tier.does_not_prove}
            for tier in result.tiers
        ],
    }


def _finding_json(finding: Any) -> dict[str, Any]:
    return {**asdict(finding), "details": list(finding.details)}


def show_claims(checked: Sequence[Any]) -> None:
    """Print what became of everything a manuscript says, line by line, and how many of each."""
    for one in checked:
        style = "green" if one.outcome == "supported" else "red"
        said = f"={one.said.verdict}" if one.said.verdict else f" {one.said.number}"
        out.print(f"line {one.said.line}: [{style}]{one.outcome}[/]: {escape(one.said.reference + said)}")
        out.print(f"   {escape(one.detail)}", style="dim")
    if checked:
        counts = Counter(one.outcome for one in checked)
        out.print(", ".join(f"{count} {outcome}" for outcome, count in counts.items()))
        out.print("What stands without a reference was not read.")


def claim_json(one: Any) -> dict[str, Any]:
    """Return what became of one thing a manuscript says as plain JSON."""
    return {
        "line": one.said.line,
        "reference": one.said.reference,
        "verdict": one.said.verdict,
        "number": one.said.number,
        "text": one.said.text,
        "outcome": one.outcome,
        "detail": one.detail,
    }


def show_attack(registration: str, outcomes: Sequence[Any], unseen: Sequence[str]) -> None:
    """Print what came of every cheat on one study, and what no audit of a folder can see."""
    table = Table(title=f"{registration}: {len(outcomes)} cheats, each on a copy", title_justify="left", **_PLAIN)
    for name in ("cheat", "with", "result", "step", "exit"):
        table.add_column(name, overflow="fold", no_wrap=name != "cheat")
    for one in outcomes:
        style = {"caught": "green", "missed": "red"}.get(one.result if one.as_it_should else "missed", "yellow")
        step = f"{one.finding.step} {one.finding.name}" if one.finding else ""
        cells = (one.cheat.name, one.tier or "", f"[{style}]{one.result}[/]", step, str(one.exit_code or ""))
        table.add_row(escape(cells[0]), *cells[1:])
    out.print(table)
    for one in outcomes:
        if not one.as_it_should:
            out.print(f"[red]{escape(one.cheat.name)}:[/] {escape(one.said)}")
    results = [one.result for one in outcomes]
    counts = ", ".join(f"{results.count(result)} {result}" for result in dict.fromkeys(results))
    out.print(f"{counts}; `with` is what a reader must hold: the bytes alone, the head given with the study, or more.")
    for result in ("not tried", "not here"):
        for said, number in Counter(one.said for one in outcomes if one.result == result).items():
            out.print(f"{result}: {escape(said)} ({number})")
    out.print("\nWhat nobody can see from here:")
    for line in unseen:
        out.print(f"- {line}")


def outcome_json(one: Any) -> dict[str, Any]:
    """Return what came of a cheat as plain JSON."""
    return {
        "cheat": one.cheat.name,
        "what": one.cheat.what,
        "row": one.cheat.row,
        "detectable_with": one.cheat.tier,
        "result": one.result,
        "caught_with": one.tier,
        "step": one.finding.step if one.finding else None,
        "name": one.finding.name if one.finding else None,
        "exit_code": one.exit_code,
        "said": one.said,
        "as_it_should": one.as_it_should,
    }
