"""gate: compare a checkpoint's accuracy with a baseline's, on each benchmark.

A regression is a loss that the data show to exceed the margin; a pass needs data that show there
is none. Otherwise the outcome is inconclusive. Only evaluations with the same prompts and settings
are compared.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from svdjobs.config import GateConfig, SweepConfig
from svdjobs.errors import ConfigError, IncompleteError, SvdjobsError
from svdjobs.evaluation.comparability import differences, version_notes
from svdjobs.evaluation.grades import Evaluation, find
from svdjobs.evaluation.results import current_results
from svdjobs.records import Gate, GateOutcome, GateRow, GateSide, Manifest, Summary
from svdjobs.reporting import gate as words
from svdjobs.reporting.sections.accuracy import unscored
from svdjobs.runs import layout
from svdjobs.runs.outputs import (
    OutputKey,
    begin,
    check_run,
    content_print,
    find_manifest,
    read_finished,
)
from svdjobs.statistics import below_p, compare, holm, passing_margin, problems_needed
from svdjobs.statistics.intervals import ROUNDING
from svdjobs.statistics.intervals import differences as paired
from svdjobs.storage.objects import record_in
from svdjobs.storage.open import open_store
from svdjobs.storage.store import Store

STAGE = "gate"
VERSION = "2"
PREFIX = "gate"
LEVEL = 0.05
"""Probability of a false regression on any of the benchmarks."""
WORST: Sequence[GateOutcome] = ("regression", "inconclusive", "passed")


class Answers(NamedTuple):
    """One side of a comparison on one benchmark."""

    evaluation: Evaluation
    summary: Summary


def run(config: SweepConfig, store: Store, *, force: bool = False) -> Manifest:
    """Write the verdict, unless there is one from the same grades.

    Raises:
        IncompleteError: there is no `gate` section, or evaluations are missing; the error names all
            of them.
        ConfigError: the baseline was evaluated otherwise; the error names every difference.
    """
    gate = _section(config)
    check_run(store, config)
    baseline = open_store(gate.baseline) if gate.baseline else store
    if gate.baseline and baseline.url == store.url:
        raise ConfigError(
            f"gate.baseline {gate.baseline} is this run itself. Give the store of an earlier one, "
            f"or leave it out to compare with `before`."
        )
    pairs = _pairs(config, gate, store, baseline)
    _refuse_incomparable(pairs, baseline)
    output = begin(
        store,
        PREFIX,
        OutputKey(
            stage=STAGE,
            version=VERSION,
            config={**gate.model_dump(mode="json"), "name": config.name},
            inputs={
                f"{side}/{name}": content_print(answers.evaluation.grades)
                for name, pair in pairs.items()
                for side, answers in zip(("judged", "baseline"), pair, strict=True)
            },
        ),
        force=force,
    )
    if output.finished:
        return output.finished
    verdict = judge(config, gate, pairs)
    output.write_json("gate.json", verdict.model_dump(mode="json"))
    output.write("gate.md", words.markdown(verdict).encode())
    output.write("junit.xml", words.junit(verdict))
    return output.commit()


def warning_before_sweep(config: SweepConfig) -> str:
    """A warning that the gate's baseline is missing or unreadable; empty if it is there.

    It is not an error, since the baseline may be finished before the gate runs.
    """
    gate = config.gate
    if gate is None or gate.baseline is None:
        return ""
    prefixes = [layout.results_prefix(gate.checkpoint, b.name) for b in config.benchmarks]
    try:
        baseline = open_store(gate.baseline)
        missing = [prefix for prefix in prefixes if find_manifest(baseline, prefix) is None]
    except SvdjobsError as error:
        return f"gate.baseline {gate.baseline} cannot be read from here: {error}"
    if not missing:
        return ""
    return (
        f"gate.baseline {gate.baseline} has no {', '.join(missing)} yet; without them the gate "
        f"will end with code 2."
    )


def load(store: Store) -> Gate:
    """The verdict of a run.

    Raises:
        IncompleteError: there is no verdict.
    """
    return record_in(Gate, read_finished(store, PREFIX, "gate.json"), f"{PREFIX}/gate.json")


def closing_words(store: Store) -> str:
    """The text that the command prints: the table, the reasons, the verdict and its URL."""
    return f"{words.plain(load(store))}\nVerdict: {store.url}/{PREFIX}/gate.md"


def _section(config: SweepConfig) -> GateConfig:
    if config.gate is None:
        raise IncompleteError(
            "this config has no `gate` section. Add one, e.g. `gate: {margin: 0.01}`."
        )
    return config.gate


def baseline_id(gate: GateConfig) -> str:
    """The id of the checkpoint to compare with."""
    return gate.checkpoint if gate.baseline else "before"


def _pairs(
    config: SweepConfig, gate: GateConfig, store: Store, baseline: Store
) -> dict[str, tuple[Answers, Answers]]:
    """The judged evaluation and the baseline of every benchmark, by its name."""
    own = current_results(config, store)
    evaluations: dict[str, list[Evaluation | None]] = {}
    prefixes: dict[str, list[tuple[Store, str]]] = {}
    for benchmark in config.benchmarks:
        judged = layout.results_prefix(gate.checkpoint, benchmark.name)
        other = layout.results_prefix(baseline_id(gate), benchmark.name)
        prefixes[benchmark.name] = [(store, judged), (baseline, other)]
        reference = (
            find(baseline, baseline_id(gate), benchmark.name) if gate.baseline else own[other]
        )
        evaluations[benchmark.name] = [own[judged], reference]
    _refuse_missing(prefixes, evaluations)
    return {
        name: (_answers(store, judged), _answers(baseline, reference))
        for name, (judged, reference) in evaluations.items()
        if judged is not None and reference is not None
    }


def _answers(store: Store, evaluation: Evaluation) -> Answers:
    return Answers(evaluation, evaluation.summary(store))


def _refuse_missing(
    prefixes: Mapping[str, Sequence[tuple[Store, str]]],
    evaluations: Mapping[str, Sequence[Evaluation | None]],
) -> None:
    missing = sorted(
        {
            f"{store.url}/{prefix}"
            for name, sides in prefixes.items()
            for (store, prefix), evaluation in zip(sides, evaluations[name], strict=True)
            if evaluation is None
        }
    )
    if missing:
        raise IncompleteError(
            f"gate needs evaluations that are missing, or were made with other settings: "
            f"{', '.join(missing)}. Finish this run with `svdjobs sweep CONFIG`. If they are "
            f"missing in the baseline, set gate.baseline to a run that has the same checkpoint id "
            f"and benchmarks."
        )


def _refuse_incomparable(pairs: Mapping[str, tuple[Answers, Answers]], baseline: Store) -> None:
    reasons = [
        f"{name}: {difference}"
        for name, (judged, reference) in pairs.items()
        for difference in differences(*judged, *reference)
    ]
    if reasons:
        lines = "\n  ".join(reasons)
        raise ConfigError(
            f"gate compares evaluations with the same prompts and settings only; this run and its "
            f"baseline {baseline.url} differ:\n  {lines}\nEvaluate the baseline with this run's "
            f"settings, or this run with the baseline's. If only the graders differ, run `svdjobs "
            f"grade RUN`."
        )


def judge(
    config: SweepConfig,
    gate: GateConfig,
    pairs: Mapping[str, tuple[Answers, Answers]],
) -> Gate:
    """The verdict on comparable evaluations; no I/O.

    A run passes only if every benchmark passes, so the tests for a pass need no adjustment (an
    intersection-union test: Berger 1982, "Multiparameter Hypothesis Testing and Acceptance
    Sampling", doi:10.2307/1267823). One benchmark is enough for a regression, so the tests for a
    loss are adjusted.
    """
    changes = {
        name: paired(judged.summary.problem_scores, reference.summary.problem_scores)
        for name, (judged, reference) in pairs.items()
    }
    lost = {name: below_p(change, -gate.margin) for name, change in changes.items()}
    adjusted = holm(lost)
    rows = [
        _row(gate, name, pair, changes[name], lost[name], adjusted[name])
        for name, pair in pairs.items()
    ]
    outcome = min((row.outcome for row in rows), key=WORST.index)
    fails = outcome == "inconclusive" and gate.inconclusive == "fail"
    return Gate(
        name=config.name,
        checkpoint=gate.checkpoint,
        baseline=gate.baseline or "this run",
        baseline_checkpoint=baseline_id(gate),
        margin=gate.margin,
        inconclusive=gate.inconclusive,
        outcome=outcome,
        failed=outcome == "regression" or fails,
        rows=rows,
        notes=version_notes(
            (judged.evaluation, reference.evaluation) for judged, reference in pairs.values()
        ),
    )


def _row(
    gate: GateConfig,
    name: str,
    pair: tuple[Answers, Answers],
    changes: Sequence[float],
    loss_p: float,
    adjusted: float,
) -> GateRow:
    judged, reference = pair
    scores = (judged.summary.problem_scores, reference.summary.problem_scores)
    same = (
        judged.evaluation.completions.inputs["checkpoint"]
        == reference.evaluation.completions.inputs["checkpoint"]
    )
    return GateRow(
        benchmark=name,
        outcome=_outcome(changes, gate.margin, adjusted, same),
        n=judged.summary.n,
        judged=_side(judged.summary),
        baseline=_side(reference.summary),
        comparison=compare(*scores, judged.summary.n),
        loss_p=loss_p,
        loss_p_adjusted=adjusted,
        passing_margin=passing_margin(changes),
        problems_needed=problems_needed(changes, gate.margin),
        same_checkpoint=same,
    )


def _outcome(changes: Sequence[float], margin: float, adjusted: float, same: bool) -> GateOutcome:
    """The outcome of one benchmark, from the changes of its problem scores."""
    if adjusted <= LEVEL:
        return "regression"
    if same and not any(changes):  # the same weights and scores: no loss, however few problems
        return "passed"
    needed = passing_margin(changes)
    kept = needed < margin and not math.isclose(needed, margin, rel_tol=ROUNDING)
    return "passed" if kept else "inconclusive"


def _side(summary: Summary) -> GateSide:
    return GateSide(
        avg_at_n=summary.avg_at_n,
        completions=summary.problems * summary.n,
        truncated=summary.truncated,
        unscored=unscored(summary),
    )
