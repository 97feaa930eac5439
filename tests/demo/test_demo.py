"""Tests of the demo: the shipped checkpoints load and match `measured.json`, and training works."""

import ast
import json
import math
import operator
import random
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import AutoTokenizer, Qwen2ForCausalLM, Qwen2Tokenizer

from svdjobs.demo import (
    CHECKPOINT_NAMES,
    CHECKPOINTS,
    HELDOUT,
    MEASURED,
    PROMPT_SUFFIX,
    prompt_of,
)
from svdjobs.demo.learning import (
    ReinforceSettings,
    SupervisedSettings,
    group_advantages,
    train_reinforced,
)
from svdjobs.demo.measure import measure_accuracy, relative_change
from svdjobs.demo.model import (
    MAX_NEW_TOKENS,
    build_model,
    draw_completions,
    encode,
    log_probabilities,
    texts_of,
)
from svdjobs.demo.problems import (
    KINDS,
    SLIP_SHARE,
    Problem,
    held_out_problems,
    is_held_out,
    training_problems,
    write_demonstration,
)
from svdjobs.demo.tokenizer import build_tokenizer
from svdjobs.demo.train import main, read_held_out, train, write_checkpoint

SLIPS_PER_KIND = 400
Weights = dict[str, torch.Tensor]


@cache
def checkpoint(name: str) -> tuple[Qwen2ForCausalLM, Qwen2Tokenizer]:
    model, loading = Qwen2ForCausalLM.from_pretrained(
        CHECKPOINTS[name], output_loading_info=True, local_files_only=True
    )
    assert not any(loading.values()), loading  # missing, unexpected, mismatched, errors
    return model, AutoTokenizer.from_pretrained(CHECKPOINTS[name], local_files_only=True)


@cache
def measured() -> dict[str, Any]:
    read: dict[str, Any] = json.loads(MEASURED.read_text(encoding="utf-8"))
    return read


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Use one thread: two do not speed up small matrices, and wait long for a busy core."""
    monkeypatch.setattr("svdjobs.demo.train.N_THREADS", 1)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# ---------------------------------------------------------------- problems and golds


def gold_by_reading(problem: str) -> int:
    """The answer computed from the text alone, independently of the generator's operands."""
    if match := re.fullmatch(r"What is (.+)\?", problem):
        return evaluate(ast.parse(match[1], mode="eval").body)
    start, groups, size = map(int, re.findall(r"\d+", problem))
    assert " of " in problem
    return sum([size] * groups, start)


def evaluate(node: ast.expr) -> int:
    if isinstance(node, ast.Constant):
        assert isinstance(node.value, int)
        return node.value
    assert isinstance(node, ast.BinOp)
    apply: dict[type[ast.operator], Callable[[int, int], int]] = {
        ast.Add: operator.add,
        ast.Sub: operator.sub,
        ast.Mult: operator.mul,
    }
    return apply[type(node.op)](evaluate(node.left), evaluate(node.right))


def numbers_of(problem: str) -> tuple[str, ...]:
    """The signs and sorted numbers of a problem: equal for two orders or wordings of a problem."""
    signs = re.findall(r"[-+*]", problem) or ["story"]
    return (*signs, *sorted(re.findall(r"\d+", problem)))


def test_held_out_golds_are_right() -> None:
    rows = read_held_out(HELDOUT)
    assert len(rows) == 200
    assert [int(gold) for _, gold in rows] == [gold_by_reading(problem) for problem, _ in rows]


def test_held_out_is_what_the_generator_gives_and_mixes_all_kinds() -> None:
    problems = held_out_problems(200)
    assert read_held_out(HELDOUT) == [(problem.text, problem.gold) for problem in problems]
    assert all(is_held_out(problem) for problem in problems)
    counts = [sum(problem.kind == kind for problem in problems) for kind in KINDS]
    assert min(counts) >= 20


