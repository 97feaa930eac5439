"""How the checkpoints answered: tables and sentences, every difference with its uncertainty."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from svdjobs.config import REPEAT_ID, alpha_id
from svdjobs.records import Comparison, Interval, Likelihood, Outcome, Slope, Summary
from svdjobs.reporting import graders
from svdjobs.reporting.data import Content, Table, interval_text, percent, points
from svdjobs.statistics import (
    compare,
    holm,
    mean_per_token,
    paired_difference,
    slope_over_alpha,
)

# Log-probabilities in float32 are off by about 1e-5, half of whose square is this.
_ROUNDING_KL = 1e-9


def headlines(content: Content) -> list[str]:
    """What the evaluation says about the question, in sentences."""
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
                f"{_verdict(change, _likelihood_effect(content, benchmark))}"
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
    """What a difference of accuracies says; `elsewhere` is what the likelihood adds, or empty."""
    interval = change.difference
    if interval.low is None or interval.high is None:
        if interval.value != 0:
            return ""
        found = "Every problem scored the same."
    elif interval.low <= 0 <= interval.high:
        found = "The interval contains 0: accuracy shows no effect of the singular values."
    else:
        return "The interval excludes 0: the singular values matter here."
    if change.detectable:
        one = f"one of {100 * change.detectable:.1f} points"
        found += f" It would have found {one} in 4 of 5 tries."
    return f"{found}{elsewhere}"


def _likelihood_effect(content: Content, benchmark: str) -> str:
    """A sentence where the likelihood of after's answers tells alpha = 0 from what is blended."""
    if content.config.bases_of != "after":
        return ""
    kl = divergences(content, benchmark).get(alpha_id(0.0))
    if kl is None or kl.low is None or kl.low <= _ROUNDING_KL:
        return ""
    return (
        f" The likelihood of after's answers, which is far finer, does show one: KL "
        f"{_plain(kl)} nats per token."
    )


def sweep_slope(content: Content, benchmark: str) -> Slope | None:
    """One trend over all alphas that were evaluated; None for fewer than two."""
    by_id = content.summaries[benchmark]
    scores = {
        alpha: by_id[alpha_id(alpha)].problem_scores
        for alpha in content.config.alphas
        if alpha_id(alpha) in by_id
    }
    return slope_over_alpha(scores) if len(scores) > 1 else None


def adjusted_p(content: Content) -> dict[tuple[str, str], float]:
    """p of every alpha against what it blends (after, unless reversed) on every benchmark, by
    Holm's method over all of them.

    alpha = 1 is that itself and is not a comparison.
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


def tables(content: Content) -> list[Table]:
    """All tables about answers, in reading order."""
    found, adjusted = [], adjusted_p(content)
    for benchmark in content.summaries:
        found.append(accuracy_table(content, benchmark, adjusted))
        found.append(outcomes_table(content, benchmark))
        found.append(estimates_table(content, benchmark))
        if content.agreements.get(benchmark):
            found += graders.tables(content, benchmark)
        if content.likelihoods.get(benchmark):
            found.append(likelihood_table(content, benchmark))
    return found


def accuracy_table(
    content: Content, benchmark: str, adjusted: Mapping[tuple[str, str], float] | None = None
) -> Table:
    """avg@n of every checkpoint with its interval and its paired difference to what is blended.

    `adjusted` is that of all benchmarks together (`adjusted_p`), made here if it is not given.
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
    )  # fmt: skip


def outcomes_table(content: Content, benchmark: str) -> Table:
    """What became of every checkpoint's completions; each is counted once in the last five."""
    rows = []
    for checkpoint_id, summary in content.summaries[benchmark].items():
        counts = [summary.outcomes[kind] for kind in (Outcome.CORRECT, Outcome.WRONG,
                  Outcome.TRUNCATED, Outcome.NO_ANSWER)]  # fmt: skip
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
    )


def unscored(summary: Summary) -> int:
    """Completions whose answer could not be graded; they count as not correct."""
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
    )


