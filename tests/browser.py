"""A headless browser for the pages the package makes.

A missing browser skips a test, with the reason; in continuous integration (``CI=true``) it fails it.
"""

from __future__ import annotations

import base64
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from axe_selenium_python import Axe
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

PHONE, DESK = 390, 1200
_FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    " --disable-component-update --disable-sync --hide-scrollbars"
)


def need(program: str, *others: str) -> str:
    """Return where a program is; without it skip the test, or fail it in continuous integration."""
    found = next((path for name in (program, *others) if (path := shutil.which(name))), None)
    if found is None:
        if os.environ.get("CI") == "true":
            pytest.fail(f"{program} is not installed")
        pytest.skip(f"{program} is not installed")
    return found


@contextmanager
def chromium() -> Iterator[webdriver.Chrome]:
    """Start a browser with an empty profile, and end it."""
    options = webdriver.ChromeOptions()
    options.binary_location = need("chromium", "google-chrome")
    driver = need("chromedriver")
    with tempfile.TemporaryDirectory(prefix="prereg-moe-browser-", ignore_cleanup_errors=True) as profile:
        for flag in (*_FLAGS.split(), f"--user-data-dir={profile}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        browser = webdriver.Chrome(options=options, service=Service(driver))
        try:
            yield browser
        finally:
            browser.quit()


def show(browser: webdriver.Chrome, page: Path, width: int, *, dark: bool = False) -> None:
    """Open a page at a width, in the light or the dark."""
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width == PHONE}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
    browser.get(page.as_uri())


def violations(browser: webdriver.Chrome) -> list[str]:
    """Return what axe finds against WCAG 2 A and AA and good practice, each with the elements it is about."""
    axe = Axe(browser)
    axe.inject()
    found = axe.run()["violations"]
    return [f"{one['id']}: {one['help']} ({[node['html'][:120] for node in one['nodes'][:3]]})" for one in found]


def printed(browser: webdriver.Chrome) -> bytes:
    """Return the page on A4 paper, as PDF."""
    paper = {"printBackground": True, "paperWidth": 8.27, "paperHeight": 11.69, "preferCSSPageSize": False}
    made: Any = browser.execute_cdp_cmd("Page.printToPDF", paper)
    return base64.b64decode(made["data"])
