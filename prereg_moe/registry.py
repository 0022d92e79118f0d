"""The registry: one folder that holds registrations, their reports and the ledger that seals them.

    <root>/registrations/LEDGER.jsonl
    <root>/registrations/<id>/registration.yaml  atlas.json  frozen.json  templates/
    <root>/reports/<id>/evidence/<condition>.json  evidence.json  verdict.json  report.md ...

This module is the edge: it finds, reads, writes and locks. What bytes mean is decided elsewhere.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.util import find_spec
from io import FileIO
from pathlib import Path, PurePosixPath
from typing import Any

from prereg_moe import canonical, hub, ledger
from prereg_moe.canonical import read_bytes
from prereg_moe.errors import Invalid, NotCheckable, Problem, Stopped, Tampered

__all__ = ["Registry", "find_source", "now", "read_bytes"]

_log = logging.getLogger(__name__)  # a warning nobody listens to is printed on stderr
_TESTBED = Path(__file__).parent / "lab" / "testbed"


def now() -> str:
    """Return the time of this machine as a seal writes it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass(frozen=True, slots=True)
class Registry:
    """A registry root and the paths below it."""

    root: Path

    @classmethod
    def find(cls, start: Path) -> Registry:
        """Return the registry at or above ``start``: the nearest folder that holds ``registrations/``.

        Raises:
            Invalid: there is none.
        """
        start = start.resolve()
        for folder in (start, *start.parents):
            if (folder / "registrations").is_dir():
                return cls(folder)
        raise Invalid(Problem(str(start), "is in no registry", "run `prereg-moe init` or give --root"))

    @property
    def ledger_path(self) -> Path:
        """The ledger all registrations of this root share."""
        return self.root / "registrations" / "LEDGER.jsonl"

    def registration(self, id_: str) -> Path:
        """The folder of a registration."""
        return self.root / "registrations" / id_

    def reports(self, id_: str) -> Path:
        """The folder of a registration's evidence, verdicts and reports."""
        return self.root / "reports" / id_

    def evidence(self, id_: str) -> Path:
        """The folder of a registration's evidence files."""
        return self.reports(id_) / "evidence"

    def name(self, path: Path) -> str:
        """Return a path as the ledger writes it, relative to the root, with forward slashes.

        Raises:
            Tampered: it is a link that leaves the root.
        """
        real, root = path.resolve(), self.root.resolve()
        if not real.is_relative_to(root):
            raise Tampered(Problem(path.name, "is a link that leaves the registry", "put the file itself there"))
        return PurePosixPath(real.relative_to(root)).as_posix()

    def path(self, name: str) -> Path:
        """Return the path a ledger's name stands for.

        Raises:
            Invalid: it leaves the root.
        """
        path = (self.root / name).resolve()
        if not path.is_relative_to(self.root.resolve()):
            raise Invalid(Problem(name, "lies outside the registry", "sealed files live below the root"))
        return path

    def ledger(self) -> bytes:
        """Return the ledger's bytes, empty where there is none yet.

        Raises:
            NotCheckable: it cannot be read.
        """
        return read_bytes(self.ledger_path) if self.ledger_path.exists() else b""

    def read_sealed(self, files: Mapping[str, str], path: Path, todo: str) -> bytes:
        """Return the bytes of a file as it was sealed.

        Args:
            files: name -> digest, of :func:`prereg_moe.ledger.sealed_files`.
            path: the file.
            todo: what seals it, where nothing has yet.

        Raises:
            NotCheckable: it is not sealed, or cannot be read.
            Tampered: its bytes are not the ones sealed.
        """
        name = self.name(path)
        if name not in files:
            raise NotCheckable(Problem(name, "is not there yet", todo))
        data = read_bytes(path)
        if canonical.digest(data) != files[name]:
            raise Tampered(Problem(name, "is not the file that was sealed", "restore it"))
        return data

    def seal(
        self,
        kind: str,
        id_: str,
        files: Iterable[Path],
        *,
        time: str,
        body: Mapping[str, Any] | None = None,
        expected_head: str | None = None,
    ) -> str:
        """Append a seal over the files as they lie on disk and return the new head.

        Two processes that append at once wait for each other (an advisory lock on the ledger
        itself); a last line torn by a crash is dropped first, and said.

        Raises:
            Deviated: the stage may not follow what the ledger holds.
            Tampered: the ledger does not hold together.
            Stopped: the ledger cannot be written, or no longer ends in ``expected_head``; it is as it was.
        """
        digests = {self.name(path): canonical.digest_file(path) for path in files}
        try:
            self.ledger_path.parent.mkdir(parents=True, exist_ok=True)
            with self.ledger_path.open("a+b", buffering=0) as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                file.seek(0)
                data = file.read()
                if tail := ledger.torn(data):
                    data = data[: -len(tail)]
                    file.truncate(len(data))
                    _log.warning("%s", _dropped(tail, data))
                if expected_head is not None and ledger.head(ledger.parse(data)) != expected_head:
                    found = "grew while this was prepared"
                    raise Stopped(Problem("LEDGER.jsonl", found, "run the command again"))
                line = ledger.next_line(data, kind, id_, time=time, files=digests, body=body)
                _append(file, line, len(data))
        except OSError as error:
            raise Stopped(Problem(str(self.ledger_path), f"cannot be written ({error.strerror})")) from error
        return canonical.digest(line[:-1])


