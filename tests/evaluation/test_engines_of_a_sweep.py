"""The engine and compute dtype that a sweep chooses, and settings that it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from svdjobs.checkpoint.sources import open_checkpoint
from svdjobs.config import EvaluateConfig, SweepConfig
from svdjobs.errors import ConfigError, IncompleteError
from svdjobs.evaluation import (
    engine_choice,
    engine_holder,
    engine_weights,
    likelihoods,
    prompt_sets,
)
from svdjobs.runs.checkpoints import RunCheckpoints
from svdjobs.stages import blend, decompose, evaluate, grade, plan
from svdjobs.storage.local import LocalStore
from tests.checkpoints import make_checkpoint, tensors

MakeConfig = Callable[..., SweepConfig]


def section(config: SweepConfig, **changes: Any) -> dict[str, Any]:
    assert config.evaluate is not None
    return {**config.evaluate.model_dump(), **changes}


def resolved(config: SweepConfig, store: LocalStore) -> EvaluateConfig:
    return engine_choice.resolve_auto_settings(RunCheckpoints(config), store)


def blended(config: SweepConfig) -> LocalStore:
    store = LocalStore(config.store_url)
    plan.run(config, store)
    decompose.run(config, store)
    blend.run(config, store)
    return store


@pytest.fixture
def sixteen(tmp_path: Path) -> dict[str, str]:
    """Two checkpoints in bfloat16, whose difference is far below the resolution of bfloat16."""
    import torch

    sources = {}
    for updates, role in enumerate(("before", "after")):
        path = tmp_path / role
        make_checkpoint(path, updates=updates, relative=3e-3, dtype=torch.bfloat16)
        sources[role] = str(path)
    return sources


def test_auto_is_float32_where_the_cast_erases_the_blend(
    make_config: MakeConfig, sixteen: dict[str, str]
) -> None:
    config = make_config(**sixteen, rotations=None)
    store = blended(config)
    assert resolved(config, store).dtype == "float32"


def test_sixteen_bits_are_refused_with_the_noise_and_the_remedy(
    make_config: MakeConfig, sixteen: dict[str, str]
) -> None:
    base = make_config()
    forced = make_config(**sixteen, rotations=None, evaluate=section(base, dtype="bfloat16"))
    store = blended(forced)
    with pytest.raises(
        ConfigError,
        match=r"noise in bfloat16 is \d.* times the .*at most 0\.3.*allow_lossy_dtype to true",
    ):
        evaluate.run(forced, store)
    assert not list(Path(forced.store_url).glob("results/*"))
    lossy = section(base, dtype="bfloat16", allow_lossy_dtype=True)
    allowed = make_config(**sixteen, rotations=None, evaluate=lossy)
    assert resolved(allowed, store).dtype == "bfloat16"


def test_auto_is_afters_own_dtype_where_the_blend_survives(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    import torch

    for updates, role in enumerate(("before", "after")):
        make_checkpoint(tmp_path / role, updates=updates, relative=1.0, dtype=torch.bfloat16)
    config = make_config(
        before=str(tmp_path / "before"), after=str(tmp_path / "after"), rotations=None
    )
    assert resolved(config, blended(config)).dtype == "bfloat16"


def test_the_recorded_cast_error_of_a_blend_is_used(
    make_config: MakeConfig, sixteen: dict[str, str], tmp_path: Path
) -> None:
    config = make_config(**sixteen, rotations=None, alphas=[0])
    store = blended(config)
    written = f"{store.url}/checkpoints/alpha-0.0000"
    alone = make_config(
        before=written, after=written, alphas=[1], store=str(tmp_path / "alone"), rotations=None,
        evaluate=section(config, dtype="bfloat16"),
    )  # fmt: skip
    with pytest.raises(ConfigError, match="rounding noise in bfloat16 is"):
        resolved(alone, LocalStore(tmp_path / "alone"))


def test_a_blend_of_another_tool_has_no_cast_error(make_config: MakeConfig, tmp_path: Path) -> None:
    foreign = make_checkpoint(tmp_path / "foreign")
    (foreign / "svd_blend_meta.json").write_text('{"alpha": 0.2, "blended_keys": []}')
    alone = make_config(
        before=str(foreign), after=str(foreign), alphas=[1], store=str(tmp_path / "alone"),
        rotations=None, evaluate=section(make_config(), dtype="bfloat16"),
    )  # fmt: skip
    assert resolved(alone, LocalStore(tmp_path / "alone")).dtype == "bfloat16"


def test_before_with_another_config_gets_a_separate_engine(
    make_config: MakeConfig, chain: dict[str, Path], tmp_path: Path
) -> None:
    """RL may extend the context by another RoPE base; `before` must keep its own."""
    import shutil

    shutil.copytree(chain["base"], tmp_path / "before")
    path = tmp_path / "before" / "config.json"
    document = json.loads(path.read_text())
    rope = document.get("rope_parameters") or document
    rope["rope_theta"] = 7.0
    path.write_text(json.dumps(document))
    completions = {}
    for reuse in (True, False):
        config = make_config(
            before=str(tmp_path / "before"), store=str(tmp_path / str(reuse)), rotations=None,
            evaluate=section(make_config(), reuse_engine=reuse),
        )  # fmt: skip
        store = LocalStore(config.store_url)
        evaluate.run(config, store, checkpoint_ids=["after", "before"])
        completions[reuse] = (
            Path(store.url) / "results/before/sums/completions.jsonl"
        ).read_bytes()
    assert completions[True] == completions[False]


def test_an_engine_that_cannot_swap_weights_is_replaced(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from svdjobs.errors import EvaluationError
    from svdjobs.evaluation.engines.transformers import TransformersEngine

    completions = {}
    for refuses in (False, True):
        if refuses:

            def refuse(*_: object) -> None:
                raise EvaluationError("no.")

            monkeypatch.setattr(TransformersEngine, "put", refuse)
        config = make_config(store=str(tmp_path / str(refuses)), rotations=None)
        store = blended(config)
        evaluate.run(config, store)
        completions[refuses] = {
            path.parent.parent.name: path.read_bytes()
            for path in Path(store.url).glob("results/*/sums/completions.jsonl")
        }
    assert completions[True] == completions[False]


def test_auto_engine(chain: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Heads of dimension 24 are too small for vLLM on a CPU; those of the demo are not."""
    evaluating = EvaluateConfig.model_validate({"benchmarks": ["demo"]})
    demo = open_checkpoint("svdjobs/demo/checkpoints/rl2")
    installed = find_spec("vllm") is not None
    assert (
        engine_choice.choose_engine(evaluating, open_checkpoint(str(chain["base"])))
        == "transformers"
    )
    assert engine_choice.choose_engine(evaluating, demo) == (
        "vllm" if installed else "transformers"
    )
    monkeypatch.setattr(engine_choice, "find_spec", lambda name: None)
    assert engine_choice.choose_engine(evaluating, demo) == "transformers"
    explicit = evaluating.model_copy(update={"engine": "vllm"})
    assert engine_choice.choose_engine(explicit, demo) == "vllm"


