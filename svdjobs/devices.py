"""Threads that compute on GPUs: where to compute, and how many matrices at a time.

Each thread has one GPU and a stream of its own on it, so that the small kernels of an eigensolver
overlap with those of other matrices. A matrix that a GPU fails at, for example since its memory
does not suffice after all, is computed on the CPU instead.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from svdjobs.errors import ConfigError, NumericalError, first_line
from svdjobs.parallel import threads, worker_count
from svdjobs.progress import say

if TYPE_CHECKING:
    import torch

Device = Literal["auto", "cpu", "cuda"]
# Matrices at a time on one GPU. More streams would only wait for each other.
STREAMS = 4
# Share of a GPU's free memory that the matrices in work may take together.
MEMORY_SHARE = 0.8
# cuSOLVER's workspace for an eigendecomposition, and copies in other layouts, beside what a matrix
# takes on a CPU.
WORKSPACE = 2

_thread = threading.local()


def here() -> torch.device:
    """The device of this thread: the CPU, except in a thread that computes on a GPU."""
    import torch

    return getattr(_thread, "device", torch.device("cpu"))


def gpu_workers(device: Device, bytes_each: int) -> int:
    """The number of matrices of this size to compute on GPUs at the same time; 0: use CPUs.

    Raises:
        ConfigError: `cuda`, and there is no GPU that torch can use, or none with enough memory.
    """
    import torch

    if device == "cpu":
        return 0
    if not torch.cuda.is_available():
        if device == "auto":
            return 0
        raise ConfigError(
            f"compute.device is cuda, and torch {torch.__version__} can use no GPU here. Set it to "
            f"auto or cpu; or see that a GPU is visible (nvidia-smi, CUDA_VISIBLE_DEVICES) and "
            f"torch has CUDA (`make setup GPU=1`; in images NUMERICS_LOCK=numerics-cuda.lock)."
        )
    gpus = torch.cuda.device_count()
    free = min(torch.cuda.mem_get_info(gpu)[0] for gpu in range(gpus))
    each = min(STREAMS, int(MEMORY_SHARE * free // (WORKSPACE * max(1, bytes_each))))
    if each < 1 and device == "cuda":
        raise ConfigError(
            f"compute.device is cuda, and a GPU has {free / 1e9:.1f} GB left; the largest matrix "
            f"needs {WORKSPACE * bytes_each / MEMORY_SHARE / 1e9:.1f} GB. Set it to auto or cpu."
        )
    if each < 1:
        say(f"a GPU has {free / 1e9:.1f} GB left, too few for the largest matrix: using CPUs")
    return gpus * each


class Pool(NamedTuple):
    """A pool of threads, and their number. Functions find their device with `here`."""

    threads: ThreadPoolExecutor
    workers: int


@contextmanager
def computing(device: Device, bytes_each: int, *, workers: int = 0) -> Iterator[Pool]:
    """A pool for matrices of this size, on GPUs or on CPUs; `workers` sets the number of threads.

    Raises:
        ConfigError: `cuda`, and no GPU can be used.
    """
    if on_gpus := gpu_workers(device, bytes_each):
        with _gpu_threads(workers or on_gpus) as pool:
            yield Pool(pool, workers or on_gpus)
        return
    number = workers or worker_count(bytes_each)
    with threads(number) as pool:
        yield Pool(pool, number)


@contextmanager
def computing_beside(pool: Pool, device: Device, bytes_each: int) -> Iterator[Pool]:
    """A pool on GPUs, for work that the threads of `pool` go on with; `pool` itself on CPUs.

    Raises:
        ConfigError: `cuda`, and no GPU can be used.
    """
    if on_gpus := gpu_workers(device, bytes_each):
        with _gpu_threads(on_gpus) as own:
            yield Pool(own, on_gpus)
    else:
        yield pool


@contextmanager
def _gpu_threads(workers: int) -> Iterator[ThreadPoolExecutor]:
    """A pool of threads, dealt out to all GPUs. The end of the block does not wait for them."""
    import torch

    gpus, number = torch.cuda.device_count(), count()

    def begin() -> None:
        _thread.device = torch.device("cuda", next(number) % gpus)
        torch.cuda.set_device(_thread.device)
        torch.cuda.set_stream(torch.cuda.Stream(_thread.device))  # type: ignore[no-untyped-call]

    pool = _OnGpus(workers, initializer=begin)
    try:
        yield pool
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        torch.cuda.empty_cache()  # an engine that starts next takes what is free


class _OnGpus(ThreadPoolExecutor):
    """Runs a function again on the CPU if the GPU failed."""

    def submit(self, function: Callable[..., Any], /, *given: Any, **more: Any) -> Future[Any]:
        return super().submit(_or_on_cpu, function, *given, **more)


def _or_on_cpu(function: Callable[..., Any], *given: Any, **more: Any) -> Any:
    import torch

    try:
        return function(*given, **more)
    except (RuntimeError, NumericalError) as error:  # torch's own are RuntimeErrors
        why = first_line(error)  # the exception itself would keep the tensors of its frames
    torch.cuda.empty_cache()
    say(f"a GPU failed at a matrix, which is computed on the CPU instead: {why}")
    own, _thread.device = _thread.device, torch.device("cpu")
    try:
        return function(*given, **more)
    finally:
        _thread.device = own
