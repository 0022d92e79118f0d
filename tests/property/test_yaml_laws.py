"""Laws of the YAML reader: plain data has one meaning, and nothing clever is read."""

from __future__ import annotations

import json
import re
import time
from typing import Any

import pytest
import yaml
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from prereg_moe.errors import Invalid
from prereg_moe.registration.document import MAX_BYTES, MAX_DEPTH, read_yaml

printable = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Co", "Cn")), max_size=12)
words = st.sampled_from(
    [
        "no",
        "No",
        "NO",
        "yes",
        "on",
        "off",
        "y",
        "n",
        "null",
        "~",
        "true",
        "1_000",
        "0x1f",
        "0o17",
        "1:30",
        "=",
        "<<",
        "",
    ]
)
scalars = st.none() | st.booleans() | st.integers(-(10**30), 10**30) | printable | words
scalars |= st.floats(allow_nan=False, allow_infinity=False)
plain = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(printable | words, inner, max_size=4),
    max_leaves=12,
).filter(lambda value: value is not None)


def not_collapsed(value: Any) -> Any:
    """Write a value in block style, every text in double quotes, keys bare where that is safe."""
    return json.dumps(value, ensure_ascii=False, indent=2)


@settings(deadline=None, max_examples=200)
@given(plain)
def test_a_json_document_means_what_json_says(value: Any) -> None:
    assert read_yaml(not_collapsed(value).encode()) == json.loads(not_collapsed(value))


@settings(deadline=None, max_examples=200)
@given(st.dictionaries(st.text("abcxyz", min_size=1, max_size=5), st.lists(printable | words, max_size=3), max_size=4))
def test_what_another_library_dumps_is_read_alike(value: dict[str, list[str]]) -> None:
    assume(all(one_word(text) for texts in value.values() for text in texts))
    data = yaml.safe_dump(value, allow_unicode=True).encode()
    assert read_yaml(data) == value


def one_word(text: str) -> bool:
    """Whether YAML 1.1, which the library writes, quotes what 1.2, which is read, takes for a number: not so 0E0."""
    quoted = yaml.SafeLoader("").resolve(yaml.ScalarNode, text, (True, False)) != "tag:yaml.org,2002:str"
    return quoted or isinstance(reference(text), str)


