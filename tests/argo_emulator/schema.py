"""A strict JSON schema of documents that Argo 3.7, 4.0 and 4.1 all accept.

It comes from hera's typed models, which are generated from Argo's published schema. The published
schema accepts unknown fields, as the API server does, which drops them. It also has fields that
Argo 3.7 lacks. In this schema both are errors.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any

from jsonschema import Draft202012Validator, ValidationError

KINDS = ("Workflow", "WorkflowTemplate", "CronWorkflow")
# Objects with arbitrary fields. Any other object without properties must be empty.
FREE_FORM = {"Plugin", "FieldsV1"}
# Fields of hera's models that Argo 3.7 lacks. hera itself lacks still newer fields.
LATER_THAN_3_7 = {"Artifact": ["plugin"], "ArtifactLocation": ["plugin"]}
# Values that the controller checks but the published schema does not.
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
    """The JSON schemas of hera's models, by name."""
    from hera.workflows import models
    from pydantic.json_schema import JsonSchemaMode, models_json_schema

    mode: JsonSchemaMode = "validation"
    _, document = models_json_schema([(getattr(models, k), mode) for k in KINDS], by_alias=True)
    found: dict[str, Any] = _not_null(document["$defs"])
    return found


def _not_null(value: Any) -> Any:
    """The schema without null: a model uses null for a missing field, a manifest must not."""
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
    """The strict schemas of the models, by name."""
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
    # Kubernetes accepts both types.
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
    """The validator of one model, for example `Workflow`."""
    return Draft202012Validator({"$ref": f"#/$defs/{definition}", "$defs": definitions()})


def schema_findings(document: Any, definition: str, where: str = "") -> Iterator[str]:
    """The violations of the strict schema in a document, each with its path."""
    for error in sorted(validator(definition).iter_errors(document), key=_order):
        path = readable_path(document, error.absolute_path)
        place = ".".join(part for part in (where, path) if part) or "the document"
        yield f"{place}: {_shortened(error.message)}"


def readable_path(document: Any, path: Iterable[str | int]) -> str:
    """A path such as `spec.templates[plan].container`, with list items by name if they have one."""
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
