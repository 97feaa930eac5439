"""The lint accepts a sweep, and each rule finds the defect that a test puts into it."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.argo_emulator.lint import lint
from tests.argo_emulator.pods import amount
from tests.argo_emulator.schema import FREE_FORM, LATER_THAN_3_7, definitions, published

SAMPLES = Path(__file__).parent / "samples"
Json = dict[str, Any]
Change = Callable[[Json], object]


@pytest.fixture
def sweep() -> Json:
    return copy.deepcopy(_sweep())


def _sweep() -> Json:
    document: Json = yaml.safe_load((SAMPLES / "sweep.yaml").read_text())
    return document


def template(document: Json, name: str) -> Json:
    spec = document["spec"]
    spec = spec.get("workflowSpec", spec)
    return next(t for t in spec["templates"] if t["name"] == name)


def task(document: Json, dag: str, name: str) -> Json:
    return next(t for t in template(document, dag)["dag"]["tasks"] if t["name"] == name)


def put(path: str, value: object) -> Change:
    """A change that sets a path such as `spec.templates[plan].container.image`; None removes it."""

    def change(document: Json) -> None:
        here: Any = document
        *parents, last = re.findall(r"[^.\[\]]+", path)
        for part in parents:
            here = _child(here, part)
        if value is None:
            del here[last]
        else:
            here[last if isinstance(here, dict) else int(last)] = value

    return change


def _child(here: Any, part: str) -> Any:
    if isinstance(here, dict):
        return here[part]
    named = [item for item in here if isinstance(item, dict) and item.get("name") == part]
    return named[0] if named else here[int(part)]


def broken(change: Change, document: Json | None = None) -> list[str]:
    # Go through YAML text, which turns aliases into copies, so that only one place changes.
    changed = copy.deepcopy(document or _sweep())
    changed = yaml.safe_load(_without_aliases(changed))
    change(changed)
    return lint(changed)


def _without_aliases(document: Json) -> str:
    class Dumper(yaml.SafeDumper):
        def ignore_aliases(self, data: Any) -> bool:
            return True

    return yaml.dump(document, Dumper=Dumper)


def as_template(document: Json, name: str = "svdjobs-sweep") -> Json:
    return {**copy.deepcopy(document), "kind": "WorkflowTemplate", "metadata": {"name": name}}


def nightly(document: Json) -> Json:
    spec = {
        "schedules": ["0 2 * * *"],
        "concurrencyPolicy": "Forbid",
        "workflowSpec": copy.deepcopy(document["spec"]),
    }
    return {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "CronWorkflow",
        "metadata": {"name": "nightly"},
        "spec": spec,
    }


def from_template(name: str = "svdjobs-sweep") -> Json:
    return {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "Workflow",
        "metadata": {"generateName": "sweep-"},
        "spec": {
            "workflowTemplateRef": {"name": name},
            "arguments": {"parameters": [{"name": "store", "value": "s3://b/p"}]},
        },
    }


def test_a_sweep_is_clean_in_every_kind(sweep: Json) -> None:
    assert lint(sweep) == []
    assert lint(as_template(sweep)) == []
    assert lint(nightly(sweep)) == []
    assert lint(from_template(), others=[as_template(sweep)]) == []


T = "spec.templates"
MEMOIZE = {"key": "x", "maxAge": "1h", "cache": {"configMap": {"name": "c"}}}
SCHEMA_BREAKS: list[tuple[Change, str]] = [
    (put(f"{T}[plan].container.imagee", "x"), r"templates\[plan\].container: .*'imagee'"),
    (put(f"{T}[plan].container.env[HOME].value", 1), r"env\[HOME\].value: 1 is not of type"),
    (put("spec.arguments.parameters[gpus].value", 1), r"parameters\[gpus\].value: 1 is not"),
    (put(f"{T}[plan].outputs.parameters[alphas].valueFrom.default", 0), "default: 0 is not"),
    (put("spec.synchronization", {"mutex": {"name": "m"}}), "synchronization: .*'mutex'"),
    (put("spec.synchronization", {"semaphore": {}}), "synchronization: .*'semaphore'"),
    (put("spec.podGC.strategy", "OnSuccess"), "podGC.strategy: 'OnSuccess' is not one of"),
    (put(f"{T}[plan].retryStrategy.retryPolicy", "Often"), "retryPolicy: 'Often' is not one of"),
    (put("apiVersion", "argoproj.io/v1"), "apiVersion: 'argoproj.io/v1alpha1' was expected"),
    (put(f"{T}[plan].pendingTimeout", "10m"), r"templates\[plan\]: .*'pendingTimeout'"),
    (put(f"{T}[plan].retryStrategy.limit", [3]), r"limit: \[3\] is not of type"),
]


@pytest.mark.parametrize(("change", "finding"), SCHEMA_BREAKS)
def test_the_strict_schema_finds(change: Change, finding: str) -> None:
    found = broken(change)
    assert len(found) == 1
    assert re.search(finding, found[0])


def test_singular_schedule_is_refused(sweep: Json) -> None:
    document = nightly(sweep)
    document["spec"]["schedule"] = "0 2 * * *"
    assert re.search("^spec: .*'schedule' was unexpected", lint(document)[0])


@pytest.mark.parametrize("limit", [3, "3"])
def test_an_integer_or_string_may_be_both(limit: int | str) -> None:
    assert broken(put(f"{T}[plan].retryStrategy.limit", limit)) == []


def test_compact_json_in_a_patch_is_no_tag() -> None:
    patch = '{"containers":[{"name":"main","resources":{"limits":{"nvidia.com/gpu":"1"}}}]}'
    assert broken(put(f"{T}[evaluate].podSpecPatch", patch)) == []


def test_fields_that_3_7_lacks_are_left_out_of_what_hera_knows() -> None:
    known = published()
    for name, fields in LATER_THAN_3_7.items():
        assert set(fields) <= set(known[name]["properties"])
        assert not set(fields) & set(definitions()[name]["properties"])


def test_every_object_is_closed_and_nothing_may_be_null() -> None:
    objects = {name for name, one in definitions().items() if one.get("type") == "object"}
    closed = {n for n in objects if definitions()[n].get("additionalProperties") is False}
    assert objects - closed == FREE_FORM
    assert len(closed) > 150
    assert '"null"' not in json.dumps(definitions())


ARGS = f"{T}[plan].container.args[0]"
DECOMPOSE = f"{T}[sweep].dag.tasks[decompose]"
REPORT = f"{T}[sweep].dag.tasks[report]"
EVALUATE = f"{T}[evaluate]"
RULE_BREAKS: list[tuple[Change, str]] = [
    # references to templates
    (put("spec.entrypoint", "swep"), "spec.entrypoint: there is no template swep"),
    (put("spec.onExit", "notfy"), "spec.onExit: there is no template notfy"),
    (put(f"{REPORT}.template", "reprot"), r"tasks\[report\]: there is no template reprot"),
    (put(f"{REPORT}.onExit", "notify"), r"tasks\[report\].onExit: it is deprecated"),
    (put(f"{REPORT}.inline", {"suspend": {}}), r"tasks\[report\].inline: write it as a template"),
    (put("spec.hooks", {"running": {"template": "x", "expression": "true"}}), "no template x"),
    # arguments
    (
        put(f"{DECOMPOSE}.arguments.parameters[0].name", "untt"),
        "decompose needs the parameter unit",
    ),
    (put(f"{DECOMPOSE}.arguments.parameters[0].name", "untt"), "has no input parameter untt"),
    (put(f"{T}[plan].inputs.artifacts[config].raw", None), "plan needs the artifact config"),
    (
        put(f"{T}[sweep].inputs", {"parameters": [{"name": "x"}]}),
        "sweep needs the parameter x, which is no workflow parameter",
    ),
    # names in braces
    (put(ARGS, "{{workflow.parameters.stor}}"), r"workflow.parameters.stor\}\} is not defined"),
    (put(ARGS, "{{inputs.parameters.unit}}"), r"inputs.parameters.unit\}\} is not defined"),
    (put(ARGS, "{{tasks.plan.outputs.parameters.alphas}}"), "is not defined here"),
    (put(ARGS, "{{item}}"), r"\{\{item\}\} is not defined"),
    (put(ARGS, "{{workflow.status}}"), r"\{\{workflow.status\}\} is not defined"),
    (put(f"{T}[notify].container.args[0]", "{{retries}}"), r"\{\{retries\}\} is not defined"),
    (put(ARGS, "{{workflow.labels.team}}"), "workflow.labels.team"),
    (put(ARGS, "{{workflow.scheduledTime}}"), "workflow.scheduledTime"),
    (put(ARGS, "{{=workflow.parameters['stor']}}"), "workflow.parameters.stor"),
    (put(ARGS, "{{=workflow.name +}}"), "cannot be read at its end"),
    (put(ARGS, "{{workflow.name}"), "braces without their partner"),
    (put("spec.podMetadata", {"labels": {"a": "{{inputs.parameters.x}}"}}), "inputs.parameters.x"),
    (
        put(f"{DECOMPOSE}.withParam", "{{tasks.plan.outputs.parameters.units}}"),
        "tasks.plan.outputs.parameters.units",
    ),
    (put(f"{DECOMPOSE}.depends", None), "tasks.plan.outputs.parameters.decompose-units"),
    (put(f"{DECOMPOSE}.withParam", None), r"\{\{item\}\} is not defined"),
    (
        put(f"{T}[alpha].dag.tasks[blend].arguments.parameters[0].value", "{{tasks.evaluate.id}}"),
        "tasks.evaluate.id",
    ),
    # depends
    (put(f"{REPORT}.depends", "alpha.Succeeded |"), "cannot be read"),
    (put(f"{REPORT}.depends", "alpa.Succeeded"), "depends on alpa, which is no task"),
    (put(f"{REPORT}.depends", "alpha.Done"), "depends on alpha.Done; a task's results are"),
    (put(f"{REPORT}.depends", "plan.AnySucceeded"), "plan is not fanned out"),
    (put(f"{REPORT}.depends", "alpha.Succeeded == true"), "may only use &&"),
    (put(f"{REPORT}.continueOn", {"failed": True}), "`continueOn` is not allowed"),
    (put(f"{T}[sweep].dag.tasks[plan].depends", "report"), "wait for each other"),
    (put(f"{T}[sweep].dag.tasks[plan].dependencies", ["report"]), "`dependencies` hides"),
    # fan-out
    (
        put(f"{T}[plan].outputs.parameters[alphas].valueFrom.default", "none"),
        "default of tasks.plan.outputs.parameters.alphas is 'none'",
    ),
    (put(f"{DECOMPOSE}.withParam", "a0200"), "neither one reference nor a JSON list"),
    (put(f"{DECOMPOSE}.withParam", "{{tasks.plan.status}}"), "is not an output parameter"),
    # retries
    (put(f"{T}[plan].retryStrategy.expression", "lastRetry.code == '1'"), "lastRetry.code is not"),
    (put(f"{T}[plan].retryStrategy.backoff.maxDuration", "10m"), "counts from the first attempt"),
    (put(f"{T}[plan].retryStrategy.expression", "asInteger('1') > 0"), r"asInteger\(\) is not"),
    (put(f"{T}[plan].retryStrategy.expression", "true |"), "retryStrategy.expression: 'true |'"),
    (
        put(f"{T}[plan].retryStrategy.expression", "lastRetry.exitCode == 75"),
        "not retry exit code 75",
    ),
    (
        put(f"{T}[plan].retryStrategy.expression", 'lastRetry.exitCode in ["75", "143", "-1"]'),
        "it retries exit code 143, 'Pod was active on the node longer",
    ),
    (put(f"{T}[plan].retryStrategy.expression", "lastRetry.exitCode > 4"), "failed: TypeError"),
    (put(f"{T}[alpha].retryStrategy", {"limit": "1"}), "belongs on leaf templates"),
    (put("spec.retryStrategy", {"limit": "1"}), "spec.retryStrategy: a retry strategy belongs"),
    (put("spec.templateDefaults", {"retryStrategy": {}}), "spec.templateDefaults: a retry"),
    # leaves
    (put(f"{T}[plan].suspend", {}), "it is container and suspend"),
    (put(f"{T}[plan].container.command", None), "plan].container: it has no command"),
    (put(f"{T}[plan].container.image", "a/svdjobs"), "a/svdjobs has no fixed tag"),
    (put(f"{T}[plan].container.image", "host:5000/svdjobs:latest"), "has no fixed tag"),
    (put(f"{T}[plan].container.image", "{{workflow.parameters.store}}"), "only known when it runs"),
    (put("spec.arguments.parameters[image].value", "svdjobs:latest"), "has no fixed tag"),
    (put(f"{T}[plan].container.resources", None), "requests: it has no cpu"),
    (put(f"{T}[plan].container.resources.limits.memory", None), "limits: it has no memory"),
    (
        put(f"{T}[plan].container.resources.limits.memory", "{{workflow.parameters.gpus}}Gi"),
        "limits.memory: an expression here",
    ),
    (put(f"{T}[plan].container.resources.requests.memory", "2Gi"), "memory is above its limit 1Gi"),
    (put(f"{T}[plan].container.resources.requests.cpu", "one"), "'one' is not a quantity"),
    (
        put(f"{T}[plan].container.securityContext.allowPrivilegeEscalation", None),
        "allowPrivilegeEscalation is not false",
    ),
    (put(f"{T}[plan].container.securityContext.privileged", True), "privileged is true"),
    (
        put(f"{T}[plan].container.securityContext.readOnlyRootFilesystem", False),
        "readOnlyRootFilesystem is not true",
    ),
    (put(f"{T}[plan].container.securityContext.capabilities", None), "capabilities is not"),
    (put("spec.securityContext.runAsNonRoot", None), "runAsNonRoot is not true"),
    (put("spec.securityContext.runAsUser", 0), "runAsUser is 0"),
    (put("spec.securityContext.seccompProfile", None), "seccompProfile.type is not"),
    (put("spec.hostNetwork", True), "spec.hostNetwork: the restricted"),
    # names
    (put("metadata.generateName", "Sample-"), "'Sample' is not a valid name"),
    (put(f"{T}[notify].name", "Notify"), "'Notify' is not a valid name"),
    (put(f"{REPORT}.name", "2nd"), "'2nd' is not a valid task name"),
    (put(f"{REPORT}.name", "plan"), "plan is defined 2 times"),
    (put(f"{T}[report].name", "plan"), "plan is defined 2 times"),
    (put("spec.arguments.parameters[gpus].name", "g.p"), "'g.p' is not a valid name"),
    (put("metadata.generateName", f"{'s' * 40}-"), "decompose gets a name of 67 characters"),
    # volumes, environment, outputs
    (put(f"{T}[plan].container.volumeMounts[0].name", "sratch"), "there is no volume sratch"),
    (
        put(
            f"{T}[plan].container.volumeMounts",
            [{"name": "scratch", "mountPath": "/s"}, {"name": "scratch", "mountPath": "/s"}],
        ),
        "/s is defined 2 times",
    ),
    (put("spec.volumes[scratch].emptyDir", {}), "emptyDir has no sizeLimit"),
    (put("spec.volumes[scratch].hostPath", {"path": "/"}), "forbids hostPath"),
    (
        put(f"{T}[plan].container.env", [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]),
        "A is defined 2 times",
    ),
    (
        put(f"{T}[plan].outputs.parameters[alphas].valueFrom.default", None),
        r"parameters\[alphas\].valueFrom: it has no default",
    ),
    (put("spec.artifactGC", {"strategy": "OnWorkflowDeletion"}), "artifactGC is not used"),
    (put(f"{T}[plan].memoize", MEMOIZE), "memoize is not used"),
    # patches
    (put(f"{EVALUATE}.podSpecPatch", "a: ["), "it must be YAML or JSON"),
    (put(f"{EVALUATE}.podSpecPatch", "plain"), "it is str, not an object"),
    (put(f"{EVALUATE}.podSpecPatch", "runtimeClass: nvidia"), "runtimeClass is not a field"),
    (
        put(f"{EVALUATE}.podSpecPatch", '{"containers": [{"name": "main", "resource": {}}]}'),
        r"podSpecPatch.containers\[main\].*'resource'",
    ),
    (put("spec.podMetadata", {"labels": {"{{workflow.name}}": "x"}}), "an expression in a key"),
]


@pytest.mark.parametrize(("change", "finding"), RULE_BREAKS, ids=[b[1][:40] for b in RULE_BREAKS])
def test_a_rule_finds(change: Change, finding: str) -> None:
    found = broken(change)
    assert any(re.search(finding, text) for text in found), found


def test_references_to_workflow_templates(sweep: Json) -> None:
    assert lint(from_template()) == [
        "spec.workflowTemplateRef: there is no WorkflowTemplate svdjobs-sweep."
    ]
    document = from_template()
    document["spec"]["arguments"]["parameters"][0]["name"] = "stroe"
    assert lint(document, others=[as_template(sweep)]) == [
        "spec.arguments.parameters[stroe]: svdjobs-sweep declares no such parameter."
    ]
    call = {"name": "other", "templateRef": {"name": "svdjobs-sweep", "template": "plam"}}
    template(sweep, "sweep")["dag"]["tasks"].append(call)
    others = [as_template(_sweep())]
    assert "there is no template {'name': 'svdjobs-sweep', 'template': 'plam'}" in str(
        lint(sweep, others)
    )
    call["templateRef"] = {"name": "svdjobs-sweep", "template": "plan"}
    assert lint(sweep, others) == []


def test_cron_workflows(sweep: Json) -> None:
    document = nightly(sweep)
    document["metadata"]["name"] = "n" * 53
    del document["spec"]["concurrencyPolicy"]
    document["spec"]["when"] = "{{=workflow.name == 'x'}}"
    found = lint(document)
    assert any("longer than 52 characters" in text for text in found)
    assert "spec: it has no concurrencyPolicy." in found
    assert any("is not a variable of a CronWorkflow" in text for text in found)


def test_exit_variables_are_known_only_after_the_work(sweep: Json) -> None:
    tasks = template(sweep, "sweep")["dag"]["tasks"]
    tasks.append({"name": "tell", "template": "notify"})
    assert lint(sweep) == [
        "spec.templates[notify].container.args[2]: {{workflow.status}} is not defined here."
    ]


def test_another_kind_is_refused() -> None:
    assert lint({"kind": "Job"}) == [
        "kind: 'Job' is not one of Workflow, WorkflowTemplate, CronWorkflow."
    ]


def test_quantities() -> None:
    assert amount("500m") == 0.5
    assert amount("1Gi") == 2**30
    assert amount(2) == 2
    assert amount("1GB") is None
