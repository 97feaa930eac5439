"""Render chat templates, which are code from a checkpoint, with limits on time and size."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from svdjobs.errors import EvaluationError
from svdjobs.evaluation import sandbox

# CPU time for all prompts of a benchmark; usual templates take a millisecond each.
SECONDS = 10
MEMORY_BYTES = 1 << 30
# The longest prompt; no model's context is that long.
CHARACTERS = 1_000_000
# For a process that waits and so uses no CPU time.
_WALL_CLOCK_SECONDS = 300


class TemplateError(Exception):
    """A template fails or exceeds a limit; the message is a predicate: `takes more than 10 s`."""


def render_chat_template(
    template: str, variables: Mapping[str, Any], contents: Sequence[str]
) -> list[str]:
    """The prompt for each content, as a single user message.

    Raises:
        TemplateError: the template fails or exceeds a limit.
        EvaluationError: the process that renders it failed.
    """
    request = {
        "template": template, "variables": dict(variables), "contents": list(contents),
        "seconds": SECONDS, "memory_bytes": MEMORY_BYTES, "characters": CHARACTERS,
    }  # fmt: skip
    try:
        done = subprocess.run(
            [sys.executable, "-m", "svdjobs.evaluation.template_process"],
            input=json.dumps(request).encode(),
            capture_output=True,
            env=sandbox.environment(),
            timeout=_WALL_CLOCK_SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise TemplateError(f"takes more than {_WALL_CLOCK_SECONDS} s") from None
    if done.returncode == -signal.SIGXCPU:
        raise TemplateError(f"takes more than {SECONDS} s")
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines() or ["no message"]
        raise EvaluationError(f"a chat template could not be rendered: {said[-1]}")
    reply = json.loads(done.stdout)
    if "error" in reply:
        raise TemplateError(reply["error"])
    prompts: list[str] = reply["prompts"]
    return prompts
