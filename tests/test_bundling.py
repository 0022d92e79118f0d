"""Bundles: the same bytes every time, audited as they are, and nothing a hostile archive holds is believed."""

from __future__ import annotations

import stat
import struct
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from world import ID, World, tree

from prereg_moe import bundling, ledger
from prereg_moe.errors import Invalid, NotCheckable, PreregError, Tampered

Cli = Callable[..., Any]
YAML = f"registrations/{ID}/registration.yaml"


@pytest.fixture
def packed(reported: World, tmp_path: Path) -> Path:
    bundling.pack(reported.registry, ID, tmp_path / "study.zip")
    return tmp_path / "study.zip"


# ------------------------------------------------------------------ honest bundles


def test_a_bundle_holds_what_the_audit_reads(reported: World, packed: Path, run_cli: Cli) -> None:
    head = ledger.head(ledger.parse(reported.registry.ledger()))
    there = run_cli("audit", reported.root, "--head", head, "--json").json["registrations"][0]
    here = run_cli("audit", packed, "--head", head, "--json")
    assert here.code == 0
    found = {finding["name"]: finding for finding in here.json["registrations"][0]["findings"]}
    for finding in there["findings"]:
        if finding["name"] != "pinned files":
            assert found[finding["name"]] == finding
    assert found["pinned files"]["outcome"] == "unchecked"  # weights stay out
    assert "./models/standard is not here" in found["pinned files"]["details"][0]


def test_the_same_study_gives_the_same_bytes(reported: World, packed: Path, tmp_path: Path) -> None:
    for path in reported.root.rglob("*"):
        path.touch()
    bundling.pack(reported.registry, ID, tmp_path / "again.zip")
    assert (tmp_path / "again.zip").read_bytes() == packed.read_bytes()


def test_what_is_unpacked_is_what_was_packed(reported: World, packed: Path) -> None:
    whole = {name: digest for name, digest in tree(reported.root).items() if "/models/" not in name}
    with bundling.opened(packed) as (registry, ids):
        assert ids == [ID]
        assert tree(registry.root) == whole
        root = registry.root
    assert not root.exists()


def test_items_that_do_not_follow_are_found_without_the_weights(reported: World, tmp_path: Path) -> None:
    corpus = reported.folder / "corpora/B/no.jsonl"
    corpus.write_bytes(corpus.read_bytes().replace(b"text 3", b"text 4"))
    bundling.pack(reported.registry, ID, tmp_path / "edited.zip")
    with bundling.opened(tmp_path / "edited.zip") as (registry, _):
        result = World(registry.root).audit()
    assert result.exit_code == 3
    assert "no.jsonl is not what was frozen" in str([f.details for f in result.findings if f.name == "pinned files"])


def test_the_bundle_verb_says_what_it_left_out(reported: World, tmp_path: Path, run_cli: Cli) -> None:
    said = run_cli("bundle", ID, tmp_path / "x.zip", "--root", reported.root)
    assert said.code == 0
    assert "left out: ./models/standard" in said.out
    assert "head sha256:" in said.out


def test_a_bundle_never_writes_over_a_file_or_into_the_record(reported: World, packed: Path) -> None:
    before = tree(reported.root)
    for target in (packed, reported.folder / "study.zip", reported.root / "reports" / "study.zip"):
        with pytest.raises(Invalid):
            bundling.pack(reported.registry, ID, target)
    assert tree(reported.root) == before


def test_nothing_sealed_is_nothing_to_bundle(authored: World, tmp_path: Path) -> None:
    with pytest.raises(NotCheckable):
        bundling.pack(authored.registry, ID, tmp_path / "x.zip")


# ------------------------------------------------------------------ hostile archives


def entry(name: str, *, mode: int = stat.S_IFREG | 0o644, kind: int = zipfile.ZIP_DEFLATED) -> zipfile.ZipInfo:
    made = zipfile.ZipInfo(name)
    made.external_attr, made.compress_type = mode << 16, kind
    return made


