"""What the pages that nobody types are made from: docs/cli.md, docs/registration.md, schema, registrations.

:data:`GENERATED` names every such file and what returns its text. `pytest tests/test_docs.py --update` writes them.
"""

from __future__ import annotations

import json
import tempfile
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from registration_keys import KEYS

from prereg_moe import canonical, rendering
from prereg_moe.attack import CHEATS, ROWS, UNSEEN
from prereg_moe.begin import begin, json_schema
from prereg_moe.cli import cli
from prereg_moe.demo import REGISTRATION
from prereg_moe.importing import schema as importing
from prereg_moe.registration import planned, schema
from prereg_moe.rules import NAMED, QUANTITIES

ROOT = Path(__file__).parents[2]
COMMANDS = (
    "demo",
    "init",
    "check",
    "inspect",
    "atlas",
    "diagnose",
    "freeze",
    "amend",
    "run",
    "rescore",
    "look",
    "status",
    "verdict",
    "report",
    "deviate",
    "import",
    "import summary",
    "import rows",
    "import lm-eval",
    "audit",
    "bundle",
    "attack",
    "trust",
    "trust keygen",
    "trust sign",
    "trust timestamp",
    "trust challenge",
    "trust nonce",
)
_WIDTH = 100


def _begun() -> str:
    with tempfile.TemporaryDirectory() as folder:
        return begin(Path(folder), "olmoe-1b-7b", "modularity", "OLMoE-1B-7B")[0].read_text("utf-8")


def _multiverse() -> str:
    with tempfile.TemporaryDirectory() as folder:
        return begin(Path(folder), "testbed-multiverse", "multiverse")[0].read_text("utf-8")


def _schema() -> str:
    return json.dumps(json_schema(), indent=1, sort_keys=True) + "\n"


def _import_schema() -> str:
    return json.dumps(importing.json_schema(), indent=1, sort_keys=True) + "\n"


def _packaged() -> str:
    return REGISTRATION.read_text("utf-8")


# ------------------------------------------------------------------ the command line


def cli_page() -> str:
    """Return docs/cli.md: every command's help, in the order a study uses them."""
    group = click.Context(cli, info_name="prereg-moe", terminal_width=_WIDTH, **cli.context_settings)
    parts = [
        "# Command line\n",
        "One verb a stage, in the order a study uses them. Written by `pytest --update` from `--help`.\n",
        _help("prereg-moe", cli.get_help(group)),
        "ID is a registration's id, or its folder. What the exit codes mean is in"
        " [concepts.md](concepts.md#exit-codes); a study from beginning to end in [tutorial.md](tutorial.md).\n",
    ]
    for name in COMMANDS:
        command = command_named(name)
        context = click.Context(command, info_name=name, parent=group, terminal_width=_WIDTH, **cli.context_settings)
        parts.append(_help(f"prereg-moe {name}", command.get_help(context)))
    return "\n".join(parts)


def command_named(name: str) -> click.Command:
    """Return a command by its name, that of a group before it: ``trust sign``."""
    command: click.Command = cli
    for word in name.split():
        assert isinstance(command, click.Group)
        command = command.commands[word]
    return command


def _help(name: str, text: str) -> str:
    return f"## {name}\n\n```\n{text.rstrip()}\n```\n"


# ------------------------------------------------------------------ the registration


def registration_page() -> str:
    """Return docs/registration.md: every key of a registration, section by section."""
    parts = [
        "# Every key of a registration\n",
        "Written by `pytest --update` from the types that read a registration. A key without a default is required,"
        " and a key that is not listed is refused. `prereg-moe init` writes a registration to start from; editors"
        " check one by `registrations/registration.schema.json`.\n",
        "YAML is read strictly: `no` is text and not false, keys never repeat, and there are no anchors and no tags."
        " Seeds are text, so quote them.\n",
    ]
    for part in parts_of_a_registration():
        title = "The document" if part is schema.Registration else part.__name__
        parts.append(f"## {title}\n\n{_docstring(part)}\n\n{_table(part)}")
    parts.append(_quantities())
    parts.append(_planned())
    return "\n".join(parts)


