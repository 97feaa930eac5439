"""The value of a scalar's tree at fixed generic points, which decides whether two are equal.

Values are exact fractions where possible, else floats of 40 digits; a difference that may be
rounding is computed again with 80. Expressions that agree at three generic points count as equal
(Schwartz 1980, "Fast probabilistic algorithms for verification of polynomial identities"). The
points have both signs, so that |x| is not x. An odd root of a negative number is the real one, as
at school.
"""

from __future__ import annotations

import hashlib
import math
from fractions import Fraction
from functools import cache, lru_cache
from typing import Any

from svdjobs.evaluation.answers.tokens import Node

POINTS = 3
_DIGITS, _MORE_DIGITS = 40, 80
# An exact result with more bits becomes a float.
_EXACT_BITS = 1 << 20
# A power of about this many bits or more is not computed: it is huge.
_RESULT_BITS = 1 << 44
# A decimal with at least this many places may be the rounded gold.
_PLACES = 6
# Not if they differ by more than a thousandth: 0.000001 and 0.0000014.
_MIN_RELATIVE_FACTOR = 1000
_TRIGONOMETRIC = ("sin", "cos", "tan", "cot", "sec", "csc", "cis")


class UndefinedError(ArithmeticError):
    """A scalar has no value: a division by zero, a function outside its domain."""


class HugeError(ArithmeticError):
    """A scalar is too large to be computed."""


@lru_cache(maxsize=8192)
def equal(first: Node, second: Node) -> bool:
    """Whether two scalars are equal, or one is the other rounded to six decimals or more.

    Raises:
        HugeError: one is too large to be computed, and they are not written alike.
    """
    if first == second:
        return True
    points = range(POINTS if symbols(first) | symbols(second) else 1)
    try:
        return all(_equal_at(first, second, point) for point in points) or _rounded(first, second)
    except UndefinedError:
        return False


@lru_cache(maxsize=8192)
def symbols(node: Node) -> frozenset[str]:
    """The symbols in a tree, and its unknown functions."""
    own = {str(node.value)} if node.kind == "symbol" or str(node.value).endswith("()") else set()
    return frozenset(own.union(*map(symbols, node.args)))


@lru_cache(maxsize=16384)
def value(node: Node, point: int = 0, digits: int = _DIGITS) -> Any:
    """Value at a point: a Fraction if it is rational and of ordinary size, else an mpmath number.

    Raises:
        UndefinedError: there is no value.
        HugeError: the value is too large to be computed.
    """
    try:
        return _Evaluator(_context(digits), point).of(node)
    except (ZeroDivisionError, OverflowError) as error:
        raise UndefinedError(str(error)) from None


def real(node: Node) -> Any:
    """The value of a scalar without symbols as a real number.

    Raises:
        UndefinedError, HugeError: there is no real value, or it is too large to be computed.
    """
    number = _float(_context(_DIGITS), value(node))
    if number.imag != 0:
        raise UndefinedError("not real")
    return number.real


def proportional(first: Node, second: Node) -> Any | None:
    """The real number c with first = c · second at every point; None if there is none.

    None too unless both have symbols, the same ones.
    """
    if not symbols(first) or symbols(first) != symbols(second):
        return None
    ratio = Node("div", args=(first, second))
    try:
        factors = [_float(_context(_DIGITS), value(ratio, point)) for point in range(POINTS)]
    except ArithmeticError:
        return None
    # 25 of 40 digits: rounding may have cost the others.
    near = all(abs(f - factors[0]) <= 1e-25 * abs(factors[0]) for f in factors)
    return factors[0].real if near and factors[0] != 0 and factors[0].imag == 0 else None


def _equal_at(first: Node, second: Node, point: int) -> bool:
    a, b = value(first, point), value(second, point)
    if isinstance(a, Fraction) and isinstance(b, Fraction):
        return a == b
    ctx = _context(_DIGITS)
    if ctx.isinf(_float(ctx, a)) or ctx.isinf(_float(ctx, b)):
        return bool(_float(ctx, a) == _float(ctx, b))
    gap, scale = _gap(ctx, a, b)
    # Equal in 30 of 40 digits.
    if gap <= scale * ctx.mpf(10) ** (10 - _DIGITS):
        return True
    # Clearly apart, unless both are so small that they may be left over from a cancellation.
    if scale > 1e-15 and gap > scale * 1e-10:
        return False
    more = _context(_MORE_DIGITS)
    a, b = value(first, point, _MORE_DIGITS), value(second, point, _MORE_DIGITS)
    # With 40 more digits a gap that is rounding shrinks far more than this, a real one not at all.
    return bool(_gap(more, a, b)[0] < gap * 1e-20)


