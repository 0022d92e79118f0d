"""Reports on disk: which formats, sealed and made again by the audit, from templates of one's own, and their index."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from browser import chromium, show, violations
from world import AXES, ID, TIME, World

from prereg_moe import canonical, indexing, ledger, report, stages
from prereg_moe.errors import Invalid
from prereg_moe.freezing import check

plotted = pytest.mark.skipif(
    report.plotter() is None, reason="matplotlib is not installed: PDF and PNG are drawn by it"
)


def outcome(world: World) -> tuple[str, tuple[str, ...], int]:
    finding = world.audit().findings[-1]
    return finding.outcome, finding.details, world.audit().exit_code


def test_a_report_is_every_format_and_every_figure_sealed(reported: World) -> None:
    folder = reported.registry.reports(ID)
    made = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert {f"report.{format_}" for format_ in report.FORMATS} <= made
    assert {"figures/forest-main.svg", "figures/null-main.svg", "figures/families-standard.svg"} <= made
    sealed = ledger.sealed_files(ledger.parse(reported.registry.ledger()), ID)
    assert {f"reports/{ID}/{name}" for name in made if name.startswith(("report.", "figures/"))} <= set(sealed)
    assert outcome(reported)[0] == "holds"


@pytest.mark.parametrize("name", ["report.html", "report.csv", "report.bib", "figures/forest-main.svg"])
def test_a_report_that_does_not_follow_from_the_verdicts_is_found(name: str, computed: World) -> None:
    computed.judge()
    computed.report()
    path = computed.registry.reports(ID) / name
    path.write_bytes(path.read_bytes().replace(b"CONFIRMED", b"REFUTED").replace(b"0.", b"1.") + b" ")
    computed.registry.seal("report", ID, [path], time=TIME)  # sealed by a cheat
    found, details, code = outcome(computed)
    assert (found, code) == ("fails", 3)
    assert name in details[0]


@plotted
def test_figures_by_matplotlib_are_made_again_by_the_version_that_made_them(
    reported: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    written, _ = stages.render(reported.registry, ID, ["pdf", "png"], time=TIME)
    assert {path.suffix for path in written} == {".pdf", ".png"}
    found, details, _ = outcome(reported)
    assert found == "holds"
    assert not any("not compared" in line for line in details)
    monkeypatch.setattr(report, "plotter", lambda: "0.1")
    found, details, code = outcome(reported)
    assert (found, code) == ("holds", 0)
    assert any(f"{len(written)} figures not compared" in line and "here 0.1" in line for line in details)


@plotted
def test_a_figure_of_another_study_is_found(reported: World) -> None:
    written, _ = stages.render(reported.registry, ID, ["png"], time=TIME)
    written[0].write_bytes(written[1].read_bytes())
    body = {"matplotlib": report.plotter()}
    reported.registry.seal("report", ID, [written[0]], time=TIME, body=body)
    assert outcome(reported)[0] == "fails"


def test_a_format_whose_template_was_not_frozen_is_refused_in_words(judged: World) -> None:
    with pytest.raises(Invalid, match=r"'docx' is not a format; choose among md, html, tex, bib, csv, svg, pdf, png"):
        stages.render(judged.registry, ID, ["docx"], time=TIME)


def test_csv_is_one_row_a_claim_with_every_number_in_full(reported: World) -> None:
    document = canonical.read(reported.registry.reports(ID) / "verdict.json")
    text = (reported.registry.reports(ID) / "report.csv").read_text("utf-8")
    rows = {row["claim"]: row for row in csv.DictReader(io.StringIO(text))}
    assert len(rows) == len(document["verdicts"])
    for entry in document["verdicts"]:
        row = rows[entry["claim"]]
        assert float(row["on"]) == entry["estimates"]["on"]["estimate"]
        assert row["verdict"] == entry["verdict"]
        assert float(row["margin"]) == entry["margin"]
    assert rows[f"points.{AXES[0]}"]["p"] == "" if f"points.{AXES[0]}" in rows else True


def test_csv_text_is_no_formula() -> None:
    assert (
        report.csv(["=1+1", "-x", "a,b", 'say "so"', None, -0.5, "a\nb"]) == '\'=1+1,\'-x,"a,b","say ""so""",,-0.5,a b'
    )


# ------------------------------------------------------------------ templates of one's own


def own(document: dict[str, Any]) -> None:
    document["report"] = {"template": "./mine"}


def with_template(tmp_path: Path, name: str, text: str | bytes) -> World:
    world = World(tmp_path)
    world.author(own)
    path = world.folder / "mine" / name
    path.parent.mkdir()
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return world


