"""Divides the checkpoints of an evaluation among processes on one machine, each with its own GPUs.

Each process runs `svdjobs evaluate` for some checkpoints. It sees only its GPUs, writes its own log
file, and ends when this process ends. If one dies, the others go on. Checkpoints that it did not
finish are tried once more, each in its own process and on other GPUs.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import zip_longest
from pathlib import Path
from tempfile import TemporaryDirectory

from svdjobs.config import EvaluateConfig, SweepConfig
from svdjobs.errors import ConfigError, EvaluationError
from svdjobs.parallel import die_with
from svdjobs.progress import say, track
from svdjobs.provenance import cores
from svdjobs.runs import layout
from svdjobs.runs.logs import RunLogs, run_logs
from svdjobs.runs.outputs import find_manifest
from svdjobs.storage.store import Store

POLL_SECONDS = 0.2
TAIL_LINES = 5
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
        EvaluationError: some checkpoints failed twice; the others are finished.
    """
    # `after` first: the others read its completions.
    first = ["after"] if config.evaluation.read != 0 and "after" in checkpoint_ids else []
    rest = [i for i in checkpoint_ids if i not in first]
    failed_twice: list[str] = []
    with (
        track("evaluate on several engines", len(checkpoint_ids)) as advance,
        TemporaryDirectory(prefix="svdjobs-") as folder,
        run_logs(store) as logs,
    ):
        path = Path(folder) / "sweep.json"
        path.write_text(config.model_dump_json())
        for ids in (first, rest):
            by_process = [ids[number :: len(groups)] for number in range(len(groups))]
            _attempt(path, by_process, groups, logs)
            unfinished = [i for i in ids if not _finished(config, store, i)]
            advance(len(ids) - len(unfinished))
            if unfinished:
                say(f"not finished, trying again: {', '.join(unfinished)}")
            # Each alone, on the GPUs after those where it failed.
            queues: list[list[str]] = [[] for _ in groups]
            for i in unfinished:
                queues[(ids.index(i) + 1) % len(groups)].append(i)
            for retried in zip_longest(*queues):
                _attempt(path, [[i] if i else [] for i in retried], groups, logs)
            failed = [i for i in unfinished if not _finished(config, store, i)]
            advance(len(unfinished) - len(failed))
            failed_twice += failed
        tails = _log_tails(logs, len(groups))
    if failed_twice:
        raise EvaluationError(
            f"{len(failed_twice)} of {len(checkpoint_ids)} checkpoints could not be evaluated: "
            f"{', '.join(failed_twice)}. The last lines of their engines' logs:\n{tails}"
        )


def _attempt(
    path: Path,
    ids_by_process: Sequence[Sequence[str]],
    groups: Sequence[tuple[str, ...]],
    logs: RunLogs,
) -> None:
    """Evaluate checkpoints in processes, each with its group of GPUs, and wait for all."""
    with ExitStack() as stack:
        processes = [
            stack.enter_context(_process(path, log_of(logs, number), devices, ids, len(groups)))
            for number, (ids, devices) in enumerate(zip(ids_by_process, groups, strict=False))
            if ids
        ]
        while any(process.poll() is None for process in processes):
            time.sleep(POLL_SECONDS)


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
    options = [word for i in checkpoint_ids for word in ("--checkpoint", i)]
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
