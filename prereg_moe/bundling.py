"""Bundles: one archive that holds everything `audit` reads of a study, and opening one as the untrusted data it is.

A bundle is an ordinary zip file: the ledger, the registration's folder, its reports with all
evidence, the corpora and tasks it names by ``./``, and of the other registrations in the ledger what
was frozen, for what they are about counts. Weights stay out. The names are sorted
and nothing in it tells the time, so the same files give the same bytes. What identifies a study
is the ledger's head, never the archive.

Opening trusts nothing: an entry is a plain file below ``registrations/`` or ``reports/``, named
once, stored or deflated, and the whole keeps the limits below; all of that is known before a
byte is unpacked. An archive inside an archive is a file like any other and is never opened.
"""

from __future__ import annotations

import os
import shutil
import stat
import struct
import tempfile
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from itertools import islice
from pathlib import Path, PurePosixPath

from prereg_moe import canonical, ledger
from prereg_moe.errors import Invalid, NotCheckable, Problem, Stopped, Tampered
from prereg_moe.importing import is_imported
from prereg_moe.registration import load
from prereg_moe.registry import Registry, find_source, read_bytes

__all__ = ["MAX_BYTES", "MAX_FILES", "MAX_FILE_BYTES", "Packed", "files", "opened", "pack"]

MAX_FILES = 50_000
MAX_FILE_BYTES = 512 << 20
MAX_BYTES = 2 << 30
_MAX_RATIO = 200  # JSON shrinks some ten times; deflate itself stops near a thousand
_MAX_DIRECTORY = 16 << 20
_MAX_PROBLEMS = 20
_ROOTS = ("registrations", "reports")
_END = struct.Struct("<4s4H2IH")  # the record every zip file ends with
_ZIP64 = b"PK\x06\x07"


@dataclass(frozen=True, slots=True)
class Packed:
    """What was put into a bundle.

    Attributes:
        files: how many files.
        bytes: size of the archive.
        digest: of the archive's bytes.
        left_out: sources of models, whose weights a reader gets elsewhere.
        head: the ledger's head, which a reader is given beside the archive.
    """

    files: int
    bytes: int
    digest: str
    left_out: tuple[str, ...]
    head: str | None


def pack(registry: Registry, id_: str, target: Path) -> Packed:
    """Write the bundle of a registration and return what is in it.

    Raises:
        Invalid: the target exists or lies in the record, or the study is larger than a bundle.
        NotCheckable: nothing of the registration is sealed, or a file cannot be read.
        Stopped: the target cannot be written.
    """
    _refuse_target(registry, target)
    packed = files(registry, id_)
    sizes = [path.stat().st_size for path in packed.values()]
    if problems := _too_much(str(target), sizes):
        raise Invalid(problems)
    held = BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, path in sorted(packed.items()):
            entry = zipfile.ZipInfo(name)  # 1980-01-01: nothing in a bundle tells the time
            entry.create_system, entry.external_attr = 3, (stat.S_IFREG | 0o644) << 16
            archive.writestr(entry, read_bytes(path), zipfile.ZIP_DEFLATED, 9)
    data, head = held.getvalue(), ledger.head(ledger.parse(registry.ledger()))
    left_out = sorted({source for source in _sources(registry.registration(id_))[1] if source[:8] != "testbed:"})
    return Packed(len(packed), len(data), canonical.write(target, data), tuple(left_out), head)


