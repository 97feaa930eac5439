r"""Units: what stands after a number (or before it) and is neither mathematics nor prose.

Gold or answer may leave out its unit. If both have one, the two must be the same, in whatever
spelling. Nothing is converted: `3\text{ m}` is neither `3\text{ cm}` nor `300\text{ cm}`. Words
that are no unit (`\text{ if odd}`, `\text{ times}`) make an answer unreadable.
"""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache

from svdjobs.evaluation.answers.tokens import UnreadableError

PERCENT = "%"
DEGREE = "degree"
ANY = "unit"
"""The unit `units`, which equals any unit of the same power."""

_SPELLINGS = {
    "mm": "mm millimeter millimeters millimetre millimetres",
    "cm": "cm cms centimeter centimeters centimetre centimetres",
    "m": "m meter meters metre metres",
    "km": "km kms kilometer kilometers kilometre kilometres",
    "inch": "in inch inches",
    "foot": "ft foot feet",
    "yard": "yd yds yard yards",
    "mile": "mi mile miles",
    "mg": "mg milligram milligrams",
    "g": "g gm gms gram grams",
    "kg": "kg kgs kilogram kilograms",
    "pound": "lb lbs pound pounds",
    "ounce": "oz ounce ounces",
    "ton": "ton tons",
    "ml": "mL ml milliliter milliliters millilitre millilitres",
    "l": "L l liter liters litre litres",
    "gallon": "gal gallon gallons",
    "second": "s sec secs second seconds",
    "minute": "min mins minute minutes",
    "hour": "h hr hrs hour hours",
    "day": "day days",
    "week": "week weeks",
    "month": "month months",
    "year": "yr yrs year years",
    "mile/hour": "mph",
    "km/hour": "kmph kph",
    "dollar": "dollar dollars USD",
    "cent": "cent cents",
    "euro": "euro euros",
    "rupee": "rupee rupees Rs",
    DEGREE: "degree degrees deg",
    "radian": "rad rads radian radians",
    ANY: "unit units",
    PERCENT: "percent percentage pct",
    "person": "person persons people",
    "child": "child children",
    "man": "man men",
    "woman": "woman women",
    "die": "die dice",
    "way": "way ways",
    "newton": "N newton newtons",
    "joule": "J joule joules",
    "watt": "W watt watts",
    "volt": "V volt volts",
    "hectare": "ha hectare hectares",
    "acre": "acre acres",
    # Times of day: 3 pm is not 3 am.
    "pm": "pm",
    "am": "am",
}
_UNITS = {word: unit for unit, words in _SPELLINGS.items() for word in words.split()}
_SCALES = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}
_POWERS = {"square": 2, "sq": 2, "sq.": 2, "cubic": 3, "cu": 3, "cu.": 3}
_POWERS_AFTER = {"squared": 2, "cubed": 3}
# Words that are no unit though many are plural: parts, multiples, conditions.
_NO_UNITS = frozenset(
    (
        "times", "plus", "minus", "less", "unless", "always", "sometimes", "halves", "thirds",
        "quarters", "tens", "dozens", "pairs", "hundreds", "thousands", "millions", "billions",
        "trillions", "squares", "cubes", "powers", "is", "has", "equals", "gives", "as", "its",
        "this", "was", "does", "others", "otherwise", "else", "modulus", "means", "perhaps",
        "yes", "negatives", "opposites", "multiples", "inverses", "factors", "roots", "radicals",
        "followers", "versus", "across", "besides", "towards", "exceeds", "approaches", "tends",
    )
)  # fmt: skip
_FUNCTION_WORDS = frozenset(
    (
        "if", "or", "and", "at", "in", "to", "not", "no", "the", "than", "when", "where", "for",
        "mod", "base", "by", "from", "with", "half",
    )
)  # fmt: skip
_FRACTIONAL = re.compile(
    r"(?:half|third|quarter|fourth|fifth|sixth|seventh|eighth|ninth|tenth|eleventh|twelfth|"
    r"\w*(?:teenth|ieth|hundredth|thousandth|millionth))s?"
)
_WORD = re.compile(r"[A-Za-z][A-Za-z'’-]*\.?")
_CONTENT = r"\\(?:text|mathrm)\s*\{([^{}]*)\}"
_RAISED = r"(?:\s*\^\s*(?:\{\s*(-?\d)\s*\}|(\d)))?"
_TAIL = re.compile(rf"\s*((?:(?:{_CONTENT}){_RAISED}\s*/?\s*)+)$")
_PIECE = re.compile(_CONTENT + _RAISED)
_PLAIN_TAIL = re.compile(
    r"(?:(?<=[\d})])\s*|\s+)"
    r"((?:(?:[A-Za-z]{2,}\.?|sq\.)\s+){0,3}[A-Za-z]{2,}(?:\s*\^\s*\{?[23]\}?)?(?:\s*/\s*[A-Za-z]+)?)$"
)
_TEMPERATURE = re.compile(
    r"\s*\^\s*\{?\s*\\circ\s*\}?\s*(?:\\(?:text|mathrm)\s*\{\s*([CF])\s*\}|([CF]))$"
)
_DEGREES = re.compile(r"\s*(?:\^\s*\{?\s*\\circ\s*\}?)$")
_ANGLE_OF = re.compile(r"\\?(?:sin|cos|tan|cot|sec|csc)(?![A-Za-z])")
_PER_CENT = re.compile(r"\s*(?:\\?%)$")
_MONEY = re.compile(r"^([+-]?)\s*(\\\$|\\pounds|\\text\{\s*(?:USD|Rs\.?)\s*\}|€|£)\s*")
_MONEY_AFTER = re.compile(r"\s*(\\\$|€|£)$")
_CURRENCY = {"\\$": "dollar", "\\pounds": "gbp", "£": "gbp", "€": "euro"}


