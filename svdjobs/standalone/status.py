"""Says what a run has of the outputs that its config wants, from the bytes in its store alone."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any, Literal, NamedTuple

from svdjobs import pipeline
from svdjobs.config import SweepConfig
from svdjobs.errors import ConfigError, SvdjobsError
from svdjobs.evaluation import wanted
from svdjobs.evaluation.benchmarks.of_run import benchmark_of
from svdjobs.progress import duration
from svdjobs.records import Manifest
from svdjobs.reporting.data import Table
from svdjobs.reporting.text import plain_table
from svdjobs.runs import layout, shards, timings
from svdjobs.runs.outputs import RUN_CONFIG, content_print, readable_manifest
from svdjobs.runs.presence import Presence, presence, presences
from svdjobs.runs.stored_config import stored_config
from svdjobs.stages import gate, report
from svdjobs.storage.local import LocalStore
from svdjobs.storage.store import Store

State = Literal["finished", "out of date", "not graded", "begun", "missing"]
_SHOWN = 20
"""Unfinished outputs to print; --json has all."""


class Unit(NamedTuple):
    """An output that the config wants."""

    prefix: str
    state: State
    written: datetime | None
    """When the last file of it was written."""
    seconds: float | None = None
    """What an engine has worked on it, as the logs say; None if they say nothing."""

    @property
    def kind(self) -> tuple[str, str]:
        """What is done and the benchmark: evaluations of one kind take about as long."""
        done, *_, last = self.prefix.split("/")
        return done, last


class StageStatus(NamedTuple):
    """A stage and its outputs."""

    name: str
    units: list[Unit]

    @property
    def finished(self) -> int:
        """How many outputs are finished."""
        return sum(unit.state == "finished" for unit in self.units)

    @property
    def written(self) -> datetime | None:
        """When the last file of the stage was written."""
        return max((unit.written for unit in self.units if unit.written), default=None)


class Left(NamedTuple):
    """Engine time that is left."""

    seconds: float
    evaluations: int
    """Evaluations that the time is for."""
    unknown: int
    """Other ones: none of their kind is finished, so their time is not known."""


class RunStatus(NamedTuple):
    """A run: its stages in the order of a sweep."""

    url: str
    config: SweepConfig
    stages: list[StageStatus]
    seconds: dict[str, float]
    """How long engines have drawn (`draw`) and read (`read`), as the run's logs say; empty if they
    say nothing. No other stage notes its time, and starting an engine is not counted."""
    notes: list[str]
    next_command: str | None
    """None if nothing is left to do."""

    @property
    def left(self) -> Left:
        """The engine time of what is not finished, by what finished outputs of its kind took."""
        units = [u for s in self.stages if s.name == wanted.EVALUATE for u in s.units]
        took: dict[tuple[str, str], list[float]] = {}
        for unit in units:
            if unit.state == "finished" and unit.seconds is not None:
                took.setdefault(unit.kind, []).append(unit.seconds)
        missing = [took.get(unit.kind) for unit in units if unit.state != "finished"]
        known = [math.fsum(own) / len(own) for own in missing if own]
        return Left(math.fsum(known), len(known), len(missing) - len(known))

    @property
    def written(self) -> datetime | None:
        """When the last output was written."""
        return max((stage.written for stage in self.stages if stage.written), default=None)


def run(store: Store) -> RunStatus:
    """Look at the run in a store. Change nothing.

    Raises:
        ConfigError: the store holds no run, or that of a single checkpoint.
    """
    config = stored_config(store)
    if config.before == config.after:
        raise ConfigError(
            f"{store.url} holds no sweep but the evaluation of {config.after} alone. `svdjobs "
            f"evaluate --model` made it, and resumes it."
        )
    digests, notes = _digests(config, store)
    found = wanted.by_stage(config, store, digests)
    found["report"] = {report.PREFIX: _report(config, store, found)}
    if config.gate:
        found["gate"] = {gate.PREFIX: _verdict(config, store, found)}
    seen = presences(store, [prefix for by_prefix in found.values() for prefix in by_prefix])
    noted = timings.load(store)
    stages = []
    for stage in pipeline.STAGES:
        units = [
            Unit(
                prefix, *_state(store, config, prefix, made, seen[prefix]), _seconds(noted, prefix)
            )
            for prefix, made in found.get(stage.name, {}).items()
        ]
        if units:
            stages.append(StageStatus(stage.name, units))
    seconds: dict[str, float] = {}
    for timing in noted:
        seconds[timing.what] = seconds.get(timing.what, 0.0) + timing.seconds
    return RunStatus(store.url, config, stages, seconds, notes, _next_command(store, stages))


def _digests(config: SweepConfig, store: Store) -> tuple[dict[str, str], list[str]]:
    """The sha256 of every benchmark that can be read from here, and notes on the others."""
    digests, notes = {}, []
    for benchmark in config.benchmarks:
        try:
            digests[benchmark.name] = benchmark_of(benchmark, store).sha256
        except SvdjobsError as error:
            notes.append(
                f"{benchmark.name}: whether the completions answer its present problems is not "
                f"checked, since it cannot be read from here: {error}"
            )
    return digests, notes


def _report(config: SweepConfig, store: Store, found: dict[str, wanted.Found]) -> Manifest | None:
    """Manifest of the report; None if it is missing, or older than an output that it shows."""
    manifest = readable_manifest(store, report.PREFIX)
    inputs = {prefix: made for by_prefix in found.values() for prefix, made in by_prefix.items()}
    current = manifest and manifest.inputs == wanted.inputs_of_report(config, store, inputs)
    return manifest if current else None


def _verdict(config: SweepConfig, store: Store, found: dict[str, wanted.Found]) -> Manifest | None:
    """Manifest of the gate's verdict; None if it is missing, or of other grades than there are."""
    manifest, section = readable_manifest(store, gate.PREFIX), config.gate
    if manifest is None or section is None:
        return None
    for benchmark in config.benchmarks:
        prefix = layout.results_prefix(section.checkpoint, benchmark.name)
        grades = found[wanted.EVALUATE].get(prefix)
        judged = manifest.inputs.get(f"judged/{benchmark.name}")
        if grades is None or judged != content_print(grades):
            return None
    return manifest


