"""The accuracy of every checkpoint as read from after's own answers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from svdjobs.config import alpha_id
from svdjobs.records import Interval, Reading, Refused
from svdjobs.reporting import charts
from svdjobs.reporting.data import (
    Answer,
    Cell,
    Content,
    Picture,
    Question,
    Row,
    Section,
    Table,
    number,
    of_interval,
    points,
)
from svdjobs.runs.layout import sampled_ids
from svdjobs.statistics import beyond_p, holm, mean_interval, paired_difference, sign_flip_p

LEVEL = 0.05
MUCH = 0.9
"""An effective sample size of less than this share of the answers is worth a word."""
_NOT_READ = {
    "too far": "too far from after",
    "lacking": "says what after never says",
    "noise": "engine noise",
    "one grade": "all of after's answers have one grade",
}


def not_read(refused: Refused | None) -> str:
    """Why there is no reading, for a table."""
    return _NOT_READ[refused] if refused else "-"


def words(interval: Interval) -> str:
    """`-0.34 [-0.44, -0.24] points`, with as many digits as the interval needs."""
    low, high = interval.low, interval.high
    if low is None or high is None:
        return "0 points, to the bit" if interval.value == 0 else f"{points(interval)} points"
    digits = 2 if 100 * (high - low) >= 0.1 else 3 if 100 * (high - low) >= 0.01 else 4
    value, low, high = 100 * interval.value, 100 * low, 100 * high
    return f"{value:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}] points"


def negative(interval: Interval) -> Interval:
    """The interval of the opposite difference."""
    low, high = (None if end is None else -end for end in (interval.high, interval.low))
    return Interval(value=-interval.value, low=low, high=high)


def amount(interval: Interval) -> str:
    """`0.34 [0.24, 0.44] points`: the same as `words` for a difference whose sign the words say."""
    return words(interval).replace("+", "")


def cell(interval: Interval | None) -> Cell:
    """The same for a table of points; `-` without a value."""
    if interval is None:
        return Cell("-", has_ends=True)
    return of_interval(words(interval).replace(" points", ""), interval, 100)


def at_level(level: float, difference: Interval) -> Interval:
    """A level plus a difference, with the difference's interval."""
    low, high = (None if end is None else level + end for end in (difference.low, difference.high))
    return Interval(value=level + difference.value, low=low, high=high)


def _answers(content: Content) -> Iterator[Answer]:
    p_values = disagreements(content)
    for benchmark, by_id in content.readings.items():
        yield from _refusals(content, benchmark)
        apart = [i for (b, i), p in p_values.items() if b == benchmark and p < LEVEL]
        both = [i for b, i in p_values if b == benchmark]
        if apart:
            yield Answer(
                Question.TRUST,
                f"For {_list(apart)} reading and sampling contradict each other "
                f"(p = {min(p_values[benchmark, i] for i in apart):.2g}). Trust neither before you "
                f"know why, e.g. an engine that changes what it is asked to read.",
                benchmark,
            )
        elif both:
            yield Answer(
                Question.TRUST,
                f"Reading and sampling agree within their errors for {_list(both)}.",
                benchmark,
            )
        coarse = {i: found.effective_share for i, found in by_id.items() if found.accuracy}
        least = min(coarse, key=coarse.__getitem__, default="")
        if least and coarse[least] < MUCH:
            yield Answer(
                Question.TRUST,
                f"The coarsest reading is that of {least}: the effective sample size is "
                f"{100 * coarse[least]:.0f} % of the answers, the mean weight "
                f"{_mean(by_id[least])} (1 if nothing is lacking).",
                benchmark,
            )
        noise = next((r.engine_error for r in by_id.values() if r.engine_error), None)
        if noise:
            yield Answer(
                Question.TRUST,
                f"After read twice differs from itself by {100 * noise:.1g} points "
                f"(standard error): the engine's own noise, which is in every interval.",
                benchmark,
            )
    yield from _unsampled(content)
    for benchmark in content.summaries:
        if found := best_alpha(content, benchmark):
            yield Answer(Question.BEST, _best_words(content, found), benchmark)


