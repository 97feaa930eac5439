"""The prompts of every checkpoint, as the evaluate stage records and checks them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from svdjobs.config import SweepConfig
from svdjobs.errors import BenchmarkError, CheckpointError, IncompleteError
from svdjobs.evaluation.benchmarks.load import load_benchmark
from svdjobs.evaluation.preview import preview_evaluation
from svdjobs.evaluation.prompts import load_tokenizer, make_prompts, prompts_sha256
from svdjobs.stages import evaluate, plan
from svdjobs.storage.local import LocalStore

MakeConfig = Callable[..., SweepConfig]


def run(config: SweepConfig) -> Path:
    folder = Path(config.store_url)
    evaluate.run(config, LocalStore(folder), checkpoint_ids=["before", "after"])
    return folder


@pytest.mark.parametrize("style", ["plain", "chat", "{problem} = "])
def test_summaries_record_the_prompts(
    style: str, make_config: MakeConfig, benchmark_file: Path
) -> None:
    benchmarks = [{"name": "sums", "data": str(benchmark_file)}]
    config = make_config(evaluate={"benchmarks": benchmarks, "prompt": style, "max_tokens": 2})
    folder = run(config)
    assert config.evaluate is not None
    problems = load_benchmark(config.evaluate.benchmarks[0]).problems
    expected = prompts_sha256(make_prompts(problems, style, load_tokenizer(config.after)))
    for checkpoint in ("before", "after"):
        text = (folder / "grades" / checkpoint / "sums" / "summary.json").read_text()
        assert json.loads(text)["prompts_sha256"] == expected


def test_before_is_checked_against_its_own_context(
    make_config: MakeConfig, chain: dict[str, Path], tmp_path: Path
) -> None:
    """Else vLLM cuts its completions off early, and it looks worse than it is."""
    short = Path(shutil.copytree(chain["base"], tmp_path / "short"))
    document = json.loads((short / "config.json").read_text())
    shorter = {**document, "max_position_embeddings": 40}
    (short / "config.json").write_text(json.dumps(shorter))
    section = {**make_config().evaluation.model_dump(), "max_tokens": 30}
    config = make_config(before=str(short), rotations=None, alphas=[], evaluate=section)
    with pytest.raises(BenchmarkError, match="do not fit before's context of 40"):
        run(config)
    store = LocalStore(config.store_url)
    assert evaluate.run(config, store, checkpoint_ids=["after"]), "which has more"
    with pytest.raises(BenchmarkError, match="do not fit before's context of 40"):
        preview_evaluation(config, store)


def test_too_long_a_prompt_is_refused_before_anything_is_generated(
    make_config: MakeConfig, benchmark_file: Path, tmp_path: Path
) -> None:
    """Also if it is in the last benchmark."""
    long = tmp_path / "long.jsonl"
    rows = [{"problem": "short", "answer": 1}, {"problem": "x" * 80, "answer": 2}]
    long.write_text("".join(json.dumps(row) + "\n" for row in rows))
    benchmarks = [{"name": "sums", "data": str(benchmark_file)}, str(long)]
    config = make_config(evaluate={"benchmarks": benchmarks, "max_tokens": 60})
    words = r"benchmark long, problem 1: .*max_tokens 60 .*context of 128"
    with pytest.raises(BenchmarkError, match=words):
        run(config)
    assert not list(Path(config.store_url).glob("results/*"))


def test_an_alpha_that_is_not_planned_is_refused_before_anything_is_generated(
    make_config: MakeConfig,
) -> None:
    """A blend of an earlier plan may exist, but the weights would be computed by this plan."""
    config = make_config(rotations=None, alphas=[0, 1])
    store = LocalStore(config.store_url)
    plan.run(config, store)
    wider = make_config(rotations=None, alphas=[0, 0.25, 0.5, 1])
    for run_stage in (
        lambda: evaluate.run(wider, store, checkpoint_ids=["after"]),
        lambda: evaluate.run_shard(wider, store, checkpoint_id="after", shard_id="sums-000"),
    ):
        with pytest.raises(IncompleteError, match=r"the plan in .* has no alpha 0\.25, 0\.5\. Run"):
            run_stage()
    assert not list(Path(config.store_url).glob("results/*"))


def test_chat_with_a_tokenizer_that_has_no_template(
    make_config: MakeConfig, chain: dict[str, Path], benchmark_file: Path, tmp_path: Path
) -> None:
    from tests.checkpoints import make_checkpoint

    silent = make_checkpoint(tmp_path / "silent")
    (silent / "chat_template.jinja").unlink()
    benchmarks = [{"name": "sums", "data": str(benchmark_file)}]
    config = make_config(
        tokenizer=str(silent), evaluate={"benchmarks": benchmarks, "prompt": "chat"}
    )
    with pytest.raises(
        CheckpointError, match=r"silent has no chat template\. Set evaluate\.prompt"
    ):
        run(config)
