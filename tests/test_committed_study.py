"""The study committed in this repository is whole, and the README shows what it found."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import prereg_moe
from prereg_moe import ledger

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
REPORT = ROOT / "reports/testbed/report.md"
BLOCK = re.compile(r"(<!-- verdicts: begin [^\n]*-->\n)(.*?)(<!-- verdicts: end -->)", re.DOTALL)


def readme_table() -> str:
    """Return what the README quotes of the report: its first table, without the column of reasons, and the head."""
    lines = REPORT.read_text("utf-8").splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("| family"))
    table = []
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        table.append("|".join(line.split("|")[:-2]) + "|")
    head = ledger.head(ledger.parse((ROOT / "registrations/LEDGER.jsonl").read_bytes()))
    return "\n" + "\n".join(table) + f"\n\nThe ledger's head is `{head}`.\n\n"


def test_every_step_of_the_audit_holds() -> None:
    registry = prereg_moe.Registry(ROOT)
    head = ledger.head(ledger.parse(registry.ledger()))
    result = prereg_moe.audit(registry, "testbed", expected_head=head)
    assert [(finding.name, finding.outcome) for finding in result.findings if finding.outcome != "holds"] == []
    assert result.exit_code == 0


def test_the_readme_shows_the_table_of_the_report(request: pytest.FixtureRequest) -> None:
    text = README.read_text("utf-8")
    wanted = BLOCK.sub(lambda found: found[1] + readme_table() + found[3], text)
    if request.config.getoption("--update"):
        README.write_text(wanted, "utf-8")
        text = wanted
    assert BLOCK.search(text) is not None
    assert text == wanted, "run `pytest tests/test_committed_study.py --update`"
