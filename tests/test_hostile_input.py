"""Hostile input: bounded time and memory, and a typed error; what is another shape than ours is tampered, never a bug.

Each document below is canonical and sealed again, as an author could have left it: every verb has to say what is wrong.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from world import ID, World

from prereg_moe import canonical, rendering
from prereg_moe.attack.copies import Copy

Cli = Callable[..., Any]
TYPED = (1, 2, 3, 4, 5)
NONSENSE: tuple[Any, ...] = (None, 0, -1, 1.5, "", "x", [], {}, [[]], {"": {}}, True)

# ------------------------------------------------------------------ documents of another shape, sealed again


def shapes(document: Any, rng: random.Random, count: int) -> list[Any]:
    """Return the document with one value, somewhere, replaced by nonsense, removed or repeated."""
    made = []
    for _ in range(count):
        forged = canonical.loads(canonical.dumps(document))
        parent, key = _somewhere(forged, rng)
        match rng.randrange(3):
            case 0:
                parent[key] = rng.choice(NONSENSE)
            case 1:
                del parent[key]
            case _ if isinstance(parent, list):
                parent.append(parent[key])
            case _:
                parent[f"{key}2"] = parent[key]
        made.append(forged)
    return made


def _somewhere(document: Any, rng: random.Random) -> tuple[Any, Any]:
    """Return a container in the document and a key of it; near the root as often as deep inside."""
    parent, key = document, None
    inner = document
    while isinstance(inner, (dict, list)) and inner and (key is None or rng.random() < 0.8):
        parent = inner
        key = rng.choice(list(inner)) if isinstance(inner, dict) else rng.randrange(len(inner))
        inner = parent[key]
    return parent, key


def verbs(world: World) -> dict[str, list[tuple[str, ...]]]:
    root = ("--root", str(world.root))
    every = [("audit", str(world.root)), ("status", *root), ("report", ID, *root), ("verdict", ID, *root)]
    return {
        f"registrations/{ID}/frozen.json": [*every, ("run", ID, "--dry-run", *root)],
        f"registrations/{ID}/atlas.json": every[:1],
        f"reports/{ID}/verdict.json": every,
        f"reports/{ID}/evidence.json": every,
    }


@pytest.mark.parametrize("name", ["frozen.json", "atlas.json", "verdict.json", "evidence.json"])
def test_a_sealed_document_of_another_shape_is_no_bug(name: str, small: World, run_cli: Cli) -> None:
    [(place, commands)] = [item for item in verbs(small).items() if item[0].endswith("/" + name)]
    path = small.root / place
    rng, kept, copy = random.Random(name), path.read_bytes(), Copy(small.registry, ID)
    before = small.registry.ledger_path.read_bytes()
    for forged in [*NONSENSE[::4], *shapes(canonical.loads(kept), rng, 6)]:
        canonical.write(path, canonical.dumps(forged))
        if name != "evidence.json":
            copy.reseal()
        else:
            _reseal_list(copy, canonical.dumps(forged))
        for command in commands:
            said = run_cli(*command)
            assert "a bug in prereg-moe" not in said.err, (command, said.err, str(forged)[:300])
            assert said.code in (0, *TYPED), (command, said.err)
        path.write_bytes(kept)
        small.registry.ledger_path.write_bytes(before)


def _reseal_list(copy: Copy, data: bytes) -> None:
    """Seal a list of evidence as it is (the forger would make the list again)."""
    copy.reseal()
    path = copy.reports / "evidence.json"
    old = canonical.digest_file(path)
    path.write_bytes(data)
    lines = copy.registry.ledger_path.read_bytes().replace(old.encode(), canonical.digest(data).encode())
    copy.registry.ledger_path.write_bytes(lines)


def test_an_atlas_of_another_shape_cannot_be_frozen(small_at: Callable[[str], World], run_cli: Cli) -> None:
    world = small_at("recorded")
    path = world.folder / "atlas.json"
    rng, kept, copy = random.Random("atlas"), canonical.read(path), Copy(world.registry, ID)
    for forged in [*NONSENSE[::2], *shapes(kept, rng, 8)]:
        canonical.write(path, canonical.dumps(forged))
        copy.reseal()
        said = run_cli("freeze", ID, "--root", world.root)
        assert "a bug in prereg-moe" not in said.err, (said.err, str(forged)[:300])
        assert said.code in (0, *TYPED)
        if said.code == 0:
            return  # what was changed says nothing, and the study is frozen


# ------------------------------------------------------------------ time and memory

_LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))
resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
from prereg_moe.cli import main
main(sys.argv[1:])
"""


