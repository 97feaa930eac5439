"""The cpu image, built once per session for all tests that want it, and its base."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from filelock import FileLock

import svdjobs
from tests.images.parsed import ROOT

COMMIT = "0123456789abcdef0123456789abcdef01234567"
# As manifests name it, for a node that completes short names as Docker does.
TAG = f"docker.io/library/svdjobs:{svdjobs.__version__}"
BASE = "localhost/python:3.11"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
CLUSTER_HOME = Path(os.environ.get("CLUSTER_HOME") or CACHE / "svdjobs-cluster")
CLUSTER = ROOT.parent / "shared" / "cluster" / "cluster"


def run(*command: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, cwd=ROOT)


def output(*command: str, timeout: float = 120) -> str:
    done = run(*command, timeout=timeout)
    assert done.returncode == 0, f"{' '.join(command)}:\n{done.stdout[-2000:]}{done.stderr[-4000:]}"
    return done.stdout.strip()


def find_base(*, make: bool) -> str:
    """A base image by reference; skips, saying what is missing, where there is none.

    `make` lets ../shared/cluster make one, which takes a minute.
    """
    if missing := [tool for tool in ("buildah", "podman", "runc") if not shutil.which(tool)]:
        pytest.skip(f"NO IMAGE BUILT: no {' and no '.join(missing)} here")
    if os.geteuid():
        pytest.skip("NO IMAGE BUILT: this test builds as root")
    if given := os.environ.get("SVDJOBS_TEST_BASE_IMAGE"):
        return given
    made = archive(BASE)
    if not made.exists() and make and CLUSTER.exists():
        output(str(CLUSTER), "base-image", BASE, timeout=900)
    if not made.exists():
        pytest.skip(f"NO IMAGE BUILT: no SVDJOBS_TEST_BASE_IMAGE, and no {made}")
    output("buildah", "pull", "--quiet", f"oci-archive:{made}")
    return BASE


def archive(reference: str) -> Path:
    """Where `cluster base-image` leaves a base image."""
    return CLUSTER_HOME / "images" / f"base-{reference.translate(str.maketrans('/:', '__'))}.tar"


def build(base: str) -> None:
    """Build the cpu image on that base; its size is printed."""
    with FileLock("/tmp/svdjobs-image.lock"):
        output(
            *("buildah", "build", "--layers", "--network=host", "--target=cpu", f"--tag={TAG}"),
            *("--file=images/Dockerfile", f"--build-arg=PYTHON_IMAGE={base}"),
            *("--build-arg=VLLM_IMAGE=", f"--build-arg=VERSION={svdjobs.__version__}"),
            *(f"--build-arg=GIT_COMMIT={COMMIT}", *secrets(), "."),
            timeout=1500,
        )
    size = json.loads(output("podman", "image", "inspect", TAG))[0]["Size"]
    print(f"\n{TAG} on {base}: {size / 1e9:.2f} GB")


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
