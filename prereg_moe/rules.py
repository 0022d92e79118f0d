"""Expression rules: one line over estimates, three truth values, a margin, never ``eval``.

Grammar (a subset of Python's expressions, parsed by :mod:`ast` and walked by a whitelist)::

    rule    = rule "or" rule | rule "and" rule | "not" rule | "(" rule ")" | sum compare sum
    compare = "<" | "<=" | ">" | ">="  (with a quantity on at least one side)
    sum     = sum ("+" | "-" | "*" | "/") sum | "-" sum | "(" sum ")" | number | word "." word

A name such as ``on.est`` stands for a number known up to an interval: an estimate is the
interval [x, x], a published two-decimal number is [x - .005, x + .005], one of which only a lower
bound is known [x, inf], a missing quantity is unknown. A comparison is true (false) when it is so
for *every* value in the intervals, else unknown; ``and``, ``or``, ``not`` are Kleene's. Unknown is
not false. Where an end is a fraction, arithmetic is exact, so that a tie is a tie.

The margin of ``a > b`` is the interval a - b, of ``and`` the smaller, of ``or`` the larger: the
distance to the bar in the units of what is compared, positive when the rule holds. Where a part is
unknown an end may be infinite, since the smaller of two is at most the one that is known.

The published rules of arXiv 2606.25092 are :data:`NAMED` expressions.

>>> point = parse("paper_point")
>>> point.evaluate({"on.est": 1.80, "null.mean": 0.5, "null.sd": 0.07, "off.est": 0.43}).truth
True
>>> point.evaluate({"on.est": (1.285, 1.295), "null.mean": 0.5, "null.sd": 0.04, "off.est": (0.425, 0.435)}).truth
"""

from __future__ import annotations

import ast
import copy
import math
import re
import sys
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, TypeAlias

from prereg_moe.errors import Invalid, Problem

__all__ = ["NAMED", "QUANTITIES", "Expression", "Outcome", "parse"]

NAMED = {
    "paper_point": "on.est > null.mean + 2*null.sd and off.est <= on.est/3",
    "paper_ci": "on.lo > null.mean + 2*null.sd and off.hi <= on.lo/3",
}
QUANTITIES = {
    "on.est": "mean effect on the family's own axis",
    "on.lo": "lower end of its interval",
    "on.hi": "upper end of its interval",
    "off.est": "mean effect on the worst off-target axis",
    "off.lo": "lower end of its interval",
    "off.hi": "upper end of its interval",
    "null.mean": "mean over the null draws of their effect on the own axis",
    "null.sd": "standard deviation over the null draws (ddof 1)",
    "null.max": "largest null draw",
}
_MAX_CHARACTERS = 500
_OTHER_CHARACTERS = re.compile(r"[^A-Za-z0-9_.+*/()<>= -]")  # no comments, no quotes, one line

End: TypeAlias = "float | Fraction"
Number: TypeAlias = "tuple[End, End] | None"  # an interval, or unknown

