"""The second grader: math-verify, called as verl calls it, to estimate our grader's errors.

Source: verl, `verl/utils/reward_score/math_verify.py` (https://github.com/volcengine/verl). It
looks for numbers and LaTeX in the whole text and takes the first that it can read. It shares no
rule with ours, so its errors are others. Call it from a worker that can be killed.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence


def math_verify_grade(text: str, golds: Sequence[str]) -> bool | None:
    """Whether math-verify calls a completion correct by any of its golds; None if it fails. Its own
    limits of five seconds apply, since a worker calls it in the main thread."""
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

    logging.getLogger("math_verify").setLevel(logging.ERROR)
    try:
        answers = parse(text, (ExprExtractionConfig(), LatexExtractionConfig()))
        for gold in golds:
            expected = parse(f"\\boxed{{{gold}}}", (LatexExtractionConfig(),))
            if any(verify(one, other) for one in expected for other in answers):
                return True
    except (Exception, MemoryError):  # hostile input can raise anything
        return None
    return False