def test_weights_put_into_an_engine_are_those_blend_writes(make_config: MakeConfig) -> None:
    config = make_config(rotations=None)
    store = blended(config)
    of_run = engine_weights.RunWeights(RunCheckpoints(config), store)
    for alpha in ("alpha-0.0000", "alpha-0.5000", "alpha-1.0000"):
        weights = of_run.of(alpha, with_weight_files=False)
        computed = dict(weights.tensors())
        written = tensors(Path(store.url) / "checkpoints" / alpha)
        assert computed.keys() == written.keys()
        assert all(bool((computed[name] == written[name]).all()) for name in written)
    with pytest.raises(IncompleteError, match=r"no checkpoint 'alpha-0\.3' in this run; it has"):
        of_run.of("alpha-0.3", with_weight_files=True)


def test_reused_and_separate_engines_agree(make_config: MakeConfig, tmp_path: Path) -> None:
    completions = {}
    for reuse in (True, False):
        config = make_config(
            store=str(tmp_path / str(reuse)), rotations=None,
            evaluate=section(make_config(), reuse_engine=reuse, repeat_after=True),
        )  # fmt: skip
        store = blended(config)
        evaluate.run(config, store)
        completions[reuse] = {
            path.parent.parent.name: path.read_bytes()
            for path in Path(store.url).glob("results/*/sums/completions.jsonl")
        }
    assert completions[True] == completions[False]
    assert completions[True]["alpha-1.0000"] == completions[True]["after"]
    assert (
        completions[True]["after-again"] != completions[True]["after"]
    )  # the same weights, other seeds


