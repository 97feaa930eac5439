"""What is asked: one request per (problem, sample), the same for every checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from svdjobs.config import derived_seed
from svdjobs.records import Completion, Problem


class Request(NamedTuple):
    """One completion to draw."""

    idx: int
    sample_index: int
    seed: int
    prompt: str


class Engine(Protocol):
    """Draws completions with one checkpoint."""

    description: str
    """Name, version and device, for the record."""

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """One completion per request, in order; each depends on its own seed only."""


def make_requests(
    problems: Sequence[Problem], prompt: str, n_samples: int, seed: int
) -> list[Request]:
    """All requests of a benchmark, shortest prompts first, so that batches need little padding."""
    requests = [
        Request(p.idx, k, derived_seed(seed, p.idx, k), prompt.replace("{problem}", p.problem))
        for p in problems
        for k in range(n_samples)
    ]
    return sorted(requests, key=lambda request: (len(request.prompt), request[:2]))
