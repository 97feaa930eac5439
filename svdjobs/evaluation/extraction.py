r"""Which part of a completion is its answer. The one extractor of the project.

In this order: the last complete `\boxed{…}`; the last `Answer: …` line (Minerva, Lewkowycz et al.
2022, appendix D); a last line that says `the answer is …`; a completion that is nothing but one
line of mathematics. The whole text is searched, not its last 300 characters as in DAPO's script:
one of MATH-500's own solutions draws 1,900 characters of figure after its box.
"""

from __future__ import annotations

import re

# \boxed, \fbox, and a garbled \beginboxed: any command whose name ends in "boxed".
_BOX = re.compile(r"\\(?:[A-Za-z]*boxed|fbox|framebox)\s*\{")
_BRACES = re.compile(r"\\.|[{}]", re.DOTALL)
_ANSWER = re.compile(r"\banswer[*_\s]{0,4}:[*_\s]{0,4}", re.IGNORECASE)
_ANSWER_IS = re.compile(r"\banswer[*_\s]{1,4}is\b[*_\s:]{0,4}", re.IGNORECASE)
_HOPE = re.compile(r"\.?\s*I hope (?:it|this) is correct.*$", re.IGNORECASE)
_SENTENCE_END = re.compile(r"\.\s+(?=[A-Z])")
_MATH = re.compile(r"\$\$(.+?)\$\$|\$(.+?)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]")
_NOT_PROSE = re.compile(r"\$[^$]*\$|\\[A-Za-z]+")
_WORD = re.compile(r"[A-Za-z]{2,}")
_MATH_SIGN = re.compile(r"[\d\\$=<>+*/^]")
# A bare answer is short and hardly prose ("odd $n$"; "… for some $a>0$").
_BARE_CHARACTERS = 200
_BARE_WORDS = 3
# A statement longer than this is no answer; it also keeps the patterns on it cheap.
_STATED_CHARACTERS = 1000


def extract_answer(text: str, *, cut_off: bool = False) -> str | None:
    """The answer a completion gives, or None.

    A completion that was cut off (`cut_off`) has no last line to trust: only a closed box or a
    finished `Answer: …` line counts there. Linear in the length of the text.
    """
    boxed = last_boxed(text)
    if boxed is not None:
        return boxed
    if cut_off:
        return _stated(_ANSWER, text[: text.rfind("\n") + 1])
    last_line = text.rstrip()[-_STATED_CHARACTERS:].rpartition("\n")[2]
    return _stated(_ANSWER, text) or _stated(_ANSWER_IS, last_line) or _bare(text)


def last_boxed(text: str) -> str | None:
    r"""Content of the last complete `\boxed{…}` (balanced braces) that is not empty, or None.

    The last one, because models correct themselves; math-verify alone reads two boxes on one line
    as a set. An empty box repeats the instruction. A box that never closes is no answer. Linear in
    the length of the text, also for a flood of unclosed boxes.
    """
    opening = {match.end() - 1 for match in _BOX.finditer(text)}
    stack: list[int] = []
    best: tuple[int, int] | None = None
    for match in _BRACES.finditer(text, min(opening, default=len(text))):
        position = match.start()
        if text[position] == "{":
            stack.append(position)
        elif text[position] == "}" and stack:
            start = stack.pop()
            # Whatever closes last wins: of nested boxes the outermost, of several the last.
            if start in opening and not text[start + 1 : start + 100].lstrip().startswith("}"):
                best = (start + 1, position)
    return text[best[0] : best[1]].strip() if best else None


def _stated(marker: re.Pattern[str], text: str) -> str | None:
    """What follows the last `marker`, up to the end of its line or sentence."""
    end = None
    for match in marker.finditer(text):
        end = match.end()
    if end is None:
        return None
    line = text[end : end + _STATED_CHARACTERS].partition("\n")[0]
    # "Final Answer: The final answer is 5. I hope it is correct." is Minerva's own form.
    line = _ANSWER_IS.split(_HOPE.sub("", line))[-1].strip()
    mathematics = _MATH.match(line)
    if mathematics:
        return next(group for group in mathematics.groups() if group).strip()
    sentence = _SENTENCE_END.split(line, maxsplit=1)[0]
    return sentence.strip(" \t*_").removesuffix(".").strip(" \t*_") or None


def _bare(text: str) -> str | None:
    """The whole text, where it is one short line of mathematics without an unfinished box."""
    line = text.strip()
    if not line or len(line) > _BARE_CHARACTERS or "\n" in line or _BOX.search(line):
        return None
    words = _WORD.findall(_NOT_PROSE.sub(" ", line))
    return line if _MATH_SIGN.search(line) and len(words) <= _BARE_WORDS else None
