"""The real `argo` client's own lint, offline, on the project's workflows and the tests' sample."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.cluster_script import MISSING, exported

ROOT = Path(__file__).parents[2]
ARGO = shutil.which("argo", path=exported().get("PATH"))
SHIPPED = [
    file
    for file in sorted((ROOT / "workflows").glob("*.yaml"))
    if "\nkind: " in f"\n{file.read_text()}"  # the folder also has settings.yaml
]
SAMPLE = ROOT / "tests" / "argo_emulator" / "samples" / "sweep.yaml"

pytestmark = pytest.mark.skipif(
    ARGO is None,
    reason=f"ARGO'S LINT NOT RUN: no argo on the path, and {MISSING}",
)


def argo_lint(*files: Path) -> subprocess.CompletedProcess[str]:
    command = [str(ARGO), "lint", "--offline", "--no-color", *map(str, files)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.skipif(not SHIPPED, reason="ARGO'S LINT NOT RUN: workflows/ holds no YAML")
def test_argo_accepts_the_workflows() -> None:
    # One call for all files, since they refer to each other.
    done = argo_lint(*SHIPPED)
    assert done.returncode == 0, done.stdout + done.stderr


def test_argo_accepts_the_sample_and_sees_a_broken_one(tmp_path: Path) -> None:
    done = argo_lint(SAMPLE)
    assert done.returncode == 0, done.stdout + done.stderr
    broken = tmp_path / "broken.yaml"
    broken.write_text(SAMPLE.read_text().replace("depends: plan.Succeeded", "depends: plam"))
    assert argo_lint(broken).returncode != 0
