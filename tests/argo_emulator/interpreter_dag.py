"""Run DAG templates: which tasks may start, fan-outs, and the phase of the DAG."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from tests.argo_emulator import expressions
from tests.argo_emulator.document import Document, Json, artifacts_of, parameters_of
from tests.argo_emulator.expressions import ExpressionError
from tests.argo_emulator.references import TAG, dependencies
from tests.argo_emulator.substitution import is_true, substitute
from tests.cluster.pods import ERROR, FAILED, SUCCEEDED
from tests.cluster.run_tree import COMPLETED, OMITTED, SKIPPED, UNSUCCESSFUL, Node, UnsupportedError

CallTemplate = Callable[[str, str, Json], Awaitable[Node]]


class Dag:
    """A run of one DAG template: each task is a coroutine that waits for its dependencies."""

    def __init__(
        self,
        document: Document,
        node: Node,
        template: Json,
        scope: Json,
        call: CallTemplate,
    ) -> None:
        self.document = document
        self.call = call
        self.node = node
        self.template = template
        self.visible = scope  # workflow variables and the inputs of this template
        self.tasks: dict[str, Json] = {task["name"]: task for task in template["dag"]["tasks"]}
        self.before = {
            name: dependencies(task) & set(self.tasks) for name, task in self.tasks.items()
        }
        self.done = {name: asyncio.Event() for name in self.tasks}
        self.nodes: dict[str, Node] = {}
        self.fail_fast: bool = template["dag"].get("failFast", True)
        self.targets = _targets(template, self.before)

    async def run(self) -> None:
        """Run every task that may run, then set the phase and outputs of the node."""
        async with asyncio.TaskGroup() as group:
            for name in self.tasks:
                group.create_task(self.task(name))
        self.node.children = [self.nodes[name] for name in self.tasks if name in self.nodes]
        self.node.phase = self.phase()
        if self.node.phase == SUCCEEDED:
            self.node.outputs = self.outputs()

    async def task(self, name: str) -> None:
        for other in self.before[name]:
            await self.done[other].wait()
        if not self.stopped():
            task = self.tasks[name]
            node = self.nodes[name] = Node(f"{self.node.name}.{name}", task.get("template", ""))
            try:
                self.nodes[name] = await self.start(node, task)
            except ExpressionError as error:
                node.phase, node.message = ERROR, str(error)
        self.done[name].set()

    def stopped(self) -> bool:
        """Whether the DAG starts no more tasks: it has failFast, and a leaf task has failed."""
        ended = [self.nodes[name].phase for name in self.targets if name in self.nodes]
        return self.fail_fast and any(phase in UNSUCCESSFUL for phase in ended)

    async def start(self, node: Node, task: Json) -> Node:
        if unsupported := sorted({"hooks", "inline", "templateRef", "withSequence"} & set(task)):
            raise UnsupportedError(f"the task {node.name} has {unsupported[0]}")
        if not self.should_run(task):
            node.phase, node.message = OMITTED, "omitted: depends condition not met"
            return node
        scope = self.scope(task["name"])
        items = self.items(task, scope)
        if items is None:
            return await self.one(node, task, scope)
        if not items:
            node.phase, node.message = SKIPPED, "Skipped, empty params"
            return node
        await self.fan_out(node, task, scope, items)
        return node

    def should_run(self, task: Json) -> bool:
        if not self.before[task["name"]]:
            return True
        results = {name.replace("-", "_"): _results(self.nodes.get(name)) for name in self.tasks}
        logic = task.get("depends") or " && ".join(task["dependencies"])
        tree = _expand(expressions.parse(logic.replace("-", "_")))
        return bool(expressions.evaluate_tree(tree, results))

    def items(self, task: Json, scope: Json) -> list[Any] | None:
        if "withItems" in task:
            return list(substitute(task["withItems"], scope))
        if "withParam" not in task:
            return None
        text = substitute(task["withParam"], scope)
        try:
            found = json.loads(text)
        except ValueError:
            found = None
        if not isinstance(found, list):
            raise ExpressionError(f"withParam value could not be parsed as a JSON list: {text}")
        return found

    async def fan_out(self, node: Node, task: Json, scope: Json, items: list[Any]) -> None:
        node.is_group = True
        started = asyncio.get_running_loop().time()
        names = [f"{node.name}({number}:{_label(item)})" for number, item in enumerate(items)]
        node.children = [Node(name, node.template) for name in names]

        async def one(number: int) -> None:
            if not self.stopped():
                child = node.children[number]
                try:
                    item_scope = {**scope, **_item_scope(items[number])}
                    node.children[number] = await self.one(child, task, item_scope)
                except ExpressionError as error:
                    child.phase, child.message = ERROR, str(error)

        async with asyncio.TaskGroup() as group:
            for number in range(len(items)):
                group.create_task(one(number))
        node.seconds = asyncio.get_running_loop().time() - started
        failed = [child.phase for child in node.children if child.phase in UNSUCCESSFUL]
        node.phase = failed[-1] if failed else SUCCEEDED

    async def one(self, node: Node, task: Json, scope: Json) -> Node:
        if "when" in task and not is_true(condition := substitute(task["when"], scope)):
            node.phase, node.message = SKIPPED, f"when '{condition}' evaluated false"
            return node
        if artifacts_of(task.get("arguments")):
            raise UnsupportedError(f"the task {node.name} is given artifacts")
        arguments = {
            "parameters": [
                {**parameter, "value": _argument(parameter["value"], scope)}
                for parameter in parameters_of(task.get("arguments"))
            ]
        }
        return await self.call(node.name, task["template"], arguments)

    def scope(self, name: str) -> Json:
        """The names that the fields of a task may use, with outputs of all tasks before it."""
        found: Json = dict(self.visible)
        for other in self.ancestors(name):
            found |= self.task_scope(other)
        return found

    def ancestors(self, name: str) -> set[str]:
        direct = self.before[name]
        return direct.union(*(self.ancestors(other) for other in direct))

    def task_scope(self, name: str) -> Json:
        node, prefix = self.nodes[name], f"tasks.{name}"
        found: Json = {f"{prefix}.status": node.phase}
        if node.is_group:
            return found | _aggregate(prefix, node)
        outputs = node.outputs
        if node.phase in (SKIPPED, OMITTED):
            callee = self.document.templates.get(node.template, {})
            declared = parameters_of(callee.get("outputs"))
            outputs = {p["name"]: p.get("valueFrom", {}).get("default") for p in declared}
        for key, value in (outputs or {}).items():
            found[f"{prefix}.outputs.parameters.{key}"] = value
        if node.attempts:
            found[f"{prefix}.exitCode"] = node.attempts[-1].exit_code
        return found

    def phase(self) -> str:
        """The phase of the DAG: Succeeded, unless a leaf task has failed."""
        found = SUCCEEDED
        for target in sorted(self.targets):
            failed = [phase for phase in self.branch(target) if phase in UNSUCCESSFUL]
            if failed:
                found = failed[0]
                if self.fail_fast:
                    break
        return found

    def branch(self, name: str) -> list[str]:
        """The phases that a task contributes: its own, or those before it if it did not run."""
        node = self.nodes.get(name)
        if node is not None and node.phase in COMPLETED:
            return [node.phase]
        before = sorted(self.before[name])
        return [phase for other in before for phase in self.branch(other)] or [SUCCEEDED]

    def outputs(self) -> dict[str, str]:
        scope: Json = dict(self.visible)
        for name in self.nodes:
            scope |= self.task_scope(name)
        found = {}
        for parameter in parameters_of(self.template.get("outputs")):
            source = parameter.get("valueFrom", {})
            if "parameter" not in source:
                raise UnsupportedError(f"the output {parameter['name']} of {self.node.name}")
            found[parameter["name"]] = substitute(source["parameter"], scope)
        return found


def _targets(template: Json, before: Mapping[str, set[str]]) -> list[str]:
    if target := template["dag"].get("target"):
        return str(target).split()
    return [name for name in before if not any(name in others for others in before.values())]


def _results(node: Node | None) -> dict[str, bool]:
    """The results of a finished task that `depends` may use (dag.go, evaluateDependsLogic)."""
    phase = node.phase if node else ""
    phases = [child.phase for child in node.children] if node and node.is_group else []
    return {
        "Succeeded": phase == SUCCEEDED,
        "Failed": phase == FAILED,
        "Errored": phase == ERROR,
        "Skipped": phase == SKIPPED,
        "Omitted": phase == OMITTED,
        "Daemoned": False,
        "AnySucceeded": SUCCEEDED in phases,
        "AllFailed": bool(phases) and set(phases) == {FAILED},
    }


def _expand(node: expressions.Node) -> expressions.Node:
    """Expand a bare task name to (Succeeded || Skipped); no task here is Daemoned."""
    if node.kind == "member":
        return node
    if node.kind == "name":
        succeeded, skipped = (
            expressions.Node("member", None, (node, expressions.Node("constant", result)))
            for result in ("Succeeded", "Skipped")
        )
        return expressions.Node("binary", "||", (succeeded, skipped))
    return node._replace(children=tuple(_expand(child) for child in node.children))


def _argument(value: str, scope: Json) -> str | None:
    """The value of an argument; None if it is only a missing output: the template's default
    holds."""
    tag = TAG.fullmatch(value)
    if tag and (name := tag[1].strip()) in scope and scope[name] is None:
        return None
    return str(substitute(value, scope))


def _label(item: Any) -> str:
    if isinstance(item, dict):
        return ",".join(sorted(f"{key}:{value}" for key, value in item.items()))
    return str(item).replace("(", "").replace(")", "")


def _item_scope(item: Any) -> dict[str, str]:
    if isinstance(item, dict):
        return {"item": json.dumps(item), **{f"item.{k}": _text(v) for k, v in item.items()}}
    return {"item": _text(item)}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _aggregate(prefix: str, group: Node) -> dict[str, str]:
    """The outputs of the successful items, as JSON lists in the order of the items."""
    outputs = [c.outputs for c in group.children if c.phase == SUCCEEDED and c.outputs]
    found = {f"{prefix}.outputs.parameters": json.dumps(outputs)}
    for name in {name for output in outputs for name in output}:
        values = [output[name] for output in outputs if name in output]
        found[f"{prefix}.outputs.parameters.{name}"] = json.dumps(values)
    return found
