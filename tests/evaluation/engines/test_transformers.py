from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.stats import chisquare

from svdjobs.config import EvaluateConfig
from svdjobs.errors import BenchmarkError, CheckpointError, EvaluationError
from svdjobs.evaluation.engines.protocol import Request, Trace, Weights, make_requests
from svdjobs.evaluation.engines.transformers import TransformersEngine, inverse_cdf
from svdjobs.evaluation.prompts import load_tokenizer, make_prompts
from svdjobs.records import Completion, Problem
from tests.checkpoints import tensors, tokenizer


def settings(**overrides: object) -> EvaluateConfig:
    benchmarks = [{"name": "b", "data": "b.jsonl"}]
    document = {"benchmarks": benchmarks, "max_tokens": 10, "dtype": "float32", **overrides}
    return EvaluateConfig.model_validate(document)


def weights(folder: Path) -> Weights:
    return Weights(folder.name, str(folder), lambda: tensors(folder).items())


class ListEngine(TransformersEngine):
    """The engine, with lists instead of iterators."""

    def completions(self, wanted: list[Request]) -> list[Completion]:
        return list(self.generate(wanted))


def engine(folder: Path, **overrides: object) -> ListEngine:
    return ListEngine(weights(folder), load_tokenizer(str(folder)), settings(**overrides))


def requests(count: int = 6, n: int = 2) -> list[Request]:
    problems = [Problem(idx=i, problem="why " * (i + 1), gold="1") for i in range(count)]
    prompts = make_prompts(problems, "{problem} answer", tokenizer())
    return make_requests(problems, prompts, n, seed=0)


def test_a_completion_does_not_depend_on_its_batch(chain: dict[str, Path]) -> None:
    made = engine(chain["base"])
    wanted = requests()
    together = made.completions(wanted)
    alone = [made.completions([request])[0] for request in wanted]
    assert [c.text for c in together] == [c.text for c in alone]
    assert together == made.completions(wanted)


def test_samples_of_one_problem_differ(chain: dict[str, Path]) -> None:
    completions = engine(chain["base"]).completions(requests(1, n=8))
    assert len({c.text for c in completions}) > 4
    assert len({c.seed for c in completions}) == 8


def test_greedy_decoding_is_the_librarys(chain: dict[str, Path]) -> None:
    from transformers import AutoModelForCausalLM

    completions = engine(chain["base"], temperature=0).completions(requests(3, n=1))
    model = AutoModelForCausalLM.from_pretrained(chain["base"], dtype=torch.float32)
    for completion, request in zip(completions, requests(3, n=1), strict=True):
        prompt = tokenizer()(request.prompt, return_tensors="pt")
        assert tuple(prompt["input_ids"][0].tolist()) == request.prompt_ids
        tokens = model.generate(**prompt, do_sample=False, max_new_tokens=10)[0]
        text = tokenizer().decode(tokens[prompt["input_ids"].shape[1] :], skip_special_tokens=True)
        assert completion.text == text


