"""What forgers change in documents: the bar, a verdict, the claims, a column of scores, a time."""

from __future__ import annotations

from typing import Any

from prereg_moe import rules

__all__ = ["claims_of", "confirm", "first_column", "kinder", "year_before"]


def kinder(registered: dict[str, Any]) -> None:
    """Double alpha in a registration; published numbers have none, so their first rule lets more pass."""
    if inference := registered.get("inference"):
        inference["alpha"] = min(2 * inference["alpha"], 0.49)
        return
    rule = registered["rules"][sorted(registered["rules"])[0]]
    rule["confirm"] = f"({rules.NAMED.get(rule['confirm'], rule['confirm'])}) or on.est > 0"


def confirm(document: Any) -> None:
    """Turn one verdict over, to confirmed where it was anything else; or the reading of a published number."""
    if "readings" in document:
        document["readings"][0]["reading"] = "FALSE" if document["readings"][0]["reading"] == "TRUE" else "TRUE"
        return
    entry = next((entry for entry in document["verdicts"] if entry["verdict"] != "CONFIRMED"), document["verdicts"][0])
    entry["verdict"] = "REFUTED" if entry["verdict"] == "CONFIRMED" else "CONFIRMED"


def claims_of(document: Any) -> str:
    """Return the part of a verdict document that holds its claims."""
    return "readings" if "readings" in document else "verdicts"


def first_column(document: Any) -> Any:
    """Return the first column of an evidence document."""
    return document["axes"][sorted(document["axes"])[0]]


def year_before(time: str) -> str:
    """Return a seal's time a year earlier."""
    return f"{int(time[:4]) - 1:04}{time[4:]}"
