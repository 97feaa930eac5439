"""Whether an answer is the gold, structure by structure; numbers are compared in `values.py`.

Bare lists and sets are equal in any order, with repetitions counted; groups keep their order and
their brackets. Gold or answer may leave out a name, but two different names are not equal. The
value of a chain `x = a = b` is its last exact side; it has no value if its sides contradict each
other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction

from svdjobs.evaluation.answers import ranges, values
from svdjobs.evaluation.answers.structure import EQUAL, NEAR
from svdjobs.evaluation.answers.tokens import Node, UnreadableError
from svdjobs.evaluation.answers.units import PERCENT, same_unit

_RANGE_KINDS = ("group", "union", "intersection", "difference", "named_set")
# An approximation may differ by one part in this many from what it approximates: 5 %, e.g. π ≈ 3.
_NEAR_PARTS = 20
_HUNDREDTH = Node("number", Fraction(1, 100))


def matches(gold: Node, answer: Node) -> bool:
    """Whether an answer is right.

    Raises:
        HugeError: numbers in one of them are too large to be compared.
    """
    if gold == answer:
        return True
    gold, answer = _split_plus_minus(gold), _split_plus_minus(answer)
    if ranges.is_inequality(gold) or ranges.is_inequality(answer):
        return _as_ranges(gold, answer) or _inequalities(gold, answer)
    if "relation" in (gold.kind, answer.kind):
        return _related(gold, answer)
    if "list" in (gold.kind, answer.kind):
        return _listed(gold, answer)
    if gold.kind == answer.kind and gold.kind in _COMPARISONS:
        if _COMPARISONS[gold.kind](gold, answer):
            return True
    elif _single(gold) != gold or _single(answer) != answer:
        return matches(_single(gold), _single(answer))
    return _as_ranges(gold, answer)


def computable(node: Node) -> bool:
    """Whether all numbers in an answer are small enough to be computed."""
    if node.kind != "quantity":
        return all(computable(arg) for arg in node.args)
    try:
        values.value(node.args[0])
    except values.HugeError:
        return False
    except values.UndefinedError:
        return True
    return True


def _quantities(gold: Node, answer: Node) -> bool:
    if not same_unit(str(gold.value), str(answer.value)):
        return False
    a, b = gold.args[0], answer.args[0]
    if values.equal(a, b):
        return True
    # 40 % may be 40 of a hundred or 0.4 of one; a bare number does not say which it is.
    if gold.value == PERCENT and not answer.value:
        return values.equal(Node("mul", args=(a, _HUNDREDTH)), b)
    if answer.value == PERCENT and not gold.value:
        return values.equal(a, Node("mul", args=(b, _HUNDREDTH)))
    return False


def _groups(gold: Node, answer: Node) -> bool:
    if gold.value != answer.value:
        return False
    if gold.value == "{}":
        return _in_any_order(gold.args, answer.args)
    return _in_order(gold, answer)


def _in_order(gold: Node, answer: Node) -> bool:
    return len(gold.args) == len(answer.args) and all(
        matches(a, b) for a, b in zip(gold.args, answer.args, strict=True)
    )


def _in_any_order(golds: Sequence[Node], answers: Sequence[Node]) -> bool:
    left = list(answers)
    if len(golds) != len(left):
        return False
    for gold in golds:
        match = next((answer for answer in left if matches(gold, answer)), None)
        if match is None:
            return False
        left.remove(match)
    return True


def _matrices(gold: Node, answer: Node) -> bool:
    return gold.value == answer.value and _in_order(gold, answer)


_COMPARISONS: dict[str, Callable[[Node, Node], bool]] = {
    "quantity": _quantities,
    "group": _groups,
    "matrix": _matrices,
    "row": _in_order,
    "words": lambda gold, answer: gold.value == answer.value,
    "named_set": lambda gold, answer: gold.value == answer.value,
}


def _listed(gold: Node, answer: Node) -> bool:
    """Compare bare lists and sets; `x=1, x=2` equals `1, 2`."""
    golds, answers = _members(gold), _members(answer)
    if golds is None or answers is None:
        return False
    # The gold `4, 9` lists values of one thing; `x=4, y=9` are values of two.
    if len(_names(answers)) > 1 and not _names(golds):
        return False
    return _in_any_order(golds, answers)


def _members(node: Node) -> tuple[Node, ...] | None:
    if node.kind == "list" or (node.kind == "group" and node.value == "{}"):
        return node.args
    return None


def _names(items: Sequence[Node]) -> set[Node]:
    return {item.args[0] for item in items if item.kind == "relation"}


def _single(node: Node) -> Node:
    """The only member of a set of one; another node unchanged."""
    alone = node.kind == "group" and node.value == "{}" and len(node.args) == 1
    return node.args[0] if alone else node


def _split_plus_minus(node: Node) -> Node:
    """`x = ±3` as a list of two relations; another node unchanged."""
    if node.kind != "relation" or node.args[-1].kind != "list":
        return node
    parts = (node._replace(args=(*node.args[:-1], last)) for last in node.args[-1].args)
    return Node("list", "or", tuple(parts))


def _as_ranges(gold: Node, answer: Node) -> bool:
    """Whether both are the same set of real numbers, as intervals or as inequalities."""
    gold, answer = _unnamed_set(gold), _unnamed_set(answer)
    names = {ranges.name_of(gold), ranges.name_of(answer)} - {None}
    sets = gold.kind in _RANGE_KINDS or answer.kind in _RANGE_KINDS
    if len(names) > 1 or not (sets or names):
        return False
    if gold.kind == answer.kind == "group" and gold.value != "{}" != answer.value:
        return False
    try:
        return ranges.same(ranges.ranges_of(gold), ranges.ranges_of(answer))
    except UnreadableError:
        return False


def _unnamed_set(node: Node) -> Node:
    r"""The set in `x \in (2,5)`; another node unchanged."""
    named = node.kind == "relation" and node.value == EQUAL and len(node.args) == 2
    return node.args[1] if named and node.args[1].kind in _RANGE_KINDS else node


def _related(gold: Node, answer: Node) -> bool:
    """Compare an equation, or a chain of them, with another or with a value."""
    if gold.kind == answer.kind == "relation":
        if gold.args[0] == answer.args[0] and _is_definition(gold) and _is_definition(answer):
            return _chains(gold, answer)
        return _equations(gold, answer)
    if gold.kind == "relation":
        if answer.kind == "list" or not _is_definition(gold) or not _is_plain_name(gold.args[0]):
            return False
        return any(matches(value, answer) for value in _values_of_chain(gold))
    if gold.kind == "list" or not _is_definition(answer) or _is_implicit(answer):
        return False
    return any(matches(gold, value) for value in _values_of_chain(answer))


def _is_implicit(chain: Node) -> bool:
    """Whether a chain is an equation of several symbols, as of a plane, and so has no value:
    `5x - 7y + 4 = 0` does not say 0."""
    first, last = chain.args[0], chain.args[-1]
    zero = Node("quantity", "", (Node("number", Fraction(0)),))
    sum_of_several = first.kind == "quantity" and first.args[0].kind == "add"
    return last == zero and sum_of_several and len(values.symbols(first.args[0])) > 1


def _chains(gold: Node, answer: Node) -> bool:
    return any(matches(a, b) for a in _values_of_chain(gold) for b in _values_of_chain(answer))


def _is_definition(node: Node) -> bool:
    """Whether a chain of equations gives the value of its first side.

    `x^2 = 9` and `2x = 10` do not, since they have yet to be solved; `4 + 5 = 9` does.
    """
    if set(str(node.value).split()) - {EQUAL, NEAR}:
        return False
    first = node.args[0]
    if _is_plain_name(first) or first.kind == "words":
        return True
    if first.kind != "quantity":
        return False
    # Two symbols or more cannot be solved for one value, so `x + y = 5` gives that of `x + y`.
    return len(values.symbols(first.args[0])) != 1


def _is_plain_name(node: Node) -> bool:
    """Whether a node is a symbol, an unknown function of something, a known one of symbols, a
    product of symbols, a tuple of names, or words."""
    if node.kind == "words":
        return True
    if node.kind == "group":
        return all(_is_plain_name(item) for item in node.args)
    if node.kind != "quantity" or node.value:
        return False
    scalar = node.args[0]
    if scalar.kind == "mul":
        return all(part.kind == "symbol" for part in scalar.args)
    if scalar.kind == "call":
        if str(scalar.value).endswith("()"):  # an unknown function
            return True
        return scalar.value not in ("factorial", "root") and all(
            arg.kind == "symbol" for arg in scalar.args
        )
    return scalar.kind == "symbol"


def _values_of_chain(chain: Node) -> list[Node]:
    """The last exact side of a chain and its last approximation; empty if its sides contradict
    each other."""
    signs = str(chain.value).split()
    exact, near, first = None, None, chain.args[0]
    previous = None if _is_plain_name(first) else first
    for sign, side in zip(signs, chain.args[1:], strict=True):
        if previous is not None and not _agree(previous, side, sign):
            return []
        previous = side
        # What equals an approximation is approximate too.
        if sign == EQUAL and near is None:
            exact = side
        else:
            near = side
    return [side for side in (exact, near) if side is not None]


def _agree(first: Node, second: Node, sign: str) -> bool:
    """Whether two neighbours in a chain may both be true; sides with symbols are not judged."""
    if first.kind != "quantity" or second.kind != "quantity":
        return True
    a, b = first.args[0], second.args[0]
    if values.symbols(a) | values.symbols(b):
        return True
    if sign == EQUAL and values.equal(a, b):
        return True
    try:
        gap, size = abs(values.real(a) - values.real(b)), abs(values.real(a))
    except ArithmeticError:
        return False
    return bool(_NEAR_PARTS * gap <= size) and sign == NEAR


def _equations(gold: Node, answer: Node) -> bool:
    """Whether two equations differ by a constant factor: `y = 2x` and `2y - 4x = 0`."""
    if not gold.value == answer.value == EQUAL:
        return False
    a, b = _difference(gold), _difference(answer)
    return a is not None and b is not None and values.proportional(a, b) is not None


def _inequalities(gold: Node, answer: Node) -> bool:
    """Whether two inequalities of several symbols differ by a positive factor."""
    if gold.kind != "relation" or answer.kind != "relation":
        return False
    if " " in str(gold.value) or " " in str(answer.value) or "=" in (gold.value, answer.value):
        return _written_alike(gold, answer)
    a, b = _difference(gold), _difference(answer)
    if a is None or b is None:
        return False
    factor = values.proportional(a, b)
    if factor is None:
        return False
    turned = ranges.flipped(str(answer.value)) if factor < 0 else answer.value
    return bool(turned == gold.value)


def _written_alike(gold: Node, answer: Node) -> bool:
    """Whether two chains have the same sides and signs, or those of one are the other reversed."""
    if len(gold.args) != len(answer.args):
        return False
    turned = " ".join(ranges.flipped(sign) for sign in reversed(str(answer.value).split()))
    return any(
        gold.value == signs and _in_order(gold, answer._replace(args=sides))
        for signs, sides in ((answer.value, answer.args), (turned, answer.args[::-1]))
    )


def _difference(node: Node) -> Node | None:
    """Left side minus right side; None unless both are scalars."""
    if len(node.args) != 2 or any(side.kind != "quantity" for side in node.args):
        return None
    left, right = (side.args[0] for side in node.args)
    return Node("add", args=(left, Node("neg", args=(right,))))
