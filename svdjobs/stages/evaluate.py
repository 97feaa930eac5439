"""evaluate: ask every checkpoint the same questions with the same seeds, grade, summarise.

Completions are written batch by batch; a killed run goes on with the first batch that is missing.
Batches are fixed beforehand, so a resumed run draws what an undisturbed one would have drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

from svdjobs.checkpoint.identity import companions_digest, identity
from svdjobs.checkpoint.sources import open_checkpoint
from svdjobs.config import EvaluateConfig, SweepConfig, alpha_id
from svdjobs.errors import IncompleteError
from svdjobs.evaluation.engines.transformers import TransformersEngine
from svdjobs.evaluation.problems import Benchmark, load_benchmark
from svdjobs.evaluation.prompts import Prompt, check_room, load_tokenizer, make_prompts
from svdjobs.evaluation.requests import Engine, Request, make_requests
from svdjobs.evaluation.summary import details, summarise
from svdjobs.evaluation.workers import GradingPool
from svdjobs.progress import track
from svdjobs.records import Completion, Grade, Manifest, Summary
from svdjobs.stages import graph
from svdjobs.stages.outputs import Output, begin, check_run, find_manifest, note_run, require
from svdjobs.storage.store import Store, read_json, write_lines

STAGE = "evaluate"
VERSION = "2"


def run(
    config: SweepConfig,
    store: Store,
    *,
    checkpoint_ids: Sequence[str] | None = None,
    force: bool = False,
) -> list[Manifest]:
    """Evaluate the run's checkpoints, or those named, on every benchmark."""
    if config.evaluate is None:
        raise IncompleteError("this config has no `evaluate` section.")
    check_run(store, config)
    note_run(store, config)
    benchmarks = [load_benchmark(benchmark) for benchmark in config.evaluate.benchmarks]
    wanted = graph.evaluated_ids(config) if checkpoint_ids is None else checkpoint_ids
    manifests: list[Manifest] = []
    asking: _Asking | None = None
    with ExitStack() as stack:
        pool: GradingPool | None = None
        for checkpoint_id in wanted:
            outputs = [
                _output(config, config.evaluate, store, checkpoint_id, b, force=force)
                for b in benchmarks
            ]
            engine: Engine | None = None
            for benchmark, output in zip(benchmarks, outputs, strict=True):
                if output.finished is None:
                    pool = pool or stack.enter_context(
                        GradingPool(config.evaluate.grade_timeout_seconds)
                    )
                    asking = asking or _asking(config, config.evaluate, benchmarks)
                    engine = engine or _engine(config, asking, store, checkpoint_id)
                    prompts = asking.prompts[benchmark.name]
                    _evaluate(
                        config.evaluate, checkpoint_id, benchmark, prompts, output, engine, pool
                    )
                assert output.finished is not None
                manifests.append(output.finished)
    return manifests


def checkpoint_source(config: SweepConfig, store: Store, checkpoint_id: str) -> str:
    """Folder or hub id of an evaluated checkpoint."""
    sources = {"before": config.before, "after": config.after}
    if checkpoint_id in sources:
        return sources[checkpoint_id]
    for alpha in config.alphas:
        if alpha_id(alpha) == checkpoint_id:
            return f"{store.url}/{graph.checkpoint_prefix(alpha)}"
    raise IncompleteError(
        f"no checkpoint {checkpoint_id!r} in this run; it has "
        f"{', '.join(graph.evaluated_ids(config))}."
    )


def _output(
    config: SweepConfig,
    evaluate: EvaluateConfig,
    store: Store,
    checkpoint_id: str,
    benchmark: Benchmark,
    *,
    force: bool,
) -> Output:
    source = checkpoint_source(config, store, checkpoint_id)
    if checkpoint_id in ("before", "after"):
        opened = open_checkpoint(source, allow_pickle=config.allow_pickle)
        # Its companions decide where completions stop.
        origin = f"{identity(opened, store, graph.IDENTITIES)}/{companions_digest(opened)}"
    else:
        (manifest,) = require(store, [f"checkpoints/{checkpoint_id}"], stage=STAGE)
        origin = manifest.fingerprint
    tokenizer = open_checkpoint(_tokenizer(config), allow_pickle=config.allow_pickle)
    return begin(
        store,
        graph.results_prefix(checkpoint_id, benchmark.name),
        stage=STAGE,
        version=VERSION,
        config=_settings(evaluate),
        inputs={
            "checkpoint": origin,
            "benchmark": benchmark.sha256,
            "tokenizer": companions_digest(tokenizer),
        },
        force=force,
    )


def _tokenizer(config: SweepConfig) -> str:
    return config.tokenizer or config.after


