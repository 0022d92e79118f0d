"""The registry: found upwards, closed at its root, written whole or not at all."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from world import TIME, tree

from prereg_moe import canonical, ledger
from prereg_moe.errors import Invalid, NotCheckable, Stopped, Tampered
from prereg_moe.registry import Registry, find_source, now


def test_the_nearest_registry_upwards_is_found(tmp_path: Path) -> None:
    (tmp_path / "registrations" / "x").mkdir(parents=True)
    assert Registry.find(tmp_path / "registrations" / "x").root == tmp_path.resolve()
    assert Registry.find(tmp_path).root == tmp_path.resolve()


def test_times_are_written_as_seals_want_them(tmp_path: Path) -> None:
    Registry(tmp_path).seal("atlas", "x", [], time=now())
    with pytest.raises(Tampered, match="is not a seal"):
        Registry(tmp_path).seal("atlas", "x", [], time="yesterday")


def test_a_seal_holds_the_digests_of_its_files(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    path = registry.registration("x") / "atlas.json"
    digest = canonical.write(path, {"a": 1})
    head = registry.seal("atlas", "x", [path], time=TIME, body={"n": 1})
    [seal] = ledger.parse(registry.ledger())
    assert seal.files == {"registrations/x/atlas.json": digest}
    assert (seal.previous, seal.body, seal.digest) == (None, {"n": 1}, head)
    with pytest.raises(NotCheckable):
        registry.seal("atlas", "x", [registry.registration("x") / "nothing.json"], time=TIME)


@pytest.mark.parametrize("name", ["../x", "registrations/../../x", "/etc/passwd"])
def test_no_name_leaves_the_root(name: str, tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="lies outside the registry"):
        Registry(tmp_path).path(name)


def test_a_link_that_leaves_the_root_has_no_name(tmp_path: Path) -> None:
    path = tmp_path / "root" / "verdict.json"
    path.parent.mkdir()
    path.symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(Tampered, match=r"verdict\.json: is a link that leaves the registry"):
        Registry(path.parent).name(path)


COMMIT = "0123456789abcdef" * 2 + "01234567"


@pytest.mark.parametrize(
    "source",
    [
        "",
        "/etc",
        "model",
        "../model",
        "./../../x",
        "./a/../../../x",
        "testbed:../../cli.py",
        "testbed:/etc",
        "hf:org/name",
        "hf:name@" + COMMIT,
        "hf:a/b/c@" + COMMIT,
        "hf:org/name@main",
        "hf:org/name@" + COMMIT.upper(),
        "http://host/model",
    ],
)
def test_a_source_that_is_refused(source: str, tmp_path: Path) -> None:
    with pytest.raises(Invalid):
        find_source(source, tmp_path / "registrations", tmp_path)


def test_sources_are_found_where_they_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "registrations" / "x"
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    assert find_source("./model", folder, tmp_path) == folder / "model"
    assert os.path.normpath(find_source("./../shared", folder, tmp_path)) == str(tmp_path / "registrations" / "shared")
    assert find_source("testbed:corpora/A", folder, tmp_path).is_dir()
    hub = find_source(f"hf:org/name@{COMMIT}", folder, tmp_path)
    assert hub == tmp_path / "hub" / "models--org--name" / "snapshots" / COMMIT


# ------------------------------------------------------------------ writing


def fail(*_: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("call", ["fsync", "fdopen"])
def test_a_write_that_fails_leaves_the_old_file(call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.json"
    canonical.write(path, {"old": True})
    before = tree(tmp_path)
    monkeypatch.setattr(os, call, fail)
    with pytest.raises(Stopped, match="No space left on device"):
        canonical.write(path, {"new": True})
    assert tree(tmp_path) == before


def test_a_document_without_canonical_bytes_touches_nothing(tmp_path: Path) -> None:
    with pytest.raises(Invalid):
        canonical.write(tmp_path / "deep" / "x.json", {"a": float("nan")})
    assert not list(tmp_path.iterdir())


def test_a_seal_that_fails_leaves_the_ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = Registry(tmp_path)
    registry.seal("atlas", "x", [], time=TIME)
    before = registry.ledger()
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(Stopped, match="No space left on device"):
        registry.seal("freeze", "x", [], time=TIME)
    assert registry.ledger() == before


def test_a_ledger_that_cannot_be_read_or_written_is_an_error_of_ours(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    registry.ledger_path.mkdir(parents=True)
    with pytest.raises(NotCheckable):
        registry.ledger()
    with pytest.raises(Stopped):
        registry.seal("atlas", "x", [], time=TIME)
