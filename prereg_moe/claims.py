r"""Checking a manuscript: what it says of sealed verdicts and numbers, against the sealed verdicts and numbers.

A **reference** names a registration and something in its `verdict.json`::

    testbed:modular.ar=CONFIRMED         a claim and the verdict it is said to have
    testbed:again.ar=CONFIRMED/exploratory     the same of a claim that is not confirmatory
    testbed:modular.ar.on                a number: the effect on the own axis
    testbed:modular.ar.off.en.high       the upper end of an interval
    testbed:modular.CONFIRMED            how many claims of the block are confirmed

It stands beside what is printed: in LaTeX as ``\prereg{testbed:modular.ar.on}{1.25}`` (see
:data:`MACRO`), in Markdown as ``1.25<!--prereg:testbed:modular.ar.on-->``, in a YAML list as
``{claim: "testbed:modular.ar", verdict: CONFIRMED, numbers: {on: 1.25}}``.

A number is right when it is what rounding the sealed one to the written number of decimals gives
(half to even, on the exact value), or when its ``<`` or ``>`` is true. Text without a reference
is not read: nobody can tell what it claims.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Context, Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from prereg_moe import canonical, ledger
from prereg_moe.errors import Invalid, NotCheckable, PreregError, Problem
from prereg_moe.registration.document import MAX_BYTES, Written, read_written
from prereg_moe.registry import Registry, read_bytes

__all__ = ["MACRO", "OUTCOMES", "Checked", "Said", "check_claims", "find_claims", "read_manuscript"]

MACRO = r"\newcommand{\prereg}[2]{#2}"
OUTCOMES = ("supported", "stronger than its verdict", "not registered", "wrong number")
MAX_REFERENCES = 5_000
_VERDICTS = ("CONFIRMED", "REFUTED", "INCONCLUSIVE", "INVALID")
_TIERS = ("confirmatory", "exploratory", "control")
_IMPLIED = {"CONFIRMED": ("INCONCLUSIVE", "INVALID"), "INCONCLUSIVE": ("INVALID",)}  # what says less than a verdict
_EXACT = Context(prec=1000)  # of a float's 309 digits and 440 decimals none is lost

_MACRO = re.compile(r"\\prereg\s{0,8}\{")
_COMMENT = re.compile(r"<!--\s{0,8}prereg:([^<>\n]{1,300}?)\s{0,8}-->")
_FENCE = re.compile(r"\s{0,3}(```|~~~)")
_TEX_COMMENT = re.compile(r"(?<!\\)((?:\\\\)*)%[^\n]*")
_NUMBER = re.compile(
    r"(?P<relation>[<>≤≥])?(?P<value>[+-]?(?:[0-9]{1,40}(?:\.[0-9]{0,40})?|\.[0-9]{1,40}))"
    r"(?:(?:[eE]|[x×]10\^?)\{?(?P<exponent>[+-]?[0-9]{1,3})\}?)?(?P<percent>%)?"
)
_BEFORE = re.compile(r"(?:[<>≤≥]\s?)?(?<![\w.,])[+−-]?[0-9.][0-9.,]*(?:[eE][+−-]?[0-9]+)?\s?%?\Z")


@dataclass(frozen=True, slots=True)
class Said:
    """One thing a manuscript says.

    Attributes:
        line: where, from 1.
        reference: what it is said of, ``ID:CLAIM``, ``ID:CLAIM.NUMBER`` or ``ID:BLOCK.VERDICT``.
        verdict: the verdict it is said to have, None where a number is said.
        tier: the tier it is said to be of.
        number: the number as it is written, None where a verdict is said.
        text: the words it stands beside, for a reader of the result.
    """

    line: int
    reference: str
    verdict: str | None = None
    tier: str = "confirmatory"
    number: str | None = None
    text: str = ""

    @property
    def registration(self) -> str:
        """The id of the registration it is about."""
        return self.reference.partition(":")[0]


@dataclass(frozen=True, slots=True)
class Checked:
    """What became of one thing that is said.

    Attributes:
        said: what was said, and where.
        outcome: one of :data:`OUTCOMES`.
        detail: what is sealed.
    """

    said: Said
    outcome: str
    detail: str


# ------------------------------------------------------------------ reading


def read_manuscript(path: Path) -> tuple[Said, ...]:
    """Return what the manuscript at a path says.

    Raises:
        Invalid, NotCheckable: as :func:`find_claims`, or it cannot be read.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise NotCheckable(Problem(str(path), f"cannot be read ({error.strerror})", "name a manuscript")) from error
    return find_claims(data, path.name)


