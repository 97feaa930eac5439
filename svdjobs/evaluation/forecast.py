"""What a plan says of an evaluation before anything is decomposed: its problems, prompts and
tokenizers, as `evaluate` will load them, and what the report will lack."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from svdjobs.checkpoint.on_disk import on_disk
from svdjobs.checkpoint.reader import Checkpoint
from svdjobs.checkpoint.selection import embedding_rows
from svdjobs.config import SweepConfig
from svdjobs.errors import CheckpointError
from svdjobs.evaluation.benchmarks.load import Benchmark, load_benchmark
from svdjobs.evaluation.engines.stop_tokens import stop_tokens
from svdjobs.evaluation.prompt_sets import (
    PromptSet,
    make_prompt_set,
    tokenizer_of,
    tokenizer_source,
)
from svdjobs.evaluation.tokenizers import differences, differing_tokens, vocabulary_mismatches
from svdjobs.runs import layout
from svdjobs.runs.checkpoints import RunCheckpoints
from svdjobs.runs.outputs import find_manifest
from svdjobs.storage.store import Store

_MOST_ALPHAS_SHOWN = 12


def preview_evaluation(config: SweepConfig, store: Store) -> list[str]:
    """What will be asked, and what the report will lack; lines for a person.

    Benchmarks are loaded and every prompt is tokenised, unless all answers are there already.

    Raises:
        BenchmarkError: a benchmark that is not there, lacks a field, or does not fit the context.
        CheckpointError: a tokenizer that is not there, or is not that of its checkpoint.
        StorageError: the hub, or a bucket, refuses or does not answer.
    """
    lines = [_alphas(config)]
    if config.evaluate is not None and not _answered(config, store):
        checkpoints = RunCheckpoints(config)
        benchmarks = [load_benchmark(benchmark) for benchmark in config.benchmarks]
        asked = make_prompt_set(checkpoints, "after", benchmarks)
        lines += _tokenizers(checkpoints, asked)
        lines += _questions(checkpoints, benchmarks, asked)
    return lines


def _answered(config: SweepConfig, store: Store) -> bool:
    ids = layout.evaluated_ids(config)
    places = [layout.results_prefix(i, section.name) for section in config.benchmarks for i in ids]
    return all(find_manifest(store, place) is not None for place in places)


def _alphas(config: SweepConfig) -> str:
    shown = [f"{alpha:.15g}" for alpha in config.alphas]
    if len(shown) > _MOST_ALPHAS_SHOWN:
        shown = [*shown[: _MOST_ALPHAS_SHOWN - 2], "…", shown[-1]]
    return f"{len(config.alphas)} alphas: {', '.join(shown)}" if shown else "no alphas"


def _questions(
    checkpoints: RunCheckpoints,
    benchmarks: Sequence[Benchmark],
    asked: PromptSet,
) -> Iterator[str]:
    """How much is asked on each benchmark, by the prompts themselves."""
    config, evaluate = checkpoints.config, checkpoints.config.evaluation
    own = tokenizer_source(config, "before") != tokenizer_source(config, "after")
    before = make_prompt_set(checkpoints, "before", benchmarks) if own else asked
    count = len(layout.evaluated_ids(config))
    for benchmark in benchmarks:
        lengths = [len(prompt.ids) for prompt in asked.prompts[benchmark.name]]
        others = [len(prompt.ids) for prompt in before.prompts[benchmark.name]]
        completions = len(lengths) * evaluate.n_samples * count
        read = sum(lengths) * (count - 1) + sum(others)
        yield (
            f"{benchmark.name}: {len(lengths):,} problems × {evaluate.n_samples} completions × "
            f"{count} checkpoints = {completions:,} completions; prompts of {min(lengths):,} to "
            f"{max(lengths):,} tokens, {read * evaluate.n_samples:,} in all, and at most "
            f"{completions * evaluate.max_tokens:,} tokens drawn"
        )


def _tokenizers(checkpoints: RunCheckpoints, asked: PromptSet) -> Iterator[str]:
    """What is not alike in the tokenizers of before and after, and in what they embed.

    Raises:
        CheckpointError: before would read other tokens than were asked.
    """
    config = checkpoints.config
    source = tokenizer_source(config, "after")
    chosen = config.evaluation.tokenizer_of_before
    own = asked.tokenizer if source == config.before else _own_tokenizer(checkpoints)
    if own is not None and (differ := differences(own, asked.tokenizer)):
        words = f"before's tokenizer and that of {source} differ: {differ.words}"
        if chosen is None:
            _refuse_misread(own, asked, words)
        whose = "its own" if chosen == "own" else f"that of {source}"
        yield f"{words}. before is asked with {whose} (evaluate.tokenizer_of_before)"
    of_before = own if chosen == "own" else asked.tokenizer
    yield from _embedded("before", checkpoints.headers(config.before), of_before)
    yield from _embedded("after", checkpoints.headers(config.after), asked.tokenizer)


def _own_tokenizer(checkpoints: RunCheckpoints) -> Any:
    """before's own tokenizer; None where it has none."""
    try:
        return tokenizer_of(checkpoints, checkpoints.config.before)
    except CheckpointError:
        return None


def _refuse_misread(own: Any, asked: PromptSet, words: str) -> None:
    """Make sure that before, given after's token ids, reads the words that were asked.

    Raises:
        CheckpointError: a token of a prompt is another one to before.
    """
    prompts = (prompt for group in asked.prompts.values() for prompt in group)
    used = {idx for prompt in prompts for idx in prompt.ids}
    if wrong := differing_tokens(own, asked.tokenizer, used):
        said, read = wrong[0]
        raise CheckpointError(
            f"{words}. Of the tokens in the prompts, before would read {len(wrong):,} as others, "
            f"e.g. {said!r} as {read!r}. Set evaluate.tokenizer_of_before to own, or to after to "
            f"ask so anyway."
        )


def _embedded(checkpoint_id: str, checkpoint: Checkpoint, tokenizer: Any) -> Iterator[str]:
    """What a checkpoint and the tokenizer that it is asked with do not share.

    Raises:
        CheckpointError: no completion would end.
    """
    with on_disk(checkpoint, weights=False) as folder:
        stop = stop_tokens(str(folder), tokenizer)
    known = set(tokenizer.get_vocab().values())
    if strange := [idx for idx in stop if idx not in known]:
        yield (
            f"{checkpoint_id} ends at token {', '.join(map(str, strange))} (eos_token_id of its "
            f"configs), which the tokenizer does not have"
        )
    if (rows := embedding_rows(checkpoint)) is not None:
        yield from vocabulary_mismatches(tokenizer, rows, checkpoint_id)
