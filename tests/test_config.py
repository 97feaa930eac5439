from __future__ import annotations

from pathlib import Path

import pytest

from svdjobs.config import SweepConfig, alpha_id
from svdjobs.config_file import load_config, parse_config
from svdjobs.errors import ConfigError
from svdjobs.fingerprint import canonical_json, derived_seed, fingerprint

MINIMAL = {"name": "x", "before": "a", "after": "b"}
SWEEPS = Path(__file__).parents[1] / "jobs" / "sweeps"


@pytest.mark.parametrize("path", sorted(SWEEPS.glob("*.yaml")), ids=lambda path: path.name)
def test_shipped_sweeps_are_valid(path: Path) -> None:
    assert load_config(path).name == path.stem


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"alphaz": [1]}, "alphaz: unknown key; did you mean 'alphas'?"),
        ({"blend": {"storage_dtyp": "float32"}}, "did you mean 'storage_dtype'?"),
        ({"zzz": 1}, "known keys: after, allow_pickle, alphas"),
        ({"alphas": [0, "x"]}, "alpha 'x' is not a number"),
        ({"alphas": [0, True]}, "alpha True is not a number"),
        ({"alphas": [0.5, 1, 0.5]}, "alpha given twice: 0.5"),
        ({"alphas": [0, -0.0]}, "alpha given twice: 0.0"),
        ({"alphas": [float("nan")]}, "alpha nan is not finite"),
        ({"alphas": "many"}, "expected a list of numbers"),
        ({"name": "../x"}, "name: String should match pattern"),
        ({"after": None}, "after: Input should be a valid string"),
        ({"evaluate": {"benchmarks": []}}, "evaluate.benchmarks"),
        (
            {"evaluate": {"benchmarks": [{"name": "b", "data": "d"}], "prompt": "hi"}},
            "prompt must contain {problem}",
        ),
        (
            {"evaluate": {"benchmarks": [{"name": "b", "data": "d"}] * 2}},
            "benchmark names must differ; given twice: b",
        ),
        (
            {"evaluate": {"benchmarks": [{"name": "b", "data": "d", "splt": "x"}]}},
            "did you mean 'split'?",
        ),
    ],
)
def test_complaints(change: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config({**MINIMAL, **change}, where="file.yaml")
    assert words in str(caught.value)
    assert str(caught.value).startswith("file.yaml:")


def test_all_complaints_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config({"name": "x", "alphaz": 1}, where="f")
    assert all(word in str(caught.value) for word in ("before", "after", "alphaz"))


def test_overrides(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text("name: x\nbefore: a\nafter: b\n")
    config = load_config(path, ["alphas=[0, 0.5, 1]", "blend.storage_dtype=bfloat16", "after=c"])
    assert config.alphas == (0, 0.5, 1)
    assert config.blend.storage_dtype == "bfloat16"
    assert config.after == "c"
    with pytest.raises(ConfigError, match="expected key=value"):
        load_config(path, ["alphas"])
    with pytest.raises(ConfigError, match="'name' is not a section"):
        load_config(path, ["name.x=1"])
    with pytest.raises(ConfigError, match="not valid YAML"):
        load_config(path, ["name=[1"])


@pytest.mark.parametrize(
    ("text", "words"),
    [("[1, 2]", "expected a mapping"), ("a: [", "not valid YAML"), ("", "expected a mapping")],
)
def test_files_that_are_no_config(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=words):
        load_config(path)
    with pytest.raises(ConfigError, match="no config file at"):
        load_config(tmp_path / "absent.yaml")


def test_alphas_are_sorted_numbers_and_a_single_one_is_a_list() -> None:
    assert parse_config({**MINIMAL, "alphas": [1, "1e-1", 0]}, where="").alphas == (0, 0.1, 1)
    assert parse_config({**MINIMAL, "alphas": 0.5}, where="").alphas == (0.5,)


@pytest.mark.parametrize(
    ("alpha", "expected"),
    [
        (0, "alpha-0.0000"),
        (0.2, "alpha-0.2000"),
        (1, "alpha-1.0000"),
        (0.12345, "alpha-0.12345"),
        (-0.5, "alpha--0.5000"),
        (1e-7, "alpha-1e-07"),
    ],
)
def test_alpha_ids(alpha: float, expected: str) -> None:
    assert alpha_id(alpha) == expected


def test_a_thousand_alphas_have_a_thousand_ids() -> None:
    assert len({alpha_id(i / 999) for i in range(1000)}) == 1000


def test_fingerprints_ignore_order_and_notice_values() -> None:
    assert fingerprint({"a": 1, "b": [2]}) == fingerprint({"b": [2], "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})
    assert canonical_json({"b": "ü", "a": 1}) == '{"a":1,"b":"ü"}'.encode()


def test_config_survives_its_own_json() -> None:
    config = parse_config({**MINIMAL, "alphas": [0, 0.3]}, where="")
    assert SweepConfig.model_validate(config.model_dump(mode="json")) == config


def test_derived_seeds_differ() -> None:
    assert len({derived_seed(0, i, j) for i in range(50) for j in range(20)}) == 1000
    assert derived_seed("a", 1) == derived_seed("a", 1) < 2**63
