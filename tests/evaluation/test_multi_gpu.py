"""Several engines on one machine: real processes that are killed or fail. Needs no GPU."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from svdjobs.config import EvaluateConfig, SweepConfig
from svdjobs.errors import EXIT_TRY_AGAIN, ConfigError
from svdjobs.evaluation import multi_gpu
from svdjobs.stages import blend, decompose, plan
from svdjobs.storage.local import LocalStore
from tests.forked import Process

MakeConfig = Callable[..., SweepConfig]
ROOT = Path(__file__).parents[2]
ALPHAS = [0, 0.5]


def settings(**overrides: object) -> EvaluateConfig:
    return EvaluateConfig.model_validate({"benchmarks": ["demo"], **overrides})


def test_devices_are_grouped_by_tensor_parallel_size() -> None:
    four = ("0", "1", "2", "5")
    assert settings(devices=[0, 1]).devices == ("0", "1")  # as YAML reads them
    assert multi_gpu.device_groups(settings(devices=four)) == [("0",), ("1",), ("2",), ("5",)]
    pairs = settings(devices=four, tensor_parallel_size=2)
    assert multi_gpu.device_groups(pairs) == [("0", "1"), ("2", "5")]
    threes = settings(devices=four, tensor_parallel_size=3)
    assert multi_gpu.device_groups(threes) == [("0", "1", "2")]
    with pytest.raises(
        ConfigError, match=r"tensor_parallel_size is 8, but evaluate\.devices has 4"
    ):
        multi_gpu.device_groups(settings(devices=four, tensor_parallel_size=8))


def test_visible_devices_follow_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,7")
    assert multi_gpu.device_groups(settings()) == [("3",), ("7",)]


@pytest.fixture
def blended(make_config: MakeConfig, tmp_path: Path) -> SweepConfig:
    """A sweep for two devices, blended but not evaluated."""
    base = make_config().evaluate
    assert base is not None
    evaluate = base.model_dump() | {
        "engine": "transformers", "devices": ["0", "1"], "n_samples": 4, "max_tokens": 40,
    }  # fmt: skip
    config = make_config(alphas=ALPHAS, rotations=None, evaluate=evaluate)
    store = LocalStore(config.store_url)
    plan.run(config, store)
    decompose.run(config, store)
    blend.run(config, store)
    (tmp_path / "sweep.json").write_text(config.model_dump_json())
    return config


def evaluating(folder: Path) -> Process:
    with (folder / "said").open("w") as log:
        return Process(
            ["evaluate", "sweep.json"], cwd=folder, out=log.fileno(), err=log.fileno(),
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip


def engines_of(process: Process) -> list[int]:
    """The process ids of the engines that a process has started."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    pids = [int(pid) for pid in children.read_text().split()] if children.exists() else []
    return [pid for pid in pids if b"--shared" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def test_a_killed_engine_stops_no_other_and_starts_again(
    blended: SweepConfig, tmp_path: Path
) -> None:
    run = Path(blended.store_url)
    process = evaluating(tmp_path)
    deadline = time.monotonic() + 120
    while len(pids := engines_of(process)) < 2:
        assert process.poll() is None, (tmp_path / "said").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(pids[0], signal.SIGKILL)
    code, said = process.wait(240), (tmp_path / "said").read_text()
    assert code == 0, said
    assert re.search(r"engine \d was ended by signal 9, and starts again", said)
    ids = {"before", "after", *(f"alpha-{alpha:.4f}" for alpha in ALPHAS)}
    assert {p.parent.parent.name for p in run.glob("results/*/sums/manifest.json")} == ids
    assert {p.parent.parent.name for p in run.glob("likelihoods/*/sums/manifest.json")} == ids
    logs = [path.name.split("-")[:2] for path in (run / "logs").glob("engine-*.log")]
    assert sorted(logs) == [["engine", "0"], ["engine", "1"]]


def test_an_engine_that_hung_and_ended_itself_starts_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    codes = [EXIT_TRY_AGAIN, 0]

    def start(number: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", f"raise SystemExit({codes.pop(0)})"])

    multi_gpu._watch(LocalStore(tmp_path), start, 1)
    assert not codes
    assert "engine 0 ended with code 75, and starts again" in capsys.readouterr().err


def test_a_checkpoint_that_fails_in_every_engine_is_named_and_the_others_are_finished(
    blended: SweepConfig, tmp_path: Path
) -> None:
    """The weight file of one alpha is truncated, so no engine starts with it."""
    broken = Path(blended.store_url) / "checkpoints" / "alpha-0.0000" / "model.safetensors"
    broken.write_bytes(broken.read_bytes()[:-100])
    document = json.loads((tmp_path / "sweep.json").read_text())
    document["evaluate"] |= {"reuse_engine": False, "n_samples": 1}
    (tmp_path / "sweep.json").write_text(json.dumps(document))
    code, said = evaluating(tmp_path).wait(240), (tmp_path / "said").read_text()
    assert code == 4
    assert "1 of 4 checkpoints could not be evaluated: alpha-0.0000" in said
    assert "Traceback" not in said
    assert "alpha-0.0000/model.safetensors is not a whole safetensors file" in said
    done = Path(blended.store_url).glob("results/*/sums/manifest.json")
    assert {p.parent.parent.name for p in done} == {"before", "after", "alpha-0.5000"}
