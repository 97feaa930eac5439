"""The registry, what it makes of config entries, and hub sets from caches built on this disk."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from svdjobs.benchmarks import KNOWN, KnownBenchmark, complete, find
from svdjobs.config import BenchmarkConfig, EvaluateConfig
from svdjobs.config_file import parse_config
from svdjobs.errors import BenchmarkError, ConfigError, StorageError, exit_code
from svdjobs.evaluation.benchmarks.load import load_benchmark
from tests.evaluation.problem_set import integers, problem_set

HUB = [known for known in KNOWN if known.revision]
Cache = Callable[..., None]


def benchmarks(*entries: object) -> tuple[BenchmarkConfig, ...]:
    document = {"name": "x", "before": "a", "after": "b", "evaluate": {"benchmarks": entries}}
    evaluate = parse_config(document, where="f").evaluate
    assert evaluate is not None
    return evaluate.benchmarks


def rows(known: KnownBenchmark, count: int | None = None) -> list[dict[str, Any]]:
    """Generated rows in the schema of a known set."""
    count = known.problems if count is None else count
    return [
        {
            "id": i,
            known.problem_field: f"Problem {i} of {known.name}?",
            known.answer_field: float(i),
        }
        for i in range(count)
    ]


def test_registry_is_complete() -> None:
    assert {known.name: known.problems for known in KNOWN} == {
        "math-500": 500,
        "aime-2024": 30,
        "aime-2025": 30,
        "amc-2023": 40,
        "demo": 200,
    }
    for known in HUB:
        assert known.revision is not None
        assert len(known.revision) == 40
        int(known.revision, 16)


@pytest.mark.parametrize("known", HUB, ids=lambda known: str(known.name))
def test_every_spelling_is_the_same_benchmark(known: KnownBenchmark) -> None:
    spellings = [known.name, known.data, known.name.upper(), known.data.lower()]
    entries: list[object] = [*spellings, {"name": known.name}, {"name": known.data}]
    (made,) = {benchmarks(entry)[0] for entry in entries}
    assert made == BenchmarkConfig(
        name=known.name,
        data=known.data,
        split=known.split,
        revision=known.revision,
        problem_field=known.problem_field,
        answer_field=known.answer_field,
    )


def test_hub_names_of_the_field() -> None:
    names = ("HuggingFaceH4/math-500", "HuggingFaceH4/aime_2024", "math-ai/amc23", "math-ai/aime25")
    found = [find(name) for name in names]
    assert [f.name for f in found if f] == ["math-500", "aime-2024", "amc-2023", "aime-2025"]


def test_given_keys_win_and_completing_twice_changes_nothing() -> None:
    entry = {"name": "amc-2023", "data": "own.jsonl", "answer_field": "gold", "limit": 3}
    (made,) = benchmarks(entry)
    assert (made.data, made.problem_field, made.answer_field) == ("own.jsonl", "question", "gold")
    assert made.revision is None  # a local file has no commit
    for config in (made, *benchmarks("math-500", "owner/set", "folder/own.parquet", "demo")):
        assert BenchmarkConfig.model_validate(config.model_dump(mode="json")) == config
    (unpinned,) = benchmarks({"name": "math-500", "revision": None})
    assert unpinned.revision is None


def test_own_name_for_a_known_set() -> None:
    (made,) = benchmarks({"name": "old", "data": "math-ai/amc23", "revision": "b" * 40})
    assert (made.name, made.problem_field, made.revision) == ("old", "question", "b" * 40)


def test_a_plain_place_names_itself() -> None:
    hub, file = benchmarks("owner/some-set", "folder/own.jsonl")
    assert (hub.name, hub.data) == ("some-set", "owner/some-set")
    assert (file.name, file.data) == ("own", "folder/own.jsonl")


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("math500", "unknown benchmark 'math500'; did you mean math-500"),
        ({"name": "aime-2026"}, "unknown benchmark 'aime-2026'; did you mean aime-20"),
        ("zzz", "unknown benchmark 'zzz'; Known: aime-2024, aime-2025, amc-2023, demo, math-500"),
        ({"data": "a.jsonl"}, "name: required"),
        (7, "evaluate.benchmarks.0"),
        ({"name": 7}, "unknown benchmark '7'"),
    ],
)
def test_entries_that_are_no_benchmark(entry: object, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        benchmarks(entry)
    assert words in str(caught.value)
    assert exit_code(caught.value) == 2


def test_two_spellings_are_one_benchmark_given_twice() -> None:
    with pytest.raises(ConfigError, match="given twice: math-500"):
        benchmarks("math-500", "HuggingFaceH4/math-500")


def test_complete_leaves_strangers_alone() -> None:
    assert complete(3) == 3
    assert complete(None) is None


def test_demo_is_in_the_package_wherever_one_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (config,) = benchmarks("demo")
    assert not Path(config.data).is_absolute()
    loaded = load_benchmark(config)
    assert (len(loaded.problems), loaded.revision) == (200, None)


@pytest.mark.parametrize(("count", "limit"), [(39, None), (41, None), (3, 3), (3, 9)])
def test_known_benchmarks_must_be_whole(count: int, limit: int | None, tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    known = find("amc-2023")
    assert known is not None
    path.write_text("".join(json.dumps(row) + "\n" for row in rows(known, count)))
    config = BenchmarkConfig(name="amc-2023", data=str(path), limit=limit)
    if limit is not None:
        assert len(load_benchmark(config).problems) == 3
        return
    with pytest.raises(BenchmarkError, match=f"holds {count} problems, expected 40"):
        load_benchmark(config)


COPIES: dict[str, list[dict[str, Any]]] = {
    "math-500": [{**row, "level": 2} for row in problem_set(500)],
    "aime-2024": [{"problem": r["problem"], "expected_answer": r["answer"]} for r in integers(30)],
    "aime-2025": [{"problem": r["problem"], "expected_answer": r["answer"]} for r in integers(30)],
    "amc-2023": [{"question": r["problem"], "answer": int(r["answer"])} for r in integers(40)],
}


@pytest.mark.parametrize("name", COPIES)
def test_copies_in_the_fields_of_the_public_ones_pass_the_checks(name: str, tmp_path: Path) -> None:
    """Fields and types differ from copy to copy: `expected_answer`, an answer that is a number."""
    path, rows = tmp_path / f"{name}.jsonl", COPIES[name]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = {} if "answer" in rows[0] else {"answer_field": "expected_answer"}
    entry = {"name": name, "data": str(path), **given}
    loaded = load_benchmark(BenchmarkConfig.model_validate(entry))
    field = given.get("answer_field", "answer")
    assert [p.gold for p in loaded.problems] == [
        str(row[field]).removesuffix(r"^\circ") for row in rows
    ]
    if given:
        with pytest.raises(BenchmarkError, match=r"no field 'answer'; it has .*expected_answer"):
            load_benchmark(BenchmarkConfig(name=name, data=entry["data"]))


# ---------------------------------------------------------------- offline caches


def snapshot(hub: Path, repository: str, commit: str, split: str, table: list[Any]) -> Path:
    """One snapshot in the layout of huggingface_hub: blobs, refs, and links to the blobs."""
    root = hub / f"datasets--{repository.replace('/', '--')}"
    folder = root / "snapshots" / commit
    (folder / "data").mkdir(parents=True)
    (root / "blobs").mkdir(exist_ok=True)
    (root / "refs").mkdir(exist_ok=True)
    (root / "refs" / "main").write_text(commit)
    blob = root / "blobs" / f"blob-{commit}"
    pq.write_table(pa.Table.from_pylist(table), blob)
    (folder / "data" / f"{split}-00000-of-00001.parquet").symlink_to(blob)
    (folder / "README.md").write_text(
        "---\nlicense: mit\nconfigs:\n- config_name: default\n  data_files:\n"
        f"  - split: {split}\n    path: data/{split}-*\n---\n# A set\n"
    )
    return folder


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache and an empty cache of `datasets`, without a network."""
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "home" / "datasets")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "home" / "hub"))
    return tmp_path / "home" / "hub"


