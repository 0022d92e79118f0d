"""Laws of canonical bytes: one document has one spelling, and nothing else is read."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from prereg_moe import canonical
from prereg_moe.errors import Invalid, PreregError, Tampered

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from([2.0**53, -(2.0**60), 1e20, 999999999999999900000.0, 1e21])
    | st.text(max_size=8)
)
documents = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)


@settings(deadline=None)
@given(documents)
def test_what_is_written_is_read_back(document: Any) -> None:
    data = canonical.dumps(document)
    read = canonical.loads(data)
    assert read == document
    assert canonical.dumps(read) == data


@settings(deadline=None)
@given(documents, documents)
def test_documents_share_a_digest_only_where_they_are_equal(one: Any, other: Any) -> None:
    assert (canonical.digest(one) == canonical.digest(other)) == (canonical.dumps(one) == canonical.dumps(other))
    if json.dumps(one) == json.dumps(other):
        assert canonical.digest(one) == canonical.digest(other)


@settings(deadline=None)
@given(st.dictionaries(st.text(max_size=4), scalars, min_size=2, max_size=6), st.randoms(use_true_random=False))
def test_the_order_of_keys_does_not_exist(document: dict[str, Any], random: Any) -> None:
    pairs = list(document.items())
    random.shuffle(pairs)
    assert canonical.dumps(dict(pairs)) == canonical.dumps(document)


SPELLINGS = {
    "with spaces": lambda document: json.dumps(document, ensure_ascii=False),
    "with line breaks": lambda document: json.dumps(document, indent=1, ensure_ascii=False),
    "with a newline at the end": lambda document: canonical.dumps(document).decode() + "\n",
    "with everything escaped": lambda document: json.dumps(document, separators=(",", ":"), sort_keys=True),
    "with a byte order mark": lambda document: "\ufeff" + canonical.dumps(document).decode(),
}


@pytest.mark.parametrize("how", SPELLINGS)
@settings(deadline=None, max_examples=60)
@given(document=documents)
def test_every_other_spelling_is_refused(how: str, document: Any) -> None:
    data = SPELLINGS[how](document).encode("utf-8", "surrogatepass")
    assume(data != canonical.dumps(document))
    with pytest.raises(Tampered):
        canonical.loads(data)


@settings(deadline=None, max_examples=300)
@given(documents, st.data())
def test_a_changed_byte_changes_the_document_or_is_refused(document: Any, data: st.DataObject) -> None:
    honest = canonical.dumps(document)
    at = data.draw(st.integers(0, len(honest) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda value: value != honest[at]))
    forged = honest[:at] + bytes([byte]) + honest[at + 1 :]
    try:
        read = canonical.loads(forged)
    except Tampered:
        return
    assert canonical.dumps(read) == forged != honest


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=40) | st.text(alphabet='{}[]",:0123456789.eE+-\\unltrfas ', max_size=30).map(str.encode))
def test_any_bytes_are_read_or_refused_as_ours(data: bytes) -> None:
    try:
        assert canonical.dumps(canonical.loads(data)) == data
    except Tampered:
        return


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b'{"a":1,"a":1}', id="a key twice"),
        pytest.param(b'{"b":1,"a":1}', id="keys out of order"),
        pytest.param(b"1.0", id="an integer with a point"),
        pytest.param(b"1e2", id="an integer with an exponent"),
        pytest.param(b"-0", id="minus zero"),
        pytest.param(b"NaN", id="NaN"),
        pytest.param(b"-Infinity", id="an infinity"),
        pytest.param(b"1e999", id="an overflow"),
        pytest.param(b"9007199254740993", id="an integer beyond 2**53"),
        pytest.param(b"9" * 10_000, id="an integer of ten thousand digits"),
        pytest.param(b'"\\u0041"', id="a needless escape"),
        pytest.param(b'"\\ud800"', id="half a surrogate pair"),
        pytest.param('"é"'.encode("latin-1"), id="another encoding"),
        pytest.param('{"a":1}'.encode("utf-16"), id="UTF-16"),
        pytest.param(b"[" * 100_000 + b"]" * 100_000, id="a hundred thousand levels"),
        pytest.param(b"", id="nothing"),
        pytest.param(b"1 2", id="two documents"),
    ],
)
def test_bytes_that_are_no_canonical_document(data: bytes) -> None:
    with pytest.raises(Tampered) as caught:
        canonical.loads(data, "evidence.json")
    assert caught.value.problems[0].where == "evidence.json"


@pytest.mark.parametrize(
    "value", [math.nan, math.inf, -math.inf, 2**53 + 1, {1: 2}, {"a": {3}}, [b"bytes"], "\ud800", [object()]]
)
def test_values_without_canonical_bytes_are_the_callers_fault(value: Any) -> None:
    with pytest.raises(Invalid, match="no canonical form"):
        canonical.dumps(value)


@pytest.mark.parametrize(
    ("document", "data"),
    [  # RFC 8785, section 3.2.2 and appendix B
        ({"numbers": [333333333.33333329, 1e30, 4.50, 2e-3, 0.000000000000000000000000001]},
         b'{"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27]}'),
        ({"€": 1, "\r": 2, "1": 3, "ö": 4, "😀": 5, "\u0080": 6},
         '{"\\r":2,"1":3,"\u0080":6,"ö":4,"€":1,"😀":5}'.encode()),
        (-0.0, b"0"),
        (5e-324, b"5e-324"),
    ],
)  # fmt: skip
def test_the_examples_of_the_standard(document: Any, data: bytes) -> None:
    assert canonical.dumps(document) == data


def test_errors_are_of_the_package() -> None:
    assert issubclass(Tampered, PreregError)
    assert Tampered("x").exit_code == 3
