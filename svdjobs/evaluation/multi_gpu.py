"""Shares the evaluations of a run among processes on one machine, each with its own GPUs.

Each process walks the same list (`queue`). It sees only its GPUs, writes its own log file, and ends
when this process ends. If one is killed, the others take what it had, and it starts again.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from svdjobs.config import VARIANTS, EvaluateConfig, SweepConfig
from svdjobs.errors import EXIT_TRY_AGAIN, ConfigError, EvaluationError
from svdjobs.parallel import die_with
from svdjobs.progress import say
from svdjobs.provenance import cores
from svdjobs.runs import layout, leases
from svdjobs.runs.logs import RunLogs, run_logs
from svdjobs.runs.outputs import find_manifest
from svdjobs.storage.store import Store

POLL_SECONDS = 0.2
TAIL_LINES = 5
RESTARTS = 2
# Environment variable of the processes that this module starts: the id of their parent.
PARENT = "SVDJOBS_PARENT_PID"


def select_gpus(evaluate: EvaluateConfig) -> None:
    """Let this process see only the GPUs of the config.

    A process that this module has started sees its GPUs already. It exits when its parent exits.
    """
    if parent := os.environ.get(PARENT):
        die_with(int(parent))
    elif evaluate.devices:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(evaluate.devices)


def device_groups(evaluate: EvaluateConfig) -> list[tuple[str, ...]]:
    """The GPUs of each engine: `tensor_parallel_size` of those in the config, or of all visible.

    GPUs that are left over are not used. Empty in a process that this module has started, whose
    GPUs all belong to one engine.

    Raises:
        ConfigError: the config has fewer GPUs than one engine needs.
    """
    if PARENT in os.environ:
        return []
    devices = evaluate.devices or tuple(visible_devices())
    size = evaluate.tensor_parallel_size
    if evaluate.devices and len(devices) < size:
        raise ConfigError(
            f"evaluate.tensor_parallel_size is {size}, but evaluate.devices has {len(devices)}."
        )
    return [devices[i : i + size] for i in range(0, len(devices) - size + 1, size)]


def visible_devices() -> list[str]:
    """Names of the GPUs that this process may use, for CUDA_VISIBLE_DEVICES."""
    import torch

    names = os.environ.get("CUDA_VISIBLE_DEVICES")
    if names:
        return names.split(",")
    return [str(i) for i in range(torch.cuda.device_count())]


def run(
    config: SweepConfig,
    store: Store,
    checkpoint_ids: Sequence[str],
    groups: Sequence[tuple[str, ...]],
) -> None:
    """Evaluate checkpoints on several engines at once.

    Raises:
        EvaluationError: some could not be evaluated; the others are finished.
    """
    leases.forget(store)
    with (
        TemporaryDirectory(prefix="svdjobs-") as folder,
        run_logs(store) as logs,
        ExitStack() as stack,
    ):
        path = Path(folder) / "sweep.json"
        path.write_text(config.model_dump_json())

        def start(number: int) -> subprocess.Popen[bytes]:
            engine = _process(
                path, log_of(logs, number), groups[number], checkpoint_ids, len(groups)
            )
            return stack.enter_context(engine)

        say(f"{len(groups)} engines share the work; their logs: {logs.place(log_of(logs, 0))} …")
        _watch(store, start, len(groups))
        ids = [i for i in checkpoint_ids if i != VARIANTS]
        unfinished = [i for i in ids if not _finished(config, store, i)]
        if unfinished:
            raise EvaluationError(
                f"{len(unfinished)} of {len(ids)} checkpoints could not be evaluated: "
                f"{', '.join(unfinished)}. The last lines of their engines' logs:\n"
                f"{_log_tails(logs, len(groups))}"
            )


def _watch(store: Store, start: Callable[[int], subprocess.Popen[bytes]], count: int) -> None:
    """Wait until all engines have ended. One that is killed gives its work back, and starts again
    `RESTARTS` times."""
    running = {number: start(number) for number in range(count)}
    restarts = dict.fromkeys(running, RESTARTS)
    while running:
        time.sleep(POLL_SECONDS)
        for number, process in list(running.items()):
            if (code := process.poll()) is None:
                continue
            del running[number]
            if code:
                leases.give_back(store, leases.worker(process.pid))
            if (code < 0 or code == EXIT_TRY_AGAIN) and restarts[number]:
                restarts[number] -= 1
                why = f"was ended by signal {-code}" if code < 0 else f"ended with code {code}"
                say(f"engine {number} {why}, and starts again")
                running[number] = start(number)


@contextmanager
def _process(
    path: Path,
    log_path: Path,
    devices: tuple[str, ...],
    checkpoint_ids: Sequence[str],
    engines: int,
) -> Iterator[subprocess.Popen[bytes]]:
    """Start one process, and terminate it if it still runs when the block ends."""
    environment = {
        # More OpenMP threads than cores spin for a core, which is fifty times slower. A value that
        # the user has set wins.
        "OMP_NUM_THREADS": str(max(1, cores() // engines)),
        **os.environ,
        "CUDA_VISIBLE_DEVICES": ",".join(devices),
        PARENT: str(os.getpid()),
    }
    options = ["--shared", *(word for i in checkpoint_ids for word in ("--checkpoint", i))]
    with log_path.open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "svdjobs.cli.main", "evaluate", str(path), *options],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.terminate()
            process.wait()


def _finished(config: SweepConfig, store: Store, checkpoint_id: str) -> bool:
    """Whether a checkpoint has drawn its completions, or read after's if it draws none."""
    prefixes = [layout.evaluation_prefix(config, checkpoint_id, b.name) for b in config.benchmarks]
    return all(find_manifest(store, prefix) is not None for prefix in prefixes)


def log_of(logs: RunLogs, number: int) -> Path:
    """Path of the log file of a process."""
    return logs.path(f"engine-{number}")


def _log_tails(logs: RunLogs, count: int) -> str:
    lines = []
    for path in (log_of(logs, number) for number in range(count)):
        if path.exists():
            tail = path.read_text(errors="replace").splitlines()[-TAIL_LINES:]
            lines += [f"  {logs.place(path)}: {line}" for line in tail]
    return "\n".join(lines)
