"""Build the images and find their base, once for all tests that need them."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from filelock import FileLock

import svdjobs
from svdjobs.pipeline import STAGES
from tests.cluster_script import MISSING, SCRIPT, base_archive
from tests.images.parsed import ROOT

COMMIT = "0123456789abcdef0123456789abcdef01234567"
# The full name of the image in the manifests: a node completes short names as Docker does.
TAG = f"docker.io/library/svdjobs:{svdjobs.__version__}"
TAGS = {
    "cpu": TAG,
    **{
        stage.name: f"docker.io/library/svdjobs-{stage.name}:{svdjobs.__version__}"
        for stage in STAGES
        if stage.packages != "evaluate"
    },
}
"""The images of all targets on Python's base."""
STORE_TAG = f"docker.io/library/svdjobs-store:{svdjobs.__version__}"
BASE = "localhost/python:3.11"
LABEL = "svdjobs.tests.content"
LOCKS = Path(tempfile.gettempdir())


def run(*command: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, cwd=ROOT)


def output(*command: str, timeout: float = 120) -> str:
    done = run(*command, timeout=timeout)
    assert done.returncode == 0, f"{' '.join(command)}:\n{done.stdout[-2000:]}{done.stderr[-4000:]}"
    return done.stdout.strip()


def find_base() -> str:
    """The reference of a base image: SVDJOBS_TEST_BASE_IMAGE, or one that the cluster's script
    makes in a minute."""
    if missing := [tool for tool in ("buildah", "podman", "runc") if not shutil.which(tool)]:
        pytest.fail(f"NO IMAGE BUILT: {' and '.join(missing)} missing: run `make programs`")
    if os.geteuid():
        pytest.fail("NO IMAGE BUILT: only root can build it")
    if given := os.environ.get("SVDJOBS_TEST_BASE_IMAGE"):
        return given
    make_base()
    made = base_archive(BASE)
    if made is None or not made.exists():
        why = f"there is no {made}" if made else MISSING
        pytest.fail(f"NO IMAGE BUILT: SVDJOBS_TEST_BASE_IMAGE is not set, and {why}")
    output("buildah", "pull", "--quiet", f"oci-archive:{made}")
    return BASE


def make_base() -> None:
    """Let the cluster's script make the base image, once for all test processes."""
    made = base_archive(BASE)
    with FileLock(LOCKS / "svdjobs-base.lock"):
        if made is not None and not made.exists():
            output(SCRIPT, "base-image", BASE, timeout=900)


def build_all(base: str) -> None:
    """Build the images of all targets. Of those with the same packages, which differ in a label and
    the default command, one is built and has the names of all."""
    same: dict[str, list[str]] = {}
    for stage in STAGES:
        if stage.packages != "evaluate":
            same.setdefault(stage.packages, []).append(stage.name)
    build(base, "cpu", *(names[0] for names in same.values()))
    for first, *others in same.values():
        for other in others:
            output("podman", "tag", TAGS[first], TAGS[other])


def build(base: str, *targets: str) -> None:
    """Build images on `base`, unless the existing ones were built from the same content."""
    with FileLock(LOCKS / "svdjobs-image.lock"):
        label = f"{LABEL}={content_of(base)}"
        for target in targets:
            if label not in labels(TAGS[target]):
                _build(base, target, label)


def _build(base: str, target: str, label: str) -> None:
    output(
        *("buildah", "build", "--layers", "--network=host", f"--target={target}"),
        f"--tag={TAGS[target]}",
        *("--file=images/Dockerfile", f"--build-arg=PYTHON_IMAGE={base}"),
        *("--build-arg=VLLM_IMAGE=", f"--build-arg=VERSION={svdjobs.__version__}"),
        *(f"--build-arg=GIT_COMMIT={COMMIT}", f"--label={label}", *secrets(), "."),
        timeout=1500,
    )


def build_store() -> None:
    """Build the cpu image with an S3 server in it, for the chart's development store."""
    with FileLock(LOCKS / "svdjobs-image.lock"), tempfile.TemporaryDirectory() as folder:
        shutil.copy(Path(sys.executable).with_name("weed"), folder)
        (Path(folder) / "Dockerfile").write_text(f"FROM {TAG}\nCOPY weed /usr/local/bin/\n")
        output("buildah", "build", "--layers", f"--tag={STORE_TAG}", folder, timeout=300)


def content_of(base: str) -> str:
    """A hash of everything that the images are built from.

    buildah's own cache would find them, too, but needs half a minute for each.
    """
    known = hashlib.sha256(output("podman", "image", "inspect", "--format={{.Id}}", base).encode())
    ignore = (ROOT / ".dockerignore").read_text().splitlines()
    let_in = [found for line in ignore if line[:1] == "!" for found in ROOT.glob(line[1:])]
    files = [ROOT / "images" / "Dockerfile", *let_in]
    files += [path for folder in let_in for path in folder.rglob("*")]
    for path in sorted(files):
        if path.is_file() and "__pycache__" not in path.parts:
            known.update(f"{path.relative_to(ROOT)} {path.stat().st_mode:o}\0".encode())
            known.update(hashlib.sha256(path.read_bytes()).digest())
    return known.hexdigest()


def labels(tag: str) -> list[str]:
    """The labels of an existing image, as `name=value`."""
    found = run("podman", "image", "inspect", tag)
    if found.returncode:
        return []
    given: dict[str, str] = json.loads(found.stdout)[0]["Labels"] or {}
    return [f"{name}={value}" for name, value in given.items()]


def size(tag: str = TAG) -> str:
    """The size of an image on disk."""
    found = json.loads(output("podman", "image", "inspect", tag))[0]["Size"]
    return f"{found / 1e6:,.0f} MB"


def secrets() -> list[str]:
    """Options that give this machine's settings of pip and uv to the build, if it has any."""
    files = {
        "pip.conf": os.environ.get("PIP_CONFIG_FILE", "/etc/pip.conf"),
        "uv.toml": os.environ.get("UV_CONFIG_FILE", "/etc/uv/uv.toml"),
        "ca.crt": os.environ.get("SSL_CERT_FILE", ""),
    }
    return [
        f"--secret=id={name},src={path}" for name, path in files.items() if Path(path).is_file()
    ]
