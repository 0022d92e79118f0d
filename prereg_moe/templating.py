"""Templates: untrusted text that may show a document and do nothing else.

Jinja's immutable sandbox, and less: a template reaches no file, no other template, no attribute
that is not data and nothing random; it cannot change what it is given, and cannot ask for more
memory than a report needs. What it writes is a function of the template and the values alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jinja2 import StrictUndefined
from jinja2.exceptions import SecurityError, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from prereg_moe.errors import Invalid, Problem

__all__ = ["FILTERS", "check", "fill", "own", "reports"]

FILTERS = frozenset(
    {"cell", "csp", "csv", "effect", "interval", "margin", "p", "p_tex", "percent", "share", "tex"}
)  # a report's own
_OWN = Path(__file__).parent / "templates"
_MOST_CHARACTERS = 1 << 25
_BARRED_FILTERS = {"attr", "center", "format", "indent", "pprint", "random", "urlize", "wordwrap", "xmlattr"}
_GLOBALS = {"cycler", "dict", "joiner", "namespace", "range"}
_RESTORE = "mend the template, or restore the frozen one"


class _Sandbox(ImmutableSandboxedEnvironment):
    """Arithmetic is for numbers: text that is multiplied or formatted could grow without end."""

    intercepted_binops = frozenset({"*", "%", "**"})

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "**" or not all(isinstance(side, int | float) for side in (left, right)):
            raise SecurityError(f"{operator} is for numbers only")
        return super().call_binop(context, operator, left, right)


def reports(kind: str = "") -> dict[str, str]:
    """Return file name -> text of this package's templates of a report, for a study that is run here or another kind.

    Pages begin with what all of them look like, so that each is whole where it is frozen.
    """
    return {path.name: _read(path) for path in sorted((_OWN / kind).glob("report.*.j2"))}


def own(name: str) -> tuple[str, ...]:
    """Return every template of a name in this package, one for each kind of evidence."""
    return tuple(_read(path) for path in (*_OWN.glob(name), *_OWN.glob(f"*/{name}")))


def _read(path: Path) -> str:
    found = path.read_text("utf-8")
    return (_OWN / "look.html.j2").read_text("utf-8") + found if path.name == "report.html.j2" else found


def check(source: str, where: str) -> None:
    """Return where text is a template.

    Raises:
        Invalid: it cannot be parsed, or names a filter there is not; the problem names the line.
    """
    try:
        _sandbox(dict.fromkeys(FILTERS, str), escape=False).compile(source)
    except (TemplateError, RecursionError) as error:
        number = getattr(error, "lineno", None)
        line = f", line {number}" if number else ""
        raise Invalid(Problem(f"{where}{line}", f"is no template ({error})", "mend it")) from error


def fill(
    source: str, values: Mapping[str, Any], filters: Mapping[str, Callable[..., Any]], *, escape: bool = False
) -> str:
    """Return the text a template makes of values.

    Args:
        source: the template.
        values: all it sees.
        filters: all it can call on them, beside Jinja's own harmless ones.
        escape: whether text is escaped for HTML where it is not already.

    Raises:
        Invalid: it fails, reaches for what it may not, or writes without end.
    """
    try:
        parts, length = [], 0
        for part in _sandbox(filters, escape=escape).from_string(source).generate(values):
            parts.append(part)
            length += len(part)
            if length > _MOST_CHARACTERS:
                raise SecurityError(f"writes more than {_MOST_CHARACTERS} characters")
    except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError, RecursionError) as error:
        raise Invalid(Problem("template", f"cannot be rendered ({error})", _RESTORE)) from error
    return "".join(parts)


def _sandbox(filters: Mapping[str, Callable[..., Any]], *, escape: bool) -> _Sandbox:
    environment = _Sandbox(
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=escape,
    )
    for name in _BARRED_FILTERS:
        environment.filters.pop(name, None)
    environment.globals = {name: value for name, value in environment.globals.items() if name in _GLOBALS}
    environment.filters.update(filters)
    return environment
