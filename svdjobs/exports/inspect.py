"""Exports a run as logs of Inspect (https://inspect.aisi.org.uk): `inspect view` shows them."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from svdjobs.config import SweepConfig
from svdjobs.exports.graded import Graded, empty_folder, graded, missing
from svdjobs.records import Completion, Grade, Outcome, Problem
from svdjobs.storage.store import Store

if TYPE_CHECKING:
    from inspect_ai.log import EvalLog, EvalSample

SCORER = "svdjobs"
STOPS = {"stop": "stop", "length": "max_tokens"}


def export(store: Store, config: SweepConfig, folder: Path) -> list[Path]:
    """Write a log for each checkpoint and benchmark; return their paths.

    Every completion is a sample, its number the epoch, and its grade a score: `C` or `I`, with the
    outcome as the explanation.

    Raises:
        IncompleteError: the run has no graded completions.
        ConfigError: inspect_ai is not installed, or the folder is not empty.
    """
    try:
        from inspect_ai.log import write_eval_log
    except ImportError as error:
        raise missing("inspect", error) from None
    written: list[Path] = []
    for one in graded(store, config):
        path = (
            folder if written else empty_folder(folder)
        ) / f"{one.benchmark}_{one.checkpoint}.eval"
        write_eval_log(_log(config, one), path)
        written.append(path)
    return written


def _log(config: SweepConfig, one: Graded) -> EvalLog:
    from inspect_ai.log import (
        EvalConfig,
        EvalDataset,
        EvalLog,
        EvalMetric,
        EvalResults,
        EvalScore,
        EvalSpec,
    )

    average, evaluate = one.summary.avg_at_n, config.evaluation
    metrics = {"accuracy": average.value}
    if average.standard_error is not None:
        metrics["stderr"] = average.standard_error
    samples = [
        _sample(problem, completion, grade, one.checkpoint)
        for problem, answers in one.problems
        for completion, grade in answers
    ]
    return EvalLog(
        status="success",
        eval=EvalSpec(
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            task=one.benchmark,
            model=f"svdjobs/{one.checkpoint}",
            dataset=EvalDataset(
                name=one.benchmark, samples=len(one.problems),
                sample_ids=[problem.idx for problem, _ in one.problems],
            ),
            config=EvalConfig(epochs=one.summary.n),
            model_args={"engine": one.summary.engine, "dtype": one.summary.dtype},
            metadata={
                "run": config.name, "before": config.before, "after": config.after,
                "temperature": evaluate.temperature, "top_p": evaluate.top_p,
                "max_tokens": evaluate.max_tokens, "benchmark_sha256": one.summary.benchmark_sha256,
            },
        ),
        results=EvalResults(
            total_samples=len(samples), completed_samples=len(samples),
            scores=[
                EvalScore(
                    name=SCORER, scorer=SCORER,
                    metrics={k: EvalMetric(name=k, value=v) for k, v in metrics.items()},
                )
            ],
        ),
        samples=samples,
    )  # fmt: skip


def _sample(problem: Problem, completion: Completion, grade: Grade, checkpoint: str) -> EvalSample:
    from inspect_ai.log import EvalSample
    from inspect_ai.model import ChatMessageUser, ModelOutput, ModelUsage
    from inspect_ai.scorer import CORRECT, INCORRECT, Score

    stop: Any = STOPS[completion.finish_reason]
    model, tokens = f"svdjobs/{checkpoint}", completion.completion_tokens
    output = ModelOutput.from_content(model, completion.text, stop_reason=stop)
    output.usage = ModelUsage(output_tokens=tokens, total_tokens=tokens)
    right = grade.outcome is Outcome.CORRECT
    return EvalSample(
        id=problem.idx,
        epoch=completion.sample_index + 1,
        input=problem.problem,
        target=problem.gold,
        messages=[ChatMessageUser(content=problem.problem), output.choices[0].message],
        output=output,
        scores={
            SCORER: Score(
                value=CORRECT if right else INCORRECT, answer=grade.answer,
                explanation=grade.outcome.value, metadata={"boxed": grade.boxed},
            )
        },
        metadata={"seed": completion.seed},
    )  # fmt: skip
