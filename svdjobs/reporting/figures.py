"""The figures; the only module that imports matplotlib. Each function returns a Figure."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from svdjobs.config import alpha_id
from svdjobs.escape import label as named
from svdjobs.records import Interval, RotationRow
from svdjobs.reporting import accuracy as accuracy_of
from svdjobs.reporting.data import Content

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe & Ito's palette, distinguishable with any colour vision (https://jfly.uni-koeln.de/color/).
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#7F7F7F")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
STYLE: Any = {
    "font.family": "DejaVu Sans", "font.size": 10, "axes.spines.top": False,
    "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.25, "legend.frameon": False,
    "svg.hashsalt": "svdjobs", "svg.fonttype": "path", "figure.dpi": 100, "savefig.dpi": 150,
}  # fmt: skip
# Under this an MSE is what float64 leaves of an exact zero; drawing it would invite reading it.
ROUNDING_NOISE = 1e-24


def _new(columns: int, rows: int = 1, *, width: float, height: float) -> tuple[Figure, Any]:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    matplotlib.rcParams.update(STYLE)
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def accuracy(content: Content) -> Figure:
    """Accuracy against alpha with intervals, one panel per benchmark, both baselines drawn."""
    count = len(content.summaries)
    figure, grid = _new(count, width=max(6.5, 5.2 * count), height=4.2)
    for axes, (benchmark, by_id) in zip(grid[0], content.summaries.items(), strict=True):
        alphas = [alpha for alpha in content.config.alphas if alpha_id(alpha) in by_id]
        points = [by_id[alpha_id(alpha)].avg_at_n for alpha in alphas]
        span = _span(axes, alphas)
        for name, colour in (("before", COLOURS[1]), ("after", COLOURS[2])):
            if name in by_id:
                _baseline(axes, by_id[name].avg_at_n, name, colour, span)
        if points:
            axes.errorbar(
                alphas, [100 * p.value for p in points], yerr=_distances(points, 100),
                color=COLOURS[0], marker="o", capsize=3, linewidth=1.5, zorder=3,
                label="blend at alpha",
            )  # fmt: skip
        some = next(iter(by_id.values()))
        axes.set(
            title=named(benchmark),
            xlabel=_alpha_axis(content),
            ylabel=f"avg@{some.n}, %",
        )
        axes.legend(loc="best")
    return figure


def divergence(content: Content) -> Figure:
    """KL(after ‖ blend) per token against alpha, one panel per benchmark, before as a baseline."""
    found = {b: kl for b in content.likelihoods if (kl := accuracy_of.divergences(content, b))}
    figure, grid = _new(len(found), width=max(6.5, 5.2 * len(found)), height=4.2)
    for axes, (benchmark, by_id) in zip(grid[0], found.items(), strict=True):
        # Where alpha = 1 is after itself: 0 has no place on a log scale.
        alphas = [
            a
            for a in content.config.alphas
            if alpha_id(a) in by_id and not (a == 1 and content.config.bases_of == "after")
        ]
        points = [by_id[alpha_id(alpha)] for alpha in alphas]
        axes.errorbar(
            alphas, _positive([p.value for p in points]), yerr=_distances(points),
            color=COLOURS[0], marker="o", capsize=3, linewidth=1.5, label="blend at alpha",
        )  # fmt: skip
        if "before" in by_id:
            axes.axhline(by_id["before"].value, color=COLOURS[1], linestyle="--", label="before")
        _span(axes, alphas)
        axes.set(
            title=named(benchmark), yscale="log", ylabel="KL(after ‖ checkpoint), nats per token",
            xlabel=_alpha_axis(content),
        )  # fmt: skip
        axes.legend(loc="best")
    return figure


def _alpha_axis(content: Content) -> str:
    """What the ends of the alpha axis are."""
    words = f"0: {content.config.values_of}'s singular values, 1: {content.config.bases_of}'s"
    return f"alpha   ({words})"


def _span(axes: Axes, alphas: Sequence[float]) -> tuple[float, float]:
    low, high = min([0.0, *alphas]), max([1.0, *alphas])
    axes.set_xlim(low - 0.04 * (high - low), high + 0.04 * (high - low))
    return axes.get_xlim()


def _baseline(
    axes: Axes, interval: Interval, name: str, colour: str, span: tuple[float, float]
) -> None:
    axes.axhline(100 * interval.value, color=colour, linestyle="--", linewidth=1.2, label=name)
    if interval.low is not None and interval.high is not None:
        axes.fill_between(
            span, 100 * interval.low, 100 * interval.high, color=colour, alpha=0.12, linewidth=0
        )


def _distances(points: Sequence[Interval], scale: float = 1) -> list[list[float]]:
    """Distances down and up from each value, 0 where there is no interval."""
    down = [scale * (p.value - p.low) if p.low is not None else 0.0 for p in points]
    up = [scale * (p.high - p.value) if p.high is not None else 0.0 for p in points]
    return [down, up]


def rotation_mse(content: Content) -> Figure:
    """MSE(R4, R3) by layer: U and Vh panels, full and top-k rows, one curve per module family."""
    figure, grid = _new(2, 2, width=11, height=7.5)
    titles = {"u": "U", "vh": "Vh"}
    for row, (key, form) in enumerate((("mse", "all directions"), ("mse_top", "leading k"))):
        for column, side in enumerate(("u", "vh")):
            axes = grid[row][column]
            trivial = _mse_panel(axes, content.rotations, f"{key}_{side}", side, full=row == 0)
            axes.set(
                title=f"{titles[side]}, {form}", xlabel="layer", ylabel="MSE(R1·R2, R3)",
                yscale="log",
            )  # fmt: skip
            axes.xaxis.get_major_locator().set_params(integer=True)
            if trivial:
                axes.set_title(f"{titles[side]}, {form}\n", fontsize=12)
                axes.text(
                    0.5, 1.02, f"not drawn, R1·R2 = R3 by algebra: {named(_shorter(trivial))}",
                    transform=axes.transAxes, fontsize=7.5, color="#666666", ha="center",
                    va="bottom",
                )  # fmt: skip
    handles = _legend_handles(content.rotations)
    figure.legend(handles=handles, loc="outside lower center", ncols=min(5, len(handles)))
    return figure


def _shorter(families: Sequence[str]) -> str:
    """`self_attn.q_proj`, `self_attn.k_proj` as `q, k`: a line of modules in little room."""
    return ", ".join(family.rpartition(".")[2].removesuffix("_proj") for family in families)


def _mse_panel(
    axes: Axes, rows: Sequence[RotationRow], key: str, side: str, *, full: bool
) -> list[str]:
    """Draw one panel; returns the families whose curve is identically zero there."""
    trivial = []
    for colour, marker, family, members in _families(rows):
        if full and members[0].trivial_side in (side, "both"):
            trivial.append(family)
            continue
        layers = [member.layer or 0 for member in members]
        axes.plot(layers, _positive([m.metrics.get(key) for m in members]), color=colour,
                  marker=marker, markersize=4, linewidth=1.4)  # fmt: skip
        axes.plot(layers, _positive([m.null.get(key) for m in members]), color=colour,
                  linestyle="--", linewidth=1.0)  # fmt: skip
        if full:
            haar = [member.null.get("haar_mse") for member in members]
            axes.plot(layers, _positive(haar), color=colour, linestyle=":", linewidth=1.0)
    return trivial


def _legend_handles(rows: Sequence[RotationRow]) -> list[Any]:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=colour, marker=marker, markersize=4, label=named(family))
        for colour, marker, family, _ in _families(rows)
    ]
    return [
        *handles,
        Line2D([], [], color="#444444", linestyle="--", label="random updates of the same norm"),
        Line2D([], [], color="#444444", linestyle=":", label="unrelated bases (Haar)"),
    ]


def _families(rows: Sequence[RotationRow]) -> list[tuple[str, str, str, list[RotationRow]]]:
    """(colour, marker, family, its rows by layer); small multiples stay readable up to eight."""
    families: dict[str, list[RotationRow]] = {}
    for row in rows:
        families.setdefault(row.family, []).append(row)
    return [
        (COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)], family,
         sorted(members, key=lambda row: row.layer or 0))
        for i, (family, members) in enumerate(families.items())
    ]  # fmt: skip


def _positive(values: Sequence[float | None]) -> list[float]:
    """Values for a log axis; what is missing or rounding noise becomes a gap."""
    return [v if v is not None and v > ROUNDING_NOISE else float("nan") for v in values]


def spectrum(content: Content) -> Figure:
    """Left: relative change of each singular value. Right: spectral shift by layer, with null."""
    figure, grid = _new(2, width=11, height=5.0)
    left, right = grid[0]
    for i, (name, (before, after)) in enumerate(content.spectra.items()):
        share = [(j + 0.5) / len(after) for j in range(len(after))]
        change = [
            abs(b - a) / a if a > 0 else float("nan") for b, a in zip(before, after, strict=True)
        ]
        left.plot(share, _positive(change), color=COLOURS[i % len(COLOURS)], linewidth=1,
                  label=named(name))  # fmt: skip
    left.set(
        title="Change of each singular value", xlabel="index / min(m, n), largest first",
        ylabel="|s_before − s_after| / s_after", yscale="log",
    )  # fmt: skip
    if content.spectra and not content.rotations:
        left.legend(fontsize=7.5)
    for colour, marker, family, members in _families(content.rotations):
        layers = [member.layer or 0 for member in members]
        right.plot(layers, _positive([m.metrics.get("nss") for m in members]), color=colour,
                   marker=marker, markersize=4, linewidth=1.4, label=named(family))  # fmt: skip
        right.plot(layers, _positive([m.null.get("nss_formula") for m in members]), color=colour,
                   linestyle="--", linewidth=1.0)  # fmt: skip
    right.set(
        title="Spectral shift by layer (dashed: random update)", xlabel="layer",
        ylabel="NSS = ‖Δs‖ / ‖s_base‖", yscale="log",
    )  # fmt: skip
    right.xaxis.get_major_locator().set_params(integer=True)
    if content.rotations:
        handles = right.get_legend_handles_labels()[0]
        figure.legend(handles=handles, loc="outside lower center", ncols=min(4, len(handles)))
    return figure


def png(figure: Figure) -> bytes:
    """The figure as PNG; equal figures give equal bytes."""
    return _saved(figure, "png")


def svg(figure: Figure) -> str:
    """The figure as an SVG element to be put into HTML."""
    text = _saved(figure, "svg").decode()
    return text[text.index("<svg") :]


def _saved(figure: Figure, kind: str) -> bytes:
    buffer = io.BytesIO()
    metadata = {"Date": None} if kind == "svg" else None
    figure.savefig(buffer, format=kind, metadata=metadata)
    # What fits is known now: to look again for the next format takes as long as drawing it, and any
    # layout engine, "none" also, has matplotlib draw once before it draws.
    figure.set_layout_engine(None)
    return buffer.getvalue()
