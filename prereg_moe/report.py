"""Reports: one verdict document in, text out, by the templates frozen with the registration.

A template sees only :func:`context`, which is computed from the verdict document alone, through
Jinja's sandbox; the same inputs give the same bytes. Numbers are rounded here, by one rule:
effects to three decimals, p-values to three (below .001 as such), shares to two. A number that
does not exist is a dash. Nothing is typed into a template.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jinja2 import StrictUndefined
from jinja2.exceptions import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from prereg_moe import canonical
from prereg_moe.errors import Invalid, Problem
from prereg_moe.registration import parse
from prereg_moe.verdict.decide import REASONS

__all__ = ["FLAGS", "FORMATS", "context", "render", "template_name"]

FORMATS = ("md", "tex")
FLAGS = {
    "FEW_UNITS": "fewer units than the registration asks for",
    "SKEW": "skewed against the rule",
    "METHOD": "the Welch-t version of the rule disagrees",
    "MONTE_CARLO": "p is within three Monte-Carlo standard errors of alpha",
    "KNIFE_EDGE": "the verdict hangs on the last digits",
    "UNCORRECTED": "the rule controls no error rate",
}
_DASH = "–"


def template_name(format_: str) -> str:
    """Return the template that makes a format.

    Raises:
        Invalid: there is no such format.
    """
    if format_ not in FORMATS:
        raise Invalid(Problem("--format", f"{format_!r} is not a format", f"choose among {', '.join(FORMATS)}"))
    return f"report.{format_}.j2"


def render(document: Mapping[str, Any], template: str) -> str:
    """Return the report a template makes of a verdict document.

    Raises:
        Invalid: the template fails.
    """
    environment = ImmutableSandboxedEnvironment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, autoescape=False
    )
    environment.filters.update(
        effect=effect,
        p=p_value,
        share=share,
        interval=interval,
        tex=tex,
        cell=cell,
        p_tex=lambda value: tex(p_value(value)),
    )
    try:
        return environment.from_string(template).render(context(document))
    except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError, RecursionError) as error:
        raise Invalid(Problem("template", f"cannot be rendered ({error})", "restore the frozen template")) from error


def context(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a template sees: the document, its verdicts by block, and what follows from them."""
    whole = parse(document["study"]).model_dump(mode="json", by_alias=True)  # what was left out is None here
    study = canonical.loads(canonical.dumps(whole))
    verdicts = document["verdicts"]
    blocks = [
        {
            **block,
            "verdicts": [entry for entry in verdicts if entry["block"] == block["id"]],
            "kind": study["rules"][block["rule"]]["kind"],
        }
        for block in study["claims"]
    ]
    used = {reason for entry in [*verdicts, *document["replications"]] for reason in entry["reasons"]}
    flags = {flag for entry in verdicts for flag in entry["flags"]}
    return {
        "document": document,
        "study": study,
        "blocks": blocks,
        "tests": [block for block in blocks if block["kind"] != "expression"],
        "expressions": [block for block in blocks if block["kind"] == "expression"],
        "by_rule": _by_rule(blocks),
        "controls": [_control(control, blocks, document) for control in document["controls"]],
        "counts": _counts([entry for entry in verdicts if entry["tier"] == "confirmatory"]),
        "routing": _routing(document),
        "replications": document["replications"],
        "reasons": {reason: REASONS[reason] for reason in REASONS if reason in used},
        "flags": {flag: FLAGS[flag] for flag in FLAGS if flag in flags},
        "interval_kind": study["inference"]["interval"]["kind"].replace("_", "-"),
        "level": f"{100 * study['inference']['interval']['level']:.6g}%",
    }


def effect(value: float | None) -> str:
    """Return an effect to three decimals, with its sign's true minus."""
    return _DASH if value is None else f"{round(value, 3) + 0.0:.3f}".replace("-", "−")  # + 0.0: no minus zero


def interval(entry: Mapping[str, Any]) -> str:
    """Return an estimate with its interval."""
    return f"{effect(entry['estimate'])} [{effect(entry['low'])}, {effect(entry['high'])}]"


def p_value(value: float | None) -> str:
    """Return a p-value to three decimals."""
    return _DASH if value is None else "<.001" if value < 0.001 else f"{value:.3f}".removeprefix("0")


def share(value: float | None) -> str:
    """Return a share to two decimals."""
    return _DASH if value is None else f"{value:.2f}"


_TEX = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "&": r"\&",
        "%": r"\%",
        "$": r"\$",
        "#": r"\#",
        "_": r"\_",
        "{": r"\{",
        "}": r"\}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "[": "{[}",  # behind \\ or \midrule it would open an optional argument
        "]": "{]}",
        "−": r"\ensuremath{-}",
        "–": "--",
        "×": r"\ensuremath{\times}",
    }
)


def tex(value: Any) -> str:
    """Return text on one line with everything LaTeX would read as a command escaped."""
    return " ".join(str(value).split()).translate(_TEX)


def cell(value: Any) -> str:
    """Return text that cannot end a Markdown table cell or start a new line."""
    return " ".join(str(value).split()).replace("|", "&#124;").replace("<", "&lt;")


def _counts(entries: list[Mapping[str, Any]]) -> dict[str, int]:
    order = ("CONFIRMED", "REFUTED", "INCONCLUSIVE", "INVALID")
    return {verdict: sum(entry["verdict"] == verdict for entry in entries) for verdict in order}


def _by_rule(blocks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return, where effects are judged by expressions too, one row a family with its verdict under each rule."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for block in blocks:
        groups.setdefault((block["model"], block["measure"]), []).append(block)
    tables = []
    for (model, measure), group in groups.items():
        if not any(block["kind"] == "expression" for block in group):
            continue
        found = {block["id"]: {entry["family"]: entry for entry in block["verdicts"]} for block in group}
        families = dict.fromkeys(entry["family"] for block in group for entry in block["verdicts"])
        rows = [{"family": family, "cells": [found[block["id"]].get(family) for block in group]} for family in families]
        tables.append({"model": model, "measure": measure, "blocks": group, "rows": rows})
    return tables


def _control(control: Mapping[str, Any], blocks: list[dict[str, Any]], document: Mapping[str, Any]) -> dict[str, Any]:
    """Return a control with what its block measured, so that a reader sees why it came out as it did."""
    block = next(block for block in blocks if block["id"] == control["claims"])
    on = [entry["estimates"]["on"]["estimate"] for entry in block["verdicts"]]
    routing = [row for row in _routing(document) if row["model"] == block["model"]]
    bound = f"at least {control['at_least']}" if control["at_least"] is not None else f"at most {control['at_most']}"
    return {
        **control,
        "model": block["model"],
        "bound": bound,
        "on_min": min(on),
        "on_max": max(on),
        "routing": routing[0] if routing else None,
    }


def _routing(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return, model by model, how much of an axis's routing its family takes, beside the uniform share."""
    rows = []
    for model in dict.fromkeys(entry["model"] for entry in document["families"]):
        shares = [entry["share"] for entry in document["families"] if entry["model"] == model]
        uniform = next(entry["uniform"] for entry in document["families"] if entry["model"] == model)
        rows.append({"model": model, "low": min(shares), "high": max(shares), "uniform": uniform})
    return rows
