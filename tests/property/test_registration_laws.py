"""Laws of registrations: expanding and parsing are inverse, and the order of keys says nothing."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from world import registration

from prereg_moe import canonical
from prereg_moe.errors import Invalid
from prereg_moe.registration import block_alpha, expand, family_names, load, off_axes, parse

axis_names = st.sampled_from(["no", "en", "code", "fr", "2", "true", "null", "a-b"])
texts = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1, max_size=20)


@st.composite
def registrations(draw: st.DrawFn) -> dict[str, Any]:
    """Vary the world's registration in every part a study can differ by, keeping it valid."""
    document = copy.deepcopy(registration())
    axes = draw(st.lists(axis_names, min_size=2, max_size=5, unique=True))
    document["axes"] = {axis: {"domain": draw(st.sampled_from(["language", "other"]))} for axis in axes}
    document["controls"]["positive"]["at_least"] = draw(st.integers(1, len(axes)))
    document |= {key: draw(texts) for key in ("title", "question", "foreknowledge")}
    document["intervention"]["gates"] = draw(st.sampled_from(["renorm", "original"]))
    unit = draw(st.sampled_from(["global_id", "per_layer", "cells"]))
    exclude = draw(
        st.sampled_from([{"kind": "none"}, {"kind": "ids", "ids": [0, 3]}, {"kind": "shared_core", "at_least": 2}])
    )
    build = {"kind": "top_lift", "size": draw(st.integers(1, 5)), "unit": unit, "exclude": exclude}
    explicit = {"kind": "explicit", "cells": {"0": [1, 2]}, "unit": unit}
    document["families"] = [{"axes": "all", "build": draw(st.sampled_from([build, explicit]))}]
    document["inference"] |= {
        "alpha": draw(st.sampled_from([0.05, 0.1])),
        "seed": str(draw(st.integers(0, 10**19))),
        "interval": {"kind": draw(st.sampled_from(["bootstrap_t", "bca"])), "level": draw(st.floats(0.6, 0.99))},
    }
    document["rules"]["modular"]["kappa"] = draw(st.integers(1, 9) | st.floats(0.5, 9))
    document["controls"]["null"]["draws"] = draw(st.integers(39, 60))
    return document


@settings(deadline=None, max_examples=60)
@given(registrations())
def test_parsing_what_was_expanded_changes_nothing(document: dict[str, Any]) -> None:
    parsed = parse(document)
    expanded = expand(parsed)
    assert parse(expanded) == parsed
    assert expand(parse(expanded)) == expanded
    assert canonical.loads(canonical.dumps(expanded)) == expanded


class Quoting(yaml.SafeDumper):
    """Puts text in quotes: what PyYAML (YAML 1.1) leaves plain may be a number in YAML 1.2, such as 0E0."""


Quoting.add_representer(str, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"'))


@settings(deadline=None, max_examples=40)
@given(registrations())
def test_yaml_and_json_say_the_same(document: dict[str, Any]) -> None:
    data = yaml.dump(document, Dumper=Quoting, sort_keys=False, allow_unicode=True).encode()
    assert load(data) == parse(document)


@settings(deadline=None, max_examples=40)
@given(registrations(), st.randoms(use_true_random=False))
def test_the_order_of_keys_of_a_part_says_nothing(document: dict[str, Any], random: Any) -> None:
    pairs = list(document.items())
    random.shuffle(pairs)
    assert expand(parse(dict(pairs))) == expand(parse(document))


@settings(deadline=None, max_examples=60)
@given(registrations(), st.data())
def test_a_part_left_out_is_a_default_or_is_missed_by_name(document: dict[str, Any], data: st.DataObject) -> None:
    key = data.draw(st.sampled_from(sorted(document)))
    rest = {name: value for name, value in document.items() if name != key}
    try:
        parsed = parse(rest)
    except Invalid as error:
        places = {problem.where for problem in error.problems}
        assert any(place.startswith((key, "controls", "claims")) for place in places), places
    else:
        assert key in expand(parsed), "a default is written out"


@settings(deadline=None, max_examples=60)
@given(registrations(), st.data())
def test_no_number_is_made_of_text_and_no_text_of_a_number(document: dict[str, Any], data: st.DataObject) -> None:
    leaf = data.draw(st.sampled_from(sorted(leaves(document))))
    *parents, last = leaf
    inner: Any = document
    for part in parents:
        inner = inner[part]
    inner[last] = str(inner[last]) if isinstance(inner[last], (int, float)) else 1.5
    with pytest.raises(Invalid):
        parse(document)


def leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the paths to the scalars of a document whose kind cannot be confused by sorting."""
    if isinstance(value, dict):
        return [leaf for key, inner in value.items() for leaf in leaves(inner, (*path, key))]
    if isinstance(value, list):
        return [leaf for index, inner in enumerate(value) for leaf in leaves(inner, (*path, index)) if index == 0]
    return [path]


@settings(deadline=None, max_examples=60)
@given(registrations())
def test_families_and_off_axes_cover_the_axes(document: dict[str, Any]) -> None:
    parsed = parse(document)
    assert [axis for axis, _ in family_names(parsed).values()] == list(parsed.axes)
    for claims in parsed.claims:
        for axis in parsed.axes:
            off = off_axes(parsed, claims, axis)
            assert axis not in off
            assert set(off) | {axis} == set(parsed.axes)
    confirmatory = [claims for claims in parsed.claims if claims.tier == "confirmatory"]
    assert sum(block_alpha(parsed, claims) for claims in confirmatory) == pytest.approx(parsed.inference.alpha)
