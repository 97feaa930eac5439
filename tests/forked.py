"""Run commands of svdjobs as real processes that start at once.

Each test process starts a server. The server imports torch and transformers once, which
takes seconds, and forks for every command. A command has its own process group, working directory,
environment and exit status. A library that reads the environment at import sees the server's
variables: a test that needs another HF_HOME must start a process with subprocess.

`python -m tests.forked SOCKET` is the server. For each command it receives a JSON text and two file
descriptors, and sends back the process id and, later, the exit status.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import importlib
import json
import os
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

IMPORTED = (
    "svdjobs.cli.main", "torch", "transformers.models.qwen2.modeling_qwen2",
    "transformers.models.auto.modeling_auto", "transformers.models.auto.tokenization_auto",
    "transformers.models.qwen2.tokenization_qwen2", "safetensors.torch", "scipy.stats",
    "boto3", "jinja2",
)  # fmt: skip
# More imports for commands with vLLM. They have another server, because vLLM reads its settings
# from the environment at import.
VLLM = (
    "vllm", "vllm.entrypoints.llm", "vllm.v1.engine.llm_engine", "vllm.v1.worker.cpu_worker",
    "vllm.model_executor.models.qwen2",
)  # fmt: skip
LOOK_SECONDS = 0.01
START_SECONDS = 120.0
ROOT = Path(__file__).parents[1]
COMMAND = "svdjobs.cli.main"


class Process:
    """A running command, with the parts of `subprocess.Popen` that tests use."""

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        cwd: Path,
        env: Mapping[str, str],
        out: int,
        err: int,
        module: str = COMMAND,
        vllm: bool = False,
    ) -> None:
        self._connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._connection.connect(str(_server(vllm)))
        request = json.dumps(
            {"module": module, "arguments": list(arguments), "cwd": str(cwd), "env": dict(env)}
        )
        socket.send_fds(self._connection, [f"{len(request.encode()):08d}".encode()], [out, err])
        self._connection.sendall(request.encode())
        self._answers = self._connection.makefile("r")
        self.pid = int(self._answers.readline())
        self.returncode: int | None = None
        self._reading = threading.Lock()

    def poll(self) -> int | None:
        """The exit status, negative for a signal; None while it runs."""
        with self._reading:  # threads that watch one process must not close it under each other
            if self.returncode is None and select.select([self._connection], [], [], 0)[0]:
                self.returncode = int(self._answers.readline())
                self._answers.close()
                self._connection.close()
            return self.returncode

    def wait(self, timeout: float = 600) -> int:
        """Wait until the command has ended; return its exit status.

        Raises:
            subprocess.TimeoutExpired: it has not ended after `timeout` seconds.
        """
        deadline = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("svdjobs", timeout)
            time.sleep(LOOK_SECONDS)
        assert self.returncode is not None
        return self.returncode


def run(
    *arguments: object,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    module: str = COMMAND,
) -> subprocess.CompletedProcess[str]:
    """Run `svdjobs ARGUMENTS` to its end, like `subprocess.run` with captured text."""
    words = list(map(str, arguments))
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = Process(
            words,
            cwd=cwd or Path.cwd(),
            env=os.environ if env is None else env,
            out=out.fileno(),
            err=err.fileno(),
            module=module,
        )
        code = process.wait()
        for file in (out, err):
            file.seek(0)
        return subprocess.CompletedProcess(words, code, out.read(), err.read())


@functools.cache
def _server(vllm: bool) -> Path:
    """Start a server that ends with this test process; return its socket."""
    folder = tempfile.mkdtemp(prefix="svdjobs-")
    path = Path(folder) / "socket"
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.forked", str(path), *(["vllm"] * vllm)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )
    deadline = time.monotonic() + START_SECONDS
    while not path.exists():
        assert server.poll() is None and time.monotonic() < deadline, "the server did not start"
        time.sleep(LOOK_SECONDS)

    def stop() -> None:
        assert server.stdin is not None
        server.stdin.close()
        server.wait()
        shutil.rmtree(folder)

    atexit.register(stop)
    return path


def _serve(path: Path) -> None:
    """Fork for every request until standard input is closed, then kill the running commands."""
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listening.bind(f"{path}.new")
    listening.listen(64)
    Path(f"{path}.new").rename(path)
    running: dict[int, socket.socket] = {}
    while True:
        ready, _, _ = select.select([listening, sys.stdin], [], [], LOOK_SECONDS)
        if sys.stdin in ready:
            for pid in running:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(pid, 9)
            return
        if listening in ready:
            connection, _ = listening.accept()
            pid = _forked(connection, listening, running)
            running[pid] = connection
            connection.sendall(f"{pid}\n".encode())
        for pid in list(running):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                with contextlib.suppress(BrokenPipeError), running.pop(pid) as connection:
                    connection.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())


def _forked(
    connection: socket.socket, listening: socket.socket, running: Mapping[int, socket.socket]
) -> int:
    size, descriptors, _, _ = socket.recv_fds(connection, 8, 2)
    text = b""
    while len(text) < int(size):
        text += connection.recv(int(size) - len(text))
    pid = os.fork()
    if pid:
        with contextlib.suppress(PermissionError, ProcessLookupError):
            os.setpgid(pid, pid)  # the child does it too; both, so that no signal is too early
        for descriptor in descriptors:
            os.close(descriptor)
    else:
        for other in (connection, listening, *running.values()):
            other.close()
        _become(json.loads(text), descriptors)
    return pid


def _become(request: dict[str, object], descriptors: Sequence[int]) -> NoReturn:
    """Run the requested command in this process, and exit with its status."""
    os.setpgid(0, 0)
    for descriptor, standard in zip(descriptors, (1, 2), strict=True):
        os.dup2(descriptor, standard)
        os.close(descriptor)
    with Path(os.devnull).open() as nothing:
        os.dup2(nothing.fileno(), 0)
    os.chdir(str(request["cwd"]))
    os.environ.clear()
    os.environ.update(request["env"])  # type: ignore[call-overload]
    sys.argv = ["svdjobs", *request["arguments"]]  # type: ignore[misc]
    code: object = 1
    try:
        importlib.import_module(str(request["module"])).main()
        code = 0
    except SystemExit as end:
        code = end.code
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 0 if code is None else 1)


if __name__ == "__main__":
    if sys.argv[2:]:
        from svdjobs.evaluation.engines.vllm import _environment

        _environment()
    for name in IMPORTED + (VLLM if sys.argv[2:] else ()):
        importlib.import_module(name)
    _serve(Path(sys.argv[1]))
