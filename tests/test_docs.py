"""The documentation says what the code does: generated pages, tables of words, examples, links, the editors' schema.

The examples themselves are run where they stand: see conftest.py at the root.
"""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path
from typing import Any

import click
import jsonschema
import pytest

sys.path.insert(0, str(Path(__file__).parent / "docs"))  # what generates the pages lies there

from generated_pages import COMMANDS, GENERATED, ROOT, command_named, parts_of_a_registration
from registration_keys import KEYS

from prereg_moe import errors
from prereg_moe.amending import TYPES
from prereg_moe.begin import json_schema
from prereg_moe.cli import cli
from prereg_moe.ledger import FOLLOWS, stage_behind
from prereg_moe.registration.document import read_yaml
from prereg_moe.report import FLAGS
from prereg_moe.verdict import REASONS

CONCEPTS = ROOT / "docs" / "concepts.md"
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
TESTBED = ROOT / "registrations" / "testbed" / "registration.yaml"


# ------------------------------------------------------------------ what nobody types


@pytest.mark.parametrize("name", GENERATED)
def test_a_generated_file_is_what_generates_it(name: str, request: pytest.FixtureRequest) -> None:
    text = GENERATED[name]()
    if request.config.getoption("--update"):
        (ROOT / name).parent.mkdir(parents=True, exist_ok=True)
        (ROOT / name).write_text(text, encoding="utf-8")
    assert (ROOT / name).read_text("utf-8") == text, "run `pytest tests/test_docs.py --update`"


def test_every_key_of_a_registration_is_explained_and_nothing_else() -> None:
    known = {
        f"{part.__name__}.{field.alias or name}"
        for part in parts_of_a_registration()
        for name, field in part.model_fields.items()
    }
    assert known == set(KEYS), "tests/docs/registration_keys.py says what each key means"


# ------------------------------------------------------------------ the command line


def test_every_command_is_on_the_page() -> None:
    groups = {name: command for name, command in cli.commands.items() if isinstance(command, click.Group)}
    nested = {f"{name} {inner}" for name, group in groups.items() for inner in group.commands}
    assert set(COMMANDS) == set(cli.commands) | nested


def test_the_first_page_fits_a_terminal_and_names_every_verb_once() -> None:
    lines = cli.get_help(click.Context(cli, info_name="prereg-moe", terminal_width=80)).splitlines()
    assert max(map(len, lines)) <= 80
    assert len(lines) <= 50, "it is read at a glance"
    listed = [line.split()[0] for line in lines if re.match(r"  [a-z]+  +[A-Z]", line)]
    assert sorted(listed) == sorted(cli.commands), "each on a line of its own"


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_has_help_and_an_example_that_can_be_typed(name: str) -> None:
    command = command_named(name)
    text = command.get_help(click.Context(command, info_name=name, terminal_width=200))
    assert (command.help or "").split("\n")[0].endswith(".")
    examples = re.findall(rf"^ +prereg-moe {name}(.*)$", text, re.MULTILINE)
    assert examples, "an example begins with the command"
    for example in examples:
        command.make_context(name, shlex.split(example))  # a wrong option or argument raises


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_says_what_it_does(name: str) -> None:
    options = [option for option in command_named(name).params if isinstance(option, click.Option)]
    assert [option.name for option in options if not option.help] == []
    assert "as_json" in [option.name for option in options] or isinstance(command_named(name), click.Group)


def test_the_readme_lists_every_module() -> None:
    listing = (ROOT / "README.md").read_text("utf-8").split("\nprereg_moe/\n", 1)[1].split("```", 1)[0]
    named = {word for line in listing.splitlines() for word in line[:34].split()}
    inside = {path for path in (ROOT / "prereg_moe").iterdir() if not path.name.startswith(("_", "."))}
    files = {path.stem for path in inside if path.suffix == ".py"}
    assert named == files | {f"{path.name}/" for path in inside if path.is_dir()}


# ------------------------------------------------------------------ words


def _table(heading: str) -> dict[str, str]:
    """Return the first two columns of the table below a heading of concepts.md."""
    section = CONCEPTS.read_text("utf-8").split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line[:1] == "|"]
    return {row[0].strip("`*"): row[1] for row in rows[2:]}