def table_cache(hub: Path, folder: Path, repository: str, commit: str) -> None:
    """What `datasets` leaves behind after loading a set from the hub, made by `datasets`."""
    from datasets import load_dataset

    owner, name = repository.split("/")
    local = hub.parent / name  # the files of a table are named after the folder
    shutil.copytree(folder, local)
    scratch = hub.parent / "scratch"
    load_dataset(str(local), cache_dir=str(scratch))
    (made,) = scratch.glob(f"{name}/*/*/*/dataset_info.json")
    target = hub.parent / "datasets" / f"{owner}___{name}" / "default" / "0.0.0" / commit
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(made.parent, target)
    shutil.rmtree(scratch)
    shutil.rmtree(local)


@pytest.mark.parametrize("known", HUB, ids=lambda known: str(known.name))
def test_known_sets_load_from_the_hub_cache(known: KnownBenchmark, hub: Path) -> None:
    snapshot(hub, known.data, str(known.revision), known.split, rows(known))
    loaded = load_benchmark(BenchmarkConfig(name=known.name))
    assert [p.gold for p in loaded.problems] == [str(i) for i in range(known.problems)]
    assert loaded.revision == known.revision
    assert len(load_benchmark(BenchmarkConfig(name=known.name, limit=2)).problems) == 2
    assert not (hub.parent / "datasets").exists()  # the cache may be read-only


def test_cache_under_another_spelling(hub: Path) -> None:
    (known,) = (known for known in HUB if known.name == "math-500")
    snapshot(hub, "HuggingFaceH4/math-500", str(known.revision), "test", rows(known))
    assert len(load_benchmark(BenchmarkConfig(name="math-500")).problems) == 500


def test_known_set_loads_from_the_table_cache(hub: Path) -> None:
    known = find("amc-2023")
    assert known is not None
    commit = str(known.revision)
    folder = snapshot(hub.parent / "elsewhere", known.data, commit, "test", rows(known))
    table_cache(hub, folder, known.data, commit)
    loaded = load_benchmark(BenchmarkConfig(name="amc-2023"))
    assert (len(loaded.problems), loaded.revision) == (40, commit)


