"""The question of a sweep: how much of the gain sits in the singular values, how much in the
singular vectors, and how much in tensors that were not blended."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from svdjobs.config import alpha_id
from svdjobs.records import Interval, MapReading, Reading
from svdjobs.reporting.data import Answer, Content, Question, Section, two_digits
from svdjobs.reporting.sections.blends import left_out
from svdjobs.reporting.sections.reading import amount, negative, words
from svdjobs.statistics import mean_interval, paired_difference
from svdjobs.variant_config import PartConfig

LITTLE = 0.25
"""A share of the gain that surely is below this is little, and one above 1 minus this is most."""


class _Part(NamedTuple):
    """An amount of accuracy, as a fraction, with each problem's own where they are known."""

    value: Interval
    per_problem: Mapping[int, float]
    read: bool

    @property
    def how(self) -> str:
        return "read" if self.read else "sampled"


def _given_back(found: Reading | MapReading | None) -> _Part | None:
    """What a checkpoint lacks of after's accuracy, as read; None if it could not be read."""
    if found is None or found.accuracy is None:
        return None
    own = {problem: -value for problem, value in found.per_problem.items()}
    return _Part(negative(found.accuracy), own, read=True)


def _gain(content: Content, benchmark: str) -> _Part | None:
    """After minus before: as read if before could be read, else as sampled."""
    if read := _given_back(content.readings.get(benchmark, {}).get("before")):
        return read
    by_id = content.summaries.get(benchmark, {})
    if not {"before", "after"} <= by_id.keys():
        return None
    scores = by_id["after"].problem_scores, by_id["before"].problem_scores
    apart = dict(enumerate(a - b for a, b in zip(*scores, strict=True)))
    return _Part(paired_difference(*scores), apart, read=False)


def _values(content: Content, benchmark: str) -> _Part | None:
    """What the singular values carry: after minus alpha = 0, or alpha = 0 minus before in a sweep
    with before's bases."""
    bases, zero = content.config.bases_of, alpha_id(0.0)
    if bases == "after" and (read := _given_back(content.readings.get(benchmark, {}).get(zero))):
        return read
    by_id = content.summaries.get(benchmark, {})
    if not {bases, zero} <= by_id.keys():
        return None
    change = paired_difference(by_id[zero].problem_scores, by_id[bases].problem_scores)
    return _Part(negative(change) if bases == "after" else change, {}, read=False)


def _matrices(content: Content, benchmark: str) -> _Part | None:
    """What all blended matrices together carry, if a map or a variant sets all back to before."""
    config = content.config
    if config.map and config.map.rewind == "matrix" and config.map.by != "head":
        parts = content.maps.get(benchmark) if _is_whole(config.map) else None
        if parts and (read := _given_back(parts[-1])):
            return read
    readings = content.readings.get(benchmark, {})
    names = [n for n, v in config.variants.items() if v.before == "matrix" and _is_whole(v)]
    return next((read for name in names if (read := _given_back(readings.get(name)))), None)


def _is_whole(part: PartConfig) -> bool:
    """Whether no key leaves out any blended matrix."""
    return not any(getattr(part, key) for key in PartConfig.model_fields)


def _answers(content: Content) -> Iterator[Answer]:
    for benchmark in content.summaries:
        gain, values = _gain(content, benchmark), _values(content, benchmark)
        if gain and values:
            for text in _sentences(content, gain, values, _matrices(content, benchmark)):
                yield Answer(Question.SPLIT, text, benchmark)


def _sentences(
    content: Content, gain: _Part, values: _Part, matrices: _Part | None
) -> Iterator[str]:
    whole = gain.value
    if whole.low is None or whole.high is None or whole.low <= 0 <= whole.high:
        yield (
            f"It is not sure that RL changed accuracy at all ({words(whole)}, {gain.how}), so "
            f"there is nothing to divide."
        )
        return
    done = "Setting parts of after back to before says what they carry:"
    if content.config.bases_of == "before":
        done = "Giving before what after has says what it carries:"
    yield (
        f"{_verdict(values.value, matrices and matrices.value, whole)} RL's change is "
        f"{words(whole)} ({gain.how}). {done}"
    )
    yield f"Singular values: {_carried(values.value, whole)} ({values.how})."
    outside = left_out(content)
    if matrices is None:
        beside = f" and of what was not blended ({outside})" if outside else ""
        yield (
            f"Singular vectors: the rest is theirs{beside}. A map (`map: {{}}` in the config) says "
            f"how much."
        )
        return
    yield (
        f"Singular vectors: {_carried(_without(matrices, values), whole)}: what all blended "
        f"matrices carry ({amount(matrices.value)}, {matrices.how}) less what their values carry "
        f"alone. Parts interact, so this is what needs the vectors, with or without the values."
    )
    if outside:
        left = _without(gain, matrices)
        yield f"Not blended: {_carried(left, whole)}, in tensors that no blend changes: {outside}."


def _without(part: _Part, other: _Part) -> Interval:
    """The difference, paired by problem where the problems are known."""
    shared = sorted(part.per_problem.keys() & other.per_problem.keys())
    if not shared:
        return Interval(value=part.value.value - other.value.value)
    return mean_interval([part.per_problem[one] - other.per_problem[one] for one in shared])


def _carried(part: Interval, whole: Interval) -> str:
    return f"{words(part)}, {_share(part.value, whole)}"


def _share(value: float, whole: Interval) -> str:
    return two_digits(value / whole.value)


def _verdict(values: Interval, matrices: Interval | None, whole: Interval) -> str:
    """The answer in a word, if the intervals allow one."""
    ends = [end / whole.value for end in (values.low, values.high) if end is not None]
    ends = ends or [values.value / whole.value]
    if min(ends) > 1 - LITTLE:
        return "In the values."
    if max(map(abs, ends)) >= LITTLE:
        return "In both, as far as is known."
    if matrices is None:
        return "Hardly in the values."
    vectors = (matrices.value - values.value) / whole.value
    if vectors > 1 - LITTLE:
        return "In the vectors."
    return "Mostly in the vectors." if vectors > 0.5 else "Hardly in the values."


SECTION = Section(9, "Values or vectors", answers=_answers)
