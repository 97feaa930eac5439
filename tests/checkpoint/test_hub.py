"""Checkpoints from a hub over HTTP: planned from headers, downloaded when needed."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from svdjobs.checkpoint.reader import INDEX
from svdjobs.checkpoint.sources import open_checkpoint, open_headers
from svdjobs.errors import CheckpointError, UnavailableError
from tests.checkpoint.hub import Hub, environment, serving, use
from tests.checkpoints import make_checkpoint


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    root = tmp_path_factory.mktemp("hub")
    models = {}
    for updates, role in enumerate(("before", "after")):
        models[f"lab/{role}"] = make_checkpoint(
            root / role,
            updates=updates,
            max_shard_size="300KB",
            hidden_size=128,
            intermediate_size=512,
        )
    with serving(models) as served:
        yield served


def svdjobs(
    hub: Hub, folder: Path, stage: str, *options: str, **config: object
) -> subprocess.CompletedProcess[str]:
    document = {
        "name": "hub",
        "before": "lab/before",
        "after": "lab/after",
        "alphas": [0],
        "store": str(folder / "run"),
        **config,
    }
    (folder / "sweep.yaml").write_text(yaml.safe_dump(document))
    return subprocess.run(
        [sys.executable, "-m", "svdjobs.cli.main", stage, str(folder / "sweep.yaml"), *options],
        capture_output=True,
        text=True,
        env=environment(hub, folder / "cache"),
    )


def test_plan_fetches_headers_and_a_sweep_the_weights(hub: Hub, tmp_path: Path) -> None:
    weights = sum(
        path.stat().st_size
        for folder in hub.models.values()
        for path in folder.glob("*.safetensors")
    )
    hub.weight_bytes = 0
    done = svdjobs(hub, tmp_path, "plan")
    assert done.returncode == 0, done.stderr
    assert "blended 14 of" in done.stdout
    assert 0 < hub.weight_bytes < weights  # these files are small: a header's range is 100 kB
    assert not list((tmp_path / "cache").rglob("*.safetensors"))
    planned = (tmp_path / "run" / "plan" / "manifest.json").read_bytes()
    for stage in ("decompose", "blend"):
        done = svdjobs(hub, tmp_path, stage)
        assert done.returncode == 0, done.stderr
    assert list((tmp_path / "run").glob("checkpoints/alpha-0.0000/*.safetensors"))
    again = svdjobs(hub, tmp_path, "plan")  # from the cache now, and the same plan
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "run" / "plan" / "manifest.json").read_bytes() == planned


def test_a_pod_that_plans_downloads_no_weights(
    hub: Hub, tmp_path: Path, benchmark_file: Path
) -> None:
    """It tokenises the prompts and knows the checkpoints' hashes, which the hub tells. A pod that
    has the weights finds the same hashes in their bytes."""
    benchmark = {"name": "sums", "data": str(benchmark_file)}
    evaluate = {"benchmarks": [benchmark], "engine": "transformers", "max_tokens": 4}
    hub.weight_bytes = 0
    units = ("--units-dir", str(tmp_path / "units"))
    done = svdjobs(hub, tmp_path, "plan", *units, evaluate=evaluate, metrics={})
    assert done.returncode == 0, done.stderr
    assert "prompts of" in done.stdout
    assert not list((tmp_path / "cache").rglob("*.safetensors"))
    weights = [path for folder in hub.models.values() for path in folder.glob("*.safetensors")]
    assert hub.weight_bytes < sum(path.stat().st_size for path in weights)
    identities = tmp_path / "run" / "identities.json"
    of_the_hub = json.loads(identities.read_text())
    digests = {hashlib.sha256(path.read_bytes()).hexdigest() for path in weights}
    assert digests <= set(of_the_hub.values())
    identities.unlink()
    done = svdjobs(hub, tmp_path, "decompose", evaluate=evaluate, metrics={})
    assert done.returncode == 0, done.stderr
    found = json.loads(identities.read_text())
    assert digests <= set(found.values())
    shared = of_the_hub.keys() & found.keys()
    assert len(shared) >= len(digests)
    assert {key: found[key] for key in shared} == {key: of_the_hub[key] for key in shared}


@pytest.mark.parametrize(
    ("config", "words", "code"),
    [
        ({"before": "lab/nothing"}, "lab/nothing: no such folder, and the hub has no such", 2),
        ({"before": "runs/my--model"}, "runs/my--model: no such folder, and not a hub id", 2),
        ({"after": "lab/after@v9"}, "lab/after@v9: the hub has no revision 'v9' of it", 2),
    ],
)
def test_what_the_hub_does_not_have(
    hub: Hub, tmp_path: Path, config: dict[str, str], words: str, code: int
) -> None:
    done = svdjobs(hub, tmp_path, "plan", **config)
    assert done.returncode == code, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_a_hub_that_does_not_answer_may_be_tried_again(tmp_path: Path) -> None:
    """A cluster tries exit code 75 again."""
    with serving({}) as closed:
        pass
    done = svdjobs(closed, tmp_path, "plan")
    assert done.returncode == 75
    assert "lab/before: no such folder, and the hub could not be reached" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def copied(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of `lab/copy` on the hub; this process may use the hub."""
    use(hub, monkeypatch, tmp_path / "cache")
    hub.models["lab/copy"] = tmp_path / "copy"
    return Path(shutil.copytree(hub.models["lab/after"], tmp_path / "copy"))


