"""What a manuscript says is compared with the sealed verdicts: every outcome, every notation, hostile manuscripts."""

from __future__ import annotations

import math
import shutil
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from decimal import ROUND_HALF_EVEN, Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from world import ID, World

from prereg_moe import canonical
from prereg_moe.claims import MACRO, OUTCOMES, _agrees, check_claims, find_claims, read_manuscript
from prereg_moe.errors import Invalid, NotCheckable
from prereg_moe.registry import Registry
from prereg_moe.report import effect

SUPPORTED, STRONGER, UNREGISTERED, WRONG = OUTCOMES


def outcomes(world: World, text: str, name: str = "paper.tex") -> list[str]:
    return [one.outcome for one in check_claims(world.registry, find_claims(text.encode(), name))]


def verdicts(world: World) -> dict[str, Any]:
    document = canonical.read(world.registry.reports(ID) / "verdict.json")
    return {entry["claim"]: entry for entry in document["verdicts"]}


# ------------------------------------------------------------------ numbers


@given(st.floats(-1e6, 1e6), st.integers(0, 8))
def test_a_number_is_right_exactly_when_it_is_the_rounded_one(value: float, decimals: int) -> None:
    assert _agrees(f"{value:.{decimals}f}", value)
    other = Decimal(f"{value:.{decimals}f}") + Decimal(1).scaleb(-decimals)
    assert not _agrees(str(other), value)


@given(st.floats(-1e3, 1e3))
def test_the_numbers_of_a_report_are_right(value: float) -> None:
    assert _agrees(effect(value), value)


@given(st.floats(allow_nan=False, allow_infinity=False), st.integers(0, 12))
def test_a_number_with_an_exponent_is_rounded_in_its_mantissa(value: float, decimals: int) -> None:
    text = f"{value:.{decimals}e}"
    assert _agrees(text, value)
    mantissa, _, exponent = text.partition("e")
    assert _agrees(rf"${mantissa}\times10^{{{int(exponent)}}}$", value)


@given(st.floats(0.0, 1.0), st.integers(0, 4))
def test_percent_is_a_hundred_times(value: float, decimals: int) -> None:
    written = (Decimal(value) * 100).quantize(Decimal(1).scaleb(-decimals), ROUND_HALF_EVEN)
    assert _agrees(f"{written}%", value)
    assert _agrees(rf"{written}\%", value)


@given(st.floats(-10, 10), st.floats(-10, 10))
def test_a_bound_is_compared_and_not_rounded(value: float, bound: float) -> None:
    assume(abs(bound) > 1e-9)
    text = format(Decimal(f"{bound:.3f}"), "f")
    assert _agrees(f"<{text}", value) == (Decimal(value) < Decimal(text))
    assert _agrees(rf"$\geq {text}$", value) == (Decimal(value) >= Decimal(text))


@pytest.mark.parametrize(
    ("text", "value", "agrees"),
    [
        ("1.80", 1.84, False),  # one decimal would do, two do not
        ("1.8", 1.84, True),
        ("0.125", 0.1249999, True),
        ("0.5", 0.45, True),  # 0.45 is a little more than 0.45
        ("2", 2.5, True),  # half to even
        ("3", 2.5, False),
        ("−0.035", -0.0349, True),
        ("-0.000", -0.0004, True),
        ("0.035", -0.0349, False),
        ("1,234", 1234.4, True),
        ("12{,}345", 12345, True),
        (".026", 0.0257, True),
        ("<.001", 1.9e-42, True),
        ("<.001", 0.002, False),
        ("1.9e-42", 1.94579575108157e-42, True),
        ("2.0e-42", 1.94579575108157e-42, False),
        ("1e309", 1e308, False),
        ("1e999", 1e308, False),
        ("1e-999", 1e-308, False),
        ("0." + "0" * 39 + "1", 0.0, False),
        ("1.2.3", 1.2, None),
        ("1,2", 1.2, None),
        ("NaN", math.nan, None),
        ("infinity", 1.0, None),
        ("", 0.0, None),
        ("0x1", 1.0, None),
        ("٣", 3.0, None),
    ],
)
def test_a_number_as_people_write_it(text: str, value: float, agrees: bool | None) -> None:
    assert _agrees(text, value) is agrees


# ------------------------------------------------------------------ verdicts


