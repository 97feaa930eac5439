r"""Unicode to LaTeX, and the removal of formatting, which never changes what an answer means.

Formatting is sizes, colours, fonts, underlines, and LaTeX and Markdown delimiters. Units and words
may change the meaning: they are not removed here, but read in `units.py`.
"""

from __future__ import annotations

import re
import unicodedata

_SIGNS = {
    "−": "-", "–": "-", "—": "-", "‐": "-", "‑": "-", "×": r"\times ", "·": r"\cdot ",
    "⋅": r"\cdot ", "∙": r"\cdot ", "∗": "*", "÷": "/", "⁄": "/", "∕": "/", "°": r"^\circ ",
    "º": r"^\circ ", "∘": r"^\circ ", "π": r"\pi ", "∞": r"\infty ", "≤": r"\le ", "⩽": r"\le ",
    "≥": r"\ge ", "⩾": r"\ge ", "≠": r"\ne ", "≈": r"\approx ", "±": r"\pm ", "∓": r"\mp ",
    "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "∅": r"\emptyset ", "ø": r"\emptyset ",
    "√": r"\√ ", "∛": r"\√[3]", "∜": r"\√[4]", "ℝ": r"\mathbb{R}", "ℤ": r"\mathbb{Z}",
    "ℕ": r"\mathbb{N}", "ℚ": r"\mathbb{Q}", "ℂ": r"\mathbb{C}", "⟨": r"\langle ", "⟩": r"\rangle ",
    "∠": r"\angle ", "△": r"\triangle ", "′": "'", "’": "'", "“": '"', "”": '"', "∧": r"\wedge ",
    "∨": r"\vee ", "→": r"\to ", "⇒": r"\Rightarrow ", "∴": r"\therefore ", "…": r"\ldots ",
    "₹": r"\$", "¢": r"\text{ cents}", "。": ".", "、": ",", "【": "[", "】": "]",
    "\u200b": "", "\ufeff": "", "\u2061": "",
}  # fmt: skip
_GREEK = "αalpha βbeta γgamma δdelta εepsilon ζzeta ηeta θtheta λlambda μmu ρrho σsigma τtau φphi "
_GREEK += "χchi ψpsi ωomega ΓGamma ΔDelta ΘTheta ΛLambda ΣSigma ΦPhi ΨPsi ΩOmega"
_SUPERSCRIPTS = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿ", "0123456789+-()n", strict=True))
_SUBSCRIPTS = dict(zip("₀₁₂₃₄₅₆₇₈₉₊₋ₙ", "0123456789+-n", strict=True))
_TABLE = str.maketrans(
    _SIGNS
    | {word[0]: rf"\{word[1:]} " for word in _GREEK.split()}
    | {chr(code): chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)}
    | dict.fromkeys("\u00a0\u2002\u2003\u2009\u202f\u3000", " ")
)
_RAISED = re.compile(f"[{''.join(_SUPERSCRIPTS)}]+")
_LOWERED = re.compile(f"[{''.join(_SUBSCRIPTS)}]+")
_FRACTION = re.compile("[¼½¾⅐-⅞]")
_ASCII = re.compile(r"[\x00-\x7f]*")

_BRACED = r"\s*\{([^{}]*(?:\{[^{}]*\}[^{}]*)*)\}"
_WRAPPERS = (
    "underline|underbrace|mathbf|boldsymbol|bm|mathit|mathsf|ensuremath|boxed|fbox|mathstrut"
)
_WORDS = "mbox|hbox|textbf|textit|textrm|textsf|textup|textnormal|emph|texttt|textsc"
_FORMATTING = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\\textcolor\s*(?:\[[^\]]*\])?\s*\{[^{}]*\}" + _BRACED, r"\1"),
        (r"\\color\s*(?:\[[^\]]*\])?\s*\{[^{}]*\}", ""),
        (r"\{\s*\\(?:rm|bf|it|sf)\s+([^{}]*)\}", r"\\text{\1}"),
        (r"\\(?:hspace|vspace|phantom|hphantom|label|tag)\*?\s*\{[^{}]*\}", " "),
        (rf"\\(?:{_WRAPPERS})(?![A-Za-z])" + _BRACED, r"{\1}"),
        (rf"\\(?:{_WORDS})(?![A-Za-z])", r"\\text"),
        (r"\\text\s*\{\\\w+\{([^{}]*)\}\}", r"\\text{\1}"),
        (r"(\\\\)\s*\[\s*-?[\d.]+\s*(?:pt|em|ex|mm|cm)\s*\]", r"\1"),  # space below a row
        (r"\\[mb]?(?:left|right|[bB]igg?[lrm]?)(?![A-Za-z])\s*\.?(?![\d])", ""),
        (r"\\(?:displaystyle|textstyle|scriptstyle|limits|nolimits|bf|it|rm)(?![A-Za-z])", ""),
        (r"(?<!\\)\\[,!;:> ]|(?<!\\)~|(?<!\\)\\(?:q?quad|thinspace)(?![A-Za-z])", " "),
    )
]
_NUMBER_IN_WORDS = re.compile(r"\\text\s*\{([^{}]*\d[^{}]*)\}")
_DELIMITERS = (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"), ("**", "**"), ("`", "`"))
_TRAILING = " \t\n.,;:"


def unicode_to_latex(text: str) -> str:
    """Replace Unicode mathematics and full-width forms by LaTeX's own signs."""
    if _ASCII.fullmatch(text):
        return text
    text = _FRACTION.sub(lambda m: _ratio(m[0]), text)
    text = _RAISED.sub(lambda m: f"^{{{''.join(_SUPERSCRIPTS[c] for c in m[0])}}}", text)
    text = _LOWERED.sub(lambda m: f"_{{{''.join(_SUBSCRIPTS[c] for c in m[0])}}}", text)
    return text.translate(_TABLE)


def _ratio(character: str) -> str:
    top, _, bottom = unicodedata.normalize("NFKC", character).partition("⁄")
    return rf"\frac{{{top}}}{{{bottom}}}" if top and bottom else character


def strip_delimiters(text: str) -> str:
    """Remove delimiters around a text and punctuation after it."""
    while True:
        bare = text.strip()
        # Keep the dots of a repeating decimal (`0.333..`), and LaTeX's spaces.
        if not bare.endswith(("\\,", "\\;", "\\:", "\\.", "..")):
            bare = bare.rstrip(_TRAILING)
        for opening, closing in _DELIMITERS:
            inside = bare[len(opening) : -len(closing)]
            whole = bare.startswith(opening) and bare.endswith(closing) and opening not in inside
            if whole and len(bare) >= len(opening) + len(closing) and closing not in inside:
                bare = inside
        if bare == text:
            return text
        text = bare


def strip_formatting(text: str) -> str:
    """Remove sizes, colours, fonts, underlines and space commands."""
    if "\\" not in text and "~" not in text:
        return text
    for _ in range(3):  # formatting commands nest, rarely
        before = text
        for pattern, replacement in _FORMATTING:
            text = pattern.sub(replacement, text)
        if text == before:
            break
    return _NUMBER_IN_WORDS.sub(r"\1", text)
