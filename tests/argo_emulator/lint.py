"""A strict lint of Workflow, WorkflowTemplate and CronWorkflow documents.

`lint(document, others=…)` returns findings: sentences that start with a path in the document. It
checks the strict schema (`schema`) first, then rules that a schema cannot express. Each rule is a
function: rules on the structure of a workflow are here, rules on names in braces in `references`,
on retries in `retries`, and on pods in `pods`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tests.argo_emulator import pods
from tests.argo_emulator.document import (
    LEAF_KINDS,
    Document,
    Json,
    artifacts_of,
    is_leaf,
    parameters_of,
    strings,
    twice,
)
from tests.argo_emulator.references import (
    TAG,
    depends_is_sound,
    fan_out_is_a_list,
    references_exist,
)
from tests.argo_emulator.retries import (
    retries_are_for_lost_pods,
    retries_never_run_out_of_time,
    retry_expressions_are_sound,
)
from tests.argo_emulator.schema import KINDS, schema_findings

DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
DNS_NAME = re.compile(r"[a-z0-9]([-.a-z0-9]*[a-z0-9])?")
TASK_NAME = re.compile(r"[A-Za-z][-A-Za-z0-9]*")
PARAMETER_NAME = re.compile(r"[-A-Za-z0-9_]+")
LABEL_LIMIT = 63
CRON_NAME_LIMIT = 52
# The name of a pod is <workflow>-<template>-<hash>; the hash is a 32-bit number in decimal.
HASH_LENGTH = 10
GENERATED_LENGTH = 5  # what the API server adds to generateName
CRON_SUFFIX_LENGTH = 11  # "-" and the Unix time of the scheduled run


def lint(document: Json, others: Sequence[Json] = ()) -> list[str]:
    """The findings about a document; `others` are the WorkflowTemplates that it may refer to."""
    if document.get("kind") not in KINDS:
        return [f"kind: {document.get('kind')!r} is not one of {', '.join(KINDS)}."]
    if found := list(schema_findings(document, document["kind"])):
        return found  # the rules need a document that fits the schema
    subject = Document(document, others)
    return [finding for rule in RULES for finding in rule(subject)]


def templates_resolve(document: Document) -> Iterator[str]:
    """Every template, templateRef, workflowTemplateRef, entrypoint and exit handler exists."""
    spec, path = document.spec, document.spec_path
    reference = spec.get("workflowTemplateRef", {}).get("name")
    if reference and document.referenced is None:
        yield f"{path}.workflowTemplateRef: there is no WorkflowTemplate {reference}."
        return
    inherited = document.referenced.spec if document.referenced else {}
    if "entrypoint" not in {**inherited, **spec}:
        yield f"{path}: it has no entrypoint."
    for key in ("entrypoint", "onExit"):
        if key in spec and spec[key] not in document.templates:
            yield f"{path}.{key}: there is no template {spec[key]}."
    for call in document.calls():
        if "inline" in call.caller:
            yield f"{call.path}.inline: write it as a template with a name."
        elif document.callee(call.caller) is None:
            target = call.caller.get("templateRef") or call.caller.get("template")
            yield f"{call.path}: there is no template {target}."
        elif "onExit" in call.caller:
            yield f"{call.path}.onExit: it is deprecated; write hooks.exit."


def arguments_match(document: Document) -> Iterator[str]:
    """Each call gives the inputs that its template requires, and no others."""
    for call in document.calls():
        callee = document.callee(call.caller)
        if callee is None:
            continue
        for kind, items in (("parameter", parameters_of), ("artifact", artifacts_of)):
            inputs = {item["name"]: item for item in items(callee.get("inputs"))}
            given = {item["name"] for item in items(call.caller.get("arguments"))}
            required = {name for name, item in inputs.items() if _is_required(item)}
            for name in sorted(required - given):
                yield f"{call.path}: {callee['name']} needs the {kind} {name}, which is not given."
            for name in sorted(given - set(inputs)):
                yield f"{call.path}: {callee['name']} has no input {kind} {name}."
    for name in ("entrypoint", "onExit"):
        callee = document.templates.get(document.spec.get(name, ""), {})
        for parameter in parameters_of(callee.get("inputs")):
            if _is_required(parameter) and parameter["name"] not in document.parameters:
                yield (
                    f"{document.spec_path}.{name}: {callee['name']} needs the parameter "
                    f"{parameter['name']}, which is no workflow parameter."
                )


def _is_required(item: Json) -> bool:
    own = set(item) - {"name", "path", "mode", "description", "archive", "enum", "globalName"}
    return not own


def parameters_have_values(document: Document) -> Iterator[str]:
    """A reference to a WorkflowTemplate gives only parameters that the template declares."""
    if document.referenced:
        for parameter in parameters_of(document.spec.get("arguments")):
            if parameter["name"] not in document.referenced.parameters:
                yield (
                    f"{document.spec_path}.arguments.parameters[{parameter['name']}]: "
                    f"{document.referenced.metadata['name']} declares no such parameter."
                )


def one_kind_per_template(document: Document) -> Iterator[str]:
    """A template is a DAG, a list of steps or one kind of leaf."""
    for path, template in document.own_templates():
        found = [kind for kind in (*LEAF_KINDS, "dag", "steps", "suspend") if kind in template]
        if len(found) != 1:
            yield f"{path}: it is {' and '.join(found) or 'nothing'}; a template is of one kind."


def only_leaves_retry(document: Document) -> Iterator[str]:
    """Only leaves have a retry strategy: a DAG would repeat finished tasks."""
    for key in ("retryStrategy", "templateDefaults"):
        if "retryStrategy" in (key, *document.spec.get(key, {})) and key in document.spec:
            yield f"{document.spec_path}.{key}: a retry strategy belongs on leaf templates only."
    for path, template in document.own_templates():
        if "retryStrategy" in template and not is_leaf(template):
            yield f"{path}.retryStrategy: a retry strategy belongs on leaf templates only."


def names_are_valid(document: Document) -> Iterator[str]:
    """Kubernetes and Argo accept all names, and no name occurs twice."""
    name = document.metadata.get("name")
    prefix = document.metadata.get("generateName", "").rstrip("-")
    if not DNS_NAME.fullmatch(name or prefix):
        yield f"metadata: {name or prefix!r} is not a valid name (a-z, 0-9, - and .)."
    for path, template in document.own_templates():
        if not DNS_LABEL.fullmatch(template["name"]):
            yield f"{path}: {template['name']!r} is not a valid name (a-z, 0-9 and -)."
        yield from _task_names(path, template)
        for holder in ("inputs", "outputs"):
            items = parameters_of(template.get(holder)) + artifacts_of(template.get(holder))
            yield from _names_of(f"{path}.{holder}", [item["name"] for item in items])
    yield from twice(document.spec_path, [t["name"] for _, t in document.own_templates()])
    arguments = parameters_of(document.spec.get("arguments"))
    yield from _names_of(f"{document.spec_path}.arguments", [p["name"] for p in arguments])


def _task_names(path: str, template: Json) -> Iterator[str]:
    groups = [template.get("dag", {}).get("tasks", []), *template.get("steps", [])]
    names = [caller["name"] for group in groups for caller in group]
    for name in names:
        if not TASK_NAME.fullmatch(name) or len(name) > LABEL_LIMIT:
            yield f"{path}: {name!r} is not a valid task name (a letter, then letters, 0-9 and -)."
    yield from twice(path, names)


def _names_of(path: str, names: list[str]) -> Iterator[str]:
    for name in names:
        if not PARAMETER_NAME.fullmatch(name):
            yield f"{path}: {name!r} is not a valid name (letters, 0-9, - and _)."
    yield from twice(path, names)


def pod_names_fit(document: Document) -> Iterator[str]:
    """The longest pod name fits into a label, and a CronWorkflow's name into its own limit."""
    metadata = document.metadata
    name: str = metadata.get("name") or metadata.get("generateName", "")
    if document.kind == "CronWorkflow" and len(name) > CRON_NAME_LIMIT:
        yield f"metadata.name: {name} is longer than {CRON_NAME_LIMIT} characters."
    length = len(name)
    if document.kind == "CronWorkflow":
        length += CRON_SUFFIX_LENGTH
    elif document.kind == "WorkflowTemplate":  # a run of it is called <name>-xxxxx
        length += 1 + GENERATED_LENGTH
    elif "name" not in metadata:
        length += GENERATED_LENGTH
    for template in document.templates.values():
        total = length + 1 + len(template["name"]) + 1 + HASH_LENGTH
        if is_leaf(template) and total > LABEL_LIMIT:
            yield (
                f"metadata: a pod of {template['name']} gets a name of {total} characters; "
                f"shorten the workflow's or the template's by {total - LABEL_LIMIT}."
            )


