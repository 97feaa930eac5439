"""svdjobs from Python: read runs, plan and run sweeps, blend state dicts.

The functions are re-exported by the package: `import svdjobs; svdjobs.load_run(…)`. docs/python.md
has examples. Every expected error is an `svdjobs.errors.SvdjobsError`.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from svdjobs.config import SweepConfig
from svdjobs.errors import IncompleteError
from svdjobs.records import Gate, Plan
from svdjobs.storage.store import Store

if TYPE_CHECKING:
    import pandas
    import torch

Config = SweepConfig | Mapping[str, Any] | str | Path
"""A config: a file, its content as a dict, or a `SweepConfig`."""
_REPORT = "report"
_NUMBERS = "tables/numbers.csv"
_COMPLETION = (
    "idx", "problem", "gold", "sample_index", "completion", "answer", "outcome", "finish_reason",
)  # fmt: skip
_FLOATS = ("value", "low", "high", "standard_error")


class Run:
    """A run in a store. Every property reads the store anew, so a run may go on meanwhile."""

    def __init__(self, store: Store, config: SweepConfig) -> None:
        self._store = store
        self.config = config
        """The config that the run was made with."""

    def __repr__(self) -> str:
        return f"Run({self.url!r})"

    @property
    def url(self) -> str:
        """The folder or s3:// URL of the run."""
        return self._store.url

    @property
    def plan(self) -> Plan:
        """The plan: which tensors are blended, and which are not and why.

        Raises:
            IncompleteError: there is none yet.
        """
        from svdjobs.runs.layout import load_plan

        return load_plan(self._store, self.config, stage="reading the plan")

    @property
    def states(self) -> dict[str, str]:
        """The state of every output that the config wants, by prefix: `finished`, `out of date`,
        `not graded`, `begun` or `missing`, as `svdjobs status` says."""
        from svdjobs.standalone import status

        found = status.run(self._store)
        return {unit.prefix: unit.state for stage in found.stages for unit in stage.units}

    @property
    def finished(self) -> list[str]:
        """Prefixes of the outputs that the config wants and that are finished and current."""
        return [prefix for prefix, state in self.states.items() if state == "finished"]

    @property
    def numbers(self) -> pandas.DataFrame:
        """All numbers of the report: benchmark, checkpoint, quantity, value, low, high,
        standard_error. Shares are fractions; a missing number is NaN.

        Raises:
            IncompleteError: there is no report.
        """
        return _frame(self._report_file(_NUMBERS), floats=_FLOATS)

    @property
    def tables(self) -> dict[str, pandas.DataFrame]:
        """The tables of the report by name, with one unrounded number a cell, in the units that
        the report shows.

        Raises:
            IncompleteError: there is no report.
        """
        import pandas

        from svdjobs.runs.outputs import require

        (manifest,) = require(self._store, [_REPORT], stage="reading tables")
        return {
            Path(file.key).stem: pandas.read_parquet(io.BytesIO(self._report_file(file.key)))
            for file in manifest.files
            if file.key.endswith(".parquet")
        }

    @property
    def metrics(self) -> pandas.DataFrame:
        """How every matrix and head changed: a row for each metric of each (docs/metrics.md).

        Columns: name, layer, family, rows, cols, head, metric, value, null. `head` is missing
        for whole matrices; `null` is the mean over random updates of the same norm.

        Raises:
            IncompleteError: the run has not measured them.
        """
        import pandas

        from svdjobs.records import MetricsRow
        from svdjobs.runs.rows import load_rows

        found = [
            (r.name, r.layer, r.family, *r.shape, r.head, metric, value, r.null.get(metric))
            for r in load_rows(self._store, "metrics", MetricsRow, stage="reading metrics")
            for metric, value in r.values.items()
        ]
        names = ("name", "layer", "family", "rows", "cols", "head", "metric", "value", "null")
        kinds = {"layer": "Int64", "head": "Int64", "value": float, "null": float}
        return pandas.DataFrame(found, columns=names).astype(kinds)

    def completions(self, benchmark: str, checkpoint: str) -> pandas.DataFrame:
        """The completions that a checkpoint drew on a benchmark, with their grades.

        Columns: idx, problem, gold, sample_index, completion, answer, outcome, finish_reason.

        Raises:
            IncompleteError: the checkpoint has drawn none, or they are not graded.
        """
        import pandas

        from svdjobs.evaluation import grades
        from svdjobs.evaluation.generation import COMPLETIONS, completions_in
        from svdjobs.runs.layout import results_prefix
        from svdjobs.runs.outputs import read_finished

        if (found := grades.find(self._store, checkpoint, benchmark)) is None:
            raise IncompleteError(self._no_completions(benchmark, checkpoint))
        prefix = results_prefix(checkpoint, benchmark)
        drawn = read_finished(self._store, prefix, COMPLETIONS, found.completions)
        (results,) = json.loads(found.read(self._store, "results.json"))["results"]
        problems = {row["idx"]: row for row in results["details"]}
        graded = {(grade.idx, grade.sample_index): grade for grade in found.graded(self._store)}
        rows = []
        for one in completions_in(drawn):
            problem, grade = problems[one.idx], graded[one.idx, one.sample_index]
            rows.append(
                (one.idx, problem["problem"], problem["gold"], one.sample_index, one.text,
                 grade.answer, grade.outcome.value, one.finish_reason)
            )  # fmt: skip
        return pandas.DataFrame(rows, columns=_COMPLETION)

    @property
    def verdict(self) -> Gate:
        """The verdict of the gate.

        Raises:
            IncompleteError: there is none.
        """
        from svdjobs.stages import gate

        return gate.load(self._store)

    def _report_file(self, name: str) -> bytes:
        from svdjobs.runs.outputs import read_finished

        return read_finished(self._store, _REPORT, name)

    def _no_completions(self, benchmark: str, checkpoint: str) -> str:
        from svdjobs.evaluation import grades
        from svdjobs.runs import layout

        there = [
            f"{name} on {section.name}"
            for section in self.config.benchmarks
            for name in layout.evaluated_ids(self.config)
            if grades.find(self._store, name, section.name)
        ]
        return (
            f"{self.url} has no graded completions of {checkpoint} on {benchmark}; it has those of "
            f"{', '.join(there) or 'none'}. A checkpoint that only reads draws none: its accuracy "
            f"is in `numbers`."
        )


