"""Imports point down only, models are touched in the lab only, and light commands start light."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Callable, Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from world import ID, World

import prereg_moe

PACKAGE = Path(prereg_moe.__file__).parent
LAYERS = (
    ("errors", "canonical", "rules"),
    ("registration", "stats", "taskfiles", "templating"),
    ("ledger", "atlas", "hub", "registry", "findings"),
    ("frozen", "freezing", "record", "amending"),
    ("evidence", "store", "standing"),
    ("verdict",),
    ("report", "diagnosing", "trust"),
    (
        "auditing",
        "begin",
        "bundling",
        "claims",
        "importing",
        "indexing",
        "interchange",
        "rendering",
        "preparing",
        "stages",
    ),
    ("demo", "attack"),
    ("cli",),
    ("__main__",),
)
RANK = {part: rank for rank, layer in enumerate(LAYERS) for part in layer}
JUDGING = {
    "verdict",
    "report",
    "rendering",
    "stages",
    "indexing",
    "begin",
    "diagnosing",
    "trust",
    "auditing",
    "bundling",
    "claims",
    "importing",
    "interchange",
    "preparing",
    "demo",
    "attack",
    "cli",
    "__main__",
}
MODELS = {"torch", "transformers", "lm_eval", "tokenizers", "safetensors", "datasets", "accelerate"}
TERMINAL = {"click", "rich"}


def modules() -> dict[str, Path]:
    """Return dotted name below the package -> file."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imported(path: Path, *, for_types_too: bool = True) -> Iterator[str]:
    """Yield the full name of everything a file imports, at any depth."""
    tree = ast.parse(path.read_text("utf-8"))
    for_types = {id(inner) for node in ast.walk(tree) if _is_for_types(node) for inner in ast.walk(node)}
    for node in ast.walk(tree):
        if not for_types_too and id(node) in for_types:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}:{node.lineno} imports relatively"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _is_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def own(name: str) -> str | None:
    """Return the module of the package an imported name is of, "" for the package itself."""
    parts = name.split(".")
    if parts[0] != "prereg_moe":
        return None
    while parts[1:] and ".".join(parts[1:]) not in MODULES:
        parts.pop()
    return ".".join(parts[1:])


def part(module: str) -> str:
    return module.partition(".")[0]


def test_every_module_has_a_layer() -> None:
    unknown = {part(module) for module in MODULES} - set(RANK) - {"", "lab"}
    assert not unknown, f"say in which layer {sorted(unknown)} stands"


@pytest.mark.parametrize("module", [module for module in MODULES if part(module) not in ("", "lab")])
def test_imports_point_down(module: str) -> None:
    for name in imported(MODULES[module]):
        target = own(name)
        if target is None or target == "":
            continue
        if part(target) == "lab":
            assert part(module) in ("demo", "cli", "attack"), f"{module} imports the lab"
        else:
            assert RANK[part(target)] <= RANK[part(module)], f"{module} imports {name}, which stands above it"


@pytest.mark.parametrize("module", [module for module in MODULES if part(module) == "lab"])
def test_the_lab_sees_no_verdict(module: str) -> None:
    for name in imported(MODULES[module]):
        assert part(own(name) or "") not in JUDGING, f"{module} imports {name}"


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Return modules that need each other, in order, or none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_no_module_needs_itself() -> None:
    graph = {
        module: {target for name in imported(path, for_types_too=False) if (target := own(name)) and target != module}
        for module, path in MODULES.items()
        if module
    }
    assert circle(graph) == []
    assert circle({"a": {"b"}, "b": {"a"}}) != [], "one would be seen"


@pytest.mark.parametrize(
    ("libraries", "home"),
    [
        pytest.param(MODELS, "lab", id="what loads models is imported by the lab only"),
        pytest.param(
            TERMINAL, "cli", id="what draws on the terminal is imported by the command line, and by the lab's own tools"
        ),
        pytest.param({"jinja2"}, "templating", id="templates are filled in one place only"),
        pytest.param(
            {"yaml"},
            "registration",
            id="YAML is read by the registration only, that of tasks where task files are read",
        ),
        pytest.param({"scipy", "statsmodels"}, "stats", id="distributions are taken from the statistics only"),
    ],
)
def test_a_library_has_one_home(libraries: set[str], home: str) -> None:
    also = {"yaml": {"taskfiles", "lab"}, "scipy": {"verdict", "diagnosing", "lab"}, "click": {"lab"}}
    allowed = {home}.union(*(also.get(library, set()) for library in libraries))
    strays = {
        (module, name)
        for module, path in MODULES.items()
        for name in imported(path)
        if name.partition(".")[0] in libraries and part(module) not in allowed
    }
    assert not strays


def test_nothing_is_unpickled_or_evaluated() -> None:
    for module, path in MODULES.items():
        barred = {name for name in imported(path) if name.partition(".")[0] in ("pickle", "marshal", "shelve", "dill")}
        assert not barred, f"{module} imports {barred}"
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in ("eval", "exec", "compile", "__import__"), f"{module}:{node.lineno}"


# ------------------------------------------------------------------ what a command loads

_PROBE = """
import sys
from prereg_moe.cli import main
for line in sys.argv[1].split(";"):
    try:
        main(line.split("|"))
    except SystemExit as ended:
        assert not ended.code, (line, ended.code)
heavy = {"torch", "transformers", "lm_eval", "scipy", "statsmodels", "pandas"}
print("\\nLOADED", *sorted(heavy & set(sys.modules)))
"""


def loaded(*commands: tuple[object, ...]) -> set[str]:
    """Return which heavy libraries commands load in a fresh process."""
    lines = ";".join("|".join(map(str, command)) for command in commands)
    done = subprocess.run([sys.executable, "-c", _PROBE, lines], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].removeprefix("LOADED").split())


@pytest.mark.parametrize(
    ("stage", "commands"),
    [
        ("authored", [("--help",), ("freeze", "--help"), ("run", "--help")]),
        ("recorded", [("check", "{folder}"), ("freeze", ID, "--root", "{root}"), ("status", "--root", "{root}")]),
        ("authored", [("init", "{root}/new")]),
    ],
    ids=["help", "check, freeze and status", "init"],
)
def test_light_commands_load_no_statistics_and_no_models(
    stage: str, commands: list[tuple[str, ...]], world_at: Callable[[str], World]
) -> None:
    world = world_at(stage)
    given = [tuple(word.format(folder=world.folder, root=world.root) for word in command) for command in commands]
    assert loaded(*given) == set()


def test_judging_and_auditing_load_no_models(computed: World) -> None:
    commands = [(verb, ID, "--root", computed.root) for verb in ("verdict", "report", "audit", "run")]
    assert loaded(*commands) & {"torch", "transformers", "lm_eval"} == set()
