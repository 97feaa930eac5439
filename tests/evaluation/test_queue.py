"""Engines that share a run's evaluations: the bytes of one process, whatever happens to one."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from svdjobs import local
from svdjobs.config import ENGINES, SweepConfig
from svdjobs.config_file import parse_config
from svdjobs.errors import EXIT_TERMINATED, EvaluationError, OvertakenError
from svdjobs.evaluation import drawing, likelihoods, queue
from svdjobs.runs import leases, shards
from svdjobs.stages import blend, decompose, evaluate, plan, report
from svdjobs.storage.local import LocalStore
from svdjobs.storage.open import open_store
from svdjobs.storage.store import Store
from tests.forked import Process
from tests.waiting import until

MAP = {"nulls": 1, "layers": [1], "families": ["down_proj"]}
VARIANTS = {"mlp": {"before": "matrix", "include": ["mlp"]}}
MakeConfig = Callable[..., SweepConfig]


@pytest.fixture(scope="module")
def shared(chain: dict[str, Path], benchmark_file: Path) -> MakeConfig:
    """Makes a config whose evaluations engines share, with variants and a map."""

    def make(store: Path | str, **keys: Any) -> SweepConfig:
        evaluate = {
            "benchmarks": [{"name": "sums", "data": str(benchmark_file)}], "max_tokens": 12,
            "n_samples": 2, "batch_size": 1, "engine": "transformers", "engines": 2, "shards": 2,
            "sampled": ["alpha-0.5000"], **keys,
        }  # fmt: skip
        document = {
            "name": "mini", "before": str(chain["base"]), "after": str(chain["rl2"]),
            "store": str(store), "alphas": [0, 0.5, 1], "evaluate": evaluate,
            "variants": VARIANTS, "map": MAP,
        }  # fmt: skip
        return parse_config(document, where="test")

    return make


@pytest.fixture(scope="module")
def expected(shared: MakeConfig, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What the same sweep holds that one process has made."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    local.sweep(shared(folder, engines=None, shards=1))
    return contents(LocalStore(folder))


def prepared(config: SweepConfig) -> Store:
    """The store of a run that is finished up to its evaluations."""
    store = open_store(config.store_url)
    for stage in (plan, decompose, blend):
        stage.run(config, store)
    return store


def contents(store: Store) -> dict[str, bytes]:
    """Every file of a run, except those that name its store or config."""
    excluded = ("plan/", "logs/", "config.json", "identities.json")
    keys = [key for key in store.keys("") if not key.startswith(excluded)]
    return {key: bytes(store.read(key)) for key in keys}


@contextmanager
def engine(config: SweepConfig, log: Path) -> Iterator[Process]:
    with log.open("w") as file:
        process = Process(
            [config.model_dump_json()], cwd=Path.cwd(), env=os.environ, out=file.fileno(),
            err=file.fileno(), module="tests.evaluation.queue_child",
        )  # fmt: skip
        try:
            yield process
        finally:
            if process.poll() is None:
                os.kill(process.pid, signal.SIGKILL)
                process.wait()


def finished_by(config: SweepConfig, store: Store) -> dict[str, bytes]:
    """What the run holds once the report is made."""
    report.run(config, store)
    assert not report.unfinished(config, store)
    assert store.keys(leases.PREFIX) == store.keys("shares") == []
    return contents(store)


def test_two_engines_come_to_the_bytes_of_one_process(
    shared: MakeConfig,
    expected: dict[str, bytes],
    tmp_path: Path,
    run_url: str,
) -> None:
    config = shared(run_url)
    store = prepared(config)
    logs = [tmp_path / "0.log", tmp_path / "1.log"]
    with engine(config, logs[0]) as first, engine(config, logs[1]) as second:
        assert (first.wait(), second.wait()) == (0, 0), [log.read_text() for log in logs]
    assert finished_by(config, store) == expected
    done = [log.read_text().count(": done in") for log in logs]
    assert min(done) > 0, "both worked"


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_what_a_dead_engine_had_the_other_takes(
    shared: MakeConfig, expected: dict[str, bytes], tmp_path: Path, how: signal.Signals
) -> None:
    """It dies while it draws, and what it had drawn is not drawn again."""
    config = shared(tmp_path / "run", shards=1)
    store = prepared(config)
    journal = tmp_path / "run" / "results" / "after" / "sums"
    with engine(config, tmp_path / "dead.log") as dead:
        until(lambda: _lines(journal) >= 2, 60, "it draws", pause=0.002)
        with engine(config, tmp_path / "alive.log") as alive:
            os.kill(dead.pid, how)
            assert dead.wait() == (-how if how is signal.SIGKILL else EXIT_TERMINATED)
            assert alive.wait() == 0, (tmp_path / "alive.log").read_text()
    assert finished_by(config, store) == expected


def _lines(folder: Path) -> int:
    return sum(path.read_bytes().count(b"\n") for path in folder.glob("*journal*"))


def walk(config: SweepConfig, store: Store) -> None:
    (first, *_) = shards.engine_ids(config)
    evaluate.run_shard(config, store, checkpoint_id=ENGINES, shard_id=first)


def test_a_piece_that_fails_is_named_and_all_others_are_done(
    shared: MakeConfig, expected: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = shared(tmp_path / "run")
    store, real = prepared(config), likelihoods.make

    def make(session: Any, checkpoint_id: str, *args: Any, **keys: Any) -> None:
        if checkpoint_id == "alpha-0.5000":
            raise EvaluationError("a log-probability is not a number")
        real(session, checkpoint_id, *args, **keys)

    monkeypatch.setattr(likelihoods, "make", make)
    with pytest.raises(EvaluationError, match=r"1 pieces of work failed: read/alpha-0\.5000/sums"):
        walk(config, store)
    monkeypatch.setattr(likelihoods, "make", real)
    missing = [p.id for p in queue.pieces(config) if p.what == "read"]
    assert len(missing) == 6
    walk(config, store)  # with the fault mended
    assert finished_by(config, store) == expected


def test_work_that_another_engine_restarted_is_tried_again(
    shared: MakeConfig, expected: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A holder that stood still for too long is taken for dead; two then make one output."""
    config = shared(tmp_path / "run")
    store = prepared(config)
    real, overtaken = drawing.draw_shard, iter([True])

    def draw(*given: Any) -> Any:
        if next(overtaken, False):
            raise OvertakenError("another process has restarted it")
        return real(*given)

    monkeypatch.setattr(drawing, "draw_shard", draw)
    walk(config, store)
    assert finished_by(config, store) == expected


