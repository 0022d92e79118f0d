"""Fifty kills at random moments, over one process, two shards and two Ray actors: the bytes are the same."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.endtoend.studies import command, copy_until_frozen, evidence_digests

WAYS = {
    "one process": (20, [["--workers", "2"]]),
    "two shards": (20, [["--workers", "1", "--shard", "1/2"], ["--workers", "1", "--shard", "2/2"]]),
    "two actors": (10, [["--workers", "2", "--executor", "ray"]]),
}


@pytest.mark.torture
@pytest.mark.parametrize("way", WAYS)
def test_a_run_killed_at_random_moments_ends_with_the_same_bytes(tiny: Path, tmp_path: Path, way: str) -> None:
    copy_until_frozen(tiny, tmp_path, "tiny")
    kills, runs = WAYS[way]
    moments = random.Random(f"kills of {way}")
    for _ in range(kills // len(runs)):
        processes = [_start(tmp_path, arguments) for arguments in runs]
        for process in processes:
            time.sleep(moments.uniform(0, 9))
            process.send_signal(signal.SIGKILL)
        for process in processes:
            process.wait(60)
        whole = {name: data for name, data in _files(tmp_path).items() if not name.startswith(".")}
        assert whole.items() <= evidence_digests(tiny, "tiny").items(), "what is there is whole and right"
    time.sleep(3)  # workers whose parent is gone end by themselves
    for arguments in runs:
        assert command("run", "tiny", "--root", tmp_path, *arguments).returncode == 0
    assert command("run", "tiny", "--root", tmp_path).returncode == 0
    assert {name: data for name, data in _files(tmp_path).items() if not name.startswith(".")} == evidence_digests(
        tiny, "tiny"
    )


def _start(root: Path, arguments: list[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "prereg_moe", "run", "tiny", "--root", str(root), *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"},
    )


def _files(root: Path) -> dict[str, str]:
    return evidence_digests(root, "tiny") if (root / "reports/tiny/evidence").is_dir() else {}
