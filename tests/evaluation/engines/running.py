"""Run programs with an engine in them."""

from __future__ import annotations

import os
from pathlib import Path

import svdjobs
from svdjobs.evaluation.engines.device import vllm_builds
from tests.forked import Process

ROOT = Path(svdjobs.__file__).parents[1]


def not_here(name: str) -> str:
    """Why an engine cannot run here; empty if it can."""
    if name == "vllm" and not any(build.cpu for build in vllm_builds()):
        return "vLLM's CPU build is not installed: its engine was not run"
    return ""


def child(folder: Path, module: str, *arguments: str) -> Process:
    """A process that may have vLLM in it, which writes to the files `output` and `errors`."""
    with (folder / "output").open("w") as out, (folder / "errors").open("w") as err:
        return Process(
            arguments,
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            out=out.fileno(),
            err=err.fileno(),
            module=module,
            vllm=True,
        )


def finished(folder: Path, module: str, *arguments: str) -> tuple[str, str]:
    """Run a program to its end; what it has written to its two streams."""
    code = child(folder, module, *arguments).wait(300)
    output, errors = ((folder / name).read_text() for name in ("output", "errors"))
    assert code == 0, errors
    return output, errors
