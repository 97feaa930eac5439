"""Pauses between attempts, with a clock of our own."""

from __future__ import annotations

import time

import pytest

from svdjobs.attempts import FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS, Attempts


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that were made; the clock goes on by them, and by nothing else."""
    made: list[float] = []
    monkeypatch.setattr(time, "sleep", made.append)
    monkeypatch.setattr(time, "monotonic", lambda: sum(made))
    return made


def test_pauses_double_up_to_the_longest_with_jitter(pauses: list[float]) -> None:
    attempts = Attempts(patience_seconds=1000)
    assert all(attempts.pause() for _ in range(12))
    for number, pause in enumerate(pauses):
        longest = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2**number)
        assert 0.75 * longest <= pause <= longest
    assert len(set(pauses)) == len(pauses)


def test_the_last_attempt_is_not_followed_by_a_pause(pauses: list[float]) -> None:
    attempts = Attempts(most=3, patience_seconds=1000)
    assert [attempts.pause() for _ in range(3)] == [True, True, False]
    assert attempts.failed == 3
    assert len(pauses) == 2


def test_one_attempt_is_one_attempt(pauses: list[float]) -> None:
    assert not Attempts(most=1, patience_seconds=1000).pause()
    assert not pauses


def test_no_pause_ends_after_the_patience(pauses: list[float]) -> None:
    attempts = Attempts(patience_seconds=10)
    while attempts.pause():
        pass
    assert 10 - LONGEST_PAUSE_SECONDS <= sum(pauses) <= 10
    assert not Attempts(patience_seconds=0).pause()
