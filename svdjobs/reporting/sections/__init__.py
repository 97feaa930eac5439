"""The sections of a report: each module of this package defines one as `SECTION`.

To add a section, add a module here; no other file names the modules.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from pkgutil import iter_modules

from svdjobs.reporting.data import Content, Picture, Row, Section, Table


@cache
def sections() -> list[Section]:
    """All sections, in reading order."""
    modules = [import_module(f"{__name__}.{found.name}") for found in iter_modules(__path__)]
    found: list[Section] = [module.SECTION for module in modules]
    return sorted(found, key=lambda section: section.place)


def sentences(content: Content) -> list[str]:
    """The sentences of all sections."""
    return [line for section in sections() for line in section.sentences(content)]


def tables(content: Content) -> list[Table]:
    """The tables of all sections: those about one benchmark together, then the others."""
    benchmarks = list(content.summaries)
    found = [table for section in sections() for table in section.tables(content)]
    return sorted(
        found,
        key=lambda t: benchmarks.index(t.benchmark) if t.benchmark else len(benchmarks),
    )


def pictures(content: Content) -> list[Picture]:
    """The figures of all sections for which the content has data."""
    return [picture for section in sections() for picture in section.pictures(content)]


def numbers(content: Content) -> list[Row]:
    """The numbers of all sections."""
    return [row for section in sections() for row in section.numbers(content)]
