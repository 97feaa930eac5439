r"""The structure of an answer: a number, a list, a pair, an interval, a relation, a matrix, words.

The text is split at its outermost separators, and every part is read whole or not at all. Kinds of
nodes beside those of scalars, each with its value: `quantity` (its unit), `list` (`,`, `or` or
`and`), `group` (its brackets), `relation` (its signs; the sides are its arguments), `union`,
`intersection`, `difference`, `named_set` (its name), `matrix` (of `row`s), `words`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache

from svdjobs.evaluation.answers.expressions import read_scalar
from svdjobs.evaluation.answers.tokens import FUNCTIONS, Node, UnreadableError
from svdjobs.evaluation.answers.units import split_unit

EQUAL, NEAR = "=", "~"
_RELATIONS = {
    "=": EQUAL, "<": "<", ">": ">", "\\lt": "<", "\\gt": ">", "\\le": "<=", "\\leq": "<=",
    "\\leqslant": "<=", "\\ge": ">=", "\\geq": ">=", "\\geqslant": ">=", "\\ne": "!=",
    "\\neq": "!=", "\\approx": NEAR, "\\in": EQUAL, "\\simeq": NEAR, "\\doteq": NEAR,
}  # fmt: skip
_OPENERS = {"(": ")", "[": "]", "{": "}", "\\{": "\\}", "\\langle": "\\rangle", "\\lbrace": "\\}"}
_CLOSERS = frozenset((")", "]", "}", "\\}", "\\rangle", "\\rbrace", "\\end"))
_PIECE = re.compile(
    r"\\(?:text|mathrm)\s*\{[^{}]*\}|\\[A-Za-z]+|\\.|(?<![A-Za-z\\])(?:and|or)(?![A-Za-z])|.",
    re.DOTALL,
)
_CONJUNCTION = re.compile(r"\\(?:text|mathrm)\s*\{[\s,;]*(?:either\s+)?(and|or)[\s,;]*\}|(and|or)")
_CONJUNCTION_COMMANDS = {"\\wedge": "and", "\\land": "and", "\\vee": "or", "\\lor": "or"}
_THOUSANDS = re.compile(r"[^\d.,]*\d{1,3}(?:,\d{3})+(?:\.\d+)?[^\d,]*")
_THEREFORE = re.compile(r"^\s*(?:\\therefore|\\implies|\\Rightarrow|\\text\{\s*(?:[Tt]hus|[Ss]o|"
                        r"[Tt]herefore|[Hh]ence)[,:]?\s*\})\s*")  # fmt: skip
_MATRIX = re.compile(
    r"\\begin\{([pbBvV]?)(?:small)?(?:matrix|array)\}(?:\s*\{[lcr|]*\})?(.*)\\end\{[a-zA-Z]+\}",
    re.DOTALL,
)
_SETS = {"\\emptyset": "", "\\varnothing": "", "\\{\\}": "", "\\R": "R"}
_SETS |= {rf"\mathbb{{{name}}}": name for name in "RZNQC"}
_WORDS = re.compile(r"(?:\\text\s*\{[^{}]*\}|[A-Za-z\s.,'’-])+")
_LETTER_RUN = re.compile(r"(?<![A-Za-z\\])[A-Za-z]+")
_LETTERS = re.compile(r"[^\W\d_]")
_SET_VARIABLE = re.compile(r"\s*[A-Za-z]\s*(?:\\in\s*\\mathbb\{R\})?\s*")
_SET_BUILDER = re.compile(r"\s*(?:\\mid|\\vert|\||:)\s*")
_MAX_DEPTH = 20
_MAX_PARTS = 200


@lru_cache(maxsize=8192)
def read(text: str) -> Node:
    """The structure of an answer in normal form.

    Raises:
        UnreadableError: some part of the text is not understood.
    """
    return _read(_THEREFORE.sub("", text), 0)


def _read(text: str, depth: int) -> Node:
    if depth > _MAX_DEPTH:
        raise UnreadableError("nested too deeply")
    text = text.strip()
    # The separators that bind least come first.
    for separators in (_CONJUNCTION_COMMANDS.keys() | {"and", "or"}, {";"}, {","}):
        if separators == {","} and _THOUSANDS.fullmatch(text):
            text = text.replace(",", "")
        parts, conjunction = _split(text, separators)
        if len(parts) > 1:
            items = [_read(part, depth + 1) for part in parts if part.strip()]
            return _listed(conjunction, items)
    return _item(text, depth)


def _listed(conjunction: str, items: list[Node]) -> Node:
    flat: list[Node] = []
    for item in items:
        flat += item.args if item.kind == "list" else (item,)
    if not flat or len(flat) > _MAX_PARTS:
        raise UnreadableError("a list of nothing, or of too much")
    return flat[0] if len(flat) == 1 else Node("list", conjunction, tuple(flat))


def pieces_of(text: str) -> Iterator[tuple[str, int, int, int]]:
    """All pieces of a text, with their depth in brackets and where each starts and ends.

    Raises:
        UnreadableError: brackets do not match.
    """
    depth = 0
    for match in _PIECE.finditer(text):
        piece = match.group()
        closes = piece in _CLOSERS
        depth -= closes
        if depth < 0:
            raise UnreadableError("a bracket closes nothing")
        yield piece, depth, match.start(), match.end()
        depth += piece in _OPENERS or piece == "\\begin"
    if depth:
        raise UnreadableError("a bracket never closes")


def _split(text: str, separators: set[str]) -> tuple[list[str], str]:
    """The text split at its outermost separators, and the word that joins the parts."""
    parts, start, conjunction = [], 0, ","
    for piece, depth, begin, end in pieces_of(text):
        if depth:
            continue
        word = _CONJUNCTION_COMMANDS.get(piece) or (
            (m := _CONJUNCTION.fullmatch(piece)) and (m[1] or m[2])
        )
        if piece in separators or (word and word in separators):
            parts.append(text[start:begin])
            start, conjunction = end, word or conjunction
    return [*parts, text[start:]], conjunction


def _item(text: str, depth: int) -> Node:
    """A relation, or a single term."""
    sides, signs, start = [], [], 0
    for piece, nested, begin, end in pieces_of(text):
        if not nested and piece in _RELATIONS:
            sides.append(text[start:begin])
            signs.append(_RELATIONS[piece])
            start = end
    if not signs:
        return _term(text, depth)
    first = _name(sides[0], depth)
    others = [_side(side, depth) for side in [*sides[1:], text[start:]]]
    return Node("relation", " ".join(signs), (first, *others))


def _side(text: str, depth: int) -> Node:
    if not text.strip():
        raise UnreadableError("a relation without a side")
    return _term(text, depth)


def _name(text: str, depth: int) -> Node:
    r"""The first side of a relation, which may be words (`\angle PQR`, `\text{Area}`)."""
    try:
        return _side(text, depth)
    except UnreadableError:
        if not _LETTERS.search(text):
            raise
        return Node("words", plain_words(text))


def _term(text: str, depth: int) -> Node:
    """A set, a group, a matrix, words or a quantity."""
    text = text.strip()
    if text in _SETS:
        return Node("named_set", _SETS[text])
    for sign, kind in (
        ("\\cup", "union"),
        ("\\cap", "intersection"),
        ("\\setminus", "difference"),
        ("\\backslash", "difference"),
    ):
        parts, _ = _split(text, {sign})
        if len(parts) > 1:
            return Node(kind, "", tuple(_side(part, depth + 1) for part in parts))
    if matrix := _matrix(text, depth):
        return matrix
    if group := _group(text, depth):
        return group
    if is_words(text):
        return Node("words", plain_words(text))
    return _quantity(text)


def _quantity(text: str) -> Node:
    """A scalar with its unit; with a ±, the list of both."""
    number, scale, unit = split_unit(text)
    scalar = read_scalar(number.strip())
    if scale != 1:
        scalar = Node("mul", args=(scalar, Node("number", scale)))
    signs = list(_signs(scalar))
    if not signs:
        return Node("quantity", unit, (scalar,))
    if signs.count("pm") > 1:
        raise UnreadableError("several signs ±, which may or may not belong together")
    both = (_with_sign(scalar, plus) for plus in (True, False))
    return Node("list", "or", tuple(Node("quantity", unit, (one,)) for one in both))


def _signs(node: Node) -> Iterator[str]:
    if node.kind in ("pm", "mp"):
        yield node.kind
    for arg in node.args:
        yield from _signs(arg)


def _with_sign(node: Node, plus: bool) -> Node:
    """The tree with one sign for every ±, and the other for every ∓."""
    args = tuple(_with_sign(arg, plus) for arg in node.args)
    if node.kind in ("pm", "mp"):
        return args[0] if (node.kind == "pm") == plus else Node("neg", args=args)
    return node._replace(args=args)


def _group(text: str, depth: int) -> Node | None:
    """What one pair of brackets encloses; None unless it is more than a scalar."""
    opening = next((o for o in sorted(_OPENERS, key=len, reverse=True) if text.startswith(o)), "")
    if not opening:
        return None
    pieces = list(pieces_of(text))
    closing = pieces[-1][0]
    inside = text[len(opening) : len(text) - len(closing)]
    if closing not in _CLOSERS or any(not nested for _, nested, *_ in pieces[1:-1]):
        return None
    if opening == "{":
        return _read(inside, depth + 1) if closing == "}" else None
    brackets = "{}" if opening in ("\\{", "\\lbrace") else _plain(opening) + _plain(closing)
    if brackets == "{}" and (condition := _condition(inside, depth)):
        return condition
    parts, _ = _split(inside, {",", ";"})
    if len(parts) == 1 and brackets != "{}":
        inner = _read(inside, depth + 1)
        return None if inner.kind == "quantity" else inner
    return _grouped(brackets, [_read(part, depth + 1) for part in parts])


def _plain(bracket: str) -> str:
    return {"\\langle": "(", "\\rangle": ")", "\\}": "}"}.get(bracket, bracket)


def _grouped(brackets: str, items: list[Node]) -> Node:
    """A group; one with a ± becomes a list of two groups."""
    twofold = [i for i, item in enumerate(items) if item.kind == "list"]
    if brackets == "{}":
        joined = _listed(",", items)
        return Node("group", brackets, joined.args if joined.kind == "list" else (joined,))
    if len(items) > _MAX_PARTS or len(twofold) > 1:
        raise UnreadableError("a group of too much")
    if not twofold:
        return Node("group", brackets, tuple(items))
    one = twofold[0]
    choices = [(*items[:one], choice, *items[one + 1 :]) for choice in items[one].args]
    return Node("list", "or", tuple(Node("group", brackets, choice) for choice in choices))


def _condition(inside: str, depth: int) -> Node | None:
    r"""The condition of `\{x \mid x>3\}`; None if the set is not given by one."""
    bar = _SET_BUILDER.search(inside)
    if not bar or not _SET_VARIABLE.fullmatch(inside[: bar.start()]):
        return None
    condition = _read(inside[bar.end() :], depth + 1)
    return condition if condition.kind in ("relation", "list") else None


def _matrix(text: str, depth: int) -> Node | None:
    r"""A matrix, alone, in brackets, or times a scalar before it; None if the text has none."""
    match = _MATRIX.search(text)
    if not match or "\\begin" in match[2]:
        return None
    before, after = text[: match.start()].strip(), text[match.end() :].strip()
    kind = match[1]
    if before and after and after == {"(": ")", "[": "]", "|": "|"}.get(before[-1]):
        kind, before, after = ("v" if before[-1] == "|" else "p"), before[:-1], ""
    if after:
        raise UnreadableError("something follows a matrix")
    rows = [row for row in re.split(r"\\\\|\\cr(?![a-z])", match[2]) if row.strip()]
    cells = [[_side(cell, depth + 1) for cell in row.split("&")] for row in rows]
    if not cells or len({len(row) for row in cells}) > 1:
        raise UnreadableError("a matrix with rows of different lengths")
    if before:
        factor = read_scalar(before.removesuffix("\\cdot").strip())
        cells = [[_scaled(factor, cell) for cell in row] for row in cells]
    return Node(
        "matrix", "v" if kind in ("v", "V") else "", tuple(Node("row", "", tuple(r)) for r in cells)
    )


def _scaled(factor: Node, cell: Node) -> Node:
    if cell.kind != "quantity":
        raise UnreadableError("a scaled matrix whose entries are not scalars")
    return Node("quantity", cell.value, (Node("mul", args=(factor, cell.args[0])),))


def is_words(text: str) -> bool:
    """Whether a text is words and nothing else: in a wrapper, or too long to be a product of
    letters."""
    word = plain_words(text)
    if not _WORDS.fullmatch(text) or not _LETTERS.search(word) or len(word) == 1:
        return False
    runs = _LETTER_RUN.findall(text)
    if any(run in FUNCTIONS for run in runs):
        return False
    longest = max(map(len, runs), default=0)
    return "\\text" in text or longest >= 4 or (len(runs) > 1 and longest > 1)


def plain_words(text: str) -> str:
    """Words without wrappers and punctuation, in lower case unless they are a single letter."""
    plain = re.sub(r"\\(?:text|mathrm)\s*\{([^{}]*)\}", r" \1 ", text)
    plain = " ".join(re.sub(r"[.,;:!\"'’]", " ", plain).split())
    return plain if len(plain) < 2 else plain.casefold()
