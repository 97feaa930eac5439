"""Grade one completion: the last box, then string equality, then math-verify.

Pure and single-threaded, but not bounded in time: model output is hostile input, so the stage calls
this from worker processes it can kill (`workers.py`).
"""

from __future__ import annotations

import logging
import re
from typing import Any

from svdjobs.records import Outcome

_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
_INTEGER = re.compile(r"[+-]?[0-9]+")


def last_boxed(text: str) -> str | None:
    r"""Content of the last complete `\boxed{…}` (balanced braces), or None.

    The last one, because models correct themselves; math-verify alone reads two boxes on one line
    as a set. A box that never closes is no answer. Linear in the length of the text, also for a
    flood of unclosed boxes.
    """
    opening = {match.end() - 1: match.start() for match in _BOX.finditer(text)}
    stack: list[int] = []
    best: tuple[int, int] | None = None
    escaped = False
    for position, character in enumerate(text):
        if escaped:
            escaped = False
        elif character == "\\":
            escaped = True
        elif character == "{":
            stack.append(position)
        elif character == "}" and stack:
            start = stack.pop()
            # Whatever closes last wins: of nested boxes the outermost, of several the last.
            if start in opening:
                best = (start + 1, position)
    return text[best[0] : best[1]].strip() if best else None


def normalise(answer: str) -> str:
    """Strip what never changes the meaning: dollars, outer spaces, a final full stop."""
    text = answer.strip().strip("$").strip()
    text = text.removesuffix(".").replace("\\!", "").replace("\\,", "")
    return re.sub(r"\s+", " ", text)


def _canonical(integer: str) -> str:
    """An integer without plus sign or leading zeros; text, because int() refuses 5,000 digits."""
    digits = integer.lstrip("+-").lstrip("0") or "0"
    return f"-{digits}" if integer.startswith("-") and digits != "0" else digits


def grade_completion(text: str, gold: str) -> Outcome:
    r"""Outcome of a completion against its gold.

    Equal strings are correct; otherwise math-verify decides on `\boxed{answer}` alone, gold first
    (its `verify` is not symmetric). Source: https://github.com/huggingface/Math-Verify.
    """
    answer = last_boxed(text)
    if answer is None or not answer:
        return Outcome.NO_ANSWER
    return grade_answer(answer, gold)


def grade_answer(answer: str, gold: str) -> Outcome:
    """Outcome of an extracted answer against its gold."""
    found, expected = normalise(answer), normalise(gold)
    if found == expected:
        return Outcome.CORRECT
    if _INTEGER.fullmatch(found) and _INTEGER.fullmatch(expected):
        # Most answers are plain integers; no algebra is needed to tell two apart.
        return Outcome.CORRECT if _canonical(found) == _canonical(expected) else Outcome.WRONG
    parsed_gold = _parse(gold)
    if not parsed_gold:
        return Outcome.GOLD_ERROR
    parsed_answer = _parse(answer)
    if not parsed_answer:
        return Outcome.PARSE_ERROR
    from math_verify import verify

    equal = verify(parsed_gold, parsed_answer, timeout_seconds=None)
    return Outcome.CORRECT if equal else Outcome.WRONG


def _parse(answer: str) -> list[Any]:
    """math-verify's reading of one answer; empty where it has none.

    Its own SIGALRM time-outs are switched off: they cannot stop C code and work in the main thread
    only. The worker's limit replaces them, so its warning about that is silenced.
    """
    from math_verify import parse

    logging.getLogger("math_verify").setLevel(logging.ERROR)
    parsed: list[Any] = parse(
        f"\\boxed{{{normalise(answer)}}}", fallback_mode="no_fallback", parsing_timeout=None
    )
    return parsed
