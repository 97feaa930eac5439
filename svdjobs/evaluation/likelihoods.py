"""Log-probabilities of after's completions under each checkpoint.

They have no sampling noise, so they show differences that accuracy does not. `evaluate` computes
them while its engine holds the checkpoint.
"""

from __future__ import annotations

from svdjobs.config import REPEAT_ID
from svdjobs.evaluation.benchmarks.load import Benchmark
from svdjobs.evaluation.engines.protocol import Trace
from svdjobs.evaluation.generation import COMPLETIONS, completions_in, completions_sha256
from svdjobs.evaluation.session import Session
from svdjobs.progress import track
from svdjobs.records import Likelihood, Manifest
from svdjobs.runs import layout
from svdjobs.runs.outputs import OutputKey, begin, find_manifest, read_finished, readable_manifest
from svdjobs.storage.objects import record_in, write_lines
from svdjobs.storage.store import Store

VERSION = "1"
ROWS = "likelihoods.jsonl"


def make(
    session: Session,
    checkpoint_id: str,
    benchmark: Benchmark,
    completions: Manifest,
    *,
    force: bool = False,
) -> None:
    """Write the likelihoods of a checkpoint, unless current ones exist.

    They are those of after's first `evaluate.teacher_forced` completions of each problem.
    `completions` is the manifest of the checkpoint's own completions. Nothing is written

    - if `after` has no completions yet,
    - for the second evaluation of `after`, whose weights are the same,
    - for a `before` with its own tokenizer, to which after's token ids mean other tokens.
    """
    store, per_problem = session.store, session.evaluate.teacher_forced
    if not per_problem or checkpoint_id == REPEAT_ID:
        return
    if checkpoint_id == "before" and session.config.before_has_own_tokenizer:
        return
    after_prefix = layout.results_prefix("after", benchmark.name)
    after_manifest = find_manifest(store, after_prefix)
    if after_manifest is None:
        return
    key = OutputKey(
        stage="likelihoods",
        version=VERSION,
        config={
            "per_problem": per_problem,
            "engine": completions.config["engine"],
            "dtype": completions.config["dtype"],
        },
        inputs={
            "checkpoint": completions.inputs["checkpoint"],
            "traces": completions_sha256(after_manifest),
        },
    )
    prefix = layout.likelihoods_prefix(checkpoint_id, benchmark.name)
    output = begin(store, prefix, key, force=force)
    if output.finished:
        return
    of_after = completions_in(read_finished(store, after_prefix, COMPLETIONS, after_manifest))
    chosen = [c for c in of_after if c.sample_index < per_problem and c.token_ids]
    prompts = session.prompt_set(checkpoint_id).prompts[benchmark.name]
    prompt_ids = {prompt.idx: prompt.ids for prompt in prompts}
    traces = [Trace(prompt_ids[c.idx], c.token_ids) for c in chosen]
    rows = []
    label = f"likelihoods {checkpoint_id} on {benchmark.name}"
    with track(label, len(traces)) as advance:
        log_probabilities = (
            session.engine_with(checkpoint_id).log_probabilities(traces) if traces else ()
        )
        for completion, values in zip(chosen, log_probabilities, strict=True):
            row = Likelihood(
                idx=completion.idx,
                sample_index=completion.sample_index,
                log_probabilities=values,
            )
            rows.append(row.model_dump_json())
            advance()
    output.add(write_lines(store, output.key(ROWS), rows))
    output.commit()


def current(store: Store, checkpoint_id: str, benchmark: str) -> Manifest | None:
    """Manifest of a checkpoint's likelihoods; None if they are missing or out of date.

    They are out of date if after's completions have changed.
    """
    of_after = readable_manifest(store, layout.results_prefix("after", benchmark))
    manifest = readable_manifest(store, layout.likelihoods_prefix(checkpoint_id, benchmark))
    if manifest is None or of_after is None:
        return None
    return manifest if manifest.inputs["traces"] == completions_sha256(of_after) else None


def load(store: Store, checkpoint_id: str, benchmark: str) -> list[Likelihood]:
    """The likelihoods of a checkpoint; empty if they are missing or out of date."""
    prefix = layout.likelihoods_prefix(checkpoint_id, benchmark)
    if (manifest := current(store, checkpoint_id, benchmark)) is None:
        return []
    lines = read_finished(store, prefix, ROWS, manifest).splitlines()
    return [record_in(Likelihood, line, f"a row of {prefix}") for line in lines]
