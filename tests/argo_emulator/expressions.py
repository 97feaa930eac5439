"""Parse and evaluate the part of Argo's expression language (expr-lang) that svdjobs needs.

`depends`, `retryStrategy.expression` and `{{=…}}` are written in this language. Closures, pipes and
ranges are not supported. They are errors, so no test passes with an expression that was not
understood.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

TOKEN = re.compile(
    r"""\s*(?: (?P<number>\d+(?:\.\d+)?)
             | (?P<string>"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*')
             | (?P<name>[A-Za-z_]\w*)
             | (?P<symbol>&&|\|\||==|!=|<=|>=|\?\?|[-!<>()\[\],.?:+*/%]) )""",
    re.VERBOSE,
)
# Binary operators from the lowest to the highest precedence, as in expr-lang's table.
BINARY = [
    {"||", "or"},
    {"&&", "and"},
    {
        "==",
        "!=",
        "<",
        ">",
        "<=",
        ">=",
        "in",
        "not in",
        "contains",
        "matches",
        "startsWith",
        "endsWith",
    },
    {"+", "-"},
    {"*", "/", "%"},
    {"??"},
]
CONSTANTS = {"true": True, "false": False, "nil": None}


class ExpressionError(ValueError):
    """An expression cannot be parsed, or its evaluation fails."""


class Node(NamedTuple):
    """A syntax node; `kind` is constant, name, member, call, list, unary, binary or ternary."""

    kind: str
    value: Any
    children: tuple[Node, ...] = ()


class _Parser:
    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens = list(_tokens(text))
        self.position = 0

    def peek(self) -> str:
        return self.tokens[self.position][1] if self.position < len(self.tokens) else ""

    def take(self, *expected: str) -> str:
        token = self.peek()
        if not token or (expected and token not in expected):
            found = repr(token) if token else "its end"
            wanted = f", expected {' or '.join(expected)}" if expected else ""
            raise ExpressionError(f"{self.text!r} cannot be read at {found}{wanted}")
        self.position += 1
        return token

    def accept(self, *symbols: str) -> str:
        return self.take() if self.peek() in symbols else ""

    def ternary(self) -> Node:
        test = self.binary(0)
        if not self.accept("?"):
            return test
        yes = self.ternary()
        self.take(":")
        return Node("ternary", None, (test, yes, self.ternary()))

    def binary(self, level: int) -> Node:
        if level == len(BINARY):
            return self.unary()
        left = self.binary(level + 1)
        while operator := self.operator(BINARY[level]):
            left = Node("binary", operator, (left, self.binary(level + 1)))
        return left

    def operator(self, symbols: set[str]) -> str:
        if self.peek() == "not" and "not in" in symbols:
            self.take()
            return f"not {self.take('in')}"
        return self.accept(*symbols)

    def unary(self) -> Node:
        if operator := self.accept("!", "not", "-"):
            return Node("unary", "!" if operator == "not" else operator, (self.unary(),))
        return self.postfix(self.primary())

    def postfix(self, node: Node) -> Node:
        while symbol := self.accept(".", "[", "("):
            if symbol == ".":
                node = Node("member", None, (node, Node("constant", self.take())))
            elif symbol == "[":
                node = Node("member", None, (node, self.ternary()))
                self.take("]")
            else:
                node = Node("call", None, (node, *self.arguments(")")))
        return node

    def primary(self) -> Node:
        if self.accept("("):
            node = self.ternary()
            self.take(")")
            return node
        if self.accept("["):
            return Node("list", None, tuple(self.arguments("]")))
        kind = self.tokens[self.position][0] if self.peek() else ""
        token = self.take()
        if kind == "name":
            return Node("constant", CONSTANTS[token]) if token in CONSTANTS else Node("name", token)
        if kind == "string":
            return Node("constant", re.sub(r"\\(.)", r"\1", token[1:-1]))
        if kind == "number":
            return Node("constant", float(token) if "." in token else int(token))
        raise ExpressionError(f"{self.text!r} cannot be read at {token!r}")

    def arguments(self, closing: str) -> list[Node]:
        found: list[Node] = []
        while not self.accept(closing):
            found.append(self.ternary())
            if self.peek() != closing:
                self.take(",")
        return found


def _tokens(text: str) -> Iterator[tuple[str, str]]:
    position = 0
    while text[position:].strip():
        match = TOKEN.match(text, position)
        if match is None:
            raise ExpressionError(f"{text!r} cannot be read at {text[position:].strip()[:12]!r}")
        yield str(match.lastgroup), match.group(str(match.lastgroup))
        position = match.end()


def parse(text: str) -> Node:
    """Parse an expression into a tree.

    Raises:
        ExpressionError: the text is not an expression.
    """
    parser = _Parser(text)
    node = parser.ternary()
    if parser.peek():
        raise ExpressionError(f"{text!r} cannot be read at {parser.peek()!r}")
    return node


def walk(node: Node) -> Iterator[Node]:
    yield node
    for child in node.children:
        yield from walk(child)


def names(node: Node) -> list[str]:
    """The dotted names: `tasks['a-b'].outputs.result` gives tasks.a-b.outputs.result."""
    if dotted := _dotted(node):
        return [dotted]
    children = node.children[1:] if node.kind == "call" else node.children
    return [name for child in children for name in names(child)]


def functions(node: Node) -> list[str]:
    """The names of the functions that an expression calls."""
    return [_dotted(call.children[0]) for call in walk(node) if call.kind == "call"]


def _dotted(node: Node) -> str:
    if node.kind == "name":
        return str(node.value)
    if node.kind == "member" and node.children[1].kind == "constant":
        owner = _dotted(node.children[0])
        return f"{owner}.{node.children[1].value}" if owner else ""
    return ""


def evaluate(text: str, scope: Mapping[str, Any]) -> Any:
    """Evaluate an expression; `scope` holds its variables, with mappings for members.

    Raises:
        ExpressionError: the text is not an expression, or its evaluation fails.
    """
    try:
        return evaluate_tree(parse(text), scope)
    except (TypeError, ValueError, KeyError, IndexError) as error:
        if isinstance(error, ExpressionError):
            raise
        raise ExpressionError(f"{text!r} failed: {type(error).__name__} {error}") from error


def evaluate_tree(node: Node, scope: Mapping[str, Any]) -> Any:
    """Evaluate a parsed expression."""
    return _evaluate(node, {**FUNCTIONS, **scope})


def _evaluate(node: Node, scope: Mapping[str, Any]) -> Any:
    def value(child: int) -> Any:
        return _evaluate(node.children[child], scope)

    match node.kind:
        case "constant":
            return node.value
        case "name":
            if node.value not in scope:
                raise ExpressionError(f"unknown name {node.value}")
            return scope[node.value]
        case "list":
            return [_evaluate(child, scope) for child in node.children]
        case "member":
            return value(0)[value(1)]
        case "call":
            return value(0)(*(_evaluate(child, scope) for child in node.children[1:]))
        case "ternary":
            return value(1) if _boolean(value(0)) else value(2)
        case "unary":
            return not _boolean(value(0)) if node.value == "!" else -value(0)
    match node.value:
        case "||" | "or":
            return _boolean(value(0)) or _boolean(value(1))
        case "&&" | "and":
            return _boolean(value(0)) and _boolean(value(1))
        case "??":
            return value(1) if value(0) is None else value(0)
    return OPERATORS[node.value](value(0), value(1))


def _boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ExpressionError(f"{value!r} is used as a condition and is not true or false")
    return value


def _integer(value: Any) -> int:
    return int(value)


# Values of different types are never equal, as in Go: `lastRetry.exitCode == 75` is always false,
# because the exit code is a string.
OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "==": lambda a, b: type(a) is type(b) and a == b,
    "!=": lambda a, b: type(a) is not type(b) or a != b,
    "<": lambda a, b: a < b,
    ">": lambda a, b: a > b,
    "<=": lambda a, b: a <= b,
    ">=": lambda a, b: a >= b,
    "in": lambda a, b: any(type(a) is type(item) and a == item for item in b),
    "not in": lambda a, b: not any(type(a) is type(item) and a == item for item in b),
    "contains": lambda a, b: b in a,
    "matches": lambda a, b: re.search(b, a) is not None,
    "startsWith": lambda a, b: a.startswith(b),
    "endsWith": lambda a, b: a.endswith(b),
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a / b,
    "%": lambda a, b: a % b,
}
FUNCTIONS: dict[str, Callable[..., Any]] = {
    "asInt": _integer,
    "int": _integer,
    "asFloat": float,
    "float": float,
    "string": str,
    "len": len,
    "lower": lambda text: text.lower(),
    "upper": lambda text: text.upper(),
    "trim": lambda text: text.strip(),
}