def test_held_out_and_training_share_no_problem() -> None:
    held_out = {numbers_of(problem) for problem, _ in read_held_out(HELDOUT)}
    assert len(held_out) == 200
    for seed in range(3):  # base, rl1 and rl2 train on these streams
        seen = {numbers_of(problem.text) for problem in islice(training_problems(seed), 20_000)}
        assert len(seen) > 5000
        assert not seen & held_out


def test_operand_order_does_not_move_a_problem_across_the_split() -> None:
    for left in range(11, 60):
        assert is_held_out(Problem("addition", (left, 38))) is is_held_out(
            Problem("addition", (38, left))
        )


@pytest.mark.parametrize("kind", KINDS)
def test_demonstrations_are_right_or_slip_as_often_as_stated(kind: str) -> None:
    rng = random.Random(0)
    stream = (problem for problem in training_problems(9) if problem.kind == kind)
    n_right = 0
    for problem in islice(stream, SLIPS_PER_KIND):
        text = write_demonstration(problem, rng)
        match = re.fullmatch(r"(\n[-+*=\d]+( carry| borrow)?)+\n\\boxed\{(\d+)\}", text)
        assert match, text
        n_right += match[3] == problem.gold
    # A slip may be harmless (0 - 1 is kept at 0), so the fraction may be a little above
    # 1 - SLIP_SHARE. The tolerance is 4 sigma.
    tolerance = 4 * math.sqrt(SLIP_SHARE * (1 - SLIP_SHARE) / SLIPS_PER_KIND)
    assert -tolerance < n_right / SLIPS_PER_KIND - (1 - SLIP_SHARE) < tolerance + 0.06


def test_demonstration_without_slip_ends_in_the_gold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("svdjobs.demo.problems.SLIP_SHARE", 0.0)
    rng = random.Random(0)
    for problem in islice(training_problems(0), 2000):
        lines = write_demonstration(problem, rng).split("\n")
        assert lines[-1] == f"\\boxed{{{gold_by_reading(problem.text)}}}"
        for line in lines[1:-1]:
            left, right = line.split(" ")[0].split("=")
            assert evaluate(ast.parse(left, mode="eval").body) == int(right), line


# ---------------------------------------------------------------- shipped files


@pytest.mark.parametrize("name", CHECKPOINT_NAMES)
def test_checkpoint_loads_tied_and_float32(name: str) -> None:
    model, tokenizer = checkpoint(name)
    assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()
    with safe_open(CHECKPOINTS[name] / "model.safetensors", framework="pt") as file:
        keys = list(file.keys())
        assert "lm_head.weight" not in keys
        assert {file.get_slice(key).get_dtype() for key in keys} == {"F32"}
    assert sum(weight.numel() for weight in model.parameters()) == measured()["n_weights"]
    config = model.config
    assert config.hidden_size // config.num_attention_heads >= 32
    assert config.num_key_value_heads < config.num_attention_heads
    assert config.max_position_embeddings == 256
    assert config.vocab_size == len(tokenizer) <= 320
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert model.generation_config.pad_token_id == tokenizer.pad_token_id


