"""Run a container template as one local process, and describe its end as Argo does.

How the controller of Argo 3.7 describes a pod's end (operator.go: inferFailedReason,
podReconciliation, buildRetryStrategyLocalScope); the rows with * were seen on a real 3.7.18. The
exit code is "-1" if the controller saw no terminated main container:

    how it ended                       phase   exit code   message
    main exits N                     * Failed  N           main: Error (exit code N)
    main is killed, out of memory    * Failed  137         main: OOMKilled (exit code 137)
    deleted, its end was seen        * Failed  its own     main: Error (exit code 143), or 137
    deleted, gone before it was seen * Error   -1          pod deleted
    evicted by the API (a drain)     * as deleted, one or the other
    gone in its first ten seconds    * (its pod is made again as the same attempt, under its name)
    evicted by the kubelet             Failed  its own/-1  The node was low on resource: …
    node shutdown                      Failed  its own/-1  Pod was terminated in response to …
    activeDeadlineSeconds            * Failed  its own     Pod was active on the node longer than …
    an output is missing             * Error   0           wait: Error (exit code 64): …

A pod's own message takes precedence over its containers'. A deadline ends main by SIGTERM, so the
exit code is 143, as after a deletion. A main that ended well then counts as failed. Only the
message tells a deadline from a deletion.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from tests import forked
from tests.argo_emulator.document import Json, artifacts_of, parameters_of

SUCCEEDED, FAILED, ERROR = "Succeeded", "Failed", "Error"
UNKNOWN_EXIT_CODE = "-1"


class Disruption(NamedTuple):
    """How a pod is ended from outside; a None field keeps the process's own value."""

    phase: str
    message: str | None
    exit_code: str | None


TERMINATED = Disruption(FAILED, None, None)
DELETED = Disruption(ERROR, "pod deleted", UNKNOWN_EXIT_CODE)
EVICTED = Disruption(FAILED, "The node was low on resource: ephemeral-storage.", None)
NODE_SHUTDOWN = Disruption(
    FAILED, "Pod was terminated in response to imminent node shutdown.", None
)
OUT_OF_MEMORY = Disruption(FAILED, "main: OOMKilled (exit code 137)", "137")
DEADLINE = Disruption(FAILED, "Pod was active on the node longer than the specified deadline", None)


