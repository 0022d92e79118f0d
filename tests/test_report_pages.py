"""The HTML report in a real browser: for who cannot see, on a phone, on paper, without a network, without a script."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import test_importing_rows as rows_elsewhere
from browser import DESK, PHONE, chromium, printed, show, violations
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from synthetic import enlarged
from world import AXES, World, multiverse

from prereg_moe import canonical, importing, render, rendering, templating

ROOT = Path(__file__).parents[1]
HOSTILE = (
    "</style></title><script>document.title = 'owned'</script><img src=x onerror=\"document.title='owned'\"> {{ 7*7 }}"
)


@pytest.fixture(scope="module")
def browser() -> Iterator[webdriver.Chrome]:
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def document() -> Any:
    return canonical.read(ROOT / "reports/testbed/verdict.json")


def page_of(document: Any, folder: Path) -> Path:
    page = folder / "report.html"
    page.write_text(render(document, templating.reports()["report.html.j2"], "html"), "utf-8")
    return page


@pytest.fixture(scope="module")
def page(document: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return page_of(document, tmp_path_factory.mktemp("page"))


@pytest.mark.parametrize(("width", "dark"), [(DESK, False), (PHONE, False), (DESK, True)])
def test_everybody_can_read_it(width: int, dark: bool, page: Path, browser: webdriver.Chrome) -> None:
    show(browser, page, width, dark=dark)
    assert violations(browser) == []


@pytest.mark.parametrize("width", [PHONE, DESK])
def test_it_is_never_wider_than_the_screen(width: int, page: Path, browser: webdriver.Chrome) -> None:
    show(browser, page, width)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width


def test_on_a_phone_text_is_large_enough_and_tables_are_cards(page: Path, browser: webdriver.Chrome) -> None:
    show(browser, page, PHONE)
    small = browser.execute_script(
        "return [...document.querySelectorAll('p,td,th,li,dd,figcaption,caption')]"
        ".filter(e => parseFloat(getComputedStyle(e).fontSize) < 11.5).map(e => e.textContent.slice(0, 40))"
    )
    assert small == []
    scale = browser.execute_script(
        "return Math.min(...[...document.querySelectorAll('figure svg')]"
        ".map(s => s.getBoundingClientRect().width / s.viewBox.baseVal.width))"
    )
    assert scale > 0.85, "the text of a figure is shrunk too far"
    row = browser.find_element(By.CSS_SELECTOR, "table.cards tbody tr")
    assert row.size["width"] <= PHONE
    assert row.value_of_css_property("display") == "block"


def test_it_opens_nothing_and_breaks_no_rule_of_its_own(page: Path, browser: webdriver.Chrome) -> None:
    browser.get_log("browser")
    show(browser, page, DESK)
    assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0
    assert browser.get_log("browser") == []
    colour = browser.find_element(By.CSS_SELECTOR, ".v-CONFIRMED").value_of_css_property("color")
    assert colour == "rgba(10, 107, 69, 1)", "the style was refused"


def test_columns_are_sorted_from_the_keyboard(page: Path, document: Any, browser: webdriver.Chrome) -> None:
    show(browser, page, DESK)
    table = browser.find_element(By.CSS_SELECTOR, "table.sort")

    def families() -> list[str]:
        return [cell.text for cell in table.find_elements(By.CSS_SELECTOR, "tbody th")]

    entries = [entry for entry in document["verdicts"] if entry["block"] == "modular"]
    by_effect = [e["family"] for e in sorted(entries, key=lambda e: e["estimates"]["on"]["estimate"])]
    head = table.find_elements(By.CSS_SELECTOR, "thead th")[2]
    head.find_element(By.TAG_NAME, "button").send_keys(Keys.ENTER)
    assert families() == by_effect
    assert head.get_attribute("aria-sort") == "ascending"
    head.find_element(By.TAG_NAME, "button").send_keys(Keys.ENTER)
    assert families() == by_effect[::-1]
    table.find_element(By.CSS_SELECTOR, "thead th button").send_keys(Keys.ENTER)
    assert families() == sorted(families())


def test_without_scripts_everything_is_there(page: Path, browser: webdriver.Chrome) -> None:
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        show(browser, page, DESK)
        assert browser.find_elements(By.CSS_SELECTOR, "th button") == []
        assert len(browser.find_elements(By.CSS_SELECTOR, "#verdicts tbody tr")) == 8
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def test_it_prints_on_paper_without_losing_a_column(page: Path, browser: webdriver.Chrome) -> None:
    show(browser, page, DESK)
    paper = {"width": 688, "height": 1000, "deviceScaleFactor": 1, "mobile": False}  # A4 less its margins
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", paper)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    wide = browser.execute_script(
        "return [...document.querySelectorAll('table,figure,h1,p')]"
        ".filter(e => e.getBoundingClientRect().right > innerWidth + 1).map(e => e.textContent.slice(0, 60))"
    )
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    assert wide == [], "the browser would shrink the page to fit the paper"
    pages = len(re.findall(rb"/Type\s*/Page\b", printed(browser)))
    assert 4 <= pages <= 12


def test_hostile_text_stays_text(document: Any, tmp_path: Path, browser: webdriver.Chrome) -> None:
    document = copy.deepcopy(document)
    document["study"] |= dict.fromkeys(("title", "question", "foreknowledge"), HOSTILE)
    for entry in document["verdicts"]:
        entry["family"] = f"{entry['family']}{HOSTILE}"
    show(browser, page_of(document, tmp_path), PHONE)
    assert browser.title == " ".join(HOSTILE.split())
    assert browser.find_element(By.TAG_NAME, "h1").text == HOSTILE
    assert len(browser.find_elements(By.TAG_NAME, "script")) == 1
    assert browser.find_elements(By.TAG_NAME, "img") == []
    assert browser.execute_script("return document.documentElement.scrollWidth") <= PHONE


def test_a_large_report_opens_at_once(document: Any, tmp_path: Path, browser: webdriver.Chrome) -> None:
    large = enlarged(document, axes=6, layers=32, experts=128, size=16, draws=999)
    show(browser, page_of(large, tmp_path), PHONE)
    timing = "const t = performance.getEntriesByType('navigation')[0]; return t.loadEventEnd - t.startTime"
    assert browser.execute_script(timing) < 2500  # milliseconds, on a busy machine
    assert violations(browser) == []


def test_everybody_can_read_a_multiverse(tmp_path: Path, browser: webdriver.Chrome) -> None:
    world = World(tmp_path)
    world.author(multiverse)
    world.record()
    world.freeze()
    world.run()
    page = page_of(world.judge().document, tmp_path)
    show(browser, page, PHONE)
    assert violations(browser) == []
    assert browser.execute_script("return document.documentElement.scrollWidth") <= PHONE
    assert len(browser.find_elements(By.CSS_SELECTOR, "#multiverse figure svg")) == len(AXES)


def of_rows(folder: Path) -> Any:
    """Return the verdicts on rows of a few cells that were made elsewhere."""
    made = rows_elsewhere.document()
    evidence = made["evidence"] | {"cells": {"model": ["olmoe"], "layer": ["0", "4"], "metric": ["activation_norm"]}}
    claims = [claims for claims in made["claims"] if claims["id"] != "deepseek"]
    registry = rows_elsewhere.freeze(folder / "rows", {"evidence": evidence, "claims": claims})
    cells = {key: set(values) for key, values in evidence["cells"].items()}
    rows = [row for row in rows_elsewhere.rows() if all(row[key] in values for key, values in cells.items())]
    table = rows_elsewhere.write_csv(folder / "rows.csv", rows)
    importing.take_in(registry, rows_elsewhere.ID, "rows", table, time=rows_elsewhere.TIME)
    return importing.verdict(registry, rows_elsewhere.ID, time=rows_elsewhere.TIME)[0]


@pytest.mark.parametrize("kind", ["summary", "items"])
def test_everybody_can_read_what_was_made_elsewhere(kind: str, tmp_path: Path, browser: webdriver.Chrome) -> None:
    summary = canonical.read(ROOT / "reports/command-a-plus/verdict.json")
    document = copy.deepcopy(summary if kind == "summary" else of_rows(tmp_path))
    page, template = tmp_path / "report.html", templating.reports(kind)["report.html.j2"]
    for text in ("plain", HOSTILE):
        document["study"] |= {"title": f"A title, {text}", "question": text, "foreknowledge": text}
        page.write_text(rendering.render(document, template, "html"), "utf-8")
        browser.get_log("browser")
        for width, dark in ((PHONE, False), (DESK, True)):
            show(browser, page, width, dark=dark)
            assert violations(browser) == []
            assert browser.execute_script("return document.documentElement.scrollWidth") <= width
        assert browser.get_log("browser") == []
        assert browser.find_element(By.TAG_NAME, "h1").text == f"A title, {text}"
        assert len(browser.find_elements(By.TAG_NAME, "script")) == 1
    cap = browser.find_element(By.TAG_NAME, "header").text
    assert document["cap"] in cap
    drawn = rendering.draw(document, ["svg"])
    assert len(browser.find_elements(By.CSS_SELECTOR, "figure svg")) == len(drawn) > 0
    rows = browser.find_elements(By.CSS_SELECTOR, "#readings tbody tr, #verdicts tbody tr")
    assert len(rows) == len(document["readings" if kind == "summary" else "verdicts"])
    assert_anchors_lead_somewhere(page)


def test_every_anchor_leads_somewhere_and_ids_are_unique(page: Path) -> None:
    assert_anchors_lead_somewhere(page)


def assert_anchors_lead_somewhere(page: Path) -> None:
    text = page.read_text("utf-8")
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'href="#([^"]+)"', text)) <= set(ids)
