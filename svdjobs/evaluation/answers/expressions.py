r"""A strict reader of one scalar in LaTeX or plain notation: all of it has meaning, or none has.

The grammars at hand are lenient where answers are hostile: latex2sympy2_extended reads `2(3)` as 5,
`4 5` as 9 and `x'` as x, and math-verify takes the first fragment that it can read. A node is an
immutable tree, so that it can be cached and compared; `values.py` computes what it stands for.

Conventions: `a/bc` is a/(bc); an integer before a proper fraction of integers is a mixed number;
`i` is the imaginary unit, `e` Euler's number; `\log` is to base 10; letters keep their case.
"""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache

from svdjobs.evaluation.answers.tokens import (
    ACCENTS,
    FUNCTIONS,
    GREEK,
    Node,
    Token,
    UnreadableError,
    number,
    tokenise,
)

_INVERSES = {"sin": "arcsin", "cos": "arccos", "tan": "arctan"}
_CONSTANTS = {"pi": "pi", "infty": "infinity", "imath": "i"}
_CLOSING = {"(": ")", "[": "]", "|": "|", "\\lvert": "\\rvert", "\\lfloor": "\\rfloor",
            "\\lceil": "\\rceil", "\\vert": "\\vert"}  # fmt: skip
_AROUND = {"|": "abs", "\\lvert": "abs", "\\vert": "abs", "\\lfloor": "floor", "\\lceil": "ceil"}
_MARKS = ("'", "\\prime")
_TIMES = ("*", "\\cdot", "\\times", "\\ast")
_SIGNS = {"+": "plus", "-": "minus", "\\pm": "pm", "\\mp": "mp"}
_APPLIED = frozenset("fghFGHPpqQ")
# Deeper nesting is no answer, and would end Python's recursion.
_DEPTH = 60


@lru_cache(maxsize=8192)
def read_scalar(text: str) -> Node:
    """The tree of one scalar.

    Raises:
        UnreadableError: any part of it is not understood.
    """
    return _Reader(tokenise(text)).whole()


