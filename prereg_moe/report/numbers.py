"""How a report writes numbers and text: rounded by one rule, and harmless in the language it is written in.

Effects have three decimals, p-values three (below .001 as such), shares two; a number that does
not exist is a dash. CSV is for programs: its numbers are not rounded.
"""

from __future__ import annotations

import csv as csv_
import hashlib
import io
import re
from base64 import b64encode
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

__all__ = ["FILTERS", "cell", "csv", "effect", "interval", "margin", "p_value", "percent", "share", "tex"]

_DASH = "–"


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


def percent(rate: Mapping[str, Any] | None) -> str:
    """Return a simulated rate in percent with its interval."""
    if rate is None:
        return _DASH
    return f"{100 * rate['estimate']:.1f} [{100 * rate['low']:.1f}, {100 * rate['high']:.1f}]"


def margin(ends: Sequence[float | None] | None) -> str:
    """Return what a margin can be; an end that nothing bounds is left out."""
    low, high = ends or (None, None)
    if low is None and high is None:
        return "anything"
    if low is None or high is None:
        return f"at most {effect(high)}" if low is None else f"at least {effect(low)}"
    return f"{effect(low)} to {effect(high)}"


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
        "κ": r"\ensuremath{\kappa}",
        "α": r"\ensuremath{\alpha}",
        "‡": r"\ensuremath{\ddagger}",
    }
)
_LONG = re.compile(r"[^\s\\{}]{24,}")  # a digest; no name of a command is as long


def tex(value: Any) -> str:
    """Return text on one line with everything LaTeX would read as a command escaped; long words can be broken."""
    return _LONG.sub(_breakable, " ".join(str(value).split()).translate(_TEX))


def _breakable(word: re.Match[str]) -> str:
    return r"\allowbreak{}".join(word[0][at : at + 8] for at in range(0, len(word[0]), 8))


def cell(value: Any) -> str:
    """Return text that cannot end a Markdown table cell or start a new line."""
    return " ".join(str(value).split()).replace("|", "&#124;").replace("<", "&lt;")


def csv(values: Iterable[Any]) -> str:
    """Return values as one line of CSV (RFC 4180), numbers in full, None as an empty field.

    Text that a spreadsheet would read as a formula gets an apostrophe before it.
    """
    line = io.StringIO()
    csv_.writer(line, lineterminator="").writerow([_field(value) for value in values])
    return line.getvalue()


def _field(value: Any) -> Any:
    if value is None or isinstance(value, int | float):
        return "" if value is None else repr(value)
    text = " ".join(str(value).split())
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text


def csp(text: Any) -> str:
    """Return the hash by which a content security policy admits one inline style or script."""
    return f"'sha256-{b64encode(hashlib.sha256(str(text).encode()).digest()).decode()}'"


FILTERS: dict[str, Callable[..., str]] = {
    "effect": effect,
    "p": p_value,
    "share": share,
    "interval": interval,
    "percent": percent,
    "margin": margin,
    "tex": tex,
    "cell": cell,
    "csv": csv,
    "csp": csp,
    "p_tex": lambda value: tex(p_value(value)),
}
