"""The second grader: math-verify, called as verl does, so that a run knows its own grader's error.

Source: verl, `verl/utils/reward_score/math_verify.py` (https://github.com/volcengine/verl). It
looks for numbers and LaTeX in the whole text, takes the first that it can read, and knows nothing
of our rules, so its errors are others than ours. Call it from a worker that can be killed.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence


def second_opinion(text: str, golds: Sequence[str]) -> bool | None:
    """Whether math-verify calls a completion correct by any of its golds; None where it breaks
    down. Its own limits of five seconds each hold, in the main thread."""
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

    logging.getLogger("math_verify").setLevel(logging.ERROR)
    try:
        found = parse(text, (ExprExtractionConfig(), LatexExtractionConfig()))
        for gold in golds:
            expected = parse(f"\\boxed{{{gold}}}", (LatexExtractionConfig(),))
            if any(verify(one, other) for one in expected for other in found):
                return True
    except (Exception, MemoryError):  # hostile input can raise anything at all
        return None
    return False