def _refusals(content: Content, benchmark: str) -> Iterator[Answer]:
    """Checkpoints that could not be read, and why."""
    by_id, drawn = content.readings[benchmark], content.summaries.get(benchmark, {})
    for refused, why in (
        ("too far", "too far from after to be read"),
        (
            "lacking",
            "not read, since what after drew lacks what {it} would draw (the mean weight is not 1)",
        ),
    ):
        ids = [i for i, found in by_id.items() if found.refused == refused]
        if unknown := [i for i in ids if i not in drawn]:
            it = _it(unknown)
            yield Answer(
                Question.NOT_MEASURED,
                f"{_list(unknown)} {_is(unknown)} {why.format(it=it)}; sample {it} to know the "
                f"accuracy (evaluate.sampled).",
                benchmark,
            )
    if any(found.refused == "one grade" for found in by_id.values()):
        yield Answer(
            Question.NOT_MEASURED,
            "All of after's answers have one grade, so reading them says nothing about accuracy. "
            "KL and NLL say how far each checkpoint is from after.",
            benchmark,
        )
    for checkpoint_id, found in by_id.items():
        if found.refused == "noise" and found.noise is not None:
            yield Answer(
                Question.NOT_MEASURED,
                f"{checkpoint_id} cannot be read: its answers' log-probabilities differ from "
                f"after's by {found.spread:.2g}, and two readings of after itself by "
                f"{found.noise:.2g}. Set evaluate.dtype to float32.",
                benchmark,
            )


class Best(NamedTuple):
    """The alpha with the highest accuracy, and the others beside it."""

    alpha: float
    read: bool
    """Compared as read; else as sampled."""
    behind: dict[float, tuple[Interval, float]]
    """Each other alpha minus the best, and the p-value of no difference, by Holm's method."""

    @property
    def alike(self) -> list[float]:
        """The alphas that cannot be told from the best."""
        return [alpha for alpha, (_, p) in self.behind.items() if p >= LEVEL]


class _Candidate(NamedTuple):
    """An alpha that may be the best."""

    value: float
    per_problem: dict[int, float]
    engine_error: float
    minus_after: Interval | None = None
    """As read."""
    is_after: bool = False


def best_alpha(content: Content, benchmark: str) -> Best | None:
    """The best alpha, by reading if all alphas could be read, else among the sampled ones.

    None for fewer than two alphas.
    """
    read = _read_candidates(content, benchmark)
    found = read or _sampled_candidates(content, benchmark)
    if len(found) < 2:
        return None
    # Of equal ones take the alpha next to 1: it changes least.
    best = max(found, key=lambda alpha: (found[alpha].value, -abs(1 - alpha)))
    behind = {
        alpha: _behind(own, found[best], sampled=not read)
        for alpha, own in found.items()
        if alpha != best
    }
    adjusted = holm({alpha: p for alpha, (_, p) in behind.items()})
    return Best(best, bool(read), {a: (apart, adjusted[a]) for a, (apart, _) in behind.items()})


def _read_candidates(content: Content, benchmark: str) -> dict[float, _Candidate]:
    """The alphas as read, with after itself as alpha = 1; none if one could not be read."""
    readings = content.readings.get(benchmark, {})
    own = {a: readings[i] for a in content.config.alphas if (i := alpha_id(a)) in readings}
    found = {
        a: _Candidate(one.accuracy.value, one.per_problem, one.engine_error, one.accuracy)
        for a, one in own.items()
        if one.accuracy
    }
    if not found or len(found) < len(own):
        return {}
    if content.config.bases_of == "after":
        same = dict.fromkeys(next(iter(found.values())).per_problem, 0.0)
        found[1.0] = _Candidate(0.0, same, 0.0, is_after=True)
    return found


def _sampled_candidates(content: Content, benchmark: str) -> dict[float, _Candidate]:
    by_id, bases = content.summaries[benchmark], content.config.bases_of
    ids = {a: alpha_id(a) for a in content.config.alphas}
    if bases in by_id:
        ids.setdefault(1.0, bases)
    return {
        a: _Candidate(by_id[i].avg_at_n.value, dict(enumerate(by_id[i].problem_scores)), 0.0)
        for a, i in ids.items()
        if i in by_id
    }


def _behind(own: _Candidate, best: _Candidate, *, sampled: bool) -> tuple[Interval, float]:
    """The difference, paired by problem, and the p-value of none."""
    shared = own.per_problem.keys() & best.per_problem.keys()
    apart = [own.per_problem[problem] - best.per_problem[problem] for problem in sorted(shared)]
    interval = mean_interval(apart)
    if best.is_after and own.minus_after:
        interval = own.minus_after
    if sampled or interval.standard_error is None:
        return interval, sign_flip_p(apart)
    error = math.hypot(interval.standard_error, own.engine_error, best.engine_error)
    return interval, beyond_p(interval.value, error, len(apart), [])


