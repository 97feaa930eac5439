"""Finished evaluations with planted outcomes, which a gate can judge at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from svdjobs.config import SweepConfig
from svdjobs.evaluation import grades as grades_of
from svdjobs.evaluation.benchmarks.load import load_benchmark
from svdjobs.evaluation.output_keys import STAGE, VERSION, settings_of
from svdjobs.evaluation.summary import summarise
from svdjobs.records import Completion, Grade, Outcome
from svdjobs.runs import layout
from svdjobs.runs.outputs import OutputKey, begin
from svdjobs.storage.local import LocalStore

Correct = Sequence[Sequence[bool]]


def answer(
    config: SweepConfig,
    checkpoint_id: str,
    correct: Correct,
    *,
    benchmark: str | None = None,
    version: str = VERSION,
    grader: str = grades_of.GRADER,
    prompts: str = "asked",
    weights: str | None = None,
    **settings: Any,
) -> None:
    """Write the evaluation of a checkpoint: for each problem, which completions are correct."""
    assert config.evaluate is not None
    engine = {"engine": "transformers", "dtype": "float32"}
    evaluate = config.evaluate.model_copy(update={**engine, **settings})
    store = LocalStore(Path(config.store_url))
    for section in evaluate.benchmarks:
        if benchmark not in (None, section.name):
            continue
        loaded = load_benchmark(section)
        assert len(loaded.problems) == len(correct)
        drawn = begin(
            store,
            layout.results_prefix(checkpoint_id, section.name),
            OutputKey(
                stage=STAGE,
                version=version,
                config=settings_of(evaluate, checkpoint_id),
                inputs={"checkpoint": weights or checkpoint_id, "benchmark": loaded.sha256},
            ),
        )
        pairs = [
            (problem.idx, sample, right)
            for problem, outcomes in zip(loaded.problems, correct, strict=True)
            for sample, right in enumerate(outcomes)
        ]
        completions = [
            Completion(idx=idx, sample_index=sample, seed=0, text="", completion_tokens=1,
                       finish_reason="stop" if right else "length")
            for idx, sample, right in pairs
        ]  # fmt: skip
        grades = [
            Grade(idx=idx, sample_index=sample, answer=None,
                  outcome=Outcome.CORRECT if right else Outcome.TIMEOUT)
            for idx, sample, right in pairs
        ]  # fmt: skip
        summary = summarise(
            checkpoint_id, loaded, prompts, evaluate.model_dump(), completions, grades, [engine], []
        )
        output = begin(
            store,
            layout.grades_prefix(checkpoint_id, section.name),
            replace(grades_of.key_of(drawn.commit()), config={"grader": grader}),
        )
        output.write_json("summary.json", summary.model_dump(mode="json"))
        output.commit()


def noted(config: SweepConfig) -> None:
    """Make the folder a run, as the first stage would."""
    from svdjobs.runs.outputs import note_run

    note_run(LocalStore(Path(config.store_url)), config)
