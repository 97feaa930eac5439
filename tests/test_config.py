from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from svdjobs.cluster.manifests.settings import ClusterSettings
from svdjobs.config import SweepConfig, alpha_id
from svdjobs.config_file import (
    load_config,
    overridden,
    parse_config,
    read_config,
    validated,
)
from svdjobs.errors import ConfigError
from svdjobs.fingerprint import canonical_json, derived_seed, fingerprint
from svdjobs.settings import Settings, keys
from tests import config_page

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
        ({"alphas": [0, True]}, "alphas: expected a number (found [0, true])"),
        ({"alphas": [0.5, 1, 0.5]}, "alpha given twice: 0.5"),
        ({"alphas": [0, -0.0]}, "alpha given twice: 0.0"),
        ({"alphas": [float("nan")]}, "alpha nan is not finite"),
        ({"alphas": "0:1:0.1"}, "alpha '0:1:0.1' is not a number; give [0, 0.5, 1], or a range"),
        ({"alphas": {"from": 0, "to": 1}}, "expected a list of numbers such as [0, 0.5, 1], or a"),
        ({"alphas": {"from": 0, "to": 1, "step": 0}}, "a step above 0"),
        ({"alphas": {"from": 1, "to": 0, "step": 0.1}}, "expected from ≤ to"),
        ({"alphas": {"from": 0, "to": 1, "step": 0.3}}, "the last would be 0.9"),
        ({"alphas": {"from": 0, "to": 1, "step": 1e-9}}, "make more than 10000"),
        ({"alphas": {"from": 0, "to": "x", "step": 1}}, "to of the range is 'x'"),
        ({"name": "../x"}, "name: expected letters, digits, '.', '_' and '-'"),
        ({"after": None}, "after: expected text (found null)"),
        ({"allow_pickle": "yes"}, 'allow_pickle: expected true or false (found "yes")'),
        ({"decompose": {"parts": True}}, "decompose.parts: expected a number (found true)"),
        ({"decompose": {"parts": 1.5}}, "decompose.parts: expected a whole number (found 1.5)"),
        ({"blend": 3}, "blend: expected keys and their values (found 3)"),
        ({"blend": {"storage_dtype": "f32"}}, "expected 'float32', 'bfloat16' or 'float16'"),
        ({"evaluate": {"benchmarks": []}}, "evaluate.benchmarks: expected a list of at least 1"),
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
    ("overrides", "names", "limits"),
    [
        (["evaluate.benchmarks=math-500"], ["math-500"], [None]),
        (["evaluate.benchmarks.1.limit=10"], ["demo", "aime-2024"], [None, 10]),
        (["evaluate.benchmarks.0=math-500"], ["math-500", "aime-2024"], [None, None]),
        (
            ["evaluate.benchmarks=math-500", "evaluate.benchmarks.0.limit=3"],
            ["math-500"],
            [3],
        ),
        (["evaluate.benchmarks={name: own, data: x.jsonl}"], ["own"], [None]),
    ],
)
def test_overrides_reach_into_lists(
    overrides: list[str], names: list[str], limits: list[int | None]
) -> None:
    text = "{name: x, before: a, after: b, evaluate: {benchmarks: [demo, aime-2024]}}"
    evaluate = read_config(text, overrides, where="").evaluate
    assert evaluate is not None
    assert [benchmark.name for benchmark in evaluate.benchmarks] == names
    assert [benchmark.limit for benchmark in evaluate.benchmarks] == limits
    assert read_config(overridden(text, overrides, where=""), where="").evaluate == evaluate


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("evaluate.benchmarks.2.limit=1", "the list has no item '2'; it has 0, 1"),
        ("evaluate.benchmarks.limit=1", "the list has no item 'limit'; it has 0, 1"),
        ("evaluate.benchmarks.0.limt=1", "evaluate.benchmarks.0.limt: unknown key; did you mean"),
    ],
)
def test_overrides_of_what_a_list_lacks(override: str, words: str) -> None:
    text = "{name: x, before: a, after: b, evaluate: {benchmarks: [demo, aime-2024]}}"
    with pytest.raises(ConfigError) as caught:
        read_config(text, [override], where="file.yaml")
    assert words in str(caught.value)