class _Reader:
    """Recursive descent over tokens."""

    def __init__(self, tokens: list[Token]) -> None:
        self._tokens = tokens
        self._at = 0
        self._deep = 0
        self._bars = 0

    def whole(self) -> Node:
        node = self._over()
        if self._at < len(self._tokens):
            raise UnreadableError(f"not understood: {self._tokens[self._at].text!r}")
        return node

    def _peek(self, ahead: int = 0) -> Token:
        at = self._at + ahead
        return self._tokens[at] if at < len(self._tokens) else Token("end", "", False)

    def _next(self) -> Token:
        token = self._peek()
        self._at += 1
        return token

    def _take(self, text: str) -> bool:
        if self._peek().text == text and self._peek().kind != "end":
            self._at += 1
            return True
        return False

    def _expect(self, text: str) -> None:
        if not self._take(text):
            raise UnreadableError(f"expected {text!r}, found {self._peek().text!r}")

    def _sum(self) -> Node:
        terms: list[Node] = []
        while True:
            sign = _SIGNS.get(self._peek().text)
            if sign:
                self._at += 1
            elif terms:
                break
            terms.append(_signed(sign, self._term()))
        return terms[0] if len(terms) == 1 else Node("add", args=tuple(terms))

    def _term(self) -> Node:
        """A product: an explicit sign takes a whole run of factors written side by side."""
        node = self._run()
        while True:
            if self._peek().text in _TIMES:
                self._at += 1
                before = node.args if node.kind == "mul" else (node,)  # flat, not deep
                node = Node("mul", args=(*before, self._factor_signed()))
            elif self._peek().text in ("/", "\\div"):
                self._at += 1
                node = Node("div", args=(node, self._factor_signed()))
            else:
                return node

    def _factor_signed(self) -> Node:
        if self._take("-"):
            return Node("neg", args=(self._run(),))
        self._take("+")
        return self._run()

    def _run(self) -> Node:
        """Factors side by side. A number may only come first."""
        mixed = self._mixed()
        factors = [mixed if mixed else self._power()]
        while self._starts_factor():
            factors.append(self._power())
        return factors[0] if len(factors) == 1 else Node("mul", args=tuple(factors))

    def _starts_factor(self) -> bool:
        kind, text, _ = self._peek()
        if text in ("|", "\\vert"):
            return not self._bars
        if kind == "letter" or text in ("(", "[", "{"):
            return True
        if kind != "command":
            return False
        name = text[1:]
        known = name in FUNCTIONS or name in GREEK or name in _CONSTANTS or name in ACCENTS
        return known or name in ("frac", "binom", "√", "sqrt", "lvert", "lfloor", "lceil")

    def _mixed(self) -> Node | None:
        r"""`7 1/2` and `7\frac{1}{2}`: a whole number before a proper fraction of whole numbers."""
        first = self._peek()
        if first.kind != "number" or not first.text.isdigit():
            return None
        start = self._at
        self._at += 1
        fraction = self._digits_fraction()
        if fraction is None or not 0 < fraction.value < 1:  # type: ignore[operator]
            self._at = start
            return None
        if self._peek().text in ("^", "!"):
            raise UnreadableError("a power of a mixed number")
        return Node("add", args=(number(first.text), fraction))

    def _digits_fraction(self) -> Node | None:
        texts = [self._peek(i).text for i in range(7)]
        if texts[0] == "\\frac" and texts[1] + texts[3] + texts[4] + texts[6] == "{}{}":
            top, bottom, length = texts[2], texts[5], 7
        elif texts[1] == "/" and self._peek().spaced:
            top, bottom, length = texts[0], texts[2], 3
        else:
            return None
        if not (top.isdigit() and bottom.isdigit() and int(bottom)):
            return None
        self._at += length
        return Node("number", Fraction(int(top), int(bottom)))

    def _power(self) -> Node:
        node = self._primary()
        while self._take("!"):
            node = Node("call", "factorial", (node,))
        if self._peek().text == "^":
            if self._peek(1).text == "\\circ":
                self._at += 2
                return Node("degrees", args=(node,))
            self._at += 1
            node = Node("pow", args=(node, self._exponent()))
            if self._peek().text == "^":
                raise UnreadableError("two exponents")
            while self._take("!"):
                node = Node("call", "factorial", (node,))
        return node

    def _exponent(self) -> Node:
        sign = _SIGNS.get(self._peek().text)
        self._at += sign is not None
        return _signed(sign, self._primary())

    def _braced(self) -> Node:
        self._expect("{")
        node = self._over()
        self._expect("}")
        return node

    def _over(self) -> Node:
        r"""A sum, or all of a group on both sides of `\over` or `\choose`."""
        node = self._sum()
        if self._take("\\choose"):
            return Node("call", "binom", (node, self._sum()))
        if self._take("\\over"):
            return Node("div", args=(node, self._sum()))
        return node

    def _argument(self) -> Node:
        r"""What a command takes: braces, or the one digit or sign after it (`\frac12`)."""
        if self._peek().text == "{":
            return self._braced()
        token = self._peek()
        if token.kind == "number" and len(token.text) > 1:
            if not token.text.isdigit():
                raise UnreadableError(f"an argument without braces: {token.text!r}")
            self._tokens[self._at] = Token("number", token.text[1:], False)
            return number(token.text[0])
        if token.kind in ("number", "letter") or token.text[1:] in (*GREEK, *_CONSTANTS):
            return self._primary()
        raise UnreadableError(f"an argument without braces: {token.text!r}")

    def _primary(self) -> Node:
        self._deep += 1
        if self._deep > _DEPTH:
            raise UnreadableError("nested too deeply")
        node = self._alone()
        self._deep -= 1
        return node

    def _alone(self) -> Node:
        kind, text, _ = self._next()
        if kind == "number":
            return self._subscripted(number(text), text)
        if kind == "letter":
            return self._letter(text)
        if text == "{":
            self._at -= 1
            return self._braced()
        if text in _CLOSING:
            return self._enclosed(text)
        if kind == "command":
            return self._command(text[1:])
        raise UnreadableError(f"not understood: {text!r}")

    def _enclosed(self, opening: str) -> Node:
        self._bars += opening in ("|", "\\vert")
        if opening in "([":
            outside, self._bars = self._bars, 0
            node = self._sum()
            self._bars = outside
        else:
            node = self._sum()
        self._expect(_CLOSING[opening])
        self._bars -= opening in ("|", "\\vert")
        return Node("call", _AROUND[opening], (node,)) if opening in _AROUND else node

    def _letter(self, name: str) -> Node:
        if name == "i" and self._peek().text != "_":
            return Node("constant", "i")
        if name == "e" and self._peek().text != "_":
            return Node("constant", "e")
        node = self._subscripted(Node("symbol", name), name)
        if name in _APPLIED and self._peek().text == "(" and node.kind == "symbol":
            self._at += 1
            argument = self._sum()
            self._expect(")")
            return Node("call", f"{node.value}()", (argument,))
        return node

    def _subscripted(self, node: Node, name: str) -> Node:
        """A name with what is written below it and its primes: one symbol, or a based numeral."""
        if self._take("_"):
            below = self._flat() if self._peek().text == "{" else self._next().text
            if not below:
                raise UnreadableError("an empty subscript")
            node = Node("symbol", f"{name}_{below}")
        primes = ""
        while self._peek().text in _MARKS and node.kind == "symbol":
            self._at += 1
            primes += "'"
        return Node("symbol", f"{node.value}{primes}") if primes else node

    def _flat(self) -> str:
        """The text of a pair of braces without braces in it."""
        self._expect("{")
        pieces = []
        while not self._take("}"):
            token = self._next()
            if token.kind == "end" or token.text == "{":
                raise UnreadableError("braces in a name")
            pieces.append(token.text)
        return "".join(pieces)

    def _command(self, name: str) -> Node:
        if name in _CONSTANTS:
            return Node("constant", _CONSTANTS[name])
        if name in GREEK:
            return self._subscripted(Node("symbol", f"\\{name}"), f"\\{name}")
        if name in ACCENTS:
            accented = f"\\{name}{{{self._flat()}}}"
            return self._subscripted(Node("symbol", accented), accented)
        if name == "frac":
            return Node("div", args=(self._argument(), self._argument()))
        if name == "binom":
            return Node("call", "binom", (self._argument(), self._argument()))
        if name in ("sqrt", "√"):
            return self._root(plain=name == "√")
        if name in FUNCTIONS:
            return self._function(name)
        raise UnreadableError(f"not understood: \\{name}")

    def _root(self, *, plain: bool) -> Node:
        degree = Node("number", Fraction(2))
        if self._take("["):
            degree = self._sum()
            self._expect("]")
        whole = plain or self._peek().text == "("
        return Node("call", "root", (self._primary() if whole else self._argument(), degree))

    def _function(self, name: str) -> Node:
        r"""`\sin 2x`, `\sin^2 x`, `\log_2(x)`: an argument in parentheses ends with them."""
        base, power = None, None
        while self._peek().text in ("_", "^"):
            if self._next().text == "_":
                base = self._argument()
            else:
                power = self._exponent()
        if base is not None and name != "log":
            raise UnreadableError(f"a base of {name}")
        if power is not None and power == Node("neg", args=(Node("number", Fraction(1)),)):
            name, power = _INVERSES.get(name, ""), None
            if not name:
                raise UnreadableError("an inverse of what has none")
        args = self._arguments(name) if base is None else (*self._arguments(name), base)
        node = Node("call", name, args)
        return node if power is None else Node("pow", args=(node, power))

    def _arguments(self, name: str) -> tuple[Node, ...]:
        if name in ("gcd", "lcm", "max", "min"):
            self._expect("(")
            found = [self._sum()]
            while self._take(","):
                found.append(self._sum())
            self._expect(")")
            return tuple(found)
        enclosed = self._peek().text in ("(", "[", "{")
        return (self._primary() if enclosed else self._plain_run(),)

    def _plain_run(self) -> Node:
        """Factors side by side up to the next function."""
        factors = [self._power()]
        while self._starts_factor() and self._peek().text[1:] not in FUNCTIONS:
            if self._peek().text in ("(", "["):
                raise UnreadableError("a function of how much?")
            factors.append(self._power())
        return factors[0] if len(factors) == 1 else Node("mul", args=tuple(factors))


def _signed(sign: str | None, node: Node) -> Node:
    if sign in (None, "plus"):
        return node
    return Node("neg" if sign == "minus" else str(sign), args=(node,))
