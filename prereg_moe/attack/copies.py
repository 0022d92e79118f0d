"""A copy of a study that a cheat may do anything to, and what every forger needs: to seal it all again.

The copy holds everything `audit` reads but weights, which are linked to. The study itself is
only read. A study whose evidence was made elsewhere is an :class:`ImportedCopy`: it has sources in
place of conditions.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import combinations, islice
from pathlib import Path
from typing import Any

from prereg_moe import bundling, canonical, evidence, importing, ledger, rendering, report, store
from prereg_moe.errors import PreregError
from prereg_moe.evidence import gather
from prereg_moe.freezing import answered, frozen_atlases
from prereg_moe.frozen import Condition, Frozen, challenged
from prereg_moe.importing import FrozenImport, is_imported, schema
from prereg_moe.registration import expand, load, parse
from prereg_moe.registry import Registry, find_source, read_bytes
from prereg_moe.verdict import judge

__all__ = ["Copy", "ImportedCopy", "NotHere"]

_TRIES = 60  # to change a number of a source so that its files still agree


class NotHere(Exception):
    """The study has nothing this cheat could be played on."""


@dataclass(frozen=True, slots=True)
class Copy:
    """A copy of one registration, its reports and the ledger.

    Attributes:
        registry: the copy's registry.
        id: the registration's id.
    """

    registry: Registry
    id: str

    @classmethod
    def of(cls, registry: Registry, id_: str, root: Path) -> Copy:
        """Return a copy below ``root``, which is empty or not there."""
        for name, path in bundling.files(registry, id_).items():
            target = root / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
        if is_imported(registry.registration(id_)):
            return ImportedCopy(Registry(root.resolve()), id_)
        copy = cls(Registry(root.resolve()), id_)
        for model in load(copy.folder / "registration.yaml").models.values():
            if model.source.startswith("./"):
                copy._link(model.source, find_source(model.source, registry.registration(id_), registry.root))
        return copy

    def again(self, root: Path) -> Copy:
        """Return a copy of this copy."""
        shutil.copytree(self.registry.root, root, symlinks=True)
        return replace(self, registry=Registry(root.resolve()))

    # -------------------------------------------------------------- what there is

    @property
    def folder(self) -> Path:
        """The registration's folder."""
        return self.registry.registration(self.id)

    @property
    def reports(self) -> Path:
        """The folder of evidence, verdicts and reports."""
        return self.registry.reports(self.id)

    @property
    def reached(self) -> set[str]:
        """The kinds of seals it has."""
        return _kinds(self)

    @property
    def frozen(self) -> Frozen:
        """The frozen registration as it lies there now, with the draws a challenge gave."""
        return answered(self.registry, Frozen.from_bytes(read_bytes(self.folder / "frozen.json")))

    @property
    def evidence(self) -> list[Path]:
        """The evidence files by name."""
        return sorted(self.registry.evidence(self.id).glob("*.json"))

    @property
    def seals(self) -> list[ledger.Seal]:
        """The ledger."""
        return list(ledger.parse(self.registry.ledger()))

    @property
    def head(self) -> str:
        """The ledger's head."""
        return ledger.head(tuple(self.seals)) or ""

    @property
    def plan(self) -> Mapping[str, Condition]:
        """The conditions by their digests."""
        return self.frozen.plan

    def own(self, seal: ledger.Seal, kind: str) -> bool:
        """Whether a seal is of this registration and of a kind."""
        return (seal.registration, seal.kind) == (self.id, kind)

    def at(self, kind: str) -> int:
        """Return where in the ledger the registration's first seal of a kind stands."""
        found = (n for n, seal in enumerate(self.seals) if self.own(seal, kind))
        if (number := next(found, None)) is None:
            raise NotHere(f"it has no {kind}")
        return number

    def condition(self, number: int, *, baseline: bool) -> Path:
        """Return the evidence of the n-th condition of the plan that is, or is not, a baseline."""
        found = [digest for digest, condition in self.plan.items() if condition.is_baseline == baseline]
        if number >= len(found):
            raise NotHere("it has too few conditions")
        return self.registry.evidence(self.id) / evidence.file_name(found[number])

    def source(self, kind: str) -> Path | None:
        """Return a file of the corpora or tasks that lies in the copy, None where they lie elsewhere."""
        registration, pins = self.frozen.registration, self.frozen.document["pins"].get(kind)
        if not pins:
            return None
        named = {measure.tasks: measure.tasks for measure in registration.measures.values()}
        if kind == "corpora":
            named = {name: corpus.source for name, corpus in registration.corpora.items()}
        for name, source in named.items():
            for file in sorted(pins.get(name, {})) if source.startswith("./") else []:
                path: Path = find_source(source, self.folder, self.registry.root) / file
                if path.is_file():
                    return path
        return None

    # -------------------------------------------------------------- what a forger does

    def edit(self, path: Path, change: Callable[[Any], Any]) -> str:
        """Change a canonical document in place and return the file's name."""
        document = canonical.read(path)
        change(document)
        canonical.write(path, document)
        return path.name

    def write(self, path: Path, change: Callable[[bytes], bytes]) -> str:
        """Change a file's bytes and return its name; a change that changes nothing is none."""
        data = path.read_bytes()
        made = change(data)
        if made == data:
            raise NotHere(f"{path.name} holds nothing to change")
        path.write_bytes(made)
        return path.name

    def forge(self, path: Path, change: Callable[[Any], Any]) -> str:
        """Change a canonical document in place, seal everything again, and return the file's name."""
        name = self.edit(path, change)
        self.reseal()
        return name

    def reseal(self, keep: Callable[[ledger.Seal], ledger.Seal | None] = lambda seal: seal) -> None:
        """Rewrite the ledger so that every seal that is kept binds the files as they lie there now."""
        listed = self.reports / "evidence.json"
        if listed.exists():
            canonical.write(listed, evidence.manifest({path.name: path.read_bytes() for path in self.evidence}))
        seals = []
        for seal in filter(None, map(keep, self.seals)):
            paths = {name: self.registry.root / name for name in seal.files}
            files = {name: canonical.digest_file(path) for name, path in paths.items() if path.is_file()}
            frozen = files.get(f"registrations/{self.id}/frozen.json")
            body = {**seal.body, "digest": frozen} if seal.kind == "freeze" and frozen else seal.body
            seals.append(replace(seal, files=files, body=body))
        self.chain(seals)

    def chain(self, seals: Iterable[ledger.Seal]) -> None:
        """Write seals as a ledger whose digests hold, whatever their order."""
        lines: list[bytes] = []
        for seal in seals:
            lines.append(replace(seal, previous=canonical.digest(lines[-1]) if lines else None).line)
        self.registry.ledger_path.write_bytes(b"".join(line + b"\n" for line in lines))

    def insert(self, number: int, *seals: ledger.Seal) -> None:
        """Put seals into the ledger at a place, and rebuild its chain."""
        there = self.seals
        self.chain([*there[:number], *seals, *there[number:]])

    def invent(self) -> str:
        """Make the effect up in every condition, and return the name of a file it is in."""
        changed = [condition.digest for condition in self.plan.values() if not condition.is_baseline]
        for digest in changed:
            self.edit(self.registry.evidence(self.id) / evidence.file_name(digest), _harm)
        return evidence.file_name(changed[-1])

    def claim_first(self, registered: dict[str, Any]) -> None:
        """Let the first block of a registration's claims be about one family alone, which came out."""
        registered["claims"][0]["families"] = [self.frozen.families_of(self.frozen.registration.claims[0])[0]]

    def rejudge(self) -> None:
        """Make verdict and reports again from the evidence as it lies there now."""
        if not (self.reports / "verdict.json").exists():
            return
        before = ledger.until(ledger.parse(self.registry.ledger()), self.id, "verdict")
        gathered = gather(self.frozen, {path.name: path.read_bytes() for path in self.evidence})
        made = judge(
            gathered, store.record(self.registry, self.frozen, before), frozen_atlases(self.registry, self.frozen)
        )
        self._report(canonical.loads(made.bytes))

    def remake(self) -> None:
        """Make verdict and reports again, and seal everything as it lies there now."""
        self.rejudge()
        self.reseal()

    def _report(self, document: Any) -> None:
        """Write a verdict document, and again all that was rendered of it."""
        canonical.write(self.reports / "verdict.json", document)
        made_again = rendering.draw(document, ["svg"])
        for format_ in report.FORMATS:
            if (self.reports / f"report.{format_}").exists():
                template = read_bytes(self.folder / "templates" / report.template_name(format_)).decode()
                made_again[f"report.{format_}"] = rendering.render(document, template, format_).encode()
        for name, text in made_again.items():
            if (self.reports / name).exists():
                canonical.write(self.reports / name, text)

    def rewrite(self, change: Callable[[dict[str, Any]], Any]) -> None:
        """Register something else in hindsight and make everything behind it follow, down to the ledger."""
        registered = json.loads(canonical.dumps(self.frozen.document["registration"]))
        change(registered)
        text = canonical.dumps(registered)  # JSON is YAML
        pins = {**self.frozen.document["pins"], "document": canonical.digest(text)}
        registered = self._expanded(registered)
        if pins["diagnosis"] is not None:
            path = self.folder / "diagnosis.json"
            self.edit(path, lambda document: document.update(registration=canonical.digest(registered)))
            pins["diagnosis"] = canonical.digest_file(path)
        (self.folder / "registration.yaml").write_bytes(text)
        self.refreeze({**self.frozen.document, "registration": registered, "pins": pins})

    def refreeze(self, document: Mapping[str, Any]) -> None:
        """Freeze something else in hindsight and make everything behind it follow."""
        old = self.frozen
        if challenged(old.registration):
            raise NotHere("its draws were given for this registration and no other")
        canonical.write(self.folder / "frozen.json", document)
        self._follow(old)
        self.reseal()  # what is judged is read from the ledger's seals
        self.remake()

    def _expanded(self, registered: dict[str, Any]) -> dict[str, Any]:
        """Return a registration as a freeze writes it."""
        return expand(parse(registered))

    def _follow(self, old: Frozen) -> None:
        self._rename(old.plan, self.frozen.plan)

    def _rename(self, old: Mapping[str, Condition], new: Mapping[str, Condition]) -> None:
        """Give the evidence of the old plan the names and conditions of the new one."""
        held = {_what(condition): digest for digest, condition in old.items()}
        folder = self.registry.evidence(self.id)
        documents = {}
        for digest, condition in new.items():
            path = folder / evidence.file_name(held[_what(condition)])
            if path.exists():
                documents[digest] = {**canonical.read(path), "condition": condition.to_json()}
        for path in self.evidence:
            path.unlink()
        for digest, document in documents.items():
            canonical.write(folder / evidence.file_name(digest), document)

    def _link(self, source: str, target: Path) -> None:
        link = Path(os.path.normpath(self.folder / source))
        if target.exists() and not link.exists():
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(target.resolve())