_COMPARISONS: dict[type[ast.cmpop], tuple[int, bool]] = {
    ast.Gt: (1, True),
    ast.GtE: (1, False),
    ast.Lt: (-1, True),
    ast.LtE: (-1, False),
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """A truth value (True, False, or None for unknown), its margin and the names that were missing."""

    truth: bool | None
    margin: tuple[End, End] | None
    missing: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Expression:
    """A parsed rule; ``names`` are the quantities it needs."""

    text: str
    tree: ast.expr
    names: frozenset[str]

    def evaluate(self, values: Mapping[str, End | tuple[End, End] | None]) -> Outcome:
        """Return what the rule says of the values.

        Args:
            values: name -> number, (low, high), or None; a name that is absent is unknown. One end may
                be infinite; fractions are calculated with exactly.
        """
        known = {name: _known(values.get(name)) for name in self.names}
        exact = any(isinstance(end, Fraction) for value in known.values() for end in value or ())
        truth, margin = _judge(_exact(self.tree) if exact else self.tree, known)
        return Outcome(truth, margin, tuple(sorted(name for name, value in known.items() if value is None)))


def parse(text: str, where: str = "expression", *, also: AbstractSet[str] = frozenset()) -> Expression:
    """Return the rule a text (or the name of a published rule) says.

    Args:
        text: the rule.
        where: its place, for messages.
        also: names besides :data:`QUANTITIES` it may use.

    Raises:
        Invalid: with everything in it that the grammar does not have.
    """
    text = NAMED.get(text.strip(), text.strip())
    todo = f"compare quantities out of {', '.join(QUANTITIES)} with < <= > >=, joined by and, or, not"
    if len(text) > _MAX_CHARACTERS:
        raise Invalid(Problem(where, f"has {len(text)} characters", f"at most {_MAX_CHARACTERS}"))
    if found := _OTHER_CHARACTERS.search(text):
        raise Invalid(Problem(where, f"{text!r} holds {found[0]!r}", todo))
    try:
        tree = ast.parse(text, mode="eval").body
        names: set[str] = set()
        problems: list[str] = []
        _check_rule(tree, names, problems, {*QUANTITIES, *also})
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise Invalid(Problem(where, f"{text!r} is not an expression", todo)) from error
    if problems:
        raise Invalid([Problem(where, problem, todo) for problem in problems])
    return Expression(text, tree, frozenset(names))


def _check_rule(node: ast.expr, names: set[str], problems: list[str], known: AbstractSet[str]) -> None:
    match node:
        case ast.BoolOp(values=parts):
            for part in parts:
                _check_rule(part, names, problems, known)
        case ast.UnaryOp(op=ast.Not(), operand=part):
            _check_rule(part, names, problems, known)
        case ast.Compare(left=left, ops=[op], comparators=[right]) if type(op) in _COMPARISONS:
            compared: set[str] = set()
            before = len(problems)
            _check_sum(left, compared, problems, known)
            _check_sum(right, compared, problems, known)
            if not compared and len(problems) == before:  # `1 > 0` would confirm every claim
                problems.append(f"{ast.unparse(node)!r} compares no quantity")
            names |= compared
        case _:
            problems.append(f"{ast.unparse(node)!r} is not a comparison")


def _check_sum(node: ast.expr, names: set[str], problems: list[str], known: AbstractSet[str]) -> None:
    match node:
        case ast.BinOp(left=left, op=ast.Add() | ast.Sub() | ast.Mult() | ast.Div(), right=right):
            _check_sum(left, names, problems, known)
            _check_sum(right, names, problems, known)
        case ast.UnaryOp(op=ast.USub(), operand=part):
            _check_sum(part, names, problems, known)
        case ast.Constant(value=int() | float() as value) if (
            not isinstance(value, bool) and abs(value) <= sys.float_info.max
        ):
            pass
        case ast.Attribute(value=ast.Name(id=group), attr=attribute) if f"{group}.{attribute}" in known:
            names.add(f"{group}.{attribute}")
        case _:
            problems.append(f"{ast.unparse(node)!r} is not a number or a quantity")


def _known(value: End | tuple[End, End] | None) -> Number:
    """Return a value as an interval with a finite end; None where there is none."""
    if value is None:
        return None
    low, high = value if isinstance(value, tuple) else (value, value)
    bounded = math.isfinite(low) or math.isfinite(high)
    return (low, high) if bounded and low <= high and low < math.inf and high > -math.inf else None


def _exact(tree: ast.expr) -> ast.expr:
    """Return a rule whose constants are the decimal numbers it was written with, as fractions."""

    class Constants(ast.NodeTransformer):
        def visit_Constant(self, node: ast.Constant) -> ast.Constant:
            return ast.Constant(Fraction(str(node.value)))  # type: ignore[arg-type]  # never compiled

    return Constants().visit(copy.deepcopy(tree))  # type: ignore[no-any-return]


def _judge(node: ast.expr, known: Mapping[str, Number]) -> tuple[bool | None, Number]:
    match node:
        case ast.BoolOp(op=op, values=parts):
            outcomes = [_judge(part, known) for part in parts]
            decisive = isinstance(op, ast.Or)  # one true part decides an `or`, one false part an `and`
            truths = [truth for truth, _ in outcomes]
            truth = decisive if decisive in truths else (None if None in truths else not decisive)
            pick = max if decisive else min
            margins = [(-math.inf, math.inf) if margin is None else margin for _, margin in outcomes]
            return truth, _known((pick(low for low, _ in margins), pick(high for _, high in margins)))
        case ast.UnaryOp(operand=part):
            truth, margin = _judge(part, known)
            return (None if truth is None else not truth), (None if margin is None else (-margin[1], -margin[0]))
        case ast.Compare(left=left, ops=[op], comparators=[right]):
            sign, strict = _COMPARISONS[type(op)]
            margin = _arithmetic(ast.Sub(), _amount(left, known), _amount(right, known))
            if margin is None:
                return None, None
            low, high = margin if sign > 0 else (-margin[1], -margin[0])
            if low > 0 or (low == 0 and not strict):
                return True, (low, high)
            return (False if high < 0 or (high == 0 and strict) else None), (low, high)
    raise AssertionError(node)  # `parse` lets nothing else through


def _amount(node: ast.expr, known: Mapping[str, Number]) -> Number:
    match node:
        case ast.BinOp(left=left, op=op, right=right):
            return _arithmetic(op, _amount(left, known), _amount(right, known))
        case ast.UnaryOp(operand=part):
            return _arithmetic(ast.Sub(), (0.0, 0.0), _amount(part, known))
        case ast.Constant(value=value):
            constant: Any = value  # `parse` lets only numbers through
            number = constant if isinstance(constant, Fraction) else float(constant)
            return (number, number)
        case ast.Attribute(value=ast.Name(id=group), attr=attribute):
            return known[f"{group}.{attribute}"]
    raise AssertionError(node)


_CORNERS: dict[type[ast.operator], Callable[[Any, Any], End]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.Div: lambda a, b: a / b,
}


def _arithmetic(op: ast.operator, left: Number, right: Number) -> Number:
    if left is None or right is None or (isinstance(op, ast.Div) and right[0] <= 0 <= right[1]):
        return None
    corners = [_CORNERS[type(op)](a, b) for a in left for b in right]
    unbounded = not all(map(math.isfinite, (*left, *right)))
    if any(math.isnan(end) or (math.isinf(end) and not unbounded) for end in corners):
        return None  # 0 * inf, inf - inf, or more than a float holds
    return _known((min(corners), max(corners)))
