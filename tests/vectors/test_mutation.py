"""Promise 2: a changed byte anywhere between registration and report is found by the audit, and named.

The study that is committed here is copied and changed at random, one change at a time: single bytes, and lines and
files deleted, cut short, swapped and repeated. The audit is given the head. Its first three steps suffice, and what
part of an audit finds, the audit finds. What only the head shows is counted and has to be the last line's own words:
nothing stands behind that line, so the folder alone cannot know what it said.
"""

from __future__ import annotations

import random
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from prereg_moe import ledger
from prereg_moe.auditing import BYTE_STEPS, audit
from prereg_moe.registry import Registry

ROOT = Path(__file__).parents[2]
ID = "testbed"
FIRST = BYTE_STEPS[:3]
LINES = {".jsonl", ".yaml", ".md", ".tex", ".j2"}


@dataclass
class Study:
    """A copy of the committed study, put back after every change."""

    root: Path
    head: str
    kept: dict[Path, bytes] = field(default_factory=dict)
    found: Counter[str] = field(default_factory=Counter)
    only_by_head: list[str] = field(default_factory=list)

    @property
    def files(self) -> list[Path]:
        return list(self.kept)

    @property
    def ledger(self) -> Path:
        return self.root / "registrations/LEDGER.jsonl"

    def look(self, kind: str, paths: set[Path], what: str) -> None:
        """Audit the changed copy, and note how the change is found."""
        result = audit(Registry(self.root), ID, expected_head=self.head, steps=FIRST)
        failed = [finding for finding in result.findings if finding.outcome == "fails"]
        assert result.exit_code in (3, 4, 5), f"{what} passes"
        said = " ".join(detail for finding in failed for detail in finding.details)
        assert "ledger" in said or any(path.name in said for path in paths), f"{what}, not named: {said[:200]}"
        self.found[kind] += 1
        if [finding.name for finding in failed] == ["head"]:
            self.only_by_head.append(what)

    def restore(self) -> None:
        for path, data in self.kept.items():
            if not path.is_file() or path.read_bytes() != data:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
        for path in self.root.rglob("*"):
            if path.is_file() and path not in self.kept:
                path.unlink()


@pytest.fixture
def study(tmp_path: Path) -> Study:
    root = tmp_path / "study"
    for part in ("registrations", "reports"):
        shutil.copytree(ROOT / part / ID, root / part / ID)
    lines = (ROOT / "registrations/LEDGER.jsonl").read_bytes().splitlines(keepends=True)
    while f'"registration":"{ID}"'.encode() not in lines[-1]:
        lines.pop()  # seals of studies that are not copied
    (root / "registrations/LEDGER.jsonl").write_bytes(b"".join(lines))
    head = ledger.head(ledger.parse(b"".join(lines)))
    kept = {path: path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}
    return Study(root, head or "", kept)


def one_byte(study: Study, rng: random.Random) -> tuple[Path, int, bytes]:
    """Return a file, a place in it, and the file with another byte there."""
    path = rng.choice(study.files)
    data = bytearray(study.kept[path])
    at = rng.randrange(len(data))
    data[at] ^= rng.randrange(1, 256)
    return path, at, bytes(data)


def change_bytes(study: Study, count: int, rng: random.Random) -> None:
    for _ in range(count):
        path, at, data = one_byte(study, rng)
        path.write_bytes(data)
        study.look("byte", {path}, f"{path.name}, byte {at}: {study.kept[path][at]:#x} -> {data[at]:#x}")
        path.write_bytes(study.kept[path])


def rough(study: Study, rng: random.Random) -> Iterator[tuple[str, set[Path]]]:
    """Make rough changes without end; yield what was changed and the files it is in, before it is put back."""
    with_lines = [path for path in study.files if path.suffix in LINES]
    while True:
        kind = rng.choice([*_FILES, *_LINES])
        path = rng.choice(with_lines if kind in _LINES else study.files)
        data, other = study.kept[path], path
        if kind == "file deleted":
            path.unlink()
        elif kind == "files swapped":
            other = rng.choice([file for file in study.files if study.kept[file] != data])
            path.write_bytes(study.kept[other])
            other.write_bytes(data)
        elif kind == "file repeated":
            if path == study.ledger:
                continue  # the ledger's folder holds other studies too
            path = path.with_name(f"copy-{path.name}")
            path.write_bytes(data)
        else:
            made = _cut(data, rng) if kind == "file cut short" else _LINES[kind](data.splitlines(keepends=True), rng)
            if made == data:
                continue
            path.write_bytes(made)
        yield kind, {path, other}
        study.restore()


