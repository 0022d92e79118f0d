"""Reading tables made elsewhere: CSV, JSON and Parquet, strictly, cells as they were written.

A CSV cell is the text between its commas, a JSON number the digits it was written with; nothing is
rounded on the way in.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from prereg_moe.errors import Invalid, NotCheckable, Problem

__all__ = ["MAX_BYTES", "number", "read_table", "require_columns"]

MAX_BYTES = 512 << 20
_MAX_FIELD = 1 << 20

Row = Mapping[str, Any]


def read_table(data: bytes, name: str) -> list[Row]:
    """Return the rows of a table, each as column -> text, number or None.

    Args:
        data: the file's bytes.
        name: the file's name; its ending says the format (.csv, .json, .jsonl, .parquet).

    Raises:
        Invalid: another format, too large, or not what its ending says; with its place.
    """
    if len(data) > MAX_BYTES:
        raise Invalid(Problem(name, f"has {len(data)} bytes", f"a table has at most {MAX_BYTES}"))
    readers = {".csv": _csv, ".json": _json, ".jsonl": _lines, ".parquet": _parquet}
    ending = Path(name).suffix.lower()
    if ending not in readers:
        raise Invalid(Problem(name, f"ends in {ending or 'nothing'}", f"give one of {', '.join(readers)}"))
    rows = readers[ending](data, name)
    if not rows:
        raise Invalid(Problem(name, "holds no row", "empty is not evidence"))
    return rows


def require_columns(rows: Sequence[Row], columns: Iterable[str], name: str) -> None:
    """Refuse a table in which a row lacks a column.

    Raises:
        Invalid: with every column missing, and the first row it is missing in.
    """
    problems = []
    for column in dict.fromkeys(columns):
        lacking = next((number for number, row in enumerate(rows, 1) if column not in row), None)
        if lacking is not None:
            known = ", ".join(rows[lacking - 1])
            problems.append(Problem(f"{name}, row {lacking}", f"has no column {column!r}", f"it has {known}"))
    if problems:
        raise Invalid(problems)


def number(row: Row, column: str, where: str) -> float:
    """Return a row's finite number.

    Raises:
        Invalid: it is none.
    """
    value = row[column]
    try:
        found = math.nan if isinstance(value, bool) or value is None else float(value)
    except (TypeError, ValueError):
        found = math.nan
    if not math.isfinite(found):
        raise Invalid(Problem(where, f"{column} is {value!r}", "every registered score is a finite number"))
    return found


def _text(data: bytes, name: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Invalid(Problem(name, f"is not UTF-8 text (byte {error.start})", "save it as UTF-8")) from error


def _csv(data: bytes, name: str) -> list[Row]:
    csv.field_size_limit(_MAX_FIELD)
    reader = csv.reader(io.StringIO(_text(data, name), newline=""), strict=True)
    try:
        lines = [(reader.line_num, line) for line in reader if line]
    except csv.Error as error:
        raise Invalid(Problem(f"{name}:{reader.line_num}", f"is not CSV ({error})", "mend it")) from error
    if not lines:
        return []
    header = lines[0][1]
    if len(set(header)) < len(header):
        raise Invalid(Problem(f"{name}:1", "names a column twice", "give every column its own name"))
    for line_number, line in lines[1:]:
        if len(line) != len(header):
            raise Invalid(Problem(f"{name}:{line_number}", f"has {len(line)} cells", f"the header has {len(header)}"))
    return [dict(zip(header, line, strict=True)) for _, line in lines[1:]]


def _json(data: bytes, name: str) -> list[Row]:
    value = _parsed(_text(data, name), name)
    if not isinstance(value, list) or not all(isinstance(row, dict) for row in value):
        raise Invalid(Problem(name, "is not a list of objects", "write one object a row"))
    return value


def _lines(data: bytes, name: str) -> list[Row]:
    rows: list[Row] = []
    for line_number, line in enumerate(_text(data, name).split("\n"), 1):
        if line.strip():
            row = _parsed(line, f"{name}:{line_number}")
            if not isinstance(row, dict):
                raise Invalid(Problem(f"{name}:{line_number}", "is not an object", "write one object a line"))
            rows.append(row)
    return rows


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text, parse_float=str, parse_int=str, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise Invalid(Problem(where, f"is not JSON ({error})", "mend it")) from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        raise ValueError("a key stands twice in an object")
    return made


def _parquet(data: bytes, name: str) -> list[Row]:
    try:
        import pyarrow.parquet  # optional, and slow to import
    except ModuleNotFoundError as error:
        found = Problem(name, "needs pyarrow", "pip install pyarrow, or give CSV or JSON")
        raise NotCheckable(found) from error
    try:
        rows: list[Row] = pyarrow.parquet.read_table(io.BytesIO(data)).to_pylist()
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        raise Invalid(Problem(name, f"is not Parquet ({error})", "write it again")) from error
    return rows
