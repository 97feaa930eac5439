"""Use all cores: threads of one process with results in order, and processes that end with theirs.

The heavy calls (BLAS, LAPACK, hashing, file I/O) let go of the interpreter lock, so threads do as
well as processes here and share one copy of torch, half a gigabyte each. Eigen-solvers scale badly
over threads: with one library thread per matrix and as many matrices at a time as there are cores,
a 1536×1536 `eigh` takes 0.35 s a piece on two cores, against 0.45 s one after the other.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from typing import TypeVar

from svdjobs.provenance import cores, memory_limit_bytes

Item = TypeVar("Item")
Result = TypeVar("Result")

# Of the machine's memory, what the matrices being worked on may take.
MEMORY_SHARE = 0.5
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def worker_count(bytes_each: int) -> int:
    """How many items of that size to work on at a time: one per core, while memory lasts.

    Depends on the machine only, not on what is left to do, so a resumed run computes with as many
    library threads, and to the same bits, as an undisturbed one.
    """
    return max(1, min(cores(), int(MEMORY_SHARE * memory_limit_bytes() // max(1, bytes_each))))


@contextmanager
def library_threads(count: int) -> Iterator[None]:
    """BLAS and torch use `count` threads per call while the block runs."""
    import torch
    from threadpoolctl import threadpool_limits

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        with threadpool_limits(count):
            yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def threads(workers: int) -> Iterator[ThreadPoolExecutor]:
    """A pool that shares the cores with the libraries, and is not waited for after a failure.

    What its threads still compute then is thrown away; they write nothing on their own.
    """
    import torch

    each = max(1, cores() // workers)
    # OpenMP's number of threads belongs to the thread that sets it, so each worker sets its own.
    pool = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(each,))
    try:
        with library_threads(each):
            yield pool
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def in_order(
    pool: ThreadPoolExecutor,
    function: Callable[[Item], Result],
    items: Iterable[Item],
    ahead: int,
) -> Iterator[Result]:
    """`map` in a pool, with at most `ahead` items begun and not yet consumed.

    The bound is what keeps memory bounded when the consumer is slower than the pool.
    """
    iterator = iter(items)
    waiting: deque[Future[Result]] = deque(
        pool.submit(function, item) for item in islice(iterator, ahead)
    )
    while waiting:
        result = waiting.popleft().result()
        waiting.extend(pool.submit(function, item) for item in islice(iterator, 1))
        yield result


def die_with(parent_pid: int) -> None:
    """Have the kernel kill this process when its parent ends, however that ends.

    Source: man 2 prctl, PR_SET_PDEATHSIG.
    """
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:  # it died before the call
        sys.exit(0)
