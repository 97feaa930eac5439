"""Numbers, polynomials and matrices written in LaTeX."""

from __future__ import annotations

from fractions import Fraction
from math import isqrt


def fraction(value: Fraction, style: str = r"\frac") -> str:
    """A number as LaTeX, in lowest terms."""
    if value.denominator == 1:
        return str(value.numerator)
    sign = "-" if value < 0 else ""
    return f"{sign}{style}{{{abs(value.numerator)}}}{{{value.denominator}}}"


def radical(square: int) -> str:
    r"""√`square` in simplest form: `3\sqrt{2}`."""
    outside = max(d for d in range(1, isqrt(square) + 1) if square % (d * d) == 0)
    inside = square // outside**2
    if inside == 1:
        return str(outside)
    return (str(outside) if outside > 1 else "") + rf"\sqrt{{{inside}}}"


def term(coefficient: int, power: int, *, first: bool = False) -> str:
    """One term of a polynomial in x, with its sign unless it is the first and positive."""
    if coefficient == 0:
        return ""
    sign = "-" if coefficient < 0 else "" if first else "+"
    size = str(abs(coefficient)) if abs(coefficient) != 1 or power == 0 else ""
    return sign + size + ("" if power == 0 else "x" if power == 1 else f"x^{{{power}}}")


def polynomial(*coefficients: int) -> str:
    """A polynomial in x from its coefficients, highest power first."""
    degree = len(coefficients) - 1
    text = ""
    for number, coefficient in enumerate(coefficients):
        text += term(coefficient, degree - number, first=not text)
    return text or "0"


def matrix(rows: list[list[int]]) -> str:
    body = r" \\ ".join(" & ".join(map(str, row)) for row in rows)
    return rf"\begin{{pmatrix}} {body} \end{{pmatrix}}"
