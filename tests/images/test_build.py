"""The cpu image, really built from the Dockerfile and run as a cluster would.

Needs buildah, podman, runc, root and a base image, which cannot be pulled everywhere: the reference
in SVDJOBS_TEST_BASE_IMAGE (Debian with Python 3.11 or newer and pip), or else the archive that
`../shared/cluster/cluster base-image localhost/python:3.11` leaves. So it runs, also under
`.ci/run`, where someone prepared a base, and nowhere by surprise: the first build takes minutes and
gigabytes, later ones (all but the sources is cached) about one.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

import svdjobs
from tests.images.parsed import ROOT

pytestmark = pytest.mark.slow

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TAG = "localhost/svdjobs-tests:1"
DEMO = "/opt/svdjobs/svdjobs/demo/checkpoints"
SWEEP = f"""\
name: demo
before: {DEMO}/base
after: {DEMO}/rl2
store: /scratch/run
alphas: [0, 0.5]
rotations: {{rl1: {DEMO}/rl1, null_draws: 1}}
"""


def run(*command: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, cwd=ROOT)


def output(*command: str, timeout: float = 120) -> str:
    done = run(*command, timeout=timeout)
    assert done.returncode == 0, f"{' '.join(command)}:\n{done.stdout[-2000:]}{done.stderr[-4000:]}"
    return done.stdout.strip()


@pytest.fixture(scope="session")
def base() -> str:
    """A base image by reference; skips, saying what is missing, where there is none."""
    if missing := [tool for tool in ("buildah", "podman", "runc") if not shutil.which(tool)]:
        pytest.skip(f"NO IMAGE BUILT: no {' and no '.join(missing)} here")
    if os.geteuid():
        pytest.skip("NO IMAGE BUILT: this test builds as root")
    if given := os.environ.get("SVDJOBS_TEST_BASE_IMAGE"):
        return given
    cache = os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache"))
    cluster = Path(os.environ.get("CLUSTER_HOME", f"{cache}/svdjobs-cluster"))
    archive = cluster / "images" / "base-localhost_python_3.11.tar"
    if not archive.exists():
        pytest.skip(f"NO IMAGE BUILT: no SVDJOBS_TEST_BASE_IMAGE, and no {archive}")
    output("buildah", "pull", "--quiet", f"oci-archive:{archive}")
    return "localhost/python:3.11"


def secrets() -> list[str]:
    """This machine's settings for pip and uv, where it has any."""
    files = {
        "pip.conf": os.environ.get("PIP_CONFIG_FILE", "/etc/pip.conf"),
        "uv.toml": os.environ.get("UV_CONFIG_FILE", "/etc/uv/uv.toml"),
        "ca.crt": os.environ.get("SSL_CERT_FILE", ""),
    }
    return [
        f"--secret=id={name},src={path}" for name, path in files.items() if Path(path).is_file()
    ]


@pytest.fixture(scope="session")
def image(base: str) -> str:
    output(
        *("buildah", "build", "--layers", "--network=host", "--target=cpu", f"--tag={TAG}"),
        *(
            "--file=images/Dockerfile",
            f"--build-arg=PYTHON_IMAGE={base}",
            "--build-arg=VLLM_IMAGE=",
        ),
        *("--build-arg=VERSION=0", f"--build-arg=GIT_COMMIT={COMMIT}", *secrets(), "."),
        timeout=900,
    )
    size = json.loads(output("podman", "image", "inspect", TAG))[0]["Size"]
    print(f"\n{TAG} on {base}: {size / 1e9:.2f} GB")
    return TAG


def contained(image: str, *arguments: str, options: tuple[str, ...] = ()) -> str:
    """What a container prints that may do as little as a restricted pod."""
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
    """Podman's option that puts a sweep over the packaged demo checkpoints in its place."""
    (tmp_path / "sweep.yaml").write_text(SWEEP)
    tmp_path.chmod(0o755)
    return f"--volume={tmp_path}:/etc/svdjobs:ro"


def test_it_is_labelled_and_starts_svdjobs(image: str) -> None:
    inspected: dict[str, Any] = json.loads(output("podman", "image", "inspect", image))[0]["Config"]
    assert inspected["User"] == "10001:0"
    assert inspected["Labels"]["org.opencontainers.image.revision"] == COMMIT
    assert contained(image, "--version") == f"svdjobs, version {svdjobs.__version__}"


def test_it_plans_the_demo_and_says_from_which_commit(image: str, config: str) -> None:
    script = "svdjobs plan /etc/svdjobs/sweep.yaml >&2; cat /scratch/run/plan/manifest.json"
    assert COMMIT in shell(image, script, config)


def test_it_runs_every_stage_as_any_user_of_group_zero(image: str, config: str) -> None:
    """Up to the report, which needs an evaluation that this image does not do."""
    stages = "for s in plan decompose blend rotations; do svdjobs $s /etc/svdjobs/sweep.yaml; done"
    script = f"id -u; ( {stages} ) >&2; find /scratch/run -name manifest.json | wc -l"
    found = shell(image, script, config, "--user=1234567:0")
    assert found.split()[0] == "1234567"
    assert int(found.split()[1]) >= 5


def test_only_scratch_is_writable(image: str) -> None:
    assert shell(image, "find / -xdev -writable ! -type l 2>/dev/null || true") == "/scratch"


def test_files_of_the_image_belong_to_root(image: str) -> None:
    """Also where the root file system is writable, nobody changes the code that runs."""
    assert shell(image, "find /opt /usr -perm -0020 ! -type l -o -perm -0002 ! -type l") == ""


def test_bytecode_is_there_and_current(image: str) -> None:
    script = "python3 -v -c 'import svdjobs.cli.main, click' 2>&1 | grep '/opt/svdjobs.* matches'"
    found = shell(image, script)
    assert "svdjobs/cli/__pycache__/main" in found
    assert "click/__pycache__/core" in found


def test_it_carries_no_tools_or_settings_of_the_build(image: str) -> None:
    script = (
        "ls /tools /locks /dist /source 2>/dev/null || true; cat /etc/pip.conf /etc/uv/uv.toml"
        " 2>/dev/null || true; python3 -c 'import pytest' 2>/dev/null || echo none"
    )
    assert shell(image, script) == "none"
