"""Read a config from YAML or JSON, apply overrides, and report errors in the terms of its keys."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from svdjobs import yaml_core
from svdjobs.config import SweepConfig
from svdjobs.errors import ConfigError
from svdjobs.escape import without_secrets
from svdjobs.settings import Settings, keys

Section = TypeVar("Section", bound=Settings)

# What was expected, by pydantic's name of the error; pydantic supplies the values in braces.
_EXPECTED = {
    "string_type": "expected text",
    "string_pattern_mismatch": (
        "expected letters, digits, '.', '_' and '-', with a letter or a digit first"
    ),
    "bool_type": "expected true or false",
    "int_type": "expected a whole number",
    "int_parsing": "expected a whole number",
    "int_parsing_size": "expected a smaller number",
    "int_from_float": "expected a whole number",
    "float_type": "expected a number",
    "float_parsing": "expected a number",
    "finite_number": "expected a finite number",
    "literal_error": "expected {expected}",
    "tuple_type": "expected a list",
    "too_short": "expected a list of at least {min_length}",
    "dict_type": "expected keys and their values",
    "model_type": "expected keys and their values",
    "greater_than": "expected more than {gt:g}",
    "greater_than_equal": "expected {ge:g} or more",
    "less_than": "expected less than {lt:g}",
    "less_than_equal": "expected {le:g} or less",
    "invalid_key": "expected text as a key",
    "recursion_loop": "contains itself",
}


def load_config(path: Path, overrides: Iterable[str] = ()) -> SweepConfig:
    """Read a sweep config from a YAML or JSON file and apply `key.path=value` overrides.

    Relative paths in the file are relative to the working directory, as on a command line.

    Raises:
        ConfigError: the file cannot be read, a key is unknown or given twice, or a value is wrong.
    """
    return read_config(read_text(path), overrides, where=str(path))


def read_text(path: Path, what: str = "config file", examples: str = "jobs/sweeps/") -> str:
    """The text of a config file; `what` and `examples` name another kind of file in errors.

    Raises:
        ConfigError: the file cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"no {what} at {path}. Examples are in {examples}.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from None


def read_config(text: str, overrides: Iterable[str] = (), *, where: str) -> SweepConfig:
    """Read a sweep config from YAML or JSON text, like `load_config`."""
    return parse_config(_document(text, overrides, where), where=where)


def overridden(text: str, overrides: Iterable[str], *, where: str) -> str:
    """The text of a sweep config with its overrides applied, to be passed on to a Workflow."""
    import yaml

    document = _document(text, overrides, where)
    return yaml.safe_dump(document, sort_keys=False, allow_unicode=True)


def _document(text: str, overrides: Iterable[str], where: str) -> dict[str, Any]:
    """The mapping in a YAML or JSON text, with the overrides applied."""
    document = yaml_core.load(text, where)
    if not isinstance(document, dict):
        raise ConfigError(
            f"{where}: expected a mapping of keys at the top, found {_shown(document)}"
        )
    for override in overrides:
        apply_override(document, override)
    return document


def apply_override(document: dict[str, Any], override: str) -> None:
    """Apply one override: `a.b=value`, or `a.0.b=value` for the first item of a list.

    The value is YAML.

    Raises:
        ConfigError: the key cannot exist in the document, or the value is not valid YAML.
    """
    where = f"--set {override!r}"
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"{where}: expected key=value, e.g. 'alphas=[0,0.5,1]'")
    *sections, last = key.split(".")
    node: Any = document
    for i, section in enumerate(sections):
        node = _section(node, section, sections[i + 1 :] or [last], where)
    place = _place(node, last, where)
    node[place] = yaml_core.load(text, f"{where}: the value")


def _section(node: Any, name: str, then: list[str], where: str) -> Any:
    """The section or list under a name; `then` holds the names that follow it.

    A missing section is created.
    """
    place = _place(node, name, where)
    found = node[place] if isinstance(node, list) else node.get(place)
    if then[0].isdecimal() and not isinstance(found, (list, type(None))):
        found = [found]  # a single item may stand for a list of one
    if isinstance(node, list) and isinstance(found, str):
        found = {"name": found}  # a benchmark that was given by its name alone
    if found is None:
        found = {}
    if not isinstance(found, (dict, list)):
        raise ConfigError(f"{where}: {name!r} is not a section")
    node[place] = found
    return found


