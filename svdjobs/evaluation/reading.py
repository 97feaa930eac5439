"""Reads the accuracy of every checkpoint from after's graded completions and their likelihoods."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

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
    few_changed,
    holm,
    mean_interval,
    ratio_interval,
    reweighted_difference,
    sign_flip_p,
    unseen_p,
    weights_quality,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

Key = tuple[int, int]
"""Problem and sample of a completion."""
NOISE_OF_EFFECT = math.sqrt(0.5)
"""Largest noise of the log weights, as a share of their spread. At this share the checkpoint
contributes as much to the spread as the engine's rounding does."""
ROUNDED = ("bfloat16", "float16")


class Places:
    """Completions of after, one problem after the other."""

    def __init__(self, keys: Iterable[Key], outcomes: Mapping[Key, Outcome]) -> None:
        import numpy as np

        self.keys = sorted(keys)
        counts: dict[int, int] = {}
        for problem, _ in self.keys:
            counts[problem] = counts.get(problem, 0) + 1
        self.problems = list(counts)
        self._ends = np.cumsum(list(counts.values()))[:-1]
        self._outcomes = np.array([outcomes[key].value for key in self.keys])

    def grouped(self, values: Floats) -> list[Floats]:
        """A number for each completion, as an array per problem."""
        import numpy as np

        return np.split(values, self._ends)

    def share(self, outcome: Outcome) -> list[Floats]:
        """1 where a completion has the outcome, else 0."""
        return self.grouped((self._outcomes == outcome.value).astype(float))

    @cached_property
    def correct(self) -> list[Floats]:
        """1 where a completion is correct."""
        return self.share(Outcome.CORRECT)

    @cached_property
    def one_grade(self) -> bool:
        """Whether all completions are correct, or none is."""
        right = self._outcomes == Outcome.CORRECT.value
        return bool(right.all() or not right.any())


class Logs(NamedTuple):
    """Log weights of completions: log p_checkpoint − log p_after."""

    places: Places
    values: Floats

    @property
    def rms(self) -> float:
        """Root mean square of the log weights."""
        return _rms(self.values)

    def difference(self, outcome: Outcome) -> Reweighted:
        """The difference in the share of an outcome."""
        shares = self.places.correct if outcome is Outcome.CORRECT else self.places.share(outcome)
        return reweighted_difference(self.places.grouped(self.values), shares)


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
    def noise_logs(self) -> Logs | None:
        """Log weights of the second reading; None in older runs."""
        return log_weights(self.again, self.likelihoods, self.outcomes)

    @cached_property
    def engine_error(self) -> float:
        """Standard error that the engine's rounding alone gives a difference of accuracies."""
        if self.noise_logs is None:
            return 0.0
        return self.noise_logs.difference(Outcome.CORRECT).like_these.standard_error or 0.0


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
    if logs is None:
        return None
    judged = _judge(after, logs)
    reading = Reading(
        completions=len(logs.values),
        unread=len(after.likelihoods) - sum(not row.unread for row in found),
        effective_share=judged.quality.effective_share,
        largest_share=judged.quality.largest_share,
        pareto_k=judged.quality.pareto_k,
        mean_weight=judged.quality.mean,
        spread=logs.rms,
        noise=after.noise_logs.rms if after.noise_logs else None,
        refused=judged.refused,
    )
    if (correct := judged.correct) is None:
        return reading
    minus_sampled, p = None, None
    if sampled is not None:
        pairs = [
            (value, sampled[problem])
            for problem, value in zip(logs.places.problems, correct.per_problem, strict=True)
            if problem in sampled
        ]
        minus_sampled, p = _beside_sampled(pairs)
    return reading.model_copy(
        update={
            "accuracy": _wider(correct.like_these, judged.engine_error),
            "accuracy_here": _wider(correct.these, judged.engine_error),
            "truncated": logs.difference(Outcome.TRUNCATED).like_these,
            "no_answer": logs.difference(Outcome.NO_ANSWER).like_these,
            "minus_sampled": minus_sampled,
            "minus_sampled_p": p,
            "per_problem": _per_problem(logs.places, judged),
            "engine_error": judged.engine_error,
        }
    )


def _beside_sampled(pairs: Sequence[tuple[float, float]]) -> tuple[Interval | None, float | None]:
    """The difference of each problem as read minus as sampled, and the p that there is none."""
    if not pairs:
        return None, None
    read_, drawn = zip(*pairs, strict=True)
    apart = mean_interval([own - other for own, other in pairs])
    if few_changed(drawn):
        changed = sum(value != 0 for value in drawn)
        return apart, unseen_p(math.fsum(read_) / len(read_), len(drawn), changed)
    p = sign_flip_p([own - other for own, other in pairs]) if apart.standard_error else None
    return apart, p