def rewritten(folder: Path, change: Callable[[dict[str, str]], object]) -> None:
    """Change the weight map in the index of a folder."""
    document = json.loads((folder / INDEX).read_text())
    change(document["weight_map"])
    (folder / INDEX).write_text(json.dumps(document))


def test_headers_from_the_hub_are_those_of_the_files(copied: Path) -> None:
    there, here = open_headers("lab/copy@main"), open_checkpoint(str(copied))
    assert there.entries == here.entries
    assert there.config == here.config


def test_a_hub_that_goes_away_while_weights_are_looked_at(
    copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """plan reads some weights through the headers it has opened."""
    opened = open_headers("lab/copy@main")
    with serving({}) as closed:
        gone = f"{closed.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", closed.url)
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", gone)
    name = next(iter(opened.entries))
    with pytest.raises(UnavailableError, match=r"lab/copy@.*the hub could not be reached"):
        opened.read(name)


def test_the_index_decides_of_hub_headers_too(copied: Path) -> None:
    weights = json.loads((copied / INDEX).read_text())["weight_map"]
    first, second = sorted(set(weights.values()))[:2]
    moved = next(name for name, key in weights.items() if key == first)
    rewritten(copied, lambda weights: weights.update({moved: second}))
    with pytest.raises(CheckpointError, match=rf"does not hold: {moved}; {first} holds {moved}"):
        open_headers("lab/copy")
    rewritten(copied, lambda weights: weights.pop(moved))
    assert moved not in open_headers("lab/copy").entries


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"<html>Sign in</html>" * 9, "is a web page, not weights"),
        (
            (200_000).to_bytes(8, "little") + b"[" * 100_000 + b"]" * 100_000,
            "from its first byte on",
        ),
        ((17).to_bytes(8, "little") + b'{"a":{},"b":"\\u"}', "not a valid safetensors file"),
        (b"1234", "it has 4 bytes"),
    ],
)
def test_files_of_the_hub_that_are_no_weights(copied: Path, content: bytes, words: str) -> None:
    (copied / INDEX).unlink()
    for file in copied.glob("*.safetensors"):
        file.unlink()
    (copied / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=words):
        open_headers("lab/copy")


def test_a_config_of_the_hub_that_is_a_web_page(copied: Path) -> None:
    (copied / "config.json").write_text("<html>503</html>")
    with pytest.raises(CheckpointError, match=r"config\.json is a web page"):
        open_headers("lab/copy")
