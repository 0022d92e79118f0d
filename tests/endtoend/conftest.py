"""One run of each small study, shared by the tests that look at it or at copies of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.endtoend.studies import TINY, command, process, quick_registration, write_registration


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The demo on the reduced testbed registration: its folder and what `--json` printed last."""
    root = tmp_path_factory.mktemp("demo")
    write_registration(root, "testbed", quick_registration())
    done = process("demo", root, "--json")
    assert done.returncode == 0, done.stderr
    return root, json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished, judged and reported study of 52 conditions."""
    root = tmp_path_factory.mktemp("tiny")
    write_registration(root, "tiny", TINY)
    for verb in ("atlas", "freeze", "run", "verdict", "report"):
        done = command(verb, "tiny", "--root", root)
        assert done.returncode == 0, done.stderr
    return root
