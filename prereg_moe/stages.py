"""The stages behind a run, on disk: sealed evidence is judged and reported, each under the ledger.

Each stage takes what the one before it sealed and refuses anything else. No stage takes a
statistical option: those are in the frozen registration.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from prereg_moe import canonical, importing, ledger, rendering, report, store
from prereg_moe.errors import Deviated, Invalid, NotCheckable, Problem, Tampered
from prereg_moe.freezing import frozen_atlases, load_frozen
from prereg_moe.registry import Registry
from prereg_moe.verdict import Verdicts, judge

__all__ = ["look", "render", "verdict"]


def verdict(registry: Registry, id_: str, *, time: str) -> tuple[Verdicts, str]:
    """Judge sealed evidence, whoever made it, and seal ``verdict.json``; return the verdicts and the ledger's head.

    Judging again what is judged already changes nothing, until a deviation is recorded.

    Raises:
        NotCheckable, Tampered, Deviated: the evidence is not complete, sealed and planned.
        Stopped: another command sealed something meanwhile.
    """
    if importing.is_imported(registry.registration(id_)):
        document, head = importing.verdict(registry, id_, time=time)
        return Verdicts(document), head
    frozen = store.reached(registry, load_frozen(registry, id_))
    evidence, atlases = store.gather(registry, frozen), frozen_atlases(registry, frozen)
    path = registry.reports(id_) / "verdict.json"
    seals = ledger.parse(registry.ledger())
    if ledger.stage(seals, id_) in ("verdict", "report"):
        verdicts = judge(evidence, store.record(registry, frozen, ledger.until(seals, id_, "verdict")), atlases)
        if canonical.digest(verdicts.bytes) != ledger.sealed_files(seals, id_).get(registry.name(path)):
            found = "another verdict than the one sealed follows from the evidence"
            raise Tampered(Problem(registry.name(path), found, "use the version of prereg-moe that judged it"))
        canonical.write(path, verdicts.bytes)
        return verdicts, ledger.head(seals) or ""
    verdicts = judge(evidence, store.record(registry, frozen, seals), atlases)
    canonical.write(path, verdicts.bytes)
    return verdicts, registry.seal("verdict", id_, [path], time=time, expected_head=ledger.head(seals))


def look(registry: Registry, id_: str, *, time: str) -> tuple[Verdicts, str]:
    """Take the interim look whose evidence is complete: judge it, write and seal it; return it and the ledger's head.

    Raises:
        Deviated: no look is registered, it is spent, or the study is not at a look.
        NotCheckable: the evidence of no look is complete.
        Tampered: a file is not what was planned.
    """
    frozen = load_frozen(registry, id_)
    seals = ledger.parse(registry.ledger())
    number, evidence, files = store.look(registry, frozen)
    if (stage := ledger.stage(seals, id_)) not in ledger.FOLLOWS["look"]:
        raise Deviated(Problem(id_, f"is not at a look (behind {stage})", f"run `prereg-moe verdict {id_}`"))
    taken = ledger.next_line(registry.ledger(), "look", id_, time=time, files={}, body={"look": number})
    with_it = ledger.parse(registry.ledger() + taken)
    verdicts = judge(evidence, store.record(registry, evidence.frozen, with_it), frozen_atlases(registry, frozen))
    path = registry.reports(id_) / "looks" / f"{number}.json"
    canonical.write(path, verdicts.bytes)
    body = {"look": number}
    return verdicts, registry.seal("look", id_, [*files, path], time=time, body=body, expected_head=ledger.head(seals))


def render(registry: Registry, id_: str, formats: Sequence[str] | None, *, time: str) -> tuple[list[Path], str]:
    """Render the sealed verdict by the frozen templates, seal the reports; return them and the head.

    Args:
        formats: texts (:data:`prereg_moe.report.FORMATS`) and figures (:data:`prereg_moe.report.FIGURES`); None:
            every text whose template was frozen, and the figures as SVG.

    Raises:
        Invalid: it is not frozen; a format that does not exist, whose template was not frozen, or that needs an extra.
        NotCheckable: there is no verdict yet, or a deviation was recorded since.
        Tampered: the verdict or a template is not the one sealed.
    """
    imported = importing.is_imported(registry.registration(id_))
    frozen = importing.load_frozen(registry, id_) if imported else load_frozen(registry, id_)
    seals = ledger.parse(registry.ledger())
    files = ledger.sealed_files(seals, id_)
    path = registry.reports(id_) / "verdict.json"
    if registry.name(path) in files and ledger.stage(seals, id_) not in ledger.FOLLOWS["report"]:
        found = "was judged before the last deviation was recorded"
        raise NotCheckable(Problem(registry.name(path), found, f"run `prereg-moe verdict {id_}`"))
    data = registry.read_sealed(files, path, f"run `prereg-moe verdict {id_}`")
    document = canonical.loads(data, registry.name(path))
    texts, suffixes = _formats(frozen.document["pins"]["templates"], formats)
    made = {
        f"report.{format_}": rendering.render(document, _template(registry, id_, files, format_), format_).encode()
        for format_ in texts
    } | rendering.draw(document, suffixes)
    written = [registry.reports(id_) / name for name in made]
    for target, text in zip(written, made.values(), strict=True):
        canonical.write(target, text)
    if all(files.get(registry.name(target)) == canonical.digest_file(target) for target in written):
        return written, ledger.head(seals) or ""
    body = {"matplotlib": report.plotter()} if set(suffixes) & set(report.PLOTTED) else None
    return written, registry.seal("report", id_, written, time=time, body=body)


def _formats(templates: Collection[str], formats: Sequence[str] | None) -> tuple[list[str], list[str]]:
    """Return the texts and the figures that are asked for and can be made by the templates that were frozen."""
    known = [text for text in report.FORMATS if report.template_name(text) in templates]
    if formats is None:
        return known, ["svg"]
    everything = (*report.FORMATS, *report.FIGURES)
    problems = [
        Problem("--format", f"{name!r} is not a format", f"choose among {', '.join(everything)}")
        for name in formats
        if name not in everything
    ]
    problems += [
        Problem(
            "--format", f"the template of {name} was not frozen with this registration", f"it has {', '.join(known)}"
        )
        for name in formats
        if name in report.FORMATS and name not in known
    ]
    if problems:
        raise Invalid(problems)
    return [name for name in known if name in formats], [name for name in report.FIGURES if name in formats]


def _template(registry: Registry, id_: str, files: dict[str, str], format_: str) -> str:
    path = registry.registration(id_) / "templates" / report.template_name(format_)
    return registry.read_sealed(files, path, f"run `prereg-moe freeze {id_}`").decode("utf-8", "replace")