def _state(
    store: Store, config: SweepConfig, prefix: str, manifest: Manifest | None, seen: Presence
) -> tuple[State, datetime | None]:
    """The state of an output, and when it was last written; `manifest` is None unless current."""
    kind, *names = prefix.split("/")
    if manifest is not None:
        return "finished", seen.written
    if not seen.finished:
        pods = [
            presence(store, layout.shard_prefix(names[0], shard.id))
            for shard in (shards.evaluate_shards(config) if kind == "results" else ())
            if shard.of > 1 and shard.name == names[1]
        ]
        written = max((one.written for one in (seen, *pods) if one.written), default=None)
        return "begun" if written else "missing", written
    if kind == "results" and not presence(store, layout.grades_prefix(names[0], names[1])).finished:
        return "not graded", seen.written
    return "out of date", seen.written


def _seconds(noted: Sequence[timings.Timing], prefix: str) -> float | None:
    """What engines have worked for an evaluation, to draw and to read."""
    own = [t.seconds for t in noted if prefix.split("/")[1:] == [t.checkpoint, t.benchmark]]
    return math.fsum(own) if own else None


def _next_command(store: Store, stages: Sequence[StageStatus]) -> str | None:
    """The command that makes what is missing; None if nothing is."""
    left = [stage.name for stage in stages if stage.finished < len(stage.units)]
    if not left:
        return None
    command = left[0] if left[0] in ("report", "gate") else "sweep"
    # A command reads its config from this disk.
    local = isinstance(store, LocalStore)
    config = shlex.quote(f"{store.url}/{RUN_CONFIG}") if local else "CONFIG"
    return f"svdjobs {command} {config} --store {shlex.quote(store.url)}"


