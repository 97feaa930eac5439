"""Reads the accuracy of every checkpoint from after's graded completions and their likelihoods."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from svdjobs.records import Grade, Interval, Likelihood, MapCell, MapReading, Outcome, Reading
from svdjobs.statistics import (
    Reweighted,
    divergence_interval,
    holm,
    mean_interval,
    ratio_interval,
    reweighted_difference,
    sign_flip_p,
    weights_quality,
)

Key = tuple[int, int]
"""Problem and sample of a completion."""
NOISE_OF_EFFECT = math.sqrt(0.5)
"""Largest noise of the log weights, as a share of their spread. At this share the checkpoint
contributes as much to the spread as the engine's rounding does."""
ROUNDED = ("bfloat16", "float16")


@dataclass(frozen=True)
class OfAfter:
    """Everything that a checkpoint is read from on one benchmark."""

    grades: Sequence[Grade]
    likelihoods: Sequence[Likelihood]
    again: Sequence[Likelihood]
    """The second reading; empty in older runs."""
    unreadable_golds: frozenset[int]
    dtype: str

    @cached_property
    def outcomes(self) -> dict[Key, Outcome]:
        """The outcome of each completion of a problem with a readable gold."""
        return {
            (g.idx, g.sample_index): g.outcome
            for g in self.grades
            if g.idx not in self.unreadable_golds
        }

    @cached_property
    def noise_logs(self) -> dict[Key, float]:
        """Log weights of the second reading."""
        return log_weights(self.again, self.likelihoods, self.outcomes)

    @cached_property
    def engine_error(self) -> float:
        """Standard error that the engine's rounding alone gives a difference of accuracies."""
        if not self.noise_logs:
            return 0.0
        noise = self.difference(self.noise_logs, Outcome.CORRECT)
        return noise.like_these.standard_error or 0.0

    def difference(self, logs: Mapping[Key, float], outcome: Outcome) -> Reweighted:
        """The difference in the share of an outcome, from log weights."""
        by_problem = _by_problem(logs).values()
        outcomes = [[float(self.outcomes[key] is outcome) for key in own] for own in by_problem]
        return reweighted_difference(_weights(logs), outcomes)


def terms(after: OfAfter, found: Sequence[Likelihood]) -> list[list[float]] | None:
    """What each completion adds to its problem's difference in accuracy; None if nothing can be
    compared, or the weights are too uneven."""
    logs = log_weights(found, after.likelihoods, after.outcomes)
    if not logs or not weights_quality(_weights(logs)).usable:
        return None
    return after.difference(logs, Outcome.CORRECT).per_completion


def read(
    after: OfAfter, found: Sequence[Likelihood], sampled: Mapping[int, float] | None = None
) -> Reading | None:
    """What the checkpoint with likelihoods `found` would score; None if nothing can be compared.

    `sampled` is the score of each problem by the checkpoint's own completions, minus after's.
    """
    logs = log_weights(found, after.likelihoods, after.outcomes)
    if not logs:
        return None
    quality = weights_quality(_weights(logs))
    noise = _rms(after.noise_logs.values()) if after.noise_logs else None
    spread = _rms(logs.values())
    reading = Reading(
        completions=len(logs),
        unread=len(after.likelihoods) - sum(not row.unread for row in found),
        effective_share=quality.effective_share,
        largest_share=quality.largest_share,
        pareto_k=quality.pareto_k,
        mean_weight=quality.mean,
        spread=spread,
        noise=noise,
    )
    if not quality.usable:
        return reading.model_copy(update={"refused": "too far"})
    if noise and after.dtype in ROUNDED and 0 < spread * NOISE_OF_EFFECT <= noise:
        return reading.model_copy(update={"refused": "noise"})

    correct = after.difference(logs, Outcome.CORRECT)
    engine = after.engine_error if spread else 0.0
    minus_sampled, p = None, None
    if sampled is not None:
        apart = [
            value - sampled[problem]
            for problem, value in zip(_by_problem(logs), correct.per_problem, strict=True)
            if problem in sampled
        ]
        minus_sampled = mean_interval(apart) if apart else None
        p = sign_flip_p(apart) if minus_sampled and minus_sampled.standard_error else None
    return reading.model_copy(
        update={
            "accuracy": _wider(correct.like_these, engine),
            "accuracy_here": _wider(correct.these, engine),
            "truncated": after.difference(logs, Outcome.TRUNCATED).like_these,
            "no_answer": after.difference(logs, Outcome.NO_ANSWER).like_these,
            "minus_sampled": minus_sampled,
            "minus_sampled_p": p,
        }
    )


