"""Further checkpoints, such as the steps of an RL run, in their order between before and after."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from svdjobs.escape import label as named
from svdjobs.records import Interval
from svdjobs.reporting import drawing
from svdjobs.reporting.data import Content, Picture, Section
from svdjobs.reporting.sections.likelihood import divergences

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def _order(content: Content) -> list[str]:
    return ["before", *content.config.checkpoints, "after"]


def _sampled(content: Content, benchmark: str) -> dict[str, Interval]:
    by_id = content.summaries.get(benchmark, {})
    return {name: by_id[name].avg_at_n for name in _order(content) if name in by_id}


def _read(content: Content, benchmark: str) -> dict[str, Interval]:
    """The accuracy as read: after's plus the difference, with the interval of the difference."""
    after = content.summaries.get(benchmark, {}).get("after")
    readings = content.readings.get(benchmark, {})
    found = {}
    for name in _order(content):
        difference = readings[name].accuracy if name in readings else None
        if after and difference:
            level = after.avg_at_n.value
            ends = [
                None if end is None else level + end for end in (difference.low, difference.high)
            ]
            found[name] = Interval(value=level + difference.value, low=ends[0], high=ends[1])
    return found


def _figure(content: Content) -> Figure:
    """Two panels for each benchmark: accuracy, and KL from after, in the order of the steps."""
    benchmarks = list(content.summaries)
    width = max(6.5, 5.2 * len(benchmarks))
    figure, grid = drawing.new(len(benchmarks), 2, width=width, height=6.4)
    names = _order(content)
    for column, benchmark in enumerate(benchmarks):
        top, bottom = grid[0][column], grid[1][column]
        _points(top, names, _sampled(content, benchmark), 0, "sampled")
        _points(top, names, _read(content, benchmark), 1, "read from after's answers")
        top.set(title=named(benchmark), ylabel="accuracy, %")
        top.legend(loc="best")
        kl = {name: found.value for name, found in divergences(content, benchmark).items()}
        shown = [name for name in names if name in kl]
        bottom.plot(
            [names.index(name) for name in shown],
            drawing.positive([kl[name].value for name in shown]),
            color=drawing.COLOURS[2],
            marker="o",
        )
        bottom.set(yscale="log", ylabel="KL(after ‖ checkpoint), nats per token")
        for axes in (top, bottom):
            axes.set_xlim(-0.3, len(names) - 0.7)
            axes.set_xticks(range(len(names)), [named(n) for n in names], rotation=30, ha="right")
    return figure


def _points(
    axes: Axes, names: list[str], found: dict[str, Interval], number: int, label: str
) -> None:
    if found:
        axes.errorbar(
            [names.index(name) + 0.08 * number for name in found],
            [100 * interval.value for interval in found.values()],
            yerr=drawing.distances(list(found.values()), 100),
            color=drawing.COLOURS[number],
            marker=drawing.MARKERS[number],
            capsize=3,
            label=label,
        )


def _pictures(content: Content) -> Iterator[Picture]:
    if content.config.checkpoints and content.summaries:
        yield Picture(
            "checkpoints.png",
            "Accuracy and divergence, checkpoint by checkpoint",
            "The checkpoints in the order of the config. Bars of `sampled` are 95 % intervals of "
            "the accuracy, those of `read` of its difference from after.",
            lambda: _figure(content),
        )


SECTION = Section(22, pictures=_pictures)
