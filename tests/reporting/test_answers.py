from __future__ import annotations

import math
import random
import re
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from svdjobs.config import EvaluateConfig
from svdjobs.config_file import parse_config
from svdjobs.records import Interval, Likelihood, MapReading, Outcome, Reading, Summary, TensorPlan
from svdjobs.reporting import text
from svdjobs.reporting.data import Content, Question, interval_text, points
from svdjobs.reporting.sections import answers
from svdjobs.reporting.sections.accuracy import accuracy_table, outcomes_table
from svdjobs.reporting.sections.likelihood import divergences, likelihood_table
from svdjobs.reporting.sections.reading import alpha_ranges, best_alpha
from svdjobs.statistics import mean_interval
from svdjobs.variant_config import MapConfig


def summary(checkpoint: str, scores: list[float], **outcomes: int) -> Summary:
    return Summary(
        checkpoint=checkpoint,
        benchmark="b",
        benchmark_sha256="",
        prompts_sha256="",
        engine="",
        dtype="float32",
        n=2,
        problems=len(scores),
        avg_at_n=mean_interval(scores),
        outcomes={o: outcomes.get(o.value, 0) for o in Outcome},
        truncated=3,
        completion_tokens_mean=1,
        problem_scores=scores,
    )


def content(**by_id: list[float]) -> Content:
    config = parse_config({"name": "x", "before": "a", "after": "b"}, where="")
    plan: Any = SimpleNamespace(tensors=[], rounding={}, architecture="Q")
    ids = {"zero": "alpha-0.0000"}
    summaries = {ids.get(i, i): summary(i, s, timeout=2, no_answer=5) for i, s in by_id.items()}
    return Content(config, plan, {"b": summaries}, {}, {}, {}, [])


def said(found: Content, question: Question) -> str:
    """What the report answers to a question."""
    return " ".join(answers(found)[question])


def test_headlines_say_how_sure_they_are() -> None:
    before, after = [0.0, 0.5, 0.0, 0.5] * 10, [0.5, 1.0, 1.0, 0.5] * 10
    flat = content(before=before, after=after, zero=after)
    assert said(flat, Question.GAIN) == (
        "After scores 75.0 %, before 25.0 %; RL changed accuracy by +50.00 [+38.55, +61.45] points."
    )
    assert "every problem scored the same" in said(flat, Question.VALUES)
    assert "only from about 3.9 points on (in 4 of 5 runs)." in said(flat, Question.VALUES)
    noisy = [0.5, 1.0, 0.5, 1.0] * 10
    for zero, words in ((noisy, "it cannot be told from none"), (before, "a real diff")):
        found = said(content(before=before, after=after, zero=zero), Question.VALUES)
        assert words in found
        assert "p decides" not in found


def test_an_interval_that_excludes_0_is_no_finding_if_few_problems_changed() -> None:
    after = [1.0] * 100
    zero = [0.0] * 4 + [1.0] * 96
    found = said(content(after=after, zero=zero), Question.VALUES)
    assert "p = 0.12: it cannot be told from none (p decides: the interval is too narrow" in found
    assert "where few problems changed, here 4 of 100, and is of this alpha alone)." in found


def reading(per_problem: list[float], engine_error: float = 0.0) -> Reading:
    return Reading(
        completions=len(per_problem), unread=0, accuracy=mean_interval(per_problem),
        effective_share=1, largest_share=0.1, pareto_k=None, mean_weight=Interval(value=1),
        spread=0.1, noise=0.0, per_problem=dict(enumerate(per_problem)), engine_error=engine_error,
    )  # fmt: skip


def read_content(by_id: dict[str, Reading]) -> Content:
    shown = content(before=[0.0, 0.5] * 20, after=[1.0, 0.5] * 20, zero=[1.0, 0.5] * 20)
    alphas = tuple(sorted(float(i.removeprefix("alpha-")) for i in by_id))
    config = shown.config.model_copy(update={"alphas": alphas})
    return replace(shown, config=config, readings={"b": by_id})


def test_the_best_alpha_is_after_if_all_others_are_behind() -> None:
    rng = random.Random(1)
    cost = [-0.01 + 0.002 * rng.gauss(0, 1) for _ in range(40)]
    found = read_content(
        {"alpha-0.0000": reading(cost), "alpha-0.5000": reading([c / 2 for c in cost])}
    )
    best = best_alpha(found, "b")
    assert best and (best.alpha, best.read, best.alike) == (1.0, True, [])
    words = said(found, Question.BEST)
    assert words.startswith(
        "alpha = 1 (after itself), read from after's answers. alpha = 0 scores "
    )
    read_interval = found.readings["b"]["alpha-0.0000"].accuracy
    assert read_interval and best.behind[0.0][0] == read_interval, "one number has one interval"
    assert "All others surely score less" in words


