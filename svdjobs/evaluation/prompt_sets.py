"""The prompts of every benchmark as token ids, and the tokenizer that made them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from svdjobs.checkpoint.on_disk import on_disk
from svdjobs.checkpoint.reader import Checkpoint
from svdjobs.checkpoint.selection import embedding_rows
from svdjobs.config import SweepConfig
from svdjobs.errors import CheckpointError
from svdjobs.evaluation.benchmarks.load import Benchmark
from svdjobs.evaluation.prompts import Prompt, check_context_length, load_tokenizer, make_prompts
from svdjobs.runs.checkpoints import RunCheckpoints


class PromptSet(NamedTuple):
    """A tokenizer, and the prompts of each benchmark by its name."""

    tokenizer: Any
    prompts: dict[str, list[Prompt]]

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt."""
        return max(len(prompt.ids) for prompts in self.prompts.values() for prompt in prompts)


def tokenizer_source(config: SweepConfig, checkpoint_id: str) -> str:
    """The checkpoint whose tokenizer makes the prompts of a checkpoint."""
    if checkpoint_id == "before" and config.before_has_own_tokenizer:
        return config.before
    return config.tokenizer or config.after


def tokenizer_of(checkpoints: RunCheckpoints, source: str) -> Any:
    """The tokenizer of the checkpoint at a source.

    Raises:
        CheckpointError: it has none, or the tokenizer cannot be loaded.
    """
    with on_disk(checkpoints.headers(source), weights=False) as folder:
        return load_tokenizer(str(folder))


def make_prompt_set(
    checkpoints: RunCheckpoints, checkpoint_id: str, benchmarks: Sequence[Benchmark]
) -> PromptSet:
    """Tokenise every benchmark for a checkpoint, and check that the checkpoint takes all prompts.

    Reads headers and the tokenizer only. Checkpoints with the same `tokenizer_source` share it.

    Raises:
        CheckpointError: no tokenizer, or a prompt has a token that the checkpoint does not embed.
        BenchmarkError: a prompt and its completion do not fit the context.
    """
    config, evaluate = checkpoints.config, checkpoints.config.evaluation
    tokenizer = tokenizer_of(checkpoints, tokenizer_source(config, checkpoint_id))
    own = checkpoint_id == "before" and config.before_has_own_tokenizer
    checkpoint = checkpoints.headers(config.before if own else config.after)
    text = checkpoint.config.get("text_config") or checkpoint.config
    context = text.get("max_position_embeddings")
    by_benchmark: dict[str, list[Prompt]] = {}
    for benchmark in benchmarks:
        prompts = make_prompts(benchmark.problems, evaluate.prompt, tokenizer)
        lengths = {prompt.idx: len(prompt.ids) for prompt in prompts}
        check_context_length(lengths, context, evaluate.max_tokens, benchmark=benchmark.name)
        _check_tokens_are_embedded(prompts, checkpoint, benchmark.name)
        by_benchmark[benchmark.name] = prompts
    return PromptSet(tokenizer, by_benchmark)


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