def test_shipped_checkpoints_are_small_and_complete() -> None:
    files = [path for folder in CHECKPOINTS.values() for path in folder.iterdir()]
    assert sum(path.stat().st_size for path in files) <= 5_000_000
    expected = {
        "README.md",
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    for folder in CHECKPOINTS.values():
        assert {path.name for path in folder.iterdir()} == expected


@pytest.mark.parametrize("name", CHECKPOINT_NAMES)
def test_shipped_tokenizer(name: str) -> None:
    _, tokenizer = checkpoint(name)
    assert tokenizer.get_vocab() == build_tokenizer().get_vocab()
    prompt = prompt_of("What is 407 + 38?")
    assert prompt == f"What is 407 + 38? {PROMPT_SUFFIX}"
    tokens = tokenizer.encode(prompt)
    assert tokenizer.decode(tokens) == prompt
    assert len(tokens) < 20
    pieces = [tokenizer.decode([token]) for token in tokens]
    assert [piece for piece in pieces if piece.isdigit()] == list("40738")
    hostile = "Ünïcode ∫ 中文 \\frac{12}{3}\n"
    assert tokenizer.decode(tokenizer.encode(hostile)) == hostile
    assert tokenizer.eos_token_id != tokenizer.pad_token_id
    message = [{"role": "user", "content": prompt}]
    assert tokenizer.apply_chat_template(message, tokenize=False) == prompt


@pytest.mark.parametrize("name", CHECKPOINT_NAMES)
def test_checkpoint_is_as_accurate_as_measured(name: str) -> None:
    model, tokenizer = checkpoint(name)
    stated = measured()["accuracy"][name]
    again = measure_accuracy(model, tokenizer, read_held_out(HELDOUT), 2, seed=12345)
    # The problems are the same, the completions are others. The standard errors also contain the
    # spread between problems, which both measurements share, so 4 of them is a generous tolerance.
    tolerance = 4 * math.hypot(stated["standard_error"], again["standard_error"])
    assert again["n_problems"] == stated["n_problems"] == 200
    assert again["mean"] == pytest.approx(stated["mean"], abs=tolerance)


def test_stated_accuracies_rise_along_the_chain() -> None:
    base, rl1, rl2 = (measured()["accuracy"][name]["mean"] for name in CHECKPOINT_NAMES)
    assert 0.50 <= base <= 0.70
    assert base + 0.03 < rl1 < rl2 - 0.03
    assert base + 0.15 <= rl2 <= 0.97


def test_stated_weight_changes_are_those_of_the_files() -> None:
    weights = {name: checkpoint(name)[0].state_dict() for name in CHECKPOINT_NAMES}
    stated = measured()["relative_weight_change"]
    assert set(stated) == {"base -> rl1", "base -> rl2", "rl1 -> rl2"}
    for pair, change in stated.items():
        before, after = (weights[name] for name in pair.split(" -> "))
        assert relative_change(before, after) == pytest.approx(change, rel=1e-3)
        assert 0 < change < 0.05  # an RL update, not a retraining


def test_package_names_its_files_without_heavy_imports() -> None:
    program = (
        "import sys, svdjobs.demo, svdjobs.demo.train, svdjobs.demo.tokenizer;"
        "print({'torch', 'transformers', 'tokenizers'} & set(sys.modules))"
    )
    printed = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout
    assert printed.strip() == "set()"


# ---------------------------------------------------------------- model


def test_padding_changes_no_log_probability() -> None:
    model, tokenizer = checkpoint("base")
    prompts = [prompt_of("What is 47 + 38?"), prompt_of("What is 2 * 345 + 12345678?")]
    completions = ["\n7+8=15 carry\n4+3+1=8\n\\boxed{85}", "\n1"]
    together = log_probabilities(model, encode(tokenizer, prompts, completions))
    for row in range(2):
        alone = log_probabilities(model, encode(tokenizer, [prompts[row]], [completions[row]]))
        n_drawn = alone.shape[1]
        torch.testing.assert_close(together[row : row + 1, :n_drawn], alone, atol=1e-4, rtol=1e-4)
        assert not together[row, n_drawn:].any()


def test_greedy_draw_agrees_with_generate_of_transformers() -> None:
    model, tokenizer = checkpoint("rl2")
    prompts = [prompt_of(problem) for problem, _ in read_held_out(HELDOUT)[:8]]
    generator = torch.Generator().manual_seed(0)
    # A temperature this low leaves only the most likely token.
    batch = draw_completions(model, tokenizer, prompts, generator, temperature=1e-4)
    for prompt, text in zip(prompts, texts_of(tokenizer, batch), strict=True):
        ids = torch.tensor([tokenizer.encode(prompt)])
        drawn = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            temperature=None,
            max_new_tokens=MAX_NEW_TOKENS,
        )
        assert text == tokenizer.decode(drawn[0, ids.shape[1] :], skip_special_tokens=True)


