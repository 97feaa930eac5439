"""Drive a real engine on the CPU and print what happened as JSON. A program, not a test.

    python -m tests.evaluation.engines.engine_child NAME [WORKERS]

vLLM changes the process it runs in (threads, environment, warnings): tests keep it out of theirs.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import torch
from safetensors.torch import load_file

import svdjobs
from svdjobs.config import EvaluateConfig
from svdjobs.errors import DamagedError, SvdjobsError
from svdjobs.evaluation.engines import vllm_transfer
from svdjobs.evaluation.engines.protocol import (
    Engine,
    Request,
    Trace,
    Weights,
    engine_kind,
    make_requests,
)
from svdjobs.evaluation.engines.vllm import VllmEngine
from svdjobs.evaluation.prompts import load_tokenizer, make_prompts
from svdjobs.records import Completion, Problem

DEMO = Path(svdjobs.__file__).parent / "demo"
N_PROBLEMS = 8
MAX_TOKENS = 40
TEMPERATURE = 0.6
SOME = [
    "model.layers.1.self_attn.k_proj.weight",  # in vLLM a part of a fused parameter
    "model.layers.2.mlp.down_proj.weight",
    "model.norm.weight",
]


def weights(name: str) -> Weights:
    folder = DEMO / "checkpoints" / name
    return Weights(name, str(folder), lambda: load_file(folder / "model.safetensors").items())


def mixed() -> Weights:
    """rl2 with some tensors of base."""
    base, tensors = dict(weights("base").tensors()), dict(weights("rl2").tensors())
    tensors |= {name: base[name] for name in SOME}
    return Weights(
        "mixed", str(DEMO / "checkpoints" / "rl2"), tensors.items,
        origins={name: ("base" if name in SOME else "rl2", None) for name in tensors},
        some=lambda names: ((name, tensors[name]) for name in names),
    )  # fmt: skip


def settings(**overrides: Any) -> EvaluateConfig:
    document = {"benchmarks": ["demo"], "dtype": "float32", "max_tokens": MAX_TOKENS, **overrides}
    return EvaluateConfig.model_validate(document)


def requests(n_samples: int) -> list[Request]:
    rows = [json.loads(line) for line in (DEMO / "heldout.jsonl").read_text().splitlines()]
    problems = [
        Problem(idx=i, problem=row["problem"], gold=row["answer"])
        for i, row in enumerate(rows[:N_PROBLEMS])
    ]
    tokenizer = load_tokenizer(str(DEMO / "checkpoints" / "rl2"))
    return make_requests(problems, make_prompts(problems, "plain", tokenizer), n_samples, seed=0)


def traces() -> list[Trace]:
    """Any tokens will do: a log-probability exists for unlikely tokens too."""
    wanted = requests(1)
    return [Trace(r.prompt_ids, wanted[-1 - i].prompt_ids[:9]) for i, r in enumerate(wanted)]


def refused(action: Callable[[], object]) -> str:
    try:
        action()
    except SvdjobsError as error:
        return str(error)
    return ""


def answered(engine: Engine) -> list[tuple[Request, Completion]]:
    """Forty requests, whose prompts share most of their tokens, and their completions."""
    by_key = {request.key: request for request in requests(5)}
    return [(by_key[c.idx, c.sample_index], c) for c in engine.generate(requests(5))]


def report_on(engine: Engine) -> dict[str, Any]:
    """What an engine that was started with rl2 does."""

    def generated(wanted: list[Request], done: set[tuple[int, int]] | None = None) -> Any:
        completions = list(engine.generate(wanted, done or set()))
        completions.sort(key=lambda c: (c.idx, c.sample_index))
        return [completion.model_dump(mode="json") for completion in completions]

    report: dict[str, Any] = {
        "settings": engine.settings,
        "description": engine.description,
        "context": engine.context,
        "rl2": generated(requests(4)),
        "again": generated(requests(4)),
        "rest": generated(requests(4), {(i, k) for i in range(N_PROBLEMS) for k in range(3)}),
        "nothing": generated(requests(1), {request.key for request in requests(1)}),
        "log_probabilities": list(engine.log_probabilities(traces())),
        "no_log_probabilities": list(engine.log_probabilities([])),
        "vocabulary": engine.vocabulary,
        "tempered": list(engine.log_probabilities(traces(), TEMPERATURE)),
        "untempered": list(engine.log_probabilities(traces())),
    }
    drawn = [Trace(r.prompt_ids, c.token_ids) for r, c in answered(engine)]
    report["traces"] = drawn
    report["read"] = list(engine.log_probabilities(drawn))
    shuffled = Random(1).sample(range(len(drawn)), len(drawn))
    rows = list(engine.log_probabilities([drawn[i] for i in shuffled]))
    report["read_in_another_order"] = [rows[shuffled.index(i)] for i in range(len(drawn))]
    engine.put(weights("base"))
    report["base"] = generated(requests(1))
    report["base_log_probabilities"] = list(engine.log_probabilities(traces()))
    engine.put(weights("rl2"))
    report["back"] = generated(requests(1))
    engine.put(mixed(), SOME)
    report["some_log_probabilities"] = list(engine.log_probabilities(traces()))
    engine.put(mixed())
    report["mixed_log_probabilities"] = list(engine.log_probabilities(traces()))
    engine.put(weights("rl2"))
    incomplete = dict(weights("rl1").tensors())
    del incomplete["model.layers.1.mlp.up_proj.weight"]
    partial = weights("rl1")._replace(tensors=incomplete.items)
    report["incomplete"] = refused(lambda: engine.put(partial))
    if isinstance(engine, VllmEngine):
        report |= report_on_transfers(engine)
    engine.close()
    return report


def report_on_workers(engine: VllmEngine, workers: int) -> dict[str, Any]:
    """What several workers, each with a part of the weights, compute with swapped weights, and what
    is said if one of them does not get its part."""
    report: dict[str, Any] = {
        "description": engine.description,
        "rl2": list(engine.log_probabilities(traces())),
        "completions": len(list(engine.generate(requests(1)[:2]))),
        "base": [],
        "some": [],
    }
    for way in (vllm_transfer.in_files, partial(vllm_transfer.over_ipc, workers)):
        engine._transfer = way
        engine.put(weights("base"))
        report["base"].append(list(engine.log_probabilities(traces())))
        engine.put(weights("rl2"))
        engine.put(mixed(), SOME)
        report["some"].append(list(engine.log_probabilities(traces())))
    engine._transfer = vllm_transfer.in_files
    engine._ask("only_the_first_loads")
    report["stale"] = refused(lambda: engine.put(weights("rl2")))
    engine.close()
    return report


def report_on_transfers(engine: VllmEngine) -> dict[str, Any]:
    """What vLLM computes with weights that came in other ways, and what is said of weights that do
    not arrive."""
    report: dict[str, Any] = {}
    for way in (vllm_transfer.in_files, partial(vllm_transfer.over_ipc, 1)):
        engine._transfer = way
        engine.put(weights("base"))
        report.setdefault("base_by_transfer", []).append(list(engine.log_probabilities(traces())))
        engine.put(weights("rl2"))
        engine.put(mixed(), SOME)
        report.setdefault("some_by_transfer", []).append(list(engine.log_probabilities(traces())))
    broken = weights("rl2")._replace(tensors=unreadable)
    report["unreadable"] = refused(lambda: engine.put(broken))
    engine.put(weights("base"))
    report["base_after_a_failure"] = list(engine.log_probabilities(traces()))
    engine._transfer = lambda _workers: nullcontext(lambda _batch: None)
    report["stale"] = refused(lambda: engine.put(weights("rl2")))
    report["some_stale"] = refused(lambda: engine.put(mixed(), SOME))
    return report


def unreadable() -> Iterator[tuple[str, torch.Tensor]]:
    """The first tensors of a checkpoint that cannot be read to its end."""
    yield from list(weights("rl2").tensors())[:5]
    raise DamagedError("the shard ends too early")


def main() -> None:
    tokenizer = load_tokenizer(str(DEMO / "checkpoints" / "rl2"))
    longest = max(len(request.prompt_ids) for request in requests(1))
    log = Path(tempfile.mkdtemp(), "engine.log")
    if sys.argv[1] == "vllm":
        from tests.evaluation.engines import pretended_ipc

        pretended_ipc.pretend()
    workers = int(sys.argv[2]) if sys.argv[2:] else 1
    start = engine_kind(sys.argv[1]).start
    engine = start(
        weights("rl2"), tokenizer, settings(tensor_parallel_size=workers), longest_prompt=longest,
        log=log,
    )  # fmt: skip
    if workers > 1:
        assert isinstance(engine, VllmEngine)
        print(json.dumps(report_on_workers(engine, workers)))
    else:
        print(json.dumps(report_on(engine)))


if __name__ == "__main__":
    main()
