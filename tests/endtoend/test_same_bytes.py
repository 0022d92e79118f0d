"""Promise 1: the same evidence and verdict bytes for any worker, thread count, kill and resume."""

from __future__ import annotations

import json
import shutil
import time
from hashlib import sha256
from pathlib import Path

from tests.endtoend.studies import command, copy_until_frozen, evidence_digests, kill_at

KILLS = (1, 9, 30)  # evidence files that are there when the run is killed


def verdict_bytes(root: Path) -> bytes:
    assert command("verdict", "tiny", "--root", root).returncode == 0
    return (root / "reports/tiny/verdict.json").read_bytes()


def test_a_run_killed_at_several_points_ends_with_the_same_bytes(tiny: Path, tmp_path: Path) -> None:
    copy_until_frozen(tiny, tmp_path, "tiny")
    for files in KILLS:
        kill_at(tmp_path, files)
    assert len(evidence_digests(tmp_path, "tiny")) < 52
    assert command("run", "tiny", "--root", tmp_path).returncode == 0
    finished = {name: data for name, data in evidence_digests(tmp_path, "tiny").items() if not name.startswith(".")}
    assert finished == evidence_digests(tiny, "tiny")
    interrupted, straight = (json.loads(verdict_bytes(root)) for root in (tmp_path, tiny))
    record = interrupted.pop("record")
    assert interrupted == straight
    assert len(record["starts"]) == len(KILLS) + 1, "and the report says how often it was started"


def test_one_worker_with_two_threads_asked_for_gives_the_same_bytes(tiny: Path, tmp_path: Path) -> None:
    copy_until_frozen(tiny, tmp_path, "tiny")
    assert command("run", "tiny", "--root", tmp_path, "--workers", "1", OMP_NUM_THREADS="2").returncode == 0
    assert evidence_digests(tmp_path, "tiny") == evidence_digests(tiny, "tiny")
    assert sha256(verdict_bytes(tmp_path)).digest() == sha256(verdict_bytes(tiny)).digest()


def test_workers_end_when_the_parent_is_killed(tiny: Path, tmp_path: Path) -> None:
    copy_until_frozen(tiny, tmp_path, "tiny")
    kill_at(tmp_path, 1)
    time.sleep(3)
    count = len(evidence_digests(tmp_path, "tiny"))
    time.sleep(2)
    assert len(evidence_digests(tmp_path, "tiny")) == count


def test_evidence_that_went_missing_is_made_again_with_the_same_bytes(tiny: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny, tmp_path / "copy")
    victim = next(iter((tmp_path / "copy/reports/tiny/evidence").iterdir()))
    victim.unlink()
    assert command("verdict", "tiny", "--root", tmp_path / "copy").returncode == 4
    assert command("run", "tiny", "--root", tmp_path / "copy").returncode == 0
    assert evidence_digests(tmp_path / "copy", "tiny") == evidence_digests(tiny, "tiny")


def test_the_planted_model_as_negative_control_makes_the_subject_invalid(tiny: Path) -> None:
    document = json.loads((tiny / "reports/tiny/verdict.json").read_bytes())
    assert document["controls"][0]["confirmed"] > 0
    assert {e["verdict"] for e in document["verdicts"] if e["block"] == "main"} == {"INVALID"}
    assert {tuple(e["reasons"]) for e in document["verdicts"] if e["block"] == "main"} == {("NEGATIVE_CONTROL_FAILED",)}
