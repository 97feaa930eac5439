"""One engine per GPU: the checkpoints of an evaluation spread over processes of this machine.

Each process evaluates its share with `svdjobs evaluate`, sees only its own GPUs, logs to a file of
its own and ends with this process. One that dies does not stop the others; what it left undone is
tried once more, one checkpoint a process and on other GPUs.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from svdjobs.config import EvaluateConfig, SweepConfig
from svdjobs.errors import ConfigError, EvaluationError
from svdjobs.parallel import die_with
from svdjobs.progress import LOGS, say, track
from svdjobs.provenance import cores
from svdjobs.runs import layout
from svdjobs.runs.outputs import find_manifest
from svdjobs.storage.store import Store

POLL_SECONDS = 0.2
TAIL_LINES = 5
# Set for the processes started here, to this one's id.
PARENT = "SVDJOBS_FLEET_PARENT"


def join(evaluate: EvaluateConfig) -> None:
    """See only the GPUs of the config; in a process started here, end with the one that did."""
    if parent := os.environ.get(PARENT):
        die_with(int(parent))
    elif evaluate.devices:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(evaluate.devices)


def device_groups(evaluate: EvaluateConfig) -> list[tuple[str, ...]]:
    """GPUs of each engine: those of the config or all visible, `tensor_parallel_size` at a time.

    None in a process started here, whose GPUs are those of one engine.

    Raises:
        ConfigError: fewer GPUs than one engine needs.
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
    """Names of the GPUs this process may use, for CUDA_VISIBLE_DEVICES."""
    import torch

    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named:
        return named.split(",")
    return [str(i) for i in range(torch.cuda.device_count())]


def run(
    config: SweepConfig,
    store: Store,
    checkpoint_ids: Sequence[str],
    groups: Sequence[tuple[str, ...]],
) -> None:
    """Evaluate checkpoints on several engines at once.

    Raises:
        EvaluationError: some could not be evaluated in two attempts; the others are finished.
    """
    first = ["after"] if config.evaluation.teacher_forced and "after" in checkpoint_ids else []
    rest = [i for i in checkpoint_ids if i not in first]
    lost: list[str] = []
    with (
        track("evaluate on several engines", len(checkpoint_ids)) as advance,
        TemporaryDirectory(prefix="svdjobs-") as folder,
    ):
        path = Path(folder) / "sweep.json"
        path.write_text(config.model_dump_json())
        for ids in (first, rest):
            shares = [ids[number :: len(groups)] for number in range(len(groups))]
            _attempt(path, shares, groups)
            left = [i for i in ids if not _finished(config, store, i)]
            advance(len(ids) - len(left))
            if left:
                say(f"not finished, trying again: {', '.join(left)}")
            for start in range(0, len(left), len(groups)):
                some = left[start : start + len(groups)]
                _attempt(path, [[i] for i in some], [*groups[1:], groups[0]])
                failed = [i for i in some if not _finished(config, store, i)]
                advance(len(some) - len(failed))
                lost += failed
    if lost:
        raise EvaluationError(
            f"{len(lost)} of {len(checkpoint_ids)} checkpoints could not be evaluated: "
            f"{', '.join(lost)}. What their engines said last:\n{_last_words(len(groups))}"
        )


def _attempt(
    path: Path, shares: Sequence[Sequence[str]], groups: Sequence[tuple[str, ...]]
) -> None:
    """Evaluate shares of checkpoints, each in a process with its group of GPUs, and wait."""
    with ExitStack() as stack:
        processes = [
            stack.enter_context(_process(path, number, devices, ids, len(groups)))
            for number, (ids, devices) in enumerate(zip(shares, groups, strict=False))
            if ids
        ]
        while any(process.poll() is None for process in processes):
            time.sleep(POLL_SECONDS)


@contextmanager
def _process(
    path: Path, number: int, devices: tuple[str, ...], checkpoint_ids: Sequence[str], engines: int
) -> Iterator[subprocess.Popen[bytes]]:
    """One process; terminated if it is still at work when the block ends."""
    environment = {
        # Threads that wait for a core by spinning slow each other down fifty times over.
        "OMP_NUM_THREADS": str(max(1, cores() // engines)),
        **os.environ,
        "CUDA_VISIBLE_DEVICES": ",".join(devices),
        PARENT: str(os.getpid()),
    }
    LOGS.mkdir(exist_ok=True)
    named = [word for i in checkpoint_ids for word in ("--checkpoint", i)]
    with (LOGS / f"engine-{number}.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "svdjobs.cli.main", "evaluate", str(path), *named],
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
    return all(
        find_manifest(store, layout.results_prefix(checkpoint_id, benchmark.name)) is not None
        for benchmark in config.benchmarks
    )


def _last_words(count: int) -> str:
    lines = []
    for number in range(count):
        path = LOGS / f"engine-{number}.log"
        if path.exists():
            tail = path.read_text(errors="replace").splitlines()[-TAIL_LINES:]
            lines += [f"  {path}: {line}" for line in tail]
    return "\n".join(lines)
