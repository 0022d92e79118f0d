"""The stages behind a run, on disk: sealed evidence is judged and reported, each under the ledger.

Each stage takes what the one before it sealed and refuses anything else. No stage takes a
statistical option: those are in the frozen registration.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from prereg_moe import canonical, ledger, report, store
from prereg_moe.errors import NotCheckable, Problem, Tampered
from prereg_moe.freezing import load_frozen
from prereg_moe.registry import Registry, read_bytes
from prereg_moe.verdict import Verdicts, judge

__all__ = ["render", "verdict"]


def verdict(registry: Registry, id_: str, *, time: str) -> tuple[Verdicts, str]:
    """Judge sealed evidence, write and seal ``verdict.json``; return the verdicts and the ledger's head.

    Judging again what is judged already changes nothing.

    Raises:
        NotCheckable, Tampered, Deviated: the evidence is not complete, sealed and planned.
    """
    frozen = load_frozen(registry, id_)
    verdicts = judge(store.gather(registry, frozen))
    path = registry.reports(id_) / "verdict.json"
    seals = ledger.parse(registry.ledger())
    sealed = ledger.sealed_files(seals, id_).get(registry.name(path))
    if sealed is not None:
        if canonical.digest(verdicts.bytes) != sealed:
            found = "another verdict than the one sealed follows from the evidence"
            raise Tampered(Problem(registry.name(path), found, "use the version of prereg-moe that judged it"))
        canonical.write(path, verdicts.bytes)
        return verdicts, ledger.head(seals) or ""
    canonical.write(path, verdicts.bytes)
    return verdicts, registry.seal("verdict", id_, [path], time=time)


def render(registry: Registry, id_: str, formats: Sequence[str], *, time: str) -> tuple[list[Path], str]:
    """Render the sealed verdict by the frozen templates, seal the reports; return them and the head.

    Raises:
        NotCheckable: there is no verdict yet.
        Tampered: the verdict or a template is not the one sealed.
    """
    seals = ledger.parse(registry.ledger())
    files = ledger.sealed_files(seals, id_)
    path = registry.reports(id_) / "verdict.json"
    data = _sealed(registry, files, path, f"run `prereg-moe verdict {id_}`")
    document = canonical.loads(data, registry.name(path))
    written = []
    for format_ in formats:
        template = registry.registration(id_) / "templates" / report.template_name(format_)
        source = _sealed(registry, files, template, f"run `prereg-moe freeze {id_}`").decode()
        target = registry.reports(id_) / f"report.{format_}"
        canonical.write(target, report.render(document, source).encode())
        written.append(target)
    if all(files.get(registry.name(target)) == canonical.digest_file(target) for target in written):
        return written, ledger.head(seals) or ""
    return written, registry.seal("report", id_, written, time=time)


def _sealed(registry: Registry, files: dict[str, str], path: Path, todo: str) -> bytes:
    name = registry.name(path)
    if name not in files:
        raise NotCheckable(Problem(name, "is not there yet", todo))
    data = read_bytes(path)
    if canonical.digest(data) != files[name]:
        raise Tampered(Problem(name, "is not the file that was sealed", "restore it"))
    return data
