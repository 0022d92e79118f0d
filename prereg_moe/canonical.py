"""Canonical bytes: one document, one byte string, one digest.

RFC 8785 (JSON Canonicalization Scheme) through ``rfc8785``, which refuses NaN, infinities and
integers beyond 2**53. Digests are written ``sha256:<64 hex digits>``. Reading is as strict as
writing: bytes that are not the canonical form of what they say are refused, so a file has
exactly one spelling and any changed byte changes the document or is an error.

Files are written by atomic rename: a reader sees the old bytes or the new ones, never half.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
import tempfile
from pathlib import Path
from typing import Any

import rfc8785

from prereg_moe.errors import Invalid, NotCheckable, Problem, Stopped, Tampered

__all__ = ["MAX_BYTES", "digest", "digest_file", "dumps", "loads", "read", "read_bytes", "write"]

MAX_BYTES = 128 << 20  # of one document; a condition's evidence has some kilobytes
_CHUNK = 1 << 20
_MAX_INTEGER = 2**53 - 1


def dumps(document: Any) -> bytes:
    """Return the RFC 8785 bytes of a JSON document (dict, list, str, int, float, bool, None).

    Raises:
        Invalid: NaN, an infinity, an integer beyond 2**53, or something that is not JSON.
    """
    try:
        return rfc8785.dumps(document)
    except (rfc8785.CanonicalizationError, RecursionError) as error:
        raise Invalid(Problem("document", f"has no canonical form ({error})", "use finite JSON values")) from error


def digest(document: Any) -> str:
    """Return ``sha256:<hex>`` of bytes, or of the canonical bytes of a JSON document."""
    data = document if isinstance(document, bytes) else dumps(document)
    return "sha256:" + hashlib.sha256(data).hexdigest()


def digest_file(path: Path) -> str:
    """Return ``sha256:<hex>`` of a file's bytes, read in chunks.

    Raises:
        NotCheckable: the file cannot be read.
    """
    sha = hashlib.sha256()
    try:
        _refuse_special(path)
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                sha.update(chunk)
    except OSError as error:
        raise NotCheckable(Problem(str(path), f"cannot be read ({error.strerror})")) from error
    return "sha256:" + sha.hexdigest()


def loads(data: bytes, where: str = "document") -> Any:
    """Parse canonical bytes; ``dumps(loads(data)) == data`` holds for everything returned.

    Raises:
        Tampered: the bytes are not JSON, not the canonical form of what they say, or too many.
    """
    if len(data) > MAX_BYTES:
        raise Tampered(Problem(where, f"has {len(data)} bytes", f"a document has at most {MAX_BYTES}"))
    try:
        document = json.loads(data, parse_int=_integer)
        canonical = rfc8785.dumps(document)
    except (ValueError, RecursionError, rfc8785.CanonicalizationError) as error:
        raise Tampered(
            Problem(where, f"is not canonical JSON ({error})", "restore the file that was sealed")
        ) from error
    if canonical != data:
        raise Tampered(
            Problem(where, "is JSON but not in canonical form (RFC 8785)", "restore the file that was sealed")
        )
    return document


def _integer(digits: str) -> int | float:
    """Return the number digits say: RFC 8785 3.2.2.3 writes whole floats below 1e21 without a point."""
    number = int(digits) if len(digits) <= len(str(-_MAX_INTEGER)) else float(digits)
    return number if abs(number) <= _MAX_INTEGER else float(number)


def read(path: Path) -> Any:
    """Return the document in a canonical JSON file.

    Raises:
        NotCheckable: the file cannot be read.
        Tampered: its bytes are not canonical JSON, or too many.
    """
    return loads(read_bytes(path), str(path))


def read_bytes(path: Path) -> bytes:
    """Return the bytes of a plain file that is no larger than a document may be.

    Raises:
        NotCheckable: it cannot be read.
        Tampered: it is larger than anything prereg-moe writes.
    """
    try:
        _refuse_special(path)
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise NotCheckable(Problem(str(path), f"cannot be read ({error.strerror})")) from error
    if len(data) > MAX_BYTES:
        raise Tampered(Problem(str(path), f"has more than {MAX_BYTES} bytes", "no file of a study is that large"))
    return data


def _refuse_special(path: Path) -> None:
    """Refuse a pipe, a socket and a device, which would be read without end."""
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # a folder says so when it is opened
        raise OSError(errno.EINVAL, "no plain file")


def write(path: Path, document: Any) -> str:
    """Put the canonical bytes of a document (or bytes as they are) at ``path`` and return their digest.

    Raises:
        Stopped: the folder is read-only or full; nothing is left half-written.
    """
    data = document if isinstance(document, bytes) else dumps(document)
    temporary: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".part")
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except OSError as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        raise Stopped(
            Problem(str(path), f"cannot be written ({error.strerror})", "free space or choose another folder")
        ) from error
    return digest(data)