@lru_cache(maxsize=8192)
def split_unit(text: str) -> tuple[str, Fraction, str]:
    r"""A number without its unit, its scale (`\text{ million}`), and its unit, which may be empty.

    Raises:
        UnreadableError: the words after the number are no unit.
    """
    text, unit = _money(text.strip())
    if match := _TEMPERATURE.search(text):
        return text[: match.start()], Fraction(1), f"degree {match[1] or match[2]}"
    if _ANGLE_OF.search(text) and _DEGREES.search(text):
        return text, Fraction(1), unit  # the degree sign belongs to the trigonometric argument
    for pattern, name in ((_DEGREES, DEGREE), (_PER_CENT, PERCENT)):
        if (match := pattern.search(text)) and text[: match.start()].strip():
            return text[: match.start()], Fraction(1), _same_or_only(unit, name)
    if (match := _TAIL.search(text)) and text[: match.start()].strip():
        scale, name = _scale_and_unit(_PIECE.sub(_with_power, match[1]))
        return text[: match.start()], scale, _same_or_only(unit, name)
    if (match := _PLAIN_TAIL.search(text)) and text[: match.start()].strip():
        try:
            scale, name = _scale_and_unit(match[1].replace("{", "").replace("}", ""))
        except UnreadableError:
            return text, Fraction(1), unit  # not a unit: letters for the scalar reader
        return text[: match.start()], scale, _same_or_only(unit, name)
    return text, Fraction(1), unit


def same_unit(first: str, second: str) -> bool:
    """Whether two units do not contradict each other."""
    if not first or not second or first == second:
        return True
    (base, power), (other, other_power) = (u.partition("^")[::2] for u in (first, second))
    return ANY in (base, other) and power == other_power


def _money(text: str) -> tuple[str, str]:
    if match := _MONEY.search(text):
        sign = re.sub(r"\\text|[{}\s.]", "", match[2])
        return match[1] + text[match.end() :], _CURRENCY.get(sign, _UNITS.get(sign, sign))
    if match := _MONEY_AFTER.search(text):
        return text[: match.start()], _CURRENCY[match[1]]
    return text, ""


def _same_or_only(first: str, second: str) -> str:
    """One unit from two that must be equal, or one of them empty: `\\$5\\text{ dollars}`."""
    if first and second and first != second:
        raise UnreadableError(f"two units: {first} and {second}")
    return first or second


def _with_power(piece: re.Match[str]) -> str:
    power = piece[2] or piece[3]
    return f" {piece[1]}^{power} " if power else f" {piece[1]} "


def _scale_and_unit(phrase: str) -> tuple[Fraction, str]:
    """The scale and the unit's canonical name in a phrase: `million square miles per hour`.

    Raises:
        UnreadableError: a word of the phrase is no unit.
    """
    scale = Fraction(1)
    words = re.sub(r"\s*\^\s*", "^", phrase).replace("/", " per ").split()
    while words and words[0].lower() in (*_SCALES, "dozen"):
        name = words.pop(0).lower()
        scale *= 12 if name == "dozen" else Fraction(10) ** _SCALES[name]
    if words and words[0].lower() == "of":
        words.pop(0)
    if not words:
        return scale, ""
    parts: list[list[str]] = [[]]
    for word in words:
        if word.lower() == "per":
            parts.append([])
        else:
            parts[-1].append(word)
    return scale, "/".join(_noun(part, counted=not i) for i, part in enumerate(parts))


def _noun(words: list[str], *, counted: bool) -> str:
    """The canonical name of a unit of measure, or of a noun with up to two words before it; a
    `counted` noun must be plural."""
    if not words or len(words) > 3:
        raise UnreadableError(f"no unit: {' '.join(words)!r}")
    power = 1
    if words[0].lower() in _POWERS and len(words) > 1:
        power, words = _POWERS[words[0].lower()], words[1:]
    elif words[-1].lower() in _POWERS_AFTER and len(words) > 1:
        power, words = _POWERS_AFTER[words[-1].lower()], words[:-1]
    last, _, raised = words[-1].partition("^")
    if raised and not re.fullmatch(r"[0-9]{1,2}", raised):
        raise UnreadableError(f"no power of a unit: {raised!r:.40}")
    power = int(raised) if raised else power
    bare = last.rstrip(".")
    name = _UNITS.get(bare) or _UNITS.get(bare.lower() if len(bare) > 2 else bare)
    if name is None or len(words) > 1:
        for word in (*words[:-1], last):
            _check_word(word, noun=word is last and counted and name is None)
        name = " ".join([*words[:-1], name or last.removesuffix("s")]).lower()
    return name if power == 1 else f"{name}^{power}"


def _check_word(word: str, *, noun: bool) -> None:
    """Refuse a word that is no part of a unit; a `noun` must be plural."""
    lower = word.lower()
    plural = len(lower) > 3 and lower.endswith("s") and not lower.endswith("ss")
    excluded = lower in _NO_UNITS or _FRACTIONAL.fullmatch(lower)
    if not _WORD.fullmatch(word) or lower in _FUNCTION_WORDS or excluded or (noun and not plural):
        raise UnreadableError(f"no unit: {word!r}")
