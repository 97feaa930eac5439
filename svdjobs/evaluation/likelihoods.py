"""Log-probabilities of after's completions under each checkpoint: what reading is made from.

They have no sampling noise, so they show differences that accuracy does not. `evaluate` computes
them while its engine holds the checkpoint. `after` reads its own completions twice, in batches of
other composition: the difference is the engine's own noise.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from random import Random
from typing import Literal

from svdjobs.config import SweepConfig
from svdjobs.errors import EvaluationError, IncompleteError
from svdjobs.evaluation.benchmarks.load import Benchmark
from svdjobs.evaluation.engines.protocol import Engine, Trace
from svdjobs.evaluation.generation import COMPLETIONS, completions_in, completions_sha256
from svdjobs.evaluation.output_keys import has_other_weights, write_source
from svdjobs.evaluation.session import Session
from svdjobs.progress import track
from svdjobs.records import Completion, Likelihood, Manifest, VariantChange
from svdjobs.runs import layout
from svdjobs.runs.outputs import (
    Output,
    OutputKey,
    begin,
    find_manifest,
    is_current,
    read_finished,
    readable_manifest,
)
from svdjobs.storage.objects import record_in, write_lines
from svdjobs.storage.store import Store

VERSION = "2"
ROWS = "likelihoods.jsonl"
AGAIN = "again.jsonl"
"""The second reading of `after`; older runs have none."""
CHANGE = "change.json"
"""How far a variant is from after; older runs have none."""
READ_TOGETHER = 256
"""Completions that an engine gets at a time. If the process is killed, at most these are lost."""


def make(
    session: Session,
    checkpoint_id: str,
    benchmark: Benchmark,
    evaluation: OutputKey,
    *,
    force: bool = False,
) -> None:
    """Write the likelihoods of a checkpoint, unless current ones exist.

    They are those of after's first `evaluate.read` completions of each problem. `evaluation` is the
    key of the checkpoint's own completions. Nothing is written for a checkpoint that reads nothing,
    or that has completions of its own if `after` has none yet.

    Raises:
        IncompleteError: `after` has no completions yet, and the checkpoint has none of its own.
        EvaluationError: a log-probability is not a number.
    """
    store = session.store
    after_manifest = find_manifest(store, layout.results_prefix("after", benchmark.name))
    if checkpoint_id not in layout.read_ids(session.config):
        return
    if after_manifest is None:
        if checkpoint_id not in layout.sampled_ids(session.config):
            raise IncompleteError(nothing_to_read(checkpoint_id, benchmark.name))
        return
    prefix = layout.likelihoods_prefix(checkpoint_id, benchmark.name)
    output = begin(store, prefix, _key(session, evaluation, after_manifest), force=force)
    if output.finished:
        return
    after_prefix = layout.results_prefix("after", benchmark.name)
    of_after = completions_in(read_finished(store, after_prefix, COMPLETIONS, after_manifest))
    per_problem = session.evaluate.read_per_problem
    chosen = [c for c in of_after if c.sample_index < per_problem and c.token_ids]
    # Completions of about one length need little padding.
    chosen.sort(key=lambda c: (len(c.token_ids), c.idx, c.sample_index))
    label = f"{checkpoint_id} reads after's answers on {benchmark.name}"
    _read(session, checkpoint_id, benchmark, chosen, output, ROWS, label)
    if checkpoint_id == "after":
        shuffled = Random(0).sample(chosen, len(chosen))
        _read(session, checkpoint_id, benchmark, shuffled, output, AGAIN, f"{label} again")
    if spec := session.config.variants.get(checkpoint_id):
        change = session.engine_holder.weights.variant(checkpoint_id, spec).change()
        output.write_json(CHANGE, change.model_dump(mode="json"))
    write_source(output, session.config, checkpoint_id)
    output.commit()


def nothing_to_read(reader: str, benchmark: str) -> str:
    """The error that `after` has no completions yet."""
    return (
        f"{reader} reads after's completions on {benchmark}, and there are none yet. Evaluate "
        f"`after` first."
    )


def is_finished(
    session: Session, checkpoint_id: str, benchmark: str, evaluation: OutputKey
) -> bool:
    """Whether `make` has nothing to do."""
    store = session.store
    after_manifest = find_manifest(store, layout.results_prefix("after", benchmark))
    if checkpoint_id not in layout.read_ids(session.config):
        return True
    prefix = layout.likelihoods_prefix(checkpoint_id, benchmark)
    return after_manifest is not None and is_current(
        store, prefix, _key(session, evaluation, after_manifest)
    )


def _key(session: Session, evaluation: OutputKey, after_manifest: Manifest) -> OutputKey:
    return OutputKey(
        stage="likelihoods",
        version=VERSION,
        config={
            "per_problem": session.evaluate.read_per_problem,
            "temperature": session.evaluate.read_temperature,
            "engine": session.evaluate.engine,
            "dtype": session.evaluate.dtype,
        },
        inputs={
            "checkpoint": evaluation.inputs["checkpoint"],
            "traces": completions_sha256(after_manifest),
        },
    )


def _read(
    session: Session,
    checkpoint_id: str,
    benchmark: Benchmark,
    completions: Sequence[Completion],
    output: Output,
    name: str,
    label: str,
) -> None:
    """Read completions in the given order, write each to a journal, and then all to a file."""
    store, journal_key = output.store, output.key(name.replace(".jsonl", ".journal"))
    if not store.exists(output.key(name)):
        prompts = session.prompt_set(checkpoint_id).prompts[benchmark.name]
        prompt_ids = {prompt.idx: prompt.ids for prompt in prompts}
        with store.journal(journal_key) as journal, track(label, len(completions)) as advance:
            lines = (record_in(Likelihood, line, "a line of a journal") for line in journal.lines)
            rows = {(row.idx, row.sample_index): row for row in lines}
            advance(len(rows))
            tokens, started, engine = 0, 0.0, None
            for start in range(0, len(completions), READ_TOGETHER):
                # All of them also if some are in the journal: an engine's batches, and with them
                # its rounding, are then those of an uninterrupted run.
                together = completions[start : start + READ_TOGETHER]
                if any((c.idx, c.sample_index) not in rows for c in together):
                    if engine is None:
                        engine = session.engine_with(checkpoint_id)
                        started = time.monotonic()
                    tokens += sum(len(c.token_ids) for c in together)
                    for row in read_together(
                        engine,
                        together,
                        prompt_ids,
                        session.evaluate.read_temperature,
                        checkpoint_id,
                    ):
                        if (row.idx, row.sample_index) not in rows:
                            journal.append(row.model_dump_json(exclude_none=True))
                            rows[row.idx, row.sample_index] = row
                            advance()
            if engine is not None:
                timed = session.timed("read", checkpoint_id, benchmark.name)
                timed(engine, tokens, time.monotonic() - started)
        text = [rows[key].model_dump_json(exclude_none=True) for key in sorted(rows)]
        write_lines(store, output.key(name), text)
    output.adopt(name)
    store.delete(journal_key)


def read_together(
    engine: Engine,
    completions: Sequence[Completion],
    prompt_ids: Mapping[int, tuple[int, ...]],
    temperature: float,
    checkpoint_id: str,
) -> Iterator[Likelihood]:
    """Rows of completions in their order, also of those that the checkpoint cannot read.

    Raises:
        EvaluationError: a log-probability is not a number.
    """
    traces = [Trace(prompt_ids[c.idx], c.token_ids) for c in completions]
    reasons = [_reason_unread(engine, trace) for trace in traces]
    readable = (t for t, reason in zip(traces, reasons, strict=True) if reason is None)
    # Some completions of a problem are the same: each is read once.
    distinct = list(dict.fromkeys(readable))
    found = zip(distinct, engine.log_probabilities(distinct, temperature), strict=True)
    read: dict[Trace, list[float]] = {}
    for completion, trace, reason in zip(completions, traces, reasons, strict=True):
        while reason is None and trace not in read:
            one, log_probabilities = next(found)
            read[one] = log_probabilities
        values = [] if reason else read[trace]
        bad = next((t for t, value in enumerate(values) if not math.isfinite(value)), None)
        if bad is not None:
            raise EvaluationError(
                f"{checkpoint_id}: the log-probability of token {bad} of {len(values)} in after's "
                f"completion {completion.sample_index} of problem {completion.idx} is "
                f"{values[bad]}. With 16-bit arithmetic activations can overflow: set "
                f"evaluate.dtype to float32."
            )
        yield Likelihood(
            idx=completion.idx,
            sample_index=completion.sample_index,
            log_probabilities=values,
            unread=reason,
        )


def _reason_unread(engine: Engine, trace: Trace) -> Literal["context", "vocabulary"] | None:
    """Why the checkpoint in the engine cannot read a trace; None if it can."""
    length = len(trace.prompt_ids) + len(trace.completion_ids)
    if engine.context is not None and length > engine.context:
        return "context"
    return "vocabulary" if max(trace.completion_ids) >= engine.vocabulary else None


def current(
    store: Store, checkpoint_id: str, benchmark: str, config: SweepConfig | None = None
) -> Manifest | None:
    """Manifest of a checkpoint's likelihoods; None if they are missing or out of date.

    They are out of date if after's completions have changed, if after's own likelihoods were made
    with other settings, and, with a config, if they are of other weights or settings than its.
    """
    of_after = readable_manifest(store, layout.results_prefix("after", benchmark))
    prefix = layout.likelihoods_prefix(checkpoint_id, benchmark)
    manifest = readable_manifest(store, prefix)
    if manifest is None or of_after is None:
        return None
    if manifest.inputs["traces"] != completions_sha256(of_after):
        return None
    reference = readable_manifest(store, layout.likelihoods_prefix("after", benchmark))
    if reference and _settings_differ(manifest.config, reference.config):
        return None
    if config is not None:
        wanted = {"temperature": config.evaluation.read_temperature}
        if _settings_differ(manifest.config, wanted):
            return None
        if has_other_weights(config, store, checkpoint_id, prefix, manifest):
            return None
    return manifest


def _settings_differ(made_with: Mapping[str, object], wanted: Mapping[str, object]) -> bool:
    """Whether a setting that both name has two values; older runs name fewer."""
    return any(made_with[key] != wanted[key] for key in made_with.keys() & wanted.keys())


def load(
    store: Store,
    checkpoint_id: str,
    benchmark: str,
    name: str = ROWS,
    *,
    config: SweepConfig | None = None,
) -> list[Likelihood]:
    """The likelihoods of a checkpoint; empty if they are missing or out of date (`current`).

    With `name` AGAIN, those of the second reading of `after`; empty also in older runs.
    """
    prefix = layout.likelihoods_prefix(checkpoint_id, benchmark)
    manifest = current(store, checkpoint_id, benchmark, config)
    if manifest is None or not manifest.file(name):
        return []
    lines = read_finished(store, prefix, name, manifest).splitlines()
    return [record_in(Likelihood, line, f"a row of {prefix}") for line in lines]


def load_change(
    config: SweepConfig, store: Store, variant: str, benchmark: str
) -> VariantChange | None:
    """How far a variant is from after; None in older runs, or if it has not read."""
    manifest = current(store, variant, benchmark, config)
    if manifest is None or not manifest.file(CHANGE):
        return None
    prefix = layout.likelihoods_prefix(variant, benchmark)
    document = read_finished(store, prefix, CHANGE, manifest)
    return record_in(VariantChange, document, f"{prefix}/{CHANGE}")
