"""The config that a run has stored beside its outputs."""

from __future__ import annotations

from svdjobs.config import SweepConfig
from svdjobs.config_file import parse_config
from svdjobs.errors import ConfigError, DamagedError
from svdjobs.runs.outputs import RUN_CONFIG
from svdjobs.storage.objects import try_read_json
from svdjobs.storage.store import Store


def stored_config(store: Store) -> SweepConfig:
    """The config of the run in a store, with this store as its `store`.

    Raises:
        ConfigError: the store holds no run, or this version cannot read the run's config.
        DamagedError: the config is not valid JSON.
    """
    document, where = try_read_json(store, RUN_CONFIG), f"{store.url}/{RUN_CONFIG}"
    if document is None:
        raise ConfigError(f"{store.url} has no {RUN_CONFIG}, so it holds no run.")
    if not isinstance(document, dict):
        raise DamagedError(f"{where} is not a config: expected keys and their values.")
    if not {"name", "before", "after"} <= document.keys():
        raise ConfigError(
            f"{where} has no name, before and after: it is not a run's config, but a checkpoint's "
            f"or another file."
        )
    return parse_config({**document, "store": store.url}, where=where)
