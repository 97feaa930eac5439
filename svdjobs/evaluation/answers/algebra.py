r"""Sums, integrals and limits, which the project's own reader does not know: math-verify's part.

Not bounded in time: call it from a worker process that can be killed. The library
(https://github.com/huggingface/Math-Verify) is pinned, since its verdicts change, and every
manifest's provenance names its version. It gets only text with one of `_COMMANDS`, and always the
whole text: its grammar is lenient (`expressions.py` says how), and its extraction takes fragments.
"""

from __future__ import annotations

import logging
import re
from functools import lru_cache
from typing import Any

_COMMANDS = re.compile(r"\\(?:int|iint|oint|sum|prod|lim|det|partial|nabla)(?![A-Za-z])")
# The library never gets text with these: it reads `x'` as x.
_UNSAFE = re.compile(r"\\(?:text|mathrm|operatorname)|'")


def warm_up() -> None:
    """Import the library and its grammar before the clock of the first answer starts."""
    equal("10", r"\sum_{k=1}^{4}k")


def is_needed(normal: str) -> bool:
    """Whether an answer in normal form has a command that only the library can read."""
    return bool(_COMMANDS.search(normal)) and not _UNSAFE.search(normal)


@lru_cache(maxsize=4096)
def read(normal: str) -> Any | None:
    """The library's reading of a whole answer in normal form; None if it cannot read it."""
    from latex2sympy2_extended.latex2sympy2 import ConversionConfig, latex2sympy

    if _UNSAFE.search(normal):
        return None
    try:
        return latex2sympy(
            normal,
            is_real=True,
            convert_degrees=False,
            normalization_config=None,
            conversion_config=ConversionConfig(lowercase_symbols=False),
        )
    except Exception:  # the grammar raises bare exceptions
        return None


def equal(gold: str, answer: str) -> bool:
    """Whether two readable answers in normal form are equal. verify() is not symmetric.

    Its own SIGALRM time limits are off, since they cannot stop C code and work in the main thread
    only; the worker's limit replaces them. The library's warning about that is silenced.
    """
    from math_verify import verify

    logging.getLogger("math_verify").setLevel(logging.ERROR)
    return bool(verify([read(gold)], [read(answer)], timeout_seconds=None))