def read_map(after: OfAfter, cells: Sequence[MapCell]) -> list[MapReading]:
    """What each part of the map carries, in the order of the cells. All parts together are last."""
    rows = sorted(
        (r for r in after.likelihoods if not r.unread), key=lambda r: (r.idx, r.sample_index)
    )
    keys = [(row.idx, row.sample_index) for row in rows]
    lengths: dict[int, int] = {}
    for row in rows:
        lengths[row.idx] = lengths.get(row.idx, 0) + len(row.log_probabilities)
    found: list[tuple[MapCell, Reweighted | None, list[Reweighted]]] = []
    for cell in cells:
        read = _read_cell(after, dict(zip(keys, cell.log_ratios, strict=True)))
        if cell.null is None:
            found.append((cell, read, []))
        elif read is not None:
            found[-1][2].append(read)
    apart = [_minus_nulls(read, nulls) for _, read, nulls in found]
    adjusted = holm({i: sign_flip_p(values) for i, values in enumerate(apart) if values})
    readings = []
    for i, (cell, read, nulls) in enumerate(found):
        ratios, divergences = dict.fromkeys(lengths, 0.0), dict.fromkeys(lengths, 0.0)
        for key, ratio, divergence in zip(keys, cell.log_ratios, cell.divergences, strict=True):
            ratios[key[0]] -= ratio
            divergences[key[0]] += divergence
        tokens = list(lengths.values())
        readings.append(
            MapReading(
                layer=cell.layer,
                family=cell.family,
                change=cell.change,
                accuracy=read.like_these if read else None,
                nulls=[null.like_these for null in nulls],
                minus_nulls=mean_interval(apart[i]) if apart[i] else None,
                p=adjusted.get(i),
                nll=ratio_interval(list(ratios.values()), tokens),
                kl=divergence_interval(list(divergences.values()), list(ratios.values()), tokens)[
                    0
                ],
            )
        )
    return readings


def _read_cell(after: OfAfter, all_logs: Mapping[Key, float]) -> Reweighted | None:
    """The difference of accuracies; None if the weights are too uneven."""
    logs = {key: log for key, log in all_logs.items() if key in after.outcomes}
    if not logs or not weights_quality(_weights(logs)).usable:
        return None
    return after.difference(logs, Outcome.CORRECT)


def _minus_nulls(read: Reweighted | None, nulls: Sequence[Reweighted]) -> list[float]:
    """The difference of each problem minus the mean of the nulls'; empty if it was not read."""
    if read is None:
        return []
    count = max(1, len(nulls))
    return [
        value - math.fsum(null.per_problem[i] for null in nulls) / count
        for i, value in enumerate(read.per_problem)
    ]


def log_weights(
    found: Iterable[Likelihood], reference: Iterable[Likelihood], keys: Iterable[Key]
) -> dict[Key, float]:
    """log p_found − log p_reference of each completion among `keys` that both have read."""
    wanted = set(keys)
    known = {(r.idx, r.sample_index): r for r in reference if not r.unread}
    logs = {}
    for row in found:
        key = row.idx, row.sample_index
        if key in wanted and key in known and not row.unread:
            pairs = zip(row.log_probabilities, known[key].log_probabilities, strict=True)
            logs[key] = math.fsum(own - other for own, other in pairs)
    return logs


def _by_problem(keys: Iterable[Key]) -> dict[int, list[Key]]:
    by_problem: dict[int, list[Key]] = {}
    for key in sorted(keys):
        by_problem.setdefault(key[0], []).append(key)
    return by_problem


def _weights(logs: Mapping[Key, float]) -> list[list[float]]:
    """The log weights, a list per problem."""
    return [[logs[key] for key in keys] for keys in _by_problem(logs).values()]


def _wider(interval: Interval, error: float) -> Interval:
    """The interval with a further standard error, independent of its own."""
    own = interval.standard_error
    if interval.low is None or interval.high is None or not own:
        return interval
    total = math.hypot(own, error)
    half = (interval.high - interval.low) / 2 * total / own
    low, high = interval.value - half, interval.value + half
    return Interval(value=interval.value, low=low, high=high, standard_error=total)


def _rms(values: Iterable[float]) -> float:
    squares = [value**2 for value in values]
    return math.sqrt(math.fsum(squares) / len(squares))
