r"""Grade one completion: extract its answer, compare it as text, as a number, then as mathematics.

Pure and single-threaded, but not bounded in time. Completions are hostile input, so this runs in
worker processes that can be killed (`pool.py`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from svdjobs.evaluation.answers import algebra, equality, structure
from svdjobs.evaluation.answers.extraction import ExtractedAnswer, find_answer
from svdjobs.evaluation.answers.normal_form import (
    MAX_CHARACTERS,
    canonical_integer,
    exact_rational,
    normalise,
)
from svdjobs.evaluation.answers.tokens import Node, UnreadableError
from svdjobs.evaluation.answers.values import HugeError
from svdjobs.records import Outcome

_BASE_WORDS = {"two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7",
               "eight": "8", "nine": "9", "ten": "10", "twelve": "12", "sixteen": "16"}  # fmt: skip
_BASED = re.compile(
    r"(?<![A-Za-z0-9_])\(?(\d[\dA-F]*)\)?_"
    rf"(?:\{{?(\d+)\}}?|\{{?\\text\{{({'|'.join(_BASE_WORDS)})\}}\}}?)"
)
_FONT = re.compile(r"\\(?:text|mathrm|mathbf)(?:bf|rm|it|normal)?\{(\([A-J]\)[^{}]*)\}")
_WRAPPED = re.compile(r"\\(?:text|mathrm)\{([^{}]*)\}")
_CHOICE = re.compile(r"\(([A-J])\)[\s:.]*(.*)", re.DOTALL)


def grade_completion(text: str, gold: str | Sequence[str], *, cut_off: bool = False) -> Outcome:
    """Outcome of a completion against its gold, or against several golds any of which will do."""
    extracted = answer_in(text, gold, cut_off=cut_off)
    if extracted is None:
        return unanswered(cut_off=cut_off)
    return grade_any(extracted.answer, gold)


def answer_in(
    text: str, gold: str | Sequence[str], *, cut_off: bool = False
) -> ExtractedAnswer | None:
    """The answer of a completion.

    If a gold is a list, and no box is itself one, all boxes of the last sentence are joined.
    """
    extracted = find_answer(text, cut_off=cut_off)
    if extracted is None or not extracted.boxes:
        return extracted
    golds = [gold] if isinstance(gold, str) else gold
    use_all_boxes = any(map(_is_list, golds)) and not any(map(_is_list, extracted.boxes))
    return extracted._replace(answer=", ".join(extracted.boxes)) if use_all_boxes else extracted


def _is_list(text: str) -> bool:
    if len(text) > MAX_CHARACTERS:
        return False
    node = _read(normalise(text))
    return node is not None and (node.kind == "list" or (node.kind, node.value) == ("group", "{}"))


def unanswered(*, cut_off: bool) -> Outcome:
    """Outcome of a completion without an answer."""
    return Outcome.TRUNCATED if cut_off else Outcome.NO_ANSWER


def grade_any(answer: str, gold: str | Sequence[str]) -> Outcome:
    """Outcome of an extracted answer against one gold or several.

    Correct if any gold equals it; else gold_error if a gold is unreadable, since it might have
    matched; else the first gold's outcome.
    """
    golds = [gold] if isinstance(gold, str) else list(gold)
    outcomes = [grade_answer(answer, g) for g in golds] or [Outcome.GOLD_ERROR]
    for outcome in (Outcome.CORRECT, Outcome.GOLD_ERROR):
        if outcome in outcomes:
            return outcome
    return outcomes[0]


def grade_answer(answer: str, gold: str) -> Outcome:
    """Outcome of an extracted answer against one gold.

    Each step decides only what it can decide with certainty; mathematics comes last. An answer that
    cannot be read is right only if its text equals the gold's.
    """
    if not gold.strip():
        return Outcome.GOLD_ERROR
    if answer.strip() == gold.strip():
        return Outcome.CORRECT
    integers = canonical_integer(answer.strip()), canonical_integer(gold.strip())
    if None not in integers:
        return _correct_if(integers[0] == integers[1])
    if len(gold) > MAX_CHARACTERS:
        return Outcome.GOLD_ERROR
    if len(answer) > MAX_CHARACTERS:
        return Outcome.PARSE_ERROR
    return _grade_normal(normalise(answer), normalise(gold))


@lru_cache(maxsize=4096)
def _grade_normal(answer: str, gold: str) -> Outcome:
    """Outcome of two normal forms. Cached, since a run repeats the same wrong answers often."""
    if answer == gold:
        return _correct_if(bool(gold))
    for decide in (_as_rationals, _as_based_numerals, _as_choices):
        outcome = decide(answer, gold)
        if outcome is not None:
            return outcome
    return _as_mathematics(answer, gold)


def _correct_if(equal: bool) -> Outcome:
    return Outcome.CORRECT if equal else Outcome.WRONG


def _as_rationals(answer: str, gold: str) -> Outcome | None:
    """Compare integers, fractions and decimals; None if one is another, or may be a rounding."""
    own, expected = exact_rational(answer), exact_rational(gold)
    if own is None or expected is None:
        return None
    (a, a_is_decimal), (b, b_is_decimal) = own, expected
    if a == b:
        return Outcome.CORRECT
    return None if a_is_decimal or b_is_decimal else Outcome.WRONG


def _as_based_numerals(answer: str, gold: str) -> Outcome | None:
    r"""Compare the numerals with a base (`52_8`) by digits and base; None if they do not decide."""
    if _based_numerals(answer) != _based_numerals(gold):
        return Outcome.WRONG
    nothing_else = _BASED.fullmatch(answer) and _BASED.fullmatch(gold)
    return Outcome.CORRECT if nothing_else else None


def _based_numerals(text: str) -> list[tuple[str, str]]:
    numerals = []
    for digits, base, word in _BASED.findall(text):
        base = base or _BASE_WORDS[word]
        # 5C_2 counts combinations; letters are digits only in bases above ten.
        if digits.isdigit() or int(base) > 10:
            numerals.append((digits.lstrip("0"), base))
    return sorted(numerals)


def _as_choices(answer: str, gold: str) -> Outcome | None:
    r"""Compare options of a multiple choice, `\text{(C)}\ 12`, by letter, or by value if one has no
    letter."""
    (letter, rest), (gold_letter, gold_rest) = _choice(answer), _choice(gold)
    if not letter and not gold_letter:
        return None
    letter = letter or _bare_letter(answer)
    gold_letter = gold_letter or _bare_letter(gold)
    if letter and gold_letter:
        return _correct_if(letter == gold_letter)
    if letter and rest:
        return grade_answer(rest, gold)
    if gold_letter and gold_rest:
        return grade_answer(answer, gold_rest)
    return None


def _bare_letter(text: str) -> str:
    words = structure.plain_words(text)
    return words if re.fullmatch("[A-J]", words) else ""


def _choice(text: str) -> tuple[str, str]:
    """Letter and value of an option; the letter is empty if the text is no option."""
    match = _CHOICE.fullmatch(_FONT.sub(r"\1", text, count=1))
    return (match[1], match[2].strip()) if match else ("", text)


def is_readable(gold: str) -> bool:
    """Whether the grader can read a gold; answers to its problem cannot be graded otherwise."""
    normal = normalise(gold)
    if not normal or len(gold) > MAX_CHARACTERS:
        return False
    needs_no_reader = exact_rational(normal) or _BASED.fullmatch(normal) or _choice(normal)[0]
    return bool(needs_no_reader) or _read(normal) is not None or _needs_library(normal)


def _needs_library(normal: str) -> bool:
    return algebra.is_needed(normal) and algebra.read(normal) is not None


def _as_mathematics(answer: str, gold: str) -> Outcome:
    """Compare by structure and value; by the library if only it can read one of them."""
    expected, own = _read(gold), _read(answer)
    if expected is not None and own is not None:
        try:
            return _correct_if(equality.matches(expected, own))
        except HugeError:
            # If the gold is computable, the answer is not, so they differ.
            return Outcome.WRONG if equality.computable(expected) else Outcome.PARSE_ERROR
    needed = algebra.is_needed(gold) or algebra.is_needed(answer)
    if needed and algebra.read(gold) is not None and algebra.read(answer) is not None:
        return _correct_if(algebra.equal(gold, answer))
    if _WRAPPED.sub(r"\1", answer).split() == _WRAPPED.sub(r"\1", gold).split():
        return Outcome.CORRECT
    return Outcome.PARSE_ERROR if is_readable(gold) else Outcome.GOLD_ERROR


def _read(normal: str) -> Node | None:
    """The structure of a normal form; None if it cannot be read, whatever the reader raises.

    Answers are hostile, and golds may be anything: Python itself raises ValueError for a number of
    4,300 digits.
    """
    try:
        return structure.read(normal)
    except (UnreadableError, ValueError, ArithmeticError, RecursionError):
        return None
