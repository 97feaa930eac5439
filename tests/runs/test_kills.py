"""A sweep that was killed at any moment and is run again has the bytes of an undisturbed run."""

from __future__ import annotations

import hashlib
import json
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from svdjobs.config import SweepConfig
from tests.forked import run

MakeConfig = Callable[..., SweepConfig]
ROOT = Path(__file__).parents[2]
STAGES = ("plan", "factors", "checkpoints", "rotations", "results", "grades", "likelihoods",
          "report")  # fmt: skip
ESTIMATES = ("machine_gflops", "decompose_seconds", "blend_seconds", "disk_free_bytes")


def run_child(config: SweepConfig, *kills: str) -> dict[str, object]:
    """Run sweeps in forks of one child with all imports: one per kill, then a whole one."""
    done = run(config.model_dump_json(), *kills, cwd=ROOT, module="tests.runs.kill_child")
    assert done.returncode == 0, done.stderr
    report: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return report


def digests(config: SweepConfig) -> dict[str, str]:
    """sha256 of every file of a run but its logs."""
    root = Path(config.store_url)
    by_path = {}
    for path in sorted(root.rglob("*")):
        if path.is_file() and path.parent.name != "logs":
            by_path[str(path.relative_to(root))] = hashlib.sha256(path.read_bytes()).hexdigest()
    for volatile in ("config.json", "identities.json"):  # they name the store
        assert by_path.pop(volatile)
    return by_path


@pytest.fixture
def small(make_config: MakeConfig) -> Callable[..., SweepConfig]:
    def make(store: Path) -> SweepConfig:
        base = make_config()
        assert base.evaluate is not None
        return make_config(
            store=str(store),
            decompose={"parts": 2, "workers": 1},
            blend={"max_shard_bytes": 100_000, "svd_logs": False},
            evaluate=base.evaluate.model_dump() | {"max_tokens": 3},
            alphas=[0, 1],
        )

    return make


def test_killed_in_every_stage_the_rerun_gives_the_same_bytes(
    small: Callable[..., SweepConfig], tmp_path: Path
) -> None:
    """SIGKILL before and after a file of each stage appears, sixteen kills in one run."""
    undisturbed, killed = small(tmp_path / "undisturbed"), small(tmp_path / "killed")
    run_child(undisturbed)
    kills = [f"{moment}:{stage}:{nth}" for stage in STAGES for moment, nth in
             (("before", 1), ("after", 2))]  # fmt: skip
    outcome = run_child(killed, *kills)
    assert outcome["signals"] == [signal.SIGKILL] * len(kills)
    assert digests(killed) == digests(undisturbed)
    assert not list(Path(killed.store_url).rglob("in-progress.json"))
    assert not list(Path(killed.store_url).rglob("*.partial"))


def test_finished_work_is_not_done_again(small: Callable[..., SweepConfig], tmp_path: Path) -> None:
    """After a kill in the last stage, no earlier stage writes anything again."""
    config = small(tmp_path / "run")
    run_child(config, "before:report:1")
    outcome = run_child(config)
    assert outcome["writes"] == []


def test_completions_are_read_once(small: Callable[..., SweepConfig], tmp_path: Path) -> None:
    """Reading is killed twice amid ten completions, and once while after reads them again. Each row
    is written once, and is that of an undisturbed run, to the bit."""
    undisturbed, killed = small(tmp_path / "undisturbed"), small(tmp_path / "killed")
    run_child(undisturbed)
    folder = "likelihoods/after/sums"
    outcome = run_child(killed, f"after:{folder}:2", f"after:{folder}:3", f"after:{folder}:9")
    assert outcome["signals"] == [signal.SIGKILL] * 3
    writes = outcome["all_writes"]
    assert isinstance(writes, list)
    read = [[k for k in keys if k.startswith(f"{folder}/likelihoods.journal ")] for keys in writes]
    again = [[k for k in keys if k.startswith(f"{folder}/again.journal ")] for keys in writes]
    assert len({key for keys in read for key in keys}) == 10 == sum(map(len, read))
    assert len({key for keys in again for key in keys}) == 10 == sum(map(len, again))
    assert digests(killed) == digests(undisturbed)


def test_completions_are_generated_once(small: Callable[..., SweepConfig], tmp_path: Path) -> None:
    """An evaluation is killed before the third of ten completions, after the sixth, and while it
    grades all ten. Each time it resumes with the next completion.

    Five files are written before the first completion, and none later."""
    config = small(tmp_path / "run")
    outcome = run_child(config, "before:results:8", "after:results:4", "after:results:5")
    assert outcome["signals"] == [signal.SIGKILL] * 3
    writes = outcome["all_writes"]
    assert isinstance(writes, list)
    journal = "results/after/sums/completions.journal "
    generated = [[key for key in keys if key.startswith(journal)] for keys in writes]
    assert [len(keys) for keys in generated] == [2, 4, 4, 0]
    assert len({key for keys in generated for key in keys}) == 10
    lines = (tmp_path / "run/results/after/sums/completions.jsonl").read_text().splitlines()
    assert (
        len({tuple(json.loads(line)[k] for k in ("idx", "sample_index")) for line in lines}) == 10
    )
