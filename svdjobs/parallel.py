"""Thread pools that use all cores, and child processes that end with their parent.

Threads are as fast as processes here, because BLAS, LAPACK, hashing and file I/O release the
interpreter lock; and they share one copy of torch, which takes half a gigabyte. Eigen-solvers scale
badly over library threads. With one library thread per matrix and one matrix per core, a 1536×1536
`eigh` takes 0.35 s per matrix on two cores; one matrix after the other, it takes 0.45 s.
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

# Fraction of the memory limit that the matrices in work may take together.
MEMORY_SHARE = 0.5
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def worker_count(bytes_each: int) -> int:
    """The number of items of this size to work on at the same time: one per core, if memory allows.

    The number depends on the machine only, not on the work that is left. A resumed run therefore
    computes with as many library threads as an uninterrupted one, and gets the same bits.
    """
    return max(1, min(cores(), int(MEMORY_SHARE * memory_limit_bytes() // max(1, bytes_each))))


@contextmanager
def library_threads(count: int) -> Iterator[None]:
    """Limit BLAS and torch to `count` threads per call inside the block."""
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
    """A pool of `workers` threads, with an equal number of library threads for each.

    The end of the block does not wait for the threads. After a failure their results are thrown
    away; they write nothing themselves.
    """
    import torch

    each = max(1, cores() // workers)
    # OpenMP keeps the number of threads per calling thread, so each worker must set it.
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
    """Map a function over items in a pool, and yield the results in order.

    At most `ahead` items are submitted and not yet consumed. This limits the memory if the consumer
    is slower than the pool.
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
    """Have the kernel kill this process when its parent ends, for whatever reason.

    Source: man 2 prctl, PR_SET_PDEATHSIG.
    """
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:  # the parent died before the call
        sys.exit(0)
