"""report: one page with the results of a sweep, their uncertainty, and what is missing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from svdjobs import escape, pipeline
from svdjobs.answers import signs
from svdjobs.config import BenchmarkConfig, SweepConfig
from svdjobs.evaluation import (
    grades,
    likelihoods,
    mapping,
    reading,
    second_grades,
    side_by_side,
    wanted,
)
from svdjobs.evaluation.benchmarks.of_run import benchmark_of
from svdjobs.provenance import versions, versions_of
from svdjobs.records import (
    Agreement,
    BlendRecord,
    Likelihood,
    Manifest,
    MapReading,
    Plan,
    Reading,
    Record,
    Summary,
    VariantChange,
)
from svdjobs.reporting import charts, junit, page, problems, text
from svdjobs.reporting.data import Content
from svdjobs.reporting.numbers import numbers_csv
from svdjobs.reporting.sections import answers, topics
from svdjobs.reporting.sections.accuracy import accuracy_table, adjusted_p
from svdjobs.runs import layout, outputs
from svdjobs.runs.outputs import OutputKey, begin
from svdjobs.runs.rows import load_rows
from svdjobs.storage.objects import write_lines
from svdjobs.storage.store import Store
from svdjobs.weights.blend_records import shard_records
from svdjobs.weights.factors import Factors

STAGE = "report"
VERSION = "6"
PREFIX = "report"
SPECTRA_IN_FIGURE = 7
# Libraries that change a report if its inputs stay the same.
_OF_REPORT = ("svdjobs", "git", "numpy", "scipy")


def run(config: SweepConfig, store: Store, *, force: bool = False) -> Manifest:
    """Write the report of all finished outputs; it names the missing ones."""
    plan = layout.load_plan(store, config, stage=STAGE)
    manifests = wanted.manifests(config, store)
    missing = _missing(manifests)
    output = begin(
        store,
        PREFIX,
        OutputKey(
            stage=STAGE,
            version=VERSION,
            config={
                **config.report.model_dump(mode="json"),
                "name": config.name,
                "alphas": list(config.alphas),
                "checkpoints": list(config.checkpoints),
                "variants": list(config.variants),
                "versions": {name: versions()[name] for name in _OF_REPORT},
            },
            inputs=wanted.inputs_of_report(config, store, manifests),
        ),
        force=force,
    )
    if output.finished:
        return output.finished
    content = gather(config, store, plan, manifests)
    shown = topics(content)
    for topic in shown:
        for picture in topic.pictures:
            for ending, data in charts.files(picture.spec).items():
                output.write(f"figures/{picture.name}.{ending}", data)
        for table in topic.tables:
            output.write(f"tables/{table.name}.csv", text.csv_table(table))
            output.write(f"tables/{table.name}.parquet", text.parquet_table(table))
            if table.shown:
                output.write(f"tables/{table.name}.tex", text.latex_table(table))
    disagreements = [
        disagreement
        for by_id in content.agreements.values()
        for agreement in by_id.values()
        for disagreement in agreement.disagreements
    ]
    if disagreements:
        lines = [disagreement.model_dump_json() for disagreement in disagreements]
        output.add(write_lines(store, output.key("disagreements.jsonl"), lines))
    output.write("tables/numbers.csv", numbers_csv(content))
    output.write_json("verdict.json", junit.verdict(config.name, manifests, missing))
    output.write("junit.xml", junit.junit(config.name, manifests, missing))
    output.write("report.md", page.markdown_report(content, shown).encode())
    inside = problems.split(
        _problem_parts(config, store, manifests, content),
        lambda part: output.write(f"problems/{part.name}.js", problems.script(part)),
    )
    output.write("report.html", page.html_report(content, shown, inside).encode())
    return output.commit()


def _problem_parts(
    config: SweepConfig, store: Store, manifests: dict[str, Manifest | None], content: Content
) -> Iterator[problems.Part]:
    """The answers of all checkpoints side by side, for the page."""
    evaluations = _evaluations(config, store, manifests)
    for section in config.benchmarks:
        if own := evaluations.get(section.name):
            likelihoods_ = content.likelihoods.get(section.name, {})
            found = side_by_side.by_problem(store, benchmark_of(section, store), own, likelihoods_)
            yield from problems.parts(section.name, found)


def copy(store: Store, folder: Path) -> None:
    """Copy the finished report to a folder on this disk."""
    outputs.copy(store, PREFIX, folder)


def unfinished(config: SweepConfig, store: Store) -> list[str]:
    """Sorted prefixes of outputs that the config wants and that are missing or out of date."""
    return _missing(wanted.manifests(config, store))


def _missing(manifests: dict[str, Manifest | None]) -> list[str]:
    return sorted(prefix for prefix, manifest in manifests.items() if manifest is None)


def gather(
    config: SweepConfig, store: Store, plan: Plan, manifests: dict[str, Manifest | None]
) -> Content:
    """Read all finished outputs into the content of the report."""
    missing = _missing(manifests)
    summaries = _summaries(config, store, manifests)
    rows = _likelihoods(config, store)
    of_after = _of_after(config, store, summaries, rows)
    return Content(
        config=config,
        plan=plan,
        summaries=summaries,
        likelihoods=rows,
        readings=_readings(summaries, rows, of_after),
        outcomes={
            benchmark: {i: signs(one.graded(store)) for i, one in by_id.items()}
            for benchmark, by_id in _evaluations(config, store, manifests).items()
        },
        changes=_changes(config, store),
        maps=_maps(config, store, of_after),
        agreements=_agreements(config, store, manifests),
        blends={
            alpha: shard_records(store, alpha)
            for alpha in config.alphas
            if layout.checkpoint_prefix(alpha) not in missing
        },
        rows=_rows(config, store, missing),
        spectra=_spectra(store, plan, missing) if layout.decompose_targets(config) else {},
        missing=missing,
        provenance=versions_of(manifest.provenance for manifest in manifests.values() if manifest),
    )


def _drawn(
    config: SweepConfig, manifests: dict[str, Manifest | None]
) -> Iterator[tuple[BenchmarkConfig, str]]:
    """Each benchmark and checkpoint id with finished completions and grades."""
    for benchmark in config.benchmarks:
        for checkpoint_id in layout.evaluated_ids(config):
            if manifests.get(layout.results_prefix(checkpoint_id, benchmark.name)):
                yield benchmark, checkpoint_id


def _evaluations(
    config: SweepConfig, store: Store, manifests: dict[str, Manifest | None]
) -> dict[str, dict[str, grades.Evaluation]]:
    """The finished evaluations, by benchmark and checkpoint id."""
    found: dict[str, dict[str, grades.Evaluation]] = {}
    for benchmark, checkpoint_id in _drawn(config, manifests):
        if evaluation := grades.find(store, checkpoint_id, benchmark.name):
            found.setdefault(benchmark.name, {})[checkpoint_id] = evaluation
    return found


def _summaries(
    config: SweepConfig, store: Store, manifests: dict[str, Manifest | None]
) -> dict[str, dict[str, Summary]]:
    return {
        benchmark: {checkpoint_id: one.summary(store) for checkpoint_id, one in by_id.items()}
        for benchmark, by_id in _evaluations(config, store, manifests).items()
    }


def _likelihoods(config: SweepConfig, store: Store) -> dict[str, dict[str, list[Likelihood]]]:
    by_benchmark: dict[str, dict[str, list[Likelihood]]] = {}
    for benchmark in config.benchmarks:
        for checkpoint_id in layout.read_ids(config):
            if rows := likelihoods.load(store, checkpoint_id, benchmark.name, config=config):
                by_benchmark.setdefault(benchmark.name, {})[checkpoint_id] = rows
    return by_benchmark


def _readings(
    summaries: dict[str, dict[str, Summary]],
    rows: dict[str, dict[str, list[Likelihood]]],
    of_after: dict[str, reading.OfAfter],
) -> dict[str, dict[str, Reading]]:
    """What every checkpoint but after would score; empty if completions cannot be read."""
    by_benchmark: dict[str, dict[str, Reading]] = {}
    for benchmark, after in of_after.items():
        scores, by_id = summaries[benchmark], rows[benchmark]
        problems = sorted({grade.idx for grade in after.grades} - after.unreadable_golds)
        for checkpoint_id, found in by_id.items():
            sampled = None
            if checkpoint_id in scores:
                pairs = zip(
                    scores[checkpoint_id].problem_scores,
                    scores["after"].problem_scores,
                    strict=True,
                )
                apart = (own - reference for own, reference in pairs)
                sampled = dict(zip(problems, apart, strict=True))
            if checkpoint_id != "after" and (made := reading.read(after, found, sampled)):
                by_benchmark.setdefault(benchmark, {})[checkpoint_id] = made
    return by_benchmark


def _changes(config: SweepConfig, store: Store) -> dict[str, VariantChange]:
    changes: dict[str, VariantChange] = {}
    for benchmark in config.benchmarks:
        for name in config.variants:
            if found := likelihoods.load_change(config, store, name, benchmark.name):
                changes.setdefault(name, found)
    return changes


def _maps(
    config: SweepConfig, store: Store, of_after: dict[str, reading.OfAfter]
) -> dict[str, list[MapReading]]:
    """The map of each benchmark, if the config has one."""
    maps = {}
    for benchmark, after in of_after.items() if config.map else ():
        if cells := mapping.load(config, store, benchmark):
            maps[benchmark] = reading.read_map(after, cells)
    return maps


def _of_after(
    config: SweepConfig,
    store: Store,
    summaries: dict[str, dict[str, Summary]],
    rows: dict[str, dict[str, list[Likelihood]]],
) -> dict[str, reading.OfAfter]:
    """What checkpoints are read from, by benchmark; empty if completions cannot be read."""
    found: dict[str, reading.OfAfter] = {}
    for benchmark, by_id in rows.items() if rows and config.evaluation.readable else ():
        evaluation = grades.find(store, "after", benchmark)
        summary = summaries.get(benchmark, {}).get("after")
        if evaluation is None or summary is None:
            continue
        found[benchmark] = reading.OfAfter(
            evaluation.graded(store),
            by_id.get("after", []),
            likelihoods.load(store, "after", benchmark, likelihoods.AGAIN),
            frozenset(summary.gold_errors),
            summary.dtype,
        )
    return found


def _agreements(
    config: SweepConfig, store: Store, manifests: dict[str, Manifest | None]
) -> dict[str, dict[str, Agreement]]:
    agreements: dict[str, dict[str, Agreement]] = {}
    benchmarks = {section: benchmark_of(section, store) for section in config.benchmarks}
    for section, checkpoint_id in _drawn(config, manifests):
        if agreement := second_grades.agreement(store, benchmarks[section], checkpoint_id):
            agreements.setdefault(section.name, {})[checkpoint_id] = agreement
    return agreements


def _rows(
    config: SweepConfig, store: Store, missing: list[str]
) -> dict[type[Record], list[Record]]:
    return {
        stage.rows: load_rows(store, stage.name, stage.rows, stage=STAGE)
        for stage in pipeline.stages_with_rows(config)
        if stage.rows and stage.name not in missing
    }


def _spectra(
    store: Store, plan: Plan, missing: list[str]
) -> dict[str, tuple[list[float], list[float]]]:
    """Singular values before and after of one tensor per module family, from the middle layer."""
    from svdjobs.checkpoint.selection import layer_and_family

    if any(
        layout.factors_prefix(checkpoint_id) in missing for checkpoint_id in ("before", "after")
    ):
        return {}
    families: dict[str, list[str]] = {}
    for tensor in plan.selected:
        families.setdefault(layer_and_family(tensor.name)[1], []).append(tensor.name)
    before, after = (Factors(store, i, stage=STAGE) for i in ("before", "after"))
    chosen = {
        family: sorted(names, key=lambda name: layer_and_family(name)[0] or 0)[len(names) // 2]
        for family, names in list(families.items())[:SPECTRA_IN_FIGURE]
    }
    return {
        f"{family}, layer {layer_and_family(name)[0]}": (
            before.spectrum(name),
            after.spectrum(name),
        )
        for family, name in chosen.items()
    }


def closing_words(config: SweepConfig, store: Store) -> str:
    """The text that a sweep prints last: accuracy tables, findings, and the report's URL."""
    plan = layout.load_plan(store, config, stage=STAGE)
    manifests = wanted.manifests(config, store)
    missing = _missing(manifests)
    summaries, rows = _summaries(config, store, manifests), _likelihoods(config, store)
    of_after = _of_after(config, store, summaries, rows)
    blends: dict[float, list[BlendRecord]] = {}
    content = Content(
        config,
        plan,
        summaries,
        blends,
        _rows(config, store, missing),
        {},
        missing,
        likelihoods=rows,
        readings=_readings(summaries, rows, of_after),
        maps=_maps(config, store, of_after),
    )
    adjusted = adjusted_p(content)
    parts = [
        text.plain_table(accuracy_table(content, benchmark, adjusted))
        for benchmark in content.summaries
    ]
    parts += [
        "\n".join([question, *(f"  {escape.line(text)}" for text in texts)])
        for question, texts in answers(content).items()
    ]
    parts.append(f"Report: {store.url}/{PREFIX}/report.html")
    return "\n\n".join(part for part in parts if part)
