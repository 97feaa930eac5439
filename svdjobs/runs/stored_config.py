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
        raise ConfigError(f"{store.url} holds no run: it has no {RUN_CONFIG}.")
    if not isinstance(document, dict):
        raise DamagedError(f"{where} is not a config: expected keys and their values.")
    if not {"name", "before", "after"} <= document.keys():
        raise ConfigError(
            f"{store.url} holds no run: its {RUN_CONFIG} is that of something else, such as a "
            f"checkpoint (it has no name, before and after)."
        )
    return parse_config({**document, "store": store.url}, where=where)
