"""Filling in what is in braces, and reading the conditions that are left."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.argo_emulator import expressions
from tests.argo_emulator.expressions import ExpressionError, Node
from tests.argo_emulator.references import TAG

Scope = Mapping[str, str | None]  # None: an output of a skipped task without a default


def substitute(value: Any, scope: Scope) -> Any:
    """The value with every tag of its strings replaced; ExpressionError for an unknown one."""
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
    """`a.b.c: x` as {a: {b: {c: x}}}, the form that expressions read."""
    found: dict[str, Any] = {}
    for name, value in sorted(scope.items()):
        *parents, last = name.split(".")
        here = found
        for part in parents:
            inner = here.setdefault(part, {})
            if not isinstance(inner, dict):  # a name that is a value and a parent: the value stays
                break
            here = inner
        else:
            here.setdefault(last, value)
    return found


def is_true(condition: str) -> bool:
    """A `when` condition: as in govaluate, words without quotes are strings."""
    found = expressions.evaluate_tree(_words(expressions.parse(condition)), {})
    if not isinstance(found, bool):
        raise ExpressionError(f"when {condition!r} is {found!r}, not true or false")
    return found


def _words(node: Node) -> Node:
    if node.kind == "name":
        return Node("constant", node.value)
    return node._replace(children=tuple(_words(child) for child in node.children))
