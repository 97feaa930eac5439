"""The interpreter runs small workflows of shell commands with Argo's phases, retries and outputs.

A real controller (3.7.18) gave the phases, exit codes and messages that are asserted here for the
fan-out with a failed item, the nested DAGs, the missing output, the empty list, the deletions, the
deadline and the OOM kill.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.argo_emulator.expressions import ExpressionError
from tests.argo_emulator.interpreter import run_workflow
from tests.cluster import pods
from tests.cluster.pods import Disruption, Pod
from tests.cluster.run_tree import Node, Run, UnsupportedError

Json = dict[str, Any]
SAMPLES = Path(__file__).parent / "samples"
FAIL_ON_B = 'test "{{inputs.parameters.item}}" != b'


def shell(name: str, script: str, *inputs: str, **more: Any) -> Json:
    mounts = [{"name": "scratch", "mountPath": "/scratch"}]
    command = {"command": ["sh", "-c"], "args": [script], "volumeMounts": mounts}
    container = {"image": "shell:1", **command}
    parameters = [{"name": item} for item in inputs]
    return {"name": name, "inputs": {"parameters": parameters}, "container": container, **more}


def task(name: str, template: str = "", arguments: Json | None = None, **more: Any) -> Json:
    given = [{"name": key, "value": value} for key, value in (arguments or {}).items()]
    return {
        "name": name,
        "template": template or name,
        "arguments": {"parameters": given},
        **more,
    }


def workflow(tasks: list[Json], *templates: Json, **spec: Any) -> Json:
    main = {"name": "main", "dag": {"failFast": False, "tasks": tasks}}
    return {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "Workflow",
        "metadata": {"generateName": "test-"},
        "spec": {"entrypoint": "main", "templates": [main, *templates], **spec},
    }


def output(name: str, path: str, default: str | None = None) -> Json:
    source = {"path": path} if default is None else {"path": path, "default": default}
    return {"parameters": [{"name": name, "valueFrom": source}]}


def fan_out(name: str, items: str = '["a", "b", "c"]', **more: Any) -> Json:
    return task(name, arguments={"item": "{{item}}"}, withParam=items, **more)


RunIt = Callable[..., Run]


@pytest.fixture
def run(tmp_path: Path) -> RunIt:
    def run_it(document: Json, **options: Any) -> Run:
        return run_workflow(document, directory=tmp_path, timeout_seconds=60, **options)

    return run_it


def phases(run: Run) -> dict[str, str]:
    return {child.name.rpartition(".")[2]: child.phase for child in run.root.children}


def test_fan_out_over_an_output_file(run: RunIt) -> None:
    plan = shell(
        "plan",
        'mkdir -p /scratch/units && echo \'["a", "c"]\' > /scratch/units/list.json',
        outputs=output("units", "/scratch/units/list.json", "[]"),
    )
    document = workflow(
        [
            task("plan"),
            fan_out("work", "{{tasks.plan.outputs.parameters.units}}", depends="plan.Succeeded"),
        ],
        plan,
        shell("work", "echo item is {{inputs.parameters.item}}", "item"),
    )
    done = run(document)
    assert done.phase == "Succeeded"
    assert done.node("plan").outputs == {"units": '["a", "c"]'}  # without the trailing newline
    items = done.node("work").children
    assert [node.name for node in items] == ["sweep-local.work(0:a)", "sweep-local.work(1:c)"]
    assert items[1].attempts[0].log.read_text() == "item is c\n"
    assert items[1].attempts[0].command == ["sh", "-c", "echo item is c"]


def test_a_failed_item_fails_alone_and_its_group_fails(run: RunIt) -> None:
    document = workflow(
        [
            fan_out("work"),
            task("report", depends="work.Succeeded || work.Failed || work.Errored"),
            task("never", depends="work.Succeeded"),
            task("any", "report", depends="work.AnySucceeded"),
            task("all", "report", depends="work.AllFailed"),
        ],
        shell("work", FAIL_ON_B, "item"),
        shell("report", "true"),
    )
    done = run(document)
    assert [node.phase for node in done.node("work").children] == [
        "Succeeded",
        "Failed",
        "Succeeded",
    ]
    assert phases(done) == {
        "work": "Failed",
        "report": "Succeeded",
        "never": "Omitted",
        "any": "Succeeded",
        "all": "Omitted",
    }
    # An omitted leaf task takes the phase of its branch.
    assert done.phase == "Failed"


def test_the_leaf_task_owns_the_verdict(run: RunIt) -> None:
    def verdict(report: str) -> str:
        document = workflow(
            [task("work"), task("report", depends="work.Succeeded || work.Failed")],
            shell("work", "exit 1"),
            shell("report", report),
        )
        return run(document).phase

    assert verdict("true") == "Succeeded"
    assert verdict("exit 2") == "Failed"


def test_all_failed_is_about_failures_not_errors(run: RunIt) -> None:
    document = workflow(
        [
            fan_out("work", '["b"]'),
            task("all", "tell", depends="work.AllFailed"),
        ],
        shell("work", "sleep 1; exit 1", "item"),
        shell("tell", "true"),
    )
    assert phases(run(document))["all"] == "Succeeded"
    deleted = run(document, on_start=once("work(0:b)", pods.DELETED))
    assert deleted.node("work").phase == "Error"
    assert phases(deleted)["all"] == "Omitted"


def test_an_empty_list_is_skipped_and_a_bare_dependency_runs_on(run: RunIt) -> None:
    document = workflow(
        [
            fan_out("work", "[]"),
            task("after", "tell", depends="work"),
            task("only", "tell", depends="work.Succeeded"),
        ],
        shell("work", "true", "item"),
        shell("tell", "true"),
    )
    done = run(document)
    assert phases(done) == {"work": "Skipped", "after": "Succeeded", "only": "Omitted"}
    assert done.phase == "Succeeded"


def test_a_list_that_is_none_is_an_error(run: RunIt) -> None:
    document = workflow([fan_out("work", "a0200")], shell("work", "true", "item"))
    done = run(document)
    assert done.phase == "Error"
    assert "could not be parsed as a JSON list: a0200" in done.node("work").message


RETRY = {"limit": "2", "expression": 'lastRetry.exitCode in ["75", "143"]'}


def counting(codes: str) -> str:
    """A script that exits with the next code at each attempt, which a file outside the pods
    counts."""
    return f'echo x >> "$COUNT"; set -- {codes}; shift $(($(wc -l < "$COUNT") - 1)); exit $1'


@pytest.mark.parametrize(
    ("codes", "seen", "phase", "message"),
    [
        ("75 0", ["75", "0"], "Succeeded", ""),
        ("2 0", ["2"], "Failed", "retryStrategy.expression evaluated to false"),
        ("75 2", ["75", "2"], "Failed", "retryStrategy.expression evaluated to false"),
        ("75 75 75 0", ["75", "75", "75"], "Failed", "No more retries left"),
    ],
)
def test_only_the_expression_retries(
    run: RunIt, tmp_path: Path, codes: str, seen: list[str], phase: str, message: str
) -> None:
    document = workflow([task("work")], shell("work", counting(codes), retryStrategy=RETRY))
    done = run(document, environment={"COUNT": str(tmp_path / "count")})
    node = done.node("work")
    assert (node.exit_codes, node.phase, node.message) == (seen, phase, message)
    assert done.phase == phase


def test_without_an_expression_the_policy_is_on_failure(run: RunIt) -> None:
    strategy: Json = {"limit": 1}
    work = shell("work", "sleep 0.6; exit 1", retryStrategy=strategy)
    document = workflow([task("work")], work)
    assert run(document).node("work").exit_codes == ["1", "1"]
    deleted = run(document, on_start=once("work", pods.DELETED))
    assert deleted.node("work").exit_codes == ["-1"]  # an Error is not a failure
    strategy["retryPolicy"] = "OnError"
    assert run(document).node("work").exit_codes == ["1"]


def once(
    name: str, disruption: Disruption, *, grace_seconds: float = 5
) -> Callable[[Node, Pod], None]:
    """A hook that disrupts the first pod of a node once the pod is running."""

    def hook(node: Node, pod: Pod) -> None:
        if node.name.endswith(f".{name}") and not node.attempts:
            time.sleep(0.3)
            pod.disrupt(disruption, grace_seconds=grace_seconds)

    return hook


SLOW = "trap 'echo unwound; exit 143' TERM; test -e $DONE || { touch $DONE; sleep 9 & wait; }"
DEAF = "trap '' TERM; test -e $DONE || { touch $DONE; sleep 9; sleep 9; }"


@pytest.mark.parametrize(
    ("script", "disruption", "exit_code", "phase", "message"),
    [
        (SLOW, pods.TERMINATED, "143", "Failed", "main: Error (exit code 143)"),
        (DEAF, pods.TERMINATED, "137", "Failed", "main: Error (exit code 137)"),
        (SLOW, pods.DELETED, "-1", "Error", "pod deleted"),
        (SLOW, pods.EVICTED, "143", "Failed", "The node was low on resource"),
        (SLOW, pods.NODE_SHUTDOWN, "143", "Failed", "imminent node shutdown"),
        (DEAF, pods.OUT_OF_MEMORY, "137", "Failed", "main: OOMKilled (exit code 137)"),
    ],
)
def test_a_disrupted_pod_then_success(
    run: RunIt,
    tmp_path: Path,
    script: str,
    disruption: Disruption,
    exit_code: str,
    phase: str,
    message: str,
) -> None:
    strategy = {"limit": "1", "expression": f'lastRetry.message contains "{message}"'}
    document = workflow([task("work")], shell("work", script, retryStrategy=strategy))
    done = run(
        document,
        on_start=once("work", disruption, grace_seconds=0.2 if script == DEAF else 5),
        environment={"DONE": str(tmp_path / "done")},
    )
    first, second = done.node("work").attempts
    assert (first.exit_code, first.phase) == (exit_code, phase)
    assert message in first.message
    assert (second.exit_code, done.phase) == ("0", "Succeeded")
    if script == SLOW:
        assert first.log.read_text() == "unwound\n"


def test_only_the_message_tells_a_deadline_from_a_deletion(run: RunIt) -> None:
    by_message = {"limit": "1", "expression": '!(lastRetry.message contains "deadline")'}
    for strategy, exit_codes in ((RETRY | {"limit": "1"}, ["143", "143"]), (by_message, ["143"])):
        work = shell("work", "sleep 9", activeDeadlineSeconds=1, retryStrategy=strategy)
        node = run(workflow([task("work")], work)).node("work")
        assert node.exit_codes == exit_codes
        assert "longer than the specified deadline" in node.attempts[0].message
        assert node.seconds < 5


def test_outputs_that_are_missing(run: RunIt) -> None:
    def outcome(default: str | None) -> Run:
        outputs = output("units", "/scratch/none.json", default)
        document = workflow(
            [
                task("plan"),
                task("tell", arguments={"text": "{{tasks.plan.outputs.parameters.units}}"})
                | {"depends": "plan.Succeeded || plan.Skipped"},
            ],
            shell("plan", "true", outputs=outputs),
            shell("tell", "echo got {{inputs.parameters.text}}", "text"),
        )
        return run(document)

    with_default = outcome("[]")
    assert with_default.node("tell").attempts[0].log.read_text() == "got []\n"
    without = outcome(None)
    assert without.node("plan").phase == "Error"
    assert "no such file: /scratch/none.json" in without.node("plan").message
    assert (without.node("tell").phase, without.phase) == ("Omitted", "Error")


def test_outputs_of_skipped_tasks(run: RunIt) -> None:
    outputs = output("units", "/scratch/u", '["z"]')
    document = workflow(
        [
            task("plan", when="{{workflow.parameters.mode}} == full"),
            fan_out("work", "{{tasks.plan.outputs.parameters.units}}", depends="plan"),
        ],
        shell("plan", "echo '[]' > /scratch/u", outputs=outputs),
        shell("work", "true", "item"),
        arguments={"parameters": [{"name": "mode", "value": "quick"}]},
    )
    done = run(document)
    assert done.node("plan").message == "when 'quick == full' evaluated false"
    assert [node.name for node in done.node("work").children] == ["sweep-local.work(0:z)"]
    assert done.phase == "Succeeded"


def test_outputs_of_a_fan_out_are_joined_in_order(run: RunIt) -> None:
    outputs = output("value", "/scratch/value", "none")
    script = f"{FAIL_ON_B} && echo {{{{inputs.parameters.item}}}}1 > /scratch/value"
    work = shell("work", script, "item", outputs=outputs)
    document = workflow(
        [
            fan_out("work"),
            task("tell", arguments={"all": "{{tasks.work.outputs.parameters.value}}"})
            | {"depends": "work.AnySucceeded"},
        ],
        work,
        shell("tell", "echo '{{inputs.parameters.all}}'", "all"),
    )
    done = run(document)
    assert json.loads(done.node("tell").attempts[0].log.read_text()) == ["a1", "c1"]


def test_nested_dags(run: RunIt) -> None:
    inner = {
        "name": "alpha",
        "inputs": {"parameters": [{"name": "item"}]},
        "dag": {
            "failFast": False,
            "tasks": [
                task("blend", "leaf", {"item": "{{inputs.parameters.item}}"}),
                task("evaluate", "leaf", {"item": "{{item}}"})
                | {"depends": "blend.Succeeded", "withItems": ["1", "2"]},
                task("delete", "leaf", {"item": "x"}) | {"depends": "evaluate"},
            ],
        },
    }
    document = workflow(
        [
            fan_out("alpha"),
            task("report", "leaf", {"item": "r"}) | {"depends": "alpha.Succeeded || alpha.Failed"},
        ],
        inner,
        shell("leaf", FAIL_ON_B, "item"),
    )
    done = run(document)
    failed = done.node("alpha(1:b)")
    assert [child.phase for child in failed.children] == ["Failed", "Omitted", "Omitted"]
    assert failed.phase == "Failed"
    assert done.node("alpha(2:c).evaluate(1:2)").phase == "Succeeded"
    assert (done.node("report").phase, done.phase) == ("Succeeded", "Succeeded")


@pytest.mark.parametrize(
    ("work", "handler", "phase"),
    [
        ("true", "true", "Succeeded"),
        ("true", "exit 1", "Failed"),
        ("exit 1", "true", "Failed"),
    ],
)
def test_the_exit_handler(run: RunIt, work: str, handler: str, phase: str) -> None:
    document = workflow(
        [task("work")],
        shell("work", work),
        shell("notify", "echo {{workflow.status}} '{{workflow.failures}}'" + f"; {handler}"),
        onExit="notify",
    )
    done = run(document)
    assert done.phase == phase
    assert done.exit_node is not None
    status, _, failures = done.exit_node.attempts[0].log.read_text().partition(" ")
    told = json.loads(json.loads(failures))
    if work == "true":
        assert (status, told) == ("Succeeded", None)
    else:
        assert status == "Failed"
        assert {node["displayName"] for node in told} == {"work", "sweep-local"}


def test_parallelism_is_bounded(run: RunIt, tmp_path: Path) -> None:
    script = 'touch "$ROOM/$$"; ls "$ROOM" | wc -l; sleep 0.2; rm "$ROOM/$$"'
    (tmp_path / "room").mkdir()
    document = workflow(
        [fan_out("work", json.dumps([str(n) for n in range(6)]))], shell("work", script, "item")
    )
    done = run(document, environment={"ROOM": str(tmp_path / "room")}, parallelism=3)
    logs = [int(n.attempts[0].log.read_text()) for n in done.node("work").children]
    assert 1 <= max(logs) <= 3


def test_fail_fast_starts_nothing_more(run: RunIt) -> None:
    document = workflow(
        [task("bad"), task("slow"), task("later", "slow", depends="slow.Succeeded")],
        shell("bad", "sleep 0.3; exit 1"),
        shell("slow", "sleep 0.8"),
    )
    document["spec"]["templates"][0]["dag"].pop("failFast")
    done = run(document)
    assert phases(done) == {"bad": "Failed", "slow": "Succeeded"}
    assert done.phase == "Failed"


def test_paths_artifacts_and_environment_are_the_pods_own(run: RunIt) -> None:
    script = "cat /etc/svdjobs/sweep.yaml; pwd; echo $HOME $NAME s3://b/scratch; ls /scratch"
    work = shell("work", script)
    work["inputs"]["artifacts"] = [
        {
            "name": "config",
            "path": "/etc/svdjobs/sweep.yaml",
            "raw": {"data": "{{workflow.parameters.config}}"},
        }
    ]
    work["container"]["workingDir"] = "/scratch"
    work["container"]["env"] = [
        {"name": "HOME", "value": "/scratch/home"},
        {"name": "NAME", "value": "scratch"},
    ]
    document = workflow(
        [task("work")], work, arguments={"parameters": [{"name": "config", "value": "none"}]}
    )
    done = run(document, parameters={"config": "name: mini\n"})
    attempt = done.node("work").attempts[0]
    root = attempt.log.parent
    assert attempt.log.read_text().splitlines() == [
        "name: mini",
        f"{root}/scratch",
        f"{root}/scratch/home scratch s3://b/scratch",
    ]


def test_what_is_not_modelled_is_refused(run: RunIt) -> None:
    with pytest.raises(UnsupportedError, match="suspend"):
        run(workflow([task("wait")], {"name": "wait", "suspend": {}}))
    with pytest.raises(ExpressionError, match="parameters config have no value"):
        run(workflow([], arguments={"parameters": [{"name": "config"}]}))
    with pytest.raises(ExpressionError, match="no parameters stroe"):
        run(workflow([]), parameters={"stroe": "x"})


def test_a_hook_that_fails_fails_the_test(run: RunIt) -> None:
    def hook(node: Node, pod: Pod) -> None:
        raise AssertionError("seen")

    with pytest.raises(AssertionError, match="seen"):
        run(workflow([task("work")], shell("work", "true")), on_start=hook)


def test_time_out_leaves_no_process(tmp_path: Path) -> None:
    document = workflow([task("work")], shell("work", "echo $$ > $PID; sleep 60"))
    with pytest.raises(TimeoutError):
        run_workflow(
            document,
            directory=tmp_path,
            timeout_seconds=0.5,
            environment={"PID": str(tmp_path / "pid")},
        )
    assert not Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}").exists()


STAGES = """
import json, pathlib, sys
options = dict(word[2:].split("=", 1) for word in sys.argv[2:] if word.startswith("--"))
if "units-dir" in options:
    folder = pathlib.Path(options["units-dir"])
    folder.mkdir(parents=True)
    for name, units in {"decompose": ["d0", "d1"], "alphas": ["a0"], "evaluate": ["m0"]}.items():
        (folder / f"{name}.json").write_text(json.dumps(units))
else:
    print(sys.argv[1], {**options, "config": pathlib.Path(options.get("config", "/dev/null")).name})
"""


def test_the_sample_sweep_runs(run: RunIt) -> None:
    document = yaml.safe_load((SAMPLES / "sweep.yaml").read_text())
    done = run(
        document,
        parameters={"config": "name: x", "store": "s3://bucket/run"},
        commands={"svdjobs": [sys.executable, "-c", STAGES]},
    )
    assert done.phase == "Succeeded", done.root.tree()
    leaf = done.node("alpha(0:a0).evaluate(0:m0)").attempts[0]
    assert leaf.command[:2] == ["svdjobs", "evaluate"]
    assert "'store': 's3://bucket/run', 'checkpoint': 'a0'" in leaf.log.read_text()
    assert [node.name for node in done.root.walk() if node.attempts] == [
        f"sweep-local.{name}"
        for name in (
            "plan",
            "decompose(0:d0)",
            "decompose(1:d1)",
            "alpha(0:a0).blend",
            "alpha(0:a0).evaluate(0:m0)",
            "report",
        )
    ]
