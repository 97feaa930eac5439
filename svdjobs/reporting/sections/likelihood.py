"""The likelihood of after's completions under every checkpoint, and the divergence from after."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from svdjobs.config import alpha_id
from svdjobs.records import Interval, Likelihood
from svdjobs.reporting import charts
from svdjobs.reporting.data import (
    Cell,
    Content,
    Picture,
    Row,
    Section,
    Table,
    number,
    of_interval,
)
from svdjobs.statistics import divergence_interval, ratio_interval

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]


class Divergence(NamedTuple):
    """KL(after ‖ checkpoint) per token, in nats."""

    value: Interval
    from_ratio: bool
    """Estimated as the mean log ratio, since the sharper estimator cannot be trusted here."""


def likelihood_table(content: Content, benchmark: str) -> Table:
    """The NLL of after's completions and the divergence from after, per token."""
    by_id = content.likelihoods[benchmark]
    after, kl = by_id.get("after"), divergences(content, benchmark)
    rows = []
    for checkpoint_id, found in by_id.items():
        read = [row for row in found if not row.unread]
        own = _sums(read, read, lambda own, _: -own)
        nll = plain(ratio_interval(*own)) if own.lengths else Cell("-")
        both, change = _sums(read, after or [], _log_ratio), Cell("-")
        if checkpoint_id != "after" and both.lengths:
            change = _signed(ratio_interval(*both))
        divergence = Cell("-")
        if checkpoint_id in kl:
            text = plain(kl[checkpoint_id].value) + " *" * kl[checkpoint_id].from_ratio
            divergence = of_interval(text, kl[checkpoint_id].value)
        rows.append([checkpoint_id, number(len(read)), nll, change, divergence])
    starred = " *: mean log ratio, since" if any(kl[i].from_ratio for i in kl) else ""
    if starred:
        starred += (
            " this checkpoint is so far from after that e^d − 1 − d, which is otherwise sharper, "
            "misses the tokens that count most."
        )
    tempered = content.config.evaluate and content.config.evaluate.read_temperature != 1
    return Table(
        f"likelihood-{benchmark}",
        f"How likely after's answers are, on {benchmark}",
        "Every checkpoint reads the same answers, drawn by after, instead of drawing its own, so "
        "nothing here is sampling noise of the checkpoint. NLL in nats per token; `minus after` is "
        "the difference token by token; KL(after ‖ checkpoint) is estimated without bias from the "
        "same tokens (only where all tokens could be drawn: top_p 1, a temperature above 0). 95 % "
        "intervals clustered by problem. Differences are of the answers that both have read."
        + (" Of the distribution at the sampling temperature." if tempered else "")
        + starred
        + _unread(by_id),
        ["checkpoint", "answers", "NLL", "minus after", "KL"],
        rows,
        benchmark,
    )


def _log_ratio(own: Floats, after: Floats) -> Floats:
    return after - own


def _unread(by_id: Mapping[str, list[Likelihood]]) -> str:
    """A sentence if a checkpoint lacks likelihoods that another has; else an empty text."""
    counts = {i: sum(not row.unread for row in found) for i, found in by_id.items()}
    most = max(counts.values(), default=0)
    short = [f"{i} {most - n}" for i, n in counts.items() if n < most]
    return f" Answers that are missing: {', '.join(short)}." if short else ""


def divergences(content: Content, benchmark: str) -> dict[str, Divergence]:
    """KL(after ‖ checkpoint) by checkpoint id.

    Empty unless the completions were sampled from all of after's distribution.
    """
    by_id, sampler = content.likelihoods.get(benchmark, {}), content.config.evaluate
    after = by_id.get("after")
    if after is None or sampler is None or not sampler.readable:
        return {}
    found = {}
    for checkpoint_id, rows in by_id.items():
        if checkpoint_id == "after":
            continue
        sharper, ratios = (_sums(rows, after, term) for term in (_sharper_divergence, _log_ratio))
        if sharper.lengths:
            both = divergence_interval(sharper.sums, ratios.sums, ratios.lengths)
            found[checkpoint_id] = Divergence(*both)
    return found


