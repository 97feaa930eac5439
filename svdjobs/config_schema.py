"""The JSON schema of a sweep, for editors: they complete keys and mark what is wrong.

It is the schema of the config models, plus what reading a file accepts beside them: one item for a
list, a range of alphas, `all` for a selection, the name of a benchmark for its section, and several
seeds for a variant.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from svdjobs.config import SweepConfig

Schema = dict[str, Any]
COMMENT = "# yaml-language-server: $schema="
"""Begins the line of a YAML file that names its schema."""
_NUMBER = {"type": "number"}


def sweep_schema() -> Schema:
    """The schema of a sweep (JSON Schema 2020-12)."""
    schema = SweepConfig.model_json_schema()
    for node in _objects(schema):
        for name, found in node.get("properties", {}).items():
            node["properties"][name] = _one_or_list(found)
    top, parts = schema["properties"], schema["$defs"]
    top["alphas"] = _or(
        top["alphas"],
        {
            "type": "object",
            "properties": dict.fromkeys(("from", "to", "step"), _NUMBER),
            "required": ["from", "to", "step"],
            "additionalProperties": False,
        },
    )
    top["selection"] = _or(top["selection"], {"const": "all"})
    seed = parts["VariantConfig"]["properties"]["seed"]
    parts["VariantConfig"]["properties"]["seed"] = _or(
        seed, {"type": "array", "items": {"type": "integer"}}
    )
    # Keys of a known benchmark need not be given.
    parts["BenchmarkConfig"]["required"] = ["name"]
    parts["KnownBenchmark"] = {"type": "string", "description": "A benchmark that svdjobs knows."}
    benchmarks = parts["EvaluateConfig"]["properties"]["benchmarks"]
    for form in benchmarks["anyOf"]:
        if form.get("type") == "array":
            form["items"] = {"anyOf": [form["items"], {"$ref": "#/$defs/KnownBenchmark"}]}
    benchmarks["anyOf"].append({"$ref": "#/$defs/KnownBenchmark"})
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": "A sweep of svdjobs",
    }


def _objects(node: object) -> Iterator[Schema]:
    """Every mapping in a schema."""
    if isinstance(node, dict):
        yield node
    inner = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    for value in list(inner):
        yield from _objects(value)


def _one_or_list(found: Schema) -> Schema:
    """A list, or one item of it."""
    forms = found.get("anyOf", [found])
    items = [form["items"] for form in forms if form.get("type") == "array" and "items" in form]
    return _or(found, *items) if items else found


def _or(found: Schema, *others: Schema) -> Schema:
    """A schema that also takes other forms; its description and default stay outside."""
    about: Schema = {key: found[key] for key in ("description", "default", "title") if key in found}
    inner = {key: value for key, value in found.items() if key not in about}
    forms = inner["anyOf"] if set(inner) == {"anyOf"} else [inner]
    return {**about, "anyOf": [*forms, *others]}
