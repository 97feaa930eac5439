from __future__ import annotations

import threading
import time

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_info

from svdjobs import parallel, provenance


def test_results_come_in_order_and_no_more_than_allowed_are_begun() -> None:
    begun: list[int] = []

    def slow_first(item: int) -> int:
        begun.append(item)
        time.sleep(0.05 if item == 0 else 0)
        return item * item

    with parallel.threads(2) as pool:
        found = parallel.in_order(pool, slow_first, range(10), ahead=3)
        assert next(found) == 0
        time.sleep(0.05)
        assert len(begun) == 4  # three at first, and one more after the first result
        assert list(found) == [item * item for item in range(1, 10)]


def test_failure_surfaces_and_the_rest_is_not_begun() -> None:
    release = threading.Event()
    begun: list[int] = []

    def work(item: int) -> int:
        begun.append(item)
        if item == 0:
            raise ValueError("item 0")
        release.wait(5)
        return item

    with pytest.raises(ValueError, match="item 0"), parallel.threads(1) as pool:
        list(parallel.in_order(pool, work, range(100), ahead=50))
    release.set()
    assert len(begun) < 5


def test_library_threads_are_limited_in_every_thread_and_given_back() -> None:
    np.eye(64) @ np.eye(64)
    before = torch.get_num_threads()

    def seen(_: int) -> tuple[int, set[int]]:
        blas = {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}
        return torch.get_num_threads(), blas

    with parallel.threads(provenance.cores()) as pool:
        assert set(map(str, parallel.in_order(pool, seen, range(4), ahead=2))) == {"(1, {1})"}
    assert torch.get_num_threads() == before


def test_workers_fit_cores_and_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "cores", lambda: 64)
    monkeypatch.setattr(parallel, "memory_limit_bytes", lambda: 100)
    assert [parallel.worker_count(each) for each in (0, 1, 10, 51)] == [50, 50, 5, 1]