# YAML 1.2.2, section 10.3.2: an own reference for bare scalars
def reference(text: str) -> Any:
    if text in ("null", "Null", "NULL", "~", ""):
        return None
    if text in ("true", "True", "TRUE", "false", "False", "FALSE"):
        return text.lower() == "true"
    if re.fullmatch(r"[-+]?[0-9]+", text):
        return int(text)
    if re.fullmatch(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", text):
        return float(text)
    return text


bare = st.from_regex(r"[A-Za-z0-9_.+~][A-Za-z0-9_.+-]{0,10}", fullmatch=True).filter(lambda text: "---" not in text)


@settings(deadline=None, max_examples=500)
@given(bare | words.filter(lambda word: word not in ("=", "<<", "~", "")))
def test_a_bare_scalar_is_read_by_the_core_schema_of_yaml_1_2(text: str) -> None:
    expected = reference(text)
    if isinstance(expected, float) and expected in (float("inf"), float("-inf")):
        with pytest.raises(Invalid, match="no float can hold it"):
            read_yaml(f"key: {text}\n".encode())
        return
    read = read_yaml(f"key: {text}\n".encode())["key"]
    assert read == expected
    assert type(read) is type(expected)


@pytest.mark.parametrize("word", ["no", "No", "NO", "yes", "Yes", "YES", "on", "On", "off", "OFF", "y", "n", "N"])
def test_no_word_of_yaml_1_1_is_a_truth_value(word: str) -> None:
    assert read_yaml(f"{word}: {word}\n".encode()) == {word: word}
    assert read_yaml(f"[{word}]".encode()) == [word]


@pytest.mark.parametrize("word", ["2026-01-01", "1:30", "0x1f", "0o17", "1_000", ".inf", ".nan", "=", "1e", "0.1.2"])
def test_what_yaml_1_1_made_something_of_is_text(word: str) -> None:
    assert read_yaml(f"key: {word}\n".encode()) == {"key": word}


HOSTILE = {
    "an alias": (b"a: &x 1\nb: *x\n", "an anchor or alias"),
    "an anchor alone": (b"a: &x 1\n", "an anchor or alias"),
    "a merge key with an alias": (b"a: &x {b: 1}\nc: {<<: *x}\n", "an anchor or alias"),
    "a billion laughs": (
        b"a: &a [x, x]\n" + b"".join(b"%c: &%c [*%c, *%c]\n" % (98 + n, 98 + n, 97 + n, 97 + n) for n in range(24)),
        "an anchor or alias",
    ),
    "a list that holds itself": (b"&a [*a]\n", "an anchor or alias"),
    "an object of Python": (b"!!python/object/apply:os.getcwd []\n", "a tag"),
    "a tag of YAML itself": (b"a: !!str 1\n", "a tag"),
    "a tag of one's own": (b"%TAG ! tag:x,2026:\n---\na: !y 1\n", "a tag"),
    "a set": (b"!!set {a, b}\n", "a tag"),
    "two documents": (b"a: 1\n---\nb: 2\n", "a second document"),
    "a key that is a list": (b"? [a]\n: 1\n", "a key that is not text"),
    "a key twice": (b"a: 1\na: 1\n", "the key 'a' a second time"),
    "a key twice, once quoted": (b"a: 1\n'a': 1\n", "the key 'a' a second time"),
    "a key twice, deep inside": (b"a: [{b: 1, b: 2}]\n", "the key 'b' a second time"),
    "a million brackets": (b"[" * 1_000_000, "nested deeper"),
    "a hundred thousand braces": (b"{a: " * 100_000, "nested deeper"),
    "ten thousand dashes": (b"- " * 10_000, "nested deeper"),
    "ten thousand question marks": (b"? " * 10_000, "nested deeper"),
    "a staircase": (b"".join(b" " * n + b"-\n" for n in range(1_000)), "nested deeper"),
    "a number of five thousand digits": (b"a: " + b"9" * 5_000, "a number of 5000 characters"),
    "a fraction of five thousand digits": (b"a: 0." + b"9" * 5_000, "a number of 5002 characters"),
    "a number beyond floats": (b"a: 1e400\n", "the number 1e400"),
    "a NUL written as an escape": (b'a: "\\0"\n', "the control character"),
    "a terminal escape in a key": (b'"\\e[31m": 1\n', "the control character"),
    "half a surrogate pair": (b'a: "\\uD800"\n', "the control character"),
    "five megabytes": (b"#" * (MAX_BYTES + 1), "bytes"),
    "only a comment": (b"# nothing\n", "is empty"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_refused_at_once(name: str) -> None:
    data, words_ = HOSTILE[name]
    began = time.perf_counter()
    with pytest.raises(Invalid) as caught:
        read_yaml(data)
    assert any(words_ in str(problem) for problem in caught.value.problems), caught.value
    assert time.perf_counter() - began < 5


def test_nesting_up_to_the_limit_is_read() -> None:
    assert read_yaml(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH)
    with pytest.raises(Invalid, match="nested deeper"):
        read_yaml(b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1))


def test_every_problem_has_its_line() -> None:
    with pytest.raises(Invalid) as caught:
        read_yaml(b"a: 1\nb:\n  a: 1\n  a: 2\nc: 1e999\na: 3\n", "x.yaml")
    assert sorted(problem.where for problem in caught.value.problems) == ["x.yaml:4", "x.yaml:5", "x.yaml:6"]


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=60) | st.text("{}[]:-?&*!|>'\"%@`#, \n\tab01", max_size=40).map(str.encode))
def test_any_bytes_are_read_or_refused_as_ours(data: bytes) -> None:
    try:
        document = read_yaml(data)
    except Invalid:
        return
    assert json.loads(json.dumps(document, allow_nan=False)) == document