def _best_words(content: Content, found: Best) -> str:
    how = "read from after's answers" if found.read else "sampled"
    itself = f" ({content.config.bases_of} itself)" if found.alpha == 1 else ""
    said = f"alpha = {found.alpha:g}{itself}, {how}."
    worse = [a for a in found.behind if a not in found.alike]
    if not worse:
        return f"{said} No other alpha can be told from it."
    nearest = max(worse, key=lambda a: found.behind[a][0].value)
    farthest = min(worse, key=lambda a: found.behind[a][0].value)
    said += f" alpha = {farthest:g} scores {_margin(found.behind[farthest], ' less')}"
    if nearest != farthest:
        said += (
            f"; of those that surely score less the nearest is alpha = {nearest:g}, by "
            f"{_margin(found.behind[nearest])}"
        )
    alike = (
        f"{alpha_ranges(found.alike, sorted([*found.behind, found.alpha]))} cannot be told from it"
        if found.alike
        else "All others surely score less"
    )
    return f"{said}. {alike} (Holm's method over all alphas)."


def _margin(behind: tuple[Interval, float], after: str = "") -> str:
    return f"{amount(negative(behind[0]))}{after} (p = {behind[1]:.2g})"


def alpha_ranges(chosen: Sequence[float], among: Sequence[float]) -> str:
    """`alpha = 0.8 to 0.95 and 1.1`: neighbours among the alphas of the sweep are one range."""
    places = sorted(among.index(alpha) for alpha in chosen)
    runs: list[list[int]] = []
    for place in places:
        if runs and place == runs[-1][1] + 1:
            runs[-1][1] = place
        else:
            runs.append([place, place])
    ranges = [
        f"{among[a]:g}" if a == b else f"{among[a]:g}{' to ' if b > a + 1 else ' and '}{among[b]:g}"
        for a, b in runs
    ]
    return f"alpha = {_list(ranges)}"


def _unsampled(content: Content) -> Iterator[Answer]:
    """How many alphas draw no answers."""
    alphas, sampled = content.config.alphas, set(sampled_ids(content.config))
    count = sum(alpha_id(alpha) not in sampled for alpha in alphas)
    if content.config.evaluate and count:
        yield Answer(
            Question.LEFT_OUT,
            f"{count} of {len(alphas)} alphas draw no answers of their own: they are only read.",
        )


def _list(items: list[str]) -> str:
    shown = items if len(items) <= 6 else [*items[:5], f"{len(items) - 5} others"]
    return " and ".join([", ".join(shown[:-1]), shown[-1]]) if len(shown) > 1 else shown[0]


def _is(items: list[str]) -> str:
    return "is" if len(items) == 1 else "are"


def _it(items: list[str]) -> str:
    return "it" if len(items) == 1 else "them"


def disagreements(content: Content) -> dict[tuple[str, str], float]:
    """The p-value that reading and sampling give the same accuracy, for each checkpoint that was
    both read and sampled, adjusted by Holm's method over all of them."""
    return holm(
        {
            (benchmark, checkpoint_id): found.minus_sampled_p
            for benchmark, by_id in content.readings.items()
            for checkpoint_id, found in by_id.items()
            if found.minus_sampled_p is not None
        }
    )


def reading_table(content: Content, benchmark: str) -> Table:
    """The accuracy of every checkpoint minus after's, as read and as sampled."""
    summaries, p_values = content.summaries.get(benchmark, {}), disagreements(content)
    after = summaries.get("after")
    rows = []
    for checkpoint_id, found in content.readings[benchmark].items():
        sampled, p = Cell("-"), p_values.get((benchmark, checkpoint_id))
        if after and checkpoint_id in summaries:
            own = summaries[checkpoint_id].problem_scores
            sampled = points(paired_difference(own, after.problem_scores))
        read = cell(found.accuracy)
        if found.refused:
            read = Cell(not_read(found.refused))
        here = cell(found.accuracy_here)
        rows.append([checkpoint_id, read, here, sampled, number(p, ".2g")])
    return Table(
        f"reading-{benchmark}",
        f"Accuracy read from after's answers, on {benchmark}",
        "Percentage points minus after. `read`: after's graded answers, each weighted by how much "
        "likelier the checkpoint finds it than after does; without bias, and no answer is drawn. "
        "Its interval is for problems like these, `these problems` is for this very benchmark: the "
        "latter counts the answers as chance, the former the problems too. `sampled`: from answers "
        "of the checkpoint's own. `differ`: p-value that both estimate the same, by Holm's method.",
        ["checkpoint", "read", "these problems", "sampled", "differ"],
        rows,
        benchmark,
    )