@pytest.mark.parametrize(
    ("said", "outcome"),
    [
        ("main.en=CONFIRMED", SUPPORTED),
        ("main.en=INCONCLUSIVE", SUPPORTED),  # says less than it may
        ("main.en=REFUTED", STRONGER),
        ("main.en=CONFIRMED/exploratory", SUPPORTED),  # the same
        ("randomised.en=CONFIRMED/control", STRONGER),
        ("again.en=CONFIRMED", STRONGER),  # an exploratory claim sold as a confirmatory one
        ("again.en=CONFIRMED/exploratory", SUPPORTED),
        ("again.en=CONFIRMED/control", SUPPORTED),
        ("planted.en=CONFIRMED/exploratory", STRONGER),
        ("both.en=CONFIRMED", STRONGER),  # one of the blocks it joins is exploratory
        ("both.en=CONFIRMED/exploratory", SUPPORTED),
        ("main.fr=CONFIRMED", UNREGISTERED),
        ("main=CONFIRMED", UNREGISTERED),
        ("main.en.on=CONFIRMED", UNREGISTERED),
    ],
)
def test_a_verdict_is_supported_or_too_strong(said: str, outcome: str, reported: World) -> None:
    assert outcomes(reported, rf"\prereg{{{ID}:{said}}}{{some words}}") == [outcome]


def test_numbers_of_a_claim_a_block_and_a_replication(reported: World) -> None:
    entry = verdicts(reported)["main.en"]
    on, axis = entry["estimates"]["on"], entry["estimates"]["worst_off"]["axis"]
    right = {
        "main.en.on": on["estimate"],
        "main.en.on.estimate": on["estimate"],
        "main.en.on.low": on["low"],
        f"main.en.off.{axis}.high": entry["estimates"]["worst_off"]["high"],
        "main.en.null.sd": entry["estimates"]["null"]["sd"],
        "main.en.margin": entry["margin"],
        "main.CONFIRMED": 3,
        "main.claims": 3,
        "randomised.CONFIRMED": 0,
        "both.en.confirmed": 2,
    }
    text = "".join(rf"\prereg{{{ID}:{reference}}}{{{value:.4f}}}" for reference, value in right.items())
    assert outcomes(reported, text) == [SUPPORTED] * len(right)
    text = "".join(rf"\prereg{{{ID}:{reference}}}{{{value + 1:.4f}}}" for reference, value in right.items())
    assert outcomes(reported, text) == [WRONG] * len(right)


@pytest.mark.parametrize("quantity", ["", ".model", ".on.kind", ".null", ".null.draws", ".estimates", ".reasons.0"])
def test_a_reference_to_no_number_is_not_registered(quantity: str, reported: World) -> None:
    assert outcomes(reported, rf"\prereg{{{ID}:main.en{quantity}}}{{1}}") == [UNREGISTERED]


def test_what_is_frozen_and_not_judged_supports_nothing(frozen: World) -> None:
    assert outcomes(frozen, rf"\prereg{{{ID}:main.en=CONFIRMED}}{{x}}") == [STRONGER]


def test_an_edited_verdict_supports_nothing(reported: World) -> None:
    path = reported.registry.reports(ID) / "verdict.json"
    path.write_bytes(path.read_bytes().replace(b"INCONCLUSIVE", b"CONFIRMED").replace(b"REFUTED", b"CONFIRMED"))
    assert outcomes(reported, rf"\prereg{{{ID}:randomised.en=CONFIRMED/control}}{{x}}") == [STRONGER]


@pytest.mark.parametrize("id_", ["other", "../world", "", "x" * 500])
def test_another_registration_is_not_registered(id_: str, reported: World) -> None:
    text = rf"\prereg{{{id_[:200]}:main.en=CONFIRMED}}{{x}}"
    assert outcomes(reported, text) == [UNREGISTERED]


# ------------------------------------------------------------------ notations


def test_latex_lines_comments_and_nested_braces() -> None:
    text = "\n".join(
        [
            MACRO,
            r"% \prereg{world:main.en.on}{9}",
            r"50\% of \prereg {world:main.en.on} {$1{,}234.5$} \\% \prereg{world:main.en.on}{9}",
            r"\prereg{world:main.en=CONFIRMED}{a {\em module} for \textbf{it}}",
        ]
    )
    first, second = find_claims(text.encode(), "paper.tex")
    assert (first.line, first.reference, first.number) == (3, "world:main.en.on", "$1{,}234.5$")
    assert (second.line, second.verdict, second.text) == (4, "CONFIRMED", r"a {\em module} for \textbf{it}")


