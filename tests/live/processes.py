"""The programs of SVDJOBS_CLUSTER's cluster, which are plain processes of this machine."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Process:
    """A program of the cluster, by its name."""

    def __init__(self, home: Path, name: str) -> None:
        self._pid_file = home / "run" / f"{name}.pid"
        self._log = home / "log" / f"{name}.log"

    @property
    def pid(self) -> int:
        return int(self._pid_file.read_text())

    @property
    def words(self) -> list[str]:
        """The command line of the process."""
        return self._read("cmdline")

    @property
    def environment(self) -> dict[str, str]:
        return dict(pair.split("=", 1) for pair in self._read("environ"))

    @property
    def program(self) -> Path:
        return Path(f"/proc/{self.pid}/exe").readlink()

    @property
    def memory_mib(self) -> float | None:
        """The resident memory of the process now, in MiB; None while it is `gone`, as in a test
        that runs beside this one."""
        try:
            status = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        except FileNotFoundError:
            return None
        lines = [line for line in status if line.startswith("VmRSS:")]
        return int(lines[0].split()[1]) / 1024 if lines else None

    @contextmanager
    def gone(self) -> Iterator[None]:
        """Kill the process with SIGKILL; after the block, start it again with the same command."""
        words, environment = self.words, self.environment
        folder = Path(f"/proc/{self.pid}/cwd").readlink()
        os.kill(self.pid, signal.SIGKILL)
        try:
            yield
        finally:
            # A shell starts the process and ends, so the process is no child of these tests.
            start = 'pid=$1 log=$2; shift 2; "$@" >>"$log" 2>&1 </dev/null & echo $! >"$pid"'
            subprocess.run(
                ["bash", "-c", start, "bash", str(self._pid_file), str(self._log), *words],
                cwd=folder, env=environment, check=True, start_new_session=True,
            )  # fmt: skip

    def _read(self, what: str) -> list[str]:
        text = Path(f"/proc/{self.pid}/{what}").read_bytes().decode()
        return text.rstrip("\0").split("\0")
