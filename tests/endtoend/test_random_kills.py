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
        _lose_half(tmp_path, moments)  # or the first kills would find everything, and the last nothing to compute
        processes = [_start(tmp_path, arguments) for arguments in runs]
        for process in processes:
            _wait(process, tmp_path, more=moments.randrange(3))
            time.sleep(moments.uniform(0, 0.5))
            process.send_signal(signal.SIGKILL)
        assert {process.wait(60) for process in processes} == {-signal.SIGKILL}, "all of them were computing"
        whole = {name: data for name, data in _files(tmp_path).items() if not name.startswith(".")}
        assert whole.items() <= evidence_digests(tiny, "tiny").items(), "what is there is whole and right"
    time.sleep(3)  # workers whose parent is gone end by themselves
    for arguments in runs:
        assert command("run", "tiny", "--root", tmp_path, *arguments).returncode == 0
    assert command("run", "tiny", "--root", tmp_path).returncode == 0
    assert {name: data for name, data in _files(tmp_path).items() if not name.startswith(".")} == evidence_digests(
        tiny, "tiny"
    )


def _wait(process: subprocess.Popen[bytes], root: Path, more: int) -> None:
    """Wait until so many more conditions are there: a start takes longer than a pack, and would take most of the kills.

    None more is any moment of the start, too.
    """
    enough = len(_files(root)) + more
    while len(_files(root)) < enough and process.poll() is None:
        time.sleep(0.01)


def _lose_half(root: Path, moments: random.Random) -> None:
    folder = root / "reports/tiny/evidence"
    there = sorted(folder.glob("*.json"))
    for path in moments.sample(there, len(there) // 2):
        path.unlink()


def _start(root: Path, arguments: list[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "prereg_moe", "run", "tiny", "--root", str(root), *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"},
    )


def _files(root: Path) -> dict[str, str]:
    return evidence_digests(root, "tiny") if (root / "reports/tiny/evidence").is_dir() else {}
