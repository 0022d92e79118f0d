"""The main job on the embedded testbed: check, atlas, freeze, run, verdict, report, audit.

Interrupted, it goes on where it was; finished, it only checks again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prereg_moe import canonical, lab, ledger, stages
from prereg_moe.auditing import audit
from prereg_moe.freezing import check, freeze
from prereg_moe.registry import Registry, now

__all__ = ["REGISTRATION", "Demo", "demo"]

REGISTRATION = Path(lab.__file__).parent / "testbed" / "registration.yaml"
_ID = "testbed"

Step = Callable[[str], Callable[[int, int, str], None]]


@dataclass(frozen=True, slots=True)
class Demo:
    """What the demo left behind.

    Attributes:
        verdicts: the verdict document.
        summary: digests, files and the audit's exit code.
    """

    verdicts: Mapping[str, Any]
    summary: Mapping[str, Any]


def demo(folder: Path, *, workers: int, steps: Step, registration: Path = REGISTRATION) -> Demo:
    """Run the embedded study in ``folder`` and return its verdicts.

    Args:
        folder: the registry, made where it does not exist.
        workers: worker processes; cannot change a byte.
        steps: called with a stage's title; what it returns is called with its progress.
        registration: the document to register.
    """
    registry = Registry(folder)
    document = registry.registration(_ID) / "registration.yaml"
    if not document.exists():
        canonical.write(document, registration.read_bytes())
    checked = check(document, folder)
    steps("check")(1, 1, f"{checked.claims} claims, {checked.conditions} conditions, {checked.scores} item scores")
    stage = ledger.stage(ledger.parse(registry.ledger()), _ID)
    if stage is None:
        lab.atlas(registry, _ID, time=now(), progress=steps("atlas"))
    if stage in ledger.FOLLOWS["freeze"]:
        frozen = freeze(registry, _ID, time=now())
        steps("freeze")(1, 1, frozen.digest)
    lab.run(registry, _ID, workers=workers, time=now(), progress=steps("run"))
    judging = steps("judge")
    verdicts, _ = stages.verdict(registry, _ID, time=now())
    written, head = stages.render(registry, _ID, None, time=now())
    judging(1, 1, str(written[0]))
    result = audit(registry, _ID, expected_head=head)
    steps("audit")(1, 1, f"exit code {result.exit_code}")
    summary = {
        "registration": verdicts.document["registration"],
        "head": head,
        "verdict_file": str(registry.reports(_ID) / "verdict.json"),
        "report_file": str(written[0]),
        "ledger_file": str(registry.ledger_path),
        "audit": result.exit_code,
    }
    return Demo(verdicts.document, summary)
