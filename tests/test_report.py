"""Reports: made from the verdict document alone, by sandboxed templates, with hostile text kept harmless."""

from __future__ import annotations

import copy
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from browser import need
from hypothesis import given, settings
from hypothesis import strategies as st
from world import AXES, World

from prereg_moe import canonical, render, templating
from prereg_moe.errors import Invalid
from prereg_moe.report import cell, context, effect, interval, p_value, share, template_name, tex
from prereg_moe.report.numbers import FILTERS

HOSTILE = "A title\n\n# CONFIRMED\n\n| family | **CONFIRMED** | <script>x</script> \\input{/etc/passwd} $x$ 5% #1 ~ ^ _"


@pytest.fixture(scope="module")
def document(stages_of_a_world: dict[str, Path]) -> Any:
    return canonical.read(World(stages_of_a_world["judged"]).registry.reports("world") / "verdict.json")


def test_the_filters_known_at_the_freeze_are_those_of_a_report() -> None:
    assert set(FILTERS) == templating.FILTERS


def template(format_: str) -> str:
    return templating.reports()[template_name(format_)]


def hostile(document: Any) -> Any:
    """Return the document with every text an author may choose made hostile."""
    document = copy.deepcopy(document)
    study = document["study"]
    study |= dict.fromkeys(("title", "question", "foreknowledge", "exclusions"), HOSTILE)
    for block in study["claims"]:
        block["hypothesis"] = HOSTILE
    for entry in document["verdicts"]:
        entry["family"] = f"{entry['family']} {HOSTILE}"
    return document


@pytest.mark.parametrize("format_", ["md", "tex"])
def test_the_same_document_gives_the_same_report(format_: str, document: Any) -> None:
    shuffled = dict(reversed(list(document.items())))
    assert render(document, template(format_)) == render(shuffled, template(format_))


@pytest.mark.parametrize("format_", ["md", "tex"])
def test_a_report_is_rendered_from_a_copy_read_back(format_: str, document: Any) -> None:
    again = canonical.loads(canonical.dumps(document))
    assert render(again, template(format_)) == render(document, template(format_))


def test_the_markdown_report_shows_every_claim_and_what_it_rests_on(document: Any) -> None:
    text = render(document, template("md"))
    assert text.startswith("# Expert families of a world without models\n")
    assert "Confirmatory claims: 3 CONFIRMED" in text
    assert "positive passed (3 of 3 confirmed" in text
    for axis in AXES:
        assert re.search(rf"^\| {axis} \| .*\*\*CONFIRMED\*\*", text, re.MULTILINE)
    assert document["registration"] in text
    assert document["evidence"] in text
    assert "Everything: the effects are written down in this world." in text


def test_every_row_of_a_markdown_table_has_the_cells_of_its_head(document: Any) -> None:
    for shown in (document, hostile(document)):
        lines = render(shown, template("md")).splitlines()
        heads = [index for index, line in enumerate(lines) if set(line) <= set("|- ") and "|" in line]
        assert len(heads) >= 6
        for head in heads:
            columns = lines[head].count("|")
            row = head + 1
            while row < len(lines) and lines[row].startswith("|"):
                assert lines[row].count("|") == columns, lines[row]
                row += 1
            assert row > head + 1, f"an empty table behind {lines[head - 1]}"


def test_every_replication_has_a_table_of_its_own(document: Any) -> None:
    twice = copy.deepcopy(document)
    twice["replications"] += [{**entry, "replication": "other", "require": 1} for entry in twice["replications"]]
    text = render(twice, template("md"), "md")
    said = re.findall(r"^\n`(\w+)`: at least (\d)", text, re.MULTILINE)  # behind an empty line
    assert said == [("both", "2"), ("other", "1")]


def test_hostile_text_adds_no_heading_no_row_and_no_html_to_markdown(document: Any) -> None:
    plain, shown = (render(d, template("md")).splitlines() for d in (document, hostile(document)))
    assert [line[:2] for line in shown if line.startswith("#")] == [line[:2] for line in plain if line.startswith("#")]
    assert len(shown) == len(plain)
    assert "<script" not in "\n".join(shown)


def test_hostile_text_gives_latex_no_command_and_no_line(document: Any) -> None:
    plain, shown = (render(d, template("tex")) for d in (document, hostile(document)))
    assert len(shown.splitlines()) == len(plain.splitlines())
    assert "\\input{/" not in shown
    assert "\\textbackslash{}input\\{/etc/passwd\\}" in shown
    commands = re.compile(r"\\[A-Za-z]+")
    ours = {"\\textbackslash", "\\textasciitilde", "\\textasciicircum", "\\textless", "\\textgreater"}
    assert set(commands.findall(shown)) - ours == set(commands.findall(plain)) - ours