@dataclass(frozen=True, slots=True)
class ImportedCopy(Copy):
    """A copy of a registration of evidence made elsewhere: sources, and what follows from them."""

    @property
    def reached(self) -> set[str]:
        """The kinds of seals it has; what begins and ends a run is its import."""
        kinds = _kinds(self)
        return kinds | {"start", "finish"} if "import" in kinds else kinds

    @property
    def frozen(self) -> Any:
        """The frozen registration as it lies there now."""
        return FrozenImport.from_bytes(read_bytes(self.folder / "frozen.json"))

    @property
    def imported(self) -> Any:
        """What was derived from the sources, as it lies there now."""
        return canonical.read(self.reports / "imported.json")

    @property
    def sources(self) -> list[Path]:
        """The sources by name."""
        return sorted(path for path in (self.reports / "sources").rglob("*") if path.is_file())

    @property
    def plan(self) -> Mapping[str, Condition]:
        """Nothing: nothing was run here."""
        raise NotHere("nothing was run here, so it has no conditions")

    def invent(self) -> str:
        """Make another number up in a source, one that says nothing against itself, and return its name."""
        before = self._derived()["evidence"]
        for path in self.sources:
            kept = path.read_bytes()
            for forged in islice(_forgeries(kept), _TRIES):
                path.write_bytes(forged)
                try:
                    if self._derived()["evidence"] != before:
                        return path.name
                except PreregError:
                    continue
            path.write_bytes(kept)
        raise NotHere(f"no number of its sources can be changed alone in {_TRIES} tries")

    def shorten(self) -> str:
        """Leave a row out of a source whose rows are nobody's count, and return the source's name."""
        before = self._derived()["evidence"]
        for path in self.sources:
            kept = path.read_bytes()
            path.write_bytes(b"".join(kept.splitlines(keepends=True)[:-1]))
            try:
                if self._derived()["evidence"] != before:
                    return path.name
            except PreregError:
                path.write_bytes(kept)
        raise NotHere("how many rows there are is registered, or told by the sources themselves")

    def claim_first(self, registered: dict[str, Any]) -> None:
        """Let the first block of a registration's claims be about one row alone, which came out."""
        evidence = self.imported["evidence"]
        block = self.frozen.registration.claims[0]
        about = schema.names(self.frozen.registration, block) or tuple(evidence["claims"])
        registered["claims"][0]["about"] = [about[0]]

    def rejudge(self) -> None:
        """Derive what is imported from the sources as they lie there now; make verdict and reports again."""
        if self.sources:
            canonical.write(self.reports / "imported.json", self._derived())
        if not (self.reports / "verdict.json").exists():
            return
        pinned = self.frozen.document["pins"]["diagnosis"] is not None
        diagnosis = canonical.read(self.folder / "diagnosis.json") if pinned else None
        self._report(importing.judge(self.frozen, self.imported, diagnosis))

    def _derived(self) -> dict[str, Any]:
        return importing.derive(self.frozen, importing.read_sources(self.registry, self.id), self.imported["checks"])

    def _expanded(self, registered: dict[str, Any]) -> dict[str, Any]:
        return expand(schema.parse(registered))

    def _follow(self, old: Any) -> None:
        """Do nothing: sources have no names a registration gave them."""


