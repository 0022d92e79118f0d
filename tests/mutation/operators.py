"""Generic mutants: small changes of a module's syntax tree, each at one place.

Left alone: docstrings, annotations, decorators, ``__all__``, the words of error messages, and ``strict`` of zip.
"""

from __future__ import annotations

import ast
import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

__all__ = ["Mutant", "mutants", "mutated", "place_in_sample"]

_COMPARE = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
}  # fmt: skip
_ARITHMETIC = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult}
_LOGIC = {ast.And: ast.Or, ast.Or: ast.And}
_NAMES = {"min": "max", "max": "min", "minimum": "maximum", "maximum": "minimum", "floor": "ceil", "inf": "-inf"}
_WORDS = {"two": "lower", "lower": "upper", "upper": "lower", "left": "right", "right": "left", "holm": "bh"}


@dataclass(frozen=True, slots=True)
class Mutant:
    """A module with one change.

    Attributes:
        module: path below the package, such as ``stats/nulls.py``.
        function: the function or class around the change.
        operator: the kind of change.
        before: the changed expression as it was.
        after: as it is now.
        place: number of the expression in the module.
        change: number of the change to it.
        nth: how many mutants of the function before this one read the same.
    """

    module: str
    function: str
    operator: str
    before: str
    after: str
    place: int
    change: int
    nth: int

    @property
    def key(self) -> tuple[str, str, str, str, int]:
        """What a mutant is known by in the list of survivors."""
        return self.module, self.function, self.before, self.after, self.nth


def place_in_sample(mutant: Mutant) -> bytes:
    """Return what mutants are sorted by before the first are taken: it depends on the mutant alone."""
    return hashlib.blake2b(repr((mutant.key[:4], mutant.operator)).encode(), digest_size=8).digest()


def mutants(module: str, source: str) -> Iterator[Mutant]:
    """Yield every generic mutant of a module."""
    seen = Counter[tuple[str, str, str]]()
    for place, (node, function) in enumerate(_places(ast.parse(source), "module")):
        for change, (operator, changed) in enumerate(_changes(node)):
            before, after = ast.unparse(node), ast.unparse(changed)
            if before != after:
                nth = seen[function, before, after]
                yield Mutant(module, function, operator, before, after, place, change, nth)
                seen[function, before, after] += 1


def mutated(mutant: Mutant, source: str) -> str:
    """Return the source of the mutant's module with its change made."""
    tree = ast.parse(source)
    target, _ = next(islice(_places(tree, "module"), mutant.place, None))
    _, changed = next(islice(_changes(target), mutant.change, None))
    _replace(tree, target, changed)
    return ast.unparse(ast.fix_missing_locations(tree))


def _places(node: ast.AST, function: str) -> Iterator[tuple[ast.AST, str]]:
    """Yield the expressions that may be changed and the function each is in, always in the same order."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        function = node.name
    for name, value in ast.iter_fields(node):
        if name in {"annotation", "returns", "decorator_list"}:
            continue
        for child in value if isinstance(value, list) else [value]:
            if not isinstance(child, ast.AST) or _is_left_alone(child):
                continue
            yield child, function
            yield from _places(child, function)


def _is_left_alone(node: ast.AST) -> bool:
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Constant)  # a docstring
    if isinstance(node, ast.Assign | ast.AnnAssign):
        target = node.targets[0] if isinstance(node, ast.Assign) else node.target
        return isinstance(target, ast.Name) and target.id in {"__all__", "_HOME", "REASONS"}
    if isinstance(node, ast.If):
        return isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
    if isinstance(node, ast.keyword):
        return node.arg == "strict"  # of zip, where lengths are equal already
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in {"Problem", "Literal"}


def _changes(node: ast.AST) -> Iterator[tuple[str, ast.expr]]:
    """Yield what a node may be changed to."""
    match node:
        case ast.Compare(left, [op], [right]) if type(op) in _COMPARE:
            yield "comparison", ast.Compare(left, [_COMPARE[type(op)]()], [right])
        case ast.BinOp(ast.Constant(1), ast.Add(), rest) | ast.BinOp(rest, ast.Add() | ast.Sub(), ast.Constant(1)):
            yield "±1 dropped", rest
        case ast.BinOp(left, op, right) if type(op) in _ARITHMETIC:
            yield "arithmetic", ast.BinOp(left, _ARITHMETIC[type(op)](), right)
        case ast.UnaryOp(ast.USub() | ast.Not(), operand):
            yield "sign or not dropped", operand
        case ast.BoolOp(op, values):
            yield "and, or", ast.BoolOp(_LOGIC[type(op)](), values)
        case ast.IfExp(test, body, orelse):
            yield "branches swapped", ast.IfExp(test, orelse, body)
        case ast.Name(name) if name in {"min", "max"}:
            yield "min, max", ast.Name(_NAMES[name])
        case ast.Attribute(value, name) if name in _NAMES:
            other = _NAMES[name]
            changed = ast.Attribute(value, other.removeprefix("-"))
            yield "min, max, inf", ast.UnaryOp(ast.USub(), changed) if other.startswith("-") else changed
        case ast.Constant(bool() as value):
            yield "constant", ast.Constant(not value)
        case ast.Constant(int() as value):
            yield "constant", ast.Constant(value + 1)
        case ast.Constant(float() as value):
            yield "constant", ast.Constant(2 * value)
        case ast.Constant(str() as value) if value in _WORDS:
            yield "side or method", ast.Constant(_WORDS[value])


def _replace(tree: ast.AST, target: ast.AST, changed: ast.expr) -> None:
    for parent in ast.walk(tree):
        for name, value in ast.iter_fields(parent):
            if value is target:
                setattr(parent, name, changed)
                return
            if isinstance(value, list) and any(child is target for child in value):
                value[[child is target for child in value].index(True)] = changed
                return
    raise AssertionError("the place is not in the tree")
