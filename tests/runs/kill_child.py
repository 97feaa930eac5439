"""Run a sweep that kills itself at a chosen write. A program of `test_kills`, not a test.

    python -m tests.runs.kill_child CONFIG_JSON [before|after:PREFIX:N ...]

Each argument runs one sweep, killed by SIGKILL before or after its N-th write below PREFIX (a file,
or a line of a journal). Then one more sweep runs to the end. Prints a JSON object: `signals`, which
ended the killed sweeps; `writes`, the keys that the last sweep wrote; `all_writes`, the keys of
every sweep. A line of a journal is listed as `key idx-sample`.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch

from svdjobs import local
from svdjobs.config import SweepConfig
from svdjobs.storage.local import LocalJournal

T = TypeVar("T")


def sweep(config: SweepConfig, kill: str | None, log: Path) -> None:
    """Run one sweep in a forked child, and append the keys that it writes to the log."""
    moment, prefix, nth = kill.split(":") if kill else ("", "", "0")
    seen = 0

    def watched(key: str, write: Callable[[], T]) -> T:
        nonlocal seen
        chosen = bool(kill) and key.startswith(prefix + "/")
        seen += chosen
        if chosen and moment == "before" and seen == int(nth):
            os.kill(os.getpid(), signal.SIGKILL)
        done = write()
        with log.open("a") as file:
            file.write(key + "\n")
        if chosen and moment == "after" and seen == int(nth):
            os.kill(os.getpid(), signal.SIGKILL)
        return done

    real_replace, real_link = Path.replace, Path.hardlink_to
    real_append = LocalJournal.append

    def replace(self: Path, target: Path) -> Path:
        key = str(Path(target).relative_to(config.store_url))
        return watched(key, lambda: real_replace(self, target))

    def link(self: Path, target: Path) -> None:  # a manifest: `put_new` links it
        key = str(self.relative_to(config.store_url))
        watched(key, lambda: real_link(self, target))

    def append(self: LocalJournal, line: str) -> None:
        completion = json.loads(line)
        key = Path(self._file.name).relative_to(config.store_url)
        watched(
            f"{key} {completion['idx']}-{completion['sample_index']}",
            lambda: real_append(self, line),
        )

    Path.replace = replace  # type: ignore[method-assign, assignment]
    Path.hardlink_to = link  # type: ignore[method-assign, assignment]
    LocalJournal.append = append  # type: ignore[method-assign]
    local.sweep(config)


def main() -> None:
    torch.set_num_threads(1)
    config = SweepConfig.model_validate_json(sys.argv[1])
    ends, all_writes = [], []
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
        all_writes.append(log.read_text().splitlines())
        ends.append(os.WTERMSIG(status) if os.WIFSIGNALED(status) else -os.WEXITSTATUS(status))
    if ends.pop() != 0:
        sys.exit("the last sweep failed")
    log.unlink()
    print(json.dumps({"signals": ends, "writes": all_writes[-1], "all_writes": all_writes}))


if __name__ == "__main__":
    main()
