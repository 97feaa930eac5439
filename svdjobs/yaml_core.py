"""Read YAML by the core schema of version 1.2 (chapter 10.3 of the specification), with PyYAML.

PyYAML reads version 1.1, in which `0:1:0.1` is 60.1 (base 60), `0123456` is octal, `2026-01-31` is
a date, and `no` is false. This loader returns a number as text if Python would spell the number
differently (`0123456`, `1e-1`, `1.10`), so a folder with such a name keeps its name.
`settings.read_as` converts the text if the key expects a number.
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
# Kinds of plain scalars, with their spelling and the characters that they can begin with.
_RESOLVERS = (
    ("null", re.compile(r"(?:~|null|Null|NULL|)$"), [*"~nN", ""]),
    ("bool", re.compile(r"(?:true|True|TRUE|false|False|FALSE)$"), [*"tTfF"]),
    ("float", re.compile(r"[-+.0-9][-+.0-9a-zA-Z]*$"), [*"-+.0123456789"]),
    ("merge", re.compile(r"<<$"), ["<"]),  # not in 1.2, where `<<` has no other meaning
)
# Longer numbers stay text: no key needs them, and Python refuses to convert much longer ones.
_MOST_DIGITS = 300


def number(text: str) -> int | float | None:
    """The number that a plain scalar spells in the core schema; None if it spells none."""
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
    """The document in a YAML or JSON text; `where` names its source in errors.

    Raises:
        ConfigError: the text is not valid, is nested too deeply, or gives a key twice.
    """
    import yaml

    try:
        loader = _loader_type()(text)
        loader.name = where  # shown in PyYAML's errors
        return loader.get_single_data()
    except yaml.YAMLError as error:
        raise ConfigError(f"{where} is not valid YAML: {error}") from None
    except RecursionError:
        raise ConfigError(f"{where} is nested too deeply.") from None
    except ConfigError:
        raise
    except (ValueError, KeyError, AttributeError) as error:  # PyYAML's, for `!!int x` etc.
        raise ConfigError(f"{where}: a value does not fit its tag ({error}).") from None


@functools.cache
def _loader_type() -> Any:
    """A SafeLoader that resolves plain scalars by the core schema instead of version 1.1."""
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
    """Refuse a key that is given twice; PyYAML would silently use the later value.

    Raises:
        ConfigError: a key is given twice.
    """
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
