"""One grading process: JSON questions in, JSON replies out, in order. Run by `WorkerProcess`.

A question is {"kind": "grade", "text", "gold", "cut_off"} or {"kind": "second", "text", "gold"},
replied to once, or {"kind": "classes", "answers", "known", "late"}, replied to once per answer that
is not known.

Started with a clean environment and limits on memory, files and processes, and killed by its parent
when it is late, since neither threads nor SIGALRM can stop a runaway simplification.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from typing import Any

from svdjobs.evaluation.answers import algebra
from svdjobs.evaluation.confined import confine
from svdjobs.evaluation.grading.answer_classes import assign_classes
from svdjobs.evaluation.grading.rule import answer_in, grade_any, unanswered
from svdjobs.evaluation.grading.second_grader import second_opinion
from svdjobs.parallel import die_with
from svdjobs.records import Outcome

MEMORY_BYTES = 2 << 30
READY = {"ready": True}


def main(parent_pid: int | None = None) -> None:
    """Answer until standard input ends, or until the parent does."""
    if parent_pid is not None:
        die_with(parent_pid)
    sys.setrecursionlimit(3000)
    # Nothing the libraries print may be mistaken for a reply.
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
        yield {"correct": second_opinion(question["text"], question["gold"])}
    else:
        yield from _classes(question["answers"], question["known"], question["late"])


def _grade(text: str, gold: list[str], cut_off: bool) -> dict[str, Any]:
    found = answer_in(text, gold, cut_off=cut_off)
    if found is None:
        return {"outcome": unanswered(cut_off=cut_off), "answer": None, "boxed": None}
    try:
        outcome = grade_any(found.answer, gold)
    except (Exception, MemoryError):  # hostile input can raise anything at all
        outcome = Outcome.PARSE_ERROR
    return {"outcome": outcome, "answer": found.answer, "boxed": found.boxed}


def _classes(answers: list[str], known: list[int], late: list[int]) -> Iterator[dict[str, Any]]:
    """Class ids; an answer that raises gets a class of its own, like one that is late."""
    known, late = list(known), list(late)
    while len(known) < len(answers):
        try:
            for class_id in assign_classes(answers, known, late):
                known.append(class_id)
                yield {"class": class_id}
        except (Exception, MemoryError):
            late.append(len(known))
            known.append(max(known, default=-1) + 1)
            yield {"class": known[-1]}


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
