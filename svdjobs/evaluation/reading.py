"""Reads the accuracy of every checkpoint from after's graded completions and their likelihoods."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from svdjobs.records import (
    Grade,
    Interval,
    Likelihood,
    MapCell,
    MapReading,
    Outcome,
    Reading,
    Refused,
)
from svdjobs.statistics import (
    Reweighted,
    WeightsQuality,
    beyond_p,
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
    """What each completion adds to its problem's difference in accuracy; None if it cannot be
    read."""
    logs = log_weights(found, after.likelihoods, after.outcomes)
    correct = _judge(after, logs).correct if logs else None
    return correct.per_completion if correct else None


def read(
    after: OfAfter, found: Sequence[Likelihood], sampled: Mapping[int, float] | None = None
) -> Reading | None:
    """What the checkpoint with likelihoods `found` would score; None if nothing can be compared.

    `sampled` is the score of each problem by the checkpoint's own completions, minus after's.
    """
    logs = log_weights(found, after.likelihoods, after.outcomes)
    if not logs:
        return None
    judged = _judge(after, logs)
    reading = Reading(
        completions=len(logs),
        unread=len(after.likelihoods) - sum(not row.unread for row in found),
        effective_share=judged.quality.effective_share,
        largest_share=judged.quality.largest_share,
        pareto_k=judged.quality.pareto_k,
        mean_weight=judged.quality.mean,
        spread=_rms(logs.values()),
        noise=_rms(after.noise_logs.values()) if after.noise_logs else None,
        refused=judged.refused,
    )
    if (correct := judged.correct) is None:
        return reading
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
            "accuracy": _wider(correct.like_these, judged.engine_error),
            "accuracy_here": _wider(correct.these, judged.engine_error),
            "truncated": after.difference(logs, Outcome.TRUNCATED).like_these,
            "no_answer": after.difference(logs, Outcome.NO_ANSWER).like_these,
            "minus_sampled": minus_sampled,
            "minus_sampled_p": p,
            "per_problem": dict(zip(_by_problem(logs), correct.per_problem, strict=True)),
            "engine_error": judged.engine_error,
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
    found: list[_Cell] = []
    for cell in cells:
        logs = dict(zip(keys, cell.log_ratios, strict=True))
        logs = {key: log for key, log in logs.items() if key in after.outcomes}
        judged = _judge(after, logs) if logs else None
        if cell.null is None:
            found.append(_Cell(cell, judged, []))
        else:
            found[-1].nulls.append((cell, judged))
    adjusted = holm(_beyond_random(found))
    readings = []
    for i, (cell, judged, nulls) in enumerate(found):
        ratios, divergences = dict.fromkeys(lengths, 0.0), dict.fromkeys(lengths, 0.0)
        for key, ratio, divergence in zip(keys, cell.log_ratios, cell.divergences, strict=True):
            ratios[key[0]] -= ratio
            divergences[key[0]] += divergence
        tokens = list(lengths.values())
        sharper, plain = list(divergences.values()), list(ratios.values())
        readings.append(
            MapReading(
                layer=cell.layer,
                family=cell.family,
                change=cell.change,
                refused=judged.refused if judged else None,
                accuracy=judged.accuracy if judged else None,
                nulls=[null.accuracy for _, null in nulls if null and null.accuracy],
                p=adjusted.get(i),
                nll=ratio_interval(plain, tokens),
                kl=divergence_interval(sharper, plain, tokens)[0],
            )
        )
    return readings


class _Judged(NamedTuple):
    """Log weights, and what can be read from them."""

    quality: WeightsQuality
    refused: Refused | None
    correct: Reweighted | None
    """The difference in accuracy; None if refused."""
    engine_error: float

    @property
    def accuracy(self) -> Interval | None:
        """The difference in accuracy for problems like these, the engine's noise included."""
        return _wider(self.correct.like_these, self.engine_error) if self.correct else None


class _Cell(NamedTuple):
    """A cell of the map and its random changes."""

    cell: MapCell
    judged: _Judged | None
    nulls: list[tuple[MapCell, _Judged | None]]


def _judge(after: OfAfter, logs: Mapping[Key, float]) -> _Judged:
    """Whether the weights may be used, and the difference in accuracy if so."""
    quality, spread = weights_quality(_weights(logs)), _rms(logs.values())
    if not spread:  # to the bit after
        return _Judged(quality, None, after.difference(logs, Outcome.CORRECT), 0.0)
    noise = _rms(after.noise_logs.values()) if after.noise_logs else 0.0
    refused: Refused | None = None
    if not quality.usable:
        refused = "too far"
    elif quality.lacking:
        refused = "lacking"
    elif after.dtype in ROUNDED and spread * NOISE_OF_EFFECT <= noise:
        refused = "noise"
    elif len({after.outcomes[key] is Outcome.CORRECT for key in logs}) == 1:
        refused = "one grade"
    if refused:
        return _Judged(quality, refused, None, 0.0)
    correct = after.difference(logs, Outcome.CORRECT)
    return _Judged(quality, None, correct, after.engine_error)


def _beyond_random(found: Sequence[_Cell]) -> dict[int, float]:
    """For each part that was read: the p that it does no more than a random change of its size.

    To first order a random change does as much as it is large, so those of all layers count in a
    column, scaled. Without random changes in the config, p is that of no effect. All parts together
    have no random changes, and are not tested.
    """
    without = not any(cell.nulls for cell in found)
    p_values = {}
    for i, (cell, judged, _) in enumerate(found[:-1]):
        accuracy = judged.accuracy if judged else None
        if judged is None or judged.correct is None or accuracy is None:
            continue
        randoms = [
            null.accuracy.value * cell.change / change.change
            for other in found
            if other.cell.family == cell.family
            for change, null in other.nulls
            if null and null.accuracy and change.change
        ]
        if accuracy.standard_error and (randoms or without):
            problems = len(judged.correct.per_problem)
            p_values[i] = beyond_p(accuracy.value, accuracy.standard_error, problems, randoms)
    return p_values


def log_weights(
    found: Iterable[Likelihood], reference: Iterable[Likelihood], keys: Iterable[Key]
) -> dict[Key, float]:
    """log p_found − log p_reference of each completion among `keys` that both have read."""
    wanted = set(keys)
    known = {(r.idx, r.sample_index): r for r in reference if not r.unread}
    logs = {}
    for row in found:
        key = row.idx, row.sample_index
        other = known.get(key)
        if key not in wanted or other is None or row.unread:
            continue
        # An engine whose context a completion fills may lack the last token.
        if len(row.log_probabilities) == len(other.log_probabilities):
            pairs = zip(row.log_probabilities, other.log_probabilities, strict=True)
            logs[key] = math.fsum(a - b for a, b in pairs)
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