def parts_of_a_registration() -> list[type[BaseModel]]:
    """Return the types a registration is made of, each behind the one that first names it."""
    found: dict[type[BaseModel], None] = {schema.Registration: None}
    for part in _walk(schema.Registration):
        found.setdefault(part)
    return list(found)


def _walk(part: type[BaseModel]) -> Iterator[type[BaseModel]]:
    for field in part.model_fields.values():
        for inner in _models(field.annotation):
            yield inner
            yield from _walk(inner)


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in typing.get_args(annotation):
        yield from _models(argument)


def _table(part: type[BaseModel]) -> str:
    rows = ["| key | value | default | meaning |", "|---|---|---|---|"]
    for name, field in part.model_fields.items():
        key = field.alias or name
        meaning = KEYS.get(f"{part.__name__}.{key}", "")  # a test names what is missing
        rows.append(f"| `{key}` | {_value(field.annotation)}{_limits(field)} | {_default(field)} | {meaning} |")
    return "\n".join(rows) + "\n"


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "**required**"
    value = field.default
    if isinstance(value, BaseModel):
        return "its defaults"
    if value is None or value in ((), {}):
        return "none"
    return f"`{json.dumps(value)}`" if not isinstance(value, str) or len(value) < 20 else f"“{value}”"


def _limits(field: FieldInfo) -> str:
    """Return the bounds a number must keep."""
    words = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
    bounds = [f"{words[name]} {getattr(one, name):g}" for one in field.metadata for name in words if hasattr(one, name)]
    return f", {', '.join(bounds)}" if bounds else ""


def _value(annotation: Any) -> str:
    """Return in words what may stand behind a key."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _value(arguments[0])
    if origin is typing.Literal:
        return " or ".join(f"`{value}`" for value in arguments)
    if origin is dict:
        return f"table of name → {_value(arguments[1])}"
    if origin is tuple:
        return f"list of {_value(arguments[0])}"
    if arguments:
        return " or ".join(_value(argument) for argument in arguments if argument is not type(None))
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return f"[{annotation.__name__}](#{annotation.__name__.lower()})"
    return {str: "text", int: "whole number", float: "number", bool: "`true` or `false`"}[annotation]


def _docstring(part: type[BaseModel]) -> str:
    text = "\n".join(line.strip() for line in (part.__doc__ or "").strip().splitlines())
    return text.replace("``", "`")


def _quantities() -> str:
    rows = "\n".join(f"| `{name}` | {meaning} |" for name, meaning in QUANTITIES.items())
    named = "\n".join(f"- `{name}`: `{text}`" for name, text in NAMED.items())
    return (
        "## What an expression may name\n\n"
        f"| quantity | meaning |\n|---|---|\n{rows}\n\n"
        "Numbers, `+ - * /`, one comparison out of `< <= > >=`, and `and`, `or`, `not` between comparisons. A quantity"
        " that does not exist makes a comparison unknown, which is not false. Two expressions have names:\n\n"
        f"{named}\n"
    )


def _planned() -> str:
    kinds = [
        f"- `{place}`: " + ", ".join(f"`{kind}` ({what})" for kind, what in kinds.items())
        for place, kinds in planned.KINDS.items()
    ]
    sections = ", ".join(f"`{name}` ({what})" for name, what in planned.SECTIONS.items())
    return (
        "## Not yet\n\nThe vocabulary has a place for these, and this version refuses them by name.\n\n"
        + "\n".join([*kinds, f"- sections: {sections}"])
        + "\n"
    )


# ------------------------------------------------------------------ the threat model

_TIERS = {
    "bytes": "the folder alone",
    "head": "the head too",
    "git": "the git history",
    "signature": "the author's signature",
    "time stamp": "an authority's time stamp",
    "challenge": "a reviewer's challenge",
    "nothing": "not to be seen",
}
_THREATS = """# What a reader of a report may believe

Written by `pytest --update` from the cheats that `prereg-moe attack` plays; the tests play all of them and check that
each is caught with exactly what this page says a reader must hold. [caught.md](caught.md) shows some of them by hand.

