"""The commands of `make setup`: which lock it installs, and that it checks every hash."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A folder with the Makefile, the files that it reads, and an empty environment."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    shutil.copytree(ROOT / "images", tmp_path / "images")
    (tmp_path / ".venv").mkdir()
    return tmp_path


def commands(folder: Path, *words: str) -> str:
    ours = {"MAKEFLAGS", "MFLAGS", "MAKELEVEL", "GPU"}  # set by the `make test` that runs this
    done = subprocess.run(
        ["make", "--dry-run", *words],
        capture_output=True,
        text=True,
        cwd=folder,
        check=True,
        env={name: value for name, value in os.environ.items() if name not in ours},
    )
    return done.stdout


@pytest.mark.parametrize(
    ("installed", "words", "lock"),
    [
        (None, ["setup"], "cpu"),
        (None, ["setup", "GPU=1"], "gpu"),
        ("cpu", ["setup", "GPU=1"], "gpu"),
        ("gpu", ["setup", "GPU=0"], "cpu"),
        ("cpu", ["setup"], None),
        ("gpu", ["setup"], None),
        ("gpu", ["demo"], None),
        ("gpu", ["setup", "GPU=1"], None),
    ],
)
def test_an_environment_gets_one_build_of_vllm_and_keeps_it(
    clone: Path, installed: str | None, words: list[str], lock: str | None
) -> None:
    if installed:
        (clone / ".venv" / f".installed-{installed}").touch()
    lines = commands(clone, *words).splitlines()
    synced = [line.split("images/locks/")[1] for line in lines if " pip sync " in line]
    assert synced == ([f"{lock}.lock"] if lock else [])
    if lock:
        # The stamps are removed before the installation, so none is left if that fails.
        assert lines.index("rm -f .venv/.installed*") < next(
            number for number, line in enumerate(lines) if " pip sync " in line
        )
        assert lines[-1] == f"touch .venv/.installed-{lock}"


def test_uv_is_installed_by_hash(clone: Path) -> None:
    written = commands(clone, "setup").replace("\\\n", " ")
    (install,) = (line for line in written.splitlines() if " -m pip install" in line)
    assert "--require-hashes" in install
    (block,) = subprocess.run(
        ["sh", "-c", install.partition("|")[0]],
        capture_output=True,
        text=True,
        cwd=clone,
        check=True,
    ).stdout.split("\n\n")
    assert block.startswith("uv==") and "--hash=sha256:" in block
