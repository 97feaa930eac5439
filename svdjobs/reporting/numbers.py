"""Every number of a report in one CSV that programs read: one row each, every cell a float."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator

from svdjobs import escape
from svdjobs.config import alpha_id
from svdjobs.records import Interval
from svdjobs.reporting import accuracy
from svdjobs.reporting.data import Content
from svdjobs.statistics import (
    cast_error_total,
    paired_difference,
    realised_total,
    spectrum_shift,
)

HEADER = ("benchmark", "checkpoint", "quantity", "value", "low", "high", "standard_error")
Row = tuple[str, str, str, Interval]


def numbers_csv(content: Content) -> bytes:
    """The rows as CSV, shares as shares (0.5, not 50 %); what does not exist is `nan`."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(HEADER)
    for *names, found in rows(content):
        cells = (found.value, found.low, found.high, found.standard_error)
        writer.writerow([*map(escape.csv_cell, names), *map(_float, cells)])
    return buffer.getvalue().encode()


def rows(content: Content) -> Iterator[Row]:
    """Benchmark (or `-`), checkpoint, quantity, and its number."""
    for benchmark in content.summaries:
        yield from _answers(content, benchmark)
    for benchmark in content.likelihoods:
        for checkpoint_id, kl in accuracy.divergences(content, benchmark).items():
            yield benchmark, checkpoint_id, "kl_from_after", kl
    yield from _blends(content)


def _answers(content: Content, benchmark: str) -> Iterator[Row]:
    by_id = content.summaries[benchmark]
    unblended = by_id.get(content.config.bases_of)
    for checkpoint_id, summary in by_id.items():
        found = {"avg": summary.avg_at_n, "avg_in_a_box": summary.avg_at_n_boxed,
                 "maj": summary.maj_at_n}  # fmt: skip
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


def _blends(content: Content) -> Iterator[Row]:
    for alpha, records in content.blends.items():
        size = abs(1 - alpha) * spectrum_shift(records)
        yield "-", alpha_id(alpha), "blend_size", Interval(value=size)
        for dtype, fraction in realised_total(records).items():
            if fraction is not None:
                yield "-", alpha_id(alpha), f"realised_in_{dtype}", Interval(value=fraction)
        for dtype, error in cast_error_total(records).items():
            if error is not None:
                yield "-", alpha_id(alpha), f"cast_error_in_{dtype}", Interval(value=error)
    if (alone := content.rounding_alone()) is not None:
        yield "-", "-", "spectrum_shift_of_rounding_alone", Interval(value=alone)


def _float(value: float | None) -> str:
    return repr(float(math.nan if value is None else value))