def test_alphas_within_the_noise_of_the_best_are_named() -> None:
    rng = random.Random(1)
    noise = [0.01 * rng.gauss(0, 1) for _ in range(40)]
    worse = [-0.1 + x for x in noise]
    found = read_content(
        {"alpha-0.0000": reading(worse), "alpha-0.5000": reading(noise),
         "alpha-0.7500": reading([x / 2 for x in noise])}
    )  # fmt: skip
    best = best_alpha(found, "b")
    assert best and len(best.alike) == 2
    assert "cannot be told from it" in said(found, Question.BEST)
    certain = {"alpha-0.5000": reading([-1e-4] * 20 + [-1.1e-4] * 20)}
    blurred = {"alpha-0.5000": reading([-1e-4] * 20 + [-1.1e-4] * 20, engine_error=1e-3)}
    first, second = best_alpha(read_content(certain), "b"), best_alpha(read_content(blurred), "b")
    assert first and first.alike == []
    assert second and second.alike == [0.5], "the engine's own noise counts"


def test_the_best_alpha_by_sampling() -> None:
    after = [1.0, 0.5] * 20
    shown = content(before=[0.0] * 40, after=after, zero=[x - 0.5 for x in after])
    config = shown.config.model_copy(update={"alphas": (0.0,)})
    best = best_alpha(replace(shown, config=config), "b")
    assert best and (best.alpha, best.read, best.alike) == (1.0, False, [])
    assert best_alpha(content(before=after, after=after), "b") is None


def of_matrices(per_problem: list[float]) -> MapReading:
    """All parts together, as a map reads them."""
    return MapReading(
        layer=None, family="all", change=0.1, accuracy=mean_interval(per_problem), nulls=[], p=None,
        per_problem=dict(enumerate(per_problem)), nll=Interval(value=0), kl=Interval(value=0),
    )  # fmt: skip


def divided(values: float, matrices: float | None, gain: float = 0.5, **keys: Any) -> str:
    """The answer on where a planted gain sits: parts of it as fractions of it, with some noise."""
    rng = random.Random(3)
    noise = [0.001 * rng.gauss(0, 1) for _ in range(40)]
    shown = content(before=[0.5 - gain / 2] * 40, after=[0.5 + gain / 2] * 40)
    by_id = {
        "before": reading([-gain + x for x in noise]),
        "alpha-0.0000": reading([-gain * values + x / 2 for x in noise]),
    }
    config = shown.config.model_copy(
        update={"map": None if matrices is None else MapConfig(**keys)}
    )
    whole = [of_matrices([-gain * (matrices or 0) + x / 3 for x in noise])]
    maps = {} if matrices is None else {"b": whole}
    tensors = [TensorPlan(name="e", shape=(2, 2), dtype="F32", skip="embedding")]
    plan: Any = SimpleNamespace(tensors=tensors, rounding={}, architecture="Q")
    made = replace(shown, config=config, plan=plan, readings={"b": by_id}, maps=maps)
    return said(made, Question.SPLIT)


def test_a_planted_gain_is_divided_into_values_vectors_and_the_rest() -> None:
    found = divided(values=0.01, matrices=0.75)
    assert re.match(r"Mostly in the vectors\. RL's change is \+50\.0\d* \[", found)
    assert re.search(r"Singular values: \+0\.5\d* \[.*\] points, 1 % \(read\)", found)
    assert re.search(r"Singular vectors: \+3[67]\.\d+ \[.*\] points, 74 %: what all blended", found)
    assert re.search(
        r"Not blended: \+12\.5\d* \[.*\] points, 25 %, in tensors .*: embedding \(100 %", found
    )
    assert divided(0.01, 1.0).startswith("In the vectors.")
    assert divided(0.9, 1.0).startswith("In the values.")
    assert divided(0.5, 1.0).startswith("In both")
    assert divided(0.01, 0.2).startswith("Hardly in the values.")


def test_a_loss_is_divided_as_a_gain_is() -> None:
    found = divided(values=0.02, matrices=1.0, gain=-0.3)
    assert found.startswith("In the vectors. RL's change is -")
    assert re.search(r"Singular values: -0\.\d+ \[.*\] points, 2 %", found)


