"""What a report will not say with the settings that it is made by."""

from __future__ import annotations

from svdjobs.config import EvaluateConfig, SweepConfig


def lacks(config: SweepConfig) -> list[str]:
    """What the report will lack, and which setting leaves it out; a sentence each."""
    found = []
    if config.evaluate is None:
        found.append("no accuracy and no likelihood: there is no `evaluate` section")
    else:
        found += _of_answers(config.evaluate)
    if config.rotations is None:
        found.append("no rotation of the bases: there is no `rotations` section")
    elif not config.rotations.null_draws:
        found.append("no random update beside the rotation: rotations.null_draws is 0")
    if not config.alphas:
        found.append("no blend: `alphas` is empty")
    return found


def _of_answers(evaluate: EvaluateConfig) -> list[str]:
    found = []
    if not evaluate.teacher_forced:
        found.append("no likelihood of after's answers: evaluate.teacher_forced is 0")
    elif (evaluate.temperature, evaluate.top_p) != (1, 1):
        found.append(
            f"no divergence from after: it needs answers that were drawn with temperature 1 and "
            f"top_p 1, here {evaluate.temperature:g} and {evaluate.top_p:g}"
        )
    if evaluate.temperature == 0 and evaluate.n_samples > 1:
        found.append(
            f"nothing new from {evaluate.n_samples} completions of each problem instead of one: "
            f"at temperature 0 they are all the same"
        )
    if evaluate.n_samples == 1:
        found.append("no pass@k but pass@1, and no majority vote: evaluate.n_samples is 1")
    return found