def read_map(after: OfAfter, cells: Sequence[MapCell]) -> list[MapReading]:
    """What each part of the map carries, in the order of the cells. All parts together are last."""
    import numpy as np

    rows = sorted(
        (r for r in after.likelihoods if not r.unread), key=lambda r: (r.idx, r.sample_index)
    )
    graded = np.array([(row.idx, row.sample_index) in after.outcomes for row in rows], bool)
    keys = [(row.idx, row.sample_index) for row, has in zip(rows, graded, strict=True) if has]
    places = Places(keys, after.outcomes)
    found: list[_Cell] = []
    for cell in cells:
        logs = Logs(places, np.array(cell.log_ratios)[graded])
        judged = _judge(after, logs) if keys else None
        if cell.null is None:
            found.append(_Cell(cell, judged, []))
        else:
            found[-1].nulls.append((cell, judged))
    adjusted = holm(_beyond_random(found))
    _, starts = np.unique([row.idx for row in rows], return_index=True)
    tokens = _sums([len(row.log_probabilities) for row in rows], starts)
    readings = []
    for i, (cell, judged, nulls) in enumerate(found):
        sharper = _sums(cell.divergences, starts)
        plain = [-total for total in _sums(cell.log_ratios, starts)]
        readings.append(
            MapReading(
                layer=cell.layer,
                family=cell.family,
                change=cell.change,
                refused=judged.refused if judged else None,
                accuracy=judged.accuracy if judged else None,
                nulls=[null.accuracy for _, null in nulls if null and null.accuracy],
                p=adjusted.get(i),
                per_problem=_per_problem(places, judged) if i == len(found) - 1 else {},
                nll=ratio_interval(plain, tokens),
                kl=divergence_interval(sharper, plain, tokens)[0],
            )
        )
    return readings


def _per_problem(places: Places, judged: _Judged | None) -> dict[int, float]:
    """Each problem's difference in accuracy; empty if it could not be read."""
    if judged is None or judged.correct is None:
        return {}
    return dict(zip(places.problems, judged.correct.per_problem, strict=True))


def _sums(values: Sequence[float], starts: NDArray[np.int64]) -> list[Any]:
    """The sum of each problem, whose first values are at `starts`."""
    import numpy as np

    sums: list[Any] = np.add.reduceat(np.asarray(values), starts).tolist()
    return sums


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


def _judge(after: OfAfter, logs: Logs) -> _Judged:
    """Whether the weights may be used, and the difference in accuracy if so."""
    quality, spread = weights_quality(logs.places.grouped(logs.values)), logs.rms
    if not spread:  # to the bit after
        return _Judged(quality, None, logs.difference(Outcome.CORRECT), 0.0)
    noise = after.noise_logs.rms if after.noise_logs else 0.0
    refused: Refused | None = None
    if not quality.usable:
        refused = "too far"
    elif quality.lacking:
        refused = "lacking"
    elif after.dtype in ROUNDED and spread * NOISE_OF_EFFECT <= noise:
        refused = "noise"
    elif logs.places.one_grade:
        refused = "one grade"
    if refused:
        return _Judged(quality, refused, None, 0.0)
    correct = logs.difference(Outcome.CORRECT)
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
    found: Iterable[Likelihood], reference: Iterable[Likelihood], outcomes: Mapping[Key, Outcome]
) -> Logs | None:
    """log p_found − log p_reference of each completion with an outcome that both have read; None if
    there is none."""
    import numpy as np

    known = {(r.idx, r.sample_index): r for r in reference if not r.unread}
    logs = {}
    for row in found:
        key = row.idx, row.sample_index
        other = known.get(key)
        if key not in outcomes or other is None or row.unread:
            continue
        # An engine whose context a completion fills may lack the last token.
        if len(row.log_probabilities) == len(other.log_probabilities):
            apart = np.asarray(row.log_probabilities) - np.asarray(other.log_probabilities)
            logs[key] = float(apart.sum())
    if not logs:
        return None
    places = Places(logs, outcomes)
    return Logs(places, np.array([logs[key] for key in places.keys]))


def _wider(interval: Interval, error: float) -> Interval:
    """The interval with a further standard error, independent of its own."""
    own = interval.standard_error
    if interval.low is None or interval.high is None or not own:
        return interval
    total = math.hypot(own, error)
    half = (interval.high - interval.low) / 2 * total / own
    low, high = interval.value - half, interval.value + half
    return Interval(value=interval.value, low=low, high=high, standard_error=total)


def _rms(values: Floats) -> float:
    return math.sqrt(float((values**2).mean()))