def find_claims(data: bytes, name: str) -> tuple[Said, ...]:
    """Return everything a manuscript (LaTeX or Markdown) or a YAML list of claims says, line by line.

    Args:
        data: UTF-8 bytes, at most 4 MiB.
        name: the file's name; ``.yaml``, ``.yml`` and ``.json`` are lists, ``.tex`` has % comments.

    Raises:
        Invalid: it is no such text, or a reference is malformed; all problems at once.
        NotCheckable: it refers to nothing.
    """
    problems: list[Problem] = []
    if name.lower().endswith((".yaml", ".yml", ".json")):
        said = list(_listed(data, name, problems))
    else:
        text = _text(data, name)
        if len(_MACRO.findall(text)) + len(_COMMENT.findall(text)) > MAX_REFERENCES:
            raise Invalid(Problem(name, f"has more than {MAX_REFERENCES} references", "split it"))
        said = [*_in_markdown(text, name, problems), *_in_latex(text, name, problems)]
    if problems:
        raise Invalid(problems)
    if not said:
        raise NotCheckable(Problem(name, "refers to no verdict and no number", r"write \prereg{ID:CLAIM.on}{1.25}"))
    return tuple(sorted(said, key=lambda one: one.line))


def _text(data: bytes, name: str) -> str:
    if len(data) > MAX_BYTES:
        raise Invalid(Problem(name, f"has {len(data)} bytes", f"a manuscript has at most {MAX_BYTES}"))
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Invalid(Problem(name, f"is not UTF-8 text (byte {error.start})", "save it as UTF-8")) from error
    if "\0" in text:
        raise Invalid(Problem(name, "is binary", "give the manuscript's source: .tex, .md or .yaml"))
    return text


def _said(line: int, reference: str, number: str, text: str, where: str, problems: list[Problem]) -> Iterator[Said]:
    """Yield what a reference says beside a number, or with a verdict behind ``=``."""
    reference, equals, verdict = reference.strip().partition("=")
    word, _, tier = verdict.partition("/")
    if ":" not in reference:
        problems.append(Problem(where, f"the reference {reference[:80]!r} names no registration", "write ID:CLAIM"))
    elif not equals:
        yield Said(line, reference, number=number, text=text)
    elif word not in _VERDICTS or (tier or "confirmatory") not in _TIERS:
        expected = (
            f"one of {', '.join(_VERDICTS)}, with /exploratory or /control behind it where it is not confirmatory"
        )
        problems.append(Problem(where, f"{verdict[:80]!r} is no verdict", expected))
    else:
        yield Said(line, reference, verdict=word, tier=tier or "confirmatory", text=text)


def _in_markdown(text: str, name: str, problems: list[Problem]) -> Iterator[Said]:
    fence = None
    for line, content in enumerate(text.split("\n"), start=1):
        if found := _FENCE.match(content):
            fence = found[1] if fence is None else None if found[1] == fence else fence
        if fence is not None:
            continue
        for token in _COMMENT.finditer(content):
            before = content[max(0, token.start() - 120) : token.start()].rstrip().rstrip("*_`$")
            number = _BEFORE.search(before)
            written = number[0] if number else before[-20:]
            yield from _said(line, token[1], written, before[-60:].strip(), f"{name}:{line}", problems)


def _in_latex(text: str, name: str, problems: list[Problem]) -> Iterator[Said]:
    if name.lower().endswith((".tex", ".ltx")):
        text = _TEX_COMMENT.sub(lambda found: found[1], text)
    newlines = [index for index, character in enumerate(text) if character == "\n"]
    for token in _MACRO.finditer(text):
        line = bisect_right(newlines, token.start()) + 1
        reference, end = _group(text, token.end(), 300)
        opening = re.compile(r"\s{0,8}\{").match(text, end)
        written, last = _group(text, opening.end(), 2000) if opening else ("", 0)
        if not last:
            problems.append(Problem(f"{name}:{line}", r"an unfinished \prereg", r"write \prereg{REFERENCE}{TEXT}"))
        else:
            yield from _said(line, reference, written, " ".join(written.split())[:60], f"{name}:{line}", problems)


