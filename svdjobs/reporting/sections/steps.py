"""Further checkpoints, such as the steps of an RL run, in their order between before and after."""

from __future__ import annotations

from collections.abc import Iterator

from svdjobs.records import Interval
from svdjobs.reporting import charts
from svdjobs.reporting.data import Content, Picture, Section
from svdjobs.reporting.sections.likelihood import divergences
from svdjobs.reporting.sections.reading import at_level


def _order(content: Content) -> list[str]:
    return ["before", *content.config.checkpoints, "after"]


def _sampled(content: Content, benchmark: str) -> dict[str, Interval]:
    by_id = content.summaries.get(benchmark, {})
    return {name: by_id[name].avg_at_n for name in _order(content) if name in by_id}


def _read(content: Content, benchmark: str) -> dict[str, Interval]:
    """The accuracy as read: after's plus the difference, with the interval of the difference."""
    after = content.summaries.get(benchmark, {}).get("after")
    readings = content.readings.get(benchmark, {})
    return {
        name: at_level(after.avg_at_n.value, difference)
        for name in _order(content)
        if after and name in readings and (difference := readings[name].accuracy)
    }


def _charts(content: Content, benchmark: str) -> Iterator[charts.Spec]:
    """Accuracy, and KL from after, in the order of the steps."""
    series = [
        charts.Series("sampled", "points", _sampled(content, benchmark)),
        charts.Series("read from after's answers", "line", _read(content, benchmark)),
    ]
    yield charts.curves(
        [one for one in series if one.values],
        x="checkpoint", y="accuracy, %", scale=100, places=_order(content),
    )  # fmt: skip
    if kl := {name: one.value for name, one in divergences(content, benchmark).items()}:
        shown = {name: kl[name] for name in _order(content) if name in kl}
        yield charts.curves(
            [charts.Series("KL from after", "line", shown)],
            x="checkpoint", y="KL(after ‖ checkpoint), nats per token", log=True,
            places=_order(content),
        )  # fmt: skip


def _pictures(content: Content) -> Iterator[Picture]:
    for benchmark in content.summaries if content.config.checkpoints else ():
        yield Picture(
            f"checkpoints-{benchmark}",
            f"Accuracy and divergence on {benchmark}, checkpoint by checkpoint",
            "The checkpoints in the order of the config. Bars of `sampled` are 95 % intervals of "
            "the accuracy, those of `read` of its difference from after.",
            charts.beside(_charts(content, benchmark), independent=("color", "y")),
        )


SECTION = Section(22, "Checkpoint by checkpoint", pictures=_pictures)
