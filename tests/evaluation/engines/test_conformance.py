"""What every engine must do. A new engine passes these tests, or is not an engine of svdjobs.

Each engine of `evaluate.engine` is driven once, in a process of its own, and compared with the
library's model itself.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any, get_args

import pytest
import torch

from svdjobs.config import EvaluateConfig
from svdjobs.errors import ConfigError
from svdjobs.evaluation.engines.protocol import Trace, engine_kind
from svdjobs.evaluation.engines.stop_tokens import stop_tokens
from svdjobs.evaluation.prompts import load_tokenizer
from tests.evaluation.engines import engine_child
from tests.evaluation.engines.running import finished, not_here

NAMES = [n for n in get_args(EvaluateConfig.model_fields["engine"].annotation) if n != "auto"]
Report = dict[str, Any]


@pytest.fixture(scope="module")
def report_on(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Report]:
    """The report of `engine_child` on an engine, made once."""

    @cache
    def report(name: str) -> Report:
        if words := not_here(name):
            pytest.skip(words)
        module = "tests.evaluation.engines.engine_child"
        output, _ = finished(tmp_path_factory.mktemp(name), module, name)
        found: Report = json.loads(output.splitlines()[-1])
        return found

    return report


@pytest.fixture(params=NAMES)
def report(request: pytest.FixtureRequest, report_on: Callable[[str], Report]) -> Report:
    return report_on(request.param)


@cache
def model(name: str) -> Any:
    from transformers import AutoModelForCausalLM

    folder = engine_child.weights(name).folder
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def expected_log_probabilities(
    name: str, traces: Iterable[Trace] = (), temperature: float = 1.0
) -> list[list[float]]:
    """By a forward pass of the library's model over each trace alone."""
    rows = []
    for trace in traces or engine_child.traces():
        ids = torch.tensor([[*trace.prompt_ids, *trace.completion_ids]])
        with torch.no_grad():
            log_p = (model(name)(ids).logits[0] / temperature).log_softmax(-1)
        places = range(len(trace.prompt_ids), ids.shape[1])
        rows.append([float(log_p[i - 1, ids[0, i]]) for i in places])
    return rows


def test_every_config_s_engine_has_a_kind() -> None:
    assert {"vllm", "transformers"} <= set(NAMES)
    assert all(callable(engine_kind(name).start) for name in NAMES)


@pytest.mark.parametrize("name", ["none", "device", "a.b", "", "..."])
def test_an_engine_that_is_none(name: str) -> None:
    with pytest.raises(ConfigError, match="has no engine"):
        engine_kind(name)


def test_it_says_what_it_is(report: Report) -> None:
    assert " on cpu" in report["description"]
    assert report["settings"]["engine"] == report["description"]
    assert report["settings"]["dtype"] == "float32"
    longest = max(len(request.prompt_ids) for request in engine_child.requests(1))
    assert report["context"] >= longest + engine_child.MAX_TOKENS


def test_every_request_is_answered_once(report: Report) -> None:
    keys = [(c["idx"], c["sample_index"]) for c in report["rl2"]]
    assert keys == sorted(request.key for request in engine_child.requests(4))
    seeds = {request.key: request.seed for request in engine_child.requests(4)}
    assert all(c["seed"] == seeds[c["idx"], c["sample_index"]] for c in report["rl2"])


def test_equal_seeds_give_equal_completions_and_others_differ(report: Report) -> None:
    assert report["rl2"] == report["again"]
    assert len({c["text"] for c in report["rl2"]}) > engine_child.N_PROBLEMS


def test_done_requests_are_not_generated_again(report: Report) -> None:
    assert report["rest"] == [c for c in report["rl2"] if c["sample_index"] == 3]
    assert report["nothing"] == []


def test_a_completion_keeps_its_tokens_and_ends_at_a_stop_token(report: Report) -> None:
    """`token_ids` has the stop token, `completion_tokens` and `text` do not."""
    folder = engine_child.weights("rl2").folder
    tokenizer = load_tokenizer(folder)
    stop = set(stop_tokens(folder, tokenizer))
    ends = {c["finish_reason"] for c in report["rl2"]}
    assert "stop" in ends
    for c in report["rl2"]:
        stopped = c["finish_reason"] == "stop"
        kept = c["token_ids"][:-1] if stopped else c["token_ids"]
        assert (c["token_ids"][-1] in stop) == stopped
        assert not stop.intersection(kept)
        assert c["completion_tokens"] == len(kept) <= engine_child.MAX_TOKENS
        assert stopped or len(kept) == engine_child.MAX_TOKENS
        assert c["text"] == tokenizer.decode(kept, skip_special_tokens=True)


