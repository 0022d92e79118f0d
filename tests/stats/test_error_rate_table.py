"""The table of error rates in docs/statistics.md is what docs/calibration.md holds; `--update` writes it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
BLOCK = re.compile(r"(<!-- error rates: begin [^\n]*-->\n)(.*?)(<!-- error rates: end -->)", re.DOTALL)
ROW = re.compile(
    r"\| (selectivity|minimum effect) \| (\d) \| ([^|]+) \| \d+ "
    r"\| \*\*(.+?)\*\* \((.+?)\) \| (.+?) \| (.+?) \| (.+?) \|"
)


def table() -> str:
    """Return the worst cell over n = 30, 80 and 150 of every boundary, number of families and scenario."""
    _, whole = (DOCS / "calibration.md").read_text("utf-8").split("## The whole default rule")
    worst: dict[tuple[str, str, str], list[float]] = {}
    for boundary, families, scenario, *cells in ROW.findall(whole):
        kept = worst.setdefault((boundary, families, scenario), [0.0] * 5)
        worst[boundary, families, scenario] = [max(pair) for pair in zip(kept, map(float, cells), strict=True)]
    lines = [
        "| boundary | families | scenario | wrongly confirmed (95% bound) | wrongly refuted | point rule | "
        "interval rule |",
        "|---|---|---|---|---|---|---|",
    ]
    for (boundary, families, scenario), (rate, bound, refuted, point, interval) in worst.items():
        ours = f"**{rate:.1f}** ({bound:.1f}) | {refuted:.1f}"
        lines.append(f"| {boundary} | {families} | {scenario} | {ours} | {point:.0f} | {interval:.0f} |")
    return "\n" + "\n".join(lines) + "\n\n"


def test_the_table_shows_what_was_measured(request: pytest.FixtureRequest) -> None:
    page = DOCS / "statistics.md"
    text = page.read_text("utf-8")
    wanted = BLOCK.sub(lambda found: found[1] + table() + found[3], text)
    if request.config.getoption("--update"):
        page.write_text(wanted, "utf-8")
        text = wanted
    assert BLOCK.search(text) is not None
    assert table().count("\n| ") == 1 + 14  # every scenario at each boundary, six families and one
    assert text == wanted, "run `pytest tests/stats/test_error_rate_table.py --update`"
