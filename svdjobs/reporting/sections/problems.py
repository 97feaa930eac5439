"""How many completions changed from right to wrong and back, beside what chance alone does."""

from __future__ import annotations

from collections.abc import Iterator

from svdjobs.reporting.data import Content, Section, Table, number, percent
from svdjobs.reporting.problems import chance_of_flip, flips


def flips_table(content: Content, benchmark: str) -> Table:
    """Flips of every checkpoint against after, and of after against itself."""
    by_id = content.outcomes[benchmark]
    after = by_id["after"]
    rows = []
    for checkpoint_id, own in by_id.items():
        if checkpoint_id != "after":
            found = flips(own, after)
            counts = found.worse, found.better, found.problems
            share = (found.worse + found.better) / max(1, found.completions)
            rows.append([checkpoint_id, *map(number, counts), percent(share)])
    chance = chance_of_flip(after)
    itself = "-" if chance is None else percent(chance)
    rows.append(["after, other seeds", "-", "-", "-", itself])
    return Table(
        f"flips-{benchmark}",
        f"Answers that flipped against after, on {benchmark}",
        "Completions with the same problem and seed: right under after and wrong here, wrong there "
        "and right here, the problems with such a one, and the share of all completions. The last "
        "row is how often two completions of after itself differ with independent seeds: what "
        "chance alone does. It flips as many one way as the other; a checkpoint that is worse than "
        "after flips more from right to wrong.",
        ["checkpoint", "right to wrong", "wrong to right", "problems", "flipped"],
        rows,
        benchmark,
    )


def _tables(content: Content) -> Iterator[Table]:
    for benchmark, by_id in content.outcomes.items():
        if "after" in by_id:
            yield flips_table(content, benchmark)


SECTION = Section(12, "Flips", tables=_tables)
