"""Reading an authored document: YAML 1.2 scalars, nothing clever, every problem with its place.

A registration is read by people years later, so its YAML has one meaning only:

* scalars follow the YAML 1.2 core schema: ``no`` is the text "no", ``0x1f`` and ``1_000`` are
  text, ``1e-3`` is a number (PyYAML's own resolver is YAML 1.1 and reads ``no`` as false);
* keys are text and never repeat; text holds no control characters but tab and newline;
* no anchors, aliases, merge keys, tags or several documents; at most ``MAX_DEPTH`` levels and
  ``MAX_BYTES`` bytes, so that no document can grow in memory.

PyYAML parses; only its resolution of scalars is replaced.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeAlias

import yaml

from prereg_moe.errors import Invalid, Problem

__all__ = ["MAX_BYTES", "MAX_DEPTH", "Written", "place", "read_written", "read_yaml"]

_Scalar: TypeAlias = Callable[[Any, str, list[Problem]], Any]

MAX_BYTES = 1 << 20
MAX_DEPTH = 32
_MAX_DIGITS = 40
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")  # escapes can write what YAML text cannot hold

# YAML 1.2.2, section 10.3.2 (core schema)
_NULL = re.compile(r"(?:null|Null|NULL|~|)\Z")
_BOOL = re.compile(r"(?:true|True|TRUE|false|False|FALSE)\Z")
_INT = re.compile(r"[-+]?[0-9]+\Z")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?\Z")


class Written(str):
    """A scalar as it is written, and its line: 1.80 is not 1.8 where decimals are counted."""

    __slots__ = ("line",)
    line: int


def place(path: tuple[int | str, ...]) -> str:
    """Return the place of a value as its author would point at it.

    >>> place(("families", 2, "axis"))
    'families[2].axis'
    """
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def read_yaml(data: bytes, name: str = "registration.yaml") -> Any:
    """Return the plain value (dict, list, str, int, float, bool, None) a YAML document says.

    Args:
        data: UTF-8 bytes of one document.
        name: what to call it in messages.

    Raises:
        Invalid: with every repeated key, alias, tag and unreadable scalar found, or the first
            syntax error.
    """
    return _read(data, name, _resolved)


def read_written(data: bytes, name: str) -> Any:
    """Return what a YAML document says with every scalar as :class:`Written`, read as strictly as :func:`read_yaml`.

    Raises:
        Invalid: as :func:`read_yaml`.
    """
    return _read(data, name, _written)


def _read(data: bytes, name: str, scalar: _Scalar) -> Any:
    if len(data) > MAX_BYTES:
        raise Invalid(Problem(name, f"has more than {MAX_BYTES} bytes", "no registration is that long"))
    try:
        text = data.decode("utf-8")
        problems = _refused(text, name)
        if problems:
            raise Invalid(problems)
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except UnicodeDecodeError as error:
        raise Invalid(Problem(name, f"is not UTF-8 text (byte {error.start})", "save it as UTF-8")) from error
    except yaml.YAMLError as error:
        raise Invalid(
            Problem(_line(name, getattr(error, "problem_mark", None)), _first_words(error), "mend the YAML")
        ) from error
    if node is None:
        raise Invalid(Problem(name, "is empty", "start from `prereg-moe init`"))
    value = _value(node, name, problems, scalar)
    if problems:
        raise Invalid(problems)
    return value


def _line(name: str, mark: Any) -> str:
    return f"{name}:{mark.line + 1}" if mark else name


def _first_words(error: yaml.YAMLError) -> str:
    return getattr(error, "problem", None) or str(error).splitlines()[0]


def _refused(text: str, name: str) -> list[Problem]:
    """Return what the event stream holds that has no place in a registration, before anything is built."""
    problems: list[Problem] = []
    depth = documents = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        where = _line(name, event.start_mark)
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            problems.append(
                Problem(where, "an anchor or alias", "write the value out; registrations have no references")
            )
        if tag := getattr(event, "tag", None):
            problems.append(Problem(where, f"a tag ({tag})", "remove it; every value is plain data"))
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                return [*problems, Problem(where, f"nested deeper than {MAX_DEPTH} levels", "flatten it")]
        depth -= isinstance(event, yaml.CollectionEndEvent)
        documents += isinstance(event, yaml.DocumentStartEvent)
        if documents > 1:
            return [*problems, Problem(where, "a second document", "one registration a file")]
    return problems


def _value(node: Any, name: str, problems: list[Problem], scalar: _Scalar) -> Any:
    where = f"{name}:{node.start_mark.line + 1}"
    if isinstance(node, yaml.MappingNode):
        mapping: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key_where = f"{name}:{key_node.start_mark.line + 1}"
            if not isinstance(key_node, yaml.ScalarNode):
                problems.append(Problem(key_where, "a key that is not text", "keys are words"))
                continue
            key = _plain(key_node.value, key_where, problems)  # always text: an axis named `no` or `2` is that word
            if key in mapping:
                problems.append(Problem(key_where, f"the key {key!r} a second time", "keep one of them"))
            mapping[key] = _value(value_node, name, problems, scalar)
        return mapping
    if isinstance(node, yaml.SequenceNode):
        return [_value(item, name, problems, scalar) for item in node.value]
    return scalar(node, where, problems)


def _resolved(node: Any, where: str, problems: list[Problem]) -> Any:
    text = _plain(node.value, where, problems)
    return text if node.style is not None else _scalar(text, where, problems)


def _written(node: Any, where: str, problems: list[Problem]) -> Written:
    text = Written(_plain(node.value, where, problems))
    text.line = node.start_mark.line + 1
    return text


def _plain(text: str, where: str, problems: list[Problem]) -> str:
    if found := _CONTROL.search(text):
        problems.append(Problem(where, f"the control character {found[0]!r}", "remove it"))
    return text


def _scalar(text: str, where: str, problems: list[Problem]) -> Any:
    if _NULL.match(text):
        return None
    if _BOOL.match(text):
        return text.lower() == "true"
    if len(text) > _MAX_DIGITS and (_INT.match(text) or _FLOAT.match(text)):
        problems.append(Problem(where, f"a number of {len(text)} characters", "quote it if it is text"))
        return None
    if _INT.match(text):
        return int(text)
    if _FLOAT.match(text):
        number = float(text)
        if number in (float("inf"), float("-inf")):
            problems.append(Problem(where, f"the number {text}", "no float can hold it"))
        return number
    return text
