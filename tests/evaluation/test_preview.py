"""The preview of an evaluation, with real checkpoints and tokenizers."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from svdjobs import local
from svdjobs.config import SweepConfig
from svdjobs.config_file import load_config
from svdjobs.errors import BenchmarkError, CheckpointError, ConfigError
from svdjobs.evaluation import likelihoods
from svdjobs.evaluation.benchmarks.load import load_benchmark
from svdjobs.evaluation.preview import preview_evaluation
from svdjobs.evaluation.prompts import load_tokenizer, make_prompts, prompts_sha256
from svdjobs.reporting.plan_text import lacks
from svdjobs.stages import evaluate
from svdjobs.storage.local import LocalStore
from tests.checkpoints import PROBLEMS, make_checkpoint

MakeConfig = Callable[..., SweepConfig]
SWEEPS = Path(__file__).parents[2] / "jobs" / "sweeps"


def preview(config: SweepConfig) -> str:
    store = LocalStore(config.store_url)
    return "\n".join([*preview_evaluation(config, store), *lacks(config)])


def evaluation(benchmark_file: Path, **more: Any) -> dict[str, Any]:
    benchmarks = [{"name": "sums", "data": str(benchmark_file)}]
    return {"benchmarks": benchmarks, "max_tokens": 12, "n_samples": 2, **more}


def other(folder: Path, base: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """A checkpoint with another tokenizer.json."""
    shutil.copytree(base, folder)
    path = folder / "tokenizer.json"
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))
    return folder


def swap(document: dict[str, Any]) -> None:
    """Exchange the ids of two letters."""
    vocabulary = document["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]


def add(document: dict[str, Any]) -> None:
    """One more special token, after the last."""
    special = document["added_tokens"]
    ids = [*document["model"]["vocab"].values(), *(token["id"] for token in special)]
    special.append({**special[0], "id": max(ids) + 1, "content": "<think>"})


def test_completions_and_tokens_are_counted_from_the_prompts(make_config: MakeConfig) -> None:
    config = make_config()
    assert config.evaluate is not None
    problems = load_benchmark(config.evaluate.benchmarks[0]).problems
    lengths = [len(p.ids) for p in make_prompts(problems, "plain", load_tokenizer(config.after))]
    text = preview(config)
    assert "3 alphas: 0, 0.5, 1" in text
    assert "sums: 5 problems × 2 completions × 5 checkpoints = 50 completions" in text
    assert (
        f"prompts of {min(lengths)} to {max(lengths)} tokens, {10 * sum(lengths):,} in all" in text
    )
    assert "at most 600 generated tokens" in text
    assert "the report will have" not in text
    assert "differ" not in text


def test_many_alphas_are_not_all_printed(make_config: MakeConfig) -> None:
    config = make_config(evaluate=None, alphas={"from": 0, "to": 1, "step": 0.01})
    assert "101 alphas: 0, 0.01, 0.02, 0.03" in preview(config)
    assert ", 0.09, …, 1\n" in preview(config)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"problem_field": "question"}, "row 1: no field 'question'; it has answer, problem"),
        ({"answer_field": "problems"}, "row 1: no field 'problems'"),
        ({"data": "none.jsonl"}, "none.jsonl: no such file"),
    ],
)
def test_a_wrong_benchmark_is_refused_before_anything_is_decomposed(
    change: dict[str, Any], words: str, make_config: MakeConfig, benchmark_file: Path
) -> None:
    benchmark = {"name": "sums", "data": str(benchmark_file), **change}
    config = make_config(evaluate={"benchmarks": [benchmark]})
    with pytest.raises(BenchmarkError, match=words):
        local.sweep(config)
    assert not (Path(config.store_url) / "factors").exists()


def test_prompts_that_do_not_fit_are_refused(make_config: MakeConfig, benchmark_file: Path) -> None:
    config = make_config(evaluate=evaluation(benchmark_file, max_tokens=127))
    with pytest.raises(BenchmarkError, match=r"do not fit after's context of 128"):
        preview(config)


def test_a_finished_evaluation_is_not_loaded_again(
    make_config: MakeConfig, benchmark_file: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "problems.jsonl"
    copy.write_bytes(benchmark_file.read_bytes())
    config = make_config(evaluate=evaluation(copy, max_tokens=1), alphas=[], rotations=None)
    evaluate.run(config, LocalStore(config.store_url))
    copy.unlink()
    assert "problems" not in preview(config)


def test_tokens_with_other_ids_are_refused_unless_a_tokenizer_is_chosen(
    make_config: MakeConfig, chain: dict[str, Path], benchmark_file: Path, tmp_path: Path
) -> None:
    before = str(other(tmp_path / "other", chain["base"], swap))
    config = make_config(before=before)
    words = (
        r"2 tokens have other ids \('a', 'b'\)\. Of the tokens in the prompts, before would read "
        r"1 as others, e\.g\. 'b' as 'a'\. Set evaluate\.tokenizer_of_before to own"
    )
    with pytest.raises(CheckpointError, match=words):
        preview(config)
    for chosen, how in (("own", "its own"), ("after", f"that of {chain['rl2']}")):
        text = preview(
            make_config(
                before=before, evaluate=evaluation(benchmark_file, tokenizer_of_before=chosen)
            )
        )
        assert f"before is evaluated with {how} (evaluate.tokenizer_of_before)" in text


def test_different_tokens_and_templates_are_named(
    make_config: MakeConfig, chain: dict[str, Path], tmp_path: Path
) -> None:
    after = other(tmp_path / "other", chain["rl2"], add)
    (after / "chat_template.jinja").write_text("{{ messages[0].content }}<think>")
    settings = json.loads((after / "tokenizer_config.json").read_text())
    (after / "tokenizer_config.json").write_text(json.dumps({**settings, "bos_token": "<pad>"}))
    text = preview(make_config(after=str(after)))
    assert "1 token only after has ('<think>')" in text
    assert "bos_token is none in before and <pad> in after" in text
    assert "the chat templates are not the same" in text
    # transformers gives every Qwen2 tokenizer an <|endoftext|>.
    for where in ("before", "after"):
        words = f"2 tokens lie ('<think>', '<|endoftext|>') beyond {where}'s embedding of"
        assert words in text


def test_a_prompt_with_a_token_that_is_not_embedded_is_refused(
    make_config: MakeConfig, chain: dict[str, Path], benchmark_file: Path, tmp_path: Path
) -> None:
    after = other(tmp_path / "other", chain["rl2"], add)
    config = make_config(
        after=str(after), evaluate=evaluation(benchmark_file, prompt="<think>{problem}")
    )
    with pytest.raises(CheckpointError, match=r"problem 0: its prompt has token .* embeds"):
        preview(config)


def test_rows_without_a_token_are_counted(make_config: MakeConfig, tmp_path: Path) -> None:
    wide = str(make_checkpoint(tmp_path / "wide", vocab_size=320))
    text = preview(make_config(before=wide, after=wide, rotations=None))
    blank = 320 - len(load_tokenizer(wide))
    assert f"after's embedding has {blank} of 320 rows that are no token" in text


def test_stop_tokens_outside_the_tokenizer_are_named(
    make_config: MakeConfig, chain: dict[str, Path], tmp_path: Path
) -> None:
    after = tmp_path / "after"
    shutil.copytree(chain["rl2"], after)
    generation = json.loads((after / "generation_config.json").read_text())
    generation["eos_token_id"] = [0, 5000]
    (after / "generation_config.json").write_text(json.dumps(generation))
    text = preview(make_config(after=str(after)))
    assert "after ends at token 5000 (eos_token_id of its configs), which the tokenizer" in text
    assert "before stops at token 0, after at 0, 5000" in text
    assert "before stops at" not in preview(make_config())


def test_before_can_have_its_own_tokenizer(
    make_config: MakeConfig, chain: dict[str, Path], benchmark_file: Path, tmp_path: Path
) -> None:
    """Its own template makes its prompts, and it has no likelihoods of after's completions."""
    before = tmp_path / "before"
    shutil.copytree(chain["base"], before)
    (before / "chat_template.jinja").write_text("Q: {{ messages[0].content }}")
    section = evaluation(benchmark_file, prompt="chat", tokenizer_of_before="own")
    config = make_config(before=str(before), evaluate=section, alphas=[], rotations=None)
    store = LocalStore(config.store_url)
    evaluate.run(config, store)
    problems = [row["problem"] for row in PROBLEMS]
    for checkpoint_id, source in (("before", config.before), ("after", config.after)):
        summary = store.read(f"grades/{checkpoint_id}/sums/summary.json")
        loaded = load_benchmark(config.evaluate.benchmarks[0]).problems  # type: ignore[union-attr]
        expected = prompts_sha256(make_prompts(loaded, "chat", load_tokenizer(source)))
        assert json.loads(bytes(summary))["prompts_sha256"] == expected
    assert 2 * len(problems) == len(likelihoods.load(store, "after", "sums"))
    assert likelihoods.load(store, "before", "sums") == []


