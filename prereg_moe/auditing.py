"""The audit: everything recomputed from the bytes, in numbered steps that all run.

    1  the ledger's chain holds and its stages stand in order
    2  the ledger holds the head the reader was given, as its last line or, said so, as an earlier one
    3  every sealed file is there, byte for byte, evidence too, and no other lies beside it
    4  the authored registration is the frozen one, and its diagnosis the pinned one
    5  weights, tokenizers, tasks and corpora are the frozen bytes, and the items follow from the corpora
    6  families and null draws follow from the sealed atlas
    7  the evidence is exactly the plan, with proofs of its interventions
    8  the verdicts follow from the evidence
    9  the reports follow from the verdicts

For evidence made elsewhere, 5 checks released files where they are at hand, 6 has nothing to look at,
and 7 derives the evidence again from the copied source files.

A step says *holds*, *fails* or *unchecked* (what it needs is not here, or is not due yet); no
step raises and none stops the others. That all hold means the record agrees with itself and
with the given head. It does not mean that nothing was run before the freeze.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from prereg_moe import canonical, importing, ledger, record, rendering, report, store, templating, trust
from prereg_moe.errors import Deviated, Invalid, NotCheckable, PreregError, Problem, Tampered
from prereg_moe.evidence import Evidence
from prereg_moe.findings import Finding, NotDue, find
from prereg_moe.freezing import answered, compare_pins, frozen_atlases, list_items
from prereg_moe.frozen import Frozen, derive
from prereg_moe.importing import FrozenImport, is_imported
from prereg_moe.ledger import Seal
from prereg_moe.registration import load
from prereg_moe.registry import Registry, read_bytes
from prereg_moe.verdict import Verdicts, judge

__all__ = ["BYTE_STEPS", "STEPS", "Audit", "Finding", "audit"]

STEPS = (
    "ledger",
    "head",
    "sealed files",
    "registration",
    "pinned files",
    "families and draws",
    "evidence",
    "verdict",
    "report",
)
BYTE_STEPS = STEPS[:5]  # those that compare bytes; the others compute again what follows from them
_GRAVITY = (3, 4, 5, 2)
_TEXTS = "|".join(report.FORMATS)
_MAKES = {  # seal -> what its stage leaves, below `registrations/` and `reports/`; nothing else is anybody's to seal
    "atlas": r"registrations/ID/atlas\.json",
    "diagnosis": r"registrations/ID/diagnosis\.json",
    "freeze": r"registrations/ID/(registration\.yaml|frozen\.json|templates/[^/]+)",
    "amend": r"registrations/ID/(superseded/\d+/.+|atlas\.json|diagnosis\.json)",
    "challenge": r"registrations/ID/(trust/challenge\.json|draws\.json)",
    "trust": r"registrations/ID/trust/(signature-\d+\.json|timestamp-\d+\.tsr)",
    "start": r"(?!)",
    "look": r"reports/ID/(evidence|looks/\d+)\.json",
    "finish": r"reports/ID/evidence\.json",
    "import": r"reports/ID/(imported\.json|sources/.+)",
    "verdict": r"reports/ID/verdict\.json",
    "report": rf"reports/ID/(report\.({_TEXTS})|figures/[^/]+)",
    "deviation": r"registrations/ID/deviations/\d+\.json",
}
_OF_IMPORTS = ("diagnosis", "freeze", "import", "verdict", "report", "trust")
_MAKES_OF_IMPORTS = {kind: _MAKES[kind] for kind in _OF_IMPORTS}
_RELEASED = "data"  # where, beside its registration, files released with published numbers are looked for


@dataclass(frozen=True, slots=True)
class Audit:
    """The findings on one registration.

    Attributes:
        registration: its id.
        head: the ledger's head as it was found.
        findings: one a step, in order.
        tiers: what the record's own consistency is backed by, in order.
    """

    registration: str
    head: str | None
    findings: tuple[Finding, ...]
    tiers: tuple[trust.Tier, ...] = ()

    @property
    def exit_code(self) -> int:
        """0 where everything checked holds; 4 where nothing was there to check."""
        codes = {finding.exit_code for finding in (*self.findings, *(tier.finding for tier in self.tiers))}
        if not any(finding.outcome == "holds" for finding in self.findings) and codes <= {0}:
            return NotCheckable.exit_code
        return next((code for code in _GRAVITY if code in codes), 0)


def audit(
    registry: Registry,
    id_: str,
    *,
    expected_head: str | None = None,
    known: trust.Known | None = None,
    steps: Collection[str] = (*STEPS, *trust.TIERS),
) -> Audit:
    """Return what the numbered steps find of a registration; nothing is written, nothing raises.

    Args:
        expected_head: the ledger's head the reader was given, at any time: the ledger may have grown since.
        known: the keys and authorities the reader knows.
        steps: the steps and the tiers to look at; :data:`BYTE_STEPS` alone are some forty times faster.
    """
    data = registry.ledger()
    seals, problems = ledger.examine(data)
    elsewhere = is_imported(registry.registration(id_)) or ledger.stage(seals, id_) == "import"
    case = (_Elsewhere if elsewhere else _Case)(registry, id_, seals, tuple(problems), expected_head)
    looks: tuple[Callable[[], Iterator[str]], ...] = (
        case.ledger,
        case.head,
        case.sealed,
        case.registration,
        case.pinned,
        case.derived,
        case.evidence,
        case.verdict,
        case.report,
    )
    findings = tuple(
        find(number, name, look)
        for number, (name, look) in enumerate(zip(STEPS, looks, strict=True), 1)
        if name in steps
    )
    known = known or trust.Known()
    tiers = trust.look(registry, id_, seals=seals, findings=findings, read=case.read, known=known, names=steps)
    return Audit(id_, ledger.head(seals), findings, tiers)


@dataclass
class _Case:
    """The steps over one registration; later steps use what earlier ones read."""

    registry: Registry
    id: str
    seals: tuple[Seal, ...]
    broken: tuple[Problem, ...]
    expected_head: str | None
    makes: ClassVar[Mapping[str, str]] = _MAKES
    _frozen: Frozen | None = None
    _evidence: Evidence | None = None

    def ledger(self) -> Iterator[str]:
        if self.broken:
            raise Tampered(self.broken)
        own = [seal for seal in self.seals if seal.registration == self.id]
        if not own:
            raise NotCheckable(Problem(self.id, "has no seal in the ledger"))
        yield f"{len(own)} of {len(self.seals)} seals: {', '.join(seal.kind for seal in own)}"

    def head(self) -> Iterator[str]:
        if self.expected_head is None:
            raise NotDue("no head was given, so a ledger that was rewritten or cut short as a whole would pass")
        lines = [seal.digest for seal in self.seals]
        if self.expected_head not in lines:
            found = f"ends in {ledger.head(self.seals)} and has no line {self.expected_head}, the head given"
            raise Tampered(Problem("LEDGER.jsonl", found, "ask whoever gave it for the ledger it is of"))
        yield self.expected_head
        number = lines.index(self.expected_head) + 1
        if number < len(lines):
            yield f"line {number} of {len(lines)}: what was sealed behind it could be rewritten; ask for the last head"

    def sealed(self) -> Iterator[str]:
        files = self._files()
        evidence = self._manifest(files)
        problems = [error for name, digest in {**files, **evidence}.items() for error in self._compare(name, digest)]
        problems += [
            Tampered(Problem(name, f"is sealed by the {seal.kind} of {self.id}, which makes no such file", "remove it"))
            for seal in self.seals
            if seal.registration == self.id
            for name in seal.files
            if not re.fullmatch(self.makes.get(seal.kind, "").replace("ID", self.id), name)
        ]
        problems += [
            Deviated(Problem(name, "is sealed by nobody", "remove it, or let the command that makes it seal it"))
            for name in self._unsealed({**files, **evidence}, manifest=bool(evidence) and not self._running())
        ]
        registered = {seal.registration for seal in self.seals}
        problems += [
            Deviated(Problem(self.registry.name(path), "is of no registration in the ledger", "remove it"))
            for path in sorted(self.registry.reports(self.id).parent.glob("*/"))
            if path.name not in registered and not path.name.startswith(".")
        ]
        for kind in (Tampered, NotCheckable, Deviated):
            if any(isinstance(error, kind) for error in problems):
                raise kind([problem for error in problems for problem in error.problems])
        yield f"{len(files)} files" + (f" and {len(evidence)} of evidence" if evidence else "")

    def registration(self) -> Iterator[str]:
        frozen = self.read()
        self._compare_document(frozen, load)
        yield frozen.digest
        yield from self._as_frozen(frozen)
        yield from self._neighbours()

    def pinned(self) -> Iterator[str]:
        frozen = self.read()
        changed, absent = compare_pins(self.registry, frozen)
        if changed:
            raise Tampered(changed)
        files = sum(
            len(entry) for kind in ("models", "corpora", "tasks") for entry in frozen.document["pins"][kind].values()
        )
        if not any(problem.where.startswith("corpora.") for problem in absent):
            made = list_items(frozen.registration, self.registry.registration(self.id), self.registry.root)
            for part, value in made.items():
                if frozen.document[part] != value:
                    raise Tampered(Problem("frozen.json", f"its {part} do not follow from the corpora", "restore it"))
        if absent:
            raise NotDue("; ".join(map(str, absent)))
        yield f"{files} files"

    def derived(self) -> Iterator[str]:
        frozen = self.read()
        if frozen.registration.atlas is None:
            raise NotDue("no atlas is registered")
        atlases = frozen_atlases(self.registry, frozen)
        made = derive(frozen.registration, atlases)
        for part, value in made.items():
            if frozen.document[part] != value:
                raise Tampered(Problem("frozen.json", f"its {part} do not follow from the atlas", "restore it"))
        drawn = made["draws"]
        if frozen.answer is not None:
            drawn = derive(frozen.registration, atlases, trust.seed_given(self.registry, frozen))["draws"]
            if frozen.answer["draws"] != drawn:
                raise Tampered(Problem("draws.json", "does not follow from the challenge", "restore it"))
        draws = sum(len(entry["cells"]) for entry in drawn or ())
        yield f"{len(made['families'])} families and {draws} null draws"

    def evidence(self) -> Iterator[str]:
        if self._running():
            raise NotDue("the run is not finished")
        self._due("finish", "look", otherwise="the run is not finished")
        gathered = self._gather()
        yield f"{len(gathered.values)} conditions, {gathered.digest}"
        yield from self._looks(gathered)

    def verdict(self) -> Iterator[str]:
        self._due("verdict", otherwise="there is no verdict yet")
        data = read_bytes(self.registry.reports(self.id) / "verdict.json")
        *earlier, last = [
            (self._judge(self.seals[:n]), seal) for n, seal in enumerate(self.seals) if self._is(seal, "verdict")
        ]
        if last[0].bytes != data:
            raise Tampered(Problem("verdict.json", _first_difference(canonical.loads(data), last[0].document)))
        for number, (made, seal) in enumerate(earlier, start=1):
            if canonical.digest(made.bytes) != seal.files.get(f"reports/{self.id}/verdict.json"):
                raise Tampered(Problem("LEDGER.jsonl", f"verdict {number} of {self.id} is not what follows"))
        yield f"{len(last[0].document['verdicts'])} claims, byte for byte"
        yield from (f"record: {line}" for line in record.summary(last[0].document.get("record", {})))
        if ledger.stage(self.seals, self.id) not in ("verdict", "report"):
            yield "a deviation was recorded since: it is to be judged again"

    def report(self) -> Iterator[str]:
        self._due("report", otherwise="there is no report yet")
        if ledger.stage(self.seals, self.id) != "report":
            raise NotDue("the report is of an earlier verdict; it is to be rendered again")
        frozen = self.read()
        document = canonical.read(self.registry.reports(self.id) / "verdict.json")
        files = self._files()
        formats = [f for f in report.FORMATS if self._name(f) in files]
        theirs = []
        for format_ in formats:
            name = report.template_name(format_)
            template = read_bytes(self.registry.registration(self.id) / "templates" / name)
            if canonical.digest(template) != frozen.document["pins"]["templates"].get(name):
                raise Tampered(Problem(f"templates/{name}", "is not the template that was frozen", "restore it"))
            self._follows(self._name(format_), rendering.render(document, template.decode(), format_).encode())
            theirs += [] if template.decode() in templating.own(name) else [format_]
        yield f"{', '.join(formats)}, byte for byte"
        if theirs:
            yield f"{', '.join(theirs)} by a template this prereg-moe did not write: its words are its authors'"
        yield from self._figures(document, [name for name in files if name.startswith(f"reports/{self.id}/figures/")])

    def _figures(self, document: Any, names: list[str]) -> Iterator[str]:
        """Draw the sealed figures again; what another version of matplotlib drew cannot be compared byte for byte."""
        drawn = {name: self._plotter(name) for name in names if name.rpartition(".")[2] in report.PLOTTED}
        others = sorted({str(version) for version in drawn.values() if version != report.plotter()})
        same = [name for name in names if drawn.get(name, report.plotter()) == report.plotter()]
        made = rendering.draw(document, {"svg", *(name.rpartition(".")[2] for name in same)}) if names else {}
        known = {name.rpartition(".")[0] for name in made}
        for name in names:
            if name.removeprefix(f"reports/{self.id}/").rpartition(".")[0] not in known:
                raise Tampered(Problem(name, "is no figure of this verdict", "remove it"))
        for name in same:
            inside = name.removeprefix(f"reports/{self.id}/")
            self._follows(name, made.get(inside, b""))
        if same:
            yield f"{len(same)} figures, byte for byte"
        if others:
            here = report.plotter() or "not installed"
            yield f"{len(names) - len(same)} figures not compared: drawn by matplotlib {', '.join(others)}, here {here}"

    def _plotter(self, name: str) -> str | None:
        """Return the version of matplotlib the last seal over a figure names."""
        bodies = [seal.body for seal in self.seals if seal.registration == self.id and name in seal.files]
        version = bodies[-1].get("matplotlib") if bodies else None
        return version if isinstance(version, str) else None

    def _follows(self, name: str, made: bytes) -> None:
        if made != read_bytes(self.registry.path(name)):
            raise Tampered(Problem(name, "does not follow from verdict.json", "render it again"))

    def _name(self, format_: str) -> str:
        return f"reports/{self.id}/report.{format_}"

    def _files(self) -> dict[str, str]:
        return ledger.sealed_files(self.seals, self.id)

    def _is(self, seal: Seal, kind: str) -> bool:
        return seal.kind == kind and seal.registration == self.id

    def _running(self) -> bool:
        return ledger.stage(self.seals, self.id) == "start"

    def _due(self, *kinds: str, otherwise: str) -> None:
        if not any(self._is(seal, kind) for seal in self.seals for kind in kinds):
            raise NotDue(otherwise)

    def _looks(self, evidence: Evidence) -> Iterator[str]:
        """Judge every look again as the ledger stood with it, and compare what was sealed of it."""
        for n, seal in enumerate(self.seals):
            if not self._is(seal, "look"):
                continue
            number = seal.body["look"]
            seen = evidence.first(number) if evidence.frozen.look != number else evidence
            atlases = frozen_atlases(self.registry, seen.frozen)
            made = judge(seen, store.record(self.registry, seen.frozen, self.seals[: n + 1]), atlases)
            name = f"reports/{self.id}/looks/{number}.json"
            if _same_but_evidence(made.document, canonical.read(self.registry.path(name))):
                yield f"look {number}, as it was sealed"
            else:
                raise Tampered(Problem(name, "does not follow from the evidence", "restore it"))

    def _compare_document(self, frozen: Frozen | FrozenImport, read: Callable[[Path], Any]) -> None:
        path, pins = self.registry.registration(self.id) / "registration.yaml", frozen.document["pins"]
        if canonical.digest_file(path) != pins["document"]:
            raise Tampered(Problem("registration.yaml", "is not the document that was frozen", "restore it"))
        if read(path) != frozen.registration:  # not the expanded text: a later version may know more defaults
            raise Tampered(Problem("frozen.json", "does not say what registration.yaml says", "restore it"))
        diagnosis = path.with_name("diagnosis.json")
        found = canonical.digest_file(diagnosis) if diagnosis.exists() else None
        if found != pins["diagnosis"]:
            raise Tampered(Problem("diagnosis.json", "is not the diagnosis that was frozen", "restore it"))
        registered = canonical.digest(frozen.document["registration"])
        if found is not None and canonical.read(diagnosis).get("registration") != registered:
            raise Tampered(Problem("diagnosis.json", "is of another registration", "restore it"))

    def _as_frozen(self, frozen: Frozen) -> Iterator[str]:
        """Compare what the freeze's seal says, and what the frozen registration supersedes, with the ledger."""
        seal = [seal for seal in self.seals if self._is(seal, "freeze")][-1]
        said = record.freeze_body(frozen)
        if any(seal.body.get(key, value) != value for key, value in said.items()):
            raise Tampered(Problem("LEDGER.jsonl", f"the freeze of {self.id} says another digest or claim space"))
        before = record.supersedes(self.seals, self.id)
        if frozen.document.get("supersedes") != before:
            raise Tampered(Problem("frozen.json", "does not say what it supersedes", "restore it"))
        for amended in (seal for seal in self.seals if self._is(seal, "amend")):
            name = f"registrations/{self.id}/superseded/{amended.body['number']}/frozen.json"
            if amended.files.get(name) != amended.body["superseded"]:
                raise Tampered(Problem(name, "is not the frozen registration that was superseded", "restore it"))
            yield f"supersedes {amended.body['superseded']} ({amended.body['reason']})"

    def _neighbours(self) -> Iterator[str]:
        """Hold what other freezes say they are about, nothing too, against the frozen registrations they bind."""
        others = {seal.registration: seal for seal in self.seals if seal.kind == "freeze"}
        others.pop(self.id, None)
        absent = []
        for id_, seal in sorted(others.items()):
            path = self.registry.registration(id_) / "frozen.json"
            name = self.registry.name(path)
            if not path.is_file():
                absent.append(id_)
                continue
            data = read_bytes(path)
            if canonical.digest(data) != seal.files.get(name):
                raise Tampered(Problem(name, "is not the file that was sealed", "restore it"))
            if seal.body.get("claim_space", about := _about(data, name)) != about:
                raise Tampered(Problem("LEDGER.jsonl", f"the freeze of {id_} says another claim space"))
        if absent:
            yield f"not here, so what they are about is their seals' word: {', '.join(absent)}"

    def _judge(self, seals: tuple[Seal, ...]) -> Verdicts:
        evidence = self._gather()
        atlases = frozen_atlases(self.registry, evidence.frozen)
        return judge(evidence, store.record(self.registry, evidence.frozen, seals), atlases)

    def read(self) -> Frozen:
        if self._frozen is None:
            path = self.registry.registration(self.id) / "frozen.json"
            if self.registry.name(path) not in self._files():
                raise NotDue("it is not frozen yet")
            self._frozen = answered(self.registry, Frozen.from_bytes(read_bytes(path), self.registry.name(path)))
        return self._frozen

    def _gather(self) -> Evidence:
        if self._evidence is None:
            self._evidence = store.gather(self.registry, store.reached(self.registry, self.read()))
        return self._evidence

    def _compare(self, name: str, digest: str) -> list[PreregError]:
        """Return what is wrong with one sealed file: gone, a link to bytes that lie elsewhere, or other bytes."""
        try:
            path = self.registry.path(name)
        except Invalid as error:
            return [Tampered(error.problems)]
        if path != self.registry.root.resolve() / name:
            found = "is a link, or lies behind one, and not the file that was sealed"
            return [Tampered(Problem(name, found, "put the file itself there"))]
        if not path.is_file():
            return [NotCheckable(Problem(name, "is sealed and missing", "restore it"))]
        large = path.stat().st_size > canonical.MAX_BYTES  # so nobody sealed it: it need not be read
        if large or canonical.digest_file(path) != digest:
            return [Tampered(Problem(name, "is not the file that was sealed", "restore it"))]
        return []

    def _manifest(self, files: dict[str, str]) -> dict[str, str]:
        """Return path -> digest of the sealed evidence, empty where the list of it is not the sealed one."""
        name = f"reports/{self.id}/evidence.json"
        if name not in files or self._compare(name, files[name]):
            return {}
        listed = store.read_manifest(read_bytes(self.registry.path(name)), name)
        return {f"reports/{self.id}/evidence/{file}": digest for file, digest in listed.items()}

    def _unsealed(self, files: dict[str, str], *, manifest: bool) -> list[str]:
        """Return what lies in the registration's folders and is neither sealed nor pinned.

        Before the freeze the registration's own folder is its author's desk; before the run is
        finished, or where the list of evidence cannot be believed, evidence is left to step 7.
        """
        known = [self.registry.registration(self.id) / name for name in self._local_sources()]
        if not manifest:
            known.append(self.registry.evidence(self.id))
        frozen = ledger.stage(self.seals, self.id) not in ledger.FOLLOWS["freeze"]
        desk = [self.registry.registration(self.id)] if frozen else []
        return [
            name
            for folder in (*desk, self.registry.reports(self.id))
            for path in (sorted(folder.rglob("*")) if folder.is_dir() else [])
            if (path.is_symlink() or not path.is_dir())  # a pipe or a socket, too, was sealed by nobody
            and not path.name.startswith(".")
            and (name := path.relative_to(self.registry.root).as_posix()) not in files
            and not any(path.is_relative_to(source) for source in known)
        ]

    def _local_sources(self) -> list[str]:
        try:
            registration: Any = self.read().registration
        except (PreregError, NotDue):
            return []
        parts = [*registration.models.values(), *registration.corpora.values()]
        named = [part.source for part in parts] + [measure.tasks for measure in registration.measures.values()]
        named.append(registration.report.template)
        return [source for source in named if source.startswith("./")]