def test_concepts_lists_the_verdict_words() -> None:
    assert set(_table("Verdicts")) == {"CONFIRMED", "REFUTED", "INCONCLUSIVE", "INVALID"}


def test_concepts_lists_the_reasons() -> None:
    assert _table("Reasons") == REASONS


def test_concepts_lists_the_flags() -> None:
    assert _table("Flags") == FLAGS


def test_concepts_lists_the_stages_of_the_ledger() -> None:
    assert set(_table("Stages and their seals")) == set(FOLLOWS)


def test_concepts_lists_the_exit_codes() -> None:
    faults = [fault for fault in vars(errors).values() if isinstance(fault, type) and issubclass(fault, Exception)]
    assert set(_table("Exit codes")) == {"0", "1", *(str(fault.exit_code) for fault in faults)}
    assert set(re.findall(r"\b(\d) [a-z]", (cli.help or "").split("Exit codes:")[1])) == set(_table("Exit codes"))


STATES = re.compile(r"(<!-- states: begin [^\n]*-->\n)(.*?)(<!-- states: end -->)", re.DOTALL)


def _states() -> str:
    """Return the ledger's state machine as a table."""
    rows = ["", "| seal | may stand behind | leads to |", "|---|---|---|"]
    for kind, allowed in FOLLOWS.items():
        names = ["nothing"] * (None in allowed) + [f"`{before}`" for before in FOLLOWS if before in allowed]
        leads: dict[str | None, list[str]] = {}
        for before in (name for name in FOLLOWS if name in allowed):
            leads.setdefault(stage_behind(kind, before), []).append(before)
        if set(leads) <= {kind}:
            to = f"`{kind}`"
        else:
            to = "stays" + "".join(
                f"; behind {' and '.join(f'`{b}`' for b in befores if b != after)}: `{after}`"
                for after, befores in leads.items()
                if set(befores) != {after}
            )
        rows.append(f"| `{kind}` | {', '.join(names)} | {to} |")
    return "\n".join([*rows, "", ""])


def test_the_page_on_the_ledger_lists_the_types_of_deviations() -> None:
    text = (ROOT / "docs" / "ledger.md").read_text("utf-8")
    for type_, meaning in TYPES.items():
        assert f"| `{type_}` | {meaning} |" in text


def test_the_page_on_the_ledger_shows_its_state_machine(request: pytest.FixtureRequest) -> None:
    page = ROOT / "docs" / "ledger.md"
    text = page.read_text("utf-8")
    wanted = STATES.sub(lambda found: found[1] + _states() + found[3], text)
    if request.config.getoption("--update"):
        page.write_text(wanted, "utf-8")
        text = wanted
    assert STATES.search(text) is not None
    assert text == wanted, "run `pytest tests/test_docs.py --update`"


# ------------------------------------------------------------------ links


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_every_link_within_the_project_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8")):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        assert path.exists(), target
        if anchor:
            assert anchor in _anchors(path.read_text("utf-8")), target


def _anchors(text: str) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


# ------------------------------------------------------------------ the editors' schema


@pytest.fixture(scope="module")
def editor() -> jsonschema.Draft202012Validator:
    jsonschema.Draft202012Validator.check_schema(json_schema())
    return jsonschema.Draft202012Validator(json_schema())


@pytest.mark.parametrize(
    ("old", "new", "where"),
    [
        ("alpha: 0.05", "alpha: often", ["inference", "alpha"]),
        ("alpha: 0.05", "alfa: 0.05", ["inference"]),
        ("foreknowledge:", "forgotten:", []),
        ('seed: "2606"', "seed: 2606", ["inference", "seed"]),
        ("gates: renorm", "gates: open", ["intervention"]),
        ("kind: mask, gates: renorm", "kind: zero, gates: renorm", ["intervention"]),
        ("kind: mask, gates: renorm", "kind: keep_only", ["intervention"]),
    ],
)
def test_a_broken_registration_does_not(
    editor: jsonschema.Draft202012Validator, old: str, new: str, where: list[Any]
) -> None:
    text = TESTBED.read_text("utf-8")
    assert old in text
    found = [list(error.absolute_path) for error in editor.iter_errors(read_yaml(text.replace(old, new).encode()))]
    assert where in found
