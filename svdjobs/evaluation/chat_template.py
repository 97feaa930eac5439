"""Chat templates are code that comes with a checkpoint: rendered with limits of time and size."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from svdjobs.errors import EvaluationError
from svdjobs.evaluation.grading.worker_process import KEPT_VARIABLES

SECONDS = 10
"""Of computing, for all prompts of a benchmark; usual templates take a thousandth of a second
each."""
MEMORY_BYTES = 1 << 30
CHARACTERS = 1_000_000
"""Of one prompt: more than any model's context."""
_PATIENCE_SECONDS = 300
"""Until a process that gets no processor time is given up."""


def rendered(template: str, variables: Mapping[str, Any], contents: Sequence[str]) -> list[str]:
    """The prompt for each content, as a single message of the user's.

    Raises:
        ValueError: the template fails, or goes beyond a limit; what it does, as a verb.
        EvaluationError: it cannot be rendered here.
    """
    question = {
        "template": template, "variables": dict(variables), "contents": list(contents),
        "seconds": SECONDS, "memory_bytes": MEMORY_BYTES, "characters": CHARACTERS,
    }  # fmt: skip
    try:
        done = subprocess.run(
            [sys.executable, "-m", "svdjobs.evaluation.template_process"],
            input=json.dumps(question).encode(),
            capture_output=True,
            env={k: os.environ[k] for k in KEPT_VARIABLES if k in os.environ},
            timeout=_PATIENCE_SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise ValueError(f"takes more than {SECONDS} s") from None
    if done.returncode == -signal.SIGXCPU:
        raise ValueError(f"takes more than {SECONDS} s")
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines() or ["no message"]
        raise EvaluationError(f"a chat template could not be rendered: {said[-1]}")
    reply = json.loads(done.stdout)
    if "error" in reply:
        raise ValueError(reply["error"])
    prompts: list[str] = reply["prompts"]
    return prompts
