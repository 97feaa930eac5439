r"""Which part of a completion is its answer: the only extractor of the project.

In this order: the last complete `\boxed{…}`; the last `<answer>…</answer>`; the last `#### …` line
(GSM8K); the last `Answer: …` line (Minerva, Lewkowycz et al. 2022, appendix D); `\boxed 4` without
braces; a last line that says `the answer is …`; a completion that is nothing but one line of
mathematics. All but the first are not boxed: they are graded, and reported as not boxed. The whole
text is searched, not its last 300 characters as in DAPO's script: one of MATH-500's own solutions
has a figure of 1,900 characters after its box.
"""

from __future__ import annotations

import re
from typing import NamedTuple

# \boxed, \fbox, and a garbled \beginboxed: any command whose name ends in "boxed".
_BOX = re.compile(r"\\(?:[A-Za-z]*boxed|fbox|framebox)\s*\{")
_BRACES = re.compile(r"\\.|[{}]", re.DOTALL)
# The one sign, number or letter that LaTeX would box.
_BARE_BOX = re.compile(
    r"\\(?:boxed|fbox)(?![A-Za-z])\s*([+-]?\d[\d,]*(?:\.\d+)?|[A-Za-z])(?![\w{])"
)
_TAG = re.compile(r"<answer>([^<]{1,1000})</answer>", re.IGNORECASE)
_HASHES = re.compile(r"^[ \t]*####[ \t]+(\S[^\n]{0,999})$", re.MULTILINE)
_ANSWER = re.compile(r"\banswer[*_\s]{0,4}:[*_\s]{0,4}", re.IGNORECASE)
_ANSWER_IS = re.compile(r"\banswer[*_\s]{1,4}is\b[*_\s:]{0,4}", re.IGNORECASE)
_HOPE = re.compile(r"\.?\s*I hope (?:it|this) is correct.*$", re.IGNORECASE)
# `4. Thus`: within mathematics no full stop is followed by a space and a capital.
_SENTENCE_END = re.compile(r"[.!?]\s+(?=[A-Z])")
_STOP = re.compile(r"[.!?](?:\s|$)|\n\s*\n")
_MATH = re.compile(r"\$\$(.+?)\$\$|\$(.+?)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)
_CONJUNCTION = re.compile(r"\s*(?:,|;|and|or|&)?\s*(?:and|or)?\s*")
_NOT_PROSE = re.compile(r"\$[^$]*\$|\\[A-Za-z]+")
_WORD = re.compile(r"[A-Za-z]{2,}")
_MATH_SIGN = re.compile(r"[\d\\$=<>+*/^]")
# A bare answer is short, and has few words besides its mathematics ("odd $n$").
_BARE_CHARACTERS = 200
_BARE_WORDS = 3
# A longer statement is no answer; the limit also keeps the patterns cheap.
_STATED_CHARACTERS = 1000


class ExtractedAnswer(NamedTuple):
    """The answer of a completion."""

    answer: str
    boxed: bool
    boxes: tuple[str, ...] = ()
    """All boxes of the sentence with the last one; empty unless there are several."""


def find_answer(text: str, *, cut_off: bool = False) -> ExtractedAnswer | None:
    """The answer of a completion, or None.

    In a completion that was cut off at its limit (`cut_off`) the last line is incomplete, so only a
    closed box, a closed tag or a finished line counts. Linear in the length of the text.
    """
    if boxes := _last_boxes(text):
        return ExtractedAnswer(boxes[-1], True, boxes if len(boxes) > 1 else ())
    whole = text[: text.rfind("\n") + 1] if cut_off else text
    answer = _last(_TAG, text) or _last(_HASHES, whole) or _stated(_ANSWER, whole)
    if answer is None and not cut_off:
        last_line = text.rstrip()[-_STATED_CHARACTERS:].rpartition("\n")[2]
        answer = _last(_BARE_BOX, text) or _stated(_ANSWER_IS, last_line) or _bare(text)
    return None if answer is None else ExtractedAnswer(answer, False)


def _last_boxes(text: str) -> tuple[str, ...]:
    r"""Contents of the complete, non-empty `\boxed{…}` of the last sentence that has one.

    The last sentence counts, because models correct themselves; all its boxes do, because a list
    may be spread over several. An empty box only repeats the instruction. Linear in the length of
    the text, even with very many unclosed boxes.
    """
    opening = {match.end() - 1: match.start() for match in _BOX.finditer(text)}
    stack: list[int] = []  # positions of the open braces
    boxes: list[tuple[int, int, int]] = []  # start of the command, of the content, and its end
    for match in _BRACES.finditer(text, min(opening, default=len(text))):
        position = match.start()
        if text[position] == "{":
            stack.append(position)
        elif text[position] == "}" and stack:
            start = stack.pop()
            # Is the box empty? 100 characters, so that spaces after many boxes stay cheap.
            if start in opening and not text[start + 1 : start + 100].lstrip().startswith("}"):
                begin = opening[start]
                # Boxes that opened later are inside this one: the outermost counts.
                while boxes and boxes[-1][0] > begin:
                    boxes.pop()
                # A sentence ended since the last box: those before are not in the last sentence.
                if boxes and _STOP.search(text, boxes[-1][2], begin):
                    boxes.clear()
                boxes.append((begin, start + 1, position))
    return tuple(text[start:end].strip() for _, start, end in boxes)


def _last(pattern: re.Pattern[str], text: str) -> str | None:
    last = None
    for match in pattern.finditer(text):
        last = match[1].strip()
    return last or None


def _stated(marker: re.Pattern[str], text: str) -> str | None:
    """The mathematics after the last `marker`, or else the text up to the end of its sentence."""
    end = None
    for match in marker.finditer(text):
        end = match.end()
    if end is None:
        return None
    stated = text[end : end + _STATED_CHARACTERS]
    line = stated.lstrip().partition("\n")[0]
    if (display := _MATH.match(stated.lstrip())) and "\n" in display.group():
        line = display.group()
    # "Final Answer: The final answer is 5. I hope it is correct." is Minerva's own form.
    line = _ANSWER_IS.split(_HOPE.sub("", line))[-1].strip()
    if mathematics := _mathematics(line):
        return mathematics
    sentence = _SENTENCE_END.split(line, maxsplit=1)[0]
    return sentence.strip(" \t*_").removesuffix(".").strip(" \t*_") or None


def _mathematics(line: str) -> str | None:
    """The mathematics at the start of a line: one piece, or several joined by commas and words."""
    pieces: list[str] = []
    end = 0
    while match := _MATH.match(line, end):
        pieces.append(next(group for group in match.groups() if group).strip())
        joint = _CONJUNCTION.match(line, match.end())
        end = joint.end() if joint else match.end()
    return ", ".join(pieces) or None


def _bare(text: str) -> str | None:
    """The whole text if it is one short line of mathematics and has no unfinished box."""
    line = text.strip()
    if not line or len(line) > _BARE_CHARACTERS or "\n" in line or _BOX.search(line):
        return None
    words = _WORD.findall(_NOT_PROSE.sub(" ", line))
    return line if _MATH_SIGN.search(line) and len(words) <= _BARE_WORDS else None