def test_draw_depends_on_the_generator_alone() -> None:
    model, tokenizer = checkpoint("base")
    prompts = [prompt_of("What is 47 + 38?")] * 16
    draws = []
    for generator_seed, global_seed in ((1, 0), (1, 99), (2, 0)):
        torch.manual_seed(global_seed)
        generator = torch.Generator().manual_seed(generator_seed)
        draws.append(texts_of(tokenizer, draw_completions(model, tokenizer, prompts, generator)))
    assert draws[0] == draws[1] != draws[2]
    assert len(set(draws[0])) > 1  # temperature 1 on a model that is unsure


# ---------------------------------------------------------------- learning


def test_group_advantages() -> None:
    reward_QG = torch.tensor([[1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0]])
    advantage_QG = group_advantages(reward_QG)
    # Mean 1/4, standard deviation (n - 1) 1/2.
    torch.testing.assert_close(
        advantage_QG[0], torch.tensor([1.5, -0.5, -0.5, -0.5]), atol=1e-3, rtol=0
    )
    assert not advantage_QG[1:].any()


def toy_train(output: Path) -> tuple[dict[str, Any], dict[str, Weights]]:
    supervised = SupervisedSettings(seed=5, n_updates=2, batch_size=4)
    reinforced = {"rl1": ReinforceSettings(seed=6, n_updates=2, n_problems=2, group_size=2)}
    result = train(output, supervised, reinforced, n_held_out=3, n_completions=1)
    weights: dict[str, Weights] = {}
    for name in ("base", "rl1"):
        weights[name] = load_file(output / "checkpoints" / name / "model.safetensors")
    return result, weights


def test_training_changes_weights_and_repeats_to_the_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # After two updates no completion is correct, so reward every other one.
    monkeypatch.setattr(
        "svdjobs.demo.learning._rewards",
        lambda tokenizer, batch, problems: torch.arange(len(problems)) % 2.0,
    )
    result, weights = toy_train(tmp_path / "first")
    _, again = toy_train(tmp_path / "second")
    fresh = build_model(build_tokenizer(), seed=5).state_dict()
    assert relative_change(fresh, weights["base"]) > 1e-4
    assert relative_change(weights["base"], weights["rl1"]) == pytest.approx(
        result["relative_weight_change"]["base -> rl1"], rel=1e-3
    )
    assert result["relative_weight_change"]["base -> rl1"] > 1e-6
    for name, tensors in weights.items():
        for key, tensor in tensors.items():
            assert torch.equal(tensor, again[name][key]), (name, key)
    first = (tmp_path / "first/checkpoints/rl1/model.safetensors").read_bytes()
    assert first == (tmp_path / "second/checkpoints/rl1/model.safetensors").read_bytes()


def test_reinforcement_with_the_grader_moves_base_a_little() -> None:
    name = "base"
    model = Qwen2ForCausalLM.from_pretrained(CHECKPOINTS[name], local_files_only=True)
    _, tokenizer = checkpoint(name)
    rewards: list[float] = []
    settings = ReinforceSettings(seed=1, n_updates=2, n_problems=8, group_size=4)
    train_reinforced(model, tokenizer, settings, lambda _, reward: rewards.append(reward))
    assert len(rewards) == 2
    assert all(0.2 < reward < 0.95 for reward in rewards)
    before = checkpoint(name)[0].state_dict()
    assert 1e-5 < relative_change(before, model.state_dict()) < 1e-2


def test_checkpoint_is_replaced_as_a_whole(tmp_path: Path) -> None:
    model, tokenizer = checkpoint("base")
    folder = tmp_path / "base"
    folder.mkdir()
    (folder / "stale.safetensors").write_bytes(b"from an earlier run")
    write_checkpoint(model, tokenizer, folder)
    assert not (folder / "stale.safetensors").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["base"]
    assert (folder / "model.safetensors").read_bytes() == (
        CHECKPOINTS["base"] / "model.safetensors"
    ).read_bytes()


def test_interrupt_is_reported_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("svdjobs.demo.train.train", interrupted)
    result = CliRunner().invoke(main, ["--output", str(tmp_path)])
    assert result.exit_code == 1
    assert "holds the checkpoints of the finished phases" in result.output