def test_unpinned_set_records_the_revision_it_found(hub: Path) -> None:
    table = [{"problem": "p", "answer": 7}]
    snapshot(hub, "owner/own", "a" * 40, "test", table)
    assert load_benchmark(benchmarks("owner/own")[0]).revision == "a" * 40
    folder = snapshot(hub.parent / "elsewhere", "owner/other", "b" * 40, "test", table)
    table_cache(hub, folder, "owner/other", "b" * 40)
    assert load_benchmark(benchmarks("owner/other")[0]).revision == "b" * 40
    named = BenchmarkConfig(name="n", data="owner/own", revision="main")
    assert load_benchmark(named).revision == "a" * 40


def test_another_revision_in_the_caches_is_not_taken(hub: Path) -> None:
    known = find("amc-2023")
    assert known is not None
    folder = snapshot(hub, known.data, "b" * 40, "test", rows(known))
    table_cache(hub, folder, known.data, "b" * 40)
    with pytest.raises(StorageError, match=f"{known.revision} could not be .*of revision bbb"):
        load_benchmark(BenchmarkConfig(name="amc-2023"))
    assert load_benchmark(BenchmarkConfig(name="amc-2023", revision="b" * 40)).revision == "b" * 40


def test_interrupted_download_is_not_a_snapshot(hub: Path) -> None:
    folder = snapshot(hub, "math-ai/amc23", str(find("amc-2023").revision), "test", [])  # type: ignore[union-attr]
    shutil.rmtree(folder / "data")
    with pytest.raises(StorageError, match="holds no such snapshot"):
        load_benchmark(BenchmarkConfig(name="amc-2023"))


def test_unreachable_set_says_what_to_do(hub: Path) -> None:
    with pytest.raises(StorageError) as caught:
        load_benchmark(BenchmarkConfig(name="m", data="HuggingFaceH4/math500"))
    for words in ("Give a local JSONL", "HF_HUB_OFFLINE", "did you mean HuggingFaceH4/MATH-500"):
        assert words in str(caught.value)
    assert exit_code(caught.value) == 4


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"split": "train"}, "no split 'train'; it has test. Set `split`"),
        ({"answer_field": "gold"}, "no field 'gold'; it has answer, problem. Set problem_field"),
        ({"subset": "main"}, "'main' not found"),
    ],
)
def test_hub_set_that_is_not_as_described(given: dict[str, Any], words: str, hub: Path) -> None:
    snapshot(hub, "owner/own", "a" * 40, "test", [{"problem": "p", "answer": 7}])
    config = BenchmarkConfig(name="b", data="owner/own", revision="a" * 40, **given)
    with pytest.raises(BenchmarkError) as caught:
        load_benchmark(config)
    assert words in str(caught.value)
    assert exit_code(caught.value) == 2


def test_hub_set_with_several_subsets(hub: Path) -> None:
    folder = snapshot(hub, "owner/own", "a" * 40, "test", [{"problem": "p", "answer": 7}])
    pq.write_table(pa.table({"problem": ["q"], "answer": [8]}), folder / "data/hard.parquet")
    entry = "- config_name: {0}\n  data_files:\n  - split: test\n    path: data/{1}\n"
    several = entry.format("easy", "test-*") + entry.format("hard", "hard.parquet")
    (folder / "README.md").write_text(f"---\nconfigs:\n{several}---\n")
    config = BenchmarkConfig(name="b", data="owner/own", revision="a" * 40)
    with pytest.raises(BenchmarkError, match=r"easy.*hard.*Set `subset`"):
        load_benchmark(config)
    hard = load_benchmark(config.model_copy(update={"subset": "hard"}))
    assert [p.gold for p in hard.problems] == ["8"]


@pytest.mark.parametrize("variable", ["HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"])
def test_offline_variables_are_honoured(variable: str, tmp_path: Path) -> None:
    """In a process of its own, as the variables are read on import; it must not wait for a hub."""
    snapshot(tmp_path / "hub", "owner/own", "a" * 40, "test", [{"problem": "p", "answer": 7.0}])
    code = (
        "from svdjobs.config import BenchmarkConfig\n"
        "from svdjobs.evaluation.benchmarks.load import load_benchmark\n"
        "from svdjobs.errors import StorageError\n"
        "print(load_benchmark(BenchmarkConfig(name='own', data='owner/own')).problems[0].gold)\n"
        "try: load_benchmark(BenchmarkConfig(name='aime-2025'))\n"
        "except StorageError as error: print(error.exit_code)\n"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env={**environment, "HF_HOME": str(tmp_path), variable: "1"},
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert done.stdout.split() == ["7", "4"]
    assert "Retry" not in done.stderr


def test_evaluate_section_accepts_names() -> None:
    section = EvaluateConfig.model_validate({"benchmarks": ["math-500", {"name": "aime-2024"}]})
    assert [b.name for b in section.benchmarks] == ["math-500", "aime-2024"]
