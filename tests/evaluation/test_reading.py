"""Reading: what every checkpoint would score, from after's completions, without drawing a token."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from svdjobs import local
from svdjobs.config import EvaluateConfig, SweepConfig
from svdjobs.errors import ConfigError, EvaluationError
from svdjobs.evaluation import likelihoods, reading
from svdjobs.evaluation.engines.transformers import TransformersEngine
from svdjobs.evaluation.prompts import load_tokenizer
from svdjobs.records import (
    Completion,
    Grade,
    Interval,
    Likelihood,
    MapCell,
    MapReading,
    Outcome,
)
from svdjobs.runs import layout
from svdjobs.stages import drop_weights, evaluate, report
from svdjobs.storage.local import LocalStore
from tests.evaluation.engines import engine_child

MakeConfig = Callable[..., SweepConfig]
PROBLEMS, SAMPLES = 100, 4


def rows(log_p: np.ndarray) -> list[Likelihood]:
    """Likelihoods of completions of two tokens each, from their total log-probability."""
    return [
        Likelihood(idx=i, sample_index=k, log_probabilities=[float(log_p[i, k]) / 2] * 2)
        for i, k in np.ndindex(log_p.shape)
    ]


def grades(correct: np.ndarray) -> list[Grade]:
    outcome = {True: Outcome.CORRECT, False: Outcome.NO_ANSWER}
    return [
        Grade(idx=i, sample_index=k, outcome=outcome[bool(correct[i, k])], answer=None)
        for i, k in np.ndindex(correct.shape)
    ]


class Planted:
    """Completions of after with grades, and a checkpoint that finds right ones likelier."""

    def __init__(self, tilt: float = 0.02, noise: float = 1e-6, dtype: str = "float32") -> None:
        rng = np.random.default_rng(2)
        self.chance = rng.beta(1, 1, (PROBLEMS, 1))
        self.correct = rng.random((PROBLEMS, SAMPLES)) < self.chance
        self.log_p = rng.normal(-20, 3, (PROBLEMS, SAMPLES))
        # Right completions are exp(tilt) times as likely, and the probabilities add up to 1.
        self.other = self.log_p + tilt * self.correct
        self.other -= np.log(1 + self.chance * np.expm1(tilt))
        again = self.log_p + rng.normal(0, noise, self.log_p.shape)
        self.after = reading.OfAfter(
            grades(self.correct), rows(self.log_p), rows(again), frozenset(), dtype
        )


def test_a_planted_difference_is_read() -> None:
    planted = Planted(tilt=0.02)
    found = reading.read(planted.after, rows(planted.other))
    assert found is not None
    assert found.accuracy is not None
    assert found.accuracy_here is not None
    chance = planted.chance * math.exp(0.02) / (1 + planted.chance * math.expm1(0.02))
    truth = float((chance - planted.chance).mean())
    for interval in (found.accuracy, found.accuracy_here):
        assert interval.low is not None
        assert interval.high is not None
        assert 0 < interval.low < truth < interval.high
    assert found.no_answer is not None
    assert found.no_answer.value == pytest.approx(-found.accuracy.value)
    assert found.truncated == Interval(value=0.0)
    assert found.noise == pytest.approx(1e-6, rel=0.2)
    assert found.spread == pytest.approx(0.01, rel=0.2)
    assert (found.completions, found.unread, found.refused) == (PROBLEMS * SAMPLES, 0, None)


def test_the_engine_s_noise_widens_the_interval() -> None:
    widths = []
    for noise in (0.0, 0.005, 0.05):
        planted = Planted(noise=noise)
        found = reading.read(planted.after, rows(planted.other))
        assert found is not None
        assert found.accuracy is not None
        widths.append(found.accuracy.standard_error or 0.0)
    assert widths[0] < widths[1] < widths[2]
    assert widths[2] > 3 * widths[0]


@pytest.mark.parametrize(
    ("noise", "dtype", "refused"),
    [(0.02, "bfloat16", "noise"), (0.001, "bfloat16", None), (0.02, "float32", None)],
)
def test_a_difference_below_the_noise_of_16_bits_is_refused(
    noise: float, dtype: str, refused: str | None
) -> None:
    planted = Planted(noise=noise, dtype=dtype)
    found = reading.read(planted.after, rows(planted.other))
    assert found is not None
    assert found.refused == refused
    assert (found.accuracy is None) == (refused is not None)


def test_a_far_checkpoint_is_refused() -> None:
    planted = Planted()
    far = planted.log_p + np.random.default_rng(1).normal(0, 3, planted.log_p.shape)
    found = reading.read(planted.after, rows(far))
    assert found is not None
    assert found.refused == "too far"
    assert found.accuracy is None


@pytest.mark.parametrize("right", [True, False])
def test_answers_of_one_grade_say_nothing_about_accuracy(right: bool) -> None:
    planted = Planted()
    after = replace(planted.after, grades=grades(np.full((PROBLEMS, SAMPLES), right)))
    found = reading.read(after, rows(planted.other))
    assert found is not None
    assert found.refused == "one grade"
    assert found.accuracy is None
    same = reading.read(after, rows(planted.log_p))
    assert same is not None
    assert same.refused is None
    assert same.accuracy == Interval(value=0.0)


def test_a_checkpoint_that_would_say_what_after_never_says_is_not_read() -> None:
    planted = Planted()
    found = reading.read(planted.after, rows(planted.other + math.log(0.8)))
    assert found is not None
    assert found.refused == "lacking"


def test_a_completion_that_one_engine_could_not_read_to_its_end_is_left_out() -> None:
    planted = Planted()
    others = rows(planted.other)
    object.__setattr__(others[0], "log_probabilities", [-1.0])
    found = reading.read(planted.after, others)
    assert found is not None
    assert found.completions == PROBLEMS * SAMPLES - 1


class PlantedMap:
    """Cells of a map whose effects on accuracy are known; random changes have some of their own."""

    def __init__(self, effects: list[float], randoms: float, nulls: int = 3) -> None:
        self.planted = Planted()
        self.rng = np.random.default_rng(5)
        self.cells = []
        for layer, effect in enumerate(effects):
            self.cells.append(self.cell(layer, None, effect))
            for null in range(nulls):
                self.cells.append(self.cell(layer, null, self.rng.normal(0, randoms)))
        self.cells.append(self.cell(None, None, 0.02))

    def cell(self, layer: int | None, null: int | None, tilt: float) -> MapCell:
        p, correct = self.planted.chance, self.planted.correct
        logs = tilt * correct - np.log(1 + p * np.expm1(tilt))
        logs = (logs + self.rng.normal(0, 1e-3, logs.shape)).ravel()
        return MapCell(
            layer=layer, family="all" if layer is None else "mlp", null=null, change=0.01,
            log_ratios=logs.tolist(), divergences=(logs**2 / 2).tolist(),
        )  # fmt: skip

    def found(self) -> list[MapReading]:
        return reading.read_map(self.planted.after, self.cells)


def test_a_map_finds_what_does_more_than_random_changes() -> None:
    effects = [0.0, 0.004, -0.004, 0.1]
    parts = PlantedMap(effects, randoms=0.004).found()
    p = [part.p for part in parts]
    assert p[3] is not None
    assert p[3] < 0.01
    # Small beside what random changes do, and nothing at all beside them.
    assert all(other is not None and other > 0.2 for other in p[:3])
    assert p[4] is None  # the whole has no random changes of its own


def test_beside_harmless_random_changes_small_effects_are_found() -> None:
    parts = PlantedMap([0.0, 0.01, -0.01], randoms=0.0).found()
    p = [part.p for part in parts[:-1]]
    assert p[0] is not None
    assert p[0] > 0.2
    assert all(other is not None and other < 0.01 for other in p[1:])


def test_large_maps_find_something_too() -> None:
    """Sign flips have no p below 1e-4, which times 600 is not significant."""
    parts = PlantedMap([0.03] * 600, randoms=0.001, nulls=1).found()
    assert all(part.p is not None and part.p < 0.01 for part in parts[:-1])


def test_without_random_changes_a_map_compares_with_nothing() -> None:
    parts = PlantedMap([0.0, 0.02], randoms=0.0, nulls=0).found()
    assert parts[0].p is not None
    assert parts[0].p > 0.2
    assert parts[1].p is not None
    assert parts[1].p < 0.01


def test_random_changes_that_cannot_be_read_are_no_comparison() -> None:
    planted = PlantedMap([0.02], randoms=0.0, nulls=1)
    far = planted.rng.normal(0, 3, PROBLEMS * SAMPLES).tolist()
    planted.cells[1] = planted.cells[1].model_copy(update={"log_ratios": far})
    part, _ = planted.found()
    assert part.accuracy is not None
    assert part.nulls == []
    assert part.p is None


def test_a_map_in_16_bits_that_sees_rounding_only_is_refused() -> None:
    planted = PlantedMap([0.0], randoms=0.0, nulls=0)
    planted.planted.after = Planted(noise=0.01, dtype="bfloat16").after
    part, _ = planted.found()
    assert part.refused == "noise"


def test_what_is_not_read_or_cannot_be_graded_is_left_out() -> None:
    planted = Planted()
    others = rows(planted.other)
    for row in others[:3]:
        object.__setattr__(row, "unread", "context")
        object.__setattr__(row, "log_probabilities", [])
    found = reading.read(replace(planted.after, unreadable_golds=frozenset({5})), others[:-2])
    assert found is not None
    assert found.unread == 5
    assert found.completions == PROBLEMS * SAMPLES - 5 - SAMPLES
    assert reading.read(planted.after, []) is None


def test_samples_in_which_nothing_changed_contradict_no_small_effect() -> None:
    planted = Planted()
    found = reading.read(planted.after, rows(planted.other), dict.fromkeys(range(PROBLEMS), 0.0))
    assert found and found.accuracy and found.accuracy.low and found.accuracy.high
    assert not found.accuracy.low <= 0 <= found.accuracy.high
    expected = math.exp(-abs(found.accuracy.value) * PROBLEMS)  # Poisson, none
    assert found.minus_sampled_p == pytest.approx(expected)


def test_reading_and_sampling_are_compared_by_problem() -> None:
    planted = Planted()
    same = reading.read(planted.after, rows(planted.other))
    assert same is not None
    assert same.minus_sampled is None
    rng = np.random.default_rng(3)
    fair = {i: float(x) for i, x in enumerate(rng.normal(0, 0.1, PROBLEMS))}
    agreeing = reading.read(planted.after, rows(planted.other), fair)
    apart = reading.read(planted.after, rows(planted.other), {i: x + 0.1 for i, x in fair.items()})
    assert agreeing is not None
    assert apart is not None
    assert agreeing.minus_sampled_p is not None
    assert agreeing.minus_sampled_p > 0.05
    assert apart.minus_sampled_p is not None
    assert apart.minus_sampled_p < 1e-3


def run_of(make_config: MakeConfig, **evaluation: Any) -> SweepConfig:
    base = make_config()
    assert base.evaluate is not None
    own = {**base.evaluate.model_dump(mode="json"), "engine": "transformers", "sampled": "auto"}
    return make_config(evaluate={**own, **evaluation}, alphas=[0, 0.25, 0.5])


def test_a_sweep_reads_where_it_does_not_sample(make_config: MakeConfig) -> None:
    config = run_of(make_config)
    store, root = LocalStore(config.store_url), Path(config.store_url)
    local.sweep(config)
    assert {p.name for p in (root / "results").iterdir()} == {"after", "before", "alpha-0.0000"}
    read = ["after", "before", "alpha-0.0000", "alpha-0.2500", "alpha-0.5000"]
    assert {p.name for p in (root / "likelihoods").iterdir()} == set(read)
    assert not report.unfinished(config, store)
    page = (root / "report/report.md").read_text()
    assert "| alpha-0.2500 | " in page.partition("Accuracy read from after's answers")[2]
    drop_weights.run(config, store, alpha=0.25)
    (root / "likelihoods/alpha-0.2500/sums/manifest.json").unlink()
    assert report.unfinished(config, store) == ["likelihoods/alpha-0.2500/sums"]
    evaluate.run(config, store)
    assert not report.unfinished(config, store)


def test_a_pod_reads_with_its_first_shard_only(make_config: MakeConfig) -> None:
    config = run_of(make_config, shards=2)
    store, root = LocalStore(config.store_url), Path(config.store_url)
    from svdjobs.stages import blend, decompose, plan

    plan.run(config, store)
    decompose.run(config, store)
    blend.run(config, store)
    for shard_id in ("sums-000", "sums-001"):
        evaluate.run_shard(config, store, checkpoint_id="after", shard_id=shard_id)
    assert (
        evaluate.run_shard(config, store, checkpoint_id="alpha-0.5000", shard_id="sums-001") is None
    )
    assert not (root / "likelihoods/alpha-0.5000").exists()
    assert (
        evaluate.run_shard(config, store, checkpoint_id="alpha-0.5000", shard_id="sums-000") is None
    )
    assert len(likelihoods.load(store, "alpha-0.5000", "sums")) == 10
    assert not (root / "results/alpha-0.5000").exists()


@pytest.mark.parametrize(
    ("evaluation", "sampled"),
    [
        ({}, ["before", "after", "alpha-0.0000"]),
        ({"repeat_after": True}, ["before", "after", "after-again", "alpha-0.0000"]),
        ({"sampled": ["alpha-0.5000"]}, ["after", "alpha-0.5000"]),
        (
            {"sampled": ["auto", "alpha-0.5000"]},
            ["before", "after", "alpha-0.0000", "alpha-0.5000"],
        ),
        ({"sampled": "all"}, ["before", "after", "alpha-0.0000", "alpha-0.2500", "alpha-0.5000"]),
        ({"temperature": 0}, ["before", "after", "alpha-0.0000", "alpha-0.2500", "alpha-0.5000"]),
        ({"top_p": 0.9}, ["before", "after", "alpha-0.0000", "alpha-0.2500", "alpha-0.5000"]),
        (
            {"teacher_forced": 0},
            ["before", "after", "alpha-0.0000", "alpha-0.2500", "alpha-0.5000"],
        ),
    ],
)
def test_which_checkpoints_are_sampled(
    evaluation: dict[str, Any], sampled: list[str], make_config: MakeConfig
) -> None:
    base = run_of(make_config)
    assert base.evaluate is not None
    own = base.evaluate.model_dump(mode="json", exclude={"read"})
    config = make_config(evaluate={**own, **evaluation}, alphas=[0, 0.25, 0.5])
    assert layout.sampled_ids(config) == sampled


def test_after_is_read_twice_in_other_batches(make_config: MakeConfig) -> None:
    config = run_of(make_config, batch_size=3)
    store = LocalStore(config.store_url)
    local.sweep(config)
    first = {(r.idx, r.sample_index): r for r in likelihoods.load(store, "after", "sums")}
    again = likelihoods.load(store, "after", "sums", likelihoods.AGAIN)
    assert {(r.idx, r.sample_index) for r in again} == set(first)
    for row in again:
        own = first[row.idx, row.sample_index].log_probabilities
        assert row.log_probabilities == pytest.approx(own, abs=1e-4)
    assert likelihoods.load(store, "before", "sums", likelihoods.AGAIN) == []


def completion(*tokens: int) -> Completion:
    return Completion(
        idx=3, sample_index=1, seed=0, text="", finish_reason="stop", completion_tokens=1,
        token_ids=tokens,
    )  # fmt: skip


def running() -> TransformersEngine:
    weights = engine_child.weights("rl2")
    return TransformersEngine(weights, load_tokenizer(weights.folder), engine_child.settings())


def test_what_a_checkpoint_cannot_read_is_said() -> None:
    engine = running()
    context, vocabulary = engine.context or 0, engine.vocabulary
    made = [completion(5), completion(5, vocabulary), completion(*[5] * context)]
    found = list(likelihoods.read_together(engine, made, {3: (1, 2)}, 1.0, "before"))
    assert [row.unread for row in found] == [None, "vocabulary", "context"]
    assert [len(row.log_probabilities) for row in found] == [1, 0, 0]
    assert json.loads(found[0].model_dump_json(exclude_none=True)).keys() == {
        "idx", "sample_index", "log_probabilities",
    }  # fmt: skip


def test_a_log_probability_that_is_no_number_is_an_error() -> None:
    engine = running()
    engine._model.lm_head.weight.data[7] = math.nan
    words = "alpha-0.1: the log-probability of token 0 of 2 in after's completion 1 of problem 3 is"
    with pytest.raises(EvaluationError, match=words):
        list(likelihoods.read_together(engine, [completion(5, 6)], {3: (1,)}, 1.0, "alpha-0.1"))


def test_older_configs_are_read() -> None:
    document = {"benchmarks": ["demo"], "teacher_forced": 2}
    assert EvaluateConfig.model_validate(document).read_per_problem == 2
    assert EvaluateConfig.model_validate({"benchmarks": ["demo"]}).read_per_problem == 4


@pytest.mark.parametrize(
    ("evaluation", "words"),
    [
        ({"sampled": ["alpha-9"]}, "evaluate.sampled: no checkpoint 'alpha-9' in this run; it has"),
        ({"sampled": ["before"], "read": 0}, "alpha-0.0000 would neither draw completions nor"),
        ({"sampled": [], "tokenizer_of_before": "own"}, "before would neither draw completions"),
        ({"sampled": [], "repeat_after": True}, "after-again would neither draw completions"),
    ],
)
def test_a_checkpoint_that_does_nothing_is_refused(
    evaluation: dict[str, Any], words: str, make_config: MakeConfig
) -> None:
    with pytest.raises(ConfigError, match=words):
        run_of(make_config, **evaluation)


def test_a_gate_needs_completions(make_config: MakeConfig) -> None:
    base = run_of(make_config, sampled=["alpha-0.5000"])
    assert base.evaluate is not None
    document = base.evaluate.model_dump(mode="json")
    with pytest.raises(ConfigError, match="the gate compares completions of before, which draws"):
        make_config(evaluate=document, alphas=[0, 0.25, 0.5], gate={})
