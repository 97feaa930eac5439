"""The benchmarks of a run: its own copy of a hub data set, else what the config names.

On a cluster `plan` keeps the copies, so that every pod has the same problems and no other pod needs
the hub.
"""

from __future__ import annotations

from svdjobs.config import BenchmarkConfig, SweepConfig
from svdjobs.evaluation.benchmarks.load import Benchmark, load_benchmark
from svdjobs.records import Problem
from svdjobs.runs import layout
from svdjobs.runs.outputs import OutputKey, begin, find_manifest, read_finished
from svdjobs.storage.objects import record_in, write_lines
from svdjobs.storage.store import Store

STAGE = "plan"
VERSION = "1"
_PROBLEMS = "problems.jsonl"


def benchmark_of(section: BenchmarkConfig, store: Store) -> Benchmark:
    """A benchmark of the run in `store`. Raises as `load_benchmark` does."""
    return _kept(section, store) or load_benchmark(section)


def keep(config: SweepConfig, store: Store) -> None:
    """Copy the benchmarks that are on the hub into the run's store, at their present commits."""
    for section in config.benchmarks:
        if section.revision and _kept(section, store):
            continue
        benchmark = load_benchmark(section)
        if benchmark.revision is None:
            continue  # a file, which every pod reads in its place
        content = {"benchmark": benchmark.sha256, "revision": benchmark.revision}
        key = OutputKey(STAGE, VERSION, _settings(section), content)
        output = begin(store, layout.benchmark_prefix(section.name), key)
        if not output.finished:
            lines = [problem.model_dump_json() for problem in benchmark.problems]
            output.add(write_lines(store, output.key(_PROBLEMS), lines))
            output.commit()


def _kept(section: BenchmarkConfig, store: Store) -> Benchmark | None:
    """The run's copy; None if it has none, or one of other data."""
    prefix = layout.benchmark_prefix(section.name)
    manifest = find_manifest(store, prefix)
    if manifest is None or manifest.config != _settings(section):
        return None
    where = f"{store.url}/{prefix}/{_PROBLEMS}"
    lines = read_finished(store, prefix, _PROBLEMS, manifest).splitlines()
    problems = [record_in(Problem, line, where) for line in lines]
    return Benchmark(
        section.name, problems, manifest.inputs["benchmark"], manifest.inputs["revision"]
    )


def _settings(section: BenchmarkConfig) -> dict[str, object]:
    return section.model_dump(mode="json")
