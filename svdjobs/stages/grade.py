"""grade: grade finished completions, and summarise. `evaluate` does it on the way; on its own this
stage follows a newer grader, and draws nothing whatever else has changed since."""

from __future__ import annotations

from functools import cache, partial

from svdjobs.config import SweepConfig
from svdjobs.errors import IncompleteError
from svdjobs.evaluation import grades
from svdjobs.evaluation.benchmarks.load import load_benchmark
from svdjobs.evaluation.grading.pool import GradingPool
from svdjobs.records import Manifest
from svdjobs.runs import layout
from svdjobs.runs.outputs import find_manifest
from svdjobs.storage.store import Store


def run(config: SweepConfig, store: Store, *, force: bool = False) -> list[Manifest]:
    """Grades of all completions that the run has finished; with `force` also where they are there.

    Raises:
        ConfigError: the config has no `evaluate` section.
        IncompleteError: there are no completions.
        BenchmarkError: a benchmark is not the one that was asked.
    """
    made: list[Manifest] = []
    with GradingPool(config.evaluation.grade_timeout_seconds) as pool:
        for section in config.benchmarks:
            benchmark = load_benchmark(section)
            gold_errors = cache(partial(grades.unreadable_golds, pool, benchmark))
            for checkpoint_id in layout.evaluated_ids(config):
                completions = find_manifest(
                    store, layout.results_prefix(checkpoint_id, section.name)
                )
                if completions is not None:
                    made.append(
                        grades.make(
                            store, checkpoint_id, benchmark, completions, lambda: pool,
                            gold_errors, force=force,
                        )
                    )  # fmt: skip
    if not made:
        raise IncompleteError(f"{store.url} has no finished completions to grade.")
    return made
