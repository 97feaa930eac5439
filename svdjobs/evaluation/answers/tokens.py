"""Tokens of a text, and the nodes of the trees that the readers make of it."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import NamedTuple


class UnreadableError(ValueError):
    """The text is not understood as mathematics."""


class Node(NamedTuple):
    """One node of a tree: a `number` (its value; and, if it may be a rounding, one argument
    `decimals` that counts its places), `symbol`, `constant`, `call` (its value: the function's
    name), or an operation on its arguments."""

    kind: str
    value: str | Fraction | int = ""
    args: tuple[Node, ...] = ()


class Token(NamedTuple):
    """A piece of text: kind, text, and whether space comes before it."""

    kind: str
    text: str
    spaced: bool


# A literal may have repeating decimals (`0.1\overline{36}`) and an exponent.
_NUMBER = r"(?:\d+(?:\.\d*(?:\\overline\{\d+\})?)?|\.\d+)(?:[eE][+-]?\d+)?"
_LITERAL = re.compile(r"(.*?)(?:(?<![a-z])[eE]([+-]?\d+))?")
_TOKEN = re.compile(
    r"(?P<space>\s+)"
    r"|(?P<text>\\(?:text|mathrm|operatorname)\s*\{(?P<inner>[^{}]*)\})"
    r"|(?P<command>\\[A-Za-z]+|\\.)"
    rf"|(?P<number>{_NUMBER})"
    r"|(?P<word>[A-Za-z]+)"
    r"|(?P<sign>.)",
    re.DOTALL,
)
_MAX_DIGITS = 4000
_MAX_EXPONENT = 10_000
FUNCTIONS = frozenset(
    (
        "sin", "cos", "tan", "cot", "sec", "csc", "sinh", "cosh", "tanh", "arcsin", "arccos",
        "arctan", "ln", "log", "lg", "exp", "cis", "sqrt", "gcd", "lcm", "max", "min",
    )
)  # fmt: skip
GREEK = frozenset(
    (
        "alpha", "beta", "gamma", "delta", "epsilon", "varepsilon", "zeta", "eta", "theta", "iota",
        "vartheta", "kappa", "lambda", "mu", "nu", "xi", "rho", "sigma", "tau", "upsilon", "phi",
        "varphi", "chi", "psi", "omega", "Gamma", "Delta", "Theta", "Lambda", "Xi", "Sigma", "Phi",
        "Psi", "Omega", "ell", "hbar",
    )
)  # fmt: skip
ACCENTS = frozenset(("vec", "hat", "bar", "overline", "tilde", "widehat", "overrightarrow"))


def tokenise(text: str) -> list[Token]:
    """The tokens of a scalar; spaces are noted in the token after them.

    Raises:
        UnreadableError: the text has words in it.
    """
    tokens: list[Token] = []
    spaced = False
    for match in _TOKEN.finditer(text):
        kind, piece = str(match.lastgroup), match.group()
        if kind == "inner":
            kind = "text"
        if kind == "space":
            spaced = True
            continue
        if kind == "text":
            tokens.append(_upright(match["inner"].strip(), spaced))
        elif kind == "word" and piece not in FUNCTIONS:
            tokens += [Token("letter", c, spaced and not i) for i, c in enumerate(piece)]
        else:
            name = f"\\{piece}" if kind == "word" else piece
            tokens.append(Token("command" if kind == "word" else kind, name, spaced))
        spaced = False
    return tokens


def _upright(inner: str, spaced: bool) -> Token:
    """The token of upright text: a letter or a function's name; other words are not allowed in a
    scalar."""
    if inner in FUNCTIONS:
        return Token("command", f"\\{inner}", spaced)
    if len(inner) == 1 and inner.isalpha():
        return Token("letter", inner, spaced)
    raise UnreadableError(f"words in mathematics: {inner!r}")


def number(text: str) -> Node:
    r"""A literal: its value and its number of decimals, which may be a rounding.

    `0.1\overline{36}` and `6.02e23` are exact; a literal too large to be written out is `huge`.
    """
    mantissa, exponent = _LITERAL.fullmatch(text).groups()  # type: ignore[union-attr]
    if len(text) > _MAX_DIGITS or (exponent and abs(int(exponent)) > _MAX_EXPONENT):
        return Node("huge", text)
    plain, _, repeated = mantissa.removesuffix("}").partition("\\overline{")
    whole, _, decimals = plain.partition(".")
    value = Fraction(f"{whole or 0}.{decimals or 0}")
    if repeated:
        value += Fraction(int(repeated), (10 ** len(repeated) - 1) * 10 ** len(decimals))
    rounded = bool(decimals) and not repeated and not exponent
    value *= Fraction(10) ** int(exponent or 0)
    return Node("number", value, (Node("decimals", len(decimals)),) if rounded else ())
