"""Exports a run in the layout of lm-evaluation-harness (https://github.com/EleutherAI/lm-evaluation-harness):
a folder for each checkpoint with results_TIME.json and samples_TASK_TIME.jsonl."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from svdjobs.config import SweepConfig
from svdjobs.exports.graded import Graded, empty_folder, graded
from svdjobs.records import Outcome
from svdjobs.storage.store import Store

METRIC = "exact_match"
FILTER = "none"


def export(store: Store, config: SweepConfig, folder: Path) -> list[Path]:
    """Write results and samples of each checkpoint; return the paths of the results.

    A problem is a document, and its completions are its responses. `exact_match` is the share of
    correct ones, and its error is clustered by problem.

    Raises:
        IncompleteError: the run has no graded completions.
        ConfigError: the folder is not empty.
    """
    when = datetime.now(UTC).strftime("%Y-%m-%dT%H-%M-%S.%f")
    by_checkpoint: dict[str, list[Graded]] = {}
    for one in graded(store, config):
        by_checkpoint.setdefault(one.checkpoint, []).append(one)
    written = []
    empty_folder(folder)
    for checkpoint, found in by_checkpoint.items():
        below = folder / checkpoint
        below.mkdir()
        for one in found:
            path = below / f"samples_{one.benchmark}_{when}.jsonl"
            lines = (json.dumps(sample) for sample in _samples(one))
            path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        path = below / f"results_{when}.json"
        path.write_text(json.dumps(_results(config, checkpoint, found), indent=2), encoding="utf-8")
        written.append(path)
    return written


def _samples(one: Graded) -> Iterator[dict[str, Any]]:
    for problem, answers in one.problems:
        right = [grade.outcome is Outcome.CORRECT for _, grade in answers]
        yield {
            "doc_id": problem.idx,
            "doc": {"problem": problem.problem, "answer": problem.gold},
            "target": problem.gold,
            "arguments": {"gen_args_0": {"arg_0": problem.problem, "arg_1": {}}},
            "resps": [[completion.text for completion, _ in answers]],
            "filtered_resps": [grade.answer or "" for _, grade in answers],
            "filter": FILTER,
            "metrics": [METRIC],
            METRIC: sum(right) / max(1, len(right)),
            "outcomes": [grade.outcome.value for _, grade in answers],
            "seeds": [completion.seed for completion, _ in answers],
        }


def _results(config: SweepConfig, checkpoint: str, found: list[Graded]) -> dict[str, Any]:
    evaluate = config.evaluation
    generation = {
        "temperature": evaluate.temperature, "top_p": evaluate.top_p,
        "max_gen_toks": evaluate.max_tokens, "do_sample": evaluate.temperature > 0,
    }  # fmt: skip
    return {
        "results": {
            one.benchmark: {
                "alias": one.benchmark,
                f"{METRIC},{FILTER}": one.summary.avg_at_n.value,
                f"{METRIC}_stderr,{FILTER}": one.summary.avg_at_n.standard_error or "N/A",
            }
            for one in found
        },
        "group_subtasks": {one.benchmark: [] for one in found},
        "configs": {
            one.benchmark: {
                "task": one.benchmark, "output_type": "generate_until", "repeats": one.summary.n,
                "generation_kwargs": generation,
                "metric_list": [{"metric": METRIC, "higher_is_better": True}],
            }
            for one in found
        },
        "versions": {one.benchmark: one.summary.benchmark_sha256[:12] for one in found},
        "n-shot": {one.benchmark: 0 for one in found},
        "higher_is_better": {one.benchmark: {METRIC: True} for one in found},
        "n-samples": {
            one.benchmark: {"original": len(one.problems), "effective": len(one.problems)}
            for one in found
        },
        "config": {"model": "svdjobs", "model_args": f"run={config.name},checkpoint={checkpoint}"},
        "model_name": checkpoint,
    }  # fmt: skip