class _Asking(NamedTuple):
    """What all checkpoints share: the tokenizer, and the prompts of each benchmark by its name."""

    tokenizer: Any
    prompts: dict[str, list[Prompt]]


def _asking(
    config: SweepConfig, evaluate: EvaluateConfig, benchmarks: Sequence[Benchmark]
) -> _Asking:
    """Tokenise every benchmark, once for all checkpoints."""
    tokenizer = load_tokenizer(_folder(config, _tokenizer(config)))
    return _Asking(
        tokenizer,
        {b.name: make_prompts(b.problems, evaluate.prompt, tokenizer) for b in benchmarks},
    )


def _folder(config: SweepConfig, source: str) -> str:
    """Folder of a checkpoint (of a hub id, its snapshot)."""
    return open_checkpoint(source, allow_pickle=config.allow_pickle).store.url


def _engine(config: SweepConfig, asking: _Asking, store: Store, checkpoint_id: str) -> Engine:
    """Load a checkpoint, and make sure that all prompts fit it before it answers any."""
    assert config.evaluate is not None
    folder = _folder(config, checkpoint_source(config, store, checkpoint_id))
    engine = TransformersEngine(folder, asking.tokenizer, config.evaluate)
    for name, prompts in asking.prompts.items():
        lengths = {prompt.idx: len(prompt.ids) for prompt in prompts}
        check_room(lengths, engine.context, config.evaluate.max_tokens, benchmark=name)
    return engine


def _evaluate(
    evaluate: EvaluateConfig,
    checkpoint_id: str,
    benchmark: Benchmark,
    prompts: Sequence[Prompt],
    output: Output,
    engine: Engine,
    pool: GradingPool,
) -> None:
    requests = make_requests(benchmark.problems, prompts, evaluate.n_samples, evaluate.seed)
    size = evaluate.batch_size
    batches = [requests[start : start + size] for start in range(0, len(requests), size)]
    golds = {problem.idx: problem.gold for problem in benchmark.problems}
    completions: list[Completion] = []
    grades: list[Grade] = []
    with track(f"evaluate {checkpoint_id} on {benchmark.name}", len(requests)) as advance:
        for number, batch in enumerate(batches):
            drawn = _batch(output, number, batch, engine.generate)
            completions += drawn
            grades += pool.grade(drawn, golds)
            cut = sum(completion.finish_reason == "length" for completion in completions)
            advance(len(batch), f"{cut} truncated of {len(completions)}")
    completions.sort(key=lambda c: (c.idx, c.sample_index))
    grades.sort(key=lambda g: (g.idx, g.sample_index))
    summary = summarise(
        checkpoint_id, benchmark, prompts, evaluate, completions, grades, engine.description
    )
    output.add(
        write_lines(output.store, output.key("grades.jsonl"), [g.model_dump_json() for g in grades])
    )
    output.write_json("summary.json", summary.model_dump(mode="json"))
    output.write_json("results.json", details(summary, benchmark, completions, grades))
    output.commit()


def _batch(
    output: Output,
    number: int,
    requests: Sequence[Request],
    generate: Callable[[Sequence[Request]], list[Completion]],
) -> list[Completion]:
    """One batch of completions: read if it is there, drawn and written if not."""
    name = f"completions-{number:05d}.jsonl"
    if not output.store.exists(output.key(name)):
        drawn = generate(requests)
        write_lines(output.store, output.key(name), [c.model_dump_json() for c in drawn])
    return [Completion.model_validate_json(line) for line in output.adopt(name).splitlines()]


def _settings(evaluate: EvaluateConfig) -> dict[str, Any]:
    """What decides completions and grades, besides the checkpoint and the problems."""
    return evaluate.model_dump(mode="json", exclude={"benchmarks"})


def current_results(config: SweepConfig, store: Store) -> dict[str, Manifest | None]:
    """Manifest of every evaluation the config asks for, by prefix.

    None where there is none, or one made with other settings or problems: pairing such results
    would compare answers to different questions.
    """
    found: dict[str, Manifest | None] = {}
    for section in config.evaluate.benchmarks if config.evaluate else ():
        assert config.evaluate is not None
        settings, sha256 = _settings(config.evaluate), load_benchmark(section).sha256
        for checkpoint_id in graph.evaluated_ids(config):
            prefix = graph.results_prefix(checkpoint_id, section.name)
            manifest = find_manifest(store, prefix)
            fits = manifest is not None and (manifest.config, manifest.inputs["benchmark"]) == (
                settings,
                sha256,
            )
            found[prefix] = manifest if fits else None
    return found


def load_summary(store: Store, prefix: str) -> Summary:
    """The summary of a finished evaluation."""
    return Summary.model_validate(read_json(store, f"{prefix}/summary.json"))