@settings(deadline=None)
@given(st.text(max_size=60))
def test_no_text_ends_a_cell_or_a_line(text: str) -> None:
    escaped = cell(text)
    assert not set("|<\n\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029") & set(escaped)
    assert len(escaped.splitlines()) <= 1


@settings(deadline=None)
@given(st.text("\\{}$&#^_~%<>[]−–×ab \n", max_size=40))
def test_latex_text_holds_only_commands_of_ours(text: str) -> None:
    escaped = tex(text)
    assert "\n" not in escaped
    ours = r"\\(?:textbackslash|textasciitilde|textasciicircum|textless|textgreater)\{\}|\\ensuremath\{(?:-|\\times)\}"
    rest = re.sub(rf"{ours}|\\[&%$#_{{}}]|\{{[\[\]]\}}", "", escaped)
    assert not set("\\{}$&#^_~%<>[]") & set(rest), rest


ESCAPES = {
    "a class": "{{ document.__class__ }}",
    "subclasses": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "the globals of a filter": "{{ effect.__globals__ }}",
    "an attribute by filter": "{{ document | attr('__class__') }}",
    "a format string": "{{ '{0.__class__}'.format(document) }}",
    "another file": "{% include '/etc/passwd' %}",
    "an import": "{% import 'os' as os %}",
    "a changed document": "{{ document.update({'x': 1}) }}",
    "a changed list": "{{ document.verdicts.append(1) }}",
    "a name that is not there": "{{ secret }}",
    "a syntax error": "{% for %}",
    "a huge range": "{% for i in range(10 ** 9) %}{% endfor %}",
}


@pytest.mark.parametrize("what", ESCAPES)
def test_a_template_cannot_reach(what: str, document: Any) -> None:
    before = canonical.dumps(document)
    with pytest.raises(Invalid, match="cannot be rendered"):
        render(document, ESCAPES[what])
    assert canonical.dumps(document) == before


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (effect(None), "–"),
        (effect(-0.0004), "0.000"),
        (effect(-1.25), "−1.250"),
        (effect(0.00051), "0.001"),
        (p_value(None), "–"),
        (p_value(0.0), "<.001"),
        (p_value(0.0499), ".050"),
        (p_value(1.0), "1.000"),
        (share(None), "–"),
        (share(0.333), "0.33"),
        (interval({"estimate": 1.0, "low": None, "high": 2.0}), "1.000 [–, 2.000]"),
    ],
)
def test_numbers_are_rounded_by_one_rule(shown: str, expected: str) -> None:
    assert shown == expected


@pytest.mark.parametrize(("level", "shown"), [(0.95, "95%"), (0.975, "97.5%"), (0.999, "99.9%"), (0.9, "90%")])
def test_a_level_is_shown_as_it_is(level: float, shown: str, document: Any) -> None:
    document = copy.deepcopy(document)
    document["study"]["inference"]["interval"]["level"] = level
    assert context(document)["level"] == shown


def test_a_study_that_is_invalid_says_so_first(document: Any) -> None:
    document = copy.deepcopy(document)
    document["controls"][1] |= {"holds": False, "confirmed": 3}
    for entry in document["verdicts"]:
        if entry["tier"] != "control":
            entry |= {"verdict": "INVALID", "reasons": ["NEGATIVE_CONTROL_FAILED"]}
    text = render(document, template("md"))
    assert "Confirmatory claims: 3 INVALID" in text
    assert "negative FAILED (3 of 3 confirmed" in text
    assert "so no other claim of this study is valid" in text


def test_the_latex_report_compiles_with_hostile_text_too(document: Any, tmp_path: Path) -> None:
    shown = hostile(document)
    for number, entry in enumerate(shown["verdicts"]):
        entry["family"] = "[2ex] *" if number % 2 else "* [x"
    preamble = "\\documentclass{article}\\usepackage{booktabs,graphicx}\\begin{document}\n"
    body = render(shown, template("tex"))
    (tmp_path / "report.tex").write_text(f"{preamble}{body}\\end{{document}}\n", "utf-8")
    done = subprocess.run(
        [need("pdflatex"), "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", "report.tex"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=60,
    )
    assert done.returncode == 0, done.stdout[-2000:]