def test_log_probabilities_are_the_model_s(report: Report) -> None:
    """For the checkpoint that it started with, and for one that was swapped in."""
    for name, key in (("rl2", "log_probabilities"), ("base", "base_log_probabilities")):
        rows = expected_log_probabilities(name)
        for ours, theirs in zip(report[key], rows, strict=True):
            assert ours == pytest.approx(theirs, abs=2e-5), name
    assert report["no_log_probabilities"] == []


def test_log_probabilities_at_another_temperature(report: Report) -> None:
    """Those of the distribution that completions are drawn from at this temperature."""
    rows = expected_log_probabilities("rl2", temperature=engine_child.TEMPERATURE)
    for ours, theirs in zip(report["tempered"], rows, strict=True):
        assert ours == pytest.approx(theirs, abs=5e-5)
    assert report["untempered"] == report["log_probabilities"]


def test_the_order_of_traces_does_not_matter(report: Report) -> None:
    """Not even if they share most of their tokens, which vLLM caches by default: it is said to give
    other log-probabilities then (vllm-project/vllm#42019)."""
    traces = [Trace(*trace) for trace in report["traces"]]
    assert len(traces) == 40
    expected = expected_log_probabilities("rl2", traces)
    orders = report["read"], report["read_in_another_order"]
    for ours, others, theirs in zip(*orders, expected, strict=True):
        assert ours == pytest.approx(others, abs=1e-5)
        assert ours == pytest.approx(theirs, abs=2e-5)


def test_it_knows_its_vocabulary(report: Report) -> None:
    assert report["vocabulary"] == model("rl2").config.vocab_size


def test_weights_that_are_put_in_are_those_it_generates_with(report: Report) -> None:
    first = [c for c in report["rl2"] if c["sample_index"] == 0]
    assert report["base"] != first
    assert report["back"] == first


def test_some_weights_can_be_put_in_alone(report: Report) -> None:
    """If the others are already there, the engine is as after putting in all."""
    assert report["some_log_probabilities"] == report["mixed_log_probabilities"]
    assert report["some_log_probabilities"] != report["log_probabilities"]


def test_a_missing_weight_is_noticed(report: Report) -> None:
    """Else the last checkpoint's values would stay, without a word."""
    assert "reuse_engine" in report["incomplete"]
    assert "layers.1.mlp" in report["incomplete"]


def test_vllm_records_every_argument(report_on: Callable[[str], Report]) -> None:
    settings = report_on("vllm")["settings"]
    assert re.fullmatch(r"vllm \S+ on cpu", settings["engine"])
    assert settings["generation_config"] == "vllm"
    assert settings["trust_remote_code"] is False
    assert settings["batch_invariant"] is False
    longest = max(len(request.prompt_ids) for request in engine_child.requests(1))
    assert settings["max_model_len"] == longest + engine_child.MAX_TOKENS + 1


def test_vllm_gets_the_same_weights_by_every_transfer(report_on: Callable[[str], Report]) -> None:
    """In files, and as over CUDA IPC; the other tests pass them in memory."""
    report = report_on("vllm")
    assert report["base_by_transfer"] == [report["base_log_probabilities"]] * 2
    assert report["some_by_transfer"] == [report["some_log_probabilities"]] * 2


def test_vllm_takes_weights_after_one_failed_transfer(
    report_on: Callable[[str], Report],
) -> None:
    report = report_on("vllm")
    assert report["unreadable"] == "the shard ends too early"
    assert report["base_after_a_failure"] == report["base_log_probabilities"]


def test_vllm_notices_weights_that_did_not_arrive(report_on: Callable[[str], Report]) -> None:
    """Other projects have seen reloads that silently kept stale weights."""
    report = report_on("vllm")
    assert re.search(r"2[0-3] of the engine's 23 weights are not those", report["stale"])
    assert "reuse_engine" in report["stale"]
    assert "1 of the engine's 23 weights are not those" in report["incomplete"]
    assert "weights are not those" in report["some_stale"]
    assert "layers.1.mlp.gate_up_proj" in report["incomplete"]
