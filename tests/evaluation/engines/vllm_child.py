"""Drive a real vLLM engine on the CPU and print what happened as JSON. A program, not a test.

vLLM changes the process it runs in (threads, environment, warnings): tests keep it out of theirs.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

import svdjobs
from svdjobs.config import EvaluateConfig
from svdjobs.errors import SvdjobsError
from svdjobs.evaluation.engines.protocol import Request, Trace, Weights, make_requests
from svdjobs.evaluation.engines.vllm import VllmEngine
from svdjobs.evaluation.prompts import load_tokenizer, make_prompts
from svdjobs.records import Problem

DEMO = Path(svdjobs.__file__).parent / "demo"
N_PROBLEMS = 8


def weights(name: str) -> Weights:
    folder = DEMO / "checkpoints" / name
    return Weights(name, str(folder), lambda: load_file(folder / "model.safetensors").items())


def settings(**overrides: Any) -> EvaluateConfig:
    document = {"benchmarks": ["demo"], "dtype": "float32", "max_tokens": 40, **overrides}
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


def main() -> None:
    tokenizer = load_tokenizer(str(DEMO / "checkpoints" / "rl2"))
    longest = max(len(request.prompt_ids) for request in requests(1))
    engine = VllmEngine(
        weights("rl2"), tokenizer, settings(), longest, Path(tempfile.mkdtemp(), "vllm.log")
    )

    def generated(wanted: list[Request], done: set[tuple[int, int]] | None = None) -> Any:
        completions = list(engine.generate(wanted, done or set()))
        completions.sort(key=lambda c: (c.idx, c.sample_index))
        return [completion.model_dump(mode="json") for completion in completions]

    report: dict[str, Any] = {"settings": engine.settings}
    report["rl2"] = generated(requests(4))
    report["again"] = generated(requests(4))
    report["rest"] = generated(requests(4), {(i, k) for i in range(N_PROBLEMS) for k in range(3)})
    report["log_probabilities"] = list(engine.log_probabilities(traces()))
    engine.put(weights("base"))
    report["base_log_probabilities"] = list(engine.log_probabilities(traces()))
    incomplete = dict(weights("rl1").tensors())
    del incomplete["model.layers.1.mlp.up_proj.weight"]
    partial = weights("rl1")._replace(tensors=incomplete.items)
    report["incomplete"] = refused(lambda: engine.put(partial))
    engine._send = lambda batch, path: None  # type: ignore[method-assign]
    report["stale"] = refused(lambda: engine.put(weights("rl2")))
    print(json.dumps(report))


if __name__ == "__main__":
    main()
