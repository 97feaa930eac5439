"""A real vLLM engine on the CPU: compared with transformers, with swapped weights, and killed."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml

import svdjobs
from svdjobs.config_file import load_config
from svdjobs.errors import CheckpointError, ConfigError, EvaluationError
from svdjobs.evaluation.engines import vllm
from svdjobs.evaluation.engines.protocol import Weights
from svdjobs.evaluation.engines.transformers import TransformersEngine
from svdjobs.evaluation.engines.weight_checksum import bit_sum, packed_name
from svdjobs.evaluation.prompts import load_tokenizer
from svdjobs.records import Completion
from svdjobs.stages import blend, decompose, plan
from svdjobs.storage.local import LocalStore
from tests.evaluation.engines import engine_child
from tests.evaluation.engines.running import child, finished, not_here
from tests.forked import COMMAND

ROOT = Path(svdjobs.__file__).parents[1]
needs_vllm = pytest.mark.skipif(bool(not_here("vllm")), reason=not_here("vllm"))


@pytest.fixture(scope="module")
def blended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a sweep over the demo pair, blended and not evaluated; greedy decoding."""
    folder = tmp_path_factory.mktemp("swapped")
    demo = engine_child.DEMO / "checkpoints"
    document = {
        "name": "swaps",
        "before": str(demo / "base"),
        "after": str(demo / "rl2"),
        "alphas": [0, 1],
        "store": "run",
        "evaluate": {
            "benchmarks": [{"name": "demo", "limit": 24}],
            "engine": "vllm",
            "n_samples": 1,
            "temperature": 0,
            "max_tokens": 40,
        },
    }
    (folder / "sweep.yaml").write_text(yaml.safe_dump(document))
    config = load_config(folder / "sweep.yaml")
    store = LocalStore(folder / "run")
    plan.run(config, store)
    decompose.run(config, store)
    blend.run(config, store)
    return folder


def completions(folder: Path, checkpoint: str) -> list[Completion]:
    path = folder / "run" / "results" / checkpoint / "demo" / "completions.jsonl"
    return [Completion.model_validate_json(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def swept(blended: Path) -> tuple[Path, str, list[str]]:
    """A sweep, evaluated by an engine that was killed during an alpha and then by a second one: the
    folder, the messages of the second, and the completions that the first had kept."""
    journal = blended / "run/results/alpha-0.0000/demo/completions.journal"
    process = child(blended, COMMAND, "evaluate", "sweep.yaml")
    deadline = time.monotonic() + 300
    while not (journal.exists() and journal.read_text().count("\n") >= 3):
        assert process.poll() is None, (blended / "errors").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    kept = journal.read_text().split("\n")[:-1]
    _, errors = finished(blended, COMMAND, "evaluate", "sweep.yaml")
    return blended, errors, kept


@needs_vllm
def test_one_engine_serves_the_whole_sweep(swept: tuple[Path, str, list[str]]) -> None:
    folder, said, _ = swept
    assert said.count("starting vLLM") == 1
    assert completions(folder, "alpha-1.0000") == completions(folder, "after")


@needs_vllm
def test_killed_while_generating_it_generates_nothing_twice(
    swept: tuple[Path, str, list[str]],
) -> None:
    folder, _, kept = swept
    found = completions(folder, "alpha-0.0000")
    assert [(c.idx, c.sample_index) for c in found] == [(i, 0) for i in range(24)]
    assert 3 <= len(kept) <= 24
    assert {Completion.model_validate_json(line).model_dump_json() for line in kept} <= {
        completion.model_dump_json() for completion in found
    }
    assert not list((folder / "run").rglob("*.journal"))


@needs_vllm
@pytest.mark.parametrize("checkpoint", ["alpha-0.0000"])  # `make bench` compares all
def test_swapped_weights_give_the_completions_of_an_engine_of_their_own(
    swept: tuple[Path, str, list[str]], checkpoint: str, tmp_path: Path
) -> None:
    """Greedy decoding; the other engine starts from the written checkpoint."""
    folder, _, _ = swept
    shutil.copytree(folder / "run", tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "results")
    shutil.copy(folder / "sweep.yaml", tmp_path)
    wanted = ("evaluate", "sweep.yaml", "--checkpoint", checkpoint)
    finished(tmp_path, COMMAND, *wanted, "--set", "evaluate.reuse_engine=false")
    assert completions(tmp_path, checkpoint) == completions(folder, checkpoint)


@needs_vllm
@pytest.mark.parametrize("checkpoint", ["rl2", "base"])
def test_greedy_completions_are_those_of_transformers(
    swept: tuple[Path, str, list[str]], checkpoint: str
) -> None:
    folder, _, _ = swept
    ours = completions(folder, {"rl2": "after", "base": "before"}[checkpoint])
    made = engine_child.weights(checkpoint)
    greedy = engine_child.settings(temperature=0)
    engine = TransformersEngine(made, load_tokenizer(made.folder), greedy)
    theirs = {c.idx: c.text for c in engine.generate(engine_child.requests(1))}
    assert {c.idx: c.text for c in ours if c.idx in theirs} == theirs


def test_bit_sums_add_up_over_parts_and_notice_any_change() -> None:
    whole = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        w = whole.to(dtype)
        parts = (bit_sum(w[:2]) + bit_sum(w[2:])) % 2**64
        assert bit_sum(torch.cat([w, torch.zeros(3, 4, dtype=dtype)])) == bit_sum(w) == parts
        changed = w.clone()
        changed[3, 1] = torch.nextafter(w[3, 1].float(), torch.tensor(9.0)).to(dtype) + 0.01
        assert bit_sum(changed) != bit_sum(w)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("model.layers.0.self_attn.k_proj.weight", "model.layers.0.self_attn.qkv_proj.weight"),
        ("model.layers.0.self_attn.q_proj.bias", "model.layers.0.self_attn.qkv_proj.bias"),
        ("model.layers.0.mlp.up_proj.weight", "model.layers.0.mlp.gate_up_proj.weight"),
        ("model.layers.0.mlp.down_proj.weight", "model.layers.0.mlp.down_proj.weight"),
        ("v_proj.weight", "qkv_proj.weight"),
    ],
)
def test_fused_parameters(name: str, expected: str) -> None:
    packed = {"qkv_proj": ["q_proj", "k_proj", "v_proj"], "gate_up_proj": ["gate_proj", "up_proj"]}
    assert packed_name(name, packed) == expected


