"""What a report says, gathered from a run and ready to be drawn: numbers and words, no markup."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import get_args

from svdjobs.checkpoint.selection import coverage
from svdjobs.config import StorageDtype, SweepConfig, alpha_id
from svdjobs.records import BlendRecord, Interval, Outcome, Plan, RotationRow, Summary
from svdjobs.statistics import paired_difference, realised_total


@dataclass(frozen=True)
class Table:
    """A titled table of text cells; `name` is its CSV file."""

    name: str
    title: str
    caption: str
    header: list[str]
    rows: list[list[str]]


@dataclass(frozen=True)
class Content:
    """Everything a report is made of."""

    config: SweepConfig
    plan: Plan
    summaries: dict[str, dict[str, Summary]]
    """Benchmark → checkpoint id → summary."""
    blends: dict[float, list[BlendRecord]]
    rotations: list[RotationRow]
    spectra: dict[str, tuple[list[float], list[float]]]
    """Tensor name → singular values before and after, for the tensors that are drawn."""
    missing: list[str]
    """Outputs the config asks for that are not finished."""
    provenance: dict[str, str] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """Heading of the report."""
        return self.config.report.title or f"Singular-value sweep: {self.config.name}"


def headlines(content: Content) -> list[str]:
    """The answers in sentences, each with its interval."""
    lines = []
    for benchmark, by_id in content.summaries.items():
        before, after = by_id.get("before"), by_id.get("after")
        if before and after:
            gain = paired_difference(after.problem_scores, before.problem_scores)
            lines.append(
                f"{benchmark}: after scores {_percent(after.avg_at_n.value)}, before "
                f"{_percent(before.avg_at_n.value)}; RL changed accuracy by {points(gain)} points."
            )
        zero = by_id.get(alpha_id(0.0))
        if after and zero:
            change = paired_difference(zero.problem_scores, after.problem_scores)
            lines.append(
                f"{benchmark}: with before's singular values in after's bases (alpha = 0), "
                f"accuracy differs from after by {points(change)} points. {_verdict(change)}"
            )
    if content.rotations:
        lines.append(_rotation_headline(content.rotations))
    return lines


def _verdict(change: Interval) -> str:
    if change.low is None or change.high is None:
        return "Every problem scored the same." if change.value == 0 else ""
    if change.low <= 0 <= change.high:
        return "The interval contains 0: this sweep sees no effect of the singular values."
    return "The interval excludes 0: the singular values matter here."


def _rotation_headline(rows: list[RotationRow]) -> str:
    shift = _median([row.metrics.get("nss") for row in rows])
    null = _median([row.null.get("nss") or row.null.get("nss_formula") for row in rows])
    share = _median([row.metrics.get("touchable_share") for row in rows])
    if shift is None or null is None or share is None:
        return "Spectra: no update to measure."
    return (
        f"Spectra: the median matrix moved its singular values by {shift:.2g} of their norm (a "
        f"random update of the same size: {null:.2g}), and {100 * share:.2g} % of its update lies "
        f"along directions a singular-value blend can touch."
    )


def _median(values: list[float | None]) -> float | None:
    known = sorted(value for value in values if value is not None)
    return known[len(known) // 2] if known else None


def accuracy_table(content: Content, benchmark: str) -> Table:
    """avg@n of every checkpoint with its interval and its paired difference to after."""
    by_id = content.summaries[benchmark]
    after = by_id.get("after")
    rows = []
    for checkpoint_id, summary in by_id.items():
        versus = "-"
        if after and checkpoint_id != "after":
            versus = points(paired_difference(summary.problem_scores, after.problem_scores))
        rows.append(
            [
                checkpoint_id,
                _percent(summary.avg_at_n.value),
                interval_text(summary.avg_at_n),
                versus,
                str(summary.truncated),
                str(summary.outcomes[Outcome.NO_ANSWER] + summary.outcomes[Outcome.TRUNCATED]),
                str(_unscored(summary)),
            ]
        )
    some = next(iter(by_id.values()))
    return Table(
        f"accuracy-{benchmark}",
        f"Accuracy on {benchmark}",
        f"avg@{some.n} over {some.problems} problems, with 95 % t intervals clustered by problem. "
        f"`minus after` is the mean of per-problem differences, in percentage points: same "
        f"problems, same seeds. `cut off` completions hit max_tokens; `no box` had no answer; "
        f"`unscored` could not be parsed or ran out of time, and count as not correct.",
        ["checkpoint", f"avg@{some.n}", "95 % interval", "minus after", "cut off", "no box",
         "unscored"],
        rows,
    )  # fmt: skip


def _unscored(summary: Summary) -> int:
    kinds = (Outcome.PARSE_ERROR, Outcome.TIMEOUT, Outcome.GOLD_ERROR)
    return sum(summary.outcomes[kind] for kind in kinds)


def coverage_table(content: Content) -> Table:
    """How many tensors and parameters were blended, and why the others were not."""
    tensors: Counter[str] = Counter(tensor.skip or "blended" for tensor in content.plan.tensors)
    parameters = coverage(content.plan.tensors)
    total = sum(parameters.values()) or 1
    rows = [
        [kind, str(tensors[kind]), f"{elements:,}", f"{100 * elements / total:.2f} %"]
        for kind, elements in sorted(parameters.items(), key=lambda item: -item[1])
    ]
    return Table(
        "coverage",
        "Coverage",
        "Tensors that were blended, and the reason for each that was copied from after instead.",
        ["tensors", "count", "parameters", "share"],
        rows,
    )


def realised_table(content: Content) -> Table:
    """Realised fraction by alpha and dtype."""
    dtypes = get_args(StorageDtype)
    rows = []
    for alpha, records in content.blends.items():
        totals = realised_total(records)
        cells = ["-" if (total := totals[dtype]) is None else f"{total:.4f}" for dtype in dtypes]
        guarded = sum(record.guarded for record in records)
        signal = sum(record.signal_norm**2 for record in records) ** 0.5
        weight = sum(record.weight_norm**2 for record in records) ** 0.5
        relative = abs(1 - alpha) * signal / weight if weight else 0.0
        label = f"{alpha:g}" + ("" if 0 <= alpha <= 1 else " (extrapolation)")
        rows.append([label, f"{relative:.3g}", *cells, str(guarded)])
    return Table(
        "realised",
        "What rounding leaves of the blend",
        "Size of the blend, ‖(1−alpha)·D‖/‖W‖, and the share of it that survives being stored in "
        "each dtype: 1 is all of it, 0 means that the checkpoint is after again. This sweep stores "
        f"{content.config.blend.storage_dtype}. `guarded` directions have no after singular value "
        "to blend and are left alone.",
        ["alpha", "blend size", *dtypes, "guarded"],
        rows,
    )


def rotation_table(content: Content) -> Table:
    """Rotation metrics by module family: medians over layers."""
    families: dict[str, list[RotationRow]] = {}
    for row in content.rotations:
        families.setdefault(row.family, []).append(row)
    rows = []
    for family, members in families.items():

        def median(key: str, null: bool = False, members: list[RotationRow] = members) -> str:
            source = [(m.null if null else m.metrics).get(key) for m in members]
            value = _median(source)
            return "-" if value is None else f"{value:.2g}"

        m, n = members[0].shape
        rows.append(
            [
                family,
                f"{m}×{n}",
                median("update_norm"),
                f"{median('nss')} ({median('nss', True)})",
                f"{median('touchable_share')} ({median('touchable_share', True)})",
                f"{median('angle_rms_u')} ({median('angle_rms_u', True)})",
                f"{median('angle_rms_vh')} ({median('angle_rms_vh', True)})",
            ]
        )
    return Table(
        "rotations",
        "Rotation of the singular bases, base → rl2",
        "Medians over layers; in brackets the same for random updates of the same norm. "
        "`update` is ‖ΔW‖/‖W‖; NSS is ‖Δs‖/‖s‖; φ is the share of ‖ΔW‖² a singular-value blend can "
        "touch; angles are root-mean-square principal angles of the leading subspaces, in radians.",
        ["module", "shape", "update", "NSS", "φ", "angle u", "angle vh"],
        rows,
    )


def tables(content: Content) -> list[Table]:
    """All tables of a report, in reading order."""
    found = [accuracy_table(content, benchmark) for benchmark in content.summaries]
    if content.blends:
        found.append(realised_table(content))
    found.append(coverage_table(content))
    if content.rotations:
        found.append(rotation_table(content))
    return found


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def interval_text(interval: Interval) -> str:
    """`[71.2, 77.9]` in percent, or a dash where there is no interval."""
    if interval.low is None or interval.high is None:
        return "-"
    return f"[{100 * interval.low:.1f}, {100 * interval.high:.1f}]"


def points(difference: Interval) -> str:
    """`+1.20 [-0.31, +2.71]` percentage points; a difference of exactly 0 everywhere says so."""
    value = 100 * difference.value
    if difference.low is None or difference.high is None:
        return "0 (identical)" if difference.value == 0 else f"{value:+.2f}"
    return f"{value:+.2f} [{100 * difference.low:+.2f}, {100 * difference.high:+.2f}]"
