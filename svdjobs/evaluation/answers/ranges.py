r"""Sets of real numbers: intervals, unions, and inequalities.

`(2,5]`, `2<x\le 5`, `x\in(2,5]` and `\{x \mid 2<x\le5\}` are one set; so are `x\ne 2` and
`(-\infty,2)\cup(2,\infty)`.
"""

from __future__ import annotations

from functools import cmp_to_key
from typing import Any, NamedTuple

from svdjobs.evaluation.answers import values
from svdjobs.evaluation.answers.tokens import Node, UnreadableError

_INFINITY = Node("constant", "infinity")
_MINUS_INFINITY = Node("neg", args=(_INFINITY,))
_FLIPPED = {"<": ">", ">": "<", "<=": ">=", ">=": "<=", "!=": "!=", "=": "=", "~": "~"}


class Bound(NamedTuple):
    """An end of an interval: a number, and whether the end lies just below (-1) or above it (1).

    `[2, …` starts just below 2, `(2, …` just above it.
    """

    number: Node
    side: int


class Range(NamedTuple):
    """An interval of real numbers."""

    start: Bound
    end: Bound


Ranges = list[Range]
ALL = [Range(Bound(_MINUS_INFINITY, 1), Bound(_INFINITY, -1))]


def same(first: Ranges, second: Ranges) -> bool:
    """Whether two sets are equal; both must be disjoint and in order, as `union` returns them."""
    return len(first) == len(second) and all(
        a.side == b.side and values.equal(a.number, b.number)
        for one, other in zip(first, second, strict=True)
        for a, b in zip(one, other, strict=True)
    )


def ranges_of(node: Node) -> Ranges:
    """The set that an answer stands for.

    Raises:
        UnreadableError: the answer is no set of real numbers.
    """
    if node.kind == "group":
        return _of_group(node)
    if node.kind == "named_set" and node.value in ("R", ""):
        return ALL if node.value else []
    if node.kind == "union":
        return union([r for part in node.args for r in ranges_of(part)])
    if node.kind == "intersection":
        return _intersection([ranges_of(part) for part in node.args])
    if node.kind == "difference":
        whole, *less = (ranges_of(part) for part in node.args)
        return _intersection([whole, *(_complement(part) for part in less)])
    if node.kind in ("relation", "list"):
        return _of_inequalities(node)
    raise UnreadableError("not a set of real numbers")


def name_of(node: Node) -> str | None:
    """The one symbol that an inequality, or every one of a list, restricts; None for sets."""
    if node.kind == "list":
        names = {name_of(part) for part in node.args}
        return names.pop() if len(names) == 1 else None
    if node.kind != "relation":
        return None
    symbols = {side.args[0].value for side in node.args if _is_symbol(side)}
    return str(symbols.pop()) if len(symbols) == 1 else None


def is_inequality(node: Node) -> bool:
    """Whether a node is an inequality (<, ≤, ≠ …) or a list of inequalities."""
    if node.kind == "list":
        return all(is_inequality(part) for part in node.args)
    return node.kind == "relation" and not {"=", "~"} & set(str(node.value).split())


def flipped(sign: str) -> str:
    """The sign of the same relation with its sides exchanged."""
    return _FLIPPED[sign]


def union(parts: Ranges) -> Ranges:
    """The union of intervals: disjoint, in order, without empty ones."""
    merged: Ranges = []
    real = [part for part in parts if _compare(part.start, part.end) < 0]
    for part in sorted(real, key=lambda part: _BOUND_ORDER(part.start)):
        if merged and _compare(part.start, merged[-1].end) <= 0:
            if _compare(part.end, merged[-1].end) > 0:
                merged[-1] = Range(merged[-1].start, part.end)
        else:
            merged.append(part)
    return merged


def _of_group(node: Node) -> Ranges:
    if node.value == "{}":
        return union([_point(_number(item)) for item in node.args])
    if len(node.args) != 2:
        raise UnreadableError("an interval has two ends")
    start, end = map(_number, node.args)
    interval = Range(
        Bound(start, -1 if str(node.value)[0] == "[" else 1),
        Bound(end, 1 if str(node.value)[1] == "]" else -1),
    )
    if _compare(interval.start, interval.end) >= 0:
        raise UnreadableError("an interval that ends before it starts")
    return [interval]


def _of_inequalities(node: Node) -> Ranges:
    """The numbers that satisfy an inequality of one symbol, or several joined by and / or."""
    if name_of(node) is None or not is_inequality(node):
        raise UnreadableError("not an inequality of one symbol")
    if node.kind == "list":
        parts = [_of_inequalities(part) for part in node.args]
        both = _intersection(parts)
        either = union([r for part in parts for r in part])
        # A comma means `and`, unless no number satisfies all of them.
        return both if node.value == "and" or (node.value == "," and both) else either
    at = next(i for i, side in enumerate(node.args) if _is_symbol(side))
    signs = str(node.value).split()
    conditions = [ALL]
    for i, side in enumerate(node.args):
        if i < at:
            conditions.append(_half(_FLIPPED[_chained(signs[i:at])], _number(side)))
        elif i > at:
            conditions.append(_half(_chained(signs[at:i]), _number(side)))
    return _intersection(conditions)


def _chained(signs: list[str]) -> str:
    """The relation between the ends of a chain such as 1 < 2 ≤ x.

    Raises:
        UnreadableError: the signs point in both directions.
    """
    if len(signs) == 1:
        return signs[0]
    directions = {sign[0] for sign in signs}
    if len(directions) > 1 or "!" in directions:
        raise UnreadableError("a chain of inequalities in both directions")
    direction = directions.pop()
    return direction if direction in signs else f"{direction}="


def _half(sign: str, number: Node) -> Ranges:
    """The numbers x with `x sign number`."""
    low, high = ALL[0]
    if sign == "!=":
        return [Range(low, Bound(number, -1)), Range(Bound(number, 1), high)]
    if sign in ("<", "<="):
        return [Range(low, Bound(number, 1 if sign == "<=" else -1))]
    return [Range(Bound(number, -1 if sign == ">=" else 1), high)]


def _intersection(sets: list[Ranges]) -> Ranges:
    common = sets[0]
    for other in sets[1:]:
        common = union(
            [
                Range(max(a.start, b.start, key=_BOUND_ORDER), min(a.end, b.end, key=_BOUND_ORDER))
                for a in common
                for b in other
            ]
        )
    return common


def _complement(parts: Ranges) -> Ranges:
    # Start and end of each gap in turn; the parts are disjoint and in order.
    edges = [ALL[0].start, *(b for part in parts for b in (part.start, part.end)), ALL[0].end]
    return union([Range(a, b) for a, b in zip(edges[::2], edges[1::2], strict=True)])


def _point(number: Node) -> Range:
    return Range(Bound(number, -1), Bound(number, 1))


def _number(node: Node) -> Node:
    """The scalar of a quantity; it must have no symbols."""
    if node.kind != "quantity" or values.symbols(node.args[0]):
        raise UnreadableError("not a number")
    return node.args[0]


def _is_symbol(node: Node) -> bool:
    return node.kind == "quantity" and not node.value and node.args[0].kind == "symbol"


def _real(number: Node) -> Any:
    try:
        return values.real(number)
    except ArithmeticError:
        raise UnreadableError("not a real number") from None


def _compare(first: Bound, second: Bound) -> int:
    if values.equal(first.number, second.number):
        return first.side - second.side
    return -1 if _real(first.number) < _real(second.number) else 1


_BOUND_ORDER = cmp_to_key(_compare)
