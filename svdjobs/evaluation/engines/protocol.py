"""The interface of an engine, and the requests that it takes."""

from __future__ import annotations

from collections.abc import (
    Callable,
    Collection,
    Hashable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from svdjobs.config import EvaluateConfig
from svdjobs.errors import ConfigError
from svdjobs.evaluation.prompts import Prompt
from svdjobs.fingerprint import derived_seed
from svdjobs.records import Completion, Problem

if TYPE_CHECKING:
    import torch


class Request(NamedTuple):
    """One completion to generate."""

    idx: int
    sample_index: int
    seed: int
    prompt: str
    """For logs only; the engine reads `prompt_ids`."""
    prompt_ids: tuple[int, ...]

    @property
    def key(self) -> tuple[int, int]:
        """Problem and sample, which identify the completion."""
        return self.idx, self.sample_index


class Trace(NamedTuple):
    """A completion whose token log-probabilities are wanted."""

    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]


class Weights(NamedTuple):
    """A checkpoint for an engine: for `put` its tensors, and for `start` its weight files."""

    label: str
    folder: str
    """The folder with its config and generation config, and, for `start`, its weight files."""
    tensors: Callable[[], Iterable[tuple[str, torch.Tensor]]]
    """All tensors by their names in the checkpoint, read or computed when this is called."""
    origins: Mapping[str, Hashable] = MappingProxyType({})
    """Where each tensor comes from: two tensors of one name and origin are equal. Without origins,
    nothing is known."""
    some: Callable[[Collection[str]], Iterable[tuple[str, torch.Tensor]]] | None = None
    """The tensors with these names; given if there are origins."""


def chosen_tensors(
    weights: Weights, names: Collection[str] | None
) -> Iterable[tuple[str, torch.Tensor]]:
    """The tensors with these names; all of them if `names` is None."""
    return weights.tensors() if names is None or weights.some is None else weights.some(names)


class Engine(Protocol):
    """Generates completions and scores token sequences with the checkpoint that it holds."""

    description: str
    """Name, version and device, for the record."""
    context: int | None
    """The most tokens of prompt and completion together; None if the checkpoint does not say."""
    vocabulary: int
    """Number of token ids that the checkpoint embeds."""

    @property
    def settings(self) -> dict[str, Any]:
        """Every argument that it runs with, for the record."""

    def put(self, weights: Weights, changed: Collection[str] | None = None) -> None:
        """Swap in another checkpoint's weights, and verify them.

        With `changed`, only the tensors with these names differ from those that it holds.
        """

    def generate(
        self, requests: Sequence[Request], done: AbstractSet[tuple[int, int]] = frozenset()
    ) -> Iterator[Completion]:
        """Yield completions as they finish, for all requests whose key is not in `done`."""

    def log_probabilities(
        self, traces: Sequence[Trace], temperature: float = 1.0
    ) -> Iterator[list[float]]:
        """Yield, for each trace, the log-probability of each of its completion tokens, when they
        are sampled at this temperature.

        An engine may leave out the last token of a trace that fills its context (vLLM does).
        """

    def close(self) -> None:
        """Free its memory."""


class StartEngine(Protocol):
    """Starts an engine. Raises CheckpointError or EvaluationError if it cannot hold a checkpoint,
    ConfigError if its program cannot be used."""

    def __call__(
        self,
        weights: Weights,
        tokenizer: Any,
        config: EvaluateConfig,
        *,
        longest_prompt: int,
        log: Path,
    ) -> Engine:
        """Start with a checkpoint, and a context for the longest prompt and `max_tokens`. What the
        engine's library prints goes to the file `log`."""


@dataclass(frozen=True)
class EngineKind:
    """An engine that a config can name: the `ENGINE` of the module of that name in this folder."""

    title: str
    """Its name in messages."""
    start: StartEngine
    check: Callable[[], None]
    """Raises ConfigError, with what to install, if the engine's library is not there."""
    makes_own_batches: bool = False
    """`evaluate.batch_size` does not reach it."""
    writes_log: bool = False
    """Its library prints enough to fill a log file."""


def engine_kind(name: str) -> EngineKind:
    """The engine of a name, as configs spell it.

    Raises:
        ConfigError: there is none. A config cannot say so, but a run of another version can.
    """
    try:
        kind: EngineKind = import_module(f"svdjobs.evaluation.engines.{name}").ENGINE
    except (ImportError, AttributeError):
        raise ConfigError(f"this version of svdjobs has no engine {name!r:.40}.") from None
    return kind


def make_requests(
    problems: Sequence[Problem], prompts: Sequence[Prompt], n_samples: int, seed: int
) -> list[Request]:
    """One request per problem and sample, the same for every checkpoint. The shortest prompts come
    first, so batches need little padding."""
    assert [p.idx for p in problems] == [p.idx for p in prompts]
    requests = [
        Request(p.idx, k, derived_seed(seed, p.idx, k), p.text, p.ids)
        for p in prompts
        for k in range(n_samples)
    ]
    return sorted(requests, key=lambda request: (len(request.prompt_ids), request.key))
