"""Run a sweep that dies by SIGKILL at a chosen write. A program of `test_faults`, not a test.

    python -m tests.runs.kill_child CONFIG_JSON [before|after:PREFIX:N ...]

Every argument is one sweep, killed before or after its N-th write below PREFIX appears (a file, or
a line of a journal); then one more runs to the end. Prints a JSON object: `signals`, how the killed
ones ended; `writes`, what the last one wrote; `all_writes`, what each did; a journal's line as
`key idx-sample`.
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
    """One sweep in a forked child; appends the keys it writes to the log."""
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

    honest_replace, honest_link = Path.replace, Path.hardlink_to
    honest_append = LocalJournal.append

    def replace(self: Path, target: Path) -> Path:
        key = str(Path(target).relative_to(config.store_url))
        return watched(key, lambda: honest_replace(self, target))

    def link(self: Path, target: Path) -> None:  # a manifest, which only ever appears once
        key = str(self.relative_to(config.store_url))
        watched(key, lambda: honest_link(self, target))

    def append(self: LocalJournal, line: str) -> None:
        drawn = json.loads(line)
        key = Path(self._file.name).relative_to(config.store_url)
        watched(f"{key} {drawn['idx']}-{drawn['sample_index']}", lambda: honest_append(self, line))

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