def likelihood_table(content: Content, benchmark: str) -> Table:
    """NLL of after's own answers and divergence from after, per token."""
    by_id = content.likelihoods[benchmark]
    after, kl = by_id.get("after"), divergences(content, benchmark)
    rows = []
    for checkpoint_id, found in by_id.items():
        nll = mean_per_token(_by_problem(found, None, lambda own, _: -own))
        change = "-"
        if checkpoint_id != "after" and (both := _by_problem(found, after or [], _nll_change)):
            change = _signed(mean_per_token(both))
        divergence = _plain(kl[checkpoint_id]) if checkpoint_id in kl else "-"
        rows.append([checkpoint_id, str(len(found)), _plain(nll), change, divergence])
    return Table(
        f"likelihood-{benchmark}",
        f"How likely after's answers are, on {benchmark}",
        "Every checkpoint reads the same answers, drawn by after, instead of drawing its own, so "
        "nothing here is sampling noise of the checkpoint. NLL in nats per token; `minus after` is "
        "the difference token by token; KL(after ‖ checkpoint) is estimated without bias from the "
        "same tokens (only where they were drawn at temperature 1 and top_p 1). 95 % intervals "
        "clustered by problem. Differences are of the answers that both have read."
        + _unread(by_id),
        ["checkpoint", "answers", "NLL", "minus after", "KL"],
        rows,
    )


def _nll_change(own: float, after: float) -> float:
    return after - own


def _unread(by_id: Mapping[str, list[Likelihood]]) -> str:
    """A sentence where a checkpoint has not read all answers that another has."""
    counts = {checkpoint_id: len(found) for checkpoint_id, found in by_id.items()}
    most = max(counts.values(), default=0)
    short = [f"{i} {most - n}" for i, n in counts.items() if n < most]
    return f" Answers that are missing: {', '.join(short)}." if short else ""


def divergences(content: Content, benchmark: str) -> dict[str, Interval]:
    """KL(after ‖ checkpoint) per token by checkpoint id, in nats.

    Empty unless the answers were drawn from after's own distribution, temperature 1 and top_p 1.
    """
    by_id, sampler = content.likelihoods.get(benchmark, {}), content.config.evaluate
    after = by_id.get("after")
    if after is None or sampler is None or (sampler.temperature, sampler.top_p) != (1, 1):
        return {}
    return {
        checkpoint_id: mean_per_token(terms)
        for checkpoint_id, found in by_id.items()
        if checkpoint_id != "after" and (terms := _by_problem(found, after, _divergence))
    }


def _divergence(own: float, after: float) -> float:
    """One token's share of KL(after ‖ own) where the token was drawn from after: e^d − 1 − d with
    d = log p_own − log p_after.

    Its mean is the divergence, each term is at least 0, and it varies far less than −d (Schulman
    2020, "Approximating KL Divergence", estimator k3).
    """
    d = own - after
    return math.expm1(d) - d


def _by_problem(
    found: list[Likelihood],
    reference: list[Likelihood] | None,
    term: Callable[[float, float], float],
) -> list[list[float]]:
    """A term per token, the traces of one problem joined."""
    others = found if reference is None else reference
    known = {(r.idx, r.sample_index): r.log_probabilities for r in others}
    terms: dict[int, list[float]] = {}
    for row in found:
        # An answer that one of the two has not read is none of their comparison.
        if (other := known.get((row.idx, row.sample_index))) is None:
            continue
        pairs = zip(row.log_probabilities, other, strict=True)
        terms.setdefault(row.idx, []).extend(term(own, ref) for own, ref in pairs)
    return [terms[idx] for idx in sorted(terms)]


def _plain(interval: Interval) -> str:
    if interval.low is None or interval.high is None:
        return f"{interval.value:.3g}"
    return f"{interval.value:.3g} [{interval.low:.3g}, {interval.high:.3g}]"


def _signed(interval: Interval) -> str:
    if interval.low is None or interval.high is None:
        return "0 (to the bit)" if interval.value == 0 else f"{interval.value:+.2e}"
    return f"{interval.value:+.2e} [{interval.low:+.2e}, {interval.high:+.2e}]"
