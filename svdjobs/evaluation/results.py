"""The finished evaluations of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from svdjobs.config import REPEAT_ID, SweepConfig
from svdjobs.errors import ConfigError
from svdjobs.evaluation.benchmarks.of_run import benchmark_of
from svdjobs.evaluation.grades import Evaluation, find
from svdjobs.evaluation.output_keys import has_other_weights, settings_of
from svdjobs.runs import layout
from svdjobs.storage.store import Store


def evaluation_order(checkpoint_ids: Sequence[str]) -> list[str]:
    """Checkpoint ids in the order in which they are evaluated."""
    # A reused engine starts with `after`, and the others read the completions of `after` for their
    # likelihoods. The repetition holds the same weights. `before` comes last: all its weights
    # differ.
    rank = {"after": 0, REPEAT_ID: 1, "before": 3}
    return sorted(checkpoint_ids, key=lambda checkpoint_id: rank.get(checkpoint_id, 2))


def current_results(
    config: SweepConfig, store: Store, digests: Mapping[str, str] | None = None
) -> dict[str, Evaluation | None]:
    """Every evaluation that the config asks for, by the prefix of its completions.

    None if it is missing, damaged, or made with other settings or problems: pairing it with others
    would compare answers to different questions. A setting that is `auto` takes the value of the
    first result; others must match it.

    `digests` are the sha256 of the benchmarks, by name; the problems of one that it lacks are not
    compared. None: load every benchmark.
    """
    results: dict[str, Evaluation | None] = {}
    chosen: dict[str, Any] = {}
    for section in config.benchmarks:
        sha256 = (
            benchmark_of(section, store).sha256 if digests is None else digests.get(section.name)
        )
        for checkpoint_id in evaluation_order(layout.evaluated_ids(config)):
            prefix = layout.results_prefix(checkpoint_id, section.name)
            evaluation = find(store, checkpoint_id, section.name)
            settled = config.evaluation
            if evaluation is not None:
                completions = evaluation.completions
                for key in ("engine", "dtype"):
                    if getattr(settled, key) == "auto":
                        value = chosen.setdefault(key, completions.config.get(key))
                        settled = settled.model_copy(update={key: value})
                try:
                    settings = settings_of(settled, checkpoint_id)
                except ConfigError:  # an engine that this version does not have
                    settings = {}
                other = completions.config != settings or (
                    sha256 is not None and completions.inputs["benchmark"] != sha256
                )
                if other or has_other_weights(config, store, checkpoint_id, prefix, completions):
                    evaluation = None
            results[prefix] = evaluation
    return results
