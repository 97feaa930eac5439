"""Two processes make one output: in any order of writes, the manifest lists the stored files."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from svdjobs.config import SweepConfig
from svdjobs.errors import UnavailableError, exit_code
from svdjobs.runs import layout
from svdjobs.runs.outputs import Output, OutputKey, begin, find_manifest, read_finished
from svdjobs.stages import plan
from svdjobs.storage.journal import appending
from svdjobs.storage.local import LocalStore
from svdjobs.storage.memory import MemoryStore
from svdjobs.storage.objects import write_bytes

MakeConfig = Callable[..., SweepConfig]
ORDERS = [
    ("begin A", "begin B", "write A", "write B", "commit A", "commit B"),
    ("begin A", "begin B", "write A", "write B", "commit B", "commit A"),
    ("begin A", "begin B", "write B", "write A", "commit A", "commit B"),
    ("begin A", "write A", "begin B", "write B", "commit A", "commit B"),
    ("begin A", "write A", "begin B", "commit A", "write B", "commit B"),
    ("begin A", "begin B", "write A", "commit A", "write B", "commit B"),
]


def begun(store: MemoryStore) -> Output:
    return begin(
        store,
        "out",
        OutputKey(
            stage="s",
            version="1",
            config={},
            inputs={},
        ),
    )


@pytest.mark.parametrize("order", ORDERS, ids=" ".join)
def test_the_manifest_lists_the_stored_files(order: tuple[str, ...]) -> None:
    """Two processes do the same work, and write different bytes (a measured time, say)."""
    store, made = MemoryStore(), dict[str, Output]()
    for step in order:
        action, process = step.split()
        if action == "begin":
            made[process] = begun(store)
        elif action == "write":
            made[process].write("file", f"made by {process}".encode())
        else:
            try:
                made[process].commit()
            except UnavailableError:
                made[process] = begun(store)
    manifest = find_manifest(store, "out")
    assert manifest is not None
    assert read_finished(store, "out", "file", manifest).startswith(b"made by ")
    assert begun(store).finished == manifest


def test_a_third_process_at_the_same_output_is_an_error_to_retry() -> None:
    store = MemoryStore()
    first, second = begun(store), begun(store)
    first.write("file", b"made by 1")
    second.write("file", b"made by 2")
    first.commit()
    write_bytes(store, "out/file", b"made by 3")
    with pytest.raises(UnavailableError, match="two processes are making this output") as caught:
        second.commit()
    assert exit_code(caught.value) == 75


def test_a_damaged_plan_is_made_again(make_config: MakeConfig) -> None:
    """Two plans at once left a damaged plan once, and only --force replaced it."""
    config = make_config()
    store = LocalStore(config.store_url)
    made = plan.run(config, store)
    path = Path(config.store_url, "plan", "plan.json")
    path.write_bytes(path.read_bytes().replace(b"Qwen2", b"Qwen3"))
    assert plan.run(config, store) == made
    assert layout.load_plan(store, config, stage="test") == made


def test_plans_of_many_processes_are_one_plan(make_config: MakeConfig) -> None:
    """Processes that start at once: each succeeds, or ends with 75, which callers retry."""
    config = make_config()
    fork = multiprocessing.get_context("fork")
    start = fork.Barrier(5)

    def make() -> None:
        start.wait()
        try:
            plan.run(config, LocalStore(config.store_url))
        except BaseException as error:
            os._exit(exit_code(error))
        os._exit(0)

    made = [fork.Process(target=make) for _ in range(5)]
    for process in made:
        process.start()
    for process in made:
        process.join(60)
    codes = [process.exitcode for process in made]
    assert set(codes) <= {0, 75}
    assert 0 in codes
    store = LocalStore(config.store_url)
    manifest = find_manifest(store, "plan")
    assert manifest is not None
    assert plan.run(config, store) == layout.load_plan(store, config, stage="test")
    assert find_manifest(store, "plan") == manifest


def test_a_vanished_part_of_a_journal_is_an_error_to_retry(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Another process finishes the work after the parts are listed and before they are read."""
    store = MemoryStore()
    with appending(store, "out/lines.journal") as journal:
        journal.append("one")
    read = store.read

    def vanished(key: str, start: int = 0, end: int | None = None) -> bytearray:
        store.delete(key)
        return read(key, start, end)

    monkeypatch.setattr(store, "read", vanished)
    with (
        pytest.raises(UnavailableError, match="listed a moment ago") as caught,
        appending(store, "out/lines.journal"),
    ):
        pass
    assert exit_code(caught.value) == 75
