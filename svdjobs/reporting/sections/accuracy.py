"""The accuracies of the checkpoints, and their differences with confidence intervals."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from svdjobs.config import REPEAT_ID, alpha_id
from svdjobs.records import Comparison, Interval, Outcome, Reading, Slope, Summary
from svdjobs.reporting import charts
from svdjobs.reporting.data import (
    Answer,
    Content,
    Picture,
    Question,
    Row,
    Section,
    Table,
    interval_text,
    number,
    of_interval,
    percent,
    points,
)
from svdjobs.reporting.sections import likelihood, reading
from svdjobs.statistics import compare, holm, paired_difference, slope_over_alpha

# Log-probabilities in float32 are off by about 1e-5, and the KL of an error is half of its square:
# about 5e-11. A KL of up to this limit may be rounding.
_ROUNDING_KL = 1e-9


def _answers(content: Content) -> Iterator[Answer]:
    adjusted = adjusted_p(content)
    for benchmark, by_id in content.summaries.items():
        before, after = by_id.get("before"), by_id.get("after")
        if before and after:
            gain = paired_difference(after.problem_scores, before.problem_scores)
            yield Answer(
                Question.GAIN,
                f"After scores {percent(after.avg_at_n.value)}, before "
                f"{percent(before.avg_at_n.value)}; RL changed accuracy by {points(gain)} points.",
                benchmark,
            )
        yield from _values_answer(content, benchmark, adjusted.get((benchmark, alpha_id(0.0))))
        if (slope := sweep_slope(content, benchmark)) and len(slope.alphas) > 2:
            yield Answer(
                Question.VALUES,
                f"Over the whole sweep, sampled accuracy changes by {points(slope.slope)} points "
                f"from alpha = 0 to 1 (p = {slope.p:.2g}).",
                benchmark,
            )
        if after and (again := by_id.get(REPEAT_ID)):
            noise = paired_difference(again.problem_scores, after.problem_scores)
            yield Answer(
                Question.TRUST,
                f"After asked again with other seeds differs from itself by {points(noise)} "
                f"points: what chance alone does.",
                benchmark,
            )
        lost = [f"{i} {unscored(one)}" for i, one in by_id.items() if unscored(one)]
        if lost:
            yield Answer(
                Question.NOT_MEASURED,
                f"Completions that could not be graded, and count as not correct: "
                f"{', '.join(lost)}.",
                benchmark,
            )
    if not content.config.evaluate:
        yield Answer(Question.NOT_MEASURED, "Accuracy: no evaluation was asked for.")
    if content.missing:
        yield Answer(Question.NOT_MEASURED, f"Not finished: {', '.join(content.missing)}.")


def _values_answer(content: Content, benchmark: str, p: float | None) -> Iterator[Answer]:
    """What alpha = 0 costs: as read, which is the sharper, and as sampled."""
    by_id = content.summaries[benchmark]
    bases, values = content.config.bases_of, content.config.values_of
    what = f"{values.capitalize()}'s singular values in {bases}'s bases (alpha = 0)"
    zero, unblended = by_id.get(alpha_id(0.0)), by_id.get(bases)
    found = content.readings.get(benchmark, {}).get(alpha_id(0.0)) if bases == "after" else None
    if found and found.accuracy:
        text = (
            f"{what} change accuracy by {reading.words(found.accuracy)}, read from after's "
            f"answers: {_read_verdict(found)}."
        )
        yield Answer(Question.VALUES, text, benchmark)
        if unblended and zero:
            change = compare_with(zero, unblended)
            yield Answer(Question.VALUES, f"Sampled: {_sampled_verdict(change, p)}", benchmark)
    elif unblended and zero:
        change = compare_with(zero, unblended)
        yield Answer(
            Question.VALUES,
            f"{what}, sampled: {_sampled_verdict(change, p)}"
            f"{_divergence_words(content, benchmark)}",
            benchmark,
        )


def compare_with(summary: Summary, reference: Summary) -> Comparison:
    """The paired comparison of two checkpoints on the same problems."""
    return compare(summary.problem_scores, reference.problem_scores, reference.n)


def _read_verdict(found: Reading) -> str:
    interval = found.accuracy
    if interval is None or interval.low is None or interval.high is None:
        return "nothing changed at all"
    if interval.low <= 0 <= interval.high:
        return "no difference is seen (the interval contains 0)"
    return "a real difference (the interval excludes 0)"


def _sampled_verdict(change: Comparison, p: float | None) -> str:
    """A sampled difference, and whether it is real.

    The p-value decides: that of a sign-flip test holds with few changed problems, where the t
    interval is too narrow.
    """
    interval, level = change.difference, reading.LEVEL
    if interval.low is None or interval.high is None or p is None:
        words = f"{points(interval)} points, without an interval."
        if interval.value == 0:
            words = "every problem scored the same."
        real = False
    else:
        real = p < level
        excludes = not interval.low <= 0 <= interval.high
        words = f"{points(interval)} points, p = {p:.2g}: "
        words += "a real difference" if real else "it cannot be told from none"
        if excludes != real:
            words += (
                f" (p decides: the interval is too narrow where few problems changed, here "
                f"{change.changed} of {change.problems}, and is of this alpha alone)"
            )
        words += "."
    if change.detectable and not real:
        words += (
            f" This many answers show a difference only from about {100 * change.detectable:.1f} "
            f"points on (in 4 of 5 runs)."
        )
    return words


def _divergence_words(content: Content, benchmark: str) -> str:
    """Where alpha = 0 cannot be read: a sentence if its likelihood differs, else an empty text."""
    kl = likelihood.divergences(content, benchmark).get(alpha_id(0.0))
    if content.config.bases_of != "after" or kl is None:
        return ""
    if kl.value.low is None or kl.value.low <= _ROUNDING_KL:
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
                number(p, ".2g"),
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
        rows.append([checkpoint_id, *map(number, cells)])
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
        cells = [of_interval(f"{percent(i.value)} {interval_text(i)}", i, 100) for i in found]
        rows.append([checkpoint_id, *cells])
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


def _chart(content: Content, benchmark: str) -> charts.Spec:
    """Accuracy against alpha, with before and after as lines."""
    by_id, found = content.summaries[benchmark], content.readings.get(benchmark, {})
    alphas = {alpha: alpha_id(alpha) for alpha in content.config.alphas}
    sampled = {alpha: by_id[i].avg_at_n for alpha, i in alphas.items() if i in by_id}
    read = {
        alpha: reading.at_level(by_id["after"].avg_at_n.value, accuracy)
        for alpha, i in alphas.items()
        if "after" in by_id and i in found and (accuracy := found[i].accuracy)
    }
    series = [charts.Series("blend, sampled", "points", sampled)] if sampled else []
    if read:
        series.append(charts.Series("blend, read from after's answers", "line", read))
    series += [
        charts.Series(one, "level", {one: by_id[one].avg_at_n})
        for one in ("before", "after")
        if one in by_id
    ]
    n = next(iter(by_id.values())).n
    return charts.curves(series, x=content.alpha_axis, y=f"avg@{n}, %", scale=100)


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
        counts = {outcome.value: count for outcome, count in summary.outcomes.items()}
        counts |= {"not_boxed": summary.not_boxed, "hit_max_tokens": summary.truncated}
        for quantity, count in counts.items():
            yield benchmark, checkpoint_id, f"completions_{quantity}", Interval(value=count)
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
    bases, values = content.config.bases_of, content.config.values_of
    moves = "falls" if content.config.direction == "forward" else "rises"
    for benchmark in content.summaries:
        yield Picture(
            f"accuracy-{benchmark}",
            f"Accuracy on {benchmark} against alpha",
            f"Points are checkpoints with {bases}'s singular vectors and blended singular values, "
            f"as sampled; the curve is after's accuracy plus what reading says. Bars and bands are "
            f"95 % intervals clustered by problem. A flat line at {bases}'s level says that the "
            f"gain sits in the singular vectors; one that {moves} to {values}'s at alpha = 0, that "
            f"it sits in the singular values. Differences are known better than these bars say, "
            f"because all checkpoints have the same problems and seeds: see the table.",
            _chart(content, benchmark),
        )


SECTION = Section(
    10, "Accuracy", answers=_answers, tables=_tables, pictures=_pictures, numbers=_numbers
)