def limited(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a command that may take three gigabytes of addresses and a minute of a processor."""
    return subprocess.run(
        [sys.executable, "-c", _LIMITED, *map(str, arguments)], capture_output=True, text=True, timeout=600
    )


def refused(said: subprocess.CompletedProcess[str]) -> str:
    assert said.returncode in (2, 3, 4), (said.returncode, said.stderr[-500:])
    assert "Traceback" not in said.stderr
    assert "a bug in" not in said.stderr
    return said.stderr + said.stdout


YAML = {
    "a million brackets": b"[" * 1_000_000,
    "many aliases": b"a: &a [1]\nb: [" + b"*a," * 100_000 + b"1]",
    "billions of laughs": b"".join(
        b"a%d: &a%d [%s]\n" % (n, n, b",".join([b"*a%d" % (n - 1)] * 9)) for n in range(1, 20)
    ),
    "a number of a million digits": b"a: " + b"9" * 1_000_000,
    "a list of half a million": b"a: [" + b"1," * 500_000 + b"1]",
    "three hundred megabytes": b"",
}


@pytest.mark.parametrize(
    "name", [name if name.startswith("b") else pytest.param(name, marks=pytest.mark.torture) for name in YAML]
)
def test_yaml_made_to_exhaust_a_reader(name: str, tmp_path: Path) -> None:
    path = tmp_path / "registration.yaml"
    path.write_bytes(YAML[name])
    if not YAML[name]:
        os.truncate(path, 300 << 20)
    assert refused(limited("check", path)).startswith("error: ")


def test_evidence_of_a_gigabyte(small: World) -> None:
    os.truncate(small.evidence[0], 1 << 30)
    assert small.evidence[0].name in refused(limited("audit", small.root))
    assert small.evidence[0].name in refused(limited("verdict", ID, "--root", small.root))


@pytest.mark.parametrize("name", ["reports/world/verdict.json", "registrations/world/frozen.json"])
def test_a_pipe_or_a_device_in_place_of_a_file(name: str, small: World) -> None:
    path = small.root / name
    path.unlink()
    os.mkfifo(path)
    assert path.name in refused(limited("audit", small.root))
    path.unlink()
    path.symlink_to("/dev/zero")
    assert path.name in refused(limited("audit", small.root))


def test_evidence_that_is_a_pipe_is_not_waited_for(small: World) -> None:
    path = small.evidence[0]
    path.unlink()
    os.mkfifo(path)
    assert path.name in refused(limited("audit", small.root))
    assert path.name in refused(limited("verdict", ID, "--root", small.root))


TEMPLATES = {
    "reaches Python": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "reaches a function's globals": "{{ range.__globals__ }}",
    "reaches a function by its filters": "{{ study|attr('__class__') }}",
    "multiplies text": "{{ 'x' * 10000000000 }}",
    "counts for ever": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "doubles a text": "{% set n = namespace(x='xx') %}{% for a in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
    "doubles a list": "{% set n = namespace(x=[1]) %}{% for a in range(60) %}{% set n.x = n.x + n.x %}{% endfor %}",
    "calls itself": "{% macro a() %}{{ a() }}{{ a() }}{% endmacro %}{{ a() }}",
    "reads a file": "{% include '/etc/passwd' %}",
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_that(name: str, small: World, run_cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """A forger freezes it, pins it and seals it: whoever audits that renders it, apart and within bounds."""
    monkeypatch.setattr(rendering, "SECONDS", 2)
    monkeypatch.setattr(rendering, "BYTES", 1 << 30)
    copy = Copy(small.registry, ID)
    path = small.folder / "templates/report.md.j2"
    path.write_text(TEMPLATES[name])

    def pin(document: Any) -> None:
        document["pins"]["templates"][path.name] = canonical.digest_file(path)

    copy.edit(small.folder / "frozen.json", pin)
    copy.reseal()
    began = time.monotonic()
    said = run_cli("audit", small.root)
    assert said.code in (2, 3, 4), said.err
    assert "9 report             fails" in said.out
    assert "a bug in" not in said.err
    assert time.monotonic() - began < 60