def test_an_engine_that_is_broken_ends_and_leaves_the_rest_to_others(
    shared: MakeConfig, expected: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = shared(tmp_path / "run")
    store, tried = prepared(config), []

    def broken(_: Any, checkpoint_id: str, *__: Any) -> None:
        tried.append(checkpoint_id)
        raise EvaluationError("the engine is gone")

    with monkeypatch.context() as patch:
        patch.setattr(drawing, "draw_shard", broken)
        with pytest.raises(EvaluationError, match="the engine is gone"):
            walk(config, store)
    assert len(set(tried)) == 2
    walk(config, store)
    assert finished_by(config, store) == expected


def test_a_blend_that_failed_is_left_out(
    shared: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = shared(tmp_path / "run")
    store = open_store(config.store_url)
    for stage in (plan, decompose):
        stage.run(config, store)
    blend.run(config, store, alphas=[0, 1])
    walk(config, store)
    assert "alpha-0.5000 is not evaluated" in capsys.readouterr().err
    report.run(config, store)
    assert report.unfinished(config, store) == [
        "checkpoints/alpha-0.5000", "results/alpha-0.5000/sums"
    ]  # fmt: skip


def test_with_engines_no_other_pod_evaluates(shared: MakeConfig) -> None:
    config = shared("unused")
    found = shards.fan_outs(config, None)
    assert found["engines"] == ["engine-000", "engine-001"]
    assert (found["evaluate"], found["baselines"], found["variants"]) == ([], [], False)
    assert len(found["alphas"]) == 3, "blends are made as before"
    assert shards.evaluations(config, "after") == []
    assert shards.evaluations(config) == [(ENGINES, "engine-000"), (ENGINES, "engine-001")]
