"""Benchmarks on the hub: planned for a cluster, a run has its own copy."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from svdjobs import local
from svdjobs.config import BenchmarkConfig
from svdjobs.config_file import read_config
from svdjobs.errors import StorageError
from svdjobs.evaluation.benchmarks import of_run
from svdjobs.evaluation.benchmarks.load import Benchmark, load_benchmark
from svdjobs.evaluation.benchmarks.of_run import benchmark_of
from svdjobs.storage.open import open_store
from tests.checkpoint.hub import COMMIT, Hub, environment, serving
from tests.checkpoints import write_problems

HUB_ID = "lab/sums"


def test_only_the_pod_that_plans_asks_the_hub(tmp_path: Path, chain: dict[str, Path]) -> None:
    data = tmp_path / "data"
    data.mkdir()
    file = write_problems(data / "test.jsonl")
    text = yaml.safe_dump(
        {
            "name": "hub", "before": str(chain["base"]), "after": str(chain["rl2"]),
            "store": str(tmp_path / "run"), "alphas": [0],
            "evaluate": {
                "benchmarks": [{"name": "sums", "data": HUB_ID}], "engine": "transformers",
                "dtype": "float32", "n_samples": 1, "max_tokens": 4,
            },
        }
    )  # fmt: skip
    (tmp_path / "sweep.yaml").write_text(text)
    with serving({f"datasets/{HUB_ID}": data}) as hub:
        planned(hub, tmp_path)
        assert hub.data_files == 1
    config = read_config(text, where="test")
    store = open_store(config.store_url)
    (section,) = config.benchmarks
    with pytest.raises(StorageError, match="could not be loaded"):
        load_benchmark(section)
    here = load_benchmark(BenchmarkConfig(name="sums", data=str(file)))
    assert benchmark_of(section, store) == here._replace(revision=COMMIT)
    local.sweep(config)  # every other stage, without the hub
    assert b"sums" in store.read("report/report.html")


def test_a_pinned_commit_is_loaded_once(tmp_path: Path) -> None:
    """It cannot have changed. Another part of the data, or another field, is another copy."""
    config = read_config(PINNED, [f"store={tmp_path / 'run'}"], where="test")
    store = open_store(config.store_url)
    (section,) = config.benchmarks
    loaded = load_benchmark(BenchmarkConfig(name="demo")).problems[:2]
    with pytest.MonkeyPatch.context() as patch:
        found = Benchmark("sums", loaded, "0" * 64, COMMIT)
        patch.setattr(of_run, "load_benchmark", lambda _: found)
        of_run.keep(config, store)
    of_run.keep(config, store)
    assert benchmark_of(section, store) == found
    for other in ({"limit": 1}, {"problem_field": "question"}, {"revision": "f" * 40}):
        with pytest.raises(StorageError, match="could not be loaded"):
            benchmark_of(section.model_copy(update=other), store)


PINNED = f"""
name: pinned
before: demo:base
after: demo:rl2
alphas: [0]
evaluate:
  benchmarks: [{{name: sums, data: {HUB_ID}, revision: "{COMMIT}"}}]
"""


def planned(hub: Hub, folder: Path) -> None:
    """Plan in another process, as a pod does: the client reads the hub's address at import."""
    done = subprocess.run(
        [sys.executable, "-m", "svdjobs.cli.main", "plan", "sweep.yaml", "--units-dir", "units"],
        capture_output=True,
        text=True,
        cwd=folder,
        env=environment(hub, folder / "cache"),
    )
    assert done.returncode == 0, done.stderr
