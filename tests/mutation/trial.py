"""One trial: tests on a copy of the package, in a process that shares no module of it with any other.

Processes are forked from a server in which everything but the package is imported already, so a trial costs the
tests and little more.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from multiprocessing import get_context
from pathlib import Path
from unittest.mock import patch

__all__ = ["copy_of_the_package", "run"]

ROOT = Path(__file__).resolve().parents[2]
_SECONDS = 240  # a mutant may loop forever
_PASSED, _FAILED, _INTERRUPTED, _ELSEWHERE = 0, 1, 2, 99
_PRELOADED = [
    "numpy", "scipy.stats", "scipy.special", "statsmodels.stats.multitest", "statsmodels.stats.weightstats", "pandas",
    "statsmodels.stats.contingency_tables", "hypothesis.extra.numpy", "pytest", "sybil", "pydantic", "yaml", "jinja2",
    "rich.progress", "click", "threadpoolctl", "rfc8785", "jsonschema", "trial",
]  # fmt: skip
_OPTIONS = ["-x", "-q", "-p", "no:cacheprovider", "--assert=plain", "--tb=line", "--no-header"]
_context = get_context("forkserver")


def copy_of_the_package(folder: Path) -> Path:
    """Return a copy of the package and its tests; the reference values beside the repository are not taken along."""
    for name in ("prereg_moe", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns(".hypothesis", "lab"))
    for name in ("pyproject.toml", "conftest.py"):
        shutil.copy(ROOT / name, folder / name)
    return folder


def run(folder: Path, tests: Sequence[str]) -> bool:
    """Return whether the tests pass in a copy of the package; one that does not end has failed.

    Raises:
        RuntimeError: the tests did not run, or not on the copy.
    """
    theirs = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(folder), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    _context.set_forkserver_preload(_PRELOADED)
    process = _context.Process(target=_tests, args=(str(folder), list(tests)))
    with patch.dict(os.environ, theirs):  # not for the tests that follow in this process
        process.start()
    process.join(_SECONDS)
    if process.exitcode is None:
        process.kill()
        process.join()
        return False
    if process.exitcode not in {_PASSED, _FAILED, _INTERRUPTED} and process.exitcode >= 0:
        raise RuntimeError(f"exit code {process.exitcode} of {tests}:\n{(folder / 'output').read_text()[-3000:]}")
    return process.exitcode == _PASSED


def _tests(folder: str, tests: list[str]) -> None:
    sys.path[:] = [folder, *(entry for entry in sys.path if not Path(entry, "prereg_moe").exists())]
    os.chdir(folder)
    with Path("output").open("w") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)

    import pytest
    from hypothesis import Phase, settings

    settings.register_profile("mutants", derandomize=True, database=None, phases=[Phase.explicit, Phase.generate])
    settings.load_profile("mutants")
    code = int(pytest.main([*_OPTIONS, *tests]))
    package = sys.modules.get("prereg_moe")
    here = package is not None and str(package.__file__).startswith(folder)
    sys.stdout.flush()
    os._exit(code if here else _ELSEWHERE)