def test_a_gate_does_not_compare_other_token_ids(
    make_config: MakeConfig, benchmark_file: Path
) -> None:
    with pytest.raises(ConfigError, match="gives before other token ids"):
        make_config(evaluate=evaluation(benchmark_file, tokenizer_of_before="own"), gate={})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"temperature": 0.6, "top_p": 0.95}, "no divergence from after: .* here 0.6 and 0.95"),
        ({"top_p": 0.9}, "no divergence from after"),
        ({"temperature": 0}, "nothing new from 2 completions"),
        ({"read": 0}, "no likelihood of after's answers"),
        ({"n_samples": 1}, "no pass@k but pass@1"),
    ],
)
def test_what_will_be_missing_in_the_report(
    change: dict[str, Any], words: str, make_config: MakeConfig, benchmark_file: Path
) -> None:
    lines = "; ".join(lacks(make_config(evaluate=evaluation(benchmark_file, **change))))
    assert re.search(words, lines)


def test_missing_sections_are_named(make_config: MakeConfig) -> None:
    assert lacks(make_config()) == []
    lines = lacks(make_config(evaluate=None, rotations=None, alphas=[]))
    assert [line.split(":")[0].removeprefix("the report will have ") for line in lines] == [
        "no accuracy and no likelihood",
        "no rotation of the bases",
        "no blend",
    ]


def test_our_example_can_be_read() -> None:
    config = load_config(SWEEPS / "deepscaler-1.5b.yaml")
    assert config.evaluation.readable
    assert not any("divergence" in line for line in lacks(config))
