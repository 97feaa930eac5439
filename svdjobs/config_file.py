"""From the text of a config to a config: YAML or JSON in, overrides, complaints."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from svdjobs.config import (
    BenchmarkConfig,
    BlendConfig,
    DecomposeConfig,
    EvaluateConfig,
    GateConfig,
    ReportConfig,
    RotationsConfig,
    SelectionConfig,
    Settings,
    SweepConfig,
)
from svdjobs.errors import ConfigError


def load_config(path: Path, overrides: Iterable[str] = ()) -> SweepConfig:
    """Read a sweep description from YAML or JSON and apply `key.path=value` overrides.

    Relative paths of checkpoints and benchmarks in the file are relative to the working directory,
    as on a command line.

    Raises:
        ConfigError: unreadable file, unknown key (with the nearest right one) or bad value.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"no config file at {path}. Examples are in jobs/sweeps/.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from None
    return read_config(text, overrides, where=str(path))


def read_config(text: str, overrides: Iterable[str] = (), *, where: str) -> SweepConfig:
    """A sweep description from YAML or JSON text; as `load_config`."""
    return parse_config(_document(text, overrides, where), where=where)


def overridden(text: str, overrides: Iterable[str], *, where: str) -> str:
    """The text of a sweep description with its overrides in it, for whoever passes on texts."""
    import yaml

    document = _document(text, overrides, where)
    return yaml.safe_dump(document, sort_keys=False, allow_unicode=True)


def _document(text: str, overrides: Iterable[str], where: str) -> dict[str, Any]:
    """The mapping in a YAML or JSON text, with overrides applied."""
    import yaml

    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{where} is not valid YAML: {error}") from None
    if not isinstance(document, dict):
        raise ConfigError(f"{where}: expected a mapping of keys at the top, found {document!r:.80}")
    for override in overrides:
        apply_override(document, override)
    return document


def apply_override(document: dict[str, Any], override: str) -> None:
    """Set one `a.b=value`; the value is read as YAML."""
    import yaml

    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set {override!r}: expected key=value, e.g. alphas=[0,0.5,1]")
    *sections, last = key.split(".")
    node = document
    for section in sections:
        node = node.setdefault(section, {})
        if not isinstance(node, dict):
            raise ConfigError(f"--set {override!r}: {section!r} is not a section")
    try:
        node[last] = yaml.safe_load(text)
    except yaml.YAMLError:
        raise ConfigError(f"--set {override!r}: {text!r} is not valid YAML") from None


def parse_config(document: Mapping[str, Any], *, where: str) -> SweepConfig:
    """Validate a document; all complaints at once, in one message."""
    try:
        return SweepConfig.model_validate(document)
    except ValidationError as error:
        lines = [_complaint(item) for item in error.errors()]
        raise ConfigError(f"{where}:\n  " + "\n  ".join(lines)) from None


def _complaint(item: Any) -> str:
    """One pydantic error as a sentence."""
    where = ".".join(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        known = _keys_at(item["loc"][:-1])
        near = difflib.get_close_matches(str(item["loc"][-1]), known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known)}"
        return f"{where}: unknown key; {hint}"
    if item["type"] == "missing":
        return f"{where}: required, but missing"
    return f"{where}: {item['msg'].removeprefix('Value error, ')} (found {item['input']!r:.60})"


def _keys_at(location: tuple[Any, ...]) -> list[str]:
    """Field names of the section at a location, for the nearest-key hint."""
    sections: dict[str, type[Settings]] = {
        "": SweepConfig,
        "selection": SelectionConfig,
        "decompose": DecomposeConfig,
        "blend": BlendConfig,
        "evaluate": EvaluateConfig,
        "evaluate.benchmarks": BenchmarkConfig,
        "rotations": RotationsConfig,
        "report": ReportConfig,
        "gate": GateConfig,
    }
    where = ".".join(part for part in location if isinstance(part, str))
    return sorted(sections.get(where, SweepConfig).model_fields)