def test_vllm_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(ConfigError, match=r"Install svdjobs\[vllm\].*or set engine: transformers"):
        vllm._import_vllm()


@pytest.mark.parametrize(
    ("raised", "expected", "words"),
    [
        (ValueError("No available memory for the cache blocks."), EvaluationError,
         r"gpu_memory_utilization \(now 0\.95\)"),
        (torch.OutOfMemoryError("CUDA out of memory"), EvaluationError, "tensor_parallel_size"),
        (RuntimeError("Unsupported CPU attention configuration"), CheckpointError,
         "Set evaluate.engine to transformers"),
    ],
)  # fmt: skip
def test_start_up_failures_name_the_setting(
    raised: Exception, expected: type[Exception], words: str
) -> None:
    with pytest.raises(expected, match=words), vllm._startup_errors(engine_child.settings()):
        raise raised


def test_running_out_of_memory_names_the_setting() -> None:
    with (
        pytest.raises(
            EvaluationError, match=r"max_tokens \(now 40\)\. Finished completions are kept"
        ),
        vllm._running_errors(engine_child.settings(), Path("vllm.log")),
    ):
        raise torch.OutOfMemoryError("CUDA out of memory")


def test_a_tensor_that_cannot_be_read_back_is_not_sent() -> None:
    """vLLM stores experts under other names. An engine is not needed: nothing reaches it."""
    engine = vllm.VllmEngine.__new__(vllm.VllmEngine)
    folder = str(engine_child.DEMO / "checkpoints" / "rl2")
    engine._tokenizer = load_tokenizer(folder)
    engine._packed = {}
    engine._dtypes = {"model.layers.0.mlp.experts.w13_weight": "float32"}
    name = "model.layers.0.mlp.experts.0.up_proj.weight"
    weights = Weights(
        "after", str(engine_child.DEMO / "checkpoints" / "rl2"), list, {name: "x"}, lambda _: []
    )
    with pytest.raises(EvaluationError, match=r"stores .*experts\.0\.up_proj.* under another name"):
        engine.put(weights, [name])