def _place(node: Any, name: str, where: str) -> Any:
    """The name as a key of a section or as an index of a list.

    Raises:
        ConfigError: the list has no item with this index.
    """
    if not isinstance(node, list):
        return name
    if name.isdecimal() and int(name) < len(node):
        return int(name)
    there = ", ".join(map(str, range(len(node)))) or "no items"
    raise ConfigError(f"{where}: the list has no item {name!r}; it has {there}")


def parse_config(document: Mapping[str, Any], *, where: str) -> SweepConfig:
    """Validate a document as a sweep config, like `validated`."""
    return validated(SweepConfig, document, where=where)


def validated(section: type[Section], document: object, *, where: str) -> Section:
    """Validate a document as a config section of the given class.

    Raises:
        ConfigError: keys or values are wrong; the message lists all of them.
    """
    _refuse_secrets(document, where)
    try:
        return section.model_validate(document)
    except ValidationError as error:
        lines = [_complaint(section, item) for item in error.errors()]
        raise ConfigError("\n  ".join([f"{where}:", *lines])) from None


def _refuse_secrets(document: object, where: str) -> None:
    """Refuse a URL with a user, a password or a signature.

    A config is written into its run, into every manifest and into a Workflow, where others read it.

    Raises:
        ConfigError: there is such a URL; the message lists all of them.
    """
    found = [
        f"{place}: a URL with a user, password or signature (found {_shown(text)})"
        for place, text in _texts(document)
        if without_secrets(text) != text
    ]
    if found:
        advice = (
            "A config is stored with its run and shown to others. Put secrets into the "
            "environment: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile, HF_TOKEN."
        )
        raise ConfigError("\n  ".join([f"{where}:", *found, advice]))


def _texts(document: object) -> Iterator[tuple[str, str]]:
    """The key and the value of every text in a document.

    A section that occurs twice (by a YAML alias) is visited once, because it may contain itself.
    """
    left, seen = [("", document)], set[int]()
    while left:
        place, value = left.pop()
        if isinstance(value, str):
            yield place, value
        elif isinstance(value, Mapping | list | tuple) and id(value) not in seen:
            seen.add(id(value))
            items = value.items() if isinstance(value, Mapping) else enumerate(value)
            # In reverse, because the loop takes the last one first.
            left += [(f"{place}.{key}".lstrip("."), item) for key, item in items][::-1]


def _complaint(section: type[Settings], item: Any) -> str:
    """One pydantic error as a sentence that names the key."""
    kind, given = item["type"], item["input"]
    place = ".".join(str(part) for part in item["loc"])
    where = f"{place}: " if place else ""
    if kind == "extra_forbidden":
        return f"{where}unknown key; {_hint(section, item['loc'])}"
    if kind == "missing":
        return f"{where}required, but missing"
    if kind == "value_error":
        words = item["msg"].removeprefix("Value error, ")
    else:
        words = _EXPECTED.get(kind, "cannot be used here").format(**item.get("ctx", {}))
    if kind == "value_error" and isinstance(given, Mapping):
        return f"{where}{words}"  # the message names the keys that conflict
    return f"{where}{words} (found {_shown(given)})"


def _hint(section: type[Settings], location: tuple[Any, ...]) -> str:
    """The key that is most similar to an unknown key, or else all keys of the section."""
    *sections, last = ("*" if isinstance(part, int) else str(part) for part in location)
    under = ".".join([*sections, ""]) if sections else ""
    names = (key.name for key in keys(section) if key.name.startswith(under))
    known = sorted(name.removeprefix(under) for name in names if "." not in name[len(under) :])
    near = difflib.get_close_matches(last, known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known)}"


def _shown(value: object) -> str:
    """A value as JSON for an error, without secrets, cut after 60 characters."""
    try:
        text = without_secrets(json.dumps(value, ensure_ascii=False, default=str))
    except ValueError:
        text = "a value that contains itself"
    return text if len(text) <= 60 else f"{text[:59]}…"