def test_a_sweep_without_written_checkpoints_has_the_same_completions(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    completions = {}
    for write in (True, False):
        config = make_config(
            store=str(tmp_path / str(write)), rotations=None, blend={"write_checkpoints": write}
        )
        store = blended(config)
        evaluate.run(config, store)
        root = Path(store.url)
        assert bool(list(root.glob("checkpoints/*/*.safetensors"))) is write
        meta = json.loads((root / "checkpoints/alpha-0.0000/svd_blend_meta.json").read_text())
        completions[write] = (
            meta["realised_fraction"],
            {p.parent.parent.name: p.read_bytes()
             for p in root.glob("results/*/sums/completions.jsonl")},
        )  # fmt: skip
    assert completions[True] == completions[False]
    with pytest.raises(ConfigError, match=r"needs evaluate\.reuse_engine true"):
        make_config(
            blend={"write_checkpoints": False}, evaluate=section(config, reuse_engine=False)
        )


def test_likelihoods_are_those_of_the_generated_tokens(make_config: MakeConfig) -> None:
    """Compared with log-probabilities by transformers."""
    import torch
    from transformers import AutoModelForCausalLM

    config = make_config(rotations=None)
    store = blended(config)
    evaluate.run(config, store)
    loaded = likelihoods.load(store, "before", "sums")
    rows = {r.idx: r.log_probabilities for r in loaded if r.sample_index == 0}
    model = AutoModelForCausalLM.from_pretrained(config.before, dtype=torch.float32)
    path = Path(store.url) / "results/after/sums/completions.jsonl"
    checkpoints = RunCheckpoints(config)
    prompts = prompt_sets.make_prompt_set(checkpoints, "after", _benchmarks(config)).prompts
    prompt_ids = {prompt.idx: prompt.ids for prompt in prompts["sums"]}
    for line in path.read_text().splitlines():
        completion = json.loads(line)
        if completion["sample_index"] == 0:
            idx = completion["idx"]
            ids = torch.tensor([[*prompt_ids[idx], *completion["token_ids"]]])
            with torch.no_grad():
                log_p = model(ids).logits[0].log_softmax(-1)
            start = len(prompt_ids[idx])
            expected = [float(log_p[i - 1, ids[0, i]]) for i in range(start, ids.shape[1])]
            assert rows[idx] == pytest.approx(expected, abs=1e-5)
    assert len(rows) == 5


def _benchmarks(config: SweepConfig) -> list[Any]:
    from svdjobs.evaluation.benchmarks.load import load_benchmark

    assert config.evaluate is not None
    return [load_benchmark(benchmark) for benchmark in config.evaluate.benchmarks]


def test_grading_again_generates_nothing_and_gives_the_same_bytes(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(rotations=None)
    store = blended(config)
    evaluate.run(config, store)
    root = Path(store.url)
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    for path in root.rglob("grades.jsonl"):
        path.write_text("")
    monkeypatch.setattr(
        engine_holder.EngineHolder, "engine_with", lambda *_: pytest.fail("an engine was started")
    )
    grade.run(config, store, force=True)
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before
