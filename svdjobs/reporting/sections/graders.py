"""How often the second grader agrees with the first, and where the two disagree."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from svdjobs.reporting.data import Answer, Content, Question, Section, Table, number, percent

MOST_DISAGREEMENTS = 20
_CELL = 32


def _of_benchmark(content: Content, benchmark: str) -> list[Table]:
    """The table of counts, and the table of disagreements if there are any."""
    apart = any(seen.disagreements for seen in content.agreements[benchmark].values())
    found = [agreement_table(content, benchmark)]
    return [*found, disagreements_table(content, benchmark)] if apart else found


def agreement_table(content: Content, benchmark: str) -> Table:
    """How often the two graders agree on each checkpoint's completions."""
    rows = []
    for checkpoint_id, seen in content.agreements[benchmark].items():
        counts = (seen.both_correct, seen.neither, seen.only_first, seen.only_second)
        cells = [*map(number, counts), number(seen.undecided), percent(seen.share)]
        rows.append([checkpoint_id, *cells])
    return Table(
        f"graders-{benchmark}",
        f"Two graders on {benchmark}",
        "Completions that svdjobs' grader and math-verify, called as verl does, find correct. "
        "Where they disagree one of them is wrong: that bounds what grading adds to the errors "
        "above. Scores are made from the first alone. `undecided`: math-verify took too long or "
        "broke down.",
        [
            "checkpoint",
            "both",
            "neither",
            "svdjobs only",
            "math-verify only",
            "undecided",
            "disagree",
        ],
        rows,
        benchmark,
    )


def disagreements_table(content: Content, benchmark: str) -> Table:
    """The answers on which the two graders disagree, the most frequent first."""
    seen: Counter[tuple[str, str, str, str]] = Counter()
    for found in content.agreements[benchmark].values():
        for one in found.disagreements:
            second = "correct" if one.second_correct else "wrong"
            seen[_short(one.gold), _short(one.answer or "-"), one.outcome.value, second] += 1
    rows = [[*key, number(count)] for key, count in seen.most_common(MOST_DISAGREEMENTS)]
    return Table(
        f"disagreements-{benchmark}",
        f"Answers that two graders judge differently on {benchmark}",
        f"{len(seen)} in all, over all checkpoints; at most {MOST_DISAGREEMENTS} are shown, the "
        f"most frequent first. Every completion is a line of report/disagreements.jsonl.",
        ["gold", "answer", "svdjobs", "math-verify", "completions"],
        rows,
        benchmark,
    )


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _CELL else f"{line[: _CELL - 1]}…"


def _answers(content: Content) -> Iterator[Answer]:
    for benchmark, by_id in content.agreements.items():
        apart = sum(seen.only_first + seen.only_second for seen in by_id.values())
        judged = sum(seen.both_correct + seen.neither for seen in by_id.values()) + apart
        if judged:
            yield Answer(
                Question.TRUST,
                f"A second grader, math-verify, judges {apart} of {judged:,} answers differently.",
                benchmark,
            )


def _tables(content: Content) -> Iterator[Table]:
    for benchmark in content.summaries:
        if content.agreements.get(benchmark):
            yield from _of_benchmark(content, benchmark)


SECTION = Section(35, "Two graders", answers=_answers, tables=_tables)
