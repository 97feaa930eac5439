"""The stage `fetch`: every hub checkpoint leaves the hub once, and pods read the run's copy."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from svdjobs.checkpoint.hub_files import HubFiles
from svdjobs.checkpoint.sources import open_checkpoint
from svdjobs.config import SweepConfig
from svdjobs.config_file import parse_config
from svdjobs.errors import (
    CheckpointError,
    ConfigError,
    DamagedError,
    StorageError,
    UnavailableError,
)
from svdjobs.runs import shards
from svdjobs.stages import blend, decompose, evaluate, fetch, metrics, plan, report
from svdjobs.storage.open import open_store
from tests.checkpoint.hub import COMMIT, Hub, serving, use
from tests.checkpoint.test_lora import trained
from tests.checkpoints import make_checkpoint

BLENDED = "checkpoints/alpha-0.0000/model.safetensors"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {
        f"lab/{role}": make_checkpoint(root / role, updates=updates, max_shard_size="300KB")
        for updates, role in enumerate(("before", "after"))
    }


@pytest.fixture
def hub(models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub that this process may use, with an empty cache."""
    with serving(dict(models)) as served:
        use(served, monkeypatch, tmp_path / "cache")
        yield served


def weights(models: dict[str, Path]) -> int:
    files = [path for folder in models.values() for path in folder.glob("*.safetensors")]
    return sum(path.stat().st_size for path in files)


def config_of(store: str, benchmark_file: Path, **sources: str) -> SweepConfig:
    document: dict[str, Any] = {
        "name": "hub", "before": "lab/before", "after": "lab/after@main", **sources,
        "store": store, "alphas": [0], "metrics": {"null_draws": 1, "heads": False},
        "evaluate": {
            "benchmarks": [{"name": "sums", "data": str(benchmark_file)}], "max_tokens": 4,
            "n_samples": 1, "engine": "transformers",
        },
    }  # fmt: skip
    return parse_config(document, where="test")


def blended_by(config: SweepConfig) -> bytearray:
    """The blend of a sweep that is run here."""
    store = open_store(config.store_url)
    for stage in (plan, decompose, blend):
        stage.run(config, store)
    return store.read(BLENDED)


def test_every_checkpoint_leaves_the_hub_once(
    hub: Hub,
    models: dict[str, Path],
    benchmark_file: Path,
    tmp_path: Path,
    run_url: str,
) -> None:
    """As in pods: no stage but plan and fetch asks the hub, and no cache is filled."""
    config = config_of(run_url, benchmark_file)
    store = open_store(run_url)
    made = plan.run(config, store)
    plan.hash_checkpoints(config, store)
    assert shards.fan_outs(config, made)["fetch"] == ["lab--before", "lab--after@main"]
    planned, hub.weight_bytes = hub.weight_bytes, 0
    assert planned < weights(models), "headers"
    for slug in ("lab--before", "lab--after@main"):
        fetch.run(config, store, slugs=[slug])
    assert hub.weight_bytes == weights(models)
    fetch.run(config, store)
    assert hub.weight_bytes == weights(models), "not a second time"
    hub.models.clear()  # nobody needs the hub any more
    for stage in (decompose, blend, metrics, evaluate, report):
        stage.run(config, store)
    assert not report.unfinished(config, store)
    assert not list((tmp_path / "cache").rglob("*.safetensors"))
    folders = {role: str(models[f"lab/{role}"]) for role in ("before", "after")}
    here = config_of(str(tmp_path / "here"), benchmark_file, **folders)
    assert store.read(BLENDED) == blended_by(here)


def test_the_copy_s_hashes_are_known_without_reading_it(
    hub: Hub, benchmark_file: Path, tmp_path: Path
) -> None:
    config = config_of(str(tmp_path / "run"), benchmark_file)
    store = open_store(config.store_url)
    plan.run(config, store)
    fetch.run(config, store)
    known = json.loads((tmp_path / "run" / "identities.json").read_text())
    plan.hash_checkpoints(config, store)
    assert json.loads((tmp_path / "run" / "identities.json").read_text()) == known


