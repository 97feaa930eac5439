"""One grading process: reads {answer, gold} lines, writes outcomes. Run by `workers.GradingPool`.

Started with a clean environment and a memory limit, and killed by its parent when it is late, since
neither threads nor SIGALRM can stop a runaway simplification.
"""

from __future__ import annotations

import json
import os
import resource
import sys

from svdjobs.evaluation.grading import grade_answer
from svdjobs.records import Outcome

MEMORY_BYTES = 2 << 30


def main() -> None:
    """Grade until standard input ends."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    sys.setrecursionlimit(3000)
    # Nothing the libraries print may be mistaken for an outcome.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    grade_answer("1/2", "0.5")  # load the algebra before the clock of the first answer starts
    answers.write("ready\n")
    for line in sys.stdin:
        request = json.loads(line)
        answers.write(f"{_grade(request['answer'], request['gold'])}\n")


def _grade(answer: str, gold: str) -> Outcome:
    try:
        return grade_answer(answer, gold)
    except (Exception, MemoryError):  # hostile input can raise anything at all
        return Outcome.PARSE_ERROR


if __name__ == "__main__":
    main()
