"""Small real studies for the end-to-end tests: the testbed's registration cut down, and models built from configs."""

from __future__ import annotations

import io
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import pytest

import prereg_moe.lab.testbed as testbed
from prereg_moe import canonical
from prereg_moe.cli import main
from prereg_moe.demo import REGISTRATION

TESTBED = Path(testbed.__file__).parent
QUICK = {"items: 60": "items: 8", "items: 90": "items: 20", "skip: 90": "skip: 20", "draws: 39": "draws: 22"}


def quick_registration(**changes: str) -> str:
    """Return the testbed's registration with 8 items an axis and 22 draws, and further replacements."""
    text = REGISTRATION.read_text("utf-8")
    for old, new in {**QUICK, **changes}.items():
        assert old in text, f"the testbed's registration no longer says {old!r}"
        text = text.replace(old, new)
    return text


TINY = """\
schema: prereg-moe/1
id: tiny
title: A study small enough to be killed many times
question: Does everything end with the same bytes?
authors: [tests]
foreknowledge: Everything is known.
models:
  subject: {source: "testbed:models/standard"}
  other: {source: "testbed:models/planted"}
corpora:
  A: {source: "testbed:corpora/A"}
  B: {source: "testbed:corpora/B"}
axes:
  en: {domain: language}
  ar: {domain: language}
  code: {domain: capability}
measures:
  nll: {kind: task, tasks: "testbed:tasks", task: "testbed_nll_{axis}_B", metric: nll, per: token,
        harm: increase, corpus: B, items: 6}
atlas: {corpus: A, items: 16}
families:
  - {axes: all, build: {kind: top_lift, size: 4, unit: per_layer, exclude: {kind: none}}}
intervention: {kind: mask, gates: renorm}
controls:
  null: {kind: random_sets, draws: 22, seed: "7"}
  negative: {claims: control, at_most: 0}
rules:
  modular: {kind: modular, kappa: 3, minimum_effect: 0.05}
claims:
  - {id: main, hypothesis: H, tier: confirmatory, model: subject, families: all, measure: nll, off: all, rule: modular}
  - {id: control, hypothesis: H, tier: control, model: other, families: all, measure: nll, off: all, rule: modular}
inference: {alpha: 0.05, seed: "8"}
engine: {kind: sweep, pack: 6}
"""


def write_registration(root: Path, id_: str, text: str) -> Path:
    """Put a registration into a registry and return its folder."""
    folder = root / "registrations" / id_
    folder.mkdir(parents=True)
    (folder / "registration.yaml").write_text(text, "utf-8")
    return folder


@dataclass(frozen=True, slots=True)
class Done:
    """What a command did, as `subprocess.run` says it."""

    returncode: int
    stdout: str
    stderr: str


def command(*arguments: object, **environment: str) -> Done:
    """Run ``prereg-moe`` in this process: one of its own would import for seconds. Its workers are processes always."""
    out, err = io.StringIO(), io.StringIO()
    with (
        patch.dict(os.environ, environment),
        redirect_stdout(out),
        redirect_stderr(err),
        pytest.raises(SystemExit) as ended,
    ):
        main([str(argument) for argument in arguments])
    return Done(int(ended.value.code or 0), out.getvalue(), err.getvalue())


def process(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run ``prereg-moe`` in a process of its own, as a user does."""
    return subprocess.run(
        [sys.executable, "-m", "prereg_moe", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, **environment},
    )


def evidence_digests(root: Path, id_: str) -> dict[str, str]:
    """Return the digest of every file of the evidence folder, hidden ones too.

    Digests, because pytest would spend hours on showing where megabytes differ.
    """
    return {path.name: canonical.digest_file(path) for path in (root / "reports" / id_ / "evidence").iterdir()}


def kill_at(root: Path, files: int, *options: str) -> None:
    """Start a run and kill its parent process when so many evidence files are there."""
    folder = root / "reports/tiny/evidence"
    arguments = [sys.executable, "-m", "prereg_moe", "run", "tiny", "--root", str(root), "--workers", "2", *options]
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and process.poll() is None:
        if folder.is_dir() and len(list(folder.glob("*.json"))) >= files:
            process.send_signal(signal.SIGKILL)
        time.sleep(0.02)
    assert process.wait(60) == -signal.SIGKILL


def copy_until_frozen(source: Path, target: Path, id_: str) -> None:
    """Copy a registry as it was right after freezing."""
    shutil.copytree(source / "registrations", target / "registrations")
    path = target / "registrations" / "LEDGER.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    frozen = next(number for number, line in enumerate(lines) if b'"kind":"freeze"' in line)
    path.write_bytes(b"".join(lines[: frozen + 1]))
