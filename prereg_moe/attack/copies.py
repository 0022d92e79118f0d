"""A copy of a study that a cheat may do anything to, and what every forger needs: to seal it all again.

The copy holds everything `audit` reads but weights, which are linked to. The study itself is
only read.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from prereg_moe import bundling, canonical, evidence, ledger, report, store
from prereg_moe.evidence import gather
from prereg_moe.freezing import answered, frozen_atlases
from prereg_moe.frozen import Condition, Frozen, challenged
from prereg_moe.registration import expand, load, parse
from prereg_moe.registry import Registry, find_source, read_bytes
from prereg_moe.verdict import judge

__all__ = ["Copy", "NotHere"]


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

    def at(self, kind: str) -> int:
        """Return where in the ledger the registration's first seal of a kind stands."""
        found = (n for n, seal in enumerate(self.seals) if (seal.registration, seal.kind) == (self.id, kind))
        if (number := next(found, None)) is None:
            raise NotHere(f"it has no {kind}")
        return number

    def condition(self, number: int, *, baseline: bool) -> Path:
        """Return the evidence of the n-th condition of the plan that is, or is not, a baseline."""
        found = [d for d, condition in self.frozen.plan.items() if condition.is_baseline == baseline]
        if number >= len(found):
            raise NotHere("it has too few conditions")
        return self.registry.evidence(self.id) / evidence.file_name(found[number])

    def source(self, kind: str) -> Path | None:
        """Return a file of the corpora or tasks that lies in the copy, None where they lie elsewhere."""
        registration, pins = self.frozen.registration, self.frozen.document["pins"][kind]
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

    def rejudge(self) -> None:
        """Make verdict and reports again from the evidence as it lies there now."""
        if not (self.reports / "verdict.json").exists():
            return
        before = ledger.until(ledger.parse(self.registry.ledger()), self.id, "verdict")
        gathered = gather(self.frozen, {path.name: path.read_bytes() for path in self.evidence})
        made = judge(
            gathered, store.record(self.registry, self.frozen, before), frozen_atlases(self.registry, self.frozen)
        )
        canonical.write(self.reports / "verdict.json", made.document)
        document = canonical.loads(made.bytes)
        made_again = report.draw(document, ["svg"])
        for format_ in report.FORMATS:
            if (self.reports / f"report.{format_}").exists():
                template = read_bytes(self.folder / "templates" / report.template_name(format_)).decode()
                made_again[f"report.{format_}"] = report.render(document, template, format_).encode()
        for name, text in made_again.items():
            if (self.reports / name).exists():
                canonical.write(self.reports / name, text)

    def rewrite(self, change: Callable[[dict[str, Any]], Any]) -> None:
        """Register something else in hindsight and make everything behind it follow, down to the ledger."""
        old, document = self.frozen, dict(self.frozen.document)
        if challenged(old.registration):
            raise NotHere("its draws were given for this registration and no other")
        registered = json.loads(canonical.dumps(document["registration"]))
        change(registered)
        text = canonical.dumps(registered)  # JSON is YAML
        (self.folder / "registration.yaml").write_bytes(text)
        document["registration"] = expand(parse(registered))
        document["pins"] = {**document["pins"], "document": canonical.digest(text)}
        canonical.write(self.folder / "frozen.json", document)
        self._rename(old.plan, self.frozen.plan)
        self.reseal()  # what is judged is read from the ledger's seals
        self.rejudge()
        self.reseal()

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


def _what(condition: Condition) -> str:
    """Return what a condition does, whatever it was registered by."""
    return canonical.digest({**condition.to_json(), "registration": None})
