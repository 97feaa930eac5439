"""The problems of a report, for a reader who looks at single answers: an index, and parts that the
page opens when they are asked for.

Both are JSON, compressed, and written in base 64 in a script. A page that lies in a folder may load
scripts from beside it, but no other files.
"""

from __future__ import annotations

import base64
import gzip
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from svdjobs.answers import Answered, ProblemAnswers, signs

PART_CHARACTERS = 4_000_000
"""Characters of completions in a part, about; a problem is never divided."""
INLINE_BYTES = 3_000_000
"""Parts that are together no larger lie in the page itself."""
_START_CHARACTERS = 140


class Part(NamedTuple):
    """Some problems with all their answers."""

    name: str
    """Also the name of its file, without the ending."""
    data: str
    """Compressed JSON in base 64."""
    is_index: bool = False


def parts(benchmark: str, problems: Iterable[ProblemAnswers]) -> Iterator[Part]:
    """The parts of a benchmark, then its index.

    The index has the ids of the checkpoints, and for each problem its number, its part, its first
    words, and for each checkpoint the outcomes of its completions (`answers.signs`).
    """
    index: dict[str, Any] = {"benchmark": benchmark, "checkpoints": [], "problems": []}
    held: dict[str, Any] = {}
    size, number = 0, 0
    for one in problems:
        index["checkpoints"] = index["checkpoints"] or list(one.answers)
        held[str(one.problem.idx)] = _document(one)
        size += sum(len(a.completion.text) for own in one.answers.values() for a in own)
        start = " ".join(one.problem.problem.split())[:_START_CHARACTERS]
        outcomes = [_outcomes(own) for own in one.answers.values()]
        index["problems"].append([one.problem.idx, number, start, outcomes])
        if size >= PART_CHARACTERS:
            yield Part(f"{benchmark}-{number}", packed(held))
            held, size, number = {}, 0, number + 1
    if held:
        yield Part(f"{benchmark}-{number}", packed(held))
    yield Part(f"index-{benchmark}", packed(index), is_index=True)


def split(
    found: Iterable[Part], beside: Callable[[Part], None], limit: int = INLINE_BYTES
) -> list[Part]:
    """The parts that lie in the page: indices, and all others if they are together no larger than
    `limit`. Else `beside` gets each of the others, as soon as there is one too many."""
    inside: list[Part] = []
    size, too_large = 0, False
    for part in found:
        size += 0 if part.is_index else len(part.data)
        if size > limit and not too_large:
            too_large = True
            for other in inside:
                if not other.is_index:
                    beside(other)
            inside = [other for other in inside if other.is_index]
        if part.is_index or not too_large:
            inside.append(part)
        else:
            beside(part)
    return inside


def _outcomes(answers: Sequence[Answered]) -> str:
    return "".join(signs(a.grade for a in answers).values())


def _document(one: ProblemAnswers) -> dict[str, Any]:
    return {
        "problem": one.problem.problem,
        "gold": one.problem.gold,
        "answers": [[_answer(answer) for answer in own] for own in one.answers.values()],
    }


def _answer(one: Answered) -> dict[str, Any]:
    completion, grade, parting = one
    found: dict[str, Any] = {
        "text": completion.text,
        "outcome": grade.outcome.value,
        "answer": grade.answer,
        "finish": completion.finish_reason,
        "tokens": completion.completion_tokens,
        "seed": str(completion.seed),  # JavaScript's numbers have 53 bits
    }
    if parting:
        chances = [None if log is None else math.exp(log) for log in (parting.after, parting.other)]
        found["parting"] = [parting.token, *chances]
    return found


def packed(document: object) -> str:
    """JSON, compressed, in base 64. The same document gives the same text."""
    text = json.dumps(document, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    raw = text.encode("utf-8", "surrogatepass")
    return base64.b64encode(gzip.compress(raw, compresslevel=6, mtime=0)).decode()


def script(part: Part) -> bytes:
    """The file of a part that does not lie in the page."""
    return f"svdjobs.part({json.dumps(part.name)}, {json.dumps(part.data)})\n".encode()


class Flips(NamedTuple):
    """Completions whose correctness changed."""

    completions: int
    better: int
    worse: int
    problems: int
    """Problems with a completion that changed."""


def flips(answers: Mapping[int, str], reference: Mapping[int, str]) -> Flips:
    """Compare a checkpoint's outcomes with those of a reference, sample by sample."""
    pairs = [
        (own == "1", other == "1")
        for idx in answers.keys() & reference.keys()
        for own, other in zip(answers[idx], reference[idx], strict=False)
    ]
    problems = [
        idx
        for idx in answers.keys() & reference.keys()
        if any((a == "1") != (b == "1") for a, b in zip(answers[idx], reference[idx], strict=False))
    ]
    return Flips(
        len(pairs),
        sum(own and not other for own, other in pairs),
        sum(other and not own for own, other in pairs),
        len(problems),
    )


def chance_of_flip(outcomes: Mapping[int, str]) -> float | None:
    """The chance that two independent completions of one checkpoint for a problem differ in
    correctness, without bias: the mean of 2k(n − k)/(n(n − 1)) for k correct ones of n. None if no
    problem has two completions."""
    found = [
        2 * own.count("1") * (len(own) - own.count("1")) / (len(own) * (len(own) - 1))
        for own in outcomes.values()
        if len(own) > 1
    ]
    return math.fsum(found) / len(found) if found else None