def _gap(ctx: Any, a: Any, b: Any) -> tuple[Any, Any]:
    """The distance between two values, and the size of the larger."""
    a, b = _float(ctx, a), _float(ctx, b)
    return abs(a - b), max(abs(a), abs(b))


def _float(ctx: Any, number: Any) -> Any:
    return (
        ctx.mpf(number.numerator) / number.denominator if isinstance(number, Fraction) else number
    )


def _rounded(first: Node, second: Node) -> bool:
    """Whether one is a decimal with `_PLACES` or more, and the other rounds to it."""
    ctx = _context(_DIGITS)
    if symbols(first) | symbols(second):
        return False
    gap, scale = _gap(ctx, value(first), value(second))
    if _MIN_RELATIVE_FACTOR * gap > scale:
        return False
    places = [d for d in (_decimals(first), _decimals(second)) if d >= _PLACES]
    return any(2 * gap <= ctx.mpf(10) ** -d * (1 + ctx.mpf(10) ** -20) for d in places)


def _decimals(node: Node) -> int:
    """Decimals of a literal, with or without a sign; 0 for anything else."""
    if node.kind == "neg":
        node = node.args[0]
    return int(str(node.args[0].value)) if node.kind == "number" and node.args else 0


@cache
def _context(digits: int) -> Any:
    import mpmath

    context = mpmath.MPContext()
    context.dps = digits
    return context


