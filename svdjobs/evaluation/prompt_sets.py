"""Makes the prompts of every benchmark, as token ids for a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from svdjobs.checkpoint.on_disk import on_disk
from svdjobs.checkpoint.reader import Checkpoint
from svdjobs.checkpoint.selection import embedding_rows
from svdjobs.config import SweepConfig
from svdjobs.errors import CheckpointError
from svdjobs.evaluation.benchmarks.load import Benchmark
from svdjobs.evaluation.prompts import Prompt, check_context_length, load_tokenizer, make_prompts
from svdjobs.runs import layout
from svdjobs.runs.checkpoints import RunCheckpoints


class PromptSet(NamedTuple):
    """A tokenizer, and its prompts for each benchmark, by the benchmark's name."""

    tokenizer: Any
    prompts: dict[str, list[Prompt]]

    @property
    def longest(self) -> int:
        """Number of tokens of the longest prompt."""
        return max(len(prompt.ids) for prompts in self.prompts.values() for prompt in prompts)


def tokenizer_source(config: SweepConfig, checkpoint_id: str) -> str:
    """Source of the tokenizer for a checkpoint's prompts."""
    if checkpoint_id == "before" and config.before_has_own_tokenizer:
        return config.before
    return config.tokenizer or config.after


def tokenizer_at(checkpoints: RunCheckpoints, source: str) -> Any:
    """The tokenizer of the checkpoint at a source.

    Raises:
        CheckpointError: the checkpoint has no tokenizer, or it cannot be loaded.
    """
    with on_disk(checkpoints.headers(source), weights=False) as folder:
        return load_tokenizer(str(folder))


def make_prompt_set(
    checkpoints: RunCheckpoints, checkpoint_id: str, benchmarks: Sequence[Benchmark]
) -> PromptSet:
    """Tokenise every benchmark for a checkpoint.

    Checkpoints with the same `tokenizer_source` share the set; `check_prompts` says whether one of
    them can read it.

    Raises:
        CheckpointError: there is no tokenizer.
    """
    config = checkpoints.config
    tokenizer = tokenizer_at(checkpoints, tokenizer_source(config, checkpoint_id))
    prompts = {
        benchmark.name: make_prompts(benchmark.problems, config.evaluation.prompt, tokenizer)
        for benchmark in benchmarks
    }
    return PromptSet(tokenizer, prompts)


def check_prompts(
    checkpoints: RunCheckpoints, checkpoint_id: str, by_benchmark: Mapping[str, Sequence[Prompt]]
) -> None:
    """Check that a checkpoint can read its prompts, from its headers.

    A blend has the config and the embedding of the checkpoint that gives its bases.

    Raises:
        CheckpointError: a prompt has a token without an embedding row.
        BenchmarkError: a prompt and its completion do not fit the context.
    """
    config = checkpoints.config
    checkpoint = checkpoints.headers(layout.config_source(config, checkpoint_id))
    text = checkpoint.config.get("text_config") or checkpoint.config
    context = text.get("max_position_embeddings")
    for benchmark, prompts in by_benchmark.items():
        lengths = {prompt.idx: len(prompt.ids) for prompt in prompts}
        check_context_length(
            lengths,
            context,
            config.evaluation.max_tokens,
            benchmark=benchmark,
            checkpoint=checkpoint_id,
        )
        _check_tokens_are_embedded(prompts, checkpoint, benchmark)


def _check_tokens_are_embedded(
    prompts: Sequence[Prompt], checkpoint: Checkpoint, benchmark: str
) -> None:
    rows = embedding_rows(checkpoint)
    largest = max(prompts, key=lambda prompt: max(prompt.ids), default=None)
    if rows is not None and largest is not None and max(largest.ids) >= rows:
        raise CheckpointError(
            f"benchmark {benchmark}, problem {largest.idx}: its prompt has token "
            f"{max(largest.ids)}, but {checkpoint.label} embeds {rows:,} tokens only. Set "
            f"`tokenizer` to the checkpoint that this one was trained from."
        )
