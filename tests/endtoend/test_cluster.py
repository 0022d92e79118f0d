"""Two Ray actors, one of them lost in mid-run: nothing is lost, nothing is there twice, the bytes are the same."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.endtoend.studies import copy_until_frozen, evidence_digests

pytest.importorskip("ray", reason="Ray is an extra")


def actors_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """Return the actors' processes, which bear the name of what they compute."""
    children = psutil.Process(process.pid).children(recursive=True)
    return [child for child in children if child.is_running() and "_Computer" in " ".join(child.cmdline())]


def test_an_actor_that_is_killed_is_replaced_and_the_bytes_are_the_same(tiny: Path, tmp_path: Path) -> None:
    copy_until_frozen(tiny, tmp_path, "tiny")
    arguments = ["run", "tiny", "--root", str(tmp_path), "--workers", "2", "--executor", "ray"]
    process = subprocess.Popen(
        [sys.executable, "-m", "prereg_moe", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"},
    )
    folder, killed = tmp_path / "reports/tiny/evidence", False
    deadline = time.monotonic() + 400
    while process.poll() is None and time.monotonic() < deadline:
        if not killed and folder.is_dir() and len(list(folder.glob("*.json"))) >= 8:
            victim = actors_of(process)[0]
            victim.send_signal(signal.SIGKILL)
            killed = True
        time.sleep(0.05)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert killed
    assert evidence_digests(tmp_path, "tiny") == evidence_digests(tiny, "tiny")
