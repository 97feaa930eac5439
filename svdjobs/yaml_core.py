"""YAML as version 1.2 reads it: its core schema (chapter 10.3 of the specification), on PyYAML.

PyYAML reads 1.1, where `0:1:0.1` is 60.1 (base 60), `0123456` is octal, `2026-01-31` a date, and
`no` false. Here a number whose spelling says more than its value stays text: `0123456`, `1e-1`,
`1.10`. So a folder of that name keeps its name; `config.Settings` reads the number where a number
is expected.
"""

from __future__ import annotations

import functools
import re
from typing import Any

from svdjobs.errors import ConfigError

_INTEGER = re.compile(r"[-+]?[0-9]+")
_OTHER_BASE = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
# What a plain scalar is read as, and the characters that it can begin with.
_RESOLVERS = (
    ("null", re.compile(r"(?:~|null|Null|NULL|)$"), [*"~nN", ""]),
    ("bool", re.compile(r"(?:true|True|TRUE|false|False|FALSE)$"), [*"tTfF"]),
    ("float", re.compile(r"[-+.0-9][-+.0-9a-zA-Z]*$"), [*"-+.0123456789"]),
    ("merge", re.compile(r"<<$"), ["<"]),  # 1.2 dropped it, and gave it no other meaning
)
# Longer numbers are text: nothing here is that large, and Python refuses to read much longer ones.
_MOST_DIGITS = 300


def number(text: str) -> int | float | None:
    """The number that a plain scalar spells in the core schema; None where it is text."""
    if len(text) > _MOST_DIGITS:
        return None
    if _INTEGER.fullmatch(text):
        return int(text)
    if _OTHER_BASE.fullmatch(text):
        return int(text, 0)
    if _FLOAT.fullmatch(text):
        return float(text)
    return float(text.replace(".", "")) if _NOT_FINITE.fullmatch(text) else None


def load(text: str, where: str) -> Any:
    """What a text says, YAML or JSON.

    Raises:
        ConfigError: it is not valid, is nested too deeply, or gives a key twice.
    """
    import yaml

    try:
        loader = _loader_type()(text)
        loader.name = where  # for its complaints
        return loader.get_single_data()
    except yaml.YAMLError as error:
        raise ConfigError(f"{where} is not valid YAML: {error}") from None
    except RecursionError:
        raise ConfigError(f"{where} is nested too deeply.") from None
    except ConfigError:
        raise
    except (ValueError, KeyError, AttributeError) as error:  # PyYAML's own, of `!!int x` and such
        raise ConfigError(f"{where}: a value does not fit its tag ({error}).") from None


@functools.cache
def _loader_type() -> Any:
    """A SafeLoader with the core schema's words in place of 1.1's."""
    import yaml

    class CoreLoader(yaml.SafeLoader):
        yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - as PyYAML declares it

        def compose_mapping_node(self, anchor: Any) -> Any:
            node = super().compose_mapping_node(anchor)
            _refuse_twice(node)
            return node

    def number_or_text(loader: Any, node: Any) -> int | float | str:
        text = str(loader.construct_scalar(node))
        found = number(text)
        return text if found is None or str(found) != text else found

    for kind, pattern, firsts in _RESOLVERS:
        CoreLoader.add_implicit_resolver(f"tag:yaml.org,2002:{kind}", pattern, firsts)
    CoreLoader.add_constructor("tag:yaml.org,2002:float", number_or_text)
    return CoreLoader


def _refuse_twice(mapping: Any) -> None:
    """A key given twice: the later value would win without a word."""
    first: dict[tuple[str, str], int] = {}
    for key, _ in mapping.value:
        if not isinstance(key.value, str) or key.value == "<<":
            continue
        name, line = (key.tag, key.value), key.start_mark.line + 1
        if name in first:
            raise ConfigError(
                f"{key.start_mark.name} line {line}: key {key.value!r} is given twice, first in "
                f"line {first[name]}. Keep one."
            )
        first[name] = line
