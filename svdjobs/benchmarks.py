r"""The benchmarks that svdjobs knows, and how they complete an entry of `evaluate.benchmarks`.

An entry is a name or a mapping. The keys of a mapping override the values of the known benchmark:

    benchmarks:
      - math-500                             # known: data, fields and number of problems
      - HuggingFaceH4/aime_2024              # known by its hub id too, in upper or lower case
      - {name: amc-2023, data: amc.jsonl}    # a copy, which must also hold 40 problems
      - {name: mine, data: mine.parquet, answer_field: solution}
      - {name: other, data: owner/set, subset: main, split: train}

This module imports nothing of svdjobs, because the config models import it.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any, Final, NamedTuple

PACKAGE: Final = "package:"
"""Prefix of a file inside the installed package; a recorded config then holds no local path."""
LOCAL_SUFFIXES: Final = (".jsonl", ".json", ".parquet")


class KnownBenchmark(NamedTuple):
    """The data, the fields and the size of one benchmark."""

    name: str
    data: str
    """Id of a hub dataset in the hub's own spelling, or a file of the package."""
    problems: int
    """Number of problems. A copy with another number is cut off, doubled, or another benchmark."""
    problem_field: str = "problem"
    answer_field: str = "answer"
    split: str = "test"
    revision: str | None = None
    """Commit of the hub dataset. A pinned dataset gives the same numbers after its owner corrects
    it. Each commit below is one that independent public evaluation code pins or records; math-500's
    test.jsonl was also compared by sha256 (35dc4108…)."""


KNOWN: Final = (
    KnownBenchmark(
        "math-500",
        "HuggingFaceH4/MATH-500",
        500,
        revision="6e4ed1a2a79af7d8630a6b768ec859cb5af4d3be",
    ),
    KnownBenchmark(
        "aime-2024",
        "HuggingFaceH4/aime_2024",
        30,
        split="train",  # the only one it has
        revision="2fe88a2f1091d5048c0f36abc874fb997b3dd99a",
    ),
    KnownBenchmark(
        "aime-2025",
        "math-ai/aime25",
        30,
        revision="563bb8404243c5f09de6ec262f2db674fe5bce9b",
    ),
    KnownBenchmark(
        "amc-2023",
        "math-ai/amc23",
        40,
        problem_field="question",
        revision="80815d37005feb82cd7f8fbc6901d5d3eff43057",
    ),
    KnownBenchmark("demo", f"{PACKAGE}demo/heldout.jsonl", 200),
)
_BY_NAME: Final = {name.casefold(): known for known in KNOWN for name in (known.name, known.data)}


def find(name: object) -> KnownBenchmark | None:
    """The known benchmark with this short name or hub id, in upper or lower case, or None."""
    return _BY_NAME.get(name.casefold()) if isinstance(name, str) else None


def near(name: str) -> str:
    """`did you mean …?` if a known name is similar but not equal, else an empty text."""
    if find(name):
        return ""
    spelled = [n for known in KNOWN for n in (known.name, known.data) if not n.startswith(PACKAGE)]
    by_folded = {spelling.casefold(): spelling for spelling in spelled}
    found = difflib.get_close_matches(name.casefold(), by_folded, n=2, cutoff=0.6)
    return f"did you mean {' or '.join(by_folded[match] for match in found)}?" if found else ""


def complete(entry: object) -> object:
    """One entry of `evaluate.benchmarks` as a mapping, completed from the known benchmarks.

    A completed entry stays as it is. A value that is neither text nor a mapping is returned as it
    is, for pydantic to refuse.

    Raises:
        ValueError: the name is not known, and `data` is missing.
    """
    if isinstance(entry, str):
        entry = {"name": entry}
    if not isinstance(entry, Mapping):
        return entry
    completed: dict[str, Any] = dict(entry)
    name = completed.get("name")
    if isinstance(name, (int, float)) and not isinstance(name, bool):
        name = str(name)  # YAML reads a name of digits as a number
    known = find(name)
    if known is not None:
        completed["name"] = known.name
    if isinstance(name, str) and not completed.get("data"):
        completed["data"] = known.data if known else _place(name)
        completed["name"] = known.name if known else _name_of(name)
    source = find(completed.get("data"))
    if source is not None:
        completed["data"] = source.data
        completed.setdefault("split", source.split)
        completed.setdefault("revision", source.revision)
    # The fields of a known dataset come first; those of a known name are for a copy of its data.
    for fields in (source, known):
        if fields is not None:
            completed.setdefault("problem_field", fields.problem_field)
            completed.setdefault("answer_field", fields.answer_field)
    return completed


def _place(name: str) -> str:
    """The name itself, if it is a file or a hub id.

    Raises:
        ValueError: it is neither.
    """
    if "/" in name or PurePath(name).suffix in LOCAL_SUFFIXES:
        return name
    hint = near(name)
    raise ValueError(
        f"unknown benchmark {name!r}; {hint + ' ' if hint else ''}"
        f"Known: {', '.join(sorted(known.name for known in KNOWN))}. For another benchmark set "
        f"`data` to a JSONL or Parquet file, or to a hub dataset (owner/name)."
    )


def _name_of(place: str) -> str:
    """Short name of a file or hub id: its last component, without the suffix of a file."""
    path = PurePath(place)
    return path.stem if path.suffix in LOCAL_SUFFIXES else path.name
