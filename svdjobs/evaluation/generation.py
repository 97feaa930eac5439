"""The drawing part of `evaluate`: completions read where they are there, drawn where not."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from svdjobs.evaluation.engines.protocol import Engine, Request
from svdjobs.progress import track
from svdjobs.records import Completion
from svdjobs.runs.outputs import Output
from svdjobs.storage.objects import record_in, try_read_json, write_lines

COMPLETIONS = "completions.jsonl"
JOURNAL = "completions.journal"
ENGINE = "engine.json"
PROMPTS = "prompts.json"
# Completions handed to the grading workers together.
GRADED_TOGETHER = 32
Submit = Callable[[Sequence[Completion]], None]


def drawn(
    output: Output,
    requests: Sequence[Request],
    engine: Callable[[], Engine],
    submit: Submit,
    label: str,
) -> list[Completion]:
    """All completions by problem and sample: read where they are there, drawn where not; each is
    handed on to be graded on the way."""
    store, key = output.store, output.key(COMPLETIONS)
    if not store.exists(key):
        with store.journal(output.key(JOURNAL)) as journal:
            kept = (
                record_in(Completion, line, "a completion of a journal") for line in journal.lines
            )
            done = {(c.idx, c.sample_index): c for c in kept}
            found = list(done.values())
            submit(found)
            if len(done) < len(requests):
                running = engine()
                settings = try_read_json(store, output.key(ENGINE)) or []
                if running.settings not in settings:
                    output.put_json(ENGINE, [*settings, running.settings])
                found += _collected(running, requests, set(done), journal.append, submit, label)
        found.sort(key=lambda c: (c.idx, c.sample_index))
        write_lines(store, key, [completion.model_dump_json() for completion in found])
    else:
        found = completions_in(bytes(store.read(key)))
        submit(found)
    output.adopt(COMPLETIONS)
    store.delete(output.key(JOURNAL))
    return found


def completions_in(data: bytes) -> list[Completion]:
    """The completions of a file."""
    return [record_in(Completion, line, f"a line of {COMPLETIONS}") for line in data.splitlines()]


def _collected(
    engine: Engine,
    requests: Sequence[Request],
    done: set[tuple[int, int]],
    keep: Callable[[str], None],
    submit: Submit,
    label: str,
) -> list[Completion]:
    """Completions as the engine finishes them, kept one by one."""
    drawn: list[Completion] = []
    left = {request.idx: 0 for request in requests}
    for request in requests:
        left[request.idx] += request[:2] not in done
    tokens, cut, graded, started = 0, 0, 0, time.monotonic()
    with track(label, len(requests)) as advance:
        advance(len(done))
        for completion in engine.generate(requests, done):
            keep(completion.model_dump_json())
            drawn.append(completion)
            tokens += completion.completion_tokens
            cut += completion.finish_reason == "length"
            left[completion.idx] -= 1
            rate = tokens / max(time.monotonic() - started, 1e-9)
            problems = sum(not count for count in left.values())
            advance(1, f"{problems} problems, {rate:.0f} tokens/s, {cut} cut off")
            if len(drawn) - graded >= GRADED_TOGETHER:
                submit(drawn[graded:])
                graded = len(drawn)
        submit(drawn[graded:])
    return drawn
