r"""Equality of two answers as mathematics: all of the project's use of math-verify.

Not bounded in time: call it from a worker process that can be killed. Source of the library:
https://github.com/huggingface/Math-Verify. It is pinned, since its verdicts change (`10\%` equals
10 and 0.1 in 0.9.0), and every manifest's provenance names its version.
"""

from __future__ import annotations

import logging
from functools import lru_cache
from typing import Any

# Two numbers that differ by more than this part of the larger are different, whatever the library
# says: it compares differences with absolute tolerances, so that 1/2006! equals 1/2004! there. Its
# own tolerance is 6 decimals. An inverse, since exact fractions may be too large for a float.
DISTINCT_PART = 1000
# Typical answers, parsed before the first clock starts: the parser learns its grammar lazily.
_WARM_UP = (
    r"\frac{1}{2}", "0.5", r"2\sqrt{3}", "x^2+3x-1", r"(1,\frac{\pi}{2}]", "1,2", r"10\text{ cm}",
    r"\begin{pmatrix}1\\2\end{pmatrix}", "x=5", "1+2i", r"90^\circ", r"(2,\infty)", "(1,-2,3)",
)  # fmt: skip


@lru_cache(maxsize=4096)
def read(normal: str) -> tuple[Any, ...]:
    """math-verify's readings of one answer in normal form; empty where it has none.

    Read as LaTeX only: its other reader picks numbers out of prose. Its own SIGALRM time limits are
    switched off, as they cannot stop C code and work in the main thread only; the worker's limit
    replaces them, so the warning about that is silenced.
    """
    from math_verify import LatexExtractionConfig, parse

    logging.getLogger("math_verify").setLevel(logging.ERROR)
    return tuple(
        parse(
            f"\\boxed{{{normal}}}",
            [LatexExtractionConfig(boxed_match_priority=0)],
            fallback_mode="no_fallback",
            parsing_timeout=None,
        )
    )


def equal(gold: str, answer: str) -> bool:
    """Whether two readable answers in normal form are equal. Gold first: it is not symmetric."""
    from math_verify import verify

    if certainly_differ(gold, answer):
        return False
    return bool(verify(list(read(gold)), list(read(answer)), timeout_seconds=None))


def certainly_differ(first: str, second: str) -> bool:
    """Whether their values at one point differ beyond any rounding, or one is many and one is not.

    Decides most wrong answers without the library's slow `simplify` and set operations, and
    overrules its absolute tolerances for tiny numbers. False means: not decided.
    """
    a, b = value(first), value(second)
    if a is None or b is None:
        return (a is not None and _is_many(second)) or (b is not None and _is_many(first))
    return bool(DISTINCT_PART * abs(a - b) > max(abs(a), abs(b)))


@lru_cache(maxsize=4096)
def value(normal: str) -> Any | None:
    """Value of a scalar expression with every symbol at a fixed generic positive number.

    None where one number does not tell all: relations, sets, tuples, matrices, percentages (which
    the library equates with two numbers), single symbols (which may be words), expressions of
    symbols that are not real there.
    """
    from sympy import Expr, I, Symbol, UnevaluatedExpr

    readings = read(normal)
    if len(readings) != 1 or not isinstance(readings[0], Expr) or isinstance(readings[0], Symbol):
        return None
    expression = readings[0]
    if expression.has(UnevaluatedExpr):
        return None
    try:
        # Exact substitutes and `strict`: where everything cancels the digits left are noise, and
        # sympy says so instead of returning them.
        point = {s: _generic(s.name) for s in expression.free_symbols}
        found = expression.xreplace(point).evalf(10, strict=True)
    except (TypeError, ValueError, ArithmeticError, AttributeError, NotImplementedError):
        return None
    real, imaginary = found.as_real_imag()
    if not (real.is_Float or real.is_zero) or not (imaginary.is_Float or imaginary.is_zero):
        return None
    if expression.free_symbols and not imaginary.is_zero:
        return None
    return real + imaginary * I


@lru_cache(maxsize=4096)
def _is_many(normal: str) -> bool:
    """Whether an answer is surely more than one number: a pair, an interval, a matrix."""
    from sympy import Interval, MatrixBase, Tuple, Union

    readings = read(normal)
    if len(readings) != 1:
        return False
    reading = readings[0]
    if isinstance(reading, Interval):
        return bool((reading.start < reading.end) == True)  # noqa: E712 (may stay symbolic)
    if isinstance(reading, Union):
        return any(isinstance(part, Interval) for part in reading.args)
    return isinstance(reading, (Tuple, MatrixBase)) and len(reading) > 1


def _generic(name: str) -> Any:
    """A fixed fraction between 1 and 2 for a symbol, the same in both answers everywhere."""
    from sympy import Rational

    seed = sum((i + 1) * ord(character) for i, character in enumerate(name))
    return 1 + Rational((seed * 617) % 997 + 1, 1009)


def warm_up() -> None:
    """Load the library and let its parser learn what ordinary answers look like."""
    for text in _WARM_UP:
        value(text)
    equal("2x+2", "2(x+1)")
