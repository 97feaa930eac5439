"""The cpu image, which the tests on a cluster build, in containers like restricted pods."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import svdjobs
from tests.images.build import COMMIT, TAG, output
from tests.live.cluster_access import Site

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

DEMO = "/opt/svdjobs/svdjobs/demo/checkpoints"
SWEEP = f"""\
name: demo
before: {DEMO}/base
after: {DEMO}/rl2
store: /scratch/run
alphas: [0, 0.5]
rotations: {{rl1: {DEMO}/rl1, null_draws: 1}}
"""


@pytest.fixture
def built(cluster: Site, image: str) -> str:
    """The name of the image on this machine."""
    if not cluster.local:
        pytest.skip("NO IMAGE BUILT: the cluster pulls its images")
    return TAG


def contained(image: str, *arguments: str, options: tuple[str, ...] = ()) -> str:
    """Run a container with the permissions of a restricted pod; return what it prints."""
    return output(
        *("podman", "--runtime=runc", "run", "--rm", "--pull=never", "--network=host"),
        *("--ulimit=nofile=1024:1024", "--ulimit=nproc=1000:1000", "--cap-drop=all"),
        *("--security-opt=no-new-privileges", "--read-only", "--read-only-tmpfs=false"),
        *("--tmpfs=/scratch:mode=0777", *options, image, *arguments),
    )


def shell(image: str, script: str, *options: str) -> str:
    return contained(image, "-ec", script, options=("--entrypoint=/bin/sh", *options))


@pytest.fixture
def config(tmp_path: Path) -> str:
    """Podman's option that mounts the config of a sweep over the package's demo checkpoints."""
    (tmp_path / "sweep.yaml").write_text(SWEEP)
    tmp_path.chmod(0o755)
    return f"--volume={tmp_path}:/etc/svdjobs:ro"


def test_it_is_labelled_and_starts_svdjobs(built: str) -> None:
    inspected: dict[str, Any] = json.loads(output("podman", "image", "inspect", built))[0]["Config"]
    assert inspected["User"] == "10001:0"
    assert inspected["Labels"]["org.opencontainers.image.revision"] == COMMIT
    assert contained(built, "--version") == f"svdjobs, version {svdjobs.__version__}"


def test_it_plans_the_demo_and_says_from_which_commit(built: str, config: str) -> None:
    script = "svdjobs plan /etc/svdjobs/sweep.yaml >&2; cat /scratch/run/plan/manifest.json"
    assert COMMIT in shell(built, script, config)


def test_it_runs_every_stage_as_any_user_of_group_zero(built: str, config: str) -> None:
    """All stages of the sweep but evaluate and report: this image does not evaluate."""
    stages = "for s in plan decompose blend rotations; do svdjobs $s /etc/svdjobs/sweep.yaml; done"
    script = f"id -u; ( {stages} ) >&2; find /scratch/run -name manifest.json | wc -l"
    found = shell(built, script, config, "--user=1234567:0")
    assert found.split()[0] == "1234567"
    assert int(found.split()[1]) >= 5


def test_only_scratch_is_writable(built: str) -> None:
    assert shell(built, "find / -xdev -writable ! -type l 2>/dev/null || true") == "/scratch"


def test_files_of_the_image_belong_to_root(built: str) -> None:
    """Even if the root file system is writable, a user cannot change the code."""
    assert shell(built, "find /opt /usr -perm -0020 ! -type l -o -perm -0002 ! -type l") == ""


def test_bytecode_is_there_and_current(built: str) -> None:
    script = "python3 -v -c 'import svdjobs.cli.main, click' 2>&1 | grep '/opt/svdjobs.* matches'"
    found = shell(built, script)
    assert "svdjobs/cli/__pycache__/main" in found
    assert "click/__pycache__/core" in found


def test_it_carries_no_tools_or_settings_of_the_build(built: str) -> None:
    script = (
        "ls /tools /locks /dist /source 2>/dev/null || true; cat /etc/pip.conf /etc/uv/uv.toml"
        " 2>/dev/null || true; python3 -c 'import pytest' 2>/dev/null || echo none"
    )
    assert shell(built, script) == "none"
