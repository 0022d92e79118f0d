"""From wheels to passages: what is taken, how it is cleaned, how train, A and B are kept apart.

1. *Fragments* are read from each wheel: translated interface messages (gettext ``.mo`` files and
   JSON), Python functions without docstrings, doctest lines. Arithmetic is generated as well.
2. A fragment is dropped if it is short, or not recognisably in its language (share of the
   script's characters; most frequent function words).
3. Fragments are shared out: corpus A and the training text by a hash of the message or of the
   file's name, corpus B by source. Two fragments that begin alike are near-duplicates: one that
   begins like a training fragment is dropped from A and B, one that begins like an A fragment
   is dropped from B.
4. Fragments are joined with spaces, in the order of their hash, into *passages* of about 50 to
   80 tokens, and cut there. So most passages are joined messages, not prose.

Everything is a function of the wheels' bytes and, for code, of the Python version whose
``ast.unparse`` writes it.
"""

from __future__ import annotations

import ast
import gettext
import hashlib
import io
import json
import random
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal, localcontext
from pathlib import PurePosixPath
from typing import Any, Literal

from prereg_moe.lab.testbed import AXES
from prereg_moe.lab.testbed.sources import Source, Wheel

__all__ = ["Corpora", "extract"]

Part = Literal["train", "A", "B"]
Corpora = dict[str, dict[str, tuple[str, ...]]]  # part -> axis -> passages


@dataclass(frozen=True, slots=True)
class Fragment:
    """One message, function or doctest line, where it may be used, and what decides its place there."""

    axis: str
    part: Part
    text: str


_LANGUAGES = {
    "en": ("en",),
    "es": ("es", "es_ES"),
    "fr": ("fr", "fr_FR"),
    "ar": ("ar", "ar_SA"),
    "zh": ("zh_Hans", "zh_CN", "zh"),
    "ja": ("ja", "ja_JP"),
}
_AXIS_OF = {code: axis for axis, codes in _LANGUAGES.items() for code in codes}

# UTF-8 bytes a passage reaches before it is closed; chosen so that passages have 50 to 80 tokens.
_PASSAGE_BYTES = {"en": 160, "es": 155, "fr": 160, "ar": 200, "zh": 160, "ja": 205, "code": 135, "math": 88}
_LONGEST = 1.3  # a passage is cut at this multiple of its axis's bytes
_PASSAGES: dict[Part, int] = {"train": 6000, "A": 200, "B": 200}
# Percent of the superset messages that go to corpus A; the rest is training text.
_SHARE_OF_A = {"en": 60, "es": 40, "fr": 40, "ar": 36, "zh": 70, "ja": 40}
_GENERATED: dict[Part, int] = {"train": 1500, "A": 60, "B": 0}


def extract(wheels: Iterable[Wheel]) -> Corpora:
    """Return the passages of every part and axis, duplicate-free within and across parts."""
    fragments: dict[Part, dict[str, dict[str, None]]] = {part: {a: {} for a in AXES} for part in _PASSAGES}
    for wheel in wheels:
        for fragment in _fragments(wheel):
            fragments[fragment.part][fragment.axis][fragment.text] = None
    corpora: Corpora = {part: {} for part in _PASSAGES}
    for axis in AXES:
        begun: set[str] = set()
        used: set[str] = set()
        for part in _PASSAGES:  # in this order: what is trained on cannot be confirmed on
            kept = [text for text in fragments[part][axis] if _beginning(text, axis) not in begun]
            begun |= {_beginning(text, axis) for text in kept}
            passages = dict.fromkeys(_generated(part) if axis == "math" else ())
            passages.update(dict.fromkeys(_join(sorted(kept, key=_hash), axis)))
            chosen = sorted((text for text in passages if text not in used), key=_hash)[: _PASSAGES[part]]
            used.update(chosen)
            corpora[part][axis] = tuple(chosen)
    return corpora


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def _beginning(text: str, axis: str) -> str:
    length = {"zh": 10, "ja": 12, "code": 60, "math": 40}.get(axis, 24)
    return text[:length].casefold()


def _join(fragments: Iterable[str], axis: str) -> Iterator[str]:
    """Yield passages: fragments joined until the axis's number of bytes is reached, then cut to its limit."""
    target, passage = _PASSAGE_BYTES[axis], ""
    for fragment in fragments:
        passage = f"{passage} {fragment}" if passage else fragment
        if len(passage.encode()) >= target:
            yield passage.encode()[: int(target * _LONGEST)].decode(errors="ignore").rstrip()
            passage = ""


# -- what is read in a wheel ---------------------------------------------------------------------


def _fragments(wheel: Wheel) -> Iterator[Fragment]:
    readers = {"messages": _messages, "code": _functions, "doctests": _doctests}
    for kind in wheel.source.kind:
        yield from readers[kind](wheel)


def _part(source: Source, key: str, share_of_A: int) -> Part:
    """Return B for a confirmation source, else A or train by the key's hash."""
    if source.use == "B":
        return "B"
    if source.use == "train":
        return "train"
    return "A" if _hash(key) % 100 < share_of_A else "train"


def _messages(wheel: Wheel) -> Iterator[Fragment]:
    """Yield the messages of every axis's language, and the English ones they translate."""
    for name, data in wheel.members(".mo", ".json"):
        found = re.search(r"/(?:locale|translations)/([A-Za-z_-]+)(?:/LC_MESSAGES/[^/]*)?\.(?:mo|json)$", name)
        axis = _AXIS_OF.get(found.group(1).replace("-", "_")) if found else None
        if axis is None:
            continue
        pairs = _catalogue(data, axis) if name.endswith(".mo") else ((axis, s) for s in _strings(json.loads(data)))
        for language, raw in pairs:
            text = _clean(raw)
            if _is_language(text, language):
                yield Fragment(language, _part(wheel.source, text, _SHARE_OF_A[language]), text)


