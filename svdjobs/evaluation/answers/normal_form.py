"""Normal forms of answers as text: compared as strings, and read by `structure.py`."""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache

from svdjobs.evaluation.answers.notation import strip_delimiters, strip_formatting, unicode_to_latex

# A longer answer is compared as text and as an integer only, so a page of braces costs nothing. The
# longest gold of the four benchmarks has 53 characters.
MAX_CHARACTERS = 4000
# Thousands: 10,\\!080 and 58{,}500.
_GROUPED = re.compile(r"(?<=\d)(?:,\\!|\{,\}|\\,|\\!)\s*(?=\d{3}(?!\d))")
# (pattern, replacement), applied in order to text without formatting.
_SPELLINGS = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\\[dtc](frac|binom)(?![A-Za-z])", r"\\\1"),
        (r"\\frac\s*(\d)\s*(\d)", r"\\frac{\1}{\2}"),
        (r"\\sqrt\s*(\d)", r"\\sqrt{\1}"),
        (r"\^\s*\{\s*\\(?:circ|degree)\s*\}|\\degree(?![A-Za-z])|\^\s*\\circ\s*", r"^\\circ "),
        (r"\*\*", "^"),
        (r"(?<![\\A-Za-z])pi(?![A-Za-z])", r"\\pi "),
        (r"<=", r"\\le "),
        (r">=", r"\\ge "),
    )
]
_SQRT = re.compile(r"(?<![\\A-Za-z])sqrt\s*\(")
# Every space, except between letters or digits and in `58, 500`, which is a list.
_SPACE = re.compile(r"(?<![A-Za-z0-9])(?:(?<!\d,)\s+|\s+(?!\d{3}(?!\d)))|\s+(?![A-Za-z0-9])")
_NUMBER = re.compile(r"([+-]?)(\d{1,3}(?:,\d{3})+|\d*)(\.\d+)?(?:[eE]([+-]?\d{1,3}))?")
_RATIO = re.compile(r"([+-]?)\\frac\{([+-]?\d+)\}\{([+-]?\d+)\}|([+-]?)([+-]?\d+)/(\d+)")
_INTEGER = re.compile(r"[+-]?[0-9]+")


def normalise(answer: str) -> str:
    """Remove what never changes the meaning: dollars, sizes, spacing, a final full stop.

    Plain and Unicode notation become LaTeX (`2**(1/4)`, `sqrt(3)`, `74°`). A text longer than
    MAX_CHARACTERS stays as it is.
    """
    text = answer.strip()
    return text if len(text) > MAX_CHARACTERS else _normalise(text)


@lru_cache(maxsize=4096)
def _normalise(text: str) -> str:
    text = strip_delimiters(strip_formatting(_GROUPED.sub("", unicode_to_latex(text))))
    if "$" in text:
        text = re.sub(r"(?<!\\)\$", "", text)
    for pattern, replacement in _SPELLINGS:
        text = pattern.sub(replacement, text)
    return _SPACE.sub("", " ".join(_plain_roots(text).split()))


def _plain_roots(text: str) -> str:
    r"""`sqrt(…)` as `\sqrt{…}`; a parenthesis that never closes is left as it is."""
    while match := _SQRT.search(text):
        depth, end = 1, match.end()
        while depth and end < len(text):
            depth += (text[end] == "(") - (text[end] == ")")
            end += 1
        if depth:
            return text
        text = f"{text[: match.start()]}\\sqrt{{{text[match.end() : end - 1]}}}{text[end:]}"
    return text


def canonical_integer(text: str) -> str | None:
    """An integer without plus sign or leading zeros; None for anything else.

    It stays text, because int() refuses 5,000 digits.
    """
    if not _INTEGER.fullmatch(text):
        return None
    digits = text.lstrip("+-").lstrip("0") or "0"
    return f"-{digits}" if text.startswith("-") and digits != "0" else digits


@lru_cache(maxsize=4096)
def exact_rational(normal: str) -> tuple[Fraction, bool] | None:
    """The value of a plain integer, fraction or decimal, and whether it is a decimal, which may be
    rounded.

    None for anything else, percentages and mixed numbers included: `structure.py` reads those.
    """
    if number := _NUMBER.fullmatch(normal):
        sign, whole, decimals, exponent = number.groups()
        if not whole and not decimals:
            return None
        value = Fraction(f"{whole.replace(',', '') or 0}{decimals or ''}")
        value *= Fraction(10) ** int(exponent or 0)
        return (-value if sign == "-" else value), bool(decimals or exponent)
    if ratio := _RATIO.fullmatch(normal):
        sign, top, bottom = (g for g in ratio.groups() if g is not None)
        if int(bottom) == 0:
            return None
        return Fraction(int(top), int(bottom)) * (-1 if sign == "-" else 1), False
    return None