def _group(text: str, start: int, longest: int) -> tuple[str, int]:
    """Return what stands in the braces opened before ``start`` and where they end, 0 where they do not."""
    depth = 1
    for index in range(start, min(len(text), start + longest)):
        if text[index] in "{}" and text[index - 1] != "\\":
            depth += 1 if text[index] == "{" else -1
            if depth == 0:
                return text[start:index], index + 1
    return "", 0


def _listed(data: bytes, name: str, problems: list[Problem]) -> Iterator[Said]:
    entries = read_written(data, name)
    if not isinstance(entries, list):
        raise Invalid(Problem(name, "is not a list of claims", "write - {claim: ID:CLAIM, verdict: CONFIRMED}"))
    for number, entry in enumerate(entries):
        fields = dict(entry) if isinstance(entry, dict) else {}
        claim, verdict, numbers = fields.pop("claim", None), fields.pop("verdict", None), fields.pop("numbers", {})
        written = [*numbers.values()] if isinstance(numbers, dict) else [None]
        written += [verdict] if verdict is not None else []
        if fields or not isinstance(claim, Written) or not written or not all(isinstance(w, Written) for w in written):
            expected = "an entry has claim, and verdict (a word) or numbers (a table) or both"
            problems.append(Problem(f"{name}, entry {number + 1}", "is no claim", expected))
            continue
        where = f"{name}:{claim.line}"
        if verdict is not None:
            yield from _said(claim.line, f"{claim}={verdict}", "", "", where, problems)
        for quantity, value in numbers.items():
            yield from _said(value.line, f"{claim}.{quantity}", value, "", where, problems)


# ------------------------------------------------------------------ checking


def check_claims(registry: Registry, said: tuple[Said, ...]) -> tuple[Checked, ...]:
    """Return what becomes of everything that is said, by the sealed verdicts of a registry.

    That the verdicts follow from the evidence is the audit's to say.
    """
    studies = {id_: _study(registry, id_) for id_ in dict.fromkeys(one.registration for one in said)}
    return tuple(Checked(one, *_check(one, studies[one.registration])) for one in said)


def _study(registry: Registry, id_: str) -> Mapping[str, Any] | tuple[str, str]:
    """Return name -> what a sealed verdict document says of it, or the outcome of whatever is said of it."""
    _, stronger, unregistered, _ = OUTCOMES
    seals, _ = ledger.examine(registry.ledger())
    if not any(seal.registration == id_ and seal.kind == "freeze" for seal in seals):
        return unregistered, f"{id_[:80]!r} is no frozen registration here"
    sealed = ledger.sealed_files(seals, id_).get(f"reports/{id_}/verdict.json")
    if sealed is None:
        return stronger, f"{id_} has no verdict yet"
    try:
        data = read_bytes(registry.reports(id_) / "verdict.json")
        if canonical.digest(data) == sealed:
            return _names(canonical.loads(data))
    except (PreregError, KeyError, TypeError, AttributeError):
        pass  # the audit says what is wrong with it
    return stronger, f"the sealed verdict.json of {id_} is not here"


def _names(document: Any) -> dict[str, Any]:
    names: dict[str, Any] = {}
    tiers = {entry["claim"]: entry["tier"] for entry in document["verdicts"]}
    for entry in document["verdicts"]:
        block = names.setdefault(entry["block"], {"claims": 0, **dict.fromkeys(_VERDICTS, 0)})
        block["claims"] += 1
        block[entry["verdict"]] += 1
    for entry in document["replications"]:
        tier = max((tiers[claim] for claim in entry["claims"]), key=_TIERS.index)  # of the weakest
        names[f"{entry['replication']}.{entry['family']}"] = {**entry, "tier": tier}
    for entry in document["verdicts"]:
        names[entry["claim"]] = {**entry["estimates"], **{k: v for k, v in entry.items() if k != "estimates"}}
    return names