def _catalogue(data: bytes, axis: str) -> Iterator[tuple[str, str]]:
    """Yield (axis, message) of a gettext catalogue: the translation and, once, its English original."""
    catalogue: dict[Any, str] = vars(gettext.GNUTranslations(io.BytesIO(data)))["_catalog"]
    for key, message in catalogue.items():
        original = key if isinstance(key, str) else key[0]
        if original and axis != "en":
            yield "en", original
            if message != original:
                yield axis, message


def _strings(document: Any) -> Iterator[str]:
    if isinstance(document, str):
        yield document
    elif isinstance(document, dict | list):
        for child in document.values() if isinstance(document, dict) else document:
            yield from _strings(child)


_CLEANING = (
    (r"<[^>]+>", " "),  # markup
    (r"%\((\w+)\)[sd]", r"\1"),  # named placeholders keep their name
    (r"%[sd]|\{\{?[^}]*\}?\}", "X"),
    (r"https?://\S+|\u200b", ""),
    (r"&nbsp;", " "),
    (r"&#39;", "'"),
    (r"&quot;", '"'),
    (r"&amp;", "&"),
    (r"\s+", " "),
)


def _clean(text: str) -> str:
    for pattern, replacement in _CLEANING:
        text = re.sub(pattern, replacement, text)
    return text.strip()


_SCRIPTS = {"ar": "[\u0600-\u06ff]", "zh": "[\u4e00-\u9fff]", "ja": "[\u3040-\u30ff\u4e00-\u9fff]"}
_KANA = re.compile("[\u3040-\u30ff]")
_SHORTEST = {"ar": 14, "zh": 7, "ja": 7, "en": 20, "es": 20, "fr": 20}
_FUNCTION_WORDS = {
    "en": "the of to is for and in a",
    "es": "de la el en que los para del se una",
    "fr": "de la le les des pour est une du pas",
}


def _is_language(text: str, axis: str) -> bool:
    """Return whether a message is long enough and recognisably in its axis's language."""
    if len(text) < _SHORTEST[axis]:
        return False
    if axis in _SCRIPTS:
        share = len(re.findall(_SCRIPTS[axis], text)) / len(text)
        return share > 0.55 and (axis == "ar" or bool(_KANA.search(text)) == (axis == "ja"))
    words = re.findall(r"\w+", text.lower())
    counts = {language: sum(map(words.count, known.split())) for language, known in _FUNCTION_WORDS.items()}
    return counts[axis] > 0 and counts[axis] == max(counts.values())


def _python_files(wheel: Wheel) -> Iterator[tuple[str, str]]:
    for name, data in wheel.members(".py"):
        if "test" not in name and "/migrations/" not in name:
            yield name, data.decode(errors="ignore")


def _functions(wheel: Wheel) -> Iterator[Fragment]:
    """Yield the functions of a package as code without comments and docstrings, split by file."""
    for name, text in _python_files(wheel):
        part = _part(wheel.source, PurePosixPath(name).name, 15)
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                body = node.body[1:] if ast.get_docstring(node) is not None else node.body
                code = ast.unparse(ast.FunctionDef(**{**vars(node), "body": body})) if body else ""
                if len(code.encode()) >= _PASSAGE_BYTES["code"]:
                    yield Fragment("code", part, code)


_ANSWER = re.compile(r"^[-+(\[]*[\d.xyz]")
_NOT_MATHS = re.compile(r"import|print|plot|doctest|help\(|['\"]")


def _doctests(wheel: Wheel) -> Iterator[Fragment]:
    """Yield the formulas in a package's doctests, with their numerical or symbolic answers, split by file."""
    for name, text in _python_files(wheel):
        part = _part(wheel.source, PurePosixPath(name).name, 15)
        formula = ""
        for line in map(str.strip, [*text.splitlines(), ""]):
            answer = line if formula and _ANSWER.match(line) else ""
            if len(formula) >= 6 and re.search(r"\d", formula + answer):
                yield Fragment("math", part, f"{formula} {answer}".strip()[: _PASSAGE_BYTES["math"]])
            formula = line[3:].split("#")[0].strip() if line.startswith(">>>") and not _NOT_MATHS.search(line) else ""


# -- generated arithmetic ------------------------------------------------------------------------


def _generated(part: Part) -> Iterator[str]:
    """Yield generated passages of solved equations, products, derivatives and numerical values."""
    generator = random.Random(f"testbed math {part}")  # noqa: S311 - text, not secrets
    for _ in range(_GENERATED[part]):
        yield from _join((_formula(generator) for _ in range(9)), "math")


def _formula(generator: random.Random) -> str:
    a, b, c, d = (generator.randrange(2, 60) for _ in range(4))
    v = generator.choice("xyznkt")
    with localcontext(prec=generator.choice((15, 20, 30))):
        return generator.choice(
            (
                f"{a}*{v} + {b} = {a * c + b}; {v} = {a * c}/{a} = {c}.",
                f"({v} + {a})*({v} - {b}) = {v}**2 + {a - b}*{v} - {a * b}".replace("+ -", "- "),
                f"{a}*{b} + {c}*{d} {a * b + c * d}",
                f"diff({a}*{v}**{b}, {v}) {a * b}*{v}**{b - 1}",
                f"integrate({2 * d}*{v}, ({v}, 0, {c})) {d * c * c}",
                f"sqrt({a}) {Decimal(a).sqrt()}",
                f"exp({Decimal(b) / 10}) {(Decimal(b) / 10).exp()}",
                f"log({a}) {Decimal(a).ln()}",
                f"{a}/{b} {Decimal(a) / Decimal(b)}",
            )
        )
