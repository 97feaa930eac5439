"""The base of all config sections: it converts values, and lists the keys."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator, Mapping
from types import NoneType
from typing import Any, NamedTuple, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator

from svdjobs.yaml_core import number


class Settings(BaseModel):
    """Base of all config sections."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False
    )

    @field_validator("*", mode="before")
    @classmethod
    def _as_expected(cls, value: object, info: ValidationInfo) -> object:
        return read_as(cls.model_fields[str(info.field_name)].annotation, value)


def read_as(expected: Any, value: object) -> object:
    """Convert a value of a file to the type that a field expects.

    The text `1e-1` becomes a number if a number is expected, and the number 2026 becomes text if
    text is expected (it may name a folder). A single item becomes a list of one. A value that does
    not fit is returned as it is, for pydantic to refuse.

    Raises:
        ValueError: true or false for a number, or another value for true or false.
    """
    expected = _without_none(expected)
    if value is None:
        return None
    if expected is bool and not isinstance(value, bool):
        raise ValueError("expected true or false")
    if expected in (int, float):
        if isinstance(value, bool):
            raise ValueError("expected a number")
        found = number(value.strip()) if isinstance(value, str) else None
        return value if found is None else found
    if expected is str and isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    origin, inner = get_origin(expected), get_args(expected)
    if origin is dict and isinstance(value, Mapping):
        return {key: read_as(inner[1], item) for key, item in value.items()}
    if origin is tuple:
        if isinstance(value, Mapping) and inner[0] in (str, int, float):
            return value
        items = value if isinstance(value, (list, tuple)) else [value]
        return [read_as(inner[0], item) for item in items]
    return value


def _without_none(expected: Any) -> Any:
    """The type `X` for `X | None`; any other type as it is."""
    options = [option for option in get_args(expected) if option is not NoneType]
    optional = NoneType in get_args(expected) and len(options) == 1
    return options[0] if optional else expected


class Key(NamedTuple):
    """A key of a config, or a section of keys."""

    name: str
    """Full name: `evaluate.n_samples`, or `evaluate.benchmarks.*.limit` for the items of a list, or
    those of a mapping."""
    meaning: str
    """The docstring of the section, if the key is one, and the docstring under the field."""
    default: str
    """` = 4` or ` (required)`; empty for a section, whose keys have defaults themselves."""


def keys(
    section: type[Settings], under: str = "", defaults: Settings | None = None
) -> Iterator[Key]:
    """Every key of a section in the order of declaration; a subsection comes before its keys.

    `defaults` overrides the defaults that the section declares.
    """
    for name, field in section.model_fields.items():
        expected = _without_none(field.annotation)
        place = {tuple: 0, dict: 1}.get(get_origin(expected) or expected)
        items = place is not None
        inner = expected if place is None else get_args(expected)[place]
        below = inner if isinstance(inner, type) and issubclass(inner, Settings) else None
        own = inspect.cleandoc(below.__doc__ or "") if below else ""
        meaning = " ".join(f"{own} {field.description or ''}".split())
        if field.is_required() and defaults is None:
            yield Key(under + name, meaning, " (required)")
            value = None
        else:
            value = getattr(defaults, name) if defaults else field.get_default()
            made = isinstance(value, Settings)
            shown = "" if made else f" = {json.dumps(value, ensure_ascii=False)}"
            yield Key(under + name, meaning, shown)
        if below is not None:
            inside = value if isinstance(value, Settings) else None
            yield from keys(below, f"{under}{name}.{'*.' if items else ''}", inside)