def words(status: RunStatus) -> Iterator[str]:
    """Lines for the user, at most 100 columns wide but for names."""
    config = status.config
    yield f"{config.name} in {status.url}: {config.before} → {config.after}"
    yield ""
    rows = [
        [
            stage.name,
            f"{stage.finished}/{len(stage.units)}",
            time_text(stage.written),
            duration(math.fsum(status.seconds.values()))
            if stage.name == wanted.EVALUATE and status.seconds
            else "-",
        ]
        for stage in status.stages
    ]
    header = ["stage", "finished", "last written (UTC)", "engine time"]
    yield from plain_table(Table("status", "", "", header, rows)).splitlines()
    left = [(stage, u) for stage in status.stages for u in stage.units if u.state != "finished"]
    if left:
        yield ""
        yield "Not finished:"
        for stage, unit in left[:_SHOWN]:
            yield f"  {stage.name:<10} {unit.prefix}: {_about(unit)}"
        if len(left) > _SHOWN:
            yield f"  and {len(left) - _SHOWN} more; --json lists all"
    yield ""
    yield _time(status)
    yield from status.notes
    if status.next_command is None:
        yield f"Nothing is left to do. Report: {status.url}/{report.PREFIX}/report.html"
        return
    yield f"Next: {status.next_command}"
    if " CONFIG " in status.next_command:
        yield f"CONFIG is your sweep's file; the run keeps a copy in {status.url}/{RUN_CONFIG}."


def _about(unit: Unit) -> str:
    """What is known of an output that is not finished."""
    at = f"last written {time_text(unit.written)} UTC"
    return {
        "begun": f"no manifest yet; {at}. A stage is making it, or was stopped",
        "out of date": f"its manifest is damaged, or is of other settings or inputs; {at}",
        "not graded": f"its completions are there, their grades are not; {at}",
    }.get(unit.state, "nothing is there")


def _time(status: RunStatus) -> str:
    if not status.seconds:
        return "The run's logs note no engine time, and other stages note no time."
    parts = [f"{duration(seconds)} to {what}" for what, seconds in status.seconds.items()]
    hours = math.fsum(status.seconds.values()) / 3600
    spent = (
        f"Engine time, as the run's logs say: {' and '.join(parts)}, {hours:.2g} hours in all. "
        f"Other\nstages, and the start of an engine, note no time."
    )
    seconds, evaluations, unknown = status.left
    if not evaluations:
        return spent
    beside = f"; not known for {unknown} more" if unknown else ""
    return (
        f"{spent}\nLeft: about {duration(seconds)} of it for {evaluations} evaluations, by what "
        f"finished ones took{beside}."
    )


def time_text(at: datetime | None) -> str:
    """A time in UTC to the minute, or `-`."""
    return "-" if at is None else f"{at:%Y-%m-%d %H:%M}"


def document(status: RunStatus) -> dict[str, Any]:
    """The status for scripts."""
    config = status.config
    return {
        "url": status.url,
        "name": config.name,
        "before": config.before,
        "after": config.after,
        "finished": sum(stage.finished for stage in status.stages),
        "wanted": sum(len(stage.units) for stage in status.stages),
        "written": iso(status.written),
        "engine_seconds": status.seconds,
        "engine_left": status.left._asdict(),
        "stages": [
            {
                "stage": stage.name,
                "finished": stage.finished,
                "wanted": len(stage.units),
                "outputs": [
                    {**unit._asdict(), "written": iso(unit.written)} for unit in stage.units
                ],
            }
            for stage in status.stages
        ],
        "notes": status.notes,
        "next": status.next_command,
    }


def iso(at: datetime | None) -> str | None:
    """A time as ISO 8601, for JSON."""
    return at.isoformat(timespec="seconds") if at else None
