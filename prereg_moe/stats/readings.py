"""Reading published numbers: interval arithmetic on what a rounded number can stand for.

A number printed as 1.29 stands for anything in [1.285, 1.295]. A comparison of such numbers is TRUE or
FALSE where it holds for all or for none of the values they can stand for, and UNDECIDABLE otherwise.
Arithmetic is exact (fractions), so a tie is a tie.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from typing import Literal

from prereg_moe.errors import Invalid, Problem

__all__ = ["Published", "Reading", "compare", "published"]

Reading = Literal["TRUE", "FALSE", "UNDECIDABLE"]


@dataclass(frozen=True, slots=True)
class Published:
    """A closed interval of values a published number can stand for; sums, products and quotients of these."""

    low: Fraction
    high: Fraction

    def __add__(self, other: Published) -> Published:
        return Published(self.low + other.low, self.high + other.high)

    def __sub__(self, other: Published) -> Published:
        return Published(self.low - other.high, self.high - other.low)

    def __mul__(self, other: Published) -> Published:
        ends = [a * b for a in (self.low, self.high) for b in (other.low, other.high)]
        return Published(min(ends), max(ends))

    def __truediv__(self, other: Published) -> Published:
        if other.low <= 0 <= other.high:
            raise Invalid(Problem("published", "a divisor can be 0", "compare products instead of ratios"))
        return self * Published(1 / other.high, 1 / other.low)


def published(text: str | int, *, exact: bool = False) -> Published:
    """Return what a number as printed can stand for: half a unit of its last digit to either side.

    Args:
        text: the number as printed; trailing zeros count.
        exact: the number was not rounded (a threshold, a count).

    Raises:
        Invalid: text that is not a finite decimal number.

    >>> published("0.43").low, published(3, exact=True).high
    (Fraction(17, 40), Fraction(3, 1))
    """
    try:
        value = Decimal(str(text))
        exponent = value.as_tuple().exponent
    except InvalidOperation as error:
        raise Invalid(
            Problem(
                "published",
                f"{text!r} is not a number",
                "give it as printed, with a point and a plain hyphen for minus",
            )
        ) from error
    if not isinstance(exponent, int):
        raise Invalid(Problem("published", f"{text!r} is not finite", "give it as printed"))
    half = Fraction(0) if exact else Fraction(10) ** exponent / 2
    return Published(Fraction(value) - half, Fraction(value) + half)


def compare(left: Published, operator: Literal["<", "<=", ">", ">="], right: Published) -> Reading:
    """Return whether a comparison of published numbers is TRUE, FALSE or UNDECIDABLE.

    Source: statistics.md, published numbers; the es family of arXiv 2606.25092 at two decimals:

    >>> compare(published("0.43"), "<=", published("1.29") / published(3, exact=True))
    'UNDECIDABLE'
    >>> compare(published("0.43"), "<=", published("1.80") / published(3, exact=True))
    'TRUE'

    Raises:
        Invalid: an unknown operator.
    """
    if operator in {">", ">="}:
        return compare(right, "<" if operator == ">" else "<=", left)
    if operator not in {"<", "<="}:
        raise Invalid(Problem("operator", f"is {operator!r}", "use < <= > >="))
    surely = left.high < right.low or (operator == "<=" and left.high == right.low)
    never = left.low > right.high or (operator == "<" and left.low == right.high)
    return "TRUE" if surely else "FALSE" if never else "UNDECIDABLE"