def _sharper_divergence(own: Floats, after: Floats) -> Floats:
    """The term of each token in KL(after ‖ own), for tokens sampled from after: e^d − 1 − d with
    d = log p_own − log p_after.

    A term is at least 0 and varies far less than −d (Schulman 2020, "Approximating KL Divergence",
    http://joschu.net/blog/kl-approx.html, estimator k3).
    """
    import numpy as np

    d = own - after
    return np.expm1(d) - d


class _Sums(NamedTuple):
    """The sum of the tokens' terms and the number of tokens of each problem."""

    sums: list[float]
    lengths: list[int]


def _sums(
    found: Sequence[Likelihood],
    reference: Sequence[Likelihood],
    term: Callable[[Floats, Floats], Floats],
) -> _Sums:
    """Sum the terms of all tokens whose log-probability is known in `found` and in `reference`."""
    import numpy as np

    known = {(r.idx, r.sample_index): r.log_probabilities for r in reference if not r.unread}
    sums: dict[int, float] = {}
    lengths: dict[int, int] = {}
    for row in found:
        # Compare only completions whose likelihood is known under both checkpoints. An engine whose
        # context a completion fills may lack its last token.
        other = known.get((row.idx, row.sample_index))
        count = len(row.log_probabilities)
        if row.unread or other is None or len(other) != count or not count:
            continue
        total = float(term(np.asarray(row.log_probabilities), np.asarray(other)).sum())
        sums[row.idx] = sums.get(row.idx, 0.0) + total
        lengths[row.idx] = lengths.get(row.idx, 0) + count
    problems = sorted(sums)
    return _Sums([sums[i] for i in problems], [lengths[i] for i in problems])


def plain(interval: Interval) -> Cell:
    """`0.123 [0.12, 0.13]`: a number with its interval."""
    text = f"{interval.value:.3g}"
    if interval.low is not None and interval.high is not None:
        text += f" [{interval.low:.3g}, {interval.high:.3g}]"
    return of_interval(text, interval)


def _signed(interval: Interval) -> Cell:
    text = f"{interval.value:+.2e}"
    if interval.low is not None and interval.high is not None:
        text += f" [{interval.low:+.2e}, {interval.high:+.2e}]"
    elif interval.value == 0:
        text = "0 (to the bit)"
    return of_interval(text, interval)


def _chart(content: Content, found: Mapping[str, Divergence]) -> charts.Spec:
    """KL(after ‖ blend) per token against alpha, with before as a line.

    alpha = 1 is after itself, so its KL is 0, which a log scale cannot show.
    """
    blends = {
        alpha: found[alpha_id(alpha)].value
        for alpha in content.config.alphas
        if alpha_id(alpha) in found
    }
    series = [charts.Series("blend at alpha", "line", blends)]
    if "before" in found:
        series.append(charts.Series("before", "level", {"before": found["before"].value}))
    return charts.curves(
        [one for one in series if one.values],
        x=content.alpha_axis, y="KL(after ‖ checkpoint), nats per token", log=True,
    )  # fmt: skip


def _tables(content: Content) -> Iterator[Table]:
    for benchmark in content.summaries:
        if content.likelihoods.get(benchmark):
            yield likelihood_table(content, benchmark)


def _pictures(content: Content) -> Iterator[Picture]:
    for benchmark in content.likelihoods:
        found = divergences(content, benchmark)
        if any(one.value.value > charts.ROUNDING_NOISE for one in found.values()):
            yield Picture(
                f"divergence-{benchmark}",
                f"Divergence from after on {benchmark}, against alpha",
                "How far each checkpoint's next-token distribution is from after's, on answers "
                "that after gave: no sampling noise of the checkpoint, so it sees effects far too "
                "small to move an accuracy. The dashed line is before: what the whole of RL "
                "amounts to by the same measure. At alpha = 1, which is after, KL is 0: a log axis "
                "has no place for it.",
                _chart(content, found),
            )


def _numbers(content: Content) -> Iterator[Row]:
    for benchmark in content.likelihoods:
        for checkpoint_id, kl in divergences(content, benchmark).items():
            yield benchmark, checkpoint_id, "kl_from_after", kl.value


SECTION = Section(30, "Divergence from after", tables=_tables, pictures=_pictures, numbers=_numbers)
