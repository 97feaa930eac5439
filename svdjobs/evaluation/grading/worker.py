"""One grading process: JSON questions in, JSON replies out, in order. `WorkerProcess` starts it.

{"kind": "grade", "text", "gold", "cut_off"} and {"kind": "second", "text", "gold"} get one reply;
{"kind": "classes", "answers", "class_ids", "incomparable"} gets one for each answer that has no
class id yet.

It has a clean environment and limits on memory, files and processes. Its parent kills it when an
answer exceeds its time, since neither threads nor SIGALRM can stop a runaway simplification.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from typing import Any

from svdjobs.evaluation.answers import algebra
from svdjobs.evaluation.grading.answer_classes import assign_classes
from svdjobs.evaluation.grading.rule import answer_in, grade_any, unanswered
from svdjobs.evaluation.grading.second_grader import math_verify_grade
from svdjobs.evaluation.sandbox import confine
from svdjobs.parallel import die_with
from svdjobs.records import Outcome

MEMORY_BYTES = 2 << 30
READY = {"ready": True}


def main(parent_pid: int | None = None) -> None:
    """Answer until standard input ends or the parent exits."""
    if parent_pid is not None:
        die_with(parent_pid)
    # Nested answers recurse deeply in the readers and in the library; the default limit is 1,000.
    sys.setrecursionlimit(3000)
    # What the libraries print must not be mistaken for a reply.
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    algebra.warm_up()  # before the clock of the first answer starts
    confine(MEMORY_BYTES)
    replies.write(f"{json.dumps(READY)}\n")
    for line in sys.stdin:
        for reply in _replies(json.loads(line)):
            replies.write(f"{json.dumps(reply)}\n")


def _replies(question: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if question["kind"] == "grade":
        yield _grade(question["text"], question["gold"], question["cut_off"])
    elif question["kind"] == "second":
        yield {"correct": math_verify_grade(question["text"], question["gold"])}
    else:
        yield from _classes(question["answers"], question["class_ids"], question["incomparable"])


def _grade(text: str, gold: list[str], cut_off: bool) -> dict[str, Any]:
    try:
        extracted = answer_in(text, gold, cut_off=cut_off)
    except (Exception, MemoryError):  # hostile input can raise anything
        return {"outcome": Outcome.PARSE_ERROR, "answer": None, "boxed": None}
    if extracted is None:
        return {"outcome": unanswered(cut_off=cut_off), "answer": None, "boxed": None}
    try:
        outcome = grade_any(extracted.answer, gold)
    except (Exception, MemoryError):
        outcome = Outcome.PARSE_ERROR
    return {"outcome": outcome, "answer": extracted.answer, "boxed": extracted.boxed}


def _classes(
    answers: list[str], class_ids: list[int], incomparable: list[int]
) -> Iterator[dict[str, Any]]:
    """Class ids; an answer that raises gets a class of its own, like one that timed out."""
    class_ids, incomparable = list(class_ids), list(incomparable)
    while len(class_ids) < len(answers):
        try:
            # It reads `class_ids` only when it starts, so appending here does not disturb it.
            for class_id in assign_classes(answers, class_ids, incomparable):
                class_ids.append(class_id)
                yield {"class": class_id}
        except (Exception, MemoryError):
            incomparable.append(len(class_ids))
            class_ids.append(max(class_ids, default=-1) + 1)
            yield {"class": class_ids[-1]}


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
