"""Ratios of sums: totals over clusters of unequal size, divided by totals."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import get_args

from svdjobs.config import StorageDtype
from svdjobs.records import BlendRecord, CastRecord, Interval, RoundingRecord
from svdjobs.statistics.intervals import ROUNDING, t_interval

# Rounding noise in the difference to after, as a share of that difference, up to which a 16-bit
# dtype may be evaluated in. A KL divergence is quadratic in the change of the weights, and noise
# that is independent of it adds its own square: a KL from after becomes 1 + error² times as large,
# 9 % at 0.3. Measured on a small model moved at random: 12 % at 0.37, 1.8 times at 0.97, 15 times
# at 4.0; on the demo, which is more sensitive to its blend than to noise, 5 % at 0.78.
LARGEST_CAST_ERROR = 0.3


def mean_per_token(per_trace: Sequence[Sequence[float]]) -> Interval:
    """Mean over all tokens of all traces, with its t interval clustered by trace.

    For teacher-forced comparisons on a fixed set of traces: negated log-probabilities give the NLL
    per token, log p_after − log p_alpha or exact per-token divergences give KL(after ‖ alpha) per
    token; differences of two checkpoints' NLL, token by token, give the paired difference.

    The mean is Σy/Σx with y a trace's sum and x its length, both random, so the standard error is
    that of a ratio by linearisation: √(Σ(y − R·x)²/(T − 1)/T) over the mean length (Cochran 1977,
    "Sampling Techniques", 3rd edition, chapter 6). Deviation: the t quantile with T − 1 degrees of
    freedom stands for Cochran's normal one. Both this and the estimate's bias of order 1/T want
    tens of traces. Traces of one problem are not independent: join them into one list first.

    Returns no interval for fewer than two traces or where all traces have the same mean.

    Raises:
        ValueError: no traces, a trace without tokens, or a value that is not finite.
    """
    if not per_trace:
        raise ValueError("no traces to average")
    for trace, values in enumerate(per_trace):
        if not len(values):
            raise ValueError(f"trace {trace} has no tokens")
        bad = next((token for token, value in enumerate(values) if not math.isfinite(value)), None)
        if bad is not None:
            raise ValueError(f"trace {trace}, token {bad}: {values[bad]} is not a finite number")
    traces = len(per_trace)
    sums, lengths = [math.fsum(values) for values in per_trace], [len(v) for v in per_trace]
    mean = math.fsum(sums) / sum(lengths)
    residuals = [y - mean * x for y, x in zip(sums, lengths, strict=True)]
    if traces < 2 or max(map(abs, residuals)) <= ROUNDING * max(map(abs, sums)):
        return Interval(value=mean)
    variance = math.fsum(residual**2 for residual in residuals) / (traces - 1)
    return t_interval(mean, math.sqrt(variance * traces) / sum(lengths), traces)


def realised_total(records: Sequence[BlendRecord]) -> dict[str, float | None]:
    """Realised fraction over all tensors by dtype: sum of projections over sum of signals.

    None where there is no signal, as at alpha = 1.
    """
    return {dtype: total.fraction for dtype, total in _cast_totals(records).items()}


def cast_error_total(records: Sequence[BlendRecord]) -> dict[str, float | None]:
    """Error of the difference to after over all tensors by dtype: root of summed squares over root
    of summed squares. None where there is no signal, as at alpha = 1.
    """
    return {dtype: total.relative_error for dtype, total in _cast_totals(records).items()}


def spectrum_shift(records: Sequence[BlendRecord]) -> float:
    """‖Δs‖/‖s‖ over all blended matrices."""
    weights = math.fsum(record.weight_norm**2 for record in records)
    signals = math.fsum(record.signal_norm**2 for record in records)
    return math.sqrt(signals / weights) if weights else 0.0


def rounding_shift(
    matrices: Iterable[tuple[str, tuple[int, ...], float]], rounding: Mapping[str, RoundingRecord]
) -> float:
    """The same that storing in 16 bits alone is expected to make, of matrices that are given by
    family, shape and ‖W‖ (kernels/rounding.py has the formula)."""
    total = shifted = 0.0
    for family, shape, norm in matrices:
        total += norm**2
        if family in rounding:
            shifted += (rounding[family].noise * norm) ** 2 / max(shape)
    return math.sqrt(shifted / total) if total else 0.0


def _cast_totals(records: Sequence[BlendRecord]) -> dict[str, CastRecord]:
    """All tensors as one long one, by dtype."""
    return {
        dtype: CastRecord(
            projection=math.fsum(record.casts[dtype].projection for record in records),
            signal=math.fsum(record.casts[dtype].signal for record in records),
            error=math.fsum(record.casts[dtype].error for record in records),
            change=math.fsum(record.casts[dtype].change for record in records),
        )
        for dtype in get_args(StorageDtype)
    }
