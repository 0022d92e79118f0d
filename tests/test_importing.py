"""Evidence made elsewhere: published numbers are read, never judged; the same stages, ledger and audit."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prereg_moe import canonical, importing, ledger, rendering, stages
from prereg_moe.auditing import audit
from prereg_moe.errors import Deviated, Invalid, NotCheckable, Tampered
from prereg_moe.importing import schema
from prereg_moe.importing.summary import known_values, read_summary, readings
from prereg_moe.registration.document import read_yaml
from prereg_moe.registry import Registry
from prereg_moe.rules import NAMED

ROOT = Path(__file__).parents[1]
STUDY = ROOT / "registrations" / "command-a-plus"
TABLE = ROOT / "reports" / "command-a-plus" / "sources" / "table1.csv"
RELEASED = ROOT.parent / "shared" / "fixtures" / "command-a-plus"
TIME = "2026-01-01T00:00:00Z"

DOCUMENT: dict[str, Any] = {
    "schema": "prereg-moe/import/1",
    "id": "published",
    "title": "Published numbers",
    "question": "What do they decide?",
    "authors": ["The tests"],
    "foreknowledge": "All of it.",
    "provenance": {"source": "a table", "made_by": "its authors", "intervention": "as they say"},
    "evidence": {"kind": "summary", "claim": "family", "columns": {"on.est": "on", "off.est": "off"}},
    "rules": {"third": {"kind": "expression", "confirm": "off.est <= on.est/3"}},
    "claims": [{"id": "selective", "hypothesis": "It is selective.", "rule": "third"}],
}


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    """A registry with a small registration of published numbers, frozen."""
    registry = Registry(tmp_path)
    canonical.write(registry.registration("published") / "registration.yaml", canonical.dumps(DOCUMENT))
    importing.freeze(registry, "published", time=TIME)
    return registry


def table(tmp_path: Path, text: str, name: str = "table.csv") -> Path:
    path = tmp_path / "elsewhere" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, "utf-8")
    return path


def read(document: dict[str, Any], text: str) -> list[dict[str, Any]]:
    study = schema.parse(document)
    return readings(study, read_summary(study, text.encode(), "table.csv")["claims"])


# ------------------------------------------------------------------ the committed study


def _by_block() -> dict[str, dict[str, Any]]:
    document = canonical.read(ROOT / "reports" / "command-a-plus" / "verdict.json")
    found: dict[str, dict[str, Any]] = {}
    for entry in document["readings"]:
        found.setdefault(entry["block"], {})[entry["claim"]] = entry
    return found


def test_the_point_rule_is_read_as_the_printed_numbers_decide_it() -> None:
    point = _by_block()["point"]
    assert {claim: entry["reading"] for claim, entry in point.items()} == {
        "ar": "TRUE",
        "math": "TRUE",
        "zh": "FALSE",
        "general": "FALSE",
        "es": "UNDECIDABLE",
        "code": "UNDECIDABLE",
    }
    assert [round(end, 3) for end in point["es"]["margin"]] == [-0.007, 0.007]
    assert (point["code"]["margin"][1], point["code"]["tie"], point["es"]["tie"]) == (0, True, False)


@pytest.mark.parametrize("block", ["ci", "ci_by_bound"])
def test_the_interval_rule_names_what_is_missing(block: str) -> None:
    found = _by_block()[block]
    assert {claim for claim, entry in found.items() if entry["reading"] == "FALSE"} == {"es", "zh", "code", "general"}
    for claim in ("ar", "math"):
        assert found[claim]["reading"] == "UNDECIDABLE"
        assert [one["what"] for one in found[claim]["missing"]] == ["the upper bound of the worst off-target effect"]


def test_the_golden_report_follows_byte_for_byte_and_no_reading_is_a_verdict() -> None:
    document = canonical.read(ROOT / "reports" / "command-a-plus" / "verdict.json")
    for format_ in ("md", "tex"):
        template = (STUDY / "templates" / f"report.{format_}.j2").read_text("utf-8")
        kept = (ROOT / "reports" / "command-a-plus" / f"report.{format_}").read_text("utf-8")
        assert rendering.render(document, template, format_) == kept
        assert not {"CONFIRMED", "REFUTED", "INCONCLUSIVE"} & set(kept.split())
        assert "6 of 11" in kept or format_ == "tex"
        assert " ".join(document["cap"].split()) in " ".join(kept.split())


def test_no_number_of_the_report_is_typed_in_its_template() -> None:
    text = (STUDY / "templates" / "report.md.j2").read_text("utf-8")
    printed = canonical.read(ROOT / "reports" / "command-a-plus" / "imported.json")["evidence"]["claims"]
    for entry in printed.values():
        assert not [number for number in entry["printed"].values() if number is not None and number in text]


def test_every_step_of_the_audit_of_the_committed_study_holds_or_waits_for_released_files() -> None:
    registry = Registry(ROOT)
    head = ledger.head(ledger.parse(registry.ledger()))
    found = {f.name: f.outcome for f in audit(registry, "command-a-plus", expected_head=head).findings}
    waiting = {name for name, outcome in found.items() if outcome == "unchecked"}
    assert "fails" not in found.values()
    assert waiting <= {"pinned files", "families and draws"}


def test_the_published_rules_err_as_is_known_of_them() -> None:
    rules = canonical.read(STUDY / "diagnosis.json")["rules"]
    for scenario in ("normal", "skewed"):
        assert 0.4 < rules["point"][scenario]["boundary"]["each"]["estimate"] < 0.6  # a coin at the boundary
        assert rules["point"][scenario]["boundary"]["any"]["estimate"] > 0.95
        assert rules["ci"][scenario]["boundary"]["each"]["high"] < 0.05  # conservative


@pytest.mark.skipif(not RELEASED.is_dir(), reason=f"the released files are not at {RELEASED}")
def test_the_released_files_give_the_committed_checks_and_six_of_eleven_families() -> None:
    kept = canonical.read(ROOT / "reports" / "command-a-plus" / "imported.json")["checks"]
    released = schema.load(STUDY / "registration.yaml").released
    assert released is not None
    assert importing.check_released(released, RELEASED) == kept
    assert (kept["families"]["reproduced"], kept["families"]["of"]) == (6, 11)


def test_the_named_rules_are_read_with_their_band_as_one_number() -> None:
    assert schema.expression("paper_point", band=True).text == NAMED["paper_point"].replace(
        "null.mean + 2*null.sd", "null.band"
    )
    assert "null.band" not in schema.expression("paper_ci", band=False).text


# ------------------------------------------------------------------ readings

TWO = st.decimals(min_value="0.01", max_value="3", places=2)


@given(TWO, TWO, st.fractions(-1, 1), st.fractions(-1, 1))
def test_a_reading_holds_for_every_number_that_rounds_to_the_printed_one(
    on: Any, off: Any, a: Fraction, b: Fraction
) -> None:
    [entry] = read(DOCUMENT, f"family,on,off\nx,{on},{off}\n")
    true_on, true_off = Fraction(on) + a / 200, Fraction(off) + b / 200
    if entry["reading"] != "UNDECIDABLE":
        assert (entry["reading"] == "TRUE") == (true_off <= true_on / 3)
    low, high = entry["margin"]
    assert low - 1e-12 <= float(true_on / 3 - true_off) <= high + 1e-12


@given(TWO, TWO)
def test_a_bound_that_was_not_printed_never_decides_for_the_claim(on: Any, off: Any) -> None:
    known = known_values({"on.est": str(on), "off.est": str(off), "off.hi": None}, "estimate")
    outcome = schema.expression("off.hi <= on.est/3", band=False).evaluate(known)
    assert outcome.truth is not True
    assert (outcome.truth is False) == (Fraction(off) - Fraction(1, 200) > (Fraction(on) + Fraction(1, 200)) / 3)


def test_the_axis_with_the_largest_bound_has_at_most_the_largest_estimate() -> None:
    known = known_values({"off.est": "0.43", "off.hi": None}, "upper_bound")
    assert known["off.est"][1] == Fraction("0.435")
    assert known["off.hi"][0] == Fraction("0.425")


def test_trailing_zeros_count() -> None:
    [entry] = read(DOCUMENT, "family,on,off\nx,1.500,0.500\n")
    assert [round(end, 5) for end in entry["margin"]] == [-0.00067, 0.00067]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("family,on\nx,1\n", "has no column 'off'"),
        ("family,on,off\nx,1,much\n", "'much' is not a number"),
        ("family,on,off\nx,1,nan\n", "is not finite"),
        ("family,on,off\nx,1,0.2\nx,1,0.3\n", "the claim is 'x'"),
        ("family,on,off\nx,1\n", "has 2 cells"),
        ("family,on,on\nx,1,2\n", "names a column twice"),
        ("", "holds no row"),
    ],
)
def test_a_table_that_is_not_the_registered_one_is_refused(text: str, said: str) -> None:
    with pytest.raises(Invalid, match=said):
        read(DOCUMENT, text)


def test_an_interval_that_does_not_hold_its_estimate_is_refused() -> None:
    columns = {"on.est": "on", "on.lo": "low", "off.est": "off"}
    document = {**DOCUMENT, "evidence": {**DOCUMENT["evidence"], "columns": columns}}
    with pytest.raises(Invalid, match="an interval holds its estimate"):
        read(document, "family,on,low,off\nx,1.0,1.3,0.1\n")


# ------------------------------------------------------------------ the document


def changed(**parts: Any) -> dict[str, Any]:
    return {**DOCUMENT, **parts}


@pytest.mark.parametrize(
    ("document", "said"),
    [
        (changed(rules={"third": {"kind": "modular", "kappa": 3, "minimum_effect": 0}}), "is 'modular'"),
        (changed(rules={"third": {"kind": "superiority", "test": "t"}}), "does not fit summary"),
        (changed(rules={"third": {"kind": "expression", "confirm": "on.worst > 1"}}), "is not a number or a quantity"),
        (
            changed(rules={"third": {"kind": "expression", "confirm": "on.est > 1", "refute": "on.est < 1"}}),
            "has no place in a reading",
        ),
        (changed(claims=[{"id": "a", "hypothesis": "b", "rule": "none"}]), "is not one of the rules"),
        (changed(evidence={"kind": "rumour"}), "'rumour'"),
        (changed(provenence={}), "did you mean 'provenance'"),
    ],
)
def test_a_document_is_refused_with_its_place(document: dict[str, Any], said: str) -> None:
    with pytest.raises(Invalid, match=said):
        schema.parse(document)


def test_expanding_and_parsing_give_the_same_document() -> None:
    from prereg_moe.registration import expand

    study = schema.load(STUDY / "registration.yaml")
    assert schema.parse(expand(study)) == study


def test_a_registration_that_is_run_here_is_none(authored: Any) -> None:
    assert not schema.is_imported(authored.folder)
    assert schema.is_imported(STUDY)
    assert read_yaml((STUDY / "registration.yaml").read_bytes())["schema"] == schema.SCHEMA


# ------------------------------------------------------------------ stages, ledger and audit


def test_the_stages_stand_in_order(registry: Registry, tmp_path: Path) -> None:
    path = table(tmp_path, "family,on,off\nx,1.8,0.4\n")
    with pytest.raises(NotCheckable, match="is not there yet"):
        importing.verdict(registry, "published", time=TIME)
    importing.take_in(registry, "published", "summary", path, time=TIME)
    with pytest.raises(Deviated, match="has its evidence already"):
        importing.take_in(registry, "published", "summary", path, time=TIME)
    document, head = importing.verdict(registry, "published", time=TIME)
    assert document["readings"][0]["reading"] == "TRUE"
    assert importing.verdict(registry, "published", time=TIME)[1] == head  # judging again changes nothing
    stages.render(registry, "published", None, time=TIME)
    found = audit(registry, "published")
    assert found.exit_code == 0
    assert [f.name for f in found.findings if f.outcome == "holds"] == [
        "ledger",
        "sealed files",
        "registration",
        "evidence",
        "verdict",
        "report",
    ]


def test_nothing_is_written_where_the_source_is_refused(registry: Registry, tmp_path: Path) -> None:
    before = registry.ledger()
    with pytest.raises(Invalid):
        importing.take_in(registry, "published", "summary", table(tmp_path, "family,on\nx,1\n"), time=TIME)
    assert registry.ledger() == before
    assert not registry.reports("published").exists()


@pytest.mark.parametrize(
    "name", ["imported.json", "verdict.json", "report.md", "report.html", "report.csv", "sources/table.csv"]
)
def test_a_changed_byte_is_found_and_named(registry: Registry, tmp_path: Path, name: str) -> None:
    importing.take_in(registry, "published", "summary", table(tmp_path, "family,on,off\nx,1.8,0.4\n"), time=TIME)
    importing.verdict(registry, "published", time=TIME)
    stages.render(registry, "published", None, time=TIME)
    path = registry.reports("published") / name
    path.write_bytes(path.read_bytes().replace(b"0.", b"1."))
    found = audit(registry, "published")
    assert found.exit_code == Tampered.exit_code
    [sealed] = [f for f in found.findings if f.name == "sealed files"]
    assert any(name in detail for detail in sealed.details)


def test_a_record_made_whole_again_around_another_number_is_found(registry: Registry, tmp_path: Path) -> None:
    """Who edits the source and seals it as it then lies is caught by what follows from it."""
    importing.take_in(registry, "published", "summary", table(tmp_path, "family,on,off\nx,1.8,0.4\n"), time=TIME)
    importing.verdict(registry, "published", time=TIME)
    forged = registry.reports("published") / "verdict.json"
    document = canonical.read(forged)
    document["readings"][0]["reading"] = "FALSE"
    canonical.write(forged, document)
    lines = registry.ledger().splitlines()
    seal = canonical.loads(lines[-1])
    seal["files"]["reports/published/verdict.json"] = canonical.digest_file(forged)
    registry.ledger_path.write_bytes(b"\n".join([*lines[:-1], canonical.dumps(seal)]) + b"\n")
    outcomes = {f.name: f for f in audit(registry, "published").findings}
    assert outcomes["verdict"].outcome == "fails"
    assert "readings[0].reading" in outcomes["verdict"].details[0]


def test_the_command_line_goes_from_check_to_audit(
    tmp_path: Path, run_cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "registrations" / "published"
    canonical.write(folder / "registration.yaml", canonical.dumps(DOCUMENT))
    path = table(tmp_path, "family,on,off\nx,1.8,0.4\n")
    monkeypatch.chdir(tmp_path)
    assert run_cli("check", "published", "--json").json["claims"] == 1
    assert run_cli("freeze", "published").code == 0
    for verb in ("run", "atlas", "rescore"):
        refused = run_cli(verb, "published")
        assert (refused.code, "made elsewhere" in refused.err) == (2, True)
    assert run_cli("import", "rows", "published", path).code == 2
    assert run_cli("import", "summary", "published", path, "--json").json["sources"]
    assert run_cli("verdict", "published", "--json").json["readings"][0]["reading"] == "TRUE"
    assert run_cli("report", "published").code == 0
    assert run_cli("status").out.startswith("published: reported")
    assert run_cli("audit", "published").code == 0
    assert run_cli("report", "published", "--format", "docx").code == 2


def test_importing_into_a_study_that_is_run_here_is_refused(
    frozen: Any, tmp_path: Path, run_cli: Callable[..., Any]
) -> None:
    said = run_cli("import", "rows", frozen.folder.name, table(tmp_path, "a\n1\n"), "--root", frozen.root)
    assert (said.code, "is run here" in said.err) == (2, True)


def test_released_files_changed_behind_the_import_are_found(tmp_path: Path) -> None:
    if not RELEASED.is_dir():
        pytest.skip(f"the released files are not at {RELEASED}")
    shutil.copytree(ROOT / "registrations", tmp_path / "registrations")
    shutil.copytree(ROOT / "reports" / "command-a-plus", tmp_path / "reports" / "command-a-plus")
    data = Path(shutil.copytree(RELEASED, tmp_path / "registrations" / "command-a-plus" / "data"))
    outcomes = {f.name: f.outcome for f in audit(Registry(tmp_path), "command-a-plus").findings}
    assert (outcomes["pinned files"], outcomes["sealed files"]) == ("holds", "holds")
    path = data / "atlas_mass.json"
    path.chmod(0o644)
    path.write_text(path.read_text().replace("18.12507355", "18.12507356", 1))
    outcomes = {f.name: f.outcome for f in audit(Registry(tmp_path), "command-a-plus").findings}
    assert outcomes["pinned files"] == "fails"


def test_a_bundle_of_imported_evidence_is_audited_by_itself(
    registry: Registry, tmp_path: Path, run_cli: Callable[..., Any]
) -> None:
    importing.take_in(registry, "published", "summary", table(tmp_path, "family,on,off\nx,1.8,0.4\n"), time=TIME)
    importing.verdict(registry, "published", time=TIME)
    bundle = tmp_path / "elsewhere" / "published.zip"
    assert run_cli("bundle", "published", bundle, "--root", registry.root).code == 0
    said = run_cli("audit", bundle, "--json").json
    [found] = said["registrations"]
    outcomes = {finding["name"]: finding["outcome"] for finding in found["findings"]}
    assert (said["exit_code"], outcomes["evidence"], outcomes["verdict"]) == (0, "holds", "holds")


def test_the_page_over_all_registrations_counts_readings_and_calls_them_so() -> None:
    from prereg_moe.indexing import entries

    registry = Registry(ROOT)
    seals = ledger.parse(registry.ledger())
    [entry] = [entry for entry in entries(registry, seals) if entry["id"] == "command-a-plus"]
    assert entry["title"] == "What the published numbers on Command A+ decide"
    assert entry["verdicts"] is None
    assert entry["note"] == "published numbers, read and not judged: 6 FALSE, 2 TRUE, 4 UNDECIDABLE"


@pytest.mark.parametrize(
    ("part", "kind"),
    [("rules", {"kind": "equivalence", "margin": 0.1}), ("measures", {"kind": "rows"})],
)
def test_a_study_that_is_run_here_is_told_where_kinds_for_evidence_made_elsewhere_belong(
    part: str, kind: dict[str, Any]
) -> None:
    from world import registration

    from prereg_moe.registration import parse

    document = registration()
    document[part] = {**document[part], "other": kind}
    with pytest.raises(Invalid, match=r"is for evidence made elsewhere; register .* prereg-moe/import/1"):
        parse(document)


def test_the_committed_tables_compile_in_a_two_column_paper_without_a_warning(tmp_path: Path) -> None:
    assert shutil.which("pdflatex"), "TeX is part of the set-up: see .ci/run"
    shutil.copy(ROOT / "reports" / "command-a-plus" / "report.tex", tmp_path / "report.tex")
    paper = (
        r"\documentclass[twocolumn]{article}\usepackage[T1]{fontenc}\usepackage{lmodern}\usepackage{booktabs}"
        r"\begin{document}\input{report}Text.\end{document}"
    )
    (tmp_path / "paper.tex").write_text(paper)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    for _ in range(2):  # labels need two
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout[-2000:]
    assert not [line for line in done.stdout.splitlines() if "Warning" in line or "full \\" in line]
