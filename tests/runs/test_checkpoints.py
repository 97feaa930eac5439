"""Each stage opens and hashes each checkpoint of a sweep once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from svdjobs.config import SweepConfig
from svdjobs.runs import checkpoints
from svdjobs.runs.checkpoints import RunCheckpoints
from svdjobs.stages import blend, decompose, evaluate, plan, rotations
from svdjobs.storage.local import LocalStore


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter[tuple[str, str]]:
    """Number of calls that opened or hashed a checkpoint, by function and label."""
    counts: Counter[tuple[str, str]] = Counter()
    for name in ("open_checkpoint", "open_headers", "identity"):
        real = getattr(checkpoints, name)

        def counted(
            what: Any, *args: Any, _name: str = name, _real: Any = real, **more: Any
        ) -> Any:
            counts[_name, what if isinstance(what, str) else what.label] += 1
            return _real(what, *args, **more)

        monkeypatch.setattr(checkpoints, name, counted)
    return counts


def test_a_stage_opens_and_hashes_every_checkpoint_once(
    make_config: Callable[..., SweepConfig], calls: Counter[tuple[str, str]]
) -> None:
    config = make_config(alphas=[0, 1])
    store = LocalStore(config.store_url)
    for stage in (plan, decompose, blend, rotations, evaluate):
        stage.run(config, store)
        assert calls, stage.__name__
        assert set(calls.values()) == {1}, (stage.__name__, calls)
        calls.clear()


def test_headers_of_an_opened_checkpoint_are_its_own(
    make_config: Callable[..., SweepConfig],
) -> None:
    config = make_config()
    opened = RunCheckpoints(config)
    assert opened.headers(config.after) is opened.headers(config.after)
    assert opened.headers(config.before) is not opened.before
    assert opened.headers(config.before) is opened.before, "opened by now"
    assert opened.bases is opened.after
    assert RunCheckpoints(make_config(direction="reverse")).bases.label == config.before


def test_the_next_stage_sees_a_checkpoint_that_has_changed(
    make_config: Callable[..., SweepConfig], chain: dict[str, Path], tmp_path: Path
) -> None:
    import shutil

    folder = tmp_path / "before"
    shutil.copytree(chain["base"], folder)
    config = make_config(before=str(folder))
    store = LocalStore(config.store_url)
    first = RunCheckpoints(config).identity(config.before, store)
    shutil.copy(chain["rl1"] / "model.safetensors", folder)
    assert RunCheckpoints(config).identity(config.before, store) != first