def weights_table(content: Content, benchmark: str) -> Table:
    """How far each reading can be trusted."""
    rows = [
        [
            checkpoint_id,
            number(found.completions),
            number(found.unread),
            Cell(f"{100 * found.effective_share:.2f} %", 100 * found.effective_share),
            Cell(f"{100 * found.largest_share:.2f} %", 100 * found.largest_share),
            number(found.pareto_k, ".2f"),
            _mean(found),
            number(found.spread, ".2g"),
        ]
        for checkpoint_id, found in content.readings[benchmark].items()
    ]
    noise = next(
        (r.noise for r in content.readings[benchmark].values() if r.noise is not None), None
    )
    rounding = (
        "This run is older and has read after once, so the engine's own noise is not known."
        if noise is None
        else f"Two readings of after differ by {noise:.2g} in the same way: the engine's own "
        f"noise, which is part of the intervals."
    )
    return Table(
        f"weights-{benchmark}",
        f"How far the readings can be trusted, on {benchmark}",
        "`ESS`: effective sample size as a share of the answers; `largest`: share of the largest "
        "weight; `k̂`: Pareto shape of the largest weights, above 0.7 a sign of weights too heavy "
        "to average (unless the ESS is above 90 %: then all are near 1). The mean weight must be "
        "1: nothing is read where it is more than 4 standard errors from 1, nor where it is known "
        "to less than ± 0.1, nor with an ESS below 20 %. `spread` is the root "
        "mean square of the log weights. " + rounding,
        ["checkpoint", "answers", "unread", "ESS", "largest", "k̂", "mean weight", "spread"],
        rows,
        benchmark,
    )


def _mean(found: Reading) -> Cell:
    error = found.mean_weight.standard_error
    text = f"{found.mean_weight.value:.4f}" + ("" if error is None else f" ± {error:.4f}")
    return of_interval(text, found.mean_weight)


def _chart(content: Content, benchmark: str) -> charts.Spec:
    """Accuracy minus after's against alpha, as read and as sampled."""
    alphas, by_id = {a: alpha_id(a) for a in content.config.alphas}, content.readings[benchmark]
    read = {a: by_id[i].accuracy for a, i in alphas.items() if i in by_id and by_id[i].accuracy}
    summaries = content.summaries.get(benchmark, {})
    after = summaries.get("after")
    drawn = {
        a: paired_difference(summaries[i].problem_scores, after.problem_scores)
        for a, i in alphas.items()
        if after and a != 1 and i in summaries
    }
    series = [
        charts.Series("read from after's answers", "line", _known(read)),
        charts.Series("sampled", "points", drawn),
        charts.Series("after", "level", {"after": Interval(value=0)}),
    ]
    return charts.curves(
        [one for one in series if one.values],
        x=content.alpha_axis, y="accuracy minus after's, points", scale=100,
    )  # fmt: skip


def _known(found: Mapping[float, Interval | None]) -> dict[float, Interval]:
    return {alpha: interval for alpha, interval in found.items() if interval}


def _tables(content: Content) -> Iterator[Table]:
    for benchmark in content.readings:
        yield reading_table(content, benchmark)
        yield weights_table(content, benchmark)


def _pictures(content: Content) -> Iterator[Picture]:
    blends = {alpha_id(alpha) for alpha in content.config.alphas}
    for benchmark, by_id in content.readings.items():
        if any(found.accuracy and i in blends for i, found in by_id.items()):
            yield Picture(
                f"reading-{benchmark}",
                f"Accuracy on {benchmark} read from after's answers, against alpha",
                "Each alpha's accuracy minus after's, estimated from after's own graded answers "
                "and how likely the blend finds each: no answer is drawn, so the band (95 %, for "
                "problems like these) is far narrower than the bars of sampled differences.",
                _chart(content, benchmark),
            )


def _numbers(content: Content) -> Iterator[Row]:
    for benchmark, by_id in content.readings.items():
        for checkpoint_id, found in by_id.items():
            intervals = {
                "read_minus_after": found.accuracy,
                "read_minus_after_these_problems": found.accuracy_here,
                "read_truncated_minus_after": found.truncated,
                "read_no_answer_minus_after": found.no_answer,
                "read_minus_sampled": found.minus_sampled,
                "read_mean_weight": found.mean_weight,
            }
            for quantity, interval in intervals.items():
                if interval is not None:
                    yield benchmark, checkpoint_id, quantity, interval
            values = {
                "read_effective_share": found.effective_share,
                "read_largest_share": found.largest_share,
                "read_pareto_k": found.pareto_k,
                "read_spread": found.spread,
                "read_noise": found.noise,
            }
            for quantity, value in values.items():
                if value is not None:
                    yield benchmark, checkpoint_id, quantity, Interval(value=value)


SECTION = Section(
    20, "Read from after's answers", answers=_answers, tables=_tables, pictures=_pictures,
    numbers=_numbers,
)  # fmt: skip
