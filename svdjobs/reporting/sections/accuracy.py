"""The accuracies of the checkpoints, and their differences with confidence intervals."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from svdjobs.config import REPEAT_ID, alpha_id
from svdjobs.escape import label as named
from svdjobs.records import Comparison, Interval, Outcome, Slope, Summary
from svdjobs.reporting import drawing
from svdjobs.reporting.data import (
    Content,
    Picture,
    Row,
    Section,
    Table,
    interval_text,
    percent,
    points,
)
from svdjobs.reporting.sections import likelihood, reading
from svdjobs.statistics import compare, holm, paired_difference, slope_over_alpha

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


# Log-probabilities in float32 are off by about 1e-5, and the KL of an error is half of its square:
# about 5e-11. A KL of up to this limit may be rounding.
_ROUNDING_KL = 1e-9


def _sentences(content: Content) -> list[str]:
    """Sentences about the accuracies of each benchmark."""
    lines = []
    for benchmark, by_id in content.summaries.items():
        before, after = by_id.get("before"), by_id.get("after")
        if before and after:
            gain = paired_difference(after.problem_scores, before.problem_scores)
            lines.append(
                f"{benchmark}: after scores {percent(after.avg_at_n.value)}, before "
                f"{percent(before.avg_at_n.value)}; RL changed accuracy by "
                f"{points(gain)} points."
            )
        bases, values = content.config.bases_of, content.config.values_of
        zero, unblended = by_id.get(alpha_id(0.0)), by_id.get(bases)
        if unblended and zero:
            change = compare(zero.problem_scores, unblended.problem_scores, unblended.n)
            lines.append(
                f"{benchmark}: with {values}'s singular values in {bases}'s bases (alpha = 0), "
                f"accuracy differs from {bases} by {points(change.difference)} points. "
                f"{_verdict(change, _read_effect(content, benchmark))}"
            )
        if slope := sweep_slope(content, benchmark):
            lines.append(
                f"{benchmark}: over the whole sweep, accuracy changes by {points(slope.slope)} "
                f"points from alpha = 0 to 1 (p = {slope.p:.2g})."
            )
        if after and (again := by_id.get(REPEAT_ID)):
            noise = paired_difference(again.problem_scores, after.problem_scores)
            lines.append(
                f"{benchmark}: after asked again with other seeds differs from itself by "
                f"{points(noise)} points: what chance alone does."
            )
    return lines


def _verdict(change: Comparison, elsewhere: str) -> str:
    """A sentence about a difference of accuracies.

    `elsewhere` is the sentence of `_read_effect`, or empty.
    """
    interval = change.difference
    if interval.low is None or interval.high is None:
        if interval.value != 0:
            return ""
        found = "Every problem scored the same."
    elif interval.low <= 0 <= interval.high:
        found = "The interval contains 0: accuracy shows no effect of the singular values."
    else:
        return f"The interval excludes 0: the singular values matter here.{elsewhere}"
    if change.detectable:
        one = f"one of {100 * change.detectable:.1f} points"
        found += f" It would have found {one} in 4 of 5 tries."
    return f"{found}{elsewhere}"


def _read_effect(content: Content, benchmark: str) -> str:
    """A sentence on what alpha = 0 costs as read from after's completions, or, where that cannot be
    read, on whether their likelihood differs; else an empty text."""
    if content.config.bases_of != "after":
        return ""
    found = content.readings.get(benchmark, {}).get(alpha_id(0.0))
    if found and found.accuracy:
        read = reading.words(found.accuracy)
        return f" Read from after's own answers, which is far sharper: {read}."
    kl = likelihood.divergences(content, benchmark).get(alpha_id(0.0))
    if kl is None or kl.value.low is None or kl.value.low <= _ROUNDING_KL:
        return ""
    return (
        f" The likelihood of after's answers, which is far finer, does show one: KL "
        f"{likelihood.plain(kl.value)} nats per token."
    )


def sweep_slope(content: Content, benchmark: str) -> Slope | None:
    """The slope of accuracy over all evaluated alphas; None for fewer than two."""
    by_id = content.summaries[benchmark]
    scores = {
        alpha: by_id[alpha_id(alpha)].problem_scores
        for alpha in content.config.alphas
        if alpha_id(alpha) in by_id
    }
    return slope_over_alpha(scores) if len(scores) > 1 else None


def adjusted_p(content: Content) -> dict[tuple[str, str], float]:
    """The p-value of every alpha on every benchmark, adjusted by Holm's method over all of them.

    An alpha is compared with the checkpoint that gives its bases (after, unless the direction is
    reverse). alpha = 1 equals that checkpoint, so it has no p-value.
    """
    raw = {}
    for benchmark, by_id in content.summaries.items():
        for alpha in content.config.alphas:
            summary, unblended = by_id.get(alpha_id(alpha)), by_id.get(content.config.bases_of)
            if alpha != 1 and summary and unblended:
                made = compare(summary.problem_scores, unblended.problem_scores, unblended.n)
                raw[benchmark, alpha_id(alpha)] = (
                    made.p if made.mcnemar_p is None else made.mcnemar_p
                )
    return holm(raw)


def accuracy_table(
    content: Content, benchmark: str, adjusted: Mapping[tuple[str, str], float] | None = None
) -> Table:
    """avg@n of every checkpoint, and its paired difference from the unblended checkpoint.

    `adjusted` holds the p-values of all benchmarks (`adjusted_p`); None: compute them.
    """
    by_id = content.summaries[benchmark]
    bases = content.config.bases_of
    unblended = by_id.get(bases)
    adjusted = adjusted_p(content) if adjusted is None else adjusted
    rows = []
    for checkpoint_id, summary in by_id.items():
        versus = "-"
        if unblended and checkpoint_id != bases:
            versus = points(paired_difference(summary.problem_scores, unblended.problem_scores))
        p, boxed = adjusted.get((benchmark, checkpoint_id)), summary.avg_at_n_boxed
        rows.append(
            [
                checkpoint_id,
                percent(summary.avg_at_n.value),
                interval_text(summary.avg_at_n),
                versus,
                "-" if p is None else f"{p:.2g}",
                "-" if boxed is None else percent(boxed.value),
            ]
        )
    some = next(iter(by_id.values()))
    lost = f" {len(some.gold_errors)} problems have no readable gold." if some.gold_errors else ""
    return Table(
        f"accuracy-{benchmark}",
        f"Accuracy on {benchmark}",
        f"avg@{some.n} over {some.problems} problems, with 95 % t intervals clustered by problem. "
        f"`minus {bases}` is the mean of per-problem differences, in percentage points: same "
        f"problems, same seeds. `p` is that of a sign-flip test (McNemar's for one completion "
        f"each), by Holm's method over all alphas and benchmarks. `in a box` is avg@{some.n} where "
        f"only boxed answers count: what it lacks is format.{lost}",
        ["checkpoint", f"avg@{some.n}", "95 % interval", f"minus {bases}", "p", "in a box"],
        rows,
        benchmark,
    )


def outcomes_table(content: Content, benchmark: str) -> Table:
    """The outcomes of every checkpoint's completions.

    The last five columns count each completion once.
    """
    rows = []
    for checkpoint_id, summary in content.summaries[benchmark].items():
        counts = [
            summary.outcomes[kind]
            for kind in (Outcome.CORRECT, Outcome.WRONG, Outcome.TRUNCATED, Outcome.NO_ANSWER)
        ]
        cells = [sum(summary.outcomes.values()), summary.not_boxed, *counts, unscored(summary)]
        rows.append([checkpoint_id, *map(str, cells)])
    return Table(
        f"outcomes-{benchmark}",
        f"What became of the completions on {benchmark}",
        "`not boxed` gave an answer, right or wrong, elsewhere than in a box. Of the rest every "
        "completion is counted once: `cut off` hit max_tokens before it gave an answer, `none` "
        "gave none, `unscored` gave one that could not be read or took too long.",
        ["checkpoint", "drawn", "not boxed", "correct", "wrong", "cut off", "none", "unscored"],
        rows,
        benchmark,
    )


def unscored(summary: Summary) -> int:
    """The number of completions whose answer could not be graded; they count as not correct."""
    kinds = (Outcome.PARSE_ERROR, Outcome.TIMEOUT, Outcome.GOLD_ERROR)
    return sum(summary.outcomes[kind] for kind in kinds)


def estimates_table(content: Content, benchmark: str) -> Table:
    """pass@k and maj@n of every checkpoint."""
    by_id = content.summaries[benchmark]
    some = next(iter(by_id.values()))
    rows = []
    for checkpoint_id, summary in by_id.items():
        found = [*summary.pass_at.values(), *([summary.maj_at_n] if summary.maj_at_n else [])]
        rows.append([checkpoint_id, *(f"{percent(i.value)} {interval_text(i)}" for i in found)])
    majority = [f"maj@{some.n}"] if some.maj_at_n else []
    return Table(
        f"estimates-{benchmark}",
        f"pass@k and majority vote on {benchmark}",
        "pass@k is the chance that one of k completions is correct, estimated without bias from "
        f"all {some.n}; maj@{some.n} scores the most frequent answer, equivalent answers counted "
        "as one and ties shared.",
        ["checkpoint", *(f"pass@{k}" for k in some.pass_at), *majority],
        rows,
        benchmark,
    )


def _figure(content: Content) -> Figure:
    """Accuracy against alpha: a panel per benchmark, with before and after as lines."""
    count = len(content.summaries)
    figure, grid = drawing.new(count, width=max(6.5, 5.2 * count), height=4.2)
    for axes, (benchmark, by_id) in zip(grid[0], content.summaries.items(), strict=True):
        alphas = [alpha for alpha in content.config.alphas if alpha_id(alpha) in by_id]
        points = [by_id[alpha_id(alpha)].avg_at_n for alpha in alphas]
        span = drawing.span(axes, alphas)
        for name, colour in (("before", drawing.COLOURS[1]), ("after", drawing.COLOURS[2])):
            if name in by_id:
                _baseline(axes, by_id[name].avg_at_n, name, colour, span)
        if points:
            axes.errorbar(
                alphas,
                [100 * p.value for p in points],
                yerr=drawing.distances(points, 100),
                color=drawing.COLOURS[0],
                marker="o",
                capsize=3,
                linestyle="-" if len(points) > 1 else "none",
                linewidth=1.5,
                zorder=3,
                label="blend at alpha",
            )
        read = {
            alpha: found.accuracy.value
            for alpha in content.config.alphas
            if (found := content.readings.get(benchmark, {}).get(alpha_id(alpha)))
            and found.accuracy
        }
        if len(read) > len(points) and "after" in by_id:
            level = by_id["after"].avg_at_n.value
            drawing.span(axes, list(read))
            axes.plot(
                list(read),
                [100 * (level + difference) for difference in read.values()],
                color=drawing.COLOURS[0],
                marker=".",
                linewidth=1,
                zorder=3,
                label="blend, read from after's answers",
            )
        some = next(iter(by_id.values()))
        axes.set(
            title=named(benchmark),
            xlabel=drawing.alpha_axis(content),
            ylabel=f"avg@{some.n}, %",
        )
        axes.legend(loc="best")
    return figure


def _baseline(
    axes: Axes, interval: Interval, name: str, colour: str, span: tuple[float, float]
) -> None:
    axes.axhline(100 * interval.value, color=colour, linestyle="--", linewidth=1.2, label=name)
    if interval.low is not None and interval.high is not None:
        axes.fill_between(
            span, 100 * interval.low, 100 * interval.high, color=colour, alpha=0.12, linewidth=0
        )


def _numbers(content: Content) -> Iterator[Row]:
    for benchmark in content.summaries:
        yield from _numbers_of(content, benchmark)


def _numbers_of(content: Content, benchmark: str) -> Iterator[Row]:
    by_id = content.summaries[benchmark]
    unblended = by_id.get(content.config.bases_of)
    for checkpoint_id, summary in by_id.items():
        found = {
            "avg": summary.avg_at_n,
            "avg_in_a_box": summary.avg_at_n_boxed,
            "maj": summary.maj_at_n,
        }
        found |= {f"pass@{k}": interval for k, interval in summary.pass_at.items()}
        if unblended and checkpoint_id != content.config.bases_of:
            scores = summary.problem_scores, unblended.problem_scores
            found[f"minus_{content.config.bases_of}"] = paired_difference(*scores)
        for quantity, interval in found.items():
            if interval is not None:
                yield benchmark, checkpoint_id, quantity, interval
        counts = {outcome.value: number for outcome, number in summary.outcomes.items()}
        counts |= {"not_boxed": summary.not_boxed, "hit_max_tokens": summary.truncated}
        for quantity, number in counts.items():
            yield benchmark, checkpoint_id, f"completions_{quantity}", Interval(value=number)
        mean = Interval(value=summary.completion_tokens_mean)
        yield benchmark, checkpoint_id, "completion_tokens_mean", mean
        if summary.completion_tokens_median is not None:
            median = Interval(value=summary.completion_tokens_median)
            yield benchmark, checkpoint_id, "completion_tokens_median", median


def _tables(content: Content) -> Iterator[Table]:
    adjusted = adjusted_p(content)
    for benchmark in content.summaries:
        yield accuracy_table(content, benchmark, adjusted)
        yield outcomes_table(content, benchmark)
        yield estimates_table(content, benchmark)


def _pictures(content: Content) -> Iterator[Picture]:
    if content.summaries:
        bases, values = content.config.bases_of, content.config.values_of
        moves = "falls" if content.config.direction == "forward" else "rises"
        yield Picture(
            "accuracy.png",
            "Accuracy against alpha",
            f"Each point is a checkpoint with {bases}'s singular vectors and blended singular "
            f"values; bars and bands are 95 % intervals clustered by problem. A flat line at "
            f"{bases}'s level says that the gain sits in the singular vectors; one that {moves} to "
            f"{values}'s at alpha = 0, that it sits in the singular values. The paired differences "
            f"in the table below are sharper than these bars.",
            lambda: _figure(content),
        )


SECTION = Section(10, sentences=_sentences, tables=_tables, pictures=_pictures, numbers=_numbers)
