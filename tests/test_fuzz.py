"""Every loader, fed bytes near to those it accepts, finds nothing but typed errors.

Hypothesis makes the bytes: pieces cut out, repeated, or replaced by what readers trip over, and JSON
values of another shape. `make test` takes some seconds, `make torture` ten minutes.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from world import ID, World

from prereg_moe import attack, bundling, canonical, evidence, importing, ledger, report, rules, templating, trust
from prereg_moe.atlas.released import read_mass
from prereg_moe.claims import find_claims
from prereg_moe.errors import PreregError
from prereg_moe.frozen import Frozen
from prereg_moe.importing import schema
from prereg_moe.importing.frozen import FrozenImport
from prereg_moe.importing.rows import read_rows
from prereg_moe.importing.samples import read_samples
from prereg_moe.importing.summary import read_summary
from prereg_moe.registration import load
from prereg_moe.registration.document import read_yaml
from prereg_moe.trust.keys import opened, public_key, signed, written
from prereg_moe.trust.sealing import SIGNATURE
from prereg_moe.trust.stamps import read_stamp

SECONDS = 600  # of `make torture`, over all loaders
REPOSITORY = Path(__file__).parents[1]
KEY = Ed25519PrivateKey.from_private_bytes(bytes([7]) * 32)
Loader = Callable[[bytes], Any]

# ------------------------------------------------------------------ loaders


def kept(world: World) -> dict[str, tuple[bytes, Loader]]:
    """Return the loaders of what a study leaves: name -> bytes it accepts, and how it is called."""
    frozen, one = world.frozen, world.evidence[0]
    files = {path.name: path.read_bytes() for path in world.evidence}
    template = (world.folder / "templates/report.md.j2").read_text()
    packed = world.root / "study.zip"
    bundling.pack(world.registry, ID, packed)
    return {
        "registration": ((world.folder / "registration.yaml").read_bytes(), load),
        "frozen": ((world.folder / "frozen.json").read_bytes(), Frozen.from_bytes),
        "ledger": (world.registry.ledger(), ledger.parse),
        "evidence": (one.read_bytes(), lambda data: evidence.gather(frozen, {**files, one.name: data})),
        "verdict": (
            (world.registry.reports(ID) / "verdict.json").read_bytes(),
            lambda data: report.render(canonical.loads(data), template),
        ),
        "bundle": (packed.read_bytes(), lambda data: _unpacked(world.root / "fuzzed.zip", data)),
    }


def _unpacked(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    with bundling.opened(path):
        pass


def written_by_others(folder: Path) -> dict[str, tuple[bytes, Loader]]:
    """Return the loaders of what others write: released files, tables, runs, signatures, manuscripts, templates."""
    mass = folder / "mass.json"

    def released(data: bytes) -> Any:
        mass.write_bytes(data)
        return read_mass(mass)

    published = REPOSITORY / "registrations/command-a-plus"
    summary = schema.load(published / "registration.yaml")
    table = REPOSITORY / "reports/command-a-plus/sources/table1.csv"
    rows, samples = (schema.parse({**ELSEWHERE, **part}) for part in (ROWS, SAMPLES))
    row = [{"layer": str(layer), "item": item, "delta": item - 0.5} for layer in (0, 1) for item in range(3)]
    runs = _runs()
    path = "ablated/samples_t_2026.jsonl"
    head = "sha256:" + "0" * 64
    return {
        "released mass": (
            b'{"model":"m","num_experts":2,"top_k":1,"categories":["a","b"],"layers":[0],'
            b'"mass":{"a":{"0":[1,2]},"b":{"0":[2,1]}}}',
            released,
        ),
        "registration of an import": (
            (published / "registration.yaml").read_bytes(),
            lambda data: schema.parse(read_yaml(data)),
        ),
        "frozen import": ((published / "frozen.json").read_bytes(), FrozenImport.from_bytes),
        "published numbers": (table.read_bytes(), lambda data: read_summary(summary, data, "table1.csv")),
        "rows, CSV": (
            "\n".join(["layer,item,delta", *(",".join(map(str, one.values())) for one in row)]).encode(),
            lambda data: read_rows(rows, data, "rows.csv"),
        ),
        "rows, JSON": (json.dumps(row).encode(), lambda data: read_rows(rows, data, "rows.json")),
        "rows, JSON lines": (
            "\n".join(map(json.dumps, row)).encode(),
            lambda data: read_rows(rows, data, "rows.jsonl"),
        ),
        "samples of lm-eval": (runs[path], lambda data: read_samples(samples, {**runs, path: data})),
        "results of lm-eval": (
            runs["ablated/results_2026.json"],
            lambda data: read_samples(samples, {**runs, "ablated/results_2026.json": data}),
        ),
        "signature": (
            signed(KEY, SIGNATURE, head, {"registration": ID, "head": head}),
            lambda data: opened(data, "signature", SIGNATURE),
        ),
        "public key": (
            written(KEY.public_key()).encode(),
            lambda data: public_key(data.decode("utf-8", "replace"), "key"),
        ),
        "nonce": (
            trust.give_nonce(head, KEY, nonce=bytes(32), time="2026-01-01T00:00:00Z"),
            lambda data: opened(data, "nonce", "prereg-moe:challenge/1"),
        ),
        "time stamp": (
            (Path(attack.__file__).parent / "another.tsr").read_bytes(),
            lambda data: read_stamp(data, "stamp"),
        ),
        "manuscript": (MANUSCRIPT, lambda data: find_claims(data, "paper.tex")),
        "list of claims": (
            b"- {claim: 'world:main.no', verdict: CONFIRMED, numbers: {on: 1.25}}\n",
            lambda data: find_claims(data, "c.yaml"),
        ),
        "template": (
            b"{% for c in study.claims %}{{ c.id }}: {{ p(c.p) if c.p else 1.5 * 2 }}{% endfor %}",
            lambda data: templating.fill(
                data.decode("utf-8", "replace"), {"study": {"claims": [{"id": "a", "p": None}]}, "p": str}, {}
            ),
        ),
        "expression": (
            b"on.est > null.mean + 2*null.sd and not off.hi <= on.lo/3",
            lambda data: rules.parse(data.decode("utf-8", "replace")),
        ),
    }


ELSEWHERE: dict[str, Any] = {
    "schema": importing.SCHEMA,
    "id": "elsewhere",
    "title": "Made elsewhere",
    "question": "What does it decide?",
    "authors": ["The tests"],
    "foreknowledge": "All of it.",
    "provenance": {"source": "a table", "made_by": "the tests", "intervention": "none"},
    "rules": {"harm": {"kind": "superiority", "test": "t"}},
    "claims": [{"id": "harm", "hypothesis": "It harms.", "rule": "harm"}],
    "inference": {"alpha": 0.05, "method": "holm", "seed": "5", "resamples": 999},
}
ROWS = {
    "evidence": {"kind": "rows", "cells": {"layer": ["0", "1"]}, "item": "item", "delta": "delta", "harm": "increase"}
}
SAMPLES = {
    "evidence": {
        "kind": "lm-eval",
        "version": "0.4.13",
        "axes": {"a": {"task": "t", "metric": "nll", "harm": "increase"}},
        "baseline": {"folder": "base", "model": "m"},
        "ablations": {"one": {"folder": "ablated", "model": "m"}},
    }
}
MANUSCRIPT = rb"""
\section{Results}  % \prereg{world:main.no.on}{1.25}
Masking costs \prereg{world:main.no.on}{1.25} nats [\prereg{world:main.no.off.en.high}{< 0.5}], so the family is
\prereg{world:main.no=CONFIRMED}{a module}.
"""


def _runs() -> dict[str, bytes]:
    """Return what two runs of lm-evaluation-harness left, as far as a reader looks."""
    made = {}
    for run, shift in (("base", 0.0), ("ablated", 0.5)):
        samples: list[dict[str, Any]] = [
            {
                "doc_id": n,
                "doc": {"text": f"text {n}"},
                "target": "",
                "arguments": {"gen_args_0": {"arg_0": f"text {n}"}},
                "resps": [[[str(-n - shift), "False"]]],
                "filtered_resps": [[str(-n - shift), "False"]],
                "filter": "none",
                "metrics": ["nll"],
                "doc_hash": _hash(json.dumps({"text": f"text {n}"}, indent=2)),
                "prompt_hash": _hash(f"text {n}"),
                "target_hash": _hash(""),
                "nll": n + shift,
            }
            for n in range(3)
        ]
        joined = "".join(one[name] for one in samples for name in ("doc_hash", "prompt_hash", "target_hash"))
        results = {
            "results": {"t": {"alias": "t", "nll,none": 1 + shift, "nll_stderr,none": "N/A"}},
            "group_subtasks": {"t": []},
            "configs": {"t": {"task": "t", "output_type": "loglikelihood_rolling"}},
            "versions": {"t": 1.0},
            "n-shot": {"t": 0},
            "higher_is_better": {"t": {"nll": False}},
            "n-samples": {"t": {"original": 3, "effective": 3}},
            "config": {"model": "hf", "model_args": "pretrained=m", "limit": None},
            "model_name": "m",
            "lm_eval_version": "0.4.13",
            "task_hashes": {"t": _hash(joined)},
        }
        made[f"{run}/results_2026.json"] = json.dumps(results).encode()
        made[f"{run}/samples_t_2026.jsonl"] = "".join(json.dumps(sample) + "\n" for sample in samples).encode()
    return made


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


# ------------------------------------------------------------------ bytes near to those it accepts

TOKENS = (
    *(b"null", b"[]", b"{}", b'""', b"-1", b"1e999", b"1e308", b"NaN", b"true", b"9" * 400, b"[" * 4000, b"\\ud800"),
    *(b"\x00", b"\xff", "\u202e".encode(), b"&a *a", b"!!python/name:os.system", b"../../x", b"{{ x }}", b"'", b"\r"),
)
NONSENSE: tuple[Any, ...] = (None, 0, -1, 1.5, "", "x", [], {}, [[]], {"": {}}, True, 2**53, "\ud7ff", [0] * 50)


@st.composite
def near(draw: st.DrawFn, data: bytes) -> bytes:
    """Draw bytes that are not far from ``data``."""
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(data)))
        length = draw(st.integers(0, min(64, len(data) - at)))
        kind = draw(st.sampled_from(("bytes", "token", "again", "cut", "shape")))
        if kind == "bytes":
            data = data[:at] + draw(st.binary(max_size=8)) + data[at + length :]
        elif kind == "token":
            data = data[:at] + draw(st.sampled_from(TOKENS)) + data[at + length :]
        elif kind == "again":
            data = data[:at] + data[at : at + length] * draw(st.integers(2, 4)) + data[at + length :]
        elif kind == "cut":
            data = data[:at]
        else:
            data = _other_shape(draw, data)
    return data


def _other_shape(draw: st.DrawFn, data: bytes) -> bytes:
    """Replace, remove or repeat a value somewhere in a JSON document, or in one of its lines."""
    lines = data.splitlines(keepends=True)
    number = draw(st.integers(0, max(0, len(lines) - 1)))
    try:
        document = json.loads(lines[number])
    except (ValueError, IndexError, RecursionError):
        return data
    parent: Any = [document]
    key: Any = 0
    while isinstance(parent[key], (dict, list)) and parent[key] and draw(st.booleans()):
        parent = parent[key]
        key = draw(st.sampled_from(sorted(parent) if isinstance(parent, dict) else range(len(parent))))
    match draw(st.sampled_from(("other", "gone", "twice"))):
        case "other":
            parent[key] = draw(st.sampled_from(NONSENSE))
        case "gone" if parent:
            del parent[key]
        case _ if isinstance(parent, list):
            parent.append(parent[key])
        case _:
            parent[f"{key}2"] = parent[key]
    if isinstance(parent, list) and not parent:
        return data
    line = json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "surrogatepass")
    return b"".join([*lines[:number], line + b"\n" * lines[number].endswith(b"\n"), *lines[number + 1 :]])


def feed(data: bytes, loader: Loader, *, examples: int, number: int) -> tuple[int, int]:
    """Feed a loader some examples; return how many it was fed and how many it refused."""
    count = {"fed": 0, "refused": 0}

    @seed(number)
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(near(data))
    def once(bad: bytes) -> None:
        count["fed"] += 1
        try:
            loader(bad)
        except PreregError:
            count["refused"] += 1

    once()
    return count["fed"], count["refused"]


NAMES = {
    "kept": ("registration", "frozen", "ledger", "evidence", "verdict", "bundle"),
    "others": (
        *("released mass", "registration of an import", "frozen import", "published numbers", "rows, CSV"),
        *("rows, JSON", "rows, JSON lines", "samples of lm-eval", "results of lm-eval", "signature", "public key"),
        *("nonce", "time stamp", "manuscript", "list of claims", "template", "expression"),
    ),
}


@pytest.fixture(scope="module")
def loaders(stages_of_small: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return every loader by its name."""
    folder = tmp_path_factory.mktemp("fuzz")
    world = World(Path(shutil.copytree(stages_of_small["reported"], folder / "small")))
    found = {"kept": kept(world), "others": written_by_others(folder)}
    assert {group: tuple(made) for group, made in found.items()} == NAMES
    return {name: one for made in found.values() for name, one in made.items()}