def test_a_template_of_ones_own_is_frozen_used_and_audited(tmp_path: Path) -> None:
    world = with_template(tmp_path, "report.md.j2", "{{ study.title }}: {{ counts.CONFIRMED }}\n")
    world.record()
    world.freeze()
    (world.folder / "mine" / "report.md.j2").write_text("changed after the freeze")
    world.run()
    world.judge()
    world.report()
    assert (world.registry.reports(ID) / "report.md").read_text() == "Expert families of a world without models: 3\n"
    assert (world.registry.reports(ID) / "report.html").read_text().startswith("<!DOCTYPE html>")
    assert world.audit().exit_code == 0


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("report.md.j2", "{% for %}", "report.template, report.md.j2, line 1: is no template"),
        ("report.md.j2", "{{ x | nothing }}", "report.template, report.md.j2"),
        ("report.docx.j2", "x", "is the template of no report"),
        ("report.md.j2", b"\xff", "is not UTF-8 text"),
        ("readme.txt", "x", "./mine holds no template"),
    ],
)
def test_a_template_that_can_make_no_report_is_refused_before_the_freeze(
    name: str, text: str | bytes, found: str, tmp_path: Path
) -> None:
    world = with_template(tmp_path, name, text)
    world.record()
    for refuse in (lambda: check(world.folder, world.root), world.freeze):
        with pytest.raises(Invalid) as refused:
            refuse()
        assert found in str(refused.value)


def test_a_template_folder_stays_inside_the_registry(tmp_path: Path) -> None:
    world = World(tmp_path / "registry")
    world.author(lambda document: document.update(report={"template": "./../../../../etc"}))
    with pytest.raises(Invalid, match="leaves the registry"):
        check(world.folder, world.root)


# ------------------------------------------------------------------ the index


@pytest.fixture
def judged(world_at: Callable[[str], World]) -> World:
    return world_at("judged")


@pytest.mark.parametrize(
    ("stage", "says"),
    [
        ("authored", "not judged yet"),
        ("frozen", "frozen"),
        ("judged", "3 CONFIRMED"),
        ("reported", f"({ID}/report.html)"),
    ],
)
def test_the_index_says_where_each_registration_stands(
    stage: str, says: str, world_at: Callable[[str], World], run_cli: Callable[..., Any]
) -> None:
    world = world_at(stage)
    said = run_cli("report", "--index", "--root", world.root)
    assert said.code == 0, said.err
    text = (world.root / "reports/index.md").read_text("utf-8")
    assert says in text
    assert (ledger.head(ledger.parse(world.registry.ledger())) or "Nothing is sealed yet") in text
    again = indexing.write(world.registry)
    assert [path.name for path in again] == ["index.html", "index.md"]
    assert (world.root / "reports/index.md").read_text("utf-8") == text


def test_the_index_changes_no_audit(reported: World) -> None:
    before = reported.audit()
    indexing.write(reported.registry)
    assert reported.audit() == before


def test_the_index_shows_no_verdict_that_is_not_the_sealed_one(judged: World) -> None:
    path = judged.registry.reports(ID) / "verdict.json"
    path.write_bytes(path.read_bytes().replace(b'"REFUTED"', b'"CONFIRMED"'))
    indexing.write(judged.registry)
    text = (judged.root / "reports/index.md").read_text("utf-8")
    assert "verdict.json is not the file that was sealed" in text
    assert "CONFIRMED" not in text


def test_the_index_lists_a_registration_it_cannot_read(judged: World) -> None:
    other = judged.root / "registrations/broken"
    other.mkdir()
    (other / "registration.yaml").write_text("id: [")
    indexing.write(judged.registry)
    text = (judged.root / "reports/index.html").read_text("utf-8")
    assert "registration.yaml cannot be read" in text
    assert "3 CONFIRMED" in text


@pytest.mark.parametrize("arguments", [(), (ID, "--index"), ("--index", "--format", "md")])
def test_an_id_or_the_index(arguments: tuple[str, ...], judged: World, run_cli: Callable[..., Any]) -> None:
    assert run_cli("report", *arguments, "--root", judged.root).code == 2


def test_everybody_can_read_the_index(reported: World) -> None:
    page, _ = indexing.write(reported.registry)
    with chromium() as browser:
        show(browser, page, 390)
        assert violations(browser) == []
        assert browser.execute_script("return document.documentElement.scrollWidth") <= 390
        assert browser.get_log("browser") == []
        browser.save_screenshot("/tmp/rep/index.png")