def files(registry: Registry, id_: str) -> dict[str, Path]:
    """Return name below the root -> file of everything `audit` reads of a registration but models.

    A link is followed, and what is hidden is no part of a study.

    Raises:
        Invalid: the registration cannot be read.
        NotCheckable: nothing of it is sealed.
    """
    seals = ledger.parse(registry.ledger())
    if ledger.stage(seals, id_) is None:
        raise NotCheckable(Problem(id_, "has no seal yet, so it holds nothing to check", f"`prereg-moe check {id_}`"))
    folder = registry.registration(id_)
    local, left_out = (
        [Path(os.path.normpath(find_source(source, folder, registry.root))) for source in named if source[:2] == "./"]
        for named in _sources(folder)
    )
    found = {registry.name(registry.ledger_path): registry.ledger_path}
    for start in (folder, registry.reports(id_), *local):
        for path in _walk(start):
            if not any(path.is_relative_to(model) for model in left_out):
                found[path.relative_to(registry.root).as_posix()] = path
    for other in {seal.registration for seal in seals if seal.kind == "freeze"} - {id_}:
        path = registry.registration(other) / "frozen.json"
        if path.is_file():
            found[registry.name(path)] = path
    return found


def _sources(folder: Path) -> tuple[list[str], list[str]]:
    """Return the corpora and tasks a registration names, and its models; evidence made elsewhere names none."""
    if is_imported(folder):
        return [], []
    registration = load(folder / "registration.yaml")
    sources = [corpus.source for corpus in registration.corpora.values()]
    sources += [measure.tasks for measure in registration.measures.values()]
    return sources, [model.source for model in registration.models.values()]


@contextmanager
def opened(path: Path) -> Iterator[tuple[Registry, list[str]]]:
    """Unpack a bundle into a temporary folder; give the registry in it and the ids of its registrations.

    Raises:
        Invalid: the file is no bundle, or holds what a bundle may not; with every problem.
        Tampered: what is unpacked is not what was packed.
        NotCheckable: it cannot be read, or holds no registration.
        Stopped: there is no space to unpack it.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="prereg-moe-") as folder:
            _unpack(path, Path(folder))
            ids = sorted(entry.name for entry in Path(folder, "registrations").glob("*") if not _only_frozen(entry))
            if not ids:
                raise NotCheckable(Problem(path.name, "holds no registration", "there is nothing to audit"))
            yield Registry(Path(folder).resolve()), ids
    except OSError as error:
        raise Stopped(Problem(path.name, f"cannot be unpacked ({error.strerror})")) from error


def _only_frozen(entry: Path) -> bool:
    """Whether an entry is the ledger, or a neighbour of which a bundle holds what was frozen and no more."""
    return not entry.is_dir() or [path.name for path in entry.iterdir()] == ["frozen.json"]


# ------------------------------------------------------------------ packing


def _refuse_target(registry: Registry, target: Path) -> None:
    if any(target.resolve().is_relative_to((registry.root / name).resolve()) for name in _ROOTS):
        raise Invalid(Problem(str(target), "lies in the record itself", "write the bundle somewhere else"))
    if target.exists():
        raise Invalid(Problem(str(target), "exists already", "choose another name"))


def _walk(start: Path) -> Iterator[Path]:
    for folder, folders, names in os.walk(start):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name != "__pycache__")
        for name in sorted(names):
            path = Path(folder, name)
            if not name.startswith(".") and path.is_file():
                yield path


def _too_much(where: str, sizes: list[int]) -> list[Problem]:
    problems = []
    if len(sizes) > MAX_FILES:
        problems.append(Problem(where, f"{len(sizes)} files", f"a bundle has at most {MAX_FILES}"))
    if max(sizes, default=0) > MAX_FILE_BYTES:
        problems.append(Problem(where, f"a file of {max(sizes)} bytes", f"at most {MAX_FILE_BYTES}"))
    if sum(sizes) > MAX_BYTES:
        problems.append(Problem(where, f"{sum(sizes)} bytes unpacked", f"a bundle has at most {MAX_BYTES}"))
    return problems


# ------------------------------------------------------------------ unpacking


def _unpack(path: Path, folder: Path) -> None:
    claimed = _count(path)
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            if len(entries) != claimed:
                raise Tampered(Problem(path.name, f"holds {len(entries)} entries and claims {claimed}", "get it again"))
            if problems := list(islice(_problems(path, entries), _MAX_PROBLEMS)):
                raise Invalid(problems)
            for entry in entries:
                if not entry.is_dir():
                    _unpack_one(archive, entry, folder / entry.filename)
    except (zipfile.BadZipFile, zlib.error, EOFError, UnicodeDecodeError, struct.error) as error:
        raise Tampered(Problem(path.name, f"is a damaged archive ({error})", "get it again")) from error
    except (NotImplementedError, RuntimeError) as error:
        raise Invalid(Problem(path.name, f"is another kind of archive ({error})", "use `prereg-moe bundle`")) from error


def _unpack_one(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with archive.open(entry) as packed, target.open("xb") as file:  # reads no more than the size it claims
        shutil.copyfileobj(packed, file)


def _count(path: Path) -> int:
    """Return how many entries an archive claims, having refused what is too large to be listed in memory."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _END.size - 20))
            tail = file.read()
    except OSError as error:
        raise NotCheckable(Problem(str(path), f"cannot be read ({error.strerror})")) from error
    if len(tail) < _END.size or tail[-_END.size :][:4] != b"PK\x05\x06":
        raise Invalid(Problem(path.name, "is no bundle", "`prereg-moe bundle` writes one"))
    _, _, _, _, entries, directory, _, _ = _END.unpack(tail[-_END.size :])
    if tail.startswith(_ZIP64) or entries > MAX_FILES or directory > _MAX_DIRECTORY:
        raise Invalid(Problem(path.name, "claims more files than a bundle may hold", f"at most {MAX_FILES}"))
    return int(entries)


