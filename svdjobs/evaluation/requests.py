"""What is asked: one request per (problem, sample), the same for every checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from svdjobs.config import derived_seed
from svdjobs.evaluation.prompts import Prompt
from svdjobs.records import Completion, Problem


class Request(NamedTuple):
    """One completion to draw."""

    idx: int
    sample_index: int
    seed: int
    prompt: str
    """For a person; what is generated from is `prompt_ids`."""
    prompt_ids: tuple[int, ...]


class Engine(Protocol):
    """Draws completions with one checkpoint."""

    description: str
    """Name, version and device, for the record."""
    context: int | None
    """Tokens of prompt and completion together; None if the checkpoint does not say."""

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """One completion per request, in order; each depends on its own seed only."""


def make_requests(
    problems: Sequence[Problem], prompts: Sequence[Prompt], n_samples: int, seed: int
) -> list[Request]:
    """All requests of a benchmark, shortest prompts first, so that batches need little padding."""
    assert [p.idx for p in problems] == [p.idx for p in prompts]
    requests = [
        Request(p.idx, k, derived_seed(seed, p.idx, k), p.text, p.ids)
        for p in prompts
        for k in range(n_samples)
    ]
    return sorted(requests, key=lambda request: (len(request.prompt_ids), request[:2]))
