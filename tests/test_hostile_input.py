"""Hostile input: bounded time and memory, and a typed error; what is another shape than ours is tampered, never a bug.

Each document below is canonical and sealed again, as an author could have left it: every verb has to say what is wrong.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from world import ID, World

from prereg_moe import canonical, evidence, report
from prereg_moe.atlas.released import read_mass
from prereg_moe.attack.copies import Copy
from prereg_moe.errors import PreregError
from prereg_moe.frozen import Frozen
from prereg_moe.ledger import parse
from prereg_moe.registration import load

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
def test_a_sealed_document_of_another_shape_is_no_bug(name: str, reported: World, run_cli: Cli) -> None:
    [(place, commands)] = [item for item in verbs(reported).items() if item[0].endswith("/" + name)]
    path = reported.root / place
    rng, kept, copy = random.Random(name), path.read_bytes(), Copy(reported.registry, ID)
    before = reported.registry.ledger_path.read_bytes()
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
        reported.registry.ledger_path.write_bytes(before)


def _reseal_list(copy: Copy, data: bytes) -> None:
    """Seal a list of evidence as it is (the forger would make the list again)."""
    copy.reseal()
    path = copy.reports / "evidence.json"
    old = canonical.digest_file(path)
    path.write_bytes(data)
    lines = copy.registry.ledger_path.read_bytes().replace(old.encode(), canonical.digest(data).encode())
    copy.registry.ledger_path.write_bytes(lines)


def test_an_atlas_of_another_shape_cannot_be_frozen(world_at: Callable[[str], World], run_cli: Cli) -> None:
    world = world_at("recorded")
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


# ------------------------------------------------------------------ the loaders, by themselves


def loaders(reported: World) -> dict[str, tuple[bytes, Callable[[bytes], Any]]]:
    """Return, for each loader, bytes it accepts and how it is called."""
    frozen = reported.frozen
    one = reported.evidence[0]
    files = {path.name: path.read_bytes() for path in reported.evidence}
    verdict = (reported.registry.reports(ID) / "verdict.json").read_bytes()
    template = (reported.folder / "templates/report.md.j2").read_text()
    mass = reported.root / "mass.json"

    def released(data: bytes) -> Any:
        mass.write_bytes(data)
        return read_mass(mass)

    released_bytes = (
        b'{"model":"m","num_experts":2,"top_k":1,"categories":["a","b"],"layers":[0],'
        b'"mass":{"a":{"0":[1,2]},"b":{"0":[2,1]}}}'
    )
    return {
        "registration": ((reported.folder / "registration.yaml").read_bytes(), load),
        "frozen": ((reported.folder / "frozen.json").read_bytes(), Frozen.from_bytes),
        "ledger": (reported.registry.ledger(), parse),
        "evidence": (one.read_bytes(), lambda data: evidence.gather(frozen, {**files, one.name: data})),
        "verdict": (verdict, lambda data: report.render(canonical.loads(data), template)),
        "released mass": (released_bytes, released),
    }


TOKENS = [b"null", b"[]", b"{}", b'""', b"-1", b"1e999", b"1e308", b"NaN", b"true", b"9" * 400, b"[" * 4000, b"\\ud800"]
NAMES = ("registration", "frozen", "ledger", "evidence", "verdict", "released mass")


def fuzz(data: bytes, rng: random.Random) -> bytes:
    """Return bytes near to those a loader accepts: as bytes, as text, or as another JSON value."""
    kind = rng.randrange(4)
    if kind == 0:
        at, end = sorted(rng.choices(range(len(data)), k=2))
        return data[:at] + rng.randbytes(rng.randrange(8)) + data[min(end, at + rng.randrange(16)) :]
    if kind == 1:
        at = rng.randrange(len(data))
        tokens = [
            b"null",
            b"[]",
            b"{}",
            b'""',
            b"-1",
            b"1e999",
            b"1e308",
            b"NaN",
            b"true",
            b"9" * 400,
            b"[" * 4000,
            b"\\ud800",
        ]
        return data[:at] + rng.choice(tokens) + data[at + rng.randrange(6) :]
    if kind == 2:
        at = rng.randrange(len(data))
        return data[:at] + data[at : at + rng.randrange(1, 200)] * rng.randrange(1, 4) + data[at:]
    try:
        return canonical.dumps(shapes(canonical.loads(data), rng, 1)[0])
    except (PreregError, TypeError):
        return data[: rng.randrange(len(data))]


def run_fuzz(name: str, reported: World, count: int, seed: str) -> int:
    data, loader = loaders(reported)[name]
    rng, refused = random.Random(f"{seed}/{name}"), 0
    for number in range(count):
        bad = fuzz(data, rng)
        try:
            loader(bad)
        except PreregError:
            refused += 1
        except Exception as error:
            error.add_note(f"{name}, {number}: {bad[:200]!r}")
            raise
    return refused


@pytest.mark.parametrize("name", NAMES)
def test_a_loader_finds_nothing_but_typed_errors(name: str, reported: World) -> None:
    assert run_fuzz(name, reported, 30 if name == "registration" else 60, "quick") > 10


@pytest.mark.torture
@pytest.mark.parametrize("name", NAMES)
def test_a_loader_finds_nothing_but_typed_errors_for_long(name: str, reported: World) -> None:
    run_fuzz(name, reported, 500 if name == "registration" else 4000, "long")


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
    refused(limited("check", path))


def test_evidence_of_a_gigabyte(reported: World) -> None:
    os.truncate(reported.evidence[0], 1 << 30)
    assert reported.evidence[0].name in refused(limited("audit", reported.root))
    assert reported.evidence[0].name in refused(limited("verdict", ID, "--root", reported.root))


@pytest.mark.parametrize("name", ["reports/world/verdict.json", "registrations/world/frozen.json"])
def test_a_pipe_or_a_device_in_place_of_a_file(name: str, reported: World) -> None:
    path = reported.root / name
    path.unlink()
    os.mkfifo(path)
    refused(limited("audit", reported.root))
    path.unlink()
    path.symlink_to("/dev/zero")
    refused(limited("audit", reported.root))


def test_evidence_that_is_a_pipe_is_not_waited_for(reported: World) -> None:
    path = reported.evidence[0]
    path.unlink()
    os.mkfifo(path)
    assert path.name in refused(limited("audit", reported.root))
    refused(limited("verdict", ID, "--root", reported.root))


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


QUICK = ("reaches Python", "counts for ever", "doubles a list")


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.torture) for name in TEMPLATES]
)
def test_a_template_that(name: str, reported: World, tmp_path: Path) -> None:
    """A forger freezes it, pins it and seals it: whoever audits that renders it."""
    copy = Copy(reported.registry, ID)
    path = reported.folder / "templates/report.md.j2"
    path.write_text(TEMPLATES[name])

    def pin(document: Any) -> None:
        document["pins"]["templates"][path.name] = canonical.digest_file(path)

    copy.edit(reported.folder / "frozen.json", pin)
    copy.reseal()
    refused(limited("audit", reported.root))
