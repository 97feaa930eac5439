"""Leases on pieces of work: one holder at a time, whatever happens to it."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from svdjobs.errors import UnavailableError
from svdjobs.runs import leases
from svdjobs.runs.leases import Leases
from svdjobs.storage.dev_server import BUCKET
from svdjobs.storage.local import LocalStore
from svdjobs.storage.memory import MemoryStore
from svdjobs.storage.objects import write_bytes
from svdjobs.storage.open import open_store
from svdjobs.storage.store import Store

PIECE = "draw/alpha-0.5000/math-500-000"


@pytest.fixture(params=["memory", "folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "s3":
        return open_store(f"s3://{BUCKET}/{request.getfixturevalue('s3_prefix')}")
    return MemoryStore() if request.param == "memory" else LocalStore(tmp_path / "run")


def test_of_many_workers_one_gets_a_piece_and_the_next_when_it_is_done(store: Store) -> None:
    workers = [Leases(store) for _ in range(8)]
    all_asked, held = threading.Barrier(8), []

    def work(own: Leases) -> None:
        all_asked.wait()
        with own.held(PIECE) as mine:
            held.append(mine)
            all_asked.wait()  # nobody ends before all have asked

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, workers))
    assert sorted(held) == [False] * 7 + [True]
    assert store.keys(leases.PREFIX) == []
    with workers[3].held(PIECE) as mine:
        assert mine


@pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt])
def test_who_fails_or_is_told_to_stop_gives_the_piece_back_at_once(
    store: Store, error: type[BaseException]
) -> None:
    with pytest.raises(error), Leases(store).held(PIECE) as mine:
        assert mine
        raise error
    with Leases(store).held(PIECE) as mine:
        assert mine
    assert store.keys(leases.PREFIX) == []


def held_for(store: Store, seconds: float, own: Leases) -> bool:
    """Whether a worker gets the piece in this time, asking again and again."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        with own.held(PIECE) as mine:
            if mine:
                return True
        time.sleep(0.05)
    return False


def test_a_dead_holder_loses_the_piece_after_its_silence(store: Store) -> None:
    store.put_new(f"{leases.PREFIX}/{PIECE}/000", b"a worker that was killed")
    other = Leases(store, silence=1.0)
    assert not held_for(store, 0.5, other)
    assert held_for(store, 10, other)


def test_a_holder_that_works_for_long_keeps_the_piece(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    with Leases(store, beat=0.1).held(PIECE) as mine:
        assert mine
        assert not held_for(store, 2.0, Leases(store, silence=0.6))


def test_a_holder_that_stood_still_may_finish_beside_the_next_one(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    with Leases(store, beat=1000).held(PIECE) as slow:
        assert slow
        next_one = Leases(store, silence=0.3)
        assert not held_for(store, 0.1, next_one)
        time.sleep(0.4)
        with next_one.held(PIECE) as mine:
            assert mine
    assert store.keys(leases.PREFIX) == []


def test_a_piece_that_kills_its_workers_is_given_up(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    own = Leases(store, most_tries=3)
    for _ in range(3):
        assert not own.is_given_up(PIECE)
        with suppress(MemoryError), own.held(PIECE) as mine:
            assert mine
            raise MemoryError
    with own.held(PIECE) as mine:
        assert not mine
    assert own.is_given_up(PIECE)
    leases.forget(store)
    assert not own.is_given_up(PIECE)


def test_a_store_that_is_away_does_not_end_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> None:
        raise UnavailableError("away")

    store = LocalStore(tmp_path)
    with Leases(store, beat=0.05).held(PIECE) as mine:
        monkeypatch.setattr(leases, "write_bytes", away)
        time.sleep(0.2)
        monkeypatch.setattr(leases, "write_bytes", write_bytes)
        assert mine