class _Evaluator:
    """Values of the nodes of one tree at one point."""

    def __init__(self, ctx: Any, point: int) -> None:
        self._ctx = ctx
        self._point = point
        self._radians = False

    def of(self, node: Node) -> Any:
        """The value of a node."""
        if node.kind == "number":
            return node.value
        if node.kind == "symbol":
            return _generic(str(node.value), self._point)
        if node.kind == "constant":
            return self._constant(str(node.value))
        if node.kind == "huge":
            raise HugeError(str(node.value)[:40])
        if node.kind == "call":
            return self._call(str(node.value), node.args)
        return self._operation(node.kind, [self.of(arg) for arg in node.args])

    def _constant(self, name: str) -> Any:
        ctx = self._ctx
        return {"pi": +ctx.pi, "e": +ctx.e, "i": ctx.mpc(0, 1), "infinity": ctx.inf}[name]

    def _operation(self, kind: str, args: list[Any]) -> Any:
        if kind == "add":
            return self._fold(args, lambda a, b: a + b)
        if kind == "mul":
            return self._fold(args, lambda a, b: a * b)
        if kind == "neg":
            return -args[0]
        if kind == "div":
            if args[1] == 0:
                raise UndefinedError("a division by zero")
            return self._fold(args, lambda a, b: a / b)
        if kind == "pow":
            return self._power(*args)
        if kind == "degrees":
            return self._float(args[0]) * self._ctx.pi / 180 if self._radians else args[0]
        raise UndefinedError(kind)

    def _fold(self, args: list[Any], operation: Any) -> Any:
        result = args[0]
        for arg in args[1:]:
            if not (isinstance(result, Fraction) and isinstance(arg, Fraction)):
                result, arg = self._float(result), self._float(arg)
            result = self._bounded(operation(result, arg))
        return result

    def _bounded(self, number: Any) -> Any:
        if isinstance(number, Fraction):
            bits = number.numerator.bit_length() + number.denominator.bit_length()
            return number if bits <= _EXACT_BITS else self._float(number)
        if self._ctx.isnan(number):
            raise UndefinedError("not a number")
        return number

    def _float(self, number: Any) -> Any:
        return _float(self._ctx, number)

    def _power(self, base: Any, exponent: Any) -> Any:
        ctx = self._ctx
        if base == 0:
            if ctx.re(self._float(exponent)) <= 0 and exponent != 0:
                raise UndefinedError("a power of zero")
            return Fraction(exponent == 0)
        if isinstance(base, Fraction) and isinstance(exponent, Fraction):
            size = base.numerator.bit_length() + base.denominator.bit_length()
            if exponent.denominator == 1 and size * abs(exponent.numerator) <= _EXACT_BITS:
                return base ** int(exponent)
            # The real odd root, not the principal one.
            if base < 0 and exponent.denominator % 2 and exponent.denominator > 1:
                sign = -1 if exponent.numerator % 2 else 1
                return sign * self._power(-base, exponent)
        base_f, exponent_f = self._float(base), self._float(exponent)
        if ctx.isinf(base_f) or ctx.isinf(exponent_f):
            raise UndefinedError("a power of infinity")
        if abs(exponent_f) * (1 + abs(ctx.log(base_f))) > _RESULT_BITS:
            raise HugeError("a power")
        whole = isinstance(exponent, Fraction) and exponent.denominator == 1
        return self._bounded(ctx.power(base_f, int(exponent) if whole else exponent_f))

    def _call(self, name: str, args: tuple[Node, ...]) -> Any:
        # 30° is π/6 as a trigonometric argument, and 30 everywhere else.
        outside, self._radians = self._radians, name in _TRIGONOMETRIC
        values = [self.of(arg) for arg in args]
        self._radians = outside
        if name.endswith("()"):  # an unknown function: generic, the same for equal arguments
            argument = self._ctx.nstr(self._float(values[0]), 20)
            return _generic(f"{name}{argument}", self._point)
        if name in ("factorial", "binom", "gcd", "lcm", "floor", "ceil", "max", "min"):
            return self._integer_function(name, values)
        if name == "root":
            return self._root(*values)
        return self._bounded(self._function(name, [self._float(x) for x in values]))

    def _root(self, inner: Any, degree: Any) -> Any:
        if degree == 0:
            raise UndefinedError("a root of degree zero")
        return self._power(inner, 1 / degree)

    def _function(self, name: str, args: list[Any]) -> Any:
        ctx = self._ctx
        if any(abs(x) > 1e12 for x in args) and name not in ("ln", "log", "lg", "abs"):
            raise HugeError(name)
        if name in ("ln", "log", "lg"):
            base = ctx.e if name == "ln" else args[1] if len(args) > 1 else ctx.mpf(10)
            if args[0] == 0 or base in (0, 1):
                raise UndefinedError("a logarithm")
            return ctx.log(args[0]) / ctx.log(base)
        if name == "abs":
            return abs(args[0])
        if name == "cis":
            return ctx.expj(args[0])
        named = {"arcsin": "asin", "arccos": "acos", "arctan": "atan"}.get(name, name)
        try:
            return getattr(ctx, named)(args[0])
        except ValueError:
            raise UndefinedError(name) from None

    def _integer_function(self, name: str, args: list[Any]) -> Any:
        """Functions of integers and the like, exact where the numbers are small."""
        ctx = self._ctx
        if name in ("floor", "ceil"):
            return self._floor_or_ceil(name, args[0])
        if any(ctx.im(self._float(x)) != 0 for x in args):
            raise UndefinedError(name)
        if name in ("max", "min"):
            return (max if name == "max" else min)(args, key=self._float)
        if any(abs(x) > 1e15 for x in args):
            raise HugeError(name)
        whole = [int(x) if isinstance(x, Fraction) and x.denominator == 1 else None for x in args]
        small = [x for x in whole if x is not None and 0 <= x <= 20_000]
        if name in ("gcd", "lcm"):
            if None in whole:
                raise UndefinedError(name)
            numbers = [x for x in whole if x is not None]
            return Fraction(math.gcd(*numbers) if name == "gcd" else math.lcm(*numbers))
        if len(small) == len(args):
            exact = math.factorial(small[0]) if name == "factorial" else math.comb(*small)
            return self._bounded(Fraction(exact))
        floats = [self._float(x) for x in args]
        try:
            return ctx.gamma(floats[0] + 1) if name == "factorial" else ctx.binomial(*floats)
        except ValueError:
            raise UndefinedError(name) from None

    def _floor_or_ceil(self, name: str, number: Any) -> Any:
        if not isinstance(number, Fraction):
            if self._ctx.im(number) != 0 or abs(number) > 1e15:
                raise UndefinedError(name)
            near = self._ctx.nint(number)
            if abs(number - near) < self._ctx.mpf(10) ** (10 - _DIGITS):
                return Fraction(int(near))
            return Fraction(int(self._ctx.floor(number) + (name == "ceil")))
        return Fraction(math.floor(number) if name == "floor" else math.ceil(number))


@lru_cache(maxsize=4096)
def _generic(name: str, point: int) -> Fraction:
    """A fixed fraction for a symbol, the same in both answers: from 1 to 3 in size, and of either
    sign, but positive at the first point."""
    digest = hashlib.sha256(f"{point} {name}".encode()).digest()
    size = 1 + Fraction(int.from_bytes(digest[:4], "big") % 2018 + 1, 1009)
    return -size if point and digest[4] % 2 else size
