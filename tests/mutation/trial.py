"""One trial: tests on a copy of the package, in a process that shares no module of it with any other.

Processes are forked from a server in which everything but the package is imported already, so a trial costs the
tests and little more. What ends a trial that would not end is its own use of the processor, never the clock: a
machine that is slow, or hangs, makes no mutant look noticed.
"""

from __future__ import annotations

import os
import resource
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Literal
from unittest.mock import patch

__all__ = ["Outcome", "Trial", "copy_of_the_package", "run"]

ROOT = Path(__file__).resolve().parents[2]
_PASSED, _FAILED, _INTERRUPTED, _ELSEWHERE = 0, 1, 2, 99
_STANDSTILL = 3600  # seconds by the clock, after which the machine is at fault
_PRELOADED = [
    "numpy", "scipy.stats", "scipy.special", "statsmodels.stats.multitest", "statsmodels.stats.weightstats", "pandas",
    "statsmodels.stats.contingency_tables", "hypothesis.extra.numpy", "pytest", "sybil", "pydantic", "yaml", "jinja2",
    "rich.progress", "click", "threadpoolctl", "rfc8785", "jsonschema", "trial",
]  # fmt: skip
_OPTIONS = ["-x", "-q", "-p", "no:cacheprovider", "--assert=plain", "--tb=line", "--no-header"]
_context = get_context("forkserver")

Outcome = Literal["passed", "failed", "endless"]


@dataclass(frozen=True, slots=True)
class Trial:
    """How a trial ended.

    Attributes:
        outcome: the tests ``passed``, ``failed``, or did not end: they used up the processor time they were given.
        seconds: processor time used, where the tests ended.
    """

    outcome: Outcome
    seconds: float


def copy_of_the_package(folder: Path) -> Path:
    """Return a copy of the package, its tests and the studies they read, not of the values that lie beside it all."""
    for name in ("prereg_moe", "tests", "docs", "registrations", "reports"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns(".hypothesis", "lab"))
    for name in ("pyproject.toml", "conftest.py"):
        shutil.copy(ROOT / name, folder / name)
    return folder


def run(folder: Path, tests: Sequence[str], seconds: int) -> Trial:
    """Return how the tests end in a copy of the package, given so many seconds of a processor.

    Raises:
        RuntimeError: the tests did not run, or not on the copy, or the machine stood still or was out of memory.
    """
    theirs = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(folder), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    _context.set_forkserver_preload(_PRELOADED)
    used = folder / "seconds"
    used.unlink(missing_ok=True)
    process = _context.Process(target=_tests, args=(str(folder), list(tests), seconds))
    with patch.dict(os.environ, theirs):  # not for the tests that follow in this process
        process.start()
    process.join(_STANDSTILL)
    if process.exitcode is None:
        process.kill()
        process.join()
        raise RuntimeError(f"{tests} did not end within {_STANDSTILL} s, but used no {seconds} s of a processor")
    if process.exitcode == -signal.SIGXCPU:
        return Trial("endless", seconds)
    if process.exitcode not in {_PASSED, _FAILED, _INTERRUPTED}:
        raise RuntimeError(f"exit code {process.exitcode} of {tests}:\n{(folder / 'output').read_text()[-3000:]}")
    return Trial("passed" if process.exitcode == _PASSED else "failed", float(used.read_text()))


def _tests(folder: str, tests: list[str], seconds: int) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, resource.RLIM_INFINITY))
    sys.path[:] = [folder, *(entry for entry in sys.path if not Path(entry, "prereg_moe").exists())]
    os.chdir(folder)
    with Path("output").open("w") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)

    import pytest
    from hypothesis import HealthCheck, Phase, settings

    settings.register_profile(
        "mutants",
        derandomize=True,
        database=None,
        deadline=None,  # by the clock
        suppress_health_check=[HealthCheck.too_slow],  # by the clock
        phases=[Phase.explicit, Phase.generate],
    )
    settings.load_profile("mutants")
    code = int(pytest.main([*_OPTIONS, *tests]))
    package = sys.modules.get("prereg_moe")
    here = package is not None and str(package.__file__).startswith(folder)
    sys.stdout.flush()
    Path(folder, "seconds").write_text(str(time.process_time()))
    os._exit(code if here else _ELSEWHERE)
