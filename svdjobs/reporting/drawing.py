"""The palette, style and axes that the figures of a report share, and their export to bytes."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from svdjobs.records import Interval
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
# An MSE below this is zero up to float64 rounding; a reader must not take it for a value.
ROUNDING_NOISE = 1e-24


def new(columns: int, rows: int = 1, *, width: float, height: float) -> tuple[Figure, Any]:
    """A new figure and its array of axes, rows × columns."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    matplotlib.rcParams.update(STYLE)
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def alpha_axis(content: Content) -> str:
    """The label of the alpha axis, which says what its ends are."""
    words = f"0: {content.config.values_of}'s singular values, 1: {content.config.bases_of}'s"
    return f"alpha   ({words})"


def span(axes: Axes, alphas: Sequence[float]) -> tuple[float, float]:
    """Extend the alpha axis over 0, 1 and all alphas; return its ends."""
    low, high = min([0.0, *alphas]), max([1.0, *alphas])
    axes.set_xlim(low - 0.04 * (high - low), high + 0.04 * (high - low))
    return axes.get_xlim()


def distances(points: Sequence[Interval], scale: float = 1) -> list[list[float]]:
    """The distances from each value to the ends of its interval, or 0 without an interval."""
    down = [scale * (p.value - p.low) if p.low is not None else 0.0 for p in points]
    up = [scale * (p.high - p.value) if p.high is not None else 0.0 for p in points]
    return [down, up]


def positive(values: Sequence[float | None]) -> list[float]:
    """The values for a log axis; a missing value or rounding noise becomes NaN, which is a gap."""
    return [v if v is not None and v > ROUNDING_NOISE else float("nan") for v in values]


def png(figure: Figure) -> bytes:
    """The figure as PNG; equal figures give equal bytes."""
    return _saved(figure, "png")


def svg(figure: Figure) -> str:
    """The figure as an SVG element for HTML."""
    text = _saved(figure, "svg").decode()
    return text[text.index("<svg") :]


def _saved(figure: Figure, kind: str) -> bytes:
    buffer = io.BytesIO()
    metadata = {"Date": None} if kind == "svg" else None
    figure.savefig(buffer, format=kind, metadata=metadata)
    # The layout is final now. Keep it for the next format: any layout engine, also "none", makes
    # matplotlib draw the figure once more before saving it.
    figure.set_layout_engine(None)
    return buffer.getvalue()