def _kinds(copy: Copy) -> set[str]:
    return {seal.kind for seal in copy.seals if seal.registration == copy.id}


def _forgeries(data: bytes) -> Iterator[bytes]:
    """Yield a source with another last digit in a number, from its end, and with numbers of two of its rows swapped."""
    for found in islice(reversed(list(re.finditer(rb"[0-9](?![0-9])", data))), _TRIES // 2):
        at = found.start()
        yield data[:at] + (b"1" if data[at : at + 1] == b"0" else b"0") + data[at + 1 :]
    lines = data.splitlines(keepends=True)
    rows = []
    for number, line in enumerate(lines):
        with suppress(ValueError):
            row = json.loads(line)
            rows += [(number, row)] if isinstance(row, dict) else []
    for (one, first), (other, second) in combinations(rows, 2):
        for name in first:
            if isinstance(first[name], float) and isinstance(second.get(name), float) and first[name] != second[name]:
                made = list(lines)
                made[one] = json.dumps({**first, name: second[name]}).encode() + b"\n"
                made[other] = json.dumps({**second, name: first[name]}).encode() + b"\n"
                yield b"".join(made)


def _harm(document: Any) -> None:
    for column in document["axes"].values():
        per_token = column["values"] != column["metric"]
        pairs = [(m + 0.25 * t, t) for m, t in zip(column["metric"], column["tokens"], strict=True)]
        column["metric"] = [metric for metric, _ in pairs]
        column["values"] = [metric / tokens if per_token else metric for metric, tokens in pairs]


def _what(condition: Condition) -> str:
    """Return what a condition does, whatever it was registered by."""
    return canonical.digest({**condition.to_json(), "registration": None})
