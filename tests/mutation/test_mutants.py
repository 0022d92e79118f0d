"""Do the tests notice mistakes in what decides? Mutants of `stats` and `verdict`, each killed or explained.

Named mutants are the mistakes a statistician would fear (`named.py`). Generic ones change one operator, constant or
side (`operators.py`); a fixed sample of them is tried by `make torture`, which writes docs/mutation.md. A generic
mutant that survives must be listed with its reason in `survivors.toml`, and one that is listed must survive.

Tests that notice a mutant must pass, and end, where nothing is changed: that is tried first. A mutant may also be
noticed because its tests do not end: they use many times the processor time they use where nothing is changed.

`MUTATION_SAMPLE` sets another number of generic mutants; the page says how many there were.
"""

from __future__ import annotations

import math
import os
import shutil
import sys
import tomllib
from collections import Counter
from functools import cache
from pathlib import Path

import pytest
from named import NAMED, OFTEN, Named
from operators import Mutant, mutants, mutated, place_in_sample
from trial import ROOT, Outcome, copy_of_the_package, run

PAGE, LISTED = ROOT / "docs" / "mutation.md", Path(__file__).parent / "survivors.toml"
SAMPLE = int(os.environ.get("MUTATION_SAMPLE", "200"))
LONGEST, ENDLESS = 600, 10  # processor seconds of unchanged tests; times that, and a mutant's tests do not end
WIDER = ("tests/stats", "tests/property/test_rule_parts.py")
FIRST = {
    "stats/readings.py": ("tests/stats/test_multiverse.py",),
    "verdict/decide.py": ("tests/property/test_rule_parts.py", "tests/property/test_verdict_laws.py"),
    "verdict/decision.py": ("tests/property/test_rule_parts.py", "tests/property/test_verdict_laws.py"),
    "verdict/noninferiority.py": ("tests/test_operators.py",),
    "verdict/estimate.py": ("tests/property/test_rule_parts.py", "tests/property/test_verdict_laws.py"),
    "verdict/__init__.py": ("tests/property/test_verdict_laws.py", "tests/test_record.py", "tests/test_looks.py"),
    "verdict/multiverse.py": ("tests/test_multiverse.py",),
}
COLUMNS: tuple[Outcome, ...] = ("failed", "endless", "passed")
_named: dict[Named, Outcome] = {}


def own_tests(module: str) -> tuple[str, ...]:
    """Return the tests that notice most mistakes in a module: its own, and the examples in it."""
    own = FIRST.get(
        module,
        (f"tests/stats/test_{Path(module).stem}.py", "tests/stats/test_streams.py", "tests/stats/test_conventions.py"),
    )
    examples = ">>>" in (ROOT / "prereg_moe" / module).read_text("utf-8")
    return (*own, f"prereg_moe/{module}") if examples else own


@pytest.fixture(scope="session")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_of_the_package(tmp_path_factory.mktemp("mutation"))


@cache
def seconds(copy: Path, tests: tuple[str, ...]) -> float:
    """Return the processor time of tests on the unchanged package, on which they pass."""
    trial = run(copy, tests, LONGEST)
    assert trial.outcome == "passed", (copy / "output").read_text()
    return trial.seconds


def outcome(copy: Path, module: str, source: str, *stages: tuple[str, ...]) -> Outcome:
    """Return how the first stage of tests that does not pass ends once a module's source is another, or "passed"."""
    limits = {stage: math.ceil(ENDLESS * seconds(copy, stage)) for stage in stages}
    path = copy / "prereg_moe" / module
    original = path.read_text("utf-8")
    shutil.rmtree(path.parent / "__pycache__", ignore_errors=True)  # two mutants may be of one size and second
    path.write_text(source, "utf-8")
    try:
        trials = (run(copy, stage, limit) for stage, limit in limits.items())
        return next((trial.outcome for trial in trials if trial.outcome != "passed"), "passed")
    finally:
        path.write_text(original, "utf-8")
        shutil.rmtree(path.parent / "__pycache__", ignore_errors=True)


def named_source(mutant: Named) -> str:
    source = (ROOT / "prereg_moe" / mutant.module).read_text("utf-8")
    assert source.count(mutant.before) == 1, "the text of the mutant is not in the module, or more than once"
    return source.replace(mutant.before, mutant.after)


def test_a_trial_is_ended_by_the_processor_time_it_uses_not_by_the_clock(copy: Path) -> None:
    (copy / "asleep.py").write_text("import prereg_moe, time\n\ndef test_asleep():\n    time.sleep(4)\n")
    (copy / "endless.py").write_text("def test_endless():\n    while True:\n        pass\n")
    assert run(copy, ("asleep.py",), 3).outcome == "passed"
    assert run(copy, ("endless.py",), 3).outcome == "endless"


@pytest.mark.parametrize("mutant", [one for one in NAMED if (one.module, one.mistake) in OFTEN], ids=str)
def test_a_mistake_easily_made_is_noticed(copy: Path, mutant: Named) -> None:
    assert outcome(copy, mutant.module, named_source(mutant), mutant.tests) != "passed"


