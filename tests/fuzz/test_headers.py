"""A short run of `make fuzz`."""

from __future__ import annotations

from tests.fuzz.headers import run


def test_mutated_checkpoints_are_read_as_the_library_reads_them_or_refused() -> None:
    tally = run(count=400, seed=20)
    assert not tally.failures, "\n".join(tally.lines())
    assert tally.outcomes["read"] > 50
    assert tally.outcomes["refused"] > 50
