"""What `plan` says about hours and the smallest change that a sweep shows, also from a pilot."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

import svdjobs
from svdjobs import local
from svdjobs.config import SweepConfig
from svdjobs.config_file import parse_config
from svdjobs.errors import ConfigError
from svdjobs.evaluation import speeds, wanted
from svdjobs.evaluation.amounts import Questions
from svdjobs.evaluation.pilot import look
from svdjobs.evaluation.preview import preview_evaluation
from svdjobs.runs import timings
from svdjobs.runs.logs import run_logs
from svdjobs.stages import plan, report
from svdjobs.statistics import Spread
from svdjobs.storage.local import LocalStore
from tests.forked import run as run_svdjobs

DEMO = Path(svdjobs.__file__).parent / "demo" / "checkpoints"
PROBLEMS = 60


def sweep(folder: Path, **keys: Any) -> SweepConfig:
    document: dict[str, Any] = {
        "name": "pilot",
        "before": str(DEMO / "base"),
        "after": str(DEMO / "rl2"),
        "store": str(folder),
        "alphas": [0],
        "evaluate": {
            "benchmarks": [{"name": "demo", "limit": PROBLEMS}],
            "engine": "transformers",
            "max_tokens": 48,
            "n_samples": 2,
            "second_grader": "off",
        },
    }
    return parse_config({**document, **keys}, where="test")


@pytest.fixture(scope="module")
def pilot(tmp_path_factory: pytest.TempPathFactory) -> LocalStore:
    """The store of a finished run over 60 problems, with alpha 0."""
    config = sweep(tmp_path_factory.mktemp("pilot") / "run")
    local.sweep(config)
    return LocalStore(config.store_url)


def words(config: SweepConfig, asked: Questions | None = None) -> str:
    store = LocalStore(config.store_url)
    plan.run(config, store)
    return "\n".join(preview_evaluation(config, store, asked))


def test_the_pilot_says_what_its_report_found(pilot: LocalStore) -> None:
    """With the pilot's own numbers the design has the standard errors that its report has."""
    config = sweep(Path(pilot.url))
    found = look(config, pilot, "demo")
    assert found.checkpoint_id == "alpha-0.0000"
    assert found.sampled
    assert found.read
    content = report.gather(config, pilot, plan.run(config, pilot), wanted.manifests(config, pilot))
    reading = content.readings["demo"]["alpha-0.0000"].accuracy
    assert reading
    assert reading.standard_error
    # The report's error has the engine's noise in it, and `between` is cut off at 0.
    error = found.read.of_problem(2) / PROBLEMS**0.5
    assert error == pytest.approx(reading.standard_error, rel=0.1)
    assert found.tokens == content.summaries["demo"]["after"].completion_tokens_mean


def test_reading_shows_a_smaller_change_than_sampling(pilot: LocalStore, tmp_path: Path) -> None:
    config = sweep(tmp_path / "run")
    text = words(config, Questions(pilot=pilot, effect=0.01))
    assert "60 problems × 2 completions × 3 checkpoints = 360 completions" in text
    assert ", and about " in text
    assert "as fast as transformers " in text
    shown = text.partition("sampling 2 completions of each problem shows a change of ")[2]
    sampled, read = (
        float(shown.split()[0]),
        float(shown.partition(" of each problem shows a ")[2].split()[2]),
    )
    assert 0 < read < sampled
    assert "(alpha-0.0000 in the pilot's 60 problems)" in text
    assert "to show a change of 1 points, sampling needs " in text
    assert "to show a change of 1 points, reading needs 1 completion of each of the 60" in text


def test_without_a_pilot_assumptions_are_named(tmp_path: Path) -> None:
    text = words(sweep(tmp_path / "run", map={"nulls": 1}))
    # before, after twice, alpha 0; 21 cells with a null each, and all parts together
    assert "demo: 47 checkpoints and cells of the map read 120 of after's completions" in text
    assert "at most 17,280 generated tokens" in text
    assert "on this machine's CPU in float32, at 20 % of its speed" in text
    assert "assuming that half of a completion's variance" in text
    assert "a pilot tells (--pilot) or `svdjobs forecast`" in text


