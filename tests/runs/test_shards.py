"""A sweep shard by shard, as in pods, gives the same bytes as a sweep in one process."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from svdjobs import local
from svdjobs.config import SweepConfig, alpha_id
from svdjobs.errors import ConfigError
from svdjobs.runs import shards
from svdjobs.stages import blend, decompose, evaluate, plan, report, rotations
from svdjobs.storage.local import LocalStore
from svdjobs.storage.store import Store

MakeConfig = Callable[..., SweepConfig]
DIVIDED = {"decompose": {"parts": 5, "shards": 2}}


def contents(config: SweepConfig) -> dict[str, bytes]:
    """Every file of a run, except those that name its store or config."""
    root = Path(config.store_url)
    files = {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}
    excluded = ("plan/", "logs/", "config.json", "identities.json")
    return {key: data for key, data in files.items() if not key.startswith(excluded)}


def evaluation(config: SweepConfig, **keys: Any) -> dict[str, Any]:
    assert config.evaluate is not None
    return {**config.evaluate.model_dump(mode="json"), "engine": "transformers", **keys}


@pytest.fixture
def whole(make_config: MakeConfig) -> SweepConfig:
    return make_config(**DIVIDED, evaluate=evaluation(make_config(), repeat_after=True))


def test_shards_give_the_same_bytes(whole: SweepConfig, tmp_path: Path) -> None:
    """In the worst order, with three shards of five problems, and each shard twice."""
    local.sweep(whole)
    config = whole.model_copy(
        update={
            "store": str(tmp_path / "shards"),
            "evaluate": whole.evaluate.model_copy(update={"shards": 3}) if whole.evaluate else None,
        }
    )
    store = LocalStore(config.store_url)
    made = plan.run(config, store)
    fan_outs = shards.fan_outs(config, made)
    assert fan_outs == {
        "fetch": [],
        "decompose": [f"{i}-{n:03d}" for i in ("before", "after", "base", "rl1") for n in (0, 1)],
        "alphas": ["alpha-0.0000", "alpha-0.5000", "alpha-1.0000"],
        "baselines": ["before", "after-again"],
        "evaluate": ["sums-000", "sums-001", "sums-002"],
        "engines": [],
        "rotations": True,
        "metrics": False,
        "variants": False,
        "gate": False,
    }
    for shard_id in 2 * list(reversed(fan_outs["decompose"])):
        decompose.run(config, store, shard_id=shard_id)
    for checkpoint_id in ("after", *fan_outs["baselines"]):
        evaluate_all(config, store, checkpoint_id, fan_outs["evaluate"])
    for name in reversed(fan_outs["alphas"]):
        blend.run(config, store, alphas=[shards.alpha_named(config, name)])
        evaluate_all(config, store, name, fan_outs["evaluate"])
    rotations.run(config, store)
    report.run(config, store)
    assert not report.unfinished(config, store)
    assert contents(config) == contents(whole)


def evaluate_all(
    config: SweepConfig, store: Store, checkpoint_id: str, shard_ids: list[str]
) -> None:
    for shard_id in reversed(shard_ids):
        whole = evaluate.run_shard(config, store, checkpoint_id=checkpoint_id, shard_id=shard_id)
        assert (whole is not None) == (shard_id == shard_ids[0]), "the last shard joins all"
    again = evaluate.run_shard(config, store, checkpoint_id=checkpoint_id, shard_id=shard_ids[1])
    assert again is not None
    assert not store.keys(f"shares/{checkpoint_id}")


def test_more_shards_than_problems(whole: SweepConfig, make_config: MakeConfig) -> None:
    config = make_config(evaluate=evaluation(whole, shards=9))
    store = LocalStore(config.store_url)
    plan.run(config, store)
    shard_ids = [shard.id for shard in shards.evaluate_shards(config)]
    done = [evaluate.run_shard(config, store, checkpoint_id="after", shard_id=i) for i in shard_ids]
    assert [manifest is not None for manifest in done] == [False] * 8 + [True]


def test_a_checkpoint_with_few_parts_has_as_many_shards(make_config: MakeConfig) -> None:
    config = make_config(decompose={"parts": 2, "shards": 7}, rotations=None)
    made = plan.run(config, LocalStore(config.store_url))
    assert [shard.of for shard in shards.decompose_shards(config, made)] == [2] * 4


def test_shards_cover_everything_once() -> None:
    three = [shards.Shard("x", number, 3) for number in range(3)]
    assert sorted(item for shard in three for item in shard.pick(range(10))) == list(range(10))


def test_alphas_by_id_and_by_number(make_config: MakeConfig) -> None:
    config = make_config(alphas=[-0.5, 1 / 3, 1])
    for alpha in config.alphas:
        assert shards.alpha_named(config, alpha_id(alpha)) == alpha
        assert shards.alpha_named(config, repr(alpha)) == alpha
    with pytest.raises(ConfigError, match=r"--alpha alpha-0\.7000: the config has -0\.5, 0\.333"):
        shards.alpha_named(config, "alpha-0.7000")


def test_unknown_shard_is_named(make_config: MakeConfig) -> None:
    config = make_config()
    store = LocalStore(config.store_url)
    plan.run(config, store)
    with pytest.raises(ConfigError, match=r"no shard 'after-7' in this run; it has before-000"):
        decompose.run(config, store, shard_id="after-7")


def test_evaluations_of_an_indexed_job(make_config: MakeConfig) -> None:
    config = make_config(evaluate=evaluation(make_config(), shards=2))
    assert shards.evaluations(config, "after") == [("after", "sums-000"), ("after", "sums-001")]
    others = shards.evaluations(config)
    assert others[0] == ("before", "sums-000")
    assert {checkpoint for checkpoint, _ in others} == {
        "before", "alpha-0.0000", "alpha-0.5000", "alpha-1.0000",
    }  # fmt: skip
    assert shards.items_at_index(others, 8, 9) == []
    indices = [shards.items_at_index(others, index, 3) for index in range(3)]
    assert sorted(pair for some in indices for pair in some) == sorted(others)


def test_a_thousand_alphas_fit_a_workflow(make_config: MakeConfig) -> None:
    """A fan-out's list is an output parameter, for which Argo allows 256 KiB."""
    config = make_config(alphas=[i / 999 for i in range(1000)])
    made = plan.run(config, LocalStore(config.store_url))
    assert len(json.dumps(shards.fan_outs(config, made)["alphas"])) < 64 << 10