def _problems(path: Path, entries: list[zipfile.ZipInfo]) -> Iterator[Problem]:
    """Yield everything a bundle may not hold; nothing is unpacked for that."""
    plain = [entry for entry in entries if not entry.is_dir()]
    yield from _too_much(path.name, [entry.file_size for entry in plain])
    packed = sum(entry.compress_size for entry in plain)
    if sum(entry.file_size for entry in entries) > _MAX_RATIO * packed + (1 << 20):
        yield Problem(path.name, f"unpacks to more than {_MAX_RATIO} times its size", "that is no study")
    seen: dict[str, str] = {}
    for entry in entries:
        yield from _entry_problems(entry)
        key = _key(entry.filename)
        if key in seen and not (entry.is_dir() and seen[key] == entry.filename):
            yield Problem(entry.filename, f"is the same name as {seen[key]!r} to some machines", "names stand once")
        seen[key] = entry.filename
    names = {_key(entry.filename) for entry in plain}
    folders = {str(parent) for name in names for parent in PurePosixPath(name).parents}
    for name in sorted(folders & names):
        yield Problem(name, "is both a file and a folder", "names stand once")


def _key(name: str) -> str:
    """Return what a name is to a file system that ignores case and how a letter is composed."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name.rstrip("/")).casefold())


def _entry_problems(entry: zipfile.ZipInfo) -> Iterator[Problem]:
    name, kind = entry.filename, stat.S_IFMT(entry.external_attr >> 16)
    parts = name.rstrip("/").split("/")
    plain = all(part not in ("", ".", "..") and len(part.encode("utf-8", "replace")) <= 255 for part in parts)
    if entry.orig_filename != name or not name.isprintable() or "\\" in name or ":" in name or not plain:
        yield Problem(repr(entry.orig_filename), "is no path below a registry", "entries have plain relative names")
    elif len(name) > 1024 or parts[0] not in _ROOTS:
        yield Problem(name, "does not lie below registrations/ or reports/", "a bundle holds nothing else")
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        yield Problem(name, "is a link or a device", "a bundle holds plain files")
    if entry.flag_bits & 0x1:
        yield Problem(name, "is encrypted", "a bundle is read by everybody")
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        yield Problem(name, "is compressed in an unusual way", "entries are stored or deflated")
    if entry.is_dir() and entry.file_size:
        yield Problem(name, "is a folder with content", "a bundle holds plain files")
