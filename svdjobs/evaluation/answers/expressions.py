r"""A strict reader of one scalar in LaTeX or plain notation: it reads the whole text or refuses it.

Other grammars are too lenient for hostile answers: latex2sympy2_extended reads `2(3)` as 5, `4 5`
as 9 and `x'` as x, and math-verify takes the first fragment that it can read. The result is an
immutable tree, which can be cached and compared; `values.py` computes its value.

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
_BRACKET_FUNCTIONS = {"|": "abs", "\\lvert": "abs", "\\vert": "abs", "\\lfloor": "floor",
                      "\\lceil": "ceil"}  # fmt: skip
_MARKS = ("'", "\\prime")
_TIMES = ("*", "\\cdot", "\\times", "\\ast")
_SIGNS = {"+": "plus", "-": "minus", "\\pm": "pm", "\\mp": "mp"}
# The usual names of functions and polynomials: `f(x)` applies f, while `x(x+1)` is a product.
_FUNCTION_LETTERS = frozenset("fghFGHPpqQ")
# Deeper nesting is no answer, and would exceed Python's recursion limit.
_MAX_DEPTH = 60


@lru_cache(maxsize=8192)
def read_scalar(text: str) -> Node:
    """The tree of one scalar.

    Raises:
        UnreadableError: some part of the text is not understood.
    """
    return _Reader(tokenise(text)).parse()


class _Reader:
    """Recursive descent over tokens."""

    def __init__(self, tokens: list[Token]) -> None:
        self._tokens = tokens
        self._position = 0
        self._depth = 0
        # How many |…| are open: inside one, a bar closes and does not start a factor.
        self._bars = 0

    def parse(self) -> Node:
        node = self._sum_or_over()
        if self._position < len(self._tokens):
            raise UnreadableError(f"not understood: {self._tokens[self._position].text!r}")
        return node

    def _peek(self, ahead: int = 0) -> Token:
        at = self._position + ahead
        return self._tokens[at] if at < len(self._tokens) else Token("end", "", False)

    def _next(self) -> Token:
        token = self._peek()
        self._position += 1
        return token

    def _take(self, text: str) -> bool:
        if self._peek().text == text and self._peek().kind != "end":
            self._position += 1
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
                self._position += 1
            elif terms:
                break
            terms.append(_signed(sign, self._term()))
        return terms[0] if len(terms) == 1 else Node("add", args=tuple(terms))

    def _term(self) -> Node:
        """A product or quotient. A sign applies to a whole implicit product: `a/bc` is a/(bc)."""
        node = self._implicit_product()
        while True:
            if self._peek().text in _TIMES:
                self._position += 1
                before = node.args if node.kind == "mul" else (node,)  # flat, not deep
                node = Node("mul", args=(*before, self._signed_product()))
            elif self._peek().text in ("/", "\\div"):
                self._position += 1
                node = Node("div", args=(node, self._signed_product()))
            else:
                return node

    def _signed_product(self) -> Node:
        if self._take("-"):
            return Node("neg", args=(self._implicit_product(),))
        self._take("+")
        return self._implicit_product()

    def _implicit_product(self) -> Node:
        """Factors side by side; only the first may be a number."""
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
        named = name in FUNCTIONS or name in GREEK or name in _CONSTANTS or name in ACCENTS
        return named or name in ("frac", "binom", "√", "sqrt", "lvert", "lfloor", "lceil")

    def _mixed(self) -> Node | None:
        r"""A mixed number: `7 1/2`, `7\frac{1}{2}`; None if the next tokens are none."""
        first = self._peek()
        if first.kind != "number" or not first.text.isdigit():
            return None
        start = self._position
        self._position += 1
        fraction = self._digits_fraction()
        if fraction is None or not 0 < fraction.value < 1:  # type: ignore[operator]
            self._position = start
            return None
        if self._peek().text in ("^", "!"):
            raise UnreadableError("a power of a mixed number")
        return Node("add", args=(number(first.text), fraction))

    def _digits_fraction(self) -> Node | None:
        r"""A fraction of integers, `\frac{1}{2}` or ` 1/2`; None if the next tokens are none."""
        texts = [self._peek(i).text for i in range(7)]
        if texts[0] == "\\frac" and texts[1] + texts[3] + texts[4] + texts[6] == "{}{}":
            top, bottom, length = texts[2], texts[5], 7
        elif texts[1] == "/" and self._peek().spaced:
            top, bottom, length = texts[0], texts[2], 3
        else:
            return None
        # `isdigit` alone also takes ① and ², which `int` refuses.
        if not (top.isdecimal() and bottom.isdecimal() and int(bottom)):
            return None
        self._position += length
        return Node("number", Fraction(int(top), int(bottom)))

    def _power(self) -> Node:
        node = self._primary()
        while self._take("!"):
            node = Node("call", "factorial", (node,))
        if self._peek().text == "^":
            if self._peek(1).text == "\\circ":
                self._position += 2
                return Node("degrees", args=(node,))
            self._position += 1
            node = Node("pow", args=(node, self._exponent()))
            if self._peek().text == "^":
                raise UnreadableError("two exponents")
            while self._take("!"):
                node = Node("call", "factorial", (node,))
        return node

    def _exponent(self) -> Node:
        sign = _SIGNS.get(self._peek().text)
        self._position += sign is not None
        return _signed(sign, self._primary())

    def _braced(self) -> Node:
        self._expect("{")
        node = self._sum_or_over()
        self._expect("}")
        return node

    def _sum_or_over(self) -> Node:
        r"""A sum, or two joined by `\over` or `\choose`, which split the whole group."""
        node = self._sum()
        if self._take("\\choose"):
            return Node("call", "binom", (node, self._sum()))
        if self._take("\\over"):
            return Node("div", args=(node, self._sum()))
        return node

    def _argument(self) -> Node:
        r"""The argument of a command: braces, or the one digit or letter after it (`\frac12`)."""
        if self._peek().text == "{":
            return self._braced()
        token = self._peek()
        if token.kind == "number" and len(token.text) > 1:
            if not token.text.isdigit():
                raise UnreadableError(f"an argument without braces: {token.text!r}")
            # `\frac12`: the argument is the first digit; the others are the next token.
            self._tokens[self._position] = Token("number", token.text[1:], False)
            return number(token.text[0])
        if token.kind in ("number", "letter") or token.text[1:] in (*GREEK, *_CONSTANTS):
            return self._primary()
        raise UnreadableError(f"an argument without braces: {token.text!r}")

    def _primary(self) -> Node:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise UnreadableError("nested too deeply")
        node = self._atom()
        self._depth -= 1
        return node

    def _atom(self) -> Node:
        kind, text, _ = self._next()
        if kind == "number":
            return self._subscripted(number(text), text)
        if kind == "letter":
            return self._letter(text)
        if text == "{":
            self._position -= 1
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
        function = _BRACKET_FUNCTIONS.get(opening)
        return Node("call", function, (node,)) if function else node

    def _letter(self, name: str) -> Node:
        if name == "i" and self._peek().text != "_":
            return Node("constant", "i")
        if name == "e" and self._peek().text != "_":
            return Node("constant", "e")
        node = self._subscripted(Node("symbol", name), name)
        if name in _FUNCTION_LETTERS and self._peek().text == "(" and node.kind == "symbol":
            self._position += 1
            argument = self._sum()
            self._expect(")")
            return Node("call", f"{node.value}()", (argument,))
        return node

    def _subscripted(self, node: Node, name: str) -> Node:
        """A letter or numeral with its subscript and primes, as one symbol: `x_1'`, `52_8`."""
        if self._take("_"):
            below = self._braced_text() if self._peek().text == "{" else self._next().text
            if not below:
                raise UnreadableError("an empty subscript")
            node = Node("symbol", f"{name}_{below}")
        primes = ""
        while self._peek().text in _MARKS and node.kind == "symbol":
            self._position += 1
            primes += "'"
        return Node("symbol", f"{node.value}{primes}") if primes else node

    def _braced_text(self) -> str:
        """The text in braces; it must have no braces itself."""
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
            accented = f"\\{name}{{{self._braced_text()}}}"
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
        primary = plain or self._peek().text == "("
        return Node("call", "root", (self._primary() if primary else self._argument(), degree))

    def _function(self, name: str) -> Node:
        r"""`\sin 2x`, `\sin^2 x`, `\log_2(x)`; an argument in parentheses ends with them."""
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
                raise UnreadableError("a function without an inverse")
        args = self._arguments(name) if base is None else (*self._arguments(name), base)
        node = Node("call", name, args)
        return node if power is None else Node("pow", args=(node, power))

    def _arguments(self, name: str) -> tuple[Node, ...]:
        if name in ("gcd", "lcm", "max", "min"):
            self._expect("(")
            arguments = [self._sum()]
            while self._take(","):
                arguments.append(self._sum())
            self._expect(")")
            return tuple(arguments)
        enclosed = self._peek().text in ("(", "[", "{")
        return (self._primary() if enclosed else self._open_argument(),)

    def _open_argument(self) -> Node:
        """An argument without parentheses: factors side by side, up to the next function."""
        factors = [self._power()]
        while self._starts_factor() and self._peek().text[1:] not in FUNCTIONS:
            if self._peek().text in ("(", "["):
                raise UnreadableError("ambiguous function argument")
            factors.append(self._power())
        return factors[0] if len(factors) == 1 else Node("mul", args=tuple(factors))


def _signed(sign: str | None, node: Node) -> Node:
    if sign in (None, "plus"):
        return node
    return Node("neg" if sign == "minus" else str(sign), args=(node,))
