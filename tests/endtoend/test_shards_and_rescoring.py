"""A run in parts ends with the same bytes; stored responses, scored again by lm-eval, give the stored metrics."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from prereg_moe import canonical
from tests.endtoend.studies import command, copy_until_frozen, evidence_digests, kill_at


def test_shards_on_two_machines_copied_together_give_the_same_bytes(tiny: Path, tmp_path: Path) -> None:
    machines = [tmp_path / "one", tmp_path / "two"]
    for number, root in enumerate(machines, start=1):
        copy_until_frozen(tiny, root, "tiny")
        if number == 1:
            kill_at(root, 4, "--shard", "1/2")
        done = command("run", "tiny", "--root", root, "--shard", f"{number}/2")
        assert done.returncode == 0, done.stderr
        assert command("verdict", "tiny", "--root", root).returncode == 4, "a shard is not the evidence"
    parts = [
        {name: data for name, data in evidence_digests(root, "tiny").items() if not name.startswith(".")}
        for root in machines
    ]
    assert not parts[0].keys() & parts[1].keys()
    assert parts[0] | parts[1] == evidence_digests(tiny, "tiny")
    shutil.copytree(machines[1] / "reports/tiny/evidence", machines[0] / "reports/tiny/evidence", dirs_exist_ok=True)
    done = command("run", "tiny", "--root", machines[0], "--json")
    assert '"computed": 0' in done.stdout
    assert command("verdict", "tiny", "--root", machines[0]).returncode == 0
    judged = canonical.read(machines[0] / "reports/tiny/verdict.json")
    started = judged.pop("record")["starts"]
    assert judged == canonical.read(tiny / "reports/tiny/verdict.json")
    assert len(started) == 3, "the shard that was killed, the shard, and the run that sealed the whole"


@pytest.mark.parametrize("shard", ["0/2", "3/2", "1", "a/b", "1/0", "-1/2", "1/2/3"])
def test_a_shard_that_is_none_is_refused(tiny: Path, shard: str) -> None:
    done = command("run", "tiny", "--root", tiny, "--shard", shard)
    assert done.returncode == 2
    assert "write for example 3/8" in done.stderr


def test_stored_responses_scored_again_give_the_stored_metrics(tiny: Path) -> None:
    done = command("rescore", "tiny", "--root", tiny)
    assert done.returncode == 0, done.stderr
    assert "52 conditions" in done.stdout


def test_a_metric_that_does_not_follow_from_the_responses_is_found(tiny: Path, tmp_path: Path) -> None:
    copy_until_frozen(tiny, tmp_path, "tiny")
    folder = tmp_path / "reports/tiny/evidence"
    shutil.copytree(tiny / "reports/tiny/evidence", folder)
    victim = sorted(folder.iterdir())[7]
    made = canonical.read(victim)
    column = made["axes"]["ar"]
    column["metric"][2] += 5.0
    column["values"][2] = column["metric"][2] / column["tokens"][2]
    canonical.write(victim, made)
    for verb in ("run", "verdict"):  # every digest is consistent: only lm-eval can tell
        assert command(verb, "tiny", "--root", tmp_path).returncode == 0
    done = command("rescore", "tiny", "--root", tmp_path)
    assert done.returncode == 3
    assert victim.name in done.stderr
    assert "lm-eval makes" in done.stderr