def _cut(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data))]


def _line_deleted(lines: list[bytes], rng: random.Random) -> bytes:
    at = rng.randrange(len(lines))
    return b"".join([*lines[:at], *lines[at + 1 :]])


def _line_repeated(lines: list[bytes], rng: random.Random) -> bytes:
    at = rng.randrange(len(lines))
    return b"".join([*lines[: at + 1], *lines[at:]])


def _lines_swapped(lines: list[bytes], rng: random.Random) -> bytes:
    one, other = rng.choices(range(len(lines)), k=2)
    lines[one], lines[other] = lines[other], lines[one]
    return b"".join(lines)


def _lines_cut(lines: list[bytes], rng: random.Random) -> bytes:
    return b"".join(lines[: rng.randrange(len(lines))])


_FILES = ("file deleted", "files swapped", "file repeated", "file cut short")
_LINES: dict[str, Callable[[list[bytes], random.Random], bytes]] = {
    "lines cut off": _lines_cut,
    "line deleted": _line_deleted,
    "line repeated": _line_repeated,
    "lines swapped": _lines_swapped,
}


def change_roughly(study: Study, count: int, rng: random.Random) -> None:
    changes = rough(study, rng)
    for _ in range(count):
        kind, paths = next(changes)
        study.look(kind, paths, f"{kind}: {', '.join(sorted(path.name for path in paths))}")


def explained(study: Study) -> bool:
    """Say what only the head shows; whether it is the last line's own words or missing lines."""
    total, only = sum(study.found.values()), len(study.only_by_head)
    sys.stdout.write(f"\n{total} changes, all found: {dict(study.found)}\n{only} would pass without the head\n")
    sys.stdout.writelines(f"  {what}\n" for what in study.only_by_head)
    return all("LEDGER.jsonl" in what for what in study.only_by_head)


def test_some_hundred_changes_are_found_and_named(study: Study) -> None:
    rng = random.Random("quick")
    change_bytes(study, 200, rng)
    change_roughly(study, 60, rng)
    assert explained(study)


def test_only_the_last_line_s_time_passes_without_the_head(study: Study) -> None:
    """Change every byte of the last line: the folder alone misses digits of its time, and nothing else."""
    data = study.ledger.read_bytes()
    start = data.rindex(b"\n", 0, -1) + 1
    time = data.index(b'"time":"', start) + len(b'"time":"')
    for at in sorted({*range(start, len(data), 9), *range(time, time + 20)}):
        study.ledger.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        study.look("last line", {study.ledger}, f"LEDGER.jsonl {at}")
    passed = [int(what.split()[1]) for what in study.only_by_head]
    assert len(passed) == 14, passed  # YYYY-MM-DDTHH:MM:SSZ has fourteen digits
    assert all(time <= at < time + 20 for at in passed)


@pytest.mark.torture
def test_ten_thousand_bytes_and_a_thousand_lines_and_files(study: Study) -> None:
    change_bytes(study, 10_000, random.Random("bytes"))
    assert explained(study)
    change_roughly(study, 1_000, random.Random("rough"))
    assert explained(study)


@pytest.mark.torture
def test_two_hundred_through_the_command(study: Study, run_cli: Callable[..., Any]) -> None:
    rng = random.Random("command")
    for _ in range(200):
        path, at, data = one_byte(study, rng)
        path.write_bytes(data)
        said = run_cli("audit", study.root, "--head", study.head, "--json")
        assert said.code == 3, (path, at)
        details = [
            d for f in said.json["registrations"][0]["findings"] if f["outcome"] == "fails" for d in f["details"]
        ]
        assert any(path.name in detail for detail in details), (path, details)
        path.write_bytes(study.kept[path])
