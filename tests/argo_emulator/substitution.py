"""Substitute tags in braces, and evaluate `when` conditions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.argo_emulator import expressions
from tests.argo_emulator.expressions import ExpressionError, Node
from tests.argo_emulator.references import TAG

Scope = Mapping[str, str | None]  # None: a skipped task's output without a default


def substitute(value: Any, scope: Scope) -> Any:
    """The value with every tag in its strings replaced.

    Raises:
        ExpressionError: a tag has no value.
    """
    if isinstance(value, str):
        return TAG.sub(lambda match: _tag(match[1], scope), value)
    if isinstance(value, dict):
        return {key: substitute(inner, scope) for key, inner in value.items()}
    if isinstance(value, list):
        return [substitute(inner, scope) for inner in value]
    return value


def _tag(tag: str, scope: Scope) -> str:
    if tag.startswith("="):
        found = expressions.evaluate(tag[1:], nested(scope))
        return str(found).lower() if isinstance(found, bool) else str(found)
    value = scope.get(tag.strip())
    if value is None:
        raise ExpressionError(f"{{{{{tag}}}}} has no value; Argo would wait for it forever")
    return value


def nested(scope: Scope) -> dict[str, Any]:
    """The scope in the form for expressions: `a.b.c: x` becomes {a: {b: {c: x}}}."""
    found: dict[str, Any] = {}
    for name, value in sorted(scope.items()):
        *parents, last = name.split(".")
        here = found
        for part in parents:
            inner = here.setdefault(part, {})
            if not isinstance(inner, dict):  # a name is both a value and a parent: keep the value
                break
            here = inner
        else:
            here.setdefault(last, value)
    return found


def is_true(condition: str) -> bool:
    """Evaluate a `when` condition; unquoted words are strings, as in govaluate."""
    found = expressions.evaluate_tree(_words(expressions.parse(condition)), {})
    if not isinstance(found, bool):
        raise ExpressionError(f"when {condition!r} is {found!r}, not true or false")
    return found


def _words(node: Node) -> Node:
    if node.kind == "name":
        return Node("constant", node.value)
    return node._replace(children=tuple(_words(child) for child in node.children))
