"""Previews an evaluation for `plan`: problems, prompts and tokenizers, loaded as by `evaluate`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from svdjobs.checkpoint.on_disk import on_disk
from svdjobs.checkpoint.reader import Checkpoint
from svdjobs.checkpoint.selection import embedding_rows
from svdjobs.config import SweepConfig
from svdjobs.errors import CheckpointError
from svdjobs.evaluation import amounts
from svdjobs.evaluation.benchmarks.of_run import benchmark_of
from svdjobs.evaluation.engines.stop_tokens import stop_tokens
from svdjobs.evaluation.prompt_sets import (
    PromptSet,
    check_prompts,
    make_prompt_set,
    tokenizer_at,
    tokenizer_source,
)
from svdjobs.evaluation.tokenizers import differences, differing_tokens, vocabulary_mismatches
from svdjobs.runs import layout
from svdjobs.runs.checkpoints import RunCheckpoints
from svdjobs.runs.outputs import find_manifest
from svdjobs.storage.store import Store

_MOST_ALPHAS_SHOWN = 12


def preview_evaluation(
    config: SweepConfig, store: Store, asked: amounts.Questions | None = None
) -> list[str]:
    """Lines for the user: the alphas, the number of prompts and tokens, tokenizer differences, how
    long the evaluation takes, and how small a difference it shows.

    Loads the benchmarks and tokenises every prompt, unless all evaluations are finished and nothing
    is `asked`.

    Raises:
        BenchmarkError: a benchmark is missing, has no such field, or does not fit the context.
        CheckpointError: a tokenizer is missing, or is not that of its checkpoint.
        StorageError: the hub or a bucket refuses the request, or does not answer.
    """
    lines = [_alphas(config)]
    if config.evaluate is not None and (asked or not _all_finished(config, store)):
        checkpoints = RunCheckpoints(config)
        benchmarks = [benchmark_of(benchmark, store) for benchmark in config.benchmarks]
        of_after = make_prompt_set(checkpoints, "after", benchmarks)
        check_prompts(checkpoints, "after", of_after.prompts)
        lines += _tokenizers(checkpoints, of_after)
        apart = tokenizer_source(config, "before") != tokenizer_source(config, "after")
        of_before = make_prompt_set(checkpoints, "before", benchmarks) if apart else of_after
        check_prompts(checkpoints, "before", of_before.prompts)
        lines += amounts.words(checkpoints, store, benchmarks, of_after, of_before, asked)
    return lines


def _all_finished(config: SweepConfig, store: Store) -> bool:
    ids = layout.evaluated_ids(config)
    prefixes = [layout.evaluation_prefix(config, i, b.name) for b in config.benchmarks for i in ids]
    return all(find_manifest(store, prefix) is not None for prefix in prefixes)


def _alphas(config: SweepConfig) -> str:
    shown = [f"{alpha:.15g}" for alpha in config.alphas]
    if len(shown) > _MOST_ALPHAS_SHOWN:
        shown = [*shown[: _MOST_ALPHAS_SHOWN - 2], "…", shown[-1]]
    return f"{len(config.alphas)} alphas: {', '.join(shown)}" if shown else "no alphas"


def _tokenizers(checkpoints: RunCheckpoints, of_after: PromptSet) -> Iterator[str]:
    """Differences between the tokenizers of before and after, and between these and the embeddings.

    Raises:
        CheckpointError: `before` would read other tokens than the prompts have, or a checkpoint has
            no stop token, so no completion would end.
    """
    config = checkpoints.config
    source = tokenizer_source(config, "after")
    chosen = config.evaluation.tokenizer_of_before
    own_tokenizer = of_after.tokenizer if source == config.before else _own_tokenizer(checkpoints)
    if own_tokenizer is not None and (differ := differences(own_tokenizer, of_after.tokenizer)):
        words = f"before's tokenizer and that of {source} differ: {differ.words}"
        if chosen is None:
            _refuse_other_tokens(own_tokenizer, of_after, words)
        whose = "its own" if chosen == "own" else f"that of {source}"
        yield f"{words}. before is evaluated with {whose} (evaluate.tokenizer_of_before)"
    tokenizer_of_before = own_tokenizer if chosen == "own" else of_after.tokenizer
    of_each = {"before": tokenizer_of_before, "after": of_after.tokenizer}
    of_each |= dict.fromkeys(config.checkpoints, of_after.tokenizer)
    sources = {"before": config.before, "after": config.after, **config.checkpoints}
    stops = {}
    for checkpoint_id, tokenizer in of_each.items():
        checkpoint = checkpoints.headers(sources[checkpoint_id])
        with on_disk(checkpoint, weights=False) as folder:
            stops[checkpoint_id] = stop_tokens(str(folder), tokenizer)
        if checkpoint_id in ("before", "after"):
            yield from _embedded(checkpoint_id, checkpoint, tokenizer, stops[checkpoint_id])
    for checkpoint_id in layout.read_ids(config):
        own = stops.get(checkpoint_id)
        if own is not None and own != stops["after"]:
            yield (
                f"{checkpoint_id} stops at token {_listed(own)}, after at {_listed(stops['after'])}"
                f" (eos_token_id of their configs): sampled, {checkpoint_id} stops at its own; "
                f"read, it is scored with after's"
            )


def _listed(tokens: list[int]) -> str:
    return ", ".join(map(str, tokens))


def _own_tokenizer(checkpoints: RunCheckpoints) -> Any:
    """before's own tokenizer; None if it has none."""
    try:
        return tokenizer_at(checkpoints, checkpoints.config.before)
    except CheckpointError:
        return None


def _refuse_other_tokens(own_tokenizer: Any, of_after: PromptSet, words: str) -> None:
    """Check that the prompts' token ids are the same tokens in before's own tokenizer.

    Raises:
        CheckpointError: a token id of a prompt is another token in before's tokenizer.
    """
    prompts = (prompt for group in of_after.prompts.values() for prompt in group)
    used = {idx for prompt in prompts for idx in prompt.ids}
    if wrong := differing_tokens(own_tokenizer, of_after.tokenizer, used):
        token, other = wrong[0]
        raise CheckpointError(
            f"{words}. Of the tokens in the prompts, before would read {len(wrong):,} as others, "
            f"e.g. {token!r} as {other!r}. Set evaluate.tokenizer_of_before to own, or to after to "
            f"evaluate it so anyway."
        )


def _embedded(
    checkpoint_id: str, checkpoint: Checkpoint, tokenizer: Any, stop: list[int]
) -> Iterator[str]:
    """Differences between a checkpoint and the tokenizer of its prompts."""
    vocabulary = set(tokenizer.get_vocab().values())
    if missing := [idx for idx in stop if idx not in vocabulary]:
        yield (
            f"{checkpoint_id} ends at token {_listed(missing)} (eos_token_id of its "
            f"configs), which the tokenizer does not have"
        )
    if (rows := embedding_rows(checkpoint)) is not None:
        yield from vocabulary_mismatches(tokenizer, rows, checkpoint_id)
