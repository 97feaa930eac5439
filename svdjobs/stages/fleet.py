"""One engine per GPU: the checkpoints of an evaluation spread over processes of this machine.

Each process evaluates its share with `svdjobs evaluate`, sees only its own GPUs and logs to a file
of its own. One that dies does not stop the others; what it left undone is tried once more.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from svdjobs.config import EvaluateConfig, SweepConfig
from svdjobs.errors import ConfigError, EvaluationError
from svdjobs.progress import say, track
from svdjobs.provenance import cores
from svdjobs.stages import graph
from svdjobs.stages.outputs import find_manifest
from svdjobs.storage.store import Store

LOGS = Path("logs")
ATTEMPTS = 2
POLL_SECONDS = 0.2
TAIL_LINES = 5


def device_groups(evaluate: EvaluateConfig) -> list[tuple[str, ...]]:
    """GPUs of each engine: those of the config or all visible, `tensor_parallel_size` at a time.

    Raises:
        ConfigError: fewer GPUs than one engine needs.
    """
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


@dataclass
class _Share:
    """What one process evaluates."""

    number: int
    devices: tuple[str, ...]
    checkpoint_ids: list[str]
    process: subprocess.Popen[bytes]
    log: IO[bytes]


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
    assert config.evaluate is not None
    first = ["after"] if config.evaluate.teacher_forced and "after" in checkpoint_ids else []
    rest = [i for i in checkpoint_ids if i not in first]
    with track("evaluate on several engines", len(checkpoint_ids)) as advance:
        for ids in (first, rest):
            left = list(ids)
            for _ in range(ATTEMPTS):
                failed = _attempt(config, store, left, groups)
                advance(len(left) - len(failed))
                left = failed
                if left:
                    say(f"not finished, trying again: {', '.join(left)}")
            if left:
                raise EvaluationError(
                    f"{len(left)} of {len(ids)} checkpoints could not be evaluated: "
                    f"{', '.join(left)}. What their engines said last:\n{_last_words(len(groups))}"
                )


def _attempt(
    config: SweepConfig,
    store: Store,
    checkpoint_ids: Sequence[str],
    groups: Sequence[tuple[str, ...]],
) -> list[str]:
    """Evaluate, and return the ids that are not finished afterwards."""
    shares = [
        _start(config, number, devices, list(checkpoint_ids[number :: len(groups)]), len(groups))
        for number, devices in enumerate(groups)
        if checkpoint_ids[number :: len(groups)]
    ]
    try:
        while any(share.process.poll() is None for share in shares):
            time.sleep(POLL_SECONDS)
    finally:
        for share in shares:
            if share.process.poll() is None:
                share.process.terminate()
                share.process.wait()
            share.log.close()
    return [i for i in checkpoint_ids if not _finished(config, store, i)]


def _start(
    config: SweepConfig,
    number: int,
    devices: tuple[str, ...],
    checkpoint_ids: list[str],
    engines: int,
) -> _Share:
    assert config.evaluate is not None
    # Threads that wait for a core by spinning slow each other down fifty times over.
    threads = {"OMP_NUM_THREADS": str(max(1, cores() // engines)), **os.environ}
    LOGS.mkdir(exist_ok=True)
    own = config.evaluate.model_copy(update={"devices": devices})
    path = LOGS / f"engine-{number}.json"
    path.write_text(config.model_copy(update={"evaluate": own}).model_dump_json())
    log = (LOGS / f"engine-{number}.log").open("ab")
    named = [word for i in checkpoint_ids for word in ("--checkpoint", i)]
    process = subprocess.Popen(
        [sys.executable, "-m", "svdjobs.cli.main", "evaluate", str(path), *named],
        env={**threads, "CUDA_VISIBLE_DEVICES": ",".join(devices)},
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
    )
    return _Share(number, devices, checkpoint_ids, process, log)


def _finished(config: SweepConfig, store: Store, checkpoint_id: str) -> bool:
    assert config.evaluate is not None
    return all(
        find_manifest(store, graph.results_prefix(checkpoint_id, benchmark.name)) is not None
        for benchmark in config.evaluate.benchmarks
    )


def _last_words(count: int) -> str:
    lines = []
    for number in range(count):
        path = LOGS / f"engine-{number}.log"
        if path.exists():
            tail = path.read_text(errors="replace").splitlines()[-TAIL_LINES:]
            lines += [f"  {path}: {line}" for line in tail]
    return "\n".join(lines)
