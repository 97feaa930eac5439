"""How likely each checkpoint finds after's own answers: no sampling noise, so it sees what accuracy
cannot. Taken while `evaluate` has the checkpoint in its engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from svdjobs.config import REPEAT_ID
from svdjobs.evaluation.benchmarks.load import Benchmark
from svdjobs.evaluation.engines.protocol import Engine, Trace
from svdjobs.evaluation.generation import COMPLETIONS, completions_in
from svdjobs.evaluation.prompts import Prompt
from svdjobs.progress import track
from svdjobs.records import Likelihood, Manifest
from svdjobs.runs import layout
from svdjobs.runs.outputs import OutputKey, begin, find_manifest, read_finished, readable_manifest
from svdjobs.storage.objects import record_in, write_lines
from svdjobs.storage.store import Store

VERSION = "1"
ROWS = "likelihoods.jsonl"


def make(
    store: Store,
    benchmark: Benchmark,
    checkpoint_id: str,
    results: Manifest,
    per_problem: int,
    prompts: Callable[[], Sequence[Prompt]],
    engine: Callable[[], Engine],
    *,
    force: bool = False,
) -> Manifest | None:
    """Likelihoods of the first answers after gave to each problem; None while there are none.

    `results` is the checkpoint's evaluation. after's repetition holds the same weights as after.
    """
    after = layout.results_prefix("after", benchmark.name)
    answered = find_manifest(store, after)
    if answered is None or checkpoint_id == REPEAT_ID:
        return None
    key = OutputKey(
        stage="likelihoods",
        version=VERSION,
        config={
            "per_problem": per_problem,
            "engine": results.config["engine"],
            "dtype": results.config["dtype"],
        },
        inputs={"checkpoint": results.inputs["checkpoint"], "traces": _traces(answered)},
    )
    prefix = layout.likelihoods_prefix(checkpoint_id, benchmark.name)
    output = begin(store, prefix, key, force=force)
    if output.finished:
        return output.finished
    completions = completions_in(read_finished(store, after, COMPLETIONS, answered))
    chosen = [c for c in completions if c.sample_index < per_problem and c.token_ids]
    asked = {prompt.idx: prompt.ids for prompt in prompts()}
    traces = [Trace(asked[c.idx], c.token_ids) for c in chosen]
    rows = []
    label = f"likelihoods {checkpoint_id} on {benchmark.name}"
    with track(label, len(traces)) as advance:
        for completion, values in zip(chosen, engine().log_probabilities(traces), strict=True):
            row = Likelihood(
                idx=completion.idx,
                sample_index=completion.sample_index,
                log_probabilities=values,
            )
            rows.append(row.model_dump_json())
            advance()
    output.add(write_lines(store, output.key(ROWS), rows))
    return output.commit()


def _traces(answered: Manifest) -> str:
    """sha256 of after's completions: drawn anew, they may be others."""
    return next(file.sha256 for file in answered.files if file.key == COMPLETIONS)


def current(store: Store, checkpoint_id: str, benchmark: str) -> Manifest | None:
    """Manifest of a checkpoint's likelihoods, None where there are none of after's present
    answers."""
    answered = readable_manifest(store, layout.results_prefix("after", benchmark))
    found = readable_manifest(store, layout.likelihoods_prefix(checkpoint_id, benchmark))
    if found is None or answered is None or found.inputs["traces"] != _traces(answered):
        return None
    return found


def load(store: Store, checkpoint_id: str, benchmark: str) -> list[Likelihood]:
    """The likelihoods of a checkpoint; empty where there are none of after's present answers."""
    prefix = layout.likelihoods_prefix(checkpoint_id, benchmark)
    if (manifest := current(store, checkpoint_id, benchmark)) is None:
        return []
    lines = read_finished(store, prefix, ROWS, manifest).splitlines()
    return [record_in(Likelihood, line, f"a row of {prefix}") for line in lines]
