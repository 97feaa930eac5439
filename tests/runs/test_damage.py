"""Damage to a stored file is found when the file is read, and the error names both digests."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from svdjobs import local
from svdjobs.config import SweepConfig
from svdjobs.errors import DamagedError, IncompleteError, StorageError, exit_code
from svdjobs.runs import outputs
from svdjobs.stages import blend, evaluate, grade, report
from svdjobs.storage.dev_server import BUCKET, S3Server
from svdjobs.storage.local import LocalStore
from svdjobs.storage.objects import clear, write_bytes, write_json
from svdjobs.storage.s3 import client, download
from svdjobs.storage.s3.store import S3Store
from svdjobs.weights.factors import Factors
from tests.forked import run
from tests.storage.proxy import FOREVER, Fault, Kind, Proxy, harming

MakeConfig = Callable[..., SweepConfig]
TWO_DIGESTS = r"[0-9a-f]{64}[^0-9a-f].*[0-9a-f]{64}"


def flip(path: Path, position: int = -9) -> None:
    """Flip one bit in the middle of a number, so the file stays well-formed."""
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def without(config: SweepConfig, prefix: str) -> LocalStore:
    """The store of a run without one output, which must be made again."""
    store = LocalStore(config.store_url)
    clear(store, prefix)
    return store


def test_one_bit_of_the_factors(swept: SweepConfig) -> None:
    store = without(swept, "checkpoints/alpha-0.5000")
    flip(Path(store.url) / "factors" / "after" / "part-00000.safetensors")
    with pytest.raises(StorageError, match=rf"tensor '.*\.s' in .*part-00000.*{TWO_DIGESTS}"):
        blend.run(swept, store)
    assert not store.exists("checkpoints/alpha-0.5000/manifest.json")


@pytest.mark.parametrize(
    "name",
    [
        "plan/plan.json",
        "checkpoints/alpha-0.0000/svd_logs/model.safetensors.json",
        "grades/before/sums/summary.json",
        "likelihoods/before/sums/likelihoods.jsonl",
        "rotations/rows-00000.jsonl",
    ],
)
def test_one_digit_of_a_file_that_the_report_reads(swept: SweepConfig, name: str) -> None:
    store = without(swept, "report")
    path = Path(store.url) / name
    text = path.read_text()
    digit = next(i for i in range(len(text) // 2, len(text)) if text[i].isdigit())
    path.write_text(text[:digit] + str((int(text[digit]) + 1) % 10) + text[digit + 1 :])
    with pytest.raises(StorageError, match=rf"{name} is not what its manifest.*{TWO_DIGESTS}"):
        report.run(swept, store)


def test_traces_of_after(swept: SweepConfig) -> None:
    store = without(swept, "likelihoods/before")
    path = Path(store.url) / "results" / "after" / "sums" / "completions.jsonl"
    path.write_bytes(path.read_bytes().replace(b"token", b"taken", 1))
    with pytest.raises(StorageError, match=rf"completions.jsonl is not what.*{TWO_DIGESTS}"):
        evaluate.run(swept, store, checkpoint_ids=["before"])


def test_a_part_whose_file_is_gone_is_made_again(swept: SweepConfig) -> None:
    """A part of factors or of a blend, in an output whose manifest is lost as well."""
    store = LocalStore(swept.store_url)
    for prefix, name in (
        ("factors/after", "part-00000.safetensors"),
        ("checkpoints/alpha-0.5000", "model.safetensors"),
        ("checkpoints/alpha-0.5000", "svd_logs/alpha_0.5"),
    ):
        folder = Path(store.url) / prefix
        manifest = json.loads((folder / "manifest.json").read_text())
        path = next(p for p in (folder / name, *(folder / name).glob("*.pt")) if p.is_file())
        before = path.read_bytes()
        path.unlink()
        (folder / "manifest.json").unlink()
        (folder / "in-progress.json").write_text(
            json.dumps({"fingerprint": manifest["fingerprint"]})
        )
        local.sweep(swept)
        assert path.read_bytes() == before
        assert json.loads((folder / "manifest.json").read_text()) == manifest


def test_interrupted_grading_is_resumed(swept: SweepConfig) -> None:
    """Interrupted grading leaves a new summary and no manifest; the completions are unchanged."""
    store = LocalStore(swept.store_url)
    folder = Path(store.url) / "grades" / "after" / "sums"
    manifest = (folder / "manifest.json").read_bytes()
    summary = json.loads((folder / "summary.json").read_text())
    (folder / "summary.json").write_text(json.dumps({**summary, "truncated": 99}))
    (folder / "manifest.json").unlink()
    begun = {"fingerprint": json.loads(manifest)["fingerprint"]}
    (folder / "in-progress.json").write_text(json.dumps(begun))
    grade.run(swept, store)
    assert (folder / "manifest.json").read_bytes() == manifest
    assert json.loads((folder / "summary.json").read_text()) == summary


def test_factors_of_an_older_version(swept: SweepConfig) -> None:
    store = without(swept, "checkpoints/alpha-0.5000")
    folder = Path(store.url) / "factors" / "after"
    old = folder.with_name("old")
    shutil.copytree(folder, old)
    manifest = json.loads((old / "manifest.json").read_text())
    for path in old.glob("part-*.json"):
        document = json.loads(path.read_text())
        for tensor in document["tensors"]:
            del tensor["sha256"]
        record = overwrite(folder / path.name, document)
        for file in manifest["files"]:
            if file["key"] == path.name:
                file |= record
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(IncompleteError, match=r"older svdjobs.*Run `svdjobs decompose` again"):
        blend.run(swept, store)


def overwrite(path: Path, document: object) -> dict[str, object]:
    data = json.dumps(document).encode()
    path.write_bytes(data)
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def test_report_is_copied_over_no_link(swept: SweepConfig, tmp_path: Path) -> None:
    (tmp_path / "bashrc").write_text("mine")
    into = tmp_path / "into"
    into.mkdir()
    (into / "report.html").symlink_to(tmp_path / "bashrc")
    outputs.copy(LocalStore(swept.store_url), "report", into)
    assert (tmp_path / "bashrc").read_text() == "mine"
    assert not (into / "report.html").is_symlink()


def test_report_with_a_hostile_manifest_says_so(swept: SweepConfig, tmp_path: Path) -> None:
    store = LocalStore(swept.store_url)
    path = store.path("report/manifest.json")
    document = json.loads(path.read_text())
    (tmp_path / "bashrc").write_bytes(b"mine")
    document["files"].append(
        {"key": "../../bashrc", "bytes": 4, "sha256": hashlib.sha256(b"mine").hexdigest()}
    )
    write_json(store, "report/manifest.json", document)
    config = tmp_path / "config.json"
    config.write_text(swept.model_dump_json())
    done = run("report", config, "--copy-to", tmp_path / "a" / "b")
    assert (done.returncode, done.stdout) == (4, "")
    assert "report/manifest.json is not what svdjobs writes there" in done.stderr
    assert "'../../bashrc' is no key" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("kind", "code"),
    [("expired", 4), ("skewed", 4), ("403", 4), ("no key", 4), ("no bucket", 4), ("503", 75)],
)
def test_a_refusal_of_the_store_while_factors_are_read_is_no_usage_error(
    swept: SweepConfig, s3_prefix: str, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch,
    kind: Kind, code: int,
) -> None:  # fmt: skip
    for name in ("ROUNDS", "BODY_ATTEMPTS"):
        monkeypatch.setattr(client if name == "ROUNDS" else download, name, 1)
    local_store, s3_store = LocalStore(swept.store_url), S3Store(BUCKET, s3_prefix)
    for key in local_store.keys("factors/after"):
        write_bytes(s3_store, key, bytes(local_store.read(key)))
    with harming(s3_server.endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        factors = Factors(S3Store(BUCKET, s3_prefix), "after", stage="blend")
        name = next(iter(factors._sha256)).rpartition(".")[0]
        proxy.traffic.faults = [Fault(kind, "GET", "factors", FOREVER)]
        for read in (
            factors.s,
            lambda _: Factors(harmed_store(proxy, s3_prefix), "after", stage="x"),
        ):
            with pytest.raises(StorageError) as caught:
                read(name)
            assert exit_code(caught.value) == code


def harmed_store(proxy: Proxy, prefix: str) -> S3Store:
    """A store that fails requests for files of factors, but not for their manifest."""
    for fault in proxy.traffic.faults:
        fault.needle = "part-"
    return S3Store(BUCKET, prefix)


def test_damaged_factors_are_damage_to_the_store(swept: SweepConfig) -> None:
    store = LocalStore(swept.store_url)
    path = store.path("factors/after/part-00000.safetensors")
    factors = Factors(store, "after", stage="blend")
    whole = path.read_bytes()
    for damage, words in ((whole[:-1], "ends .* bytes before"), (None, "does not exist")):
        path.write_bytes(damage) if damage else path.unlink()
        names = [name.rpartition(".")[0] for name in factors._sha256]
        with pytest.raises(StorageError, match=words):
            for name in names:
                factors.basis(name), factors.s(name)
        with pytest.raises(DamagedError, match=r"Run `svdjobs decompose --force`"):
            Factors(store, "after", stage="blend")
