"""The examples of docs/python.md are run, and compared with what the stages write."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import svdjobs
from svdjobs.config import SweepConfig
from svdjobs.errors import CheckpointError, ConfigError, DamagedError, IncompleteError, TensorError
from svdjobs.records import Outcome
from tests.checkpoints import make_model, tensors

PAGE = Path(__file__).parents[1] / "docs" / "python.md"


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The variables after all examples of the page, and `folder`, in which they were run."""
    torch.set_num_threads(1)
    found: dict[str, Any] = {"folder": tmp_path_factory.mktemp("page")}
    with contextlib.chdir(found["folder"]):
        for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL):
            exec(compile(block, str(PAGE), "exec"), found)
        found["run"] = svdjobs.load_run(Path("runs/try").absolute())
    return found


def test_the_import_is_instant_and_says_what_there_is() -> None:
    code = (
        "import sys, svdjobs; print(len([m for m in sys.modules if m.startswith('svdjobs')])); "
        "print(set(svdjobs.__all__) <= set(dir(svdjobs)), hasattr(svdjobs, 'nothing'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "True", "False"]


def test_a_planned_and_finished_sweep(example: dict[str, Any]) -> None:
    planned, run = example["planned"], example["run"]
    assert any(line.startswith("demo: 10 problems × 4 completions") for line in planned.lines)
    assert run.plan == planned.plan
    assert repr(run) == f"Run('{example['folder']}/runs/try')"
    assert set(run.states.values()) == {"finished"}
    assert run.finished[0] == "plan"
    assert run.finished[-1] == "report"


def test_numbers_and_tables(example: dict[str, Any]) -> None:
    numbers, run = example["numbers"], example["run"]
    assert numbers.groupby(["benchmark", "checkpoint", "quantity"]).size().max() == 1
    avg = numbers[(numbers.quantity == "avg") & (numbers.checkpoint == "after")]
    drawn = run.completions("demo", "after")
    assert avg.value.item() == (drawn.outcome == "correct").mean()
    assert example["read"].loc["alpha-0.5000", "value"] == pytest.approx(0, abs=0.01)
    assert numbers[numbers.quantity == "hit_max_tokens"].low.isna().all()
    accuracy = run.tables["accuracy-demo"]
    assert accuracy["avg@4"].tolist()[1] == 100 * avg.value.item()
    assert "numbers" not in run.tables


def test_completions(example: dict[str, Any]) -> None:
    drawn = example["run"].completions("demo", "before")
    assert len(drawn) == 40
    assert drawn.sample_index.tolist() == [0, 1, 2, 3] * 10
    assert set(drawn.outcome) <= {outcome.value for outcome in Outcome}
    right = drawn[drawn.outcome == "correct"]
    assert (right.answer == right.gold).all()
    with pytest.raises(
        IncompleteError, match=r"no graded completions of alpha-0\.5000 on demo; it"
    ):
        example["run"].completions("demo", "alpha-0.5000")


def test_metrics(example: dict[str, Any]) -> None:
    metrics = example["metrics"]
    whole = metrics[metrics["head"].isna()]
    assert len(example["change"]) == whole.name.nunique() == 21
    assert (example["change"].value > 0).all()
    assert sorted(set(metrics["head"].dropna())) == [0, 1, 2, 3]


@pytest.mark.parametrize("alpha", [0, 0.5, 1])
def test_a_blend_in_memory_has_the_bits_of_the_stage(alpha: float, example: dict[str, Any]) -> None:
    written = tensors(example["folder"] / f"runs/try/checkpoints/alpha-{alpha:.4f}")
    blended = svdjobs.blend_state_dict(example["before"], example["after"], alpha)
    assert list(blended) == list(example["after"])
    assert written.keys() == blended.keys()
    assert [name for name in written if not torch.equal(written[name], blended[name])] == []


def test_blending_a_model_with_a_tied_head() -> None:
    """A 16-bit model with gradients; embeddings are blended too."""
    before, after = (make_model().bfloat16() for _ in range(2))
    with torch.no_grad():
        for parameter in after.parameters():
            parameter += 0.05 * parameter.std() * torch.randn_like(parameter)
    states = before.state_dict(keep_vars=True), after.state_dict(keep_vars=True)
    settings = {"config": after.config.to_dict(), "selection": {"embeddings": True}}
    blended = svdjobs.blend_state_dict(*states, 0.0, **settings)
    name = "model.embed_tokens.weight"
    assert torch.equal(blended[name], blended["lm_head.weight"])
    wanted = torch.linalg.svdvals(states[0][name].detach().double())
    assert torch.allclose(torch.linalg.svdvals(blended[name].double()), wanted, rtol=1e-5)
    after.float().load_state_dict(blended)
    same = svdjobs.blend_state_dict(*states, 1.0, **settings)
    assert all(torch.equal(same[key], value.float()) for key, value in states[1].items())


def test_what_cannot_be_blended() -> None:
    state = make_model().state_dict()
    other = {name: value[:1] for name, value in state.items()}
    for before, after, settings, error, words in (
        (state, state, {}, CheckpointError, "hold the same values"),
        (state, other, {}, CheckpointError, "no tensor is left to blend"),
        ({"w": torch.ones(3, 3)}, {"w": torch.eye(3)}, {}, CheckpointError, "no tensor is left"),
        (state, {**state, "w": 1}, {}, TensorError, "after: 'w' is a int, expected a tensor"),
        (state, state, {"selection": {"x": 1}}, ConfigError, "selection.x: unknown key"),
    ):
        with pytest.raises(error, match=words):
            svdjobs.blend_state_dict(before, after, 0.5, **settings)
    with pytest.raises(ConfigError, match="alpha nan is not finite"):
        svdjobs.blend_state_dict(state, state, float("nan"))


def test_runs_that_are_not_there_or_damaged(
    make_config: Callable[..., SweepConfig], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"has no config\.json, so it holds no run"):
        svdjobs.load_run(tmp_path)
    with pytest.raises(ConfigError, match="no config file at"):
        svdjobs.plan_sweep(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="alphass: unknown key; did you mean 'alphas'"):
        svdjobs.run_sweep({"name": "x", "before": "a/b", "after": "c/d", "alphass": []})
    config = make_config(evaluate=None, rotations=None)
    planned = svdjobs.plan_sweep(config, tmp_path / "elsewhere")
    run = svdjobs.load_run(tmp_path / "elsewhere")
    assert run.plan == planned.plan
    assert not Path(config.store_url).exists()
    assert run.finished == ["plan"]
    assert run.states["report"] == "missing"
    for read in (lambda: run.numbers, lambda: run.tables, lambda: run.metrics, lambda: run.verdict):
        with pytest.raises(IncompleteError, match="not there yet"):
            read()
    plan = tmp_path / "elsewhere/plan/plan.json"
    plan.write_text(plan.read_text().replace("F32", "F16"))
    with pytest.raises(DamagedError, match="is not what its manifest lists"):
        _ = run.plan