def find_source(source: str, folder: Path, root: Path) -> Path:
    """Return where a source of a registration lies on this machine; it need not exist.

    ``testbed:PATH`` is embedded in the package; ``./PATH`` is relative to the registration's
    folder and stays inside the registry (a link to a folder elsewhere is followed);
    ``hf:ORG/NAME@COMMIT`` is the hub's local cache; ``lm-eval:FOLDER`` a folder of the tasks that the installed
    lm-evaluation-harness brings along.

    Raises:
        Invalid: another form, a path that leaves the registry, a hub model without a commit.
    """
    scheme, _, rest = source.partition(":")
    if scheme == "testbed":
        return _inside(_TESTBED, _TESTBED / rest, source)
    if scheme == "hf":
        name, _, commit = rest.partition("@")
        if name.count("/") != 1 or len(commit) != 40 or not all(c in "0123456789abcdef" for c in commit):
            raise Invalid(
                Problem(source, "does not name a commit", "write hf:ORG/NAME@ and the commit's 40 hex digits")
            )
        return hub.snapshot(name, commit)
    if scheme == "lm-eval":
        if not rest:
            raise Invalid(
                Problem(source, "names all of lm-eval's tasks", "write lm-eval:FOLDER, one below lm_eval/tasks")
            )
        package = find_spec("lm_eval")  # found, not imported
        places = package.submodule_search_locations if package else None
        tasks = Path(*places, "tasks") if places else Path(os.devnull, "lm_eval", "tasks")  # where nothing can lie
        return _inside(tasks, tasks / rest, source)
    if source.startswith("./"):
        return _inside(root, folder / source, source)
    raise Invalid(Problem(source, "is no source", "write testbed:NAME, ./folder, lm-eval:FOLDER or hf:ORG/NAME@commit"))


def _append(file: FileIO, line: bytes, end: int) -> None:
    """Append a line behind ``end`` bytes and make it last, or leave the file at ``end``."""
    written = 0
    try:
        written = file.write(line)
        os.fsync(file.fileno())
    except OSError:
        written = 0
        raise
    finally:
        if written < len(line):
            with suppress(OSError):  # what cannot be cut off is a torn line
                os.ftruncate(file.fileno(), end)
    if written < len(line):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _dropped(tail: bytes, kept: bytes) -> Problem:
    line = kept.count(b"\n") + 1
    found = f"the last line was torn by a crash or a full disk; its {len(tail)} bytes were dropped"
    return Problem(f"LEDGER.jsonl:{line}", found, "no command had acknowledged it: what it was to seal is sealed anew")


def _inside(root: Path, path: Path, source: str) -> Path:
    if not Path(os.path.normpath(path.absolute())).is_relative_to(os.path.normpath(root.absolute())):
        raise Invalid(Problem(source, "leaves the registry", "put or link what it names below the registry's root"))
    return path
