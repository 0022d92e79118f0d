"""What the tests of the core share: worlds at every stage of a study, and the command line.

A world is built once a session, stage by stage; a test gets a copy of its own.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # `world` lies beside the tests

from world import ID, TIME, World
from world import small as small_study

from prereg_moe import stages
from prereg_moe.cli import main

STAGES = ("authored", "recorded", "frozen", "computed", "judged", "reported")


@pytest.fixture(scope="session")
def stages_of_a_world(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same world as it stood after each stage."""
    kept = tmp_path_factory.mktemp("worlds")
    world = World(kept / "now")
    steps = dict(
        zip(STAGES, (world.author, world.record, world.freeze, world.run, world.judge, world.report), strict=True)
    )
    for name, step in steps.items():
        step()
        shutil.copytree(world.root, kept / name)
    return {name: kept / name for name in STAGES}


@pytest.fixture
def world_at(stages_of_a_world: dict[str, Path], tmp_path: Path) -> Callable[[str], World]:
    """Return a copy of the world as it stood after a stage of :data:`STAGES`."""

    def copy(stage: str) -> World:
        return World(Path(shutil.copytree(stages_of_a_world[stage], tmp_path / "registry", dirs_exist_ok=True)))

    return copy


@pytest.fixture(scope="session")
def stages_of_small(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The smallest study as it stood after each stage, in the end with one report."""
    kept = tmp_path_factory.mktemp("small")
    world = World(kept / "now")
    made = (
        partial(world.author, small_study),
        world.record,
        world.freeze,
        world.run,
        world.judge,
        partial(_one, world),
    )
    steps: dict[str, Callable[[], object]] = dict(zip(STAGES, made, strict=True))
    for name, step in steps.items():
        step()
        shutil.copytree(world.root, kept / name)
    return {name: kept / name for name in steps}


def _one(world: World) -> None:
    stages.render(world.registry, ID, ("md",), time=TIME)  # an audit renders again all that there are


@pytest.fixture
def small_at(stages_of_small: dict[str, Path], tmp_path: Path) -> Callable[[str], World]:
    """Return a copy of the smallest study as it stood after a stage."""
    return lambda stage: World(Path(shutil.copytree(stages_of_small[stage], tmp_path / "small")))


@pytest.fixture
def small(small_at: Callable[[str], World]) -> World:
    """The smallest study, with one report."""
    return small_at("reported")


@pytest.fixture
def authored(world_at: Callable[[str], World]) -> World:
    """A world whose registration is written."""
    return world_at("authored")


@pytest.fixture
def frozen(world_at: Callable[[str], World]) -> World:
    """A world whose registration is frozen."""
    return world_at("frozen")


@pytest.fixture
def computed(world_at: Callable[[str], World]) -> World:
    """A world whose evidence is complete and sealed."""
    return world_at("computed")


@pytest.fixture
def reported(world_at: Callable[[str], World]) -> World:
    """A world that went all the way to its report."""
    return world_at("reported")


@dataclass(frozen=True, slots=True)
class Said:
    """What a command did: its exit code and what it printed."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        """The lines of standard error."""
        return self.err.splitlines()

    @property
    def json(self) -> Any:
        """The document on the last line of output."""
        return json.loads(self.out.splitlines()[-1])


@pytest.fixture
def run_cli(capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """Run ``prereg-moe`` with arguments, in this process."""

    def run(*arguments: object) -> Said:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Said(ended.value.code if isinstance(ended.value.code, int) else 0, captured.out, captured.err)

    return run