@pytest.mark.torture
@pytest.mark.parametrize("mutant", NAMED, ids=str)
def test_a_named_mistake_is_noticed(copy: Path, mutant: Named) -> None:
    _named[mutant] = outcome(copy, mutant.module, named_source(mutant), mutant.tests)
    assert _named[mutant] != "passed"


def test_what_is_tried_often_is_named() -> None:
    assert {(one.module, one.mistake) for one in NAMED} >= OFTEN


def test_every_named_mistake_can_be_made() -> None:
    assert all(named_source(mutant) for mutant in NAMED)


def test_every_module_of_the_statistics_and_the_verdicts_has_tests_that_are_there() -> None:
    tests = {test for mutant in generic() for test in own_tests(mutant.module)}
    assert [test for test in sorted(tests) if not (ROOT / test).is_file()] == []


def generic() -> list[Mutant]:
    """Return all generic mutants of `stats` and `verdict`, in the order in which they are sampled."""
    paths = [path for part in ("stats", "verdict") for path in sorted((ROOT / "prereg_moe" / part).glob("*.py"))]
    return sorted(
        (
            mutant
            for path in paths
            if path.parent.name == "verdict" or path.name != "__init__.py"
            for mutant in mutants(path.relative_to(ROOT / "prereg_moe").as_posix(), path.read_text("utf-8"))
        ),
        key=place_in_sample,
    )


@pytest.mark.torture
def test_generic_mistakes_are_noticed_or_explained(copy: Path) -> None:
    every = generic()
    outcomes: dict[Mutant, Outcome] = {}
    for mutant in every[:SAMPLE]:
        source = mutated(mutant, (ROOT / "prereg_moe" / mutant.module).read_text("utf-8"))
        outcomes[mutant] = outcome(copy, mutant.module, source, own_tests(mutant.module), WIDER)
        sys.stderr.write(f"{len(outcomes)} {outcomes[mutant]} {mutant.key}\n")
    listed = {
        (one["module"], one["function"], one["before"], one["after"], one.get("nth", 0)): one["reason"]
        for one in tomllib.loads(LISTED.read_text("utf-8"))["survivor"]
    }
    survived = {mutant: listed.get(mutant.key, "") for mutant, ended in outcomes.items() if ended == "passed"}
    write(every, outcomes, survived)
    assert [mutant.key for mutant, reason in survived.items() if not reason] == []
    assert {mutant.key for mutant in outcomes} & set(listed) == {mutant.key for mutant in survived}


def write(every: list[Mutant], outcomes: dict[Mutant, Outcome], survived: dict[Mutant, str]) -> None:
    """Write docs/mutation.md."""
    assert set(_named) == set(NAMED), "run the whole file: the page needs every named mutant"
    named = Counter(_named.values())
    total = Counter(mutant.module for mutant in every)
    ended = {name: Counter(mutant.module for mutant, how in outcomes.items() if how == name) for name in COLUMNS}
    lines = [
        "# Do the tests notice mistakes?",
        "",
        "Written by `make torture` (tests/mutation); do not edit. A mutant is the package with one mistake in it; it",
        "is noticed when a test fails, or when the tests do not end: they use up",
        f"{ENDLESS} times the processor time they use on the unchanged package, on which they pass. The reference",
        "values that lie beside the repository are not used.",
        "",
        f"**Named mistakes**, {len(NAMED)}: ties, dropped +1, κ's sign, one side for two, items for clusters, the",
        "wrong null for the binding axis, gates left out (tests/mutation/named.py). A survivor fails the run.",
        f"{named['failed']} made a test fail, {named['endless']} did not end, {named['passed']} survived.",
        f"{len(OFTEN)} of them are tried by `make test`.",
        "",
        "**Generic mistakes**: one comparison, sign, constant, side or branch changed.",
        f"{len(outcomes)} of {len(every)}, chosen by a digest of the mutant, were tried:",
        f"{ended['failed'].total()} made a test fail, {ended['endless'].total()} did not end,",
        f"{len(survived)} survived.",
        "",
        "| module | mutants | tried | a test failed | did not end | survived |",
        "|---|---|---|---|---|---|",
    ]
    for module in sorted(total):
        counts = [ended[name][module] for name in COLUMNS]
        lines.append(f"| {module} | {total[module]} | {sum(counts)} | {' | '.join(map(str, counts))} |")
    lines += ["", "## Survivors", "", "| where | mistake | why no test fails |", "|---|---|---|"]
    for one, reason in survived.items():
        change = f"`{_cell(one.before)}` → `{_cell(one.after)}`"
        lines.append(f"| {one.module}, `{one.function}` | {change} | {reason or 'not explained'} |")
    PAGE.write_text("\n".join(lines) + "\n", "utf-8")


def _cell(code: str) -> str:
    return code.replace("|", "\\|")[:90]
