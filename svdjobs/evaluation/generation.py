"""Generates the missing completions of an output, and writes each to a journal at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from svdjobs.evaluation.engines.protocol import Engine, Request
from svdjobs.evaluation.grader import SubmitForGrading
from svdjobs.progress import track
from svdjobs.records import Completion, Manifest
from svdjobs.runs.outputs import Output
from svdjobs.storage.objects import record_in, try_read_json, write_lines

COMPLETIONS = "completions.jsonl"
JOURNAL = "completions.journal"
ENGINE = "engine.json"
PROMPTS = "prompts.json"
Timed = Callable[[Engine, int, float], None]
"""Gets an engine, the number of tokens that it has worked on, and the seconds that this took."""
# Completions that are sent to the grading workers at a time.
GRADED_TOGETHER = 32


def generate_missing(
    output: Output,
    requests: Sequence[Request],
    engine: Callable[[], Engine],
    submit: SubmitForGrading,
    label: str,
    timed: Timed,
) -> list[Completion]:
    """All completions of an output, sorted by problem and sample.

    Completions in the finished file or the journal are read, and the missing ones are generated.
    `submit` gets each for grading, and `timed` how long all took. The engine is started only if
    completions are missing.
    """
    store, key = output.store, output.key(COMPLETIONS)
    if store.exists(key):
        completions = completions_in(bytes(store.read(key)))
        submit(completions)
    else:
        with store.journal(output.key(JOURNAL)) as journal:
            lines = (
                record_in(Completion, line, "a completion of a journal") for line in journal.lines
            )
            # Two processes may have written the same completion to the journal: keep one.
            done = {(c.idx, c.sample_index): c for c in lines}
            completions = list(done.values())
            submit(completions)
            if len(done) < len(requests):
                running = engine()
                # A list, since a resumed run may use other engine settings than before.
                settings = try_read_json(store, output.key(ENGINE)) or []
                if running.settings not in settings:
                    output.put_json(ENGINE, [*settings, running.settings])
                completions += _generate(
                    running, requests, set(done), journal.append, submit, label, timed
                )
        completions.sort(key=lambda c: (c.idx, c.sample_index))
        write_lines(store, key, [completion.model_dump_json() for completion in completions])
    output.adopt(COMPLETIONS)
    # Not earlier: until the file is written, only the journal has the completions.
    store.delete(output.key(JOURNAL))
    return completions


def completions_in(data: bytes) -> list[Completion]:
    """The completions of a file."""
    return [record_in(Completion, line, f"a line of {COMPLETIONS}") for line in data.splitlines()]


def completions_sha256(manifest: Manifest) -> str:
    """sha256 of the completions in an output. It may change if they are generated again."""
    return next(file.sha256 for file in manifest.files if file.key == COMPLETIONS)


def _generate(
    engine: Engine,
    requests: Sequence[Request],
    done: set[tuple[int, int]],
    append_to_journal: Callable[[str], None],
    submit: SubmitForGrading,
    label: str,
    timed: Timed,
) -> list[Completion]:
    """Generate the missing completions, and write each to the journal when the engine ends it."""
    completions: list[Completion] = []
    samples_missing = {request.idx: 0 for request in requests}
    for request in requests:
        samples_missing[request.idx] += request.key not in done
    tokens, truncated, submitted, started = 0, 0, 0, time.monotonic()
    with track(label, len(requests)) as advance:
        advance(len(done))
        for completion in engine.generate(requests, done):
            append_to_journal(completion.model_dump_json())
            completions.append(completion)
            tokens += completion.completion_tokens
            truncated += completion.finish_reason == "length"
            samples_missing[completion.idx] -= 1
            rate = tokens / max(time.monotonic() - started, 1e-9)
            done_problems = sum(not count for count in samples_missing.values())
            advance(1, f"{done_problems} problems done, {rate:.0f} tokens/s, {truncated} cut off")
            if len(completions) - submitted >= GRADED_TOGETHER:
                submit(completions[submitted:])
                submitted = len(completions)
        submit(completions[submitted:])
    timed(engine, tokens, time.monotonic() - started)
    return completions