EVERY = [name for group in NAMES.values() for name in group]


@pytest.mark.parametrize("name", EVERY)
def test_a_loader_finds_nothing_but_typed_errors(name: str, loaders: Mapping[str, tuple[bytes, Loader]]) -> None:
    data, loader = loaders[name]
    loader(data)  # what it accepts, it accepts
    fed, refused = feed(data, loader, examples=40, number=0)
    assert fed >= 40
    assert refused >= 5


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("registration", b"families:\n  - 'no'", b"families:\n  -"),  # a list where a word is expected
        ("samples of lm-eval", b'"doc_id": 0', b'"doc_id": [0]'),
    ],
)
def test_what_a_run_of_ten_minutes_found(
    name: str, old: bytes, new: bytes, loaders: Mapping[str, tuple[bytes, Loader]]
) -> None:
    data, loader = loaders[name]
    assert old in data
    with pytest.raises(PreregError):
        loader(data.replace(old, new))


@pytest.mark.torture
@pytest.mark.parametrize("name", EVERY)
def test_a_loader_finds_nothing_but_typed_errors_for_its_share_of_ten_minutes(
    name: str, loaders: Mapping[str, tuple[bytes, Loader]]
) -> None:
    data, loader = loaders[name]
    end, number, total = time.monotonic() + SECONDS / len(EVERY), 0, [0, 0]
    while time.monotonic() < end:
        number += 1
        for part, more in enumerate(feed(data, loader, examples=200, number=number)):
            total[part] += more
    print(f"{name}: {total[0]} fed, {total[1]} refused")  # noqa: T201 - the figure of the run
    assert total[1] > 0
