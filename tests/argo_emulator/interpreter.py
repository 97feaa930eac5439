"""Run the containers of a Workflow as local processes, with the same phases as Argo 3.7.

`run_workflow(document, parameters=…, directory=…, commands=…)` returns a tree of nodes. It models
these parts of Argo (names in brackets are from its sources in workflow/controller):

- DAGs: `depends` on task results, omitted and skipped tasks. The phase of a DAG is that of its leaf
  tasks; an omitted leaf task takes the phase of its branch (dag.go, assessDAGPhase);
- `withParam` and `withItems`: a failed item fails the group, and the others continue
  (executeDAGTask);
- `when`, nested DAGs, input and output parameters with defaults, outputs of skipped tasks;
- retries: policy, limit, then expression (operator.go, processNodeRetries), without the backoff;
- `spec.parallelism`, activeDeadlineSeconds, the exit handler and its effect on the phase.

Steps, scripts, suspend, task hooks and artifacts between tasks are refused. Semaphores,
podSpecPatch, resources and a template's own `parallelism` are ignored.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.argo_emulator import expressions
from tests.argo_emulator.document import Document, Json, artifacts_of, parameters_of
from tests.argo_emulator.expressions import ExpressionError
from tests.argo_emulator.interpreter_dag import Dag
from tests.argo_emulator.substitution import nested, substitute
from tests.cluster.pods import ERROR, FAILED, SUCCEEDED, Machine, Pod
from tests.cluster.run_tree import COMPLETED, UNSUCCESSFUL, Node, Run, UnsupportedError, failures

RUN_NAME = "sweep-local"
UNSUPPORTED = {"steps", "script", "suspend", "containerSet", "http", "resource", "data", "plugin"}

OnStart = Callable[[Node, Pod], Any]


def run_workflow(
    document: Json,
    *,
    directory: Path,
    parameters: Mapping[str, str] | None = None,
    commands: Mapping[str, Sequence[str]] | None = None,
    environment: Mapping[str, str] | None = None,
    parallelism: int = 2,
    on_start: OnStart | None = None,
    others: Sequence[Json] = (),
    timeout_seconds: float = 600,
) -> Run:
    """Run a Workflow (or the one in a WorkflowTemplate or CronWorkflow) and return its tree.

    Args:
        document: The document.
        directory: Gets a folder for each pod, with its files and its log.
        parameters: Values of workflow parameters; they override those in the document.
        commands: The program that runs instead of a container's command: {"svdjobs": ["sh", …]}.
            Without an entry, `svdjobs` itself runs (`tests/forked.py`).
        environment: The variables of every pod, with secrets. It inherits no others but PATH.
        parallelism: The largest number of pods at a time; the document may lower it.
        on_start: Called in a thread with each pod that starts; it may disrupt the pod.
        others: The WorkflowTemplates that the document refers to.
        timeout_seconds: After this time all pods are killed and TimeoutError is raised.
    """
    machine = Machine(directory, commands or {}, environment or {})
    subject = Document(document, others)
    values = {
        name: (parameters or {}).get(name, parameter.get("value"))
        for name, parameter in subject.parameters.items()
    }
    if lacking := sorted(name for name, value in values.items() if value is None):
        raise ExpressionError(f"the workflow's parameters {', '.join(lacking)} have no value")
    if unknown := sorted(set(parameters or {}) - set(values)):
        raise ExpressionError(f"the workflow has no parameters {', '.join(unknown)}")
    interpreter = _Interpreter(subject, machine, values, parallelism, on_start)
    try:
        return asyncio.run(asyncio.wait_for(interpreter.run(), timeout_seconds))
    except BaseExceptionGroup as group:  # from nested DAGs; a test needs the cause
        first: BaseException = group
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        raise first from None


class _Interpreter:
    def __init__(
        self,
        document: Document,
        machine: Machine,
        values: Mapping[str, str | None],
        parallelism: int,
        on_start: OnStart | None,
    ) -> None:
        inherited = document.referenced.spec if document.referenced else {}
        self.spec: Json = {**inherited, **document.spec}
        self.document = document
        self.machine = machine
        self.on_start = on_start
        self.pods = 0
        self.room = asyncio.Semaphore(min(parallelism, self.spec.get("parallelism", parallelism)))
        self.globals: dict[str, str | None] = {
            "workflow.name": RUN_NAME,
            "workflow.namespace": "local",
            "workflow.uid": "00000000-0000-0000-0000-000000000000",
            "workflow.creationTimestamp": "2026-01-01T00:00:00Z",
            "workflow.serviceAccountName": self.spec.get("serviceAccountName", "default"),
            "workflow.mainEntrypoint": self.spec["entrypoint"],
            **{f"workflow.parameters.{name}": value for name, value in values.items()},
        }
        self.arguments = {"parameters": [{"name": n, "value": v} for n, v in values.items()]}

    async def run(self) -> Run:
        root = await self.call(RUN_NAME, self.spec["entrypoint"], self.arguments)
        phase = root.phase if root.phase in COMPLETED else SUCCEEDED
        if "onExit" not in self.spec:
            return Run(phase, root, None)
        self.globals["workflow.status"] = phase
        # Encoded twice, as in Argo, so that the value is one string inside JSON and YAML.
        self.globals["workflow.failures"] = json.dumps(json.dumps(failures(root) or None))
        name = f"{RUN_NAME}.onExit"
        exit_node = await self.call(name, self.spec["onExit"], self.arguments)
        if phase == SUCCEEDED and exit_node.phase in UNSUCCESSFUL:
            phase = exit_node.phase
        return Run(phase, root, exit_node)

    async def call(self, name: str, template_name: str, arguments: Json) -> Node:
        """Run a template with arguments in which the expressions have been substituted."""
        node = Node(name, template_name)
        started = asyncio.get_running_loop().time()
        try:
            template = self.template(template_name)
            given = {p["name"]: p["value"] for p in parameters_of(arguments)}
            inputs = _inputs(template, given)
            if "dag" in template:
                scope = {**self.globals, **inputs}
                await Dag(self.document, node, template, scope, self.call).run()
            else:
                await self.leaf(node, template, inputs)
        except ExpressionError as error:
            node.phase, node.message = ERROR, str(error)
        node.seconds = asyncio.get_running_loop().time() - started
        return node

    def template(self, name: str) -> Json:
        template = self.document.templates.get(name)
        if template is None:
            raise UnsupportedError(f"there is no template {name}")
        if unsupported := sorted(UNSUPPORTED & set(template)):
            raise UnsupportedError(f"the template {name} is of kind {unsupported[0]}")
        return template

    async def leaf(self, node: Node, template: Json, inputs: Json) -> None:
        for artifact in artifacts_of(template.get("inputs")):
            if "raw" not in artifact and not artifact.get("optional"):
                raise UnsupportedError(f"the artifact {artifact['name']} of {node.name} is not raw")
        strategy = template.get("retryStrategy")
        while True:
            await self.attempt(node, template, inputs)
            last = node.attempts[-1]
            node.phase, node.message, node.outputs = last.phase, last.message, last.outputs
            if last.phase == SUCCEEDED or strategy is None:
                return
            if reason := _no_retry(substitute(strategy, {**self.globals, **inputs}), node):
                node.message = reason
                return

    async def attempt(self, node: Node, template: Json, inputs: Json) -> None:
        scope = {**self.globals, **inputs, **_retry_scope(node), **_paths(template)}
        fields = ("name", "inputs", "outputs", "container", "activeDeadlineSeconds")
        filled = substitute({key: template[key] for key in fields if key in template}, scope)
        on_start = self.on_start
        hook = (lambda pod: on_start(node, pod)) if on_start else None
        async with self.room:
            self.pods += 1
            node.attempts.append(await self.machine.run(filled, self.pods, hook))


def _inputs(template: Json, given: Mapping[str, str | None]) -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for parameter in parameters_of(template.get("inputs")):
        name = parameter["name"]
        own = parameter.get("value", parameter.get("default"))
        value = given[name] if given.get(name) is not None else own
        if value is None:
            raise ExpressionError(f"inputs.parameters.{name} of {template['name']} has no value")
        found[f"inputs.parameters.{name}"] = value
    return found


def _paths(template: Json) -> dict[str, str]:
    """The variables with paths that a pod may use, such as `outputs.parameters.X.path`."""
    found = {}
    for holder in ("inputs", "outputs"):
        for artifact in artifacts_of(template.get(holder)):
            found[f"{holder}.artifacts.{artifact['name']}.path"] = artifact["path"]
    for parameter in parameters_of(template.get("outputs")):
        if path := parameter.get("valueFrom", {}).get("path"):
            found[f"outputs.parameters.{parameter['name']}.path"] = path
    return found


def _retry_scope(node: Node) -> dict[str, str]:
    if not node.attempts:
        return {"retries": "0"}
    last = node.attempts[-1]
    return {
        "retries": str(len(node.attempts)),
        "lastRetry.exitCode": last.exit_code,
        "lastRetry.status": last.phase,
        "lastRetry.duration": str(last.seconds),
        "lastRetry.message": last.message,
    }


def _no_retry(strategy: Json, node: Node) -> str:
    """Why a failed leaf is not retried, or an empty text (operator.go, processNodeRetries)."""
    expression = strategy.get("expression", "")
    policy = strategy.get("retryPolicy", "Always" if expression else "OnFailure")
    phase = node.attempts[-1].phase
    if policy not in ("Always", {FAILED: "OnFailure", ERROR: "OnError"}[phase]):
        return node.message
    if "limit" in strategy and len(node.attempts) > int(strategy["limit"]):
        return "No more retries left"
    if expression:
        # In the expression, `retries` is one less than {{retries}} in the template.
        scope = {**_retry_scope(node), "retries": str(len(node.attempts) - 1)}
        if not expressions.evaluate(expression, nested(scope)):
            return "retryStrategy.expression evaluated to false"
    return ""
