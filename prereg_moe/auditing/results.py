"""Steps 7 to 9: the evidence is the plan, the verdicts follow from it, and the reports from them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from prereg_moe import canonical, ledger, record, rendering, report, store, templating
from prereg_moe.auditing.case import Case
from prereg_moe.errors import Problem, Tampered
from prereg_moe.evidence import Evidence
from prereg_moe.findings import NotDue
from prereg_moe.freezing import frozen_atlases
from prereg_moe.ledger import Seal
from prereg_moe.registry import read_bytes
from prereg_moe.verdict import Verdicts, judge

__all__ = ["evidence", "first_difference", "reports", "verdicts"]


def evidence(case: Case) -> Iterator[str]:
    """Step 7: the evidence is exactly the plan, with proofs of its interventions."""
    if case.running:
        raise NotDue("the run is not finished")
    case.due("finish", "look", otherwise="the run is not finished")
    gathered = case.evidence
    yield f"{len(gathered.values)} conditions, {gathered.digest}"
    yield from _looks(case, gathered)


def _looks(case: Case, evidence: Evidence) -> Iterator[str]:
    """Judge every look again as the ledger stood with it, and compare what was sealed of it."""
    for n, seal in enumerate(case.seals):
        if not case.own(seal, "look"):
            continue
        number = seal.body["look"]
        seen = evidence.first(number) if evidence.frozen.look != number else evidence
        atlases = frozen_atlases(case.registry, seen.frozen)
        made = judge(seen, store.record(case.registry, seen.frozen, case.seals[: n + 1]), atlases)
        name = f"reports/{case.id}/looks/{number}.json"
        if _same_but_evidence(made.document, canonical.read(case.registry.path(name))):
            yield f"look {number}, as it was sealed"
        else:
            raise Tampered(Problem(name, "does not follow from the evidence", "restore it"))


def verdicts(case: Case) -> Iterator[str]:
    """Step 8: the verdicts follow from the evidence."""
    case.due("verdict", otherwise="there is no verdict yet")
    data = read_bytes(case.registry.reports(case.id) / "verdict.json")
    *earlier, last = [
        (_judge(case, case.seals[:n]), seal) for n, seal in enumerate(case.seals) if case.own(seal, "verdict")
    ]
    if last[0].bytes != data:
        raise Tampered(Problem("verdict.json", first_difference(canonical.loads(data), last[0].document)))
    for number, (made, seal) in enumerate(earlier, start=1):
        if canonical.digest(made.bytes) != seal.files.get(f"reports/{case.id}/verdict.json"):
            raise Tampered(Problem("LEDGER.jsonl", f"verdict {number} of {case.id} is not what follows"))
    yield f"{len(last[0].document['verdicts'])} claims, byte for byte"
    yield from (f"record: {line}" for line in record.summary(last[0].document.get("record", {})))
    if ledger.stage(case.seals, case.id) not in ("verdict", "report"):
        yield "a deviation was recorded since: it is to be judged again"


def _judge(case: Case, seals: tuple[Seal, ...]) -> Verdicts:
    evidence = case.evidence
    atlases = frozen_atlases(case.registry, evidence.frozen)
    return judge(evidence, store.record(case.registry, evidence.frozen, seals), atlases)


def reports(case: Case) -> Iterator[str]:
    """Step 9: the reports follow from the verdicts."""
    case.due("report", otherwise="there is no report yet")
    if ledger.stage(case.seals, case.id) != "report":
        raise NotDue("the report is of an earlier verdict; it is to be rendered again")
    frozen = case.frozen
    document = canonical.read(case.registry.reports(case.id) / "verdict.json")
    files = case.files
    formats = [f for f in report.FORMATS if _name(case, f) in files]
    theirs = []
    for format_ in formats:
        name = report.template_name(format_)
        template = read_bytes(case.registry.registration(case.id) / "templates" / name)
        if canonical.digest(template) != frozen.document["pins"]["templates"].get(name):
            raise Tampered(Problem(f"templates/{name}", "is not the template that was frozen", "restore it"))
        _follows(case, _name(case, format_), rendering.render(document, template.decode(), format_).encode())
        theirs += [] if template.decode() in templating.own(name) else [format_]
    yield f"{', '.join(formats)}, byte for byte"
    if theirs:
        yield f"{', '.join(theirs)} by a template this prereg-moe did not write: its words are its authors'"
    yield from _figures(case, document, [name for name in files if name.startswith(f"reports/{case.id}/figures/")])


def _figures(case: Case, document: Any, names: list[str]) -> Iterator[str]:
    """Draw the sealed figures again; what another version of matplotlib drew cannot be compared byte for byte."""
    drawn = {name: _plotter(case, name) for name in names if name.rpartition(".")[2] in report.PLOTTED}
    others = sorted({str(version) for version in drawn.values() if version != report.plotter()})
    same = [name for name in names if drawn.get(name, report.plotter()) == report.plotter()]
    made = rendering.draw(document, {"svg", *(name.rpartition(".")[2] for name in same)}) if names else {}
    known = {name.rpartition(".")[0] for name in made}
    for name in names:
        if name.removeprefix(f"reports/{case.id}/").rpartition(".")[0] not in known:
            raise Tampered(Problem(name, "is no figure of this verdict", "remove it"))
    for name in same:
        inside = name.removeprefix(f"reports/{case.id}/")
        _follows(case, name, made.get(inside, b""))
    if same:
        yield f"{len(same)} figures, byte for byte"
    if others:
        here = report.plotter() or "not installed"
        yield f"{len(names) - len(same)} figures not compared: drawn by matplotlib {', '.join(others)}, here {here}"


def _plotter(case: Case, name: str) -> str | None:
    """Return the version of matplotlib the last seal over a figure names."""
    bodies = [seal.body for seal in case.seals if seal.registration == case.id and name in seal.files]
    version = bodies[-1].get("matplotlib") if bodies else None
    return version if isinstance(version, str) else None


def _follows(case: Case, name: str, made: bytes) -> None:
    if made != read_bytes(case.registry.path(name)):
        raise Tampered(Problem(name, "does not follow from verdict.json", "render it again"))


def _name(case: Case, format_: str) -> str:
    return f"reports/{case.id}/report.{format_}"


def _same_but_evidence(made: Any, found: Any) -> bool:
    """Whether two verdict documents agree in all but the digest of the evidence, which grew behind a look."""
    return {**made, "evidence": None} == {**found, "evidence": None}


def first_difference(found: Any, expected: Any, where: str = "") -> str:
    """Return where two JSON values first differ, and how."""
    if isinstance(found, dict) and isinstance(expected, dict):
        for key in sorted(set(found) | set(expected)):
            if found.get(key) != expected.get(key):
                return first_difference(found.get(key), expected.get(key), f"{where}.{key}" if where else key)
    if isinstance(found, list) and isinstance(expected, list):
        for index, (left, right) in enumerate(zip(found, expected, strict=False)):
            if left != right:
                return first_difference(left, right, f"{where}[{index}]")
    return f"{where or 'it'} is {str(found)[:60]!r}, from the evidence follows {str(expected)[:60]!r}"