def test_a_greedy_evaluation_reads_nothing(tmp_path: Path) -> None:
    document = sweep(tmp_path).model_dump(mode="json")
    document["evaluate"] |= {"temperature": 0, "read": 0}
    text = words(parse_config(document, where="test"))
    assert " read " not in text
    assert "forecast" not in text


def test_a_pilot_that_cannot_help_is_refused(pilot: LocalStore, tmp_path: Path) -> None:
    config = sweep(tmp_path / "run")
    with pytest.raises(ConfigError, match=r"none has no graded completions of after on demo"):
        words(config, Questions(pilot=LocalStore(str(tmp_path / "none"))))
    only_after = LocalStore(str(tmp_path / "after"))
    shutil.copytree(pilot.url, only_after.url)
    for folder in ("results", "likelihoods"):
        for checkpoint_id in ("before", "alpha-0.0000"):
            shutil.rmtree(Path(only_after.url) / folder / checkpoint_id)
    with pytest.raises(ConfigError, match=r"evaluated no alpha of this config on demo"):
        look(config, only_after, "demo")


def test_the_command(pilot: LocalStore, tmp_path: Path) -> None:
    file = tmp_path / "sweep.yaml"
    file.write_text(sweep(tmp_path / "run").model_dump_json())
    done = run_svdjobs("plan", file, "--pilot", pilot.url, "--gpu", "H100", "--effect", "0.5")
    assert done.returncode == 0, done.stderr
    assert "on one H100 in float32, at 20 % of its peak" in done.stdout
    assert "to show a change of 0.5 points" in done.stdout
    wrong = run_svdjobs("plan", file, "--gpu", "H1")
    assert wrong.returncode == 2
    assert "--gpu H1: known are A10, A100" in wrong.stderr


def test_an_hour_of_a_gpu_is_what_its_rate_gives() -> None:
    bf16 = speeds.of_gpu("H100", 8.03e9, "bfloat16")
    # vllm-project/vllm#7117: 24.3 requests of 512 tokens per second
    assert bf16.draws == pytest.approx(24.3 * 512, rel=0.02)
    assert speeds.of_gpu("H100", 8.03e9, "float32").draws == pytest.approx(bf16.draws * 67 / 989)


def test_experts_that_a_token_does_not_meet_cost_nothing() -> None:
    elements = {
        "model.embed_tokens.weight": 1000,
        "lm_head.weight": 1000,
        "model.layers.0.mlp.experts.0.up_proj.weight": 100,
        "model.layers.0.mlp.experts.1.up_proj.weight": 100,
        "model.layers.0.self_attn.q_proj.weight": 10,
    }
    assert speeds.active_parameters(elements, {}) == 1210
    assert speeds.active_parameters(elements, {"num_experts": 2, "num_experts_per_tok": 1}) == 1110
    del elements["lm_head.weight"]
    assert speeds.active_parameters(elements, {"tie_word_embeddings": True}) == 1210


@pytest.mark.parametrize(
    ("model", "known"),
    [
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA A100-SXM4-80GB", "A100"),
        ("NVIDIA A10G", "A10"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA L4", "L4"),
        ("NVIDIA GeForce RTX 4090", "RTX-4090"),
        ("Tesla V100", None),
    ],
)
def test_a_gpu_is_known_by_its_drivers_name(model: str, known: str | None) -> None:
    assert speeds.known_gpu(model) == known


def test_notes_of_a_killed_process_are_read_as_far_as_they_go(tmp_path: Path) -> None:
    store = LocalStore(str(tmp_path))
    with run_logs(store) as logs:
        for seconds in (10.0, 1.0, 1.0):
            timing = timings.Timing(
                what="draw",
                engine="e",
                checkpoint="after",
                benchmark="b",
                tokens=10,
                seconds=seconds,
            )
            timings.note(logs, timing)
        with logs.path("timings").open("a") as file:
            file.write('{"what": "dr')
    found = timings.load(store)
    assert len(found) == 3
    assert timings.tokens_per_second(found, "draw") == 10
    assert timings.tokens_per_second(found, "read") is None
    assert store.keys("")[0].startswith("logs/timings-")


def test_spread_of_a_problem() -> None:
    assert Spread(0.03, 0.04).of_problem(4) == pytest.approx(0.2)
