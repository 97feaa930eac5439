"""Load a benchmark and check it: from JSONL or Parquet, on disk or in a bucket, or from the hub."""

from __future__ import annotations

import io
import json
import math
import re
from decimal import Decimal
from importlib.resources import files
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from svdjobs.benchmarks import LOCAL_SUFFIXES, PACKAGE, find, near
from svdjobs.config import BenchmarkConfig
from svdjobs.errors import BenchmarkError, MissingKeyError, StorageError
from svdjobs.evaluation.benchmarks.hub_datasets import read_hub
from svdjobs.fingerprint import fingerprint
from svdjobs.records import Problem
from svdjobs.storage.open import open_store
from svdjobs.storage.store import S3

_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
_INTEGER = re.compile(r"([+-]?)0*([0-9]+)(?:\.0+)?(?:\s*\^\s*(?:\\circ|\{\s*\\circ\s*\}))?")


class Benchmark(NamedTuple):
    """A loaded benchmark."""

    name: str
    problems: list[Problem]
    sha256: str
    """sha256 of problems and golds; equal for equal content, wherever it came from."""
    revision: str | None = None
    """Commit of the hub data set; None for a file."""


def load_benchmark(config: BenchmarkConfig) -> Benchmark:
    """Load and check a benchmark.

    Raises:
        BenchmarkError: the data is missing, empty or malformed, has a missing field or a problem
            twice, or has not as many problems as the known benchmark of that name.
        StorageError: the hub cannot be reached and its cache has no copy, or a bucket refuses or
            does not answer.
    """
    rows, revision = _read(config)
    problems = [_problem(config, row, idx) for idx, row in enumerate(rows[: config.limit])]
    _check_size(config, len(problems))
    _refuse_duplicates(config, problems)
    digest = fingerprint([[p.problem, p.gold] for p in problems])
    return Benchmark(config.name, problems, digest, revision)


def _read(config: BenchmarkConfig) -> tuple[list[dict[str, Any]], str | None]:
    """The rows, and the commit if they are from the hub."""
    place, suffix = config.data, PurePosixPath(config.data).suffix
    if not place.startswith(S3):
        path = _path(place)
        place, suffix = str(path), path.suffix
        if suffix not in LOCAL_SUFFIXES and not path.exists():
            if not _HUB_ID.fullmatch(config.data):
                raise BenchmarkError(
                    f"benchmark {config.name}: {config.data}: no such file, not a hub data set "
                    f"(owner/name), and not a benchmark known by name. "
                    f"{near(config.data)}".rstrip()
                )
            return read_hub(config)
    data = _bytes(place)
    return (_parquet_rows if suffix == ".parquet" else _jsonl_rows)(place, data), None


def _path(data: str) -> Path:
    if data.startswith(PACKAGE):
        return Path(str(files("svdjobs"))) / data.removeprefix(PACKAGE)
    return Path(data).expanduser()


def _bytes(place: str) -> bytes | bytearray:
    """Content of a file, local or in a bucket."""
    try:
        if place.startswith(S3):
            folder, _, name = place.rpartition("/")
            return open_store(folder).read(name)
        return Path(place).read_bytes()
    except MissingKeyError as error:
        raise _unreadable(place, error) from None
    except StorageError:
        raise
    except OSError as error:
        raise _unreadable(place, error) from None


def _jsonl_rows(place: str, data: bytes | bytearray) -> list[dict[str, Any]]:
    """Objects of a JSONL file. Only a line feed ends a line; U+2028 in a text does not."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _unreadable(place, error) from None
    rows = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise BenchmarkError(f"{place} line {number}: not JSON ({error}).") from None
        if not isinstance(row, dict):
            raise BenchmarkError(f"{place} line {number}: expected an object, found {line:.60}")
        rows.append(row)
    return rows


def _parquet_rows(place: str, data: bytes | bytearray) -> list[dict[str, Any]]:
    import pyarrow.parquet as parquet
    from pyarrow import ArrowException

    try:
        rows: list[dict[str, Any]] = parquet.read_table(io.BytesIO(data)).to_pylist()
    except (OSError, ArrowException) as error:
        raise _unreadable(place, error) from None
    return rows


def _unreadable(place: str, error: Exception) -> BenchmarkError:
    if isinstance(error, FileNotFoundError):
        reason = "no such file"
    elif isinstance(error, IsADirectoryError):
        reason = "a folder; expected a JSONL or Parquet file"
    else:
        reason = str(error)
    return BenchmarkError(f"benchmark file {place}: {reason}.")


def _problem(config: BenchmarkConfig, row: dict[str, Any], idx: int) -> Problem:
    where = f"benchmark {config.name}, row {idx + 1}"
    for field in (config.problem_field, config.answer_field):
        if field not in row:
            raise BenchmarkError(
                f"{where}: no field {field!r}; it has {', '.join(sorted(map(str, row)))}. "
                f"Set problem_field and answer_field."
            )
    text, gold = row[config.problem_field], normalise_gold(row[config.answer_field])
    if not isinstance(text, str) or not text.strip():
        raise BenchmarkError(f"{where}: field {config.problem_field!r} is not text.")
    if gold == "":
        raise BenchmarkError(f"{where}: field {config.answer_field!r} is empty.")
    if gold is None:
        raise BenchmarkError(
            f"{where}: field {config.answer_field!r} is {row[config.answer_field]!r:.60}; expected "
            f"text or a number."
        )
    try:
        (text + gold).encode()
    except UnicodeEncodeError:
        raise BenchmarkError(f"{where}: half of a surrogate pair, which is no character.") from None
    return Problem(idx=idx, problem=text.strip(), gold=gold)


def normalise_gold(value: object) -> str | None:
    r"""A gold as text: `27.0` → `27`, `025` → `25`, `336^\circ` → `336`.

    Only an integer is rewritten; any other text is left to the grader. Empty if `value` is None;
    None if `value` cannot be a gold (a list, a truth value, NaN).
    """
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, (str, int, float, Decimal)):
        return None
    if isinstance(value, (float, Decimal)):
        if not math.isfinite(value):
            return None
        value = format(Decimal(str(value)), "f")  # digits, never 1e-07
    text = str(value).strip()
    integer = _INTEGER.fullmatch(text)
    if integer is None:
        return text
    sign, digits = integer.groups()
    return f"-{digits}" if sign == "-" and digits != "0" else digits


def _check_size(config: BenchmarkConfig, count: int) -> None:
    if not count:
        raise BenchmarkError(f"benchmark {config.name}: {config.data} holds no problem.")
    known = find(config.name) or find(config.data)
    if known is not None and config.limit is None and count != known.problems:
        raise BenchmarkError(
            f"benchmark {config.name}: {config.data} holds {count} problems, expected "
            f"{known.problems}. Get the whole benchmark or set `limit`; for another benchmark, use "
            f"another `name`."
        )


def _refuse_duplicates(config: BenchmarkConfig, problems: list[Problem]) -> None:
    seen: dict[str, int] = {}
    for problem in problems:
        if problem.problem in seen:
            raise BenchmarkError(
                f"benchmark {config.name}: rows {seen[problem.problem] + 1} and {problem.idx + 1} "
                f"are the same problem; it would be counted twice."
            )
        seen[problem.problem] = problem.idx
