"""Do the tests notice mistakes in what decides? Mutants of `stats` and `verdict`, each killed or explained.

Named mutants are the mistakes a statistician would fear (`named.py`). Generic ones change one operator, constant or
side (`operators.py`); a fixed sample of them is tried by `make torture`, which writes docs/mutation.md. A generic
mutant that survives must be listed with its reason in `survivors.toml`, and one that is listed must survive.
"""

from __future__ import annotations

import shutil
import tomllib
from collections import Counter
from pathlib import Path

import pytest
from named import NAMED, Named
from operators import Mutant, mutants, mutated, place_in_sample
from trial import ROOT, copy_of_the_package, run

PAGE, LISTED = ROOT / "docs" / "mutation.md", Path(__file__).parent / "survivors.toml"
SAMPLE = 200
CORE = {"stats/nulls.py", "stats/selectivity.py", "stats/multiplicity.py", "verdict/decide.py", "verdict/estimate.py"}
EVERYTHING = ("tests/stats", "tests/property/test_rule_parts.py", "tests/property/test_verdict_laws.py",
              "tests/property/test_one_verdict.py", "tests/test_report.py")  # fmt: skip
FIRST = {
    "stats/readings.py": ("tests/stats/test_multiverse.py",),
    "verdict/decide.py": ("tests/property/test_rule_parts.py", "tests/property/test_verdict_laws.py"),
    "verdict/estimate.py": ("tests/property/test_verdict_laws.py",),
    "verdict/__init__.py": ("tests/property/test_verdict_laws.py",),
}


def own_tests(module: str) -> tuple[str, ...]:
    """Return the tests that notice most mistakes in a module: its own, and the examples in it."""
    own = FIRST.get(
        module,
        (f"tests/stats/test_{Path(module).stem}.py", "tests/stats/test_streams.py", "tests/stats/test_conventions.py"),
    )
    return (*own, f"prereg_moe/{module}")


def often(mutant: Named) -> list[pytest.MarkDecorator]:
    """Return no mark for what is tried by every run of the suite: the parts of the default rule."""
    return [] if mutant.module in CORE else [pytest.mark.torture]


@pytest.fixture(scope="session")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_of_the_package(tmp_path_factory.mktemp("mutation"))


def killed(copy: Path, module: str, source: str, *stages: tuple[str, ...]) -> bool:
    """Return whether some stage of tests fails once a module's source is another."""
    path = copy / "prereg_moe" / module
    original = path.read_text("utf-8")
    shutil.rmtree(path.parent / "__pycache__", ignore_errors=True)  # two mutants may be of one size and second
    path.write_text(source, "utf-8")
    try:
        return not all(run(copy, stage) for stage in stages)
    finally:
        path.write_text(original, "utf-8")
        shutil.rmtree(path.parent / "__pycache__", ignore_errors=True)


def named_source(mutant: Named) -> str:
    source = (ROOT / "prereg_moe" / mutant.module).read_text("utf-8")
    assert source.count(mutant.before) == 1, "the text of the mutant is not in the module, or more than once"
    return source.replace(mutant.before, mutant.after)


@pytest.mark.parametrize(
    "tests",
    [pytest.param(one.tests, id=one.tests[0], marks=often(one)) for one in {one.tests: one for one in NAMED}.values()],
)
def test_the_tests_pass_where_nothing_is_changed(copy: Path, tests: tuple[str, ...]) -> None:
    assert run(copy, tests), (copy / "output").read_text()


@pytest.mark.parametrize(
    "mutant", [pytest.param(one, id=f"{one.module}: {one.mistake}", marks=often(one)) for one in NAMED]
)
def test_a_named_mistake_is_noticed(copy: Path, mutant: Named) -> None:
    assert killed(copy, mutant.module, named_source(mutant), mutant.tests)


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
    listed = {
        (one["module"], one["function"], one["before"], one["after"]): one["reason"]
        for one in tomllib.loads(LISTED.read_text("utf-8"))["survivor"]
    }
    assert run(copy, EVERYTHING), (copy / "output").read_text()
    tried, survived = Counter[str](), dict.fromkeys(every[:0], "")
    for mutant in every[:SAMPLE]:
        tried[mutant.module] += 1
        source = mutated(mutant, (ROOT / "prereg_moe" / mutant.module).read_text("utf-8"))
        if not killed(copy, mutant.module, source, own_tests(mutant.module), EVERYTHING):
            survived[mutant] = listed.get(mutant.key, "")
    write(every, tried, survived)
    assert [mutant.key for mutant, reason in survived.items() if not reason] == []
    sampled = {mutant.key for mutant in every[:SAMPLE]}
    assert {key for key in listed if key in sampled} == {mutant.key for mutant in survived}


def write(every: list[Mutant], tried: Counter[str], survived: dict[Mutant, str]) -> None:
    """Write docs/mutation.md."""
    left = Counter(mutant.module for mutant in survived)
    modules = sorted({mutant.module for mutant in every})
    lines = [
        "# Do the tests notice mistakes?",
        "",
        "Written by `make torture` (tests/mutation); do not edit. A mutant is the package with one mistake in it; it",
        "is killed when a test fails. The reference values that lie beside the repository are not used.",
        "",
        f"**Named mistakes**, {len(NAMED)}: ties, dropped +1, κ's sign, one side for two, items for clusters, the",
        "wrong null for the binding axis, gates left out (tests/mutation/named.py). All are killed: a survivor fails",
        f"the run. {sum(one.module in CORE for one in NAMED)} of them, in the default rule, are tried by `make test`.",
        "",
        "**Generic mistakes**: one comparison, sign, constant, side or branch changed.",
        f"{SAMPLE} of {len(every)}, chosen by a digest of the mutant, were tried:",
        f"{SAMPLE - len(survived)} were killed, {len(survived)} survived.",
        "",
        "| module | mutants | tried | killed | survived |",
        "|---|---|---|---|---|",
    ]
    for module in modules:
        total = sum(mutant.module == module for mutant in every)
        lines.append(f"| {module} | {total} | {tried[module]} | {tried[module] - left[module]} | {left[module]} |")
    lines += ["", "## Survivors", "", "| where | mistake | why no test fails |", "|---|---|---|"]
    for one, reason in survived.items():
        change = f"`{_cell(one.before)}` → `{_cell(one.after)}`"
        lines.append(f"| {one.module}, `{one.function}` | {change} | {reason or 'not explained'} |")
    PAGE.write_text("\n".join(lines) + "\n", "utf-8")


def _cell(code: str) -> str:
    return code.replace("|", "\\|")[:90]