@pytest.mark.parametrize(
    ("line", "number"),
    [
        ("an effect of 1.25<!--prereg:w:a.b.on--> nats", "1.25"),
        ("an effect of **1.25** <!-- prereg:w:a.b.on -->", "1.25"),
        ("$-0.35$<!--prereg:w:a.b.on-->", "-0.35"),
        ("[1.184<!--prereg:w:a.b.on-->, 1.3]", "1.184"),
        ("(p < .001<!--prereg:w:a.b.p-->)", "< .001"),
        ("p=.026<!--prereg:w:a.b.p-->", ".026"),
        ("12.5%<!--prereg:w:a.b.share-->", "12.5%"),
        ("1,234<!--prereg:w:a.b.share-->", "1,234"),
        ("−0.035<!--prereg:w:a.b.on-->", "−0.035"),
    ],
)
def test_markdown_takes_the_number_before_the_comment(line: str, number: str) -> None:
    [said] = find_claims(line.encode(), "paper.md")
    assert said.number == number


def test_markdown_examples_in_code_are_not_claims() -> None:
    text = "```\n1.25<!--prereg:w:a.b.on-->\n~~~\n```\nIt is a module.<!--prereg:w:a.b=CONFIRMED-->\n"
    [said] = find_claims(text.encode(), "paper.md")
    assert (said.line, said.verdict, said.text) == (5, "CONFIRMED", "It is a module.")


def test_a_yaml_list_keeps_numbers_as_they_are_written(reported: World) -> None:
    on = verdicts(reported)["main.en"]["estimates"]["on"]
    text = "\n".join(
        [
            f"- claim: {ID}:main.en",
            "  verdict: CONFIRMED",
            "  numbers:",
            f"    on: {on['estimate']:.3f}",
            f"    on.low: {on['low'] + 0.01:.3f}",
            f"- {{claim: '{ID}:main.CONFIRMED', numbers: {{on: 3}}}}",
        ]
    )
    said = find_claims(text.encode(), "claims.yaml")
    assert [one.line for one in said] == [1, 4, 5, 6]
    assert said[1].number == f"{on['estimate']:.3f}", "trailing zeros count"
    assert outcomes(reported, text, "claims.yaml") == [SUPPORTED, SUPPORTED, WRONG, UNREGISTERED]


@pytest.mark.parametrize(
    ("text", "name", "words"),
    [
        (r"\prereg{world:main.en=PROVEN}{x}", "p.tex", "is no verdict"),
        (r"\prereg{world:main.en=CONFIRMED/secret}{x}", "p.tex", "is no verdict"),
        (r"\prereg{main.en.on}{1}", "p.tex", "names no registration"),
        (r"\prereg{world:main.en.on}", "p.tex", "unfinished"),
        (r"\prereg{world:main.en.on}{1", "p.tex", "unfinished"),
        ("- claim: world:main.en", "c.yaml", "is no claim"),
        ("- {claim: 'world:main.en', verdict: CONFIRMED, extra: 1}", "c.yaml", "is no claim"),
        ("- {claim: 'world:main.en', verdict: [CONFIRMED]}", "c.yaml", "is no claim"),
        ("- {claim: 'w:a', verdict: CONFIRMED, verdict: REFUTED}", "c.yaml", "second time"),
        ("claim: world:main.en", "c.yaml", "is not a list"),
        ("- &a {claim: 'w:a', verdict: CONFIRMED}\n- *a", "c.yaml", "anchor"),
        ("- " * 100, "c.yaml", "nested"),
        ("a\0b", "p.tex", "binary"),
    ],
)
def test_what_cannot_be_read_is_said_with_its_place(text: str, name: str, words: str) -> None:
    with pytest.raises(Invalid) as found:
        find_claims(text.encode(), name)
    assert words in str(found.value)


