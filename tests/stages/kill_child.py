"""Run a sweep that dies by SIGKILL at a chosen write. A program of `test_faults`, not a test.

    python -m tests.stages.kill_child CONFIG_JSON [before|after:PREFIX:N ...]

Every argument is one sweep, killed before or after its N-th write below PREFIX appears; then one
more runs to the end. Prints {"signals": […], "writes": […]}: how the killed ones ended, and what
the last one wrote.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
from pathlib import Path

import torch
import transformers  # noqa: F401  imported once, before forking

from svdjobs import local
from svdjobs.config import SweepConfig


def sweep(config: SweepConfig, kill: str | None, log: Path) -> None:
    """One sweep in a forked child; appends the keys it writes to the log."""
    moment, prefix, nth = kill.split(":") if kill else ("", "", "0")
    seen = 0
    honest = Path.replace

    def replace(self: Path, target: Path) -> Path:
        nonlocal seen
        key = str(Path(target).relative_to(config.store_url))
        chosen = bool(kill) and key.startswith(prefix + "/")
        seen += chosen
        if chosen and moment == "before" and seen == int(nth):
            os.kill(os.getpid(), signal.SIGKILL)
        done = honest(self, target)
        with log.open("a") as file:
            file.write(key + "\n")
        if chosen and moment == "after" and seen == int(nth):
            os.kill(os.getpid(), signal.SIGKILL)
        return done

    Path.replace = replace  # type: ignore[method-assign, assignment]
    local.sweep(config)


def main() -> None:
    torch.set_num_threads(1)
    config = SweepConfig.model_validate_json(sys.argv[1])
    ends = []
    log = Path(tempfile.mkstemp()[1])
    for kill in (*sys.argv[2:], None):
        log.write_text("")
        pid = os.fork()
        if pid == 0:
            try:
                sweep(config, kill, log)
            except BaseException as error:
                print(repr(error), file=sys.stderr)
                os._exit(1)
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        ends.append(os.WTERMSIG(status) if os.WIFSIGNALED(status) else -os.WEXITSTATUS(status))
    if ends.pop() != 0:
        sys.exit("the last sweep failed")
    writes = log.read_text().splitlines()
    log.unlink()
    print(json.dumps({"signals": ends, "writes": writes}))


if __name__ == "__main__":
    main()