def _check(said: Said, study: Mapping[str, Any] | tuple[str, str]) -> tuple[str, str]:
    if isinstance(study, tuple):
        return study
    rest = said.reference.partition(":")[2]
    parts = rest.split(".")
    name = next((n for k in range(len(parts), 0, -1) if (n := ".".join(parts[:k])) in study), None)
    if name is None:
        return OUTCOMES[2], f"{said.registration} has no claim {rest[:80]!r}"
    if said.verdict is not None:
        return _verdict(said, name == rest, study[name])
    return _number(said, rest[len(name) + 1 :], study[name])


def _verdict(said: Said, whole: bool, entry: Mapping[str, Any]) -> tuple[str, str]:
    supported, stronger, unregistered, _ = OUTCOMES
    if not whole or "verdict" not in entry:
        return unregistered, f"{said.reference!r} names no single claim"
    sealed, tier = entry["verdict"], entry["tier"]
    found = f"its verdict is {sealed} ({', '.join(entry['reasons']) or 'no reason given'}), {tier}"
    if _TIERS.index(said.tier) < _TIERS.index(tier) and said.verdict in ("CONFIRMED", "REFUTED"):
        return stronger, f"{found}: write ={sealed}/{tier}"
    return supported if said.verdict == sealed or said.verdict in _IMPLIED.get(sealed, ()) else stronger, found


def _number(said: Said, quantity: str, entry: Any) -> tuple[str, str]:
    supported, _, unregistered, wrong = OUTCOMES
    value = entry
    for part in quantity.split(".") if quantity else []:
        value = value.get(part) if isinstance(value, dict) else None
    if isinstance(value, dict):
        value = value.get("estimate")
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        known = [name for name, one in entry.items() if isinstance(one, (int, float, dict))]
        return unregistered, f"it has no number {quantity!r}; there are {', '.join(sorted(known))}"
    holds = _agrees(said.number or "", value)
    if holds is None:
        return wrong, f"{(said.number or '')[:40]!r} is no number; sealed is {value!r}"
    return (supported if holds else wrong), f"sealed is {value!r}"


_RELATIONS: dict[str, Callable[[Decimal, Decimal], bool]] = {
    "<": lambda sealed, bound: sealed < bound,
    ">": lambda sealed, bound: sealed > bound,
    "≤": lambda sealed, bound: sealed <= bound,
    "≥": lambda sealed, bound: sealed >= bound,
}


def _agrees(text: str, value: float) -> bool | None:
    """Return whether a number as written agrees with a sealed one, None where it is no number.

    >>> _agrees("1.80", 1.7964), _agrees("1.8", 1.7964), _agrees("1.79", 1.7964), _agrees("<.001", 2e-42)
    (True, True, False, True)
    """
    found = _NUMBER.fullmatch(_plain(text))
    if found is None:
        return None
    written = Decimal(f"{found['value']}e{found['exponent'] or 0}")
    sealed = _EXACT.multiply(Decimal(value), Decimal(100 if found["percent"] else 1))
    if found["relation"]:
        return _RELATIONS[found["relation"]](sealed, written)
    try:
        step = Decimal((0, (1,), int(written.as_tuple().exponent)))
        return sealed.quantize(step, context=_EXACT) == written
    except InvalidOperation:  # hundreds of decimals
        return False


_WRITTEN = {
    "−": "-",
    r"\times": "x",
    r"\cdot": "x",
    r"\leq": "≤",
    r"\geq": "≥",
    r"\le": "≤",
    r"\ge": "≥",
    r"\%": "%",
    r"\,": "",
    "{,}": ",",
    "{-}": "-",
    "$": "",
    "~": "",
}


def _plain(text: str) -> str:
    """Return a number as Markdown or LaTeX writes it in plain characters, without its separators of thousands."""
    text = text[:200]
    for written, plain in _WRITTEN.items():
        text = text.replace(written, plain)
    text = "".join(text.split())
    return text.replace(",", "") if re.search(r"(?<![0-9])[0-9]{1,3}(?:,[0-9]{3})+(?![0-9,])", text) else text