HOSTILE = {
    "open braces": b"\\prereg{" * 200_000,
    "nested": b"\\prereg{a:b}{" + b"{" * 3_000_000,
    "comments": b"<!--prereg:" * 300_000,
    "spaces": b"<!--" + b" " * 4_000_000,
    "digits": b"9" * 4_000_000 + b"<!--prereg:a:b-->",
    "fences": b"```\n" * 1_000_000,
    "percents": b"%" * 4_000_000,
    "backslashes": b"\\" * 4_000_000,
    "too long": b"x" * 5_000_000,
    "too many": b"1<!--prereg:a:b-->" * 20_000,
    "dots": b"1<!--prereg:a:" + b"." * 299 + b"-->",
    "random": bytes(range(256)) * 1000,
}


@pytest.mark.parametrize("case", HOSTILE)
@pytest.mark.parametrize("name", ["p.tex", "p.md", "p.yaml"])
def test_hostile_manuscripts_end_soon(case: str, name: str, reported: World) -> None:
    started = time.perf_counter()
    try:
        checked = check_claims(reported.registry, find_claims(HOSTILE[case], name))
    except (Invalid, NotCheckable):
        checked = ()
    assert all(one.outcome != SUPPORTED for one in checked)
    assert time.perf_counter() - started < 10


@given(st.binary(max_size=300) | st.text(alphabet="\\prereg{}<!->:%=.\n1", max_size=200).map(str.encode))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    for name in ("p.tex", "p.md"):
        with suppress(Invalid, NotCheckable):
            assert find_claims(data, name)


def test_a_missing_manuscript_is_said(tmp_path: Path) -> None:
    with pytest.raises(NotCheckable, match="cannot be read"):
        read_manuscript(tmp_path / "paper.tex")


# ------------------------------------------------------------------ the command


def test_the_exit_code_is_one_where_a_claim_is_not_supported(run_cli: Callable[..., Any], reported: World) -> None:
    paper = reported.root.parent / "paper.tex"
    paper.write_text(rf"\prereg{{{ID}:main.en=CONFIRMED}}{{x}}")
    said = run_cli("audit", reported.root, "--claims", paper, "--json")
    assert (said.code, said.json["claims"][0]["outcome"]) == (0, SUPPORTED)
    paper.write_text("\n" + rf"\prereg{{{ID}:randomised.en=CONFIRMED}}{{[x] is a module}}")
    said = run_cli("audit", reported.root, "--claims", paper)
    assert said.code == 1
    assert f"line 2: {STRONGER}" in said.out
    said = run_cli("audit", reported.root, "--claims", paper, "--json")
    [claim] = said.json["claims"]
    assert (said.json["exit_code"], claim["line"], claim["text"]) == (1, 2, "[x] is a module")


def test_a_manuscript_without_references_is_not_checked(run_cli: Callable[..., Any], reported: World) -> None:
    paper = reported.root.parent / "paper.tex"
    paper.write_text("We confirm everything.")
    assert run_cli("audit", reported.root, "--claims", paper).code == 4


def test_a_broken_study_is_graver_than_a_broken_claim(run_cli: Callable[..., Any], reported: World) -> None:
    paper = reported.root.parent / "paper.tex"
    paper.write_text(rf"\prereg{{{ID}:randomised.en=CONFIRMED}}{{x}}")
    (reported.evidence[0]).write_bytes(b"{}")
    assert run_cli("audit", reported.root, "--claims", paper).code == 3


# ------------------------------------------------------------------ the page


ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/claims.md").read_text("utf-8")


@pytest.mark.parametrize(("language", "name"), [("latex", "p.tex"), ("markdown", "p.md"), ("yaml", "p.yaml")])
def test_the_examples_of_the_page_refer_to_the_committed_study(language: str, name: str) -> None:
    block = PAGE.split(f"```{language}\n", 1)[1].split("```", 1)[0]
    said = find_claims(block.encode(), name)
    checked = check_claims(Registry(ROOT), said)
    assert len(checked) >= 2
    assert [one.detail for one in checked if one.outcome == UNREGISTERED] == []


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_the_macro_prints_its_text_only(tmp_path: Path) -> None:
    body = r"\section{A \prereg{w_1:a_b.c=CONFIRMED/exploratory}{claim}}\emph{\prereg{w:a_b.on}{$1.25$}}"
    source = tmp_path / "paper.tex"
    source.write_text(rf"\documentclass{{article}}{MACRO}\begin{{document}}{body}\end{{document}}")
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", source.name], cwd=tmp_path, capture_output=True
    )
    assert done.returncode == 0, done.stdout[-500:]
