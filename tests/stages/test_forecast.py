"""The forecast: computed exactly on few completions, it agrees with what reading then finds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import svdjobs
from svdjobs import local
from svdjobs.config import SweepConfig
from svdjobs.config_file import parse_config
from svdjobs.errors import ConfigError
from svdjobs.evaluation import wanted
from svdjobs.reporting.sections.likelihood import divergences
from svdjobs.stages import plan, report
from svdjobs.standalone import forecast
from svdjobs.storage.local import LocalStore

DEMO = Path(svdjobs.__file__).parent / "demo" / "checkpoints"


def sweep(folder: Path, **keys: Any) -> SweepConfig:
    document: dict[str, Any] = {
        "name": "forecast",
        "before": str(DEMO / "base"),
        "after": str(DEMO / "rl2"),
        "store": str(folder / "run"),
        "alphas": [0, 0.5],
        "evaluate": {
            "benchmarks": [{"name": "demo", "limit": 120}],
            "engine": "transformers",
            "max_tokens": 48,
            "n_samples": 2,
            "sampled": ["after"],
            "second_grader": "off",
        },
    }
    return parse_config({**document, **keys}, where="test")


def test_it_agrees_with_what_reading_finds(tmp_path: Path) -> None:
    config = sweep(tmp_path)
    store = LocalStore(config.store_url)
    (found,) = forecast.run(config, store, problems=120, by_part=True)
    assert found.read and found.sampled
    assert not (Path(store.url) / "results").exists()
    local.sweep(config)
    content = report.gather(config, store, plan.run(config, store), wanted.manifests(config, store))
    kl = divergences(content, "demo")
    for interval, scale in ((kl["alpha-0.0000"].value, 1.0), (kl["alpha-0.5000"].value, 0.25)):
        assert interval.standard_error is not None
        assert found.kl.standard_error is not None
        error = (interval.standard_error**2 + (scale * found.kl.standard_error) ** 2) ** 0.5
        assert abs(interval.value - scale * found.kl.value) < 2 * error
    # The exact value has a much smaller error, although from fewer completions.
    whole = kl["alpha-0.0000"].value
    assert (found.kl.standard_error or 0) < 0.8 * (whole.standard_error or 0)
    spread = content.readings["demo"]["alpha-0.0000"].spread
    assert found.spread == pytest.approx(spread, rel=0.4)
    ((name, of_before),) = found.others
    assert name == "before"
    estimated = kl["before"].value
    assert of_before.standard_error
    assert estimated.standard_error
    error = (of_before.standard_error**2 + estimated.standard_error**2) ** 0.5
    assert abs(of_before.value - estimated.value) < 2 * error
    assert len(found.by_part) == 21
    assert sum(value for _, value in found.by_part) == pytest.approx(found.kl.value, rel=0.5)
    assert found.by_part == sorted(found.by_part, key=lambda part: -part[1])
    assert found.read < found.sampled / 2
    assert 0 < found.differ < 0.1


def test_the_command_prints_it(tmp_path: Path) -> None:
    config = tmp_path / "sweep.yaml"
    document = sweep(tmp_path).model_dump(mode="json")
    document["evaluate"]["benchmarks"][0]["limit"] = 5
    config.write_text(yaml.safe_dump(document))
    command = [sys.executable, "-m", "svdjobs.cli.main", "forecast", str(config)]
    done = subprocess.run([*command, "--problems", "3"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "demo: KL(after ‖ alpha = 0) is " in done.stdout
    assert "on 3 completions" in done.stdout
    assert "in 4 of 5 tries: reading 2 shows " in done.stdout
    assert " points, sampling 2 shows " in done.stdout


@pytest.mark.parametrize(
    ("keys", "words"),
    [({"evaluate": None}, "no `evaluate` section"), ({"direction": "reverse"}, "needs direction")],
)
def test_what_it_cannot_forecast(keys: dict[str, Any], words: str, tmp_path: Path) -> None:
    config = sweep(tmp_path, **keys)
    with pytest.raises(ConfigError, match=words):
        forecast.run(config, LocalStore(config.store_url))
