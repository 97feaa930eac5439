"""Lint rules on names in braces: parameters, task outputs, items and retry variables must exist."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter

from tests.argo_emulator import expressions
from tests.argo_emulator.document import (
    Document,
    Json,
    artifacts_of,
    callers_of,
    is_leaf,
    parameters_of,
    strings,
)
from tests.argo_emulator.expressions import ExpressionError

TAG = re.compile(r"\{\{(.*?)\}\}", re.DOTALL)
RESULTS = ("Succeeded", "Failed", "Errored", "Skipped", "Omitted", "Daemoned")
FAN_OUT_RESULTS = ("AnySucceeded", "AllFailed")
FAN_OUT_FIELDS = ("withParam", "withItems", "withSequence")
RETRY_NAMES = {
    "retries",
    "lastRetry.exitCode",
    "lastRetry.status",
    "lastRetry.duration",
    "lastRetry.message",
}
RUN_NAMES = {
    "workflow.name",
    "workflow.namespace",
    "workflow.uid",
    "workflow.mainEntrypoint",
    "workflow.serviceAccountName",
    "workflow.priority",
    "workflow.duration",
    "workflow.creationTimestamp",
    "workflow.parameters",
    "workflow.parameters.json",
    "workflow.labels.json",
    "workflow.annotations.json",
}
EXIT_NAMES = {"workflow.status", "workflow.failures"}
NODE_FIELDS = ("id", "ip", "status", "exitCode", "startedAt", "finishedAt", "hostNodeName")
METRIC_NAMES = {"status", "duration", "exitCode", "retries", "outputs.result"}


def names_in(text: str) -> Iterator[str]:
    """The dotted names in the tags of a string.

    Raises:
        ExpressionError: a tag cannot be parsed, or its closing braces are missing.
    """
    if "{{" in TAG.sub("", text):  # closing braces alone are not a tag: compact JSON ends with them
        raise ExpressionError(f"{text!r} has braces without their partner")
    for tag in TAG.findall(text):
        if tag.startswith("="):
            yield from expressions.names(expressions.parse(tag[1:]))
        else:
            yield tag.strip()


def references_exist(document: Document) -> Iterator[str]:
    """Every name in braces is defined where it is used."""
    everywhere = _workflow_names(document)
    outside = {key: value for key, value in document.spec.items() if key != "templates"}
    in_hooks = everywhere | EXIT_NAMES
    yield from _unknown(outside.pop("hooks", {}), f"{document.spec_path}.hooks", in_hooks)
    yield from _unknown(outside, document.spec_path, everywhere)
    for path, template in document.own_templates():
        known = everywhere | _input_names(template)
        if template["name"] in document.exit_only:
            known |= EXIT_NAMES
        if "dag" in template or "steps" in template:
            yield from _calling_template(document, path, template, known)
        else:
            yield from _leaf_template(path, template, known)


def _calling_template(
    document: Document, path: str, template: Json, known: set[str]
) -> Iterator[str]:
    before = ancestors(template)
    outputs: set[str] = set()
    prefix = "tasks" if "dag" in template else "steps"
    named = {caller["name"]: caller for _, caller in callers_of(template)}
    for inner_path, caller in callers_of(template):
        visible = set(known)
        for name in before.get(caller["name"], ()):
            visible |= _output_names(document, f"{prefix}.{name}", named[name])
        own = _output_names(document, f"{prefix}.{caller['name']}", caller)
        outputs |= own
        item = {"item"} if any(key in caller for key in FAN_OUT_FIELDS) else set()
        fields = {key: value for key, value in caller.items() if key not in ("hooks", "inline")}
        fan_out = {key: fields.pop(key) for key in FAN_OUT_FIELDS if key in fields}
        yield from _unknown(fan_out, f"{path}.{inner_path}", visible)
        yield from _unknown(fields, f"{path}.{inner_path}", visible | item)
        hooks = caller.get("hooks", {})
        yield from _unknown(hooks, f"{path}.{inner_path}.hooks", visible | own)
    rest = {key: value for key, value in template.items() if key not in ("dag", "steps", "metrics")}
    yield from _unknown(rest, path, known | outputs)


def _leaf_template(path: str, template: Json, known: set[str]) -> Iterator[str]:
    local = {"pod.name", "node.name"}
    for holder in ("inputs", "outputs"):
        for artifact in artifacts_of(template.get(holder)):
            local.add(f"{holder}.artifacts.{artifact['name']}.path")
    for parameter in parameters_of(template.get("outputs")):
        local.add(f"outputs.parameters.{parameter['name']}.path")
    if "retryStrategy" in template:
        local |= RETRY_NAMES
    rest = dict(template)
    metrics = METRIC_NAMES | {
        f"outputs.parameters.{p['name']}" for p in parameters_of(template.get("outputs"))
    }
    yield from _unknown(rest.pop("metrics", {}), f"{path}.metrics", known | local | metrics)
    yield from _unknown(rest, path, known | local)


def _unknown(value: object, path: str, known: set[str]) -> Iterator[str]:
    for place, text in strings(value, path):
        try:
            found = list(names_in(text))
        except ExpressionError as error:
            yield f"{place}: {error}."
            continue
        for name in found:
            if not _is_known(name, known):
                yield f"{place}: {{{{{name}}}}} is not defined here."


def _is_known(name: str, known: set[str]) -> bool:
    if name in known or (name.startswith("item.") and "item" in known):
        return True
    return name.startswith("workflow.creationTimestamp.")


def _workflow_names(document: Document) -> set[str]:
    names = RUN_NAMES | {f"workflow.parameters.{name}" for name in document.parameters}
    metadata = document.body["spec"].get("workflowMetadata", {})
    own = document.metadata if document.kind == "Workflow" else {}
    for kind in ("labels", "annotations"):
        for source in (own, metadata, document.spec.get("workflowMetadata", {})):
            names |= {f"workflow.{kind}.{key}" for key in source.get(kind, {})}
    if document.kind == "CronWorkflow":
        names.add("workflow.scheduledTime")
    for template in document.templates.values():
        for holder, found in (("parameters", parameters_of), ("artifacts", artifacts_of)):
            names |= {
                f"workflow.outputs.{holder}.{output['globalName']}"
                for output in found(template.get("outputs"))
                if "globalName" in output
            }
    return names


def _input_names(template: Json) -> set[str]:
    inputs = template.get("inputs")
    names = {f"inputs.parameters.{p['name']}" for p in parameters_of(inputs)}
    names |= {f"inputs.artifacts.{a['name']}" for a in artifacts_of(inputs)}
    return names | ({"inputs.parameters"} if parameters_of(inputs) else set())


def _output_names(document: Document, prefix: str, caller: Json) -> set[str]:
    """The names of a task or step that later ones may use."""
    names = {f"{prefix}.{field}" for field in NODE_FIELDS}
    callee = document.callee(caller) or {}
    outputs = callee.get("outputs")
    names |= {f"{prefix}.outputs.parameters.{p['name']}" for p in parameters_of(outputs)}
    names |= {f"{prefix}.outputs.artifacts.{a['name']}" for a in artifacts_of(outputs)}
    if is_leaf(callee):
        names.add(f"{prefix}.outputs.result")
    if any(key in caller for key in FAN_OUT_FIELDS):
        names.add(f"{prefix}.outputs.parameters")
    return names


def dependencies(task: Json) -> set[str]:
    """The names of the tasks in `depends` or `dependencies`; they may not exist."""
    if "depends" not in task:
        return set(task.get("dependencies", []))
    # The language reads a hyphen in a task name as minus, so replace it, as Argo does.
    names = expressions.names(expressions.parse(task["depends"].replace("-", "_")))
    return {name.partition(".")[0].replace("_", "-") for name in names}


def ancestors(template: Json) -> dict[str, set[str]]:
    """For each task or step, the names of those that finish before it starts."""
    if "steps" in template:
        found: dict[str, set[str]] = {}
        for group in template["steps"]:
            earlier = set(found)
            found |= {step["name"]: earlier for step in group}
        return found
    direct = {task["name"]: _readable_dependencies(task) for task in template["dag"]["tasks"]}

    def all_before(name: str, seen: set[str]) -> set[str]:
        for other in (direct[name] & set(direct)) - seen:
            seen.add(other)
            all_before(other, seen)
        return seen

    return {name: all_before(name, set()) for name in direct}


def _readable_dependencies(task: Json) -> set[str]:
    try:
        return dependencies(task)
    except ExpressionError:  # `depends_is_sound` reports it
        return set()


def depends_is_sound(document: Document) -> Iterator[str]:
    """Every `depends` can be parsed, names existing tasks and results, and has no cycle."""
    for path, template in document.own_templates():
        tasks = {task["name"]: task for task in template.get("dag", {}).get("tasks", [])}
        for name, task in tasks.items():
            for problem in _depends_problems(task, tasks):
                yield f"{path}.dag.tasks[{name}]: {problem}"
        graph = {name: _readable_dependencies(task) for name, task in tasks.items()}
        try:
            TopologicalSorter(graph).prepare()
        except CycleError as error:
            yield f"{path}.dag: the tasks {' → '.join(error.args[1])} wait for each other."


def _depends_problems(task: Json, tasks: dict[str, Json]) -> Iterator[str]:
    if "dependencies" in task:
        yield "`dependencies` hides what failure does; write `depends`."
        return
    if "depends" not in task:
        return
    if "continueOn" in task:
        yield "`continueOn` is not allowed beside `depends`; write `x.Succeeded || x.Failed`."
    try:
        tree = expressions.parse(task["depends"].replace("-", "_"))
    except ExpressionError as error:
        yield f"depends {error}."
        return
    for node in expressions.walk(tree):
        operators = {"binary": ("&&", "||"), "unary": ("!",)}.get(node.kind)
        if (operators and node.value not in operators) or node.kind in ("call", "list", "ternary"):
            yield f"depends {task['depends']!r} may only use &&, ||, ! and parentheses."
    for name in expressions.names(tree):
        other, _, result = name.partition(".")
        other = other.replace("_", "-")
        if other not in tasks:
            yield f"depends on {other}, which is no task of this DAG."
        elif result and result not in RESULTS + FAN_OUT_RESULTS:
            yield f"depends on {name}; a task's results are {', '.join(RESULTS)}."
        elif result in FAN_OUT_RESULTS and not any(key in tasks[other] for key in FAN_OUT_FIELDS):
            yield f"depends on {name}, but {other} is not fanned out."


def fan_out_is_a_list(document: Document) -> Iterator[str]:
    """Every `withParam` is a JSON list, also if it falls back to the default of an output."""
    for path, template in document.own_templates():
        callers = {caller["name"]: caller for _, caller in callers_of(template)}
        for inner_path, caller in callers_of(template):
            if "withParam" in caller:
                where = f"{path}.{inner_path}.withParam"
                problem = _list_problem(document, template, callers, caller["withParam"])
                if problem:
                    yield f"{where}: {problem}"


def _list_problem(
    document: Document, template: Json, callers: dict[str, Json], text: str
) -> str | None:
    match = re.fullmatch(r"\{\{\s*(\S+?)\s*\}\}", text)
    if not match:
        return (
            None if _is_json_list(text) else f"{text!r} is neither one reference nor a JSON list."
        )
    parts = match[1].split(".")
    if parts[:2] == ["inputs", "parameters"]:
        inputs = {p["name"]: p for p in parameters_of(template.get("inputs"))}
        default = inputs.get(parts[-1], {}).get("default", "[]")
    elif parts[:2] == ["workflow", "parameters"]:
        default = document.parameters.get(parts[-1], {}).get("value", "[]")
    elif parts[0] in ("tasks", "steps") and parts[2:4] == ["outputs", "parameters"]:
        caller = callers.get(parts[1], {})
        if len(parts) == 4 or any(key in caller for key in FAN_OUT_FIELDS):
            return None  # Argo joins the outputs of a fan-out to a list
        outputs = parameters_of((document.callee(caller) or {}).get("outputs"))
        output = next((p for p in outputs if p["name"] == parts[4]), {})
        default = output.get("valueFrom", {}).get("default", "[]")
    else:
        return f"{text} is not an output parameter."
    if not _is_json_list(default):
        return f"the default of {match[1]} is {default!r}, which is not a JSON list."
    return None


def _is_json_list(text: str) -> bool:
    try:
        return isinstance(json.loads(text), list)
    except ValueError:
        return False
