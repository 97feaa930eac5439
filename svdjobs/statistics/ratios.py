"""Estimate ratios of sums over clusters of unequal size, and sums over all matrices of a blend."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import get_args

from svdjobs.config import StorageDtype
from svdjobs.records import BlendRecord, CastRecord, Interval, RoundingRecord
from svdjobs.statistics.intervals import ROUNDING, t_interval

# The largest rounding noise in the difference to `after`, relative to that difference, with which a
# blend may be evaluated in a 16-bit dtype. A KL divergence is quadratic in the change of the
# weights, and independent noise adds its own square. So a KL from `after` grows by a factor of
# 1 + error², by 9 % at 0.3. Measured on a small model with a random change: 12 % at 0.37, a factor
# of 1.8 at 0.97 and 15 at 4.0. On the demo, which is more sensitive to its blend than to noise: 5 %
# at 0.78.
LARGEST_CAST_ERROR = 0.3


def mean_per_token(per_trace: Sequence[Sequence[float]]) -> Interval:
    """Return the mean over all tokens of all traces, with its t interval clustered by trace.

    It serves teacher-forced comparisons on a fixed set of traces. Negated log-probabilities give
    the NLL per token. log p_after − log p_alpha, or exact divergences per token, give
    KL(after ‖ alpha) per token. Differences of two checkpoints' NLL, token by token, give the
    paired difference.

    The mean is Σy/Σx, where y is a trace's sum and x its length. Both are random, so the standard
    error is that of a ratio by linearisation: √(Σ(y − R·x)²/(T − 1)/T) over the mean length
    (Cochran 1977, "Sampling Techniques", 3rd edition, chapter 6). Deviation: the t quantile with
    T − 1 degrees of freedom replaces Cochran's normal one. This, and the estimate's bias of order
    1/T, require tens of traces. Traces of one problem are not independent: join them into one list
    first.

    There is no interval for fewer than two traces or if all traces have the same mean.

    Raises:
        ValueError: there are no traces, a trace has no tokens, or a value is not finite.
    """
    if not per_trace:
        raise ValueError("no traces to average")
    for trace, values in enumerate(per_trace):
        if not len(values):
            raise ValueError(f"trace {trace} has no tokens")
        bad = next((token for token, value in enumerate(values) if not math.isfinite(value)), None)
        if bad is not None:
            raise ValueError(f"trace {trace}, token {bad}: {values[bad]} is not a finite number")
    sums, lengths = [math.fsum(values) for values in per_trace], [len(v) for v in per_trace]
    return ratio_interval(sums, lengths)


def ratio_interval(sums: Sequence[float], lengths: Sequence[int]) -> Interval:
    """Return Σ sums/Σ lengths with the interval of `mean_per_token`, for the sum and the number of
    tokens of each trace."""
    traces = len(sums)
    mean = math.fsum(sums) / sum(lengths)
    residuals = [y - mean * x for y, x in zip(sums, lengths, strict=True)]
    if traces < 2 or max(map(abs, residuals)) <= ROUNDING * max(map(abs, sums)):
        return Interval(value=mean)
    variance = math.fsum(residual**2 for residual in residuals) / (traces - 1)
    return t_interval(mean, math.sqrt(variance * traces) / sum(lengths), traces - 1)


def divergence_interval(
    sharper: Sequence[float], ratios: Sequence[float], lengths: Sequence[int]
) -> tuple[Interval, bool]:
    """KL per token from two unbiased estimates, and whether the second one was taken.

    `sharper` sums e^d − 1 − d of the tokens of each problem, `ratios` sums −d, for d = log p_own −
    log p_after (Schulman 2020, "Approximating KL Divergence", estimators k3 and k1,
    http://joschu.net/blog/kl-approx.html). The expectation of e^d − 1 is 0. Its mean is below 0
    where the checkpoint finds some tokens so much likelier than after does that few or none of them
    were drawn: then the sharper estimate lacks the terms that count most, and the mean log ratio,
    which hardly depends on them, is taken.
    """
    parted = ratio_interval([s - r for s, r in zip(sharper, ratios, strict=True)], lengths)
    apart = (
        parted.low is not None and parted.high is not None and not parted.low <= 0 <= parted.high
    )
    return ratio_interval(ratios if apart else sharper, lengths), apart


def realised_total(records: Sequence[BlendRecord]) -> dict[str, float | None]:
    """Return the realised fraction over all tensors, by dtype: sum of projections / sum of signals.

    None if there is no signal, as at alpha = 1.
    """
    return {dtype: total.fraction for dtype, total in _cast_totals(records).items()}


def cast_error_total(records: Sequence[BlendRecord]) -> dict[str, float | None]:
    """Return the error of the difference to `after` over all tensors, by dtype.

    It is a ratio of norms over all tensors: of the error, and of the intended difference. None if
    there is no signal, as at alpha = 1.
    """
    return {dtype: total.relative_error for dtype, total in _cast_totals(records).items()}


def spectrum_shift(records: Sequence[BlendRecord]) -> float:
    """Return ‖Δs‖/‖s‖ over all blended matrices."""
    weights = math.fsum(record.weight_norm**2 for record in records)
    signals = math.fsum(record.signal_norm**2 for record in records)
    return math.sqrt(signals / weights) if weights else 0.0


def rounding_shift(
    matrices: Iterable[tuple[str, tuple[int, ...], float]], rounding: Mapping[str, RoundingRecord]
) -> float:
    """Return the ‖Δs‖/‖s‖ that storing in 16 bits alone is expected to cause.

    `matrices` gives the family, shape and ‖W‖ of each matrix. The formula is in
    kernels/rounding.py.
    """
    total = shifted = 0.0
    for family, shape, norm in matrices:
        total += norm**2
        if family in rounding:
            shifted += (rounding[family].noise * norm) ** 2 / max(shape)
    return math.sqrt(shifted / total) if total else 0.0


def _cast_totals(records: Sequence[BlendRecord]) -> dict[str, CastRecord]:
    """Return the sums of all tensors' cast records, by dtype."""
    return {
        dtype: CastRecord(
            projection=math.fsum(record.casts[dtype].projection for record in records),
            signal=math.fsum(record.casts[dtype].signal for record in records),
            error=math.fsum(record.casts[dtype].error for record in records),
            change=math.fsum(record.casts[dtype].change for record in records),
        )
        for dtype in get_args(StorageDtype)
    }