def test_an_override_fills_a_section_that_is_empty() -> None:
    config = read_config(
        "name: x\nbefore: a\nafter: b\nblend:\n", ["blend.svd_logs=false"], where=""
    )
    assert not config.blend.svd_logs


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0123456", "0123456"), ("123456", "123456"), ("1e5", "1e5"), ("1.10", "1.10"),
        ("0x1F", "0x1F"), ("2026-01-31", "2026-01-31"), ("12:30:45", "12:30:45"),
        ("1_000", "1_000"), ("no", "no"), ("On", "On"), ("9" * 5000, "9" * 5000),
    ],
)  # fmt: skip
def test_text_keeps_its_spelling(text: str, expected: str) -> None:
    given = f"name: x\nbefore: {text}\nafter: b\n"
    assert read_config(given, where="").before == expected
    assert read_config(overridden(given, ["after=c"], where=""), where="").before == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [("1e-1", 0.1), ("+0.50", 0.5), (".5", 0.5), ("0.", 0.0), ("0x0", 0.0), ("'0.2'", 0.2)],
)
def test_numbers_are_read_however_they_are_spelled(text: str, expected: float) -> None:
    config = read_config(
        f"{{name: x, before: a, after: b, alphas: [{text}], evaluate: {{benchmarks: demo}}, "
        f"gate: {{margin: {text}}}, decompose: {{parts: 0x10}}, blend: {{max_shard_bytes: 5e9}}}}",
        where="",
    )
    assert config.alphas == (expected,)
    assert config.gate is not None
    assert config.gate.margin == expected
    assert config.decompose.parts == 16
    assert config.blend.max_shard_bytes == 5_000_000_000


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("{from: 0, to: 1, step: 0.1}", [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1]),
        ("{from: -0.1, to: 0.1, step: 1e-1}", [-0.1, 0, 0.1]),
        ("{from: 1, to: 1, step: 1}", [1]),
    ],
)
def test_ranges_are_exact_decimals(given: str, expected: list[float]) -> None:
    text = f"{{name: x, before: a, after: b, alphas: {given}}}"
    assert read_config(text, where="").alphas == tuple(expected)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "name: a\nbefore: b\nname: c\n",
            "f.yaml line 3: key 'name' is given twice, first in line 1",
        ),
        ("evaluate: {seed: 1, seed: 2}", "f.yaml line 1: key 'seed' is given twice"),
        ('{"name": "a", "name": "a"}', "key 'name' is given twice"),
        ("a: !!int x", "f.yaml: a value does not fit its tag"),
        ("[" * 3000, "f.yaml is nested too deeply"),
        ("a: &x [*x]", "f.yaml:\n"),
        ("? [1]\n: 2", "f.yaml is not valid YAML"),
    ],
)
def test_documents_that_are_refused(text: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_config(text, where="f.yaml")
    assert words in str(caught.value)


def test_what_one_mapping_takes_from_another_is_not_given_twice() -> None:
    text = "{name: x, before: a, after: b, decompose: {<<: {parts: 3, shards: 2}, parts: 1}}"
    config = read_config(text, where="")
    assert (config.decompose.parts, config.decompose.shards) == (1, 2)


PYDANTIC = ("Input", "input", "uple", "String", "Value error", "dictionary", "valid ", "__main__")
WRONG: tuple[object, ...] = (
    None, True, "x", "", -1, 0, 1.5, -1e300, float("nan"), 10**300, [], [[]], [None], {}, {"a": 1},
    {1: 2}, [{"name": 3}], b"x",
)  # fmt: skip


@pytest.mark.parametrize("section", [SweepConfig, ClusterSettings])
def test_complaints_are_in_our_words(section: type[Settings]) -> None:
    """Give every key every kind of wrong value."""
    for key in keys(section):
        for value in WRONG:
            document: dict[str, Any] = {**MINIMAL} if section is SweepConfig else {}
            *sections, last = key.name.split(".")
            node: Any = document
            for name in sections:
                here: Any = [{}] if name == "benchmarks" else {}
                node = node[0] if isinstance(node, list) else node.setdefault(name, here)
            node[last] = value
            try:
                validated(section, document, where="f")
            except ConfigError as error:
                found = [word for word in PYDANTIC if word in str(error)]
                assert not found, str(error)
                assert "cannot be used here" not in str(error), str(error)


@pytest.mark.parametrize("section", [SweepConfig, ClusterSettings])
def test_every_key_has_a_meaning(section: type[Settings]) -> None:
    assert [key.name for key in keys(section) if not key.meaning] == []


def test_the_page_of_the_docs_has_every_key() -> None:
    assert config_page.PAGE.read_text() == config_page.page(), "run `make render`"
    names = {key.name for key in keys(SweepConfig)}
    assert {"variants.*.before", "evaluate.benchmarks.*.limit", "map.by", "metrics.heads"} <= names
    assert all(f"`{name}`" in config_page.page() for name in names)


def test_keys_come_with_the_defaults_that_hold() -> None:
    defaults = {key.name: key.default for key in [*keys(SweepConfig), *keys(ClusterSettings)]}
    assert defaults["evaluate.benchmarks"] == defaults["name"] == " (required)"
    assert defaults["evaluate.benchmarks.*.limit"] == " = null"
    assert defaults["blend"] == ""
    assert defaults["plan.cpu"] == ' = "1"'
    assert defaults["decompose.cpu"] == ' = "8"'


def test_examples_quote_what_a_shell_expands() -> None:
    """zsh reads unquoted brackets as a pattern, and prints only `no matches found`."""
    root = Path(__file__).parents[1]
    texts = [
        path
        for folder in ("docs", "images", "helm/svdjobs")
        for path in root.glob(f"{folder}/*.md")
    ]
    for path in [
        root / "README.md",
        *texts,
        *root.glob("jobs/**/*"),
        *root.glob("svdjobs/**/*.py"),
    ]:
        found = path.read_text("utf-8") if path.is_file() else ""
        for example in re.findall(r"(?:--set|e\.g\.|-p) (\S+=\S+)", found):
            assert example.startswith("'") or not set(example) & set("[]*?"), f"{path}: {example}"


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


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("before", "https://user:hush@host.example/owner/name"),
        ("store", "s3://user:hush@bucket/run"),
        ("gate", {"baseline": "https://user:hush@host.example"}),
        ("after", "https://host.example/x?X-Amz-Signature=hush"),
        ("before", f"https://{'long-' * 20}hush@host.example"),
        ("alphas", "http://user:hush@host"),
    ],
)
def test_an_address_with_a_password_is_refused_and_not_quoted(key: str, text: object) -> None:
    """It would be written into every manifest, and into a Workflow that others can read."""
    document = {"name": "x", "before": "a", "after": "b", key: text}
    with pytest.raises(ConfigError, match=r"\*\*\*") as caught:
        parse_config(document, where="test")
    assert (
        f"{key}.baseline" in str(caught.value) if key == "gate" else f"{key}: " in str(caught.value)
    )
    assert "hush" not in f"{caught.value} {caught.value.args}"


def test_settings_of_a_cluster_hold_no_password_either() -> None:
    with pytest.raises(ConfigError, match=r"s3://\*\*\*@bucket"):
        validated(ClusterSettings, {"store": "s3://user:hush@bucket/run"}, where="test")


def test_a_config_that_contains_itself_is_an_error() -> None:
    with pytest.raises(ConfigError):
        read_config("name: x\nbefore: a\nafter: b\nalphas: &a [*a]\n", where="test")