An audit says a record is consistent. How much that is worth depends on what the reader holds that its author could not
change since:

| the reader holds | and the audit holds: the reader may believe |
|---|---|
| the folder | report, verdicts, families, null draws and plan follow from each other, from the evidence and from the \
frozen registration, byte for byte; nothing was left out, added or exchanged afterwards by somebody who did not make \
everything behind it again |
| the ledger's head as well, from the paper or the authors, at the time | nothing at all was changed, dropped or \
backdated since that head was given |
| a git history of the folder, kept where its author cannot rewrite it | the freeze was committed before any evidence |
| a signature over it | who stands for it |
| a time stamp by an authority both trust | it existed no later than then |
| a reviewer's challenge answered in it | the control runs were made after the challenge was given |

The last four are [trust.md](trust.md); the cheats they are for also publish the head of what they made, so that nothing
else shows them. Two say little where their witness is the author's own: a history nobody else holds, an authority only
the author knows. None of them says that the authors were honest before they froze.

Against chance the folder alone is nearly enough. Of 10,000 bytes changed at random in the study committed here, and
1,000 lines and files deleted, cut short, swapped or repeated (`tests/vectors/test_mutation.py`), none needs the head to
be found. What does are the fourteen digits of the time in the ledger's last line, for nothing stands behind that line;
the same tests change each of them. Against somebody who makes everything again, only the head helps: see below.

## What no audit can see

{unseen}

## The cheats

`row` counts the twelve kinds by which pre-registration tools were compared: {rows}.

| cheat | what it does | row | seen with |
|---|---|---|---|
{cheats}

## The same, of other tools

Made by `tests/peers/integrity.py`, which installs each tool, makes an honest record with it, changes that, and asks the
tool's own check. *Not played here* says that no play is written for it, and nothing else. The groundwork of the package
index is another program of that name.

<!-- peers: begin -->
{peers}
<!-- peers: end -->

## Hostile files

A bundle, a registration, evidence and templates are data that somebody else wrote. Archives are read under limits and
unpacked only where every name is plain; no file of a study may be larger than {megabytes} MB, and a pipe or a device in
place of a file is refused; a document of another shape than prereg-moe writes is *tampered*, whatever seals it; a
template that is not the package's own is rendered in a process with {seconds} seconds and {gigabytes} GB. An expected
error ends with exit code 2 or 3 and says where.

Figures drawn as PDF or PNG by another version of matplotlib than the reader's are not compared, and step 9 says so;
the same figures as SVG are.
"""


def _measured() -> str:
    """Return the table of other tools as the page holds it: another script measures that."""
    page = (Path(__file__).parents[2] / "docs/threat-model.md").read_text("utf-8")
    return page.partition("<!-- peers: begin -->")[2].partition("<!-- peers: end -->")[0].strip()


def threat_page() -> str:
    """Return docs/threat-model.md: what may be believed, and every cheat with what it is seen by."""
    cells = [(c.name, c.what, str(c.row or "–"), _TIERS[c.tier]) for c in CHEATS]
    return _THREATS.replace("\\\n", "").format(
        unseen="\n".join(f"- {line}" for line in UNSEEN),
        rows="; ".join(f"{number} {row}" for number, row in enumerate(ROWS, 1)),
        cheats="\n".join(f"| {' | '.join(row)} |" for row in cells),
        peers=_measured(),
        megabytes=canonical.MAX_BYTES >> 20,
        seconds=rendering.SECONDS,
        gigabytes=rendering.BYTES >> 30,
    )


GENERATED: dict[str, Callable[[], str]] = {  # file name below the root -> what returns its text
    "docs/cli.md": cli_page,
    "docs/registration.md": registration_page,
    "docs/threat-model.md": threat_page,
    "registrations/registration.schema.json": _schema,
    "registrations/import.schema.json": _import_schema,
    "registrations/testbed/registration.yaml": _packaged,
    "registrations/olmoe-1b-7b/registration.yaml": _begun,
    "registrations/testbed-multiverse/registration.yaml": _multiverse,
}
