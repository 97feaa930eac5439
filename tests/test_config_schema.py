"""The JSON schema of a sweep takes what the reader of configs takes, and no more."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from svdjobs.config_file import parse_config
from svdjobs.config_schema import COMMENT, sweep_schema
from svdjobs.errors import ConfigError
from tests import config_page

SWEEPS = Path(__file__).parents[1] / "jobs" / "sweeps"
VALIDATOR = Draft202012Validator(sweep_schema())
PAIR = {"name": "x", "before": "a", "after": "b"}


@pytest.mark.parametrize("path", sorted(SWEEPS.glob("*.yaml")), ids=lambda path: path.name)
def test_every_example_names_the_schema_and_keeps_it(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.startswith(f"{COMMENT}{config_page.SCHEMA.name}\n")
    assert list(VALIDATOR.iter_errors(yaml.safe_load(text))) == []


def test_the_file_is_that_of_the_models() -> None:
    shipped = config_page.SCHEMA.read_text(encoding="utf-8")
    assert shipped == config_page.schema(), "run `make render`"


@pytest.mark.parametrize(
    "keys",
    [
        {"alphas": {"from": 0, "to": 1, "step": 0.5}},
        {"alphas": 0.5},
        {"selection": "all"},
        {"selection": {"include": "q_proj"}},
        {"evaluate": {"benchmarks": "demo"}},
        {"evaluate": {"benchmarks": ["demo", {"name": "mine", "data": "mine.jsonl"}]}},
        {"evaluate": {"benchmarks": {"name": "demo"}, "sampled": ["after"]}},
        {"evaluate": {"benchmarks": ["demo"], "sampled": "all"}},
        {"evaluate": None, "metrics": {}, "rotations": {"rl1": "c"}},
        {
            "evaluate": {"benchmarks": ["demo"]},
            "variants": {"v": {"random": "matrix", "layers": [1, 2], "seed": [1, 2]}},
        },
        {"checkpoints": {"step-1": "s"}},
    ],
)
def test_what_can_be_read_keeps_the_schema(keys: dict[str, Any]) -> None:
    document = {**PAIR, **keys}
    parse_config(document, where="test")
    assert [error.message for error in VALIDATOR.iter_errors(document)] == []


@pytest.mark.parametrize(
    "keys",
    [
        {"alphass": [0]},
        {"alphas": [[0]]},
        {"alphas": {"from": 0, "too": 1, "step": 0.5}},
        {"evaluate": {"benchmarks": []}},
        {"evaluate": {"benchmarks": ["demo"], "n_sample": 4}},
        {"blend": {"storage_dtype": "float8"}},
        {"direction": "back"},
    ],
)
def test_what_cannot_be_read_breaks_the_schema(keys: dict[str, Any]) -> None:
    document = {**PAIR, **keys}
    with pytest.raises(ConfigError):
        parse_config(document, where="test")
    assert not VALIDATOR.is_valid(document)