def test_tokens_follow_the_distribution() -> None:
    p = torch.tensor([[0.5, 0.0, 0.3, 0.2]]).double()
    u = torch.rand(20_000, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    counts = Counter(inverse_cdf(p.expand(len(u), -1), u, 1.0).flatten().tolist())
    assert counts[1] == 0
    observed = [counts[i] for i in (0, 2, 3)]
    assert chisquare(observed, [10_000, 6_000, 4_000]).pvalue > 1e-4


def test_top_p_keeps_the_smallest_sufficient_set() -> None:
    p = torch.tensor([[0.1, 0.6, 0.05, 0.25]]).double()
    u = torch.linspace(0, 0.9999, 1000, dtype=torch.float64)[:, None]
    assert set(inverse_cdf(p.expand(1000, -1), u, 0.7).flatten().tolist()) == {1, 3}
    assert set(inverse_cdf(p.expand(1000, -1), u, 0.6).flatten().tolist()) == {1}


def test_close_distributions_give_the_same_token_nearly_always() -> None:
    """Common random numbers: tokens differ about as often as the distributions do."""
    logits = torch.randn(2000, 50, generator=torch.Generator().manual_seed(0)).double()
    noise = 1e-3 * torch.randn(2000, 50, generator=torch.Generator().manual_seed(1)).double()
    u = torch.rand(2000, 1, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    same = inverse_cdf(logits.softmax(-1), u, 1.0) == inverse_cdf(
        (logits + noise).softmax(-1), u, 1.0
    )
    assert same.double().mean() > 0.99


def test_finish_reasons(chain: dict[str, Path]) -> None:
    completions = engine(chain["base"], max_tokens=30).completions(requests(20, n=4))
    assert {c.finish_reason for c in completions} == {"stop", "length"}
    for completion in completions:
        if completion.finish_reason == "length":
            assert completion.completion_tokens == 30
        else:
            assert completion.completion_tokens < 30
        assert "<eos>" not in completion.text


def test_prompt_too_long_for_the_context(chain: dict[str, Path]) -> None:
    long = Request(7, 0, 0, "", (5,) * 125)
    with pytest.raises(
        BenchmarkError, match=r"problem 7: .*context of 128; lower evaluate.max_tokens to 3"
    ):
        engine(chain["base"]).completions([long])


def test_token_that_the_checkpoint_does_not_have(chain: dict[str, Path]) -> None:
    foreign = Request(0, 0, 0, "", (5, 9_999))
    with pytest.raises(CheckpointError, match=r"token 9999, but the checkpoint embeds \d+ tokens"):
        engine(chain["base"]).completions([foreign])


def test_the_engine_reads_the_ids_and_not_the_text(chain: dict[str, Path]) -> None:
    """Requests without a text give the same completions: nothing is tokenised again."""
    made = engine(chain["base"])
    assert made.completions([]) == []
    renamed = [request._replace(prompt="") for request in requests()]
    assert made.completions(renamed) == made.completions(requests())


def test_a_checkpoints_sampling_is_ignored(chain: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "opinionated"
    shutil.copytree(chain["base"], folder)
    own = json.loads((folder / "generation_config.json").read_text())
    own.update({"do_sample": True, "temperature": 0.01, "top_k": 1, "max_new_tokens": 2})
    (folder / "generation_config.json").write_text(json.dumps(own))
    assert engine(folder).completions(requests()) == engine(chain["base"]).completions(requests())


def test_tokenizer_without_padding_token(chain: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "padless"
    shutil.copytree(chain["base"], folder)
    document = json.loads((folder / "tokenizer_config.json").read_text())
    document.pop("pad_token")
    (folder / "tokenizer_config.json").write_text(json.dumps(document))
    expected = [c.text for c in engine(chain["base"]).completions(requests())]
    assert [c.text for c in engine(folder).completions(requests())] == expected


def test_incomplete_checkpoint_is_refused(chain: dict[str, Path], tmp_path: Path) -> None:
    from safetensors.torch import save_file

    folder = tmp_path / "incomplete"
    shutil.copytree(chain["base"], folder)
    content = tensors(folder)
    del content["model.layers.1.mlp.up_proj.weight"]
    save_file(content, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r": 1 weights .* missing, .*1\.mlp\.up_proj"):
        engine(folder)


def test_done_requests_are_not_generated_again(chain: dict[str, Path]) -> None:
    made = engine(chain["base"], batch_size=4)
    wanted = requests()
    done = {wanted[0].key, wanted[5].key, *(request.key for request in wanted[8:12])}
    whole = {(c.idx, c.sample_index): c for c in made.generate(wanted)}
    rest = list(made.generate(wanted, done))
    assert [whole[c.idx, c.sample_index] for c in rest] == rest
    assert {(c.idx, c.sample_index) for c in rest} == whole.keys() - done


def test_other_weights_in_a_running_engine(chain: dict[str, Path]) -> None:
    made = engine(chain["base"], temperature=0)
    made.put(weights(chain["rl2"]))
    fresh = engine(chain["rl2"], temperature=0)
    assert made.completions(requests()) == fresh.completions(requests())


def test_weights_of_another_shape_or_missing_weights_are_refused(chain: dict[str, Path]) -> None:
    made = engine(chain["base"])
    content = tensors(chain["rl2"])
    name = "model.layers.1.mlp.up_proj.weight"
    wrong = {**content, name: content[name][:-1]}
    with pytest.raises(EvaluationError, match=r"no \[79, 48\] tensor .*up_proj.*reuse_engine"):
        made.put(Weights("w", str(chain["rl2"]), wrong.items))
    del content[name]
    with pytest.raises(EvaluationError, match=r"w has no .*layers\.1\.mlp\.up_proj"):
        made.put(Weights("w", str(chain["rl2"]), content.items))


def test_log_probabilities_against_the_library(chain: dict[str, Path]) -> None:
    from transformers import AutoModelForCausalLM

    traces = [Trace((5, 6, 7), (8, 9)), Trace((4,), (5, 6, 7, 8, 0)), Trace((3, 2), (1,))]
    found = list(engine(chain["base"], batch_size=2).log_probabilities(traces))
    model = AutoModelForCausalLM.from_pretrained(chain["base"], dtype=torch.float32)
    for trace, row in zip(traces, found, strict=True):
        ids = torch.tensor([trace.prompt_ids + trace.completion_ids])
        with torch.no_grad():
            log_p = model(ids).logits[0].log_softmax(-1)
        places = range(len(trace.prompt_ids), ids.shape[1])
        assert row == pytest.approx([float(log_p[i - 1, ids[0, i]]) for i in places], abs=1e-5)


CAUSAL = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
          "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16}  # fmt: skip


def saved(folder: Path, tokenizer_of: Path, config: Any, seed: int = 0) -> Path:
    """A checkpoint of random weights, ten times as large as usual, so that logits are not small."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4 if parameter.ndim > 1 else 1)
    model.save_pretrained(folder)
    for path in tokenizer_of.glob("*token*"):
        shutil.copy(path, folder)
    return folder


@pytest.mark.parametrize("kind", ["Gemma2Config", "GraniteConfig", "CohereConfig", "Qwen2Config"])
def test_what_a_model_does_after_its_head_is_in_log_probabilities(
    kind: str, chain: dict[str, Path], tmp_path: Path
) -> None:
    """Gemma2 caps its logits, Granite and Cohere scale them."""
    import transformers

    given = {**CAUSAL, "logits_scaling": 8.0, "logit_scale": 0.2, "final_logit_softcapping": 1.0}
    folder = saved(tmp_path / kind, chain["base"], getattr(transformers, kind)(**given))
    made = engine(folder)
    assert made.head_gives_logits is (kind == "Qwen2Config")
    traces = [Trace((5, 6, 7), (8, 9, 3)), Trace((4,), (5, 6))]
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    for trace, row in zip(traces, made.log_probabilities(traces, 0.7), strict=True):
        ids = torch.tensor([trace.prompt_ids + trace.completion_ids])
        with torch.no_grad():
            log_p = (model(ids).logits[0] / 0.7).log_softmax(-1)
        places = range(len(trace.prompt_ids), ids.shape[1])
        assert row == pytest.approx([float(log_p[i - 1, ids[0, i]]) for i in places], abs=1e-5)


def test_experts_that_transformers_joins_are_swapped(
    chain: dict[str, Path], tmp_path: Path
) -> None:
    import transformers

    config = transformers.Qwen3MoeConfig(
        **CAUSAL, moe_intermediate_size=16, num_experts=4, num_experts_per_tok=2
    )
    one, two = (saved(tmp_path / str(i), chain["base"], config, i) for i in (1, 2))
    made, other = engine(one), engine(two)
    content = {**tensors(two), "a_head_that_the_model_lacks.weight": torch.zeros(2, 2)}
    name = next(name for name in content if ".experts.2." in name)
    origins = dict.fromkeys(content, "two")
    traces = [Trace((5, 6, 7), (8, 9, 3))]
    expected = list(other.log_probabilities(traces))
    for changed in (None, [name]):
        made.put(Weights("two", str(two), content.items, origins, _some(content)), changed)
        assert list(made.log_probabilities(traces)) == expected
        made.put(Weights("one", str(one), tensors(one).items))
    del content[name]
    with pytest.raises(EvaluationError, match=r"two: transformers cannot load it"):
        made.put(Weights("two", str(two), content.items))


def _some(content: dict[str, torch.Tensor]) -> Callable[[Collection[str]], Any]:
    return lambda names: [(name, content[name]) for name in names]
