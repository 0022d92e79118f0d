"""The page over all registrations of a registry: where each stands, its verdicts, and what it owns up to.

The page spans registrations and changes with each of them, so it is not sealed: it is written
again whenever it is asked for, from the ledger and the sealed verdicts, and no audit looks at it.
The same registry gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prereg_moe import canonical, importing, ledger, templating
from prereg_moe.errors import PreregError
from prereg_moe.ledger import Seal
from prereg_moe.registration import load
from prereg_moe.registry import Registry
from prereg_moe.report.numbers import FILTERS
from prereg_moe.standing import STANDS, standing

__all__ = ["entries", "write"]

FORMATS = ("html", "md")
_TEMPLATES = Path(__file__).parent / "templates"
_REPORTS = ("report.html", "report.md", "report.tex", "report.csv", "verdict.json")
_VERDICTS = ("CONFIRMED", "REFUTED", "INCONCLUSIVE", "INVALID")


def write(registry: Registry) -> list[Path]:
    """Write ``reports/index.html`` and ``reports/index.md`` and return their paths.

    Raises:
        Tampered: the ledger does not hold together.
    """
    seals = ledger.parse(registry.ledger())
    seen = {"studies": entries(registry, seals), "head": ledger.head(seals), "seals": len(seals)}
    written = []
    for format_ in FORMATS:
        source = (_TEMPLATES / f"index.{format_}.j2").read_text("utf-8")
        path = registry.root / "reports" / f"index.{format_}"
        canonical.write(path, templating.fill(source, seen, FILTERS, escape=format_ == "html").encode())
        written.append(path)
    return written


def entries(registry: Registry, seals: Sequence[Seal]) -> list[dict[str, Any]]:
    """Return what the page says of each registration, in the order of their ids.

    Keys: id, title, stage (in words), remarks, verdicts (of confirmatory claims, verdict -> how many; None where
    there are none to show), controls (name -> whether it held), note (why there are no verdicts, or ""),
    files (name -> path below ``reports/``), digest (of the frozen registration), seal (digest of its last seal).
    """
    folders = sorted(path.parent.name for path in (registry.root / "registrations").glob("*/registration.yaml"))
    return [_entry(registry, id_, tuple(seals)) for id_ in folders]


def _entry(registry: Registry, id_: str, seals: tuple[Seal, ...]) -> dict[str, Any]:
    files = ledger.sealed_files(seals, id_)
    title, remarks, folder = id_, [], registry.registration(id_)
    try:
        title = (importing.load if importing.is_imported(folder) else load)(folder / "registration.yaml").title
    except PreregError as error:
        remarks.append(f"registration.yaml cannot be read: {error.problems[0]}")
    here = standing(registry, id_, seals)
    own = [seal for seal in seals if seal.registration == id_]
    frozen = [seal.body.get("digest") for seal in own if seal.kind == "freeze"]
    return {
        "id": id_,
        "title": title,
        "stage": STANDS.get(here.stage or "", "written"),
        "remarks": [*remarks, *here.remarks(id_)],
        "files": {
            name: f"{id_}/{name}"
            for name in _REPORTS
            if f"reports/{id_}/{name}" in files and (registry.reports(id_) / name).is_file()
        },
        "digest": frozen[-1] if frozen else None,
        "seal": own[-1].digest if own else None,
        **_outcome(registry, id_, files),
    }


def _outcome(registry: Registry, id_: str, files: dict[str, str]) -> dict[str, Any]:
    """Return the verdicts and controls of the sealed verdict document, or why there are none."""
    path = registry.reports(id_) / "verdict.json"
    sealed = files.get(f"reports/{id_}/verdict.json")
    nothing: dict[str, Any] = {"verdicts": None, "controls": {}}
    if sealed is None:
        return nothing | {"note": "not judged yet"}
    if not path.is_file() or canonical.digest_file(path) != sealed:
        return nothing | {"note": "verdict.json is not the file that was sealed"}
    document = canonical.read(path)
    if "readings" in document:
        tiers = {block["id"]: block["tier"] for block in document["study"]["claims"]}
        found = [entry["reading"] for entry in document["readings"] if tiers[entry["block"]] == "confirmatory"]
        counted = ", ".join(f"{found.count(word)} {word}" for word in dict.fromkeys(sorted(found)))
        return nothing | {"note": f"published numbers, read and not judged: {counted}"}
    found = [entry["verdict"] for entry in document["verdicts"] if entry["tier"] == "confirmatory"]
    return {
        "verdicts": {verdict: found.count(verdict) for verdict in _VERDICTS if verdict in found},
        "controls": {control["name"]: control["holds"] for control in document["controls"]},
        "note": "" if found else "no confirmatory claim is registered",
    }
