"""What an earlier, smaller run says about the numbers that a sweep needs."""

from __future__ import annotations

import math
from typing import NamedTuple

from svdjobs.config import SweepConfig, alpha_id
from svdjobs.errors import ConfigError
from svdjobs.evaluation import grades, likelihoods
from svdjobs.evaluation.reading import OfAfter, terms
from svdjobs.records import Grade, Outcome
from svdjobs.statistics import Spread, spread_of
from svdjobs.storage.store import Store


class Pilot(NamedTuple):
    """What a run has shown on one benchmark."""

    checkpoint_id: str
    """The checkpoint whose difference from after is judged: the alpha that is farthest from 1."""
    problems: int
    tokens: float
    """Mean length of after's completions."""
    sampled: Spread | None
    """Of the difference in accuracy by sampling; None if the checkpoint drew no completions, or
    fewer than two a problem."""
    read: Spread | None
    """The same by reading."""


def look(config: SweepConfig, store: Store, benchmark: str) -> Pilot:
    """What the run in the store has shown on a benchmark.

    Raises:
        ConfigError: it has no graded completions of after on the benchmark, or nothing to compare
            them with.
    """
    after = grades.find(store, "after", benchmark)
    if after is None:
        raise ConfigError(
            f"the pilot {store.url} has no graded completions of after on {benchmark}: sweep with "
            f"the same benchmarks there first, e.g. with fewer problems (`limit`)."
        )
    graded, summary = after.graded(store), after.summary(store)
    unreadable = frozenset(summary.gold_errors)
    of_after = OfAfter(graded, likelihoods.load(store, "after", benchmark), (), unreadable, "")
    farthest = sorted(config.alphas, key=lambda alpha: -abs(1 - alpha))
    for checkpoint_id in (*map(alpha_id, farthest), *config.checkpoints, "before"):
        own = grades.find(store, checkpoint_id, benchmark)
        found = likelihoods.load(store, checkpoint_id, benchmark)
        if own or found:
            read = terms(of_after, found) if config.evaluation.readable else None
            return Pilot(
                checkpoint_id,
                summary.problems,
                summary.completion_tokens_mean,
                spread_of(_apart(graded, own.graded(store), unreadable)) if own else None,
                spread_of(read) if read else None,
            )
    raise ConfigError(
        f"the pilot {store.url} has evaluated no alpha of this config on {benchmark}, and neither "
        f"before nor a further checkpoint."
    )


def _apart(after: list[Grade], own: list[Grade], unreadable: frozenset[int]) -> list[list[float]]:
    """Own minus after's score of each completion, by problem. Both drew with the same seeds."""
    scores = {(g.idx, g.sample_index): g.outcome is Outcome.CORRECT for g in after}
    by_problem: dict[int, list[float]] = {}
    for g in own:
        known = scores.get((g.idx, g.sample_index))
        if known is not None and g.idx not in unreadable:
            correct = g.outcome is Outcome.CORRECT
            by_problem.setdefault(g.idx, []).append(float(correct) - float(known))
    return list(by_problem.values())


def points(share: float | None) -> str:
    """A fraction in percentage points, with two digits; `-` if unknown."""
    return "-" if share is None or math.isinf(share) else f"{100 * share:.2g}"
