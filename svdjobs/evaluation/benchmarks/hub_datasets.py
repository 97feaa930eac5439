"""Rows of a hub data set, from the hub or from its offline caches.

There are two caches: the files that the hub client keeps (`HF_HUB_CACHE`, one snapshot per commit)
and the tables that `datasets` makes of them (`HF_DATASETS_CACHE`). Without a network `datasets`
takes its newest table, whatever revision is wanted, so the revision of the table is compared with
the config's.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from svdjobs.benchmarks import near
from svdjobs.errors import BenchmarkError, StorageError, UnavailableError, first_line

if TYPE_CHECKING:
    from svdjobs.config import BenchmarkConfig

_COMMIT = re.compile(r"[0-9a-f]{40}")


class HubRows(NamedTuple):
    """Rows, and their commit."""

    rows: list[dict[str, Any]]
    revision: str | None


class _NotInCache(Exception):  # noqa: N818 - a reason to look elsewhere, not an error
    """A cache does not hold the data set, or holds another revision of it."""


def read_hub(config: BenchmarkConfig) -> HubRows:
    """Rows of `config.data`, at most `config.limit` of them.

    Raises:
        BenchmarkError: the hub has no such data set, revision, subset or split, or its files are no
            table.
        StorageError: the caches do not hold the data set, and the client is set to stay offline.
        UnavailableError: the caches do not hold the data set, and the hub does not answer now.
    """
    import datasets

    datasets.utils.logging.set_verbosity_error()
    datasets.disable_progress_bars()
    loaders: list[Callable[[BenchmarkConfig], HubRows]] = [_from_library, _from_snapshot]
    if _COMMIT.fullmatch(config.revision or ""):
        loaders.reverse()  # the content of a commit cannot have changed: the hub is not needed
    reasons: list[Exception] = []
    for load in loaders:
        try:
            return load(config)
        except _NotInCache as error:
            reasons.append(error)
        except Exception as error:  # the HTTP clients' own exceptions changed between releases
            reasons.append(error)
            if load is _from_library and _is_about_the_data(error):
                break  # a definite answer from the hub: an older copy in a cache does not count
    for reason in reasons:
        if _is_about_the_data(reason):
            raise BenchmarkError(_unusable(config, reason))
    from huggingface_hub import constants

    # A client that is set to stay offline will not reach the hub later either.
    offline = constants.HF_HUB_OFFLINE or datasets.config.HF_HUB_OFFLINE
    kind = StorageError if offline else UnavailableError
    raise kind(_unreachable(config, reasons))


def _from_library(config: BenchmarkConfig) -> HubRows:
    """Load by hub id; `datasets` uses its own cache if it can."""
    from datasets import load_dataset_builder

    builder: Any = load_dataset_builder(config.data, config.subset, revision=config.revision)
    # `datasets` has no public way to ask whether a builder only reads the table cache.
    from_cache = type(builder).__name__ == "Cache"
    if from_cache and config.revision not in (None, builder.hash):
        raise _NotInCache(f"the cached table is of revision {builder.hash}")
    builder.download_and_prepare()
    return HubRows(_rows(builder, config), builder.hash)


def _from_snapshot(config: BenchmarkConfig) -> HubRows:
    """Load from the files of a snapshot in the hub client's cache."""
    from datasets import load_dataset_builder

    folder = _snapshot(config.data, config.revision or "main")
    # The table goes to a temporary folder: the cache may be read-only, and `datasets` would mistake
    # an older table of the same folder for this one.
    with tempfile.TemporaryDirectory() as scratch:
        builder: Any = load_dataset_builder(str(folder), config.subset, cache_dir=scratch)
        builder.download_and_prepare()
        return HubRows(_rows(builder, config), folder.name)


def _snapshot(repository: str, revision: str) -> Path:
    """Folder of a cached snapshot. Names on the hub are case-insensitive, so they are here.

    huggingface_hub documents the layout ("Understand caching"): refs/<name> holds a commit,
    snapshots/<commit> the files.
    """
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    wanted = repo_folder_name(repo_id=repository, repo_type="dataset").casefold()
    cache = Path(constants.HF_HUB_CACHE)
    for folder in sorted(cache.iterdir()) if cache.is_dir() else []:
        if folder.name.casefold() != wanted:
            continue
        ref = folder / "refs" / revision
        commit = ref.read_text(encoding="utf-8").strip() if ref.is_file() else revision
        snapshot = folder / "snapshots" / commit
        # An interrupted download may leave a README alone.
        if any(p.is_file() and p.name not in (".gitattributes", "README.md")
               for p in snapshot.rglob("*")):  # fmt: skip
            return snapshot
    raise _NotInCache("the cache holds no such snapshot")


def _rows(builder: Any, config: BenchmarkConfig) -> list[dict[str, Any]]:
    """Rows of the split in the config."""
    splits = sorted(builder.info.splits or {})
    if config.split.isidentifier() and config.split not in splits:
        raise ValueError(f"no split {config.split!r}; it has {', '.join(splits)}. Set `split`.")
    table = builder.as_dataset(split=config.split)
    if config.limit is not None:
        table = table.select(range(min(config.limit, len(table))))
    rows: list[dict[str, Any]] = table.to_list()
    return rows


def _is_about_the_data(error: Exception) -> bool:
    """Whether the data set itself is at fault, rather than the network or the disk."""
    from datasets.exceptions import DatasetGenerationError, DatasetsError

    if isinstance(error, DatasetGenerationError) and isinstance(error.__cause__, OSError):
        return False  # a full disk
    return isinstance(error, (DatasetsError, ValueError, RuntimeError))


def _unusable(config: BenchmarkConfig, error: Exception) -> str:
    reason = " ".join(str(error).split())
    if "Config name is missing" in reason:
        reason += " Set `subset`."
    return f"benchmark {config.name}: {config.data}: {reason} {near(config.data)}".rstrip()


def _unreachable(config: BenchmarkConfig, reasons: list[Exception]) -> str:
    at = f" at revision {config.revision}" if config.revision else ""
    said = "; ".join(dict.fromkeys(first_line(reason) for reason in reasons))
    return (
        f"benchmark {config.name}: no file {config.data}, and the hub data set {config.data}{at} "
        f"could not be loaded ({said}). Give a local JSONL or Parquet file as `data`, or load it "
        f"once with a network (HF_HUB_OFFLINE and HF_DATASETS_OFFLINE unset); afterwards the "
        f"cache (HF_HOME) is enough. {near(config.data)}"
    ).rstrip()