def test_a_gain_is_divided_only_as_far_as_it_was_measured() -> None:
    found = divided(values=0.01, matrices=None)
    assert found.startswith("Hardly in the values.")
    assert "A map (`map: {}` in the config) says how much." in found
    for keys in ({"layers": (1,)}, {"by": "head"}, {"rewind": "values"}):
        assert "A map (" in divided(0.01, 0.75, **keys), "a map of a part says nothing of the whole"
    alike = content(before=[0.0, 1.0] * 20, after=[1.0, 0.0] * 20, zero=[1.0, 0.0] * 20)
    assert "so there is nothing to divide" in said(alike, Question.SPLIT)


def test_answers_name_the_benchmark_if_there_are_several() -> None:
    one = content(before=[0.0] * 4, after=[1.0] * 4)
    two = replace(one, summaries={**one.summaries, "c": one.summaries["b"]})
    first, second = answers(two)[Question.GAIN]
    assert (first[:9], second[:9]) == ("b: After ", "c: After ")


def test_ranges_of_alphas() -> None:
    among = [0.0, 0.25, 0.5, 0.75, 1.0]
    assert alpha_ranges([0.5], among) == "alpha = 0.5"
    assert alpha_ranges([0.25, 0.5], among) == "alpha = 0.25 and 0.5"
    assert alpha_ranges([0.0, 0.5, 0.75, 1.0], among) == "alpha = 0 and 0.5 to 1"


def likelihood(idx: int, log_probabilities: list[float]) -> Likelihood:
    return Likelihood(idx=idx, sample_index=0, log_probabilities=log_probabilities)


def test_an_effect_that_the_likelihood_shows_is_not_denied() -> None:
    rng = random.Random(0)
    same = [0.5, 1.0, 0.5, 1.0]
    shown = content(before=same, after=same, zero=same)
    tokens = [[rng.gauss(-1, 0.5) for _ in range(50)] for _ in range(4)]

    def read(shift: float) -> list[Likelihood]:
        return [
            Likelihood(
                idx=i, sample_index=0, log_probabilities=[t + rng.gauss(0, shift) for t in own]
            )
            for i, own in enumerate(tokens)
        ]

    sampled = shown.config.model_copy(
        update={
            "evaluate": EvaluateConfig.model_validate(
                {"benchmarks": [{"name": "b", "data": "b.jsonl"}]}
            )
        }
    )
    for shift, seen in ((1e-2, True), (1e-6, False)):
        found = {"b": {"after": read(0), "alpha-0.0000": read(shift)}}
        line = said(replace(shown, config=sampled, likelihoods=found), Question.VALUES)
        assert ("does show one: KL" in line) == seen


def test_an_answer_that_was_not_read_is_said_and_averaged_over_by_nobody() -> None:
    """The KL is over the one completion whose likelihood is known under both checkpoints."""
    same = [0.5, 1.0]
    shown = content(before=same, after=same)
    sampled = shown.config.model_copy(
        update={
            "evaluate": EvaluateConfig.model_validate(
                {"benchmarks": [{"name": "b", "data": "b.jsonl"}]}
            )
        }
    )
    first, second = ([-1.0, -2.0], [-1.5, -2.5]), ([-3.0, -1.0], [-3.0, -1.0])

    def rows(*tokens: list[float]) -> list[Likelihood]:
        return [
            Likelihood(idx=i, sample_index=0, log_probabilities=t) for i, t in enumerate(tokens)
        ]

    by_id = {"after": rows(first[0]), "before": rows(first[1], second[1])}
    found = replace(shown, config=sampled, likelihoods={"b": by_id})
    kl = divergences(found, "b")["before"].value.value
    assert kl == pytest.approx(math.expm1(-0.5) + 0.5)
    assert "missing: after 1." in likelihood_table(found, "b").caption


def test_unscored_and_truncated_are_shown() -> None:
    shown = content(before=[0.0, 1.0], after=[1.0, 1.0])
    assert outcomes_table(shown, "b").rows[0] == ["before", "7", "0", "0", "0", "0", "5", "2"]
    assert accuracy_table(shown, "b").rows[1][2] == "-"  # no spread, no interval


def test_numbers_as_text() -> None:
    known = Interval(value=0.01, low=-0.02, high=0.04)
    assert points(known) == "+1.00 [-2.00, +4.00]"
    assert points(Interval(value=0)) == "0 (same scores)"
    assert interval_text(known) == "[-2.0, 4.0]"
    assert interval_text(Interval(value=0.5)) == "-"


def test_plain_table_is_aligned() -> None:
    table = accuracy_table(content(before=[0.0, 1.0], after=[1.0, 1.0]), "b")
    lines = text.plain_table(table).splitlines()
    assert len({len(line) for line in lines[2:]}) == 1
