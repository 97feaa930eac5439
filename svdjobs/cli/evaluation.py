"""`svdjobs evaluate` and `svdjobs grade`: for a sweep, or for a single checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from svdjobs.cli.options import Given, config_options, index_options, tell, whole_or_unit
from svdjobs.errors import ConfigError

# Flag, as evaluation scripts of the field spell it -> config key under `evaluate`.
KEYS = {
    "n_samples": "n_samples", "max_tokens": "max_tokens", "temperature": "temperature",
    "top_p": "top_p", "seed": "seed", "prompt": "prompt", "engine": "engine", "dtype": "dtype",
    "gpu_mem_util": "gpu_memory_utilization", "tensor_parallel_size": "tensor_parallel_size",
    "allow_lossy_dtype": "allow_lossy_dtype",
}  # fmt: skip


@click.command()
@click.option(
    "--checkpoint",
    "ids",
    multiple=True,
    metavar="ID",
    help="Only this checkpoint: before, after, alpha-… (repeatable).",
)
@click.option("--unit", metavar="ID", help="Only this shard of a benchmark, e.g. math-500-000.")
@index_options
@click.option(
    "--model", metavar="SOURCE", help="Folder or hub id of a checkpoint to evaluate without CONFIG."
)
@click.option(
    "--tokenizer",
    metavar="SOURCE",
    help="Folder or hub id of another tokenizer; default: the checkpoint's own.",
)
@click.option(
    "--data_path", metavar="NAME_OR_FILE", help="Benchmark: math-500, aime-2024, … or a file."
)
@click.option("--n_samples", type=int, help="Completions per problem.")
@click.option("--max_tokens", type=int, help="Longest completion, in tokens.")
@click.option("--temperature", type=float, help="Sampling temperature; 0 is greedy.")
@click.option("--top_p", type=float, help="Nucleus sampling; 1 samples from all tokens.")
@click.option("--seed", type=int, help="Base of the seeds of all completions.")
@click.option("--prompt", help="plain, chat, or a template with {problem}.")
@click.option("--engine", help="auto, vllm or transformers.")
@click.option("--dtype", help="Compute dtype: auto, float32, bfloat16 or float16.")
@click.option(
    "--allow-lossy-dtype",
    is_flag=True,
    default=None,
    help="Allow a 16-bit compute dtype that rounds the blends away.",
)
@click.option("--gpu_mem_util", type=float, help="Fraction of the GPU's memory for vLLM.")
@click.option("--tensor_parallel_size", type=int, help="GPUs per engine.")
@click.option("--out_json", type=click.Path(path_type=Path), help="File for the results.")
@click.option("--shared", is_flag=True, hidden=True, help="Share the work with other processes.")
@config_options
def evaluate(
    given: Given,
    force: bool,
    shared: bool,
    ids: tuple[str, ...],
    unit: str | None,
    index: tuple[int, int] | None,
    model: str | None,
    tokenizer: str | None,
    data_path: str | None,
    out_json: Path | None,
    **flags: Any,
) -> None:
    """Generate completions and grade them: for a sweep's checkpoints, or for one with --model.

    \b
      svdjobs evaluate jobs/sweeps/demo.yaml --checkpoint after
      svdjobs evaluate --model A --data_path math-500 --n_samples 16 --max_tokens 16384
    """
    if (given.source is None) == (model is None):
        raise ConfigError("give either CONFIG, or --model with --data_path.")
    settings = {KEYS[flag]: value for flag, value in flags.items() if value is not None}
    if given.source is not None:
        if settings or tokenizer or data_path or out_json:
            raise ConfigError("with CONFIG, use --set, e.g. --set evaluate.n_samples=8.")
        if shared:
            from svdjobs.stages import evaluate as stage

            stage.run_shared(*given.opened(), checkpoint_ids=ids or None)
            return
        _stage(given, ids, unit, index, force=force)
        return
    if data_path is None:
        raise ConfigError("--model needs --data_path, e.g. --data_path math-500.")
    if ids or unit is not None or index is not None:
        raise ConfigError(
            "--checkpoint, --unit and --index need CONFIG. Remove them, or give CONFIG instead of "
            "--model."
        )
    from svdjobs.standalone import evaluate as evaluate_alone

    assert model is not None
    words, path = evaluate_alone.run(
        model,
        data_path,
        settings,
        overrides=given.overrides,
        tokenizer=tokenizer,
        out_json=out_json,
        force=force,
        allow_pickle=given.allow_pickle,
    )
    tell(words)
    tell(f"Results: {path}")


def _stage(
    given: Given,
    ids: tuple[str, ...],
    unit: str | None,
    index: tuple[int, int] | None,
    *,
    force: bool,
) -> None:
    whole_or_unit(unit if index is None else index, force)
    config, store = given.opened()
    from svdjobs.runs import shards
    from svdjobs.stages import evaluate as stage

    if unit is None and index is None:
        stage.run(config, store, checkpoint_ids=ids or None, force=force)
        return
    if len(ids) > 1 or (unit is not None and not ids):
        raise ConfigError(
            "--unit and --index choose shards of one checkpoint: give --checkpoint once."
        )
    pairs = [(ids[0], unit)] if unit is not None else []
    if index is not None:
        pairs = shards.items_at_index(shards.evaluations(config, ids[0] if ids else None), *index)
    for checkpoint_id, shard_id in pairs:
        stage.run_shard(config, store, checkpoint_id=checkpoint_id, shard_id=shard_id)


@click.command()
@click.argument("run_folder", metavar="RUN")
def grade(run_folder: str) -> None:
    """Grade the completions of a run again, without generating any. RUN is the run's store."""
    from svdjobs.runs.outputs import RUN_CONFIG
    from svdjobs.runs.stored_config import stored_config
    from svdjobs.stages import grade as stage
    from svdjobs.stages import report
    from svdjobs.standalone import evaluate as evaluate_alone
    from svdjobs.storage.open import open_store

    store = open_store(run_folder)
    config = stored_config(store)
    if config.evaluate is None:
        raise ConfigError(
            f"{run_folder}/{RUN_CONFIG} has no `evaluate` section, so the run has no completions "
            f"to grade."
        )
    stage.run(config, store, force=True)
    if not config.alphas:
        tell(evaluate_alone.publish(config, store))
        return
    report.run(config, store)
    tell(report.closing_words(config, store))


COMMANDS = (evaluate, grade)