class Pod:
    """A running process in its own group; a test ends it with `disrupt`."""

    def __init__(self, process: forked.Process | subprocess.Popen[bytes], directory: Path) -> None:
        self.process = process
        self.directory = directory
        self.disruption: Disruption | None = None

    def disrupt(self, disruption: Disruption = EVICTED, *, grace_seconds: float = 10) -> None:
        """SIGTERM, then SIGKILL after the grace period, as the kubelet does."""
        if self.process.poll() is not None:
            return  # the process ended before the signal
        self.disruption = disruption
        self._signal(signal.SIGTERM)
        deadline = time.monotonic() + grace_seconds
        while self.process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        self.kill()

    def kill(self) -> None:
        """Send SIGKILL to the processes of the pod that are left."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)


@dataclass
class Attempt:
    """One pod: its command, as in the template, and how it ended."""

    command: list[str]
    phase: str = ""
    exit_code: str = UNKNOWN_EXIT_CODE
    message: str = ""
    seconds: float = 0.0
    log: Path = Path()
    outputs: dict[str, str] = field(default_factory=dict)
    artifacts: dict[str, Path] = field(default_factory=dict)


@dataclass(frozen=True)
class Machine:
    """Where pods run: a directory for their files, programs for their commands, the environment."""

    directory: Path
    commands: Mapping[str, Sequence[str]]
    environment: Mapping[str, str]

    async def run(
        self, template: Json, number: int, on_start: Callable[[Pod], Any] | None
    ) -> Attempt:
        """Run a container template, with its expressions filled in, to its end."""
        container = template["container"]
        attempt = Attempt([*container["command"], *container.get("args", [])])
        root = self.directory / f"{number:04d}-{template['name']}"
        attempt.log = root / "log"
        here = _Paths(root, template)
        here.prepare()
        started = time.monotonic()
        with attempt.log.open("wb") as log:
            process = self._start(
                attempt.command[0],
                [*map(here.local, attempt.command[1:])],
                self._environment(container, here),
                here.working_directory(),
                log.fileno(),
            )
        pod = Pod(process, root)
        try:
            await self._wait(pod, template, on_start)
        finally:
            pod.kill()
            process.wait()
        attempt.seconds = time.monotonic() - started
        _conclude(attempt, pod)
        _collect(attempt, template, here)
        return attempt

    def _start(
        self, name: str, arguments: list[str], environment: dict[str, str], cwd: Path, log: int
    ) -> forked.Process | subprocess.Popen[bytes]:
        program = self.commands.get(name, [name])
        if not program:
            return forked.Process(arguments, cwd=cwd, env=environment, out=log, err=log)
        return subprocess.Popen(
            [*program, *arguments], env=environment, cwd=cwd, stdin=subprocess.DEVNULL,
            stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip

    def _environment(self, container: Json, here: _Paths) -> dict[str, str]:
        found = {"PATH": os.environ["PATH"], **self.environment}
        found["ARGO_PROGRESS_FILE"] = str(here.root / "progress")
        for variable in container.get("env", []):
            if "value" in variable:
                found[variable["name"]] = here.local(variable["value"])
            elif variable["name"] not in found and not _is_optional(variable):
                raise KeyError(f"environment: the test gives no {variable['name']}")
        return found

    @staticmethod
    async def _wait(pod: Pod, template: Json, on_start: Callable[[Pod], Any] | None) -> None:
        hook = asyncio.create_task(asyncio.to_thread(on_start, pod)) if on_start else None
        deadline = time.monotonic() + float(template.get("activeDeadlineSeconds", "inf"))
        while pod.process.poll() is None:
            if time.monotonic() > deadline:
                await asyncio.to_thread(pod.disrupt, DEADLINE)
            await asyncio.sleep(0.02)
        if hook:
            await hook


class _Paths:
    """Maps the container's paths into the pod's folder: mounts, artifacts, output parameters.

    A local process has no file system of its own. So the absolute paths that the template declares
    are replaced in its arguments and environment, but only where a path starts: in
    `--config=/etc/x`, not in `s3://bucket/etc/x`.
    """

    def __init__(self, root: Path, template: Json) -> None:
        self.root = root
        self.template = template
        container = template["container"]
        self.folders = {mount["mountPath"] for mount in container.get("volumeMounts", [])}
        self.inputs = {
            artifact["path"]: artifact["raw"]["data"]
            for artifact in artifacts_of(template.get("inputs"))
            if "raw" in artifact
        }
        outputs = template.get("outputs")
        files = set(self.inputs) | {artifact["path"] for artifact in artifacts_of(outputs)}
        files |= {
            parameter["valueFrom"]["path"]
            for parameter in parameters_of(outputs)
            if "path" in parameter.get("valueFrom", {})
        }
        declared = sorted(self.folders | files, key=len, reverse=True)
        choices = "|".join(re.escape(path.rstrip("/")) for path in declared)
        self.pattern = re.compile(rf"(?<![\w./-])({choices or '(?!)'})(?![\w.-])")

    def local(self, text: str) -> str:
        """The text with the container's paths replaced."""
        return self.pattern.sub(lambda match: f"{self.root}{match[1]}", text)

    def file(self, path: str) -> Path:
        """Where a path of the container is on this machine."""
        return Path(f"{self.root}{path}")

    def working_directory(self) -> Path:
        """The container's workingDir; the pod's folder where it has none."""
        folder = self.file(self.template["container"].get("workingDir", "/"))
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def prepare(self) -> None:
        """Make the pod's folders and put its input artifacts there."""
        for folder in ("/", *self.folders):
            self.file(folder).mkdir(parents=True, exist_ok=True)
        for path, data in self.inputs.items():
            self.file(path).parent.mkdir(parents=True, exist_ok=True)
            self.file(path).write_text(data)


def _is_optional(variable: Json) -> bool:
    source = variable.get("valueFrom", {})
    return any(reference.get("optional", False) for reference in source.values())


def _conclude(attempt: Attempt, pod: Pod) -> None:
    code = pod.process.wait()
    code = 128 - code if code < 0 else code  # killed by a signal, as the executor reports it
    attempt.exit_code = str(code)
    attempt.phase = FAILED if code else SUCCEEDED
    attempt.message = f"main: Error (exit code {code})" if code else ""
    # A process that ends well within the grace period of a plain deletion has done its work.
    if pod.disruption and (code or pod.disruption is not TERMINATED):
        attempt.phase = pod.disruption.phase
        attempt.message = pod.disruption.message or attempt.message
        attempt.exit_code = pod.disruption.exit_code or attempt.exit_code


def _collect(attempt: Attempt, template: Json, here: _Paths) -> None:
    """Read the outputs, also of a failed container, unless the pod is gone."""
    if attempt.phase == ERROR:
        return
    missing = []
    for parameter in parameters_of(template.get("outputs")):
        source = parameter.get("valueFrom", {})
        if "path" not in source:
            continue
        file = here.file(source["path"])
        if file.is_file():
            attempt.outputs[parameter["name"]] = file.read_text().removesuffix("\n")
        elif "default" in source:
            attempt.outputs[parameter["name"]] = source["default"]
        else:
            missing.append(source["path"])
    for artifact in artifacts_of(template.get("outputs")):
        if here.file(artifact["path"]).exists():
            attempt.artifacts[artifact["name"]] = here.file(artifact["path"])
        elif not artifact.get("optional"):
            missing.append(artifact["path"])
    if missing and attempt.phase == SUCCEEDED:
        attempt.phase = ERROR
        attempt.message = f"wait: Error (exit code 64): no such file: {', '.join(missing)}"