def test_a_fetch_that_was_cut_goes_on_with_the_next_file(
    hub: Hub, models: dict[str, Path], benchmark_file: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    config = config_of(str(tmp_path / "run"), benchmark_file)
    store = open_store(config.store_url)
    plan.run(config, store)
    monkeypatch.setattr(fetch, "WORKERS", 1)
    folder = tmp_path / "run" / "fetched" / "lab--before"
    copied = fetch._copied
    seen: list[str] = []

    def cut(files: Any, at: Any, name: str, *rest: Any) -> Any:
        if len(seen) == 4:
            raise UnavailableError("the hub is away")
        seen.append(name)
        return copied(files, at, name, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(fetch, "_copied", cut)
        with pytest.raises(UnavailableError, match="the hub is away"):
            fetch.run(config, store, slugs=["lab--before"])
    kept = {p.name: p.stat().st_mtime_ns for p in folder.glob("*.safetensors")}
    assert kept
    assert not (folder / "manifest.json").exists()
    broken = next(iter(kept))
    (folder / broken).write_bytes(b"\0" * (folder / broken).stat().st_size)
    hub.weight_bytes = 0
    fetch.run(config, store, slugs=["lab--before"])
    own = {"lab/before": models["lab/before"]}
    whole = sum((folder / name).stat().st_size for name in kept if name != broken)
    assert hub.weight_bytes == weights(own) - whole, "a file with other bytes is fetched again"


def test_a_token_that_expires_is_named_and_what_was_copied_stays(
    hub: Hub, models: dict[str, Path], benchmark_file: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The hub answers 401 from then on. In a pod the words name the Secret."""
    config = config_of(str(tmp_path / "run"), benchmark_file)
    store = open_store(config.store_url)
    hub.token = "first"
    monkeypatch.setenv("HF_TOKEN", "first")
    monkeypatch.setattr(fetch, "WORKERS", 1)
    hub.revoke_after = weights({"lab/before": models["lab/before"]}) // 2
    refused = r"lab/before@.*: the hub does not accept the token, HF_TOKEN \(Invalid credentials in"
    with pytest.raises(StorageError, match=rf"{refused}.* Set a new one.* run the same command"):
        fetch.run(config, store)
    kept = hub.weight_bytes
    assert kept > 0
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1")
    with pytest.raises(
        StorageError, match=r"Renew the Secret .*\(svdjobs-store.* submit the sweep"
    ):
        fetch.run(config, store)
    hub.token = "second"
    monkeypatch.setenv("HF_TOKEN", "second")
    fetch.run(config, store)
    assert hub.weight_bytes == weights(models), "nothing a second time"
    with pytest.raises(CheckpointError, match="the hub has no such model"):
        open_checkpoint("lab/nothing")


def test_bytes_that_differ_from_what_the_hub_says_are_refused(
    hub: Hub, benchmark_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(str(tmp_path / "run"), benchmark_file)
    store = open_store(config.store_url)
    monkeypatch.setattr(HubFiles, "sha256", lambda *_: 64 * "0")
    with pytest.raises(DamagedError, match=r"lab/before@.* the hub says 0000"):
        fetch.run(config, store, slugs=["lab--before"])
    assert not list((tmp_path / "run").rglob("*.safetensors"))


def test_what_a_shared_cache_holds_is_not_fetched(
    hub: Hub,
    models: dict[str, Path],
    benchmark_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = config_of(str(tmp_path / "run"), benchmark_file)
    made = plan.run(config, open_store(config.store_url))
    cache = tmp_path / "cache" / "models--lab--before"
    shutil.copytree(models["lab/before"], cache / "snapshots" / COMMIT)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text(COMMIT)
    both = ["lab--before", "lab--after@main"]
    assert shards.fan_outs(config, made)["fetch"] == both, "a cache of this pod alone"
    monkeypatch.setattr("os.access", lambda *_: False)  # a volume that is mounted read-only
    assert shards.fan_outs(config, made)["fetch"] == both[1:]
    next(cache.rglob("*.safetensors")).unlink()
    assert shards.fan_outs(config, made)["fetch"] == both, "it is not whole"


def test_wrong_use(benchmark_file: Path, tmp_path: Path) -> None:
    config = config_of(str(tmp_path / "run"), benchmark_file)
    with pytest.raises(ConfigError, match="--source x: the hub checkpoints of this config are: "):
        fetch.run(config, open_store(config.store_url), slugs=["x"])
    local = config_of(
        str(tmp_path / "run"), benchmark_file, before="demo:base", after="s3://bucket/after"
    )
    assert shards.fan_outs(local, None)["fetch"] == []


@pytest.mark.parametrize(
    ("sources", "fetched"),
    [
        ({"after": "lab/adapter"}, {"lab--before", "lab--adapter"}),
        ({"after": "lab/before + lab/adapter"}, {"lab--before", "lab--adapter"}),
        # An adapter's base may be no checkpoint of the config.
        ({"before": "lab/after", "after": "lab/adapter"}, {"lab--after", "lab--adapter"}),
    ],
)
def test_an_adapter_and_its_base_leave_the_hub_once(
    hub: Hub,
    models: dict[str, Path],
    benchmark_file: Path,
    tmp_path: Path,
    sources: dict[str, str],
    fetched: set[str],
) -> None:
    """plan reads headers and the adapter, but not the base."""
    adapter = tmp_path / "adapter"
    trained(models["lab/before"], adapter)
    document = json.loads((adapter / "adapter_config.json").read_text())
    document["base_model_name_or_path"] = "lab/before"
    (adapter / "adapter_config.json").write_text(json.dumps(document))
    hub.models["lab/adapter"] = adapter
    config = config_of(str(tmp_path / "run"), benchmark_file, **sources)
    store = open_store(config.store_url)
    made = plan.run(config, store)
    plan.hash_checkpoints(config, store)
    assert set(shards.fan_outs(config, made)["fetch"]) == fetched
    assert not list((tmp_path / "cache").rglob("model*.safetensors")), "headers"
    hub.weight_bytes = 0
    fetch.run(config, store)
    needed = {"lab/before", "lab/adapter", config.before}
    assert hub.weight_bytes == weights({name: hub.models[name] for name in needed})
    hub.models.clear()
    for stage in (decompose, blend):
        stage.run(config, store)
    here = config_of(
        str(tmp_path / "here"), benchmark_file,
        before=str(models[config.before]), after=f"{models['lab/before']} + {adapter}",
    )  # fmt: skip
    assert store.read(BLENDED) == blended_by(here)
