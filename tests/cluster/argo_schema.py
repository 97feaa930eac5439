"""Argo's JSON schema made strict, for the versions that must all accept a document: 3.7, 4.0, 4.1.

The published schema lets unknown fields pass (so does the API server: it drops them), calls an
IntOrString a string, and knows fields that Argo 3.7 does not. Here an unknown field is an error.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator, ValidationError

SCHEMA = Path(__file__).parents[3] / "shared" / "schemas" / "argo-workflows-4.1.2.json"
needs_schema = pytest.mark.skipif(
    not SCHEMA.exists(), reason=f"LINT NOT RUN: {SCHEMA} is not on this machine"
)

ARGO = "io.argoproj.workflow.v1alpha1."
CORE = "io.k8s.api.core.v1."
KINDS = ("Workflow", "WorkflowTemplate", "CronWorkflow")
# Objects that may hold anything. Every other object without properties is an empty one.
FREE_FORM = {
    f"{ARGO}Plugin",
    "io.k8s.apimachinery.pkg.apis.meta.v1.FieldsV1",
}
# Fields of the 4.1 schema that the 3.7 one lacks (the difference of the two, Argo's side only).
LATER_THAN_3_7 = {
    f"{ARGO}Artifact": ["plugin"],
    f"{ARGO}ArtifactLocation": ["plugin"],
    f"{ARGO}HTTPArtifact": ["saveStreamViaFile"],
    f"{ARGO}S3Artifact": ["addressingStyle"],
    f"{ARGO}Template": ["pendingTimeout", "podResources", "resourceClaims"],
    f"{ARGO}WorkflowSpec": ["executorPlugins", "podResources", "resourceClaims"],
    f"{ARGO}ContainerNode": ["restartPolicyRules"],
    f"{ARGO}ScriptTemplate": ["restartPolicyRules"],
    f"{ARGO}UserContainer": ["restartPolicyRules"],
    f"{CORE}Container": ["restartPolicyRules"],
    f"{CORE}EnvVarSource": ["fileKeyRef"],
    f"{CORE}VolumeProjection": ["podCertificate"],
}
# Values that the controller checks and the schema leaves open.
ENUMERATIONS = {
    (f"{ARGO}PodGC", "strategy"): [
        "OnPodCompletion",
        "OnPodSuccess",
        "OnWorkflowCompletion",
        "OnWorkflowSuccess",
    ],
    (f"{ARGO}CronWorkflowSpec", "concurrencyPolicy"): ["Allow", "Forbid", "Replace"],
    (f"{ARGO}RetryStrategy", "retryPolicy"): [
        "Always",
        "OnFailure",
        "OnError",
        "OnTransientError",
    ],
}


@cache
def definitions() -> dict[str, Any]:
    """The strict definitions, by their full names."""
    found: dict[str, Any] = json.loads(SCHEMA.read_text())["definitions"]
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
    found["io.k8s.apimachinery.pkg.util.intstr.IntOrString"]["type"] = ["integer", "string"]
    found["io.k8s.apimachinery.pkg.api.resource.Quantity"]["type"] = ["number", "string"]
    for kind in KINDS:
        properties = found[f"{ARGO}{kind}"]["properties"]
        properties["kind"]["const"] = kind
        properties["apiVersion"]["const"] = "argoproj.io/v1alpha1"
        found[f"{ARGO}{kind}"]["required"] = ["apiVersion", "kind", "metadata", "spec"]
    return found


@cache
def validator(definition: str) -> Draft202012Validator:
    """A validator for one definition, for example `io.argoproj.workflow.v1alpha1.Workflow`."""
    return Draft202012Validator(
        {"$ref": f"#/definitions/{definition}", "definitions": definitions()}
    )


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
