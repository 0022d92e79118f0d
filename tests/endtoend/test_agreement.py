"""Another engine or batch budget moves answers within the tolerance, and every run says by how much."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prereg_moe import canonical
from prereg_moe.amending import amend
from prereg_moe.registry import Registry, now
from tests.endtoend.studies import TINY, command, copy_until_frozen

ENGINES = {
    "a row or two a batch": "engine: {kind: sweep, pack: 6, batch_tokens: 300, check: 2}",
    "lm-eval's own scorer": "engine: {kind: stock, batch_size: 3}",
}
NATS = 1e-3


def files(root: Path) -> Iterator[Any]:
    return (canonical.read(path) for path in (root / "reports/tiny/evidence").iterdir())


def log_likelihoods(root: Path) -> dict[str, np.ndarray]:
    """Return what was done to which model -> the log-likelihood of every passage, axis by axis."""
    found = {}
    for made in files(root):
        condition = {name: made["condition"][name] for name in ("model", "intervention")}
        columns = [made["axes"][axis]["responses"] for axis in sorted(made["axes"])]
        found[json.dumps(condition)] = np.array(columns, dtype=float)
    return found


def test_a_run_says_what_its_evidence_says_of_the_check(tiny: Path) -> None:
    said = json.loads(command("run", "tiny", "--root", tiny, "--json").stdout)["agreement"]
    checks = [made["engine"]["check"] for made in files(tiny)]
    largest = max(check["largest"] for check in checks)
    assert 0 < largest == said["largest"] <= said["tolerance"] == NATS
    assert (said["conditions"], said["requests"]) == (52, 52 * 4)
    assert said["flips"] == 0
    assert said["by_stock"] == {}
    told = command("run", "tiny", "--root", tiny).stdout
    assert f"208 requests of 52 conditions were computed by stock as well: at most {largest:.2g} nats apart" in told


@pytest.mark.parametrize("name", ENGINES)
def test_another_budget_or_engine_lies_within_the_tolerance(tiny: Path, tmp_path: Path, name: str) -> None:
    copy_until_frozen(tiny, tmp_path, "tiny")
    document = tmp_path / "amended.yaml"
    document.write_text(TINY.replace("engine: {kind: sweep, pack: 6}", ENGINES[name]), "utf-8")
    amend(Registry(tmp_path), "tiny", document, reason="another engine", time=now())
    done = command("run", "tiny", "--root", tmp_path, "--workers", "1", "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)["agreement"]
    assert said is None if "stock" in ENGINES[name] else 0 < said["largest"] <= NATS
    ours, theirs = log_likelihoods(tmp_path), log_likelihoods(tiny)
    assert ours.keys() == theirs.keys()
    apart = max(float(np.abs(ours[key] - theirs[key]).max()) for key in ours)
    assert 0 < apart <= NATS, "the last bits move, and nothing else"
