"""The stage gate in the generated Workflow: when it runs, and the phase that the Workflow ends in.

A shell script stands in for `svdjobs`: it only exits with a chosen code.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from svdjobs.config_file import parse_config
from svdjobs.runs import shards
from tests.argo_emulator.interpreter import run_workflow
from tests.cluster.run_tree import Run

ROOT = Path(__file__).parent.parent.parent
# $1 is the stage; CODE_report=2 makes report exit with 2. plan writes $GATE to gate.json in the
# folder that its last argument names.
STAND_IN = """
stage=$1
if [ $stage = plan ]; then
  for units in "$@"; do :; done
  mkdir -p $units
  for one in decompose alphas baselines evaluate; do echo '[]' > $units/$one.json; done
  echo false > $units/rotations.json
  [ -z "$GATE" ] || echo "$GATE" > $units/gate.json
fi
eval "exit \\${CODE_$stage:-0}"
"""


def sweep(folder: Path, **environment: str) -> Run:
    program = folder / "svdjobs.sh"
    program.write_text(STAND_IN)
    return run_workflow(
        yaml.safe_load((ROOT / "workflows" / "demo.yaml").read_text()),
        directory=folder / "pods",
        parameters={"config": "{}", "store": "s3://bucket/run"},
        commands={"svdjobs": ["sh", str(program)]},
        environment={"GATE": "", **environment},
        timeout_seconds=60,
    )


@pytest.mark.parametrize(
    ("environment", "gate", "codes", "phase"),
    [
        ({"GATE": "true"}, "Succeeded", ["0"], "Succeeded"),
        ({"GATE": "true", "CODE_gate": "3"}, "Failed", ["3"], "Failed"),
        ({"GATE": "true", "CODE_report": "2"}, "Omitted", [], "Failed"),
        ({"GATE": "true", "CODE_plan": "2", "CODE_report": "2"}, "Omitted", [], "Failed"),
        ({"GATE": "false"}, "Skipped", [], "Succeeded"),
        ({"GATE": "false", "CODE_report": "2"}, "Omitted", [], "Failed"),
        ({}, "Skipped", [], "Succeeded"),  # the plan of an older image writes no gate.json
    ],
)
def test_the_verdict_is_gate_s_or_else_report_s(
    tmp_path: Path, environment: dict[str, str], gate: str, codes: list[str], phase: str
) -> None:
    run = sweep(tmp_path, **environment)
    node = run.node("gate")
    assert (node.phase, node.exit_codes, run.phase) == (gate, codes, phase)


@pytest.mark.parametrize("gate", [None, {}])
def test_plan_says_whether_there_is_one(gate: dict[str, str] | None) -> None:
    from types import SimpleNamespace
    from typing import Any

    document = {
        "name": "x", "before": "a", "after": "b", "gate": gate,
        "evaluate": {"benchmarks": ["demo"]}, "decompose": {"shards": 1},
    }  # fmt: skip
    plan: Any = SimpleNamespace(parts=[[]])
    assert shards.fan_outs(parse_config(document, where="test"), plan)["gate"] == (gate is not None)