def archive(path: Path, *entries: tuple[zipfile.ZipInfo | str, bytes | str]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for one, data in entries:
            file.writestr(one, data)
    return path


BAD_NAMES = {
    "climbs out": "registrations/../../escaped",
    "climbs out at once": "../escaped",
    "is absolute": "/tmp/escaped",
    "is absolute on Windows": "C:/escaped",
    "has backslashes": "registrations\\..\\..\\escaped",
    "lies elsewhere": "elsewhere/x",
    "has an empty part": "registrations//x",
    "has a dot": "registrations/./x",
    "has a newline": "registrations/world/a\nb",
    "draws on the terminal": "registrations/world/\x1b[2J",
    "turns the text around": "registrations/world/\u202egnp.json",
    "is too long": "registrations/" + "x" * 300,
    "is deep": "registrations" + "/x" * 600,
}


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_name_that(name: str, tmp_path: Path, run_cli: Cli) -> None:
    path = archive(tmp_path / "bad.zip", (YAML, "id: world"), (entry(BAD_NAMES[name]), "x"))
    before = tree(tmp_path)
    said = run_cli("audit", path)
    assert said.code == 2
    assert "plain relative names" in said.err or "does not lie below" in said.err
    assert "\x1b" not in said.err
    assert tree(tmp_path) == before
    assert not Path("/tmp/escaped").exists()


def forged(kind: str, path: Path) -> Path:
    """Return an archive of one hostile kind."""
    study = (YAML, "id: world")
    match kind:
        case "a symbolic link":
            return archive(path, study, (entry("reports/world", mode=stat.S_IFLNK | 0o777), "/etc"))
        case "a device":
            return archive(path, study, (entry("reports/world", mode=stat.S_IFCHR | 0o666), ""))
        case "a pipe":
            return archive(path, study, (entry("reports/world", mode=stat.S_IFIFO | 0o666), ""))
        case "names that differ in case":
            return archive(path, study, (YAML.replace("world", "World"), "id: other"))
        case "names that differ in composition":
            return archive(path, study, ("reports/\u00e9", "1"), ("reports/e\u0301", "2"))
        case "a file that is a folder too":
            return archive(path, study, ("reports/a", "1"), ("reports/a/b", "2"))
        case "an unusual compression":
            return archive(path, study, (entry("reports/x", kind=zipfile.ZIP_LZMA), "x" * 99))
        case "a folder with content":
            return archive(path, study, (entry("reports/x/", mode=stat.S_IFDIR | 0o755), "x"))
        case "a bomb":
            return archive(path, study, ("reports/zeros", bytes(64 << 20)))
        case "another archive":
            inner = archive(path.with_name("inner.zip"), study)
            return archive(path, ("inner.zip", inner.read_bytes()))
        case "an encrypted file":
            archive(path, study, ("reports/x", "secret"))
            data = bytearray(path.read_bytes())
            at = data.rindex(b"PK\x01\x02")
            data[at + 8] |= 1
            path.write_bytes(data)
    return path


HOSTILE = {
    "a symbolic link": "is a link or a device",
    "a device": "is a link or a device",
    "a pipe": "is a link or a device",
    "names that differ in case": "is the same name as",
    "names that differ in composition": "is the same name as",
    "a file that is a folder too": "is both a file and a folder",
    "an unusual compression": "is compressed in an unusual way",
    "a folder with content": "is a folder with content",
    "a bomb": "unpacks to more than 200 times its size",
    "another archive": "does not lie below registrations/ or reports/",
    "an encrypted file": "is encrypted",
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_an_archive_with(kind: str, tmp_path: Path, run_cli: Cli) -> None:
    said = run_cli("audit", forged(kind, tmp_path / "bad.zip"))
    assert said.code == 2
    assert HOSTILE[kind] in said.err


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_an_archive_with_a_name_twice(tmp_path: Path, run_cli: Cli) -> None:
    said = run_cli("audit", archive(tmp_path / "bad.zip", (YAML, "id: world"), (YAML, "id: other")))
    assert said.code == 2
    assert "names stand once" in said.err


def test_a_bomb_of_a_million_to_one_whose_entries_overlap(tmp_path: Path) -> None:
    """Thousands of entries that all unpack the same bytes."""
    path = archive(tmp_path / "bomb.zip", (YAML, bytes(1 << 20)))
    data = path.read_bytes()
    start = data.index(b"PK\x01\x02")
    end = data.rindex(b"PK\x05\x06")
    count = 4000
    one = data[start:end]
    directory = b"".join(one.replace(b".yaml", b"%05d" % number) for number in range(count))
    tail = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, count, count, len(directory), start, 0)
    path.write_bytes(data[:start] + directory + tail)
    with pytest.raises(PreregError) as caught, bundling.opened(path):
        pass
    assert caught.value.exit_code in (2, 3)


def test_a_size_that_lies_is_a_damaged_archive(tmp_path: Path) -> None:
    path = archive(tmp_path / "lie.zip", (YAML, bytes(100_000)))
    data = bytearray(path.read_bytes())
    at = data.index(b"PK\x01\x02")
    data[at + 24 : at + 28] = struct.pack("<I", 10)
    path.write_bytes(data)
    with pytest.raises(Tampered, match="damaged"), bundling.opened(path):
        pass


def test_more_entries_than_a_bundle_holds_are_refused_before_they_are_listed(tmp_path: Path) -> None:
    path = tmp_path / "many.zip"
    path.write_bytes(struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 65535, 65535, 1 << 31, 0, 0))
    with pytest.raises(Invalid, match="more files"), bundling.opened(path):
        pass


def damaged(data: bytes) -> Iterator[bytes]:
    """Yield the archive cut short, and with single bytes changed."""
    for cut in (0, 1, 21, 22, len(data) // 2, len(data) - 1):
        yield data[:cut]
    for at in range(0, len(data), max(1, len(data) // 60)):
        yield data[:at] + bytes([data[at] ^ 0x55]) + data[at + 1 :]


def test_a_damaged_bundle_is_a_typed_error_or_a_finding(packed: Path, reported: World) -> None:
    whole = {name: digest for name, digest in tree(reported.root).items() if "/models/" not in name}
    data, path = packed.read_bytes(), packed.with_name("damaged.zip")
    for bad in damaged(data):
        path.write_bytes(bad)
        with suppress(Invalid, Tampered), bundling.opened(path) as (registry, _):
            assert tree(registry.root) == whole  # a byte that says nothing, such as a time


def test_a_text_is_no_bundle(tmp_path: Path, run_cli: Cli) -> None:
    (tmp_path / "notes.txt").write_text("hello\n")
    said = run_cli("audit", tmp_path / "notes.txt")
    assert said.code == 2
    assert "is no bundle" in said.err
