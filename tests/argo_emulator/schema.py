"""A strict JSON schema of Argo's documents, for the versions that must accept one: 3.7, 4.0, 4.1.

Made of the typed models that hera generates from the schema Argo publishes. That one lets unknown
fields pass (so does the API server: it drops them) and knows fields that Argo 3.7 does not. Here an
unknown field is an error.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any

from jsonschema import Draft202012Validator, ValidationError

KINDS = ("Workflow", "WorkflowTemplate", "CronWorkflow")
# Objects that may hold anything. Every other object without properties is an empty one.
FREE_FORM = {"Plugin", "FieldsV1"}
# Fields of hera's models that Argo 3.7 lacks; later ones yet, hera does not know either.
LATER_THAN_3_7 = {"Artifact": ["plugin"], "ArtifactLocation": ["plugin"]}
# Values that the controller checks and the schema leaves open.
ENUMERATIONS = {
    ("PodGC", "strategy"): [
        "OnPodCompletion",
        "OnPodSuccess",
        "OnWorkflowCompletion",
        "OnWorkflowSuccess",
    ],
    ("CronWorkflowSpec", "concurrencyPolicy"): ["Allow", "Forbid", "Replace"],
    ("RetryStrategy", "retryPolicy"): [
        "Always",
        "OnFailure",
        "OnError",
        "OnTransientError",
    ],
}


def published() -> dict[str, Any]:
    """The definitions of hera's models, by their names."""
    from hera.workflows import models
    from pydantic.json_schema import JsonSchemaMode, models_json_schema

    mode: JsonSchemaMode = "validation"
    _, document = models_json_schema([(getattr(models, k), mode) for k in KINDS], by_alias=True)
    found: dict[str, Any] = _not_null(document["$defs"])
    return found


def _not_null(value: Any) -> Any:
    """A schema without null, which a model stands for absence with and a manifest may not hold."""
    if isinstance(value, list):
        return [_not_null(inner) for inner in value if inner != {"type": "null"}]
    if not isinstance(value, dict):
        return value
    kept = {key: _not_null(inner) for key, inner in value.items()}
    if kept.get("default", ...) is None:
        del kept["default"]
    if isinstance(one := kept.get("anyOf"), list) and len(one) == 1:
        del kept["anyOf"]
        kept |= one[0]
    return kept


@cache
def definitions() -> dict[str, Any]:
    """The strict definitions, by the names of their models."""
    found = published()
    for name, fields in LATER_THAN_3_7.items():
        for field in fields:
            del found[name]["properties"][field]
    for (name, field), values in ENUMERATIONS.items():
        found[name]["properties"][field]["enum"] = values
    for name, definition in found.items():
        if definition.get("type") == "object" and name not in FREE_FORM:
            definition["additionalProperties"] = False
            definition.setdefault("properties", {})
    # Kubernetes reads both, and writes what it was given.
    found["IntOrString"] = {"type": ["integer", "string"]}
    found["Quantity"] = {"type": ["number", "string"]}
    for kind in KINDS:
        properties = found[kind]["properties"]
        properties["kind"]["const"] = kind
        properties["apiVersion"]["const"] = "argoproj.io/v1alpha1"
        found[kind]["required"] = ["apiVersion", "kind", "metadata", "spec"]
    return found


@cache
def validator(definition: str) -> Draft202012Validator:
    """A validator for one definition, for example `Workflow`."""
    return Draft202012Validator({"$ref": f"#/$defs/{definition}", "$defs": definitions()})


def schema_findings(document: Any, definition: str, where: str = "") -> Iterator[str]:
    """What the strict schema has against a document, each with the path of the place."""
    for error in sorted(validator(definition).iter_errors(document), key=_order):
        path = readable_path(document, error.absolute_path)
        place = ".".join(part for part in (where, path) if part) or "the document"
        yield f"{place}: {_shortened(error.message)}"


def readable_path(document: Any, path: Iterable[str | int]) -> str:
    """`spec.templates[plan].container`: list items by their names where they have one."""
    text, here = "", document
    for part in path:
        here = here[part]
        if isinstance(part, int):
            text += f"[{here['name'] if isinstance(here, dict) and 'name' in here else part}]"
        else:
            text += f".{part}" if text else part
    return text


def _order(error: ValidationError) -> str:
    return str(list(error.absolute_path))


def _shortened(message: str) -> str:
    return message if len(message) <= 240 else f"{message[:120]} … {message[-110:]}"