def nothing_is_memoized_or_collected(document: Document) -> Iterator[str]:
    """There is no memoize and no artifactGC: manifests record finished work, the store keeps it."""
    for path, key in _keys(document.spec, document.spec_path):
        if key in ("memoize", "artifactGC"):
            yield f"{path}: {key} is not used here; the store's manifests record finished work."


def _keys(value: Any, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield f"{path}.{key}", key
            yield from _keys(inner, f"{path}.{key}")
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            label = inner["name"] if isinstance(inner, dict) and "name" in inner else number
            yield from _keys(inner, f"{path}[{label}]")


def braces_are_closed_in_keys(document: Document) -> Iterator[str]:
    """No key contains an expression: Argo substitutes values only."""
    for path, key in _keys(document.spec, document.spec_path):
        if "{{" in key:
            yield f"{path}: an expression in a key is not substituted reliably."


def cron_is_explicit(document: Document) -> Iterator[str]:
    """A CronWorkflow has a concurrencyPolicy, and its own fields use only cron variables."""
    if document.kind != "CronWorkflow":
        return
    spec = document.body["spec"]
    if "concurrencyPolicy" not in spec:
        yield "spec: it has no concurrencyPolicy."
    for place, text in strings({k: v for k, v in spec.items() if k != "workflowSpec"}, "spec"):
        for tag in TAG.findall(text):
            if not tag.lstrip("= ").startswith("cronworkflow."):
                yield f"{place}: {{{{{tag}}}}} is not a variable of a CronWorkflow."


Rule = Callable[[Document], Iterator[str]]
RULES: tuple[Rule, ...] = (
    templates_resolve,
    arguments_match,
    parameters_have_values,
    references_exist,
    depends_is_sound,
    fan_out_is_a_list,
    retry_expressions_are_sound,
    retries_are_for_lost_pods,
    retries_never_run_out_of_time,
    one_kind_per_template,
    only_leaves_retry,
    names_are_valid,
    pod_names_fit,
    nothing_is_memoized_or_collected,
    braces_are_closed_in_keys,
    cron_is_explicit,
    *pods.RULES,
)
