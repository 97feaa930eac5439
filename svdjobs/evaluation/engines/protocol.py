"""What is asked: one request per (problem, sample), the same for every checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from svdjobs.evaluation.prompts import Prompt
from svdjobs.fingerprint import derived_seed
from svdjobs.records import Completion, Problem

if TYPE_CHECKING:
    import torch


class Request(NamedTuple):
    """One completion to draw."""

    idx: int
    sample_index: int
    seed: int
    prompt: str
    """For a person; what is generated from is `prompt_ids`."""
    prompt_ids: tuple[int, ...]

    @property
    def key(self) -> tuple[int, int]:
        """What tells it from the other requests: the problem and the sample."""
        return self.idx, self.sample_index


class Trace(NamedTuple):
    """A completion to be read: how likely is each of its tokens?"""

    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]


class Weights(NamedTuple):
    """A checkpoint that an engine can hold."""

    label: str
    folder: str
    """Where its config and generation config lie."""
    tensors: Callable[[], Iterable[tuple[str, torch.Tensor]]]
    """Every tensor under its checkpoint name, read or computed when called."""


class Engine(Protocol):
    """Draws completions with the checkpoint it holds."""

    description: str
    """Name, version and device, for the record."""
    context: int | None
    """Tokens of prompt and completion together; None if the checkpoint does not say."""

    @property
    def settings(self) -> dict[str, Any]:
        """Every argument it runs with, for the record."""

    def put(self, weights: Weights) -> None:
        """Take another checkpoint's weights instead, and make sure that it holds them."""

    def generate(
        self, requests: Sequence[Request], done: AbstractSet[tuple[int, int]] = frozenset()
    ) -> Iterator[Completion]:
        """Completions as they finish, of all requests but those whose (idx, sample) is `done`."""

    def log_probabilities(self, traces: Sequence[Trace]) -> Iterator[list[float]]:
        """Log-probability of each completion token of each trace, in order."""

    def close(self) -> None:
        """Give its memory back."""


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
    return sorted(requests, key=lambda request: (len(request.prompt_ids), request.key))