class Planned(NamedTuple):
    """A plan, and what `svdjobs plan` says of it."""

    plan: Plan
    lines: list[str]


def load_run(url: str | Path) -> Run:
    """Open the run in a folder or at s3://bucket/prefix.

    Raises:
        ConfigError: there is no run.
    """
    from svdjobs.runs.stored_config import stored_config
    from svdjobs.storage.open import open_store

    store = open_store(str(url))
    return Run(store, stored_config(store))


def plan_sweep(config: Config, store: str | Path | None = None) -> Planned:
    """Do what `svdjobs plan` does: decide from headers what a sweep does, costs and lacks.

    `store` replaces the one of the config. The plan is written to it.

    Raises:
        ConfigError, CheckpointError, BenchmarkError: the sweep cannot run.
    """
    from svdjobs.stages import plan
    from svdjobs.standalone import planning
    from svdjobs.storage.open import open_store

    sweep = _config(config, store)
    opened = open_store(sweep.store_url)
    made = plan.run(sweep, opened)
    return Planned(made, list(planning.lines(sweep, opened, made)))


def run_sweep(config: Config, store: str | Path | None = None) -> Run:
    """Do what `svdjobs sweep` does: run every stage on this machine, and return the run.

    Finished outputs are skipped. `store` replaces the one of the config. With a `gate` section,
    `Run.verdict` says whether the run is a regression; none is raised.

    Raises:
        SvdjobsError: the sweep cannot run, or a stage fails.
    """
    from svdjobs import local

    sweep = _config(config, store)
    local.sweep(sweep)
    local.judge(sweep)
    return load_run(sweep.store_url)


def blend_state_dict(
    before: Mapping[str, torch.Tensor],
    after: Mapping[str, torch.Tensor],
    alpha: float,
    *,
    config: Mapping[str, Any] | None = None,
    selection: Mapping[str, Any] | str | None = None,
) -> dict[str, torch.Tensor]:
    """Blend two state dicts in memory: `after` with singular values on the way to before's.

    alpha = 1 is `after`, 0 has before's singular values. The result has the names of `after`; its
    floats are float32, since 16 bits round most of a blend away. It has the bits that the stage
    `blend` writes on a machine like this.

    `config` is the content of config.json (`model.config.to_dict()`). It is needed if tensors hold
    several matrices (`qkv_proj`, stacks of experts) or the head is tied. `selection` is the section
    of that name of a sweep's config: which tensors are blended. Default: attention and MLP.

    Raises:
        CheckpointError: the two cannot be blended; the error gives every reason.
        ConfigError: alpha or a key of the selection is wrong.
    """
    from svdjobs.standalone import blend

    return blend.run(before, after, alpha, config=config, selection=selection)


def _config(config: Config, store: str | Path | None) -> SweepConfig:
    from svdjobs.config_file import load_config, parse_config

    if isinstance(config, (str, Path)):
        config = load_config(Path(config))
    elif not isinstance(config, SweepConfig):
        config = parse_config(config, where="config")
    if store is None:
        return config
    # Parsed again, since a store's URL must hold no secret.
    document = {**config.model_dump(mode="json"), "store": str(store)}
    return parse_config(document, where="config")


def _frame(data: bytes, floats: tuple[str, ...] = ()) -> pandas.DataFrame:
    """A CSV file of a report. Cells are missing only in `floats`: elsewhere `nan` may be a name."""
    import pandas

    return pandas.read_csv(
        io.BytesIO(data), keep_default_na=False, na_values={name: ["nan"] for name in floats}
    )
