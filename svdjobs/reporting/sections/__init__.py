"""The sections of a report: each module of this package defines one as `SECTION`.

To add a section, add a module here; no other file names the modules.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from typing import NamedTuple

from svdjobs.reporting.data import Content, Picture, Question, Row, Section, Table


@cache
def sections() -> list[Section]:
    """All sections, in reading order."""
    modules = [import_module(f"{__name__}.{found.name}") for found in iter_modules(__path__)]
    found: list[Section] = [module.SECTION for module in modules]
    return sorted(found, key=lambda section: section.place)


def answers(content: Content) -> dict[Question, list[str]]:
    """What the sections answer to each question, in the order of the page."""
    found = [answer for section in sections() for answer in section.answers(content)]
    several = len(content.benchmarks) > 1
    texts = [
        (one.question, f"{one.benchmark}: {one.text}" if one.benchmark and several else one.text)
        for one in found
    ]
    by_question = {q: [text for question, text in texts if question is q] for q in Question}
    return {question: own for question, own in by_question.items() if own}


def numbers(content: Content) -> list[Row]:
    """The numbers of all sections."""
    return [row for section in sections() for row in section.numbers(content)]


class Topic(NamedTuple):
    """What a section has to show."""

    title: str
    pictures: list[Picture]
    tables: list[Table]

    @property
    def shown(self) -> list[Table]:
        """The tables that are on the page."""
        return [table for table in self.tables if table.shown]


def topics(content: Content) -> list[Topic]:
    """The sections that have figures or tables, in reading order."""
    found = [
        Topic(
            section.title,
            list(section.pictures(content)),
            list(section.tables(content)),
        )
        for section in sections()
    ]
    return [topic for topic in found if topic.pictures or topic.tables]
