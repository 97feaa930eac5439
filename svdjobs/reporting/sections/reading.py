"""The accuracy of every checkpoint as read from after's own answers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from svdjobs.config import alpha_id
from svdjobs.escape import label as named
from svdjobs.records import Interval, Reading, Refused
from svdjobs.reporting import drawing
from svdjobs.reporting.data import Content, Picture, Row, Section, Table, points
from svdjobs.statistics import holm, paired_difference

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LEVEL = 0.05
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


def cell(interval: Interval | None) -> str:
    """The same for a table of points; `-` without a value."""
    return "-" if interval is None else words(interval).replace(" points", "")


def _sentences(content: Content) -> Iterator[str]:
    p_values = disagreements(content)
    for benchmark, by_id in content.readings.items():
        drawn = content.summaries.get(benchmark, {})
        for refused, why, else_do in (
            ("too far", "too far from after to be read", "sample {it} to know the accuracy"),
            (
                "lacking",
                "not read, since what after drew lacks what {it} would draw (the mean weight is "
                "not 1)",
                "sample {it} to know the accuracy",
            ),
        ):
            ids = [i for i, found in by_id.items() if found.refused == refused]
            if unknown := [i for i in ids if i not in drawn]:
                it = _it(unknown)
                yield (
                    f"{benchmark}: {_list(unknown)} {_is(unknown)} {why.format(it=it)}; "
                    f"{else_do.format(it=it)} (evaluate.sampled)."
                )
        if any(found.refused == "one grade" for found in by_id.values()):
            yield (
                f"{benchmark}: all of after's answers have one grade, so reading them says nothing "
                f"about accuracy. KL and NLL say how far each checkpoint is from after."
            )
        for checkpoint_id, found in by_id.items():
            if found.refused == "noise" and found.noise is not None:
                yield (
                    f"{benchmark}: {checkpoint_id} cannot be read: its answers' log-probabilities "
                    f"differ from after's by {found.spread:.2g}, and two readings of after itself "
                    f"by {found.noise:.2g}. Set evaluate.dtype to float32."
                )
        apart = [i for (b, i), p in p_values.items() if b == benchmark and p < LEVEL]
        both = [i for b, i in p_values if b == benchmark]
        if apart:
            yield (
                f"{benchmark}: for {_list(apart)} reading and sampling contradict each other "
                f"(p = {min(p_values[benchmark, i] for i in apart):.2g}). Trust neither before you "
                f"know why, e.g. an engine that changes what it is asked to read."
            )
        elif both:
            yield (
                f"{benchmark}: reading and sampling do not contradict each other for {_list(both)}."
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
        sampled, p = "-", p_values.get((benchmark, checkpoint_id))
        if after and checkpoint_id in summaries:
            own = summaries[checkpoint_id].problem_scores
            sampled = points(paired_difference(own, after.problem_scores))
        read = cell(found.accuracy)
        if found.refused:
            read = not_read(found.refused)
        here, apart = cell(found.accuracy_here), "-" if p is None else f"{p:.2g}"
        rows.append([checkpoint_id, read, here, sampled, apart])
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
            str(found.completions),
            str(found.unread),
            f"{100 * found.effective_share:.2f} %",
            f"{100 * found.largest_share:.2f} %",
            "-" if found.pareto_k is None else f"{found.pareto_k:.2f}",
            _mean(found),
            f"{found.spread:.2g}",
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


def _mean(found: Reading) -> str:
    error = found.mean_weight.standard_error
    return f"{found.mean_weight.value:.4f}" + ("" if error is None else f" ± {error:.4f}")


def _figure(content: Content) -> Figure:
    """Accuracy minus after's against alpha, as read and as sampled: a panel per benchmark."""
    count = len(content.readings)
    figure, grid = drawing.new(count, width=max(6.5, 5.2 * count), height=4.2)
    for axes, (benchmark, by_id) in zip(grid[0], content.readings.items(), strict=True):
        read = {
            alpha: found.accuracy
            for alpha in content.config.alphas
            if (found := by_id.get(alpha_id(alpha))) and found.accuracy
        }
        drawing.span(axes, list(read))
        axes.axhline(0, color=drawing.COLOURS[7], linewidth=1)
        low, high = (
            [100 * (end if end is not None else i.value) for i, end in ends]
            for ends in (
                [(i, i.low) for i in read.values()],
                [(i, i.high) for i in read.values()],
            )
        )
        axes.plot(
            list(read), [100 * i.value for i in read.values()], color=drawing.COLOURS[0],
            marker=".", linewidth=1.5, zorder=3, label="read from after's answers",
        )  # fmt: skip
        axes.fill_between(list(read), low, high, color=drawing.COLOURS[0], alpha=0.2, linewidth=0)
        summaries = content.summaries.get(benchmark, {})
        after = summaries.get("after")
        drawn = {
            alpha: paired_difference(
                summaries[alpha_id(alpha)].problem_scores, after.problem_scores
            )
            for alpha in content.config.alphas
            if after and alpha != 1 and alpha_id(alpha) in summaries
        }
        if drawn:
            axes.errorbar(
                list(drawn), [100 * i.value for i in drawn.values()],
                yerr=drawing.distances(list(drawn.values()), 100), color=drawing.COLOURS[1],
                marker="o", linestyle="none", capsize=3, label="sampled",
            )  # fmt: skip
        axes.set(
            title=named(benchmark), xlabel=drawing.alpha_axis(content),
            ylabel="accuracy minus after's, points",
        )  # fmt: skip
        axes.legend(loc="best")
    return figure


def _tables(content: Content) -> Iterator[Table]:
    for benchmark in content.readings:
        yield reading_table(content, benchmark)
        yield weights_table(content, benchmark)


def _pictures(content: Content) -> Iterator[Picture]:
    blends = {alpha_id(alpha) for alpha in content.config.alphas}
    if any(
        found.accuracy and checkpoint_id in blends
        for by_id in content.readings.values()
        for checkpoint_id, found in by_id.items()
    ):
        yield Picture(
            "reading.png",
            "Accuracy read from after's answers, against alpha",
            "Each alpha's accuracy minus after's, estimated from after's own graded answers and "
            "how likely the blend finds each: no answer is drawn, so the band (95 %, for problems "
            "like these) is far narrower than the bars of sampled differences.",
            lambda: _figure(content),
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


SECTION = Section(20, sentences=_sentences, tables=_tables, pictures=_pictures, numbers=_numbers)
