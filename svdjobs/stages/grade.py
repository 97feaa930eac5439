"""grade: grade the finished completions of a run again, and summarise them.

`evaluate` grades while it generates. This stage regrades with a newer grader, and never generates a
completion.
"""

from __future__ import annotations

from contextlib import closing

from svdjobs.config import SweepConfig
from svdjobs.errors import IncompleteError
from svdjobs.evaluation import grades
from svdjobs.evaluation.benchmarks.of_run import benchmark_of
from svdjobs.evaluation.grader import Grader
from svdjobs.records import Manifest
from svdjobs.runs import layout
from svdjobs.runs.outputs import find_manifest
from svdjobs.storage.store import Store


def run(config: SweepConfig, store: Store, *, force: bool = False) -> list[Manifest]:
    """Grade all finished completions without current grades; with `force`, all of them.

    Raises:
        ConfigError: the config has no `evaluate` section.
        IncompleteError: the run has no finished completions.
        BenchmarkError: a benchmark has changed since its completions were generated.
    """
    manifests: list[Manifest] = []
    with closing(Grader(config.evaluation.grade_timeout_seconds)) as grader:
        for section in config.benchmarks:
            benchmark = benchmark_of(section, store)
            for checkpoint_id in layout.evaluated_ids(config):
                results_prefix = layout.results_prefix(checkpoint_id, section.name)
                if completions_manifest := find_manifest(store, results_prefix):
                    manifests.append(
                        grades.make(
                            store,
                            checkpoint_id,
                            benchmark,
                            completions_manifest,
                            grader,
                            force=force,
                        )
                    )
    if not manifests:
        raise IncompleteError(f"{store.url} has no finished completions to grade.")
    return manifests