def _about(data: bytes, name: str) -> list[record.Space]:
    """Return the claim space of a frozen registration, whose evidence may be made elsewhere: then it has none."""
    try:
        frozen = Frozen.from_bytes(data, name)
    except Tampered:
        FrozenImport.from_bytes(data, name)
        return []
    return record.claim_space(frozen)


def _same_but_evidence(made: Any, found: Any) -> bool:
    """Whether two verdict documents agree in all but the digest of the evidence, which grew behind a look."""
    return {**made, "evidence": None} == {**found, "evidence": None}


@dataclass
class _Elsewhere(_Case):
    """The steps over evidence made elsewhere: it is derived again from the copied source files."""

    makes: ClassVar[Mapping[str, str]] = _MAKES_OF_IMPORTS
    _imported_frozen: FrozenImport | None = None

    def ledger(self) -> Iterator[str]:
        yield from super().ledger()
        kinds = {seal.kind for seal in self.seals if seal.registration == self.id}
        if strange := sorted(kinds - set(self.makes)):
            found = f"{self.id} is of evidence made elsewhere and has the seal {strange[0]}"
            raise Tampered(Problem("LEDGER.jsonl", found, "such a study has nothing it could seal"))

    def registration(self) -> Iterator[str]:
        frozen = self._read_import()
        self._compare_document(frozen, importing.load)
        said = [seal.body.get("digest") for seal in self.seals if self._is(seal, "freeze")]
        if said[-1] != frozen.digest:
            raise Tampered(Problem("LEDGER.jsonl", f"the freeze of {self.id} says another digest"))
        yield frozen.digest

    def pinned(self) -> Iterator[str]:
        self._due("import", otherwise="nothing is imported yet")
        checks, released = self._imported()["checks"], self._read_import().registration.released
        if checks is None or released is None:
            raise NotDue("no released file was checked")
        folder = self.registry.registration(self.id) / _RELEASED
        if not all((folder / name).is_file() for name in checks["files"]):
            raise NotDue(f"the released files are not here; put or link them as {self.registry.name(folder)}")
        made = importing.check_released(released, folder)
        if made != checks:
            raise Tampered(Problem("imported.json", _first_difference(checks, made, "checks"), "restore it"))
        yield f"{len(checks['files'])} released files"

    def derived(self) -> Iterator[str]:
        raise NotDue("evidence made elsewhere has no atlas here")

    def evidence(self) -> Iterator[str]:
        self._due("import", otherwise="nothing is imported yet")
        document = self._imported()
        files = importing.read_sources(self.registry, self.id)
        found = {name: canonical.digest(data) for name, data in files.items()}
        if changed := [name for name, _ in found.items() ^ document["sources"].items()]:
            problems = [
                Problem(f"sources/{name}", "is not what was imported", "restore it") for name in sorted(changed)
            ]
            raise Tampered(list(dict.fromkeys(problems)))
        try:
            made = importing.derive(self._read_import(), files, document["checks"])
        except Invalid as error:  # it was valid when it was imported
            raise Tampered(error.problems) from error
        if made != document:
            raise Tampered(Problem("imported.json", _first_difference(document, made), "restore it"))
        seal = next(seal for seal in self.seals if self._is(seal, "import"))
        checks = document["checks"] and document["checks"]["files"]
        if (seal.body.get("kind"), seal.body.get("checks")) != (document["kind"], checks):
            raise Tampered(Problem("LEDGER.jsonl", f"the import of {self.id} says another kind, or other checks"))
        yield f"{len(files)} source files, {canonical.digest(document)}"
        if others := self._same_sources(document):
            yield f"the same files were imported by {', '.join(others)} as well; they share no alpha"

    def _same_sources(self, document: Any) -> list[str]:
        """Return the other registrations that imported a file this one did."""
        own = set(document["sources"].values())
        imports = [seal for seal in self.seals if seal.kind == "import" and seal.registration != self.id]
        return sorted({seal.registration for seal in imports if own & set(seal.files.values())})

    def verdict(self) -> Iterator[str]:
        self._due("verdict", otherwise="there is no verdict yet")
        data = read_bytes(self.registry.reports(self.id) / "verdict.json")
        frozen = self._read_import()
        pinned = frozen.document["pins"]["diagnosis"] is not None
        diagnosis = canonical.read(self.registry.registration(self.id) / "diagnosis.json") if pinned else None
        made = importing.judge(frozen, self._imported(), diagnosis)
        if canonical.dumps(made) != data:
            raise Tampered(Problem("verdict.json", _first_difference(canonical.loads(data), made)))
        yield f"{len(made['readings' if made['kind'] == 'summary' else 'verdicts'])} claims, byte for byte"

    def read(self) -> Any:  # what backs a record is asked of its digest; no draws wait for a challenge
        return self._read_import()

    def _imported(self) -> dict[str, Any]:
        document: dict[str, Any] = canonical.read(self.registry.reports(self.id) / "imported.json")
        return document

    def _read_import(self) -> FrozenImport:
        if self._imported_frozen is None:
            self._due("freeze", otherwise="it is not frozen yet")
            path = self.registry.registration(self.id) / "frozen.json"
            self._imported_frozen = FrozenImport.from_bytes(read_bytes(path), self.registry.name(path))
        return self._imported_frozen

    def _local_sources(self) -> list[str]:
        return [f"./{_RELEASED}"]


def _first_difference(found: Any, expected: Any, where: str = "") -> str:
    """Return where two JSON values first differ, and how."""
    if isinstance(found, dict) and isinstance(expected, dict):
        for key in sorted(set(found) | set(expected)):
            if found.get(key) != expected.get(key):
                return _first_difference(found.get(key), expected.get(key), f"{where}.{key}" if where else key)
    if isinstance(found, list) and isinstance(expected, list):
        for index, (left, right) in enumerate(zip(found, expected, strict=False)):
            if left != right:
                return _first_difference(left, right, f"{where}[{index}]")
    return f"{where or 'it'} is {str(found)[:60]!r}, from the evidence follows {str(expected)[:60]!r}"
