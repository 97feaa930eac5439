"""An Argo document for the lint rules: its spec, its templates, and the calls between them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

Json = dict[str, Any]
LEAF_KINDS = ("container", "script", "containerSet", "resource", "http", "plugin", "data")


class Call(NamedTuple):
    """A call of a template by a DAG task, a step or a hook."""

    path: str
    caller: Json
    owner: Json | None  # the DAG or steps template that contains the caller


@dataclass(frozen=True)
class Document:
    """A Workflow, WorkflowTemplate or CronWorkflow, and the documents that it may refer to."""

    body: Json
    others: Sequence[Json] = field(default=())

    @property
    def kind(self) -> str:
        return str(self.body["kind"])

    @property
    def metadata(self) -> Json:
        found: Json = self.body.get("metadata", {})
        return found

    @property
    def spec_path(self) -> str:
        return "spec.workflowSpec" if self.kind == "CronWorkflow" else "spec"

    @cached_property
    def spec(self) -> Json:
        spec: Json = self.body["spec"]
        return spec["workflowSpec"] if self.kind == "CronWorkflow" else spec

    @cached_property
    def library(self) -> dict[str, Json]:
        """The other WorkflowTemplates by name."""
        return {
            other["metadata"]["name"]: other
            for other in self.others
            if other["kind"] == "WorkflowTemplate"
        }

    @cached_property
    def referenced(self) -> Document | None:
        """The WorkflowTemplate that `workflowTemplateRef` names, or None."""
        name = self.spec.get("workflowTemplateRef", {}).get("name")
        other = self.library.get(name)
        return Document(other, self.others) if other else None

    @cached_property
    def templates(self) -> dict[str, Json]:
        """The templates by name: those of the referenced document, overridden by its own."""
        own = {template["name"]: template for template in self.spec.get("templates", [])}
        return {**(self.referenced.templates if self.referenced else {}), **own}

    @cached_property
    def parameters(self) -> dict[str, Json]:
        """The workflow parameters by name: those of the referenced document, overridden by its
        own."""
        own = {p["name"]: p for p in parameters_of(self.spec.get("arguments"))}
        return {**(self.referenced.parameters if self.referenced else {}), **own}

    def own_templates(self) -> Iterator[tuple[str, Json]]:
        """The path and the body of every template in this document."""
        for template in self.spec.get("templates", []):
            yield f"{self.spec_path}.templates[{template['name']}]", template

    def leaves(self) -> Iterator[tuple[str, Json]]:
        return ((path, t) for path, t in self.own_templates() if is_leaf(t))

    def callee(self, caller: Json) -> Json | None:
        """The template that a task, step or hook calls; None if it does not exist."""
        if reference := caller.get("templateRef"):
            other = self.library.get(reference["name"])
            return Document(other).templates.get(reference["template"]) if other else None
        if "inline" in caller:
            inline: Json = caller["inline"]
            return inline
        return self.templates.get(caller.get("template", ""))

    def calls(self) -> Iterator[Call]:
        """Every call by a task, step or hook in this document."""
        for path, template in self.own_templates():
            for inner_path, caller in callers_of(template):
                yield Call(f"{path}.{inner_path}", caller, template)
                for name, hook in caller.get("hooks", {}).items():
                    yield Call(f"{path}.{inner_path}.hooks.{name}", hook, template)
        for name, hook in self.spec.get("hooks", {}).items():
            yield Call(f"{self.spec_path}.hooks.{name}", hook, None)

    def reachable(self, start: str) -> set[str]:
        """The names of the templates that a run can reach from the template `start`."""
        found: set[str] = set()
        waiting = [start]
        while waiting:
            name = waiting.pop()
            if name in found or name not in self.templates:
                continue
            found.add(name)
            for _, caller in callers_of(self.templates[name]):
                hooks = caller.get("hooks", {}).values()
                waiting += [c["template"] for c in (caller, *hooks) if "template" in c]
        return found

    @cached_property
    def exit_only(self) -> set[str]:
        """The templates that only the exit handler reaches, not the entrypoint."""
        return self.reachable(self.spec.get("onExit", "")) - self.reachable(
            self.spec.get("entrypoint", "")
        )


def is_leaf(template: Json) -> bool:
    """Whether a template runs a pod or does other work, instead of calling templates."""
    return any(kind in template for kind in LEAF_KINDS)


def callers_of(template: Json) -> Iterator[tuple[str, Json]]:
    """The DAG tasks or steps of a template, with their paths in it."""
    for task in template.get("dag", {}).get("tasks", []):
        yield f"dag.tasks[{task['name']}]", task
    for number, group in enumerate(template.get("steps", [])):
        for step in group:
            yield f"steps[{number}][{step['name']}]", step


def containers_of(template: Json) -> Iterator[tuple[str, Json]]:
    """Every container of a leaf, with its path in the template."""
    for kind in ("container", "script"):
        if kind in template:
            yield kind, template[kind]
    lists: Mapping[str, list[Json]] = {
        "containerSet.containers": template.get("containerSet", {}).get("containers", []),
        "initContainers": template.get("initContainers", []),
        "sidecars": template.get("sidecars", []),
    }
    for path, containers in lists.items():
        for container in containers:
            yield f"{path}[{container['name']}]", container


def parameters_of(holder: Json | None) -> list[Json]:
    """The parameters of `arguments`, `inputs` or `outputs`, which may be absent."""
    found: list[Json] = (holder or {}).get("parameters", [])
    return found


def artifacts_of(holder: Json | None) -> list[Json]:
    """The artifacts of `arguments`, `inputs` or `outputs`, which may be absent."""
    found: list[Json] = (holder or {}).get("artifacts", [])
    return found


def strings(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Every string value in a document, with its path; keys are left out."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from strings(inner, f"{path}.{key}" if path else key)
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            label = inner["name"] if isinstance(inner, dict) and "name" in inner else number
            yield from strings(inner, f"{path}[{label}]")


def twice(path: str, names: list[str]) -> Iterator[str]:
    """A finding for each name that occurs more than once."""
    for name, count in Counter(names).items():
        if count > 1:
            yield f"{path}: {name} is defined {count} times."
