from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from svdjobs.cluster.doctor import store as doctor_store
from svdjobs.cluster.doctor.checks import Check, all_well, guarded, plain_lines, summary
from svdjobs.cluster.doctor.cluster import Needs, check_cluster, gpu_checks
from svdjobs.cluster.manifests import argo
from svdjobs.errors import StorageError
from svdjobs.storage.local import LocalStore
from svdjobs.storage.s3.store import S3Store
from svdjobs.storage.store import Store
from tests.cluster.api_server import Answer, Body, answering, status
from tests.storage.s3_server import bucket, client_of, open_uploads, s3_environment, s3_server

__all__ = ["bucket", "s3_environment", "s3_server"]


def by_name(checks: list[Check]) -> dict[str, Check]:
    return {check.name: check for check in checks}


def test_a_folder_is_well_and_left_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    checks = doctor_store.check_store(str(tmp_path))
    assert [check.status for check in checks] == ["ok"] * 9
    assert [path.name for path in tmp_path.rglob("*")] == ["config.json"]


def test_a_real_s3_server_is_well_and_left_empty(bucket: str, s3_environment: Any) -> None:
    checks = doctor_store.check_store(f"s3://{bucket}/some/prefix")
    assert [(c.name, c.status) for c in checks if c.status != "ok"] == []
    assert "between this clock and the store's" in by_name(checks)["store: clock"].found
    plain = client_of(s3_environment)
    assert "Contents" not in plain.list_objects_v2(Bucket=bucket)
    assert open_uploads(s3_environment, S3Store(bucket)) == []


def test_wrong_credentials_stop_at_the_first_check(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-secret")
    (check,) = doctor_store.check_store(f"s3://{bucket}/x")
    assert (check.name, check.status) == ("store: put", "fail")
    assert "does not accept the credentials" in check.found
    assert "wrong-secret" not in check.found


def test_no_bucket(s3_environment: Any) -> None:
    (check,) = doctor_store.check_store("s3://svdjobs-none/x")
    assert "there is no bucket 'svdjobs-none'" in check.found


class Broken(LocalStore):
    """A folder with one fault."""

    fault = ""

    def read(self, key: str, start: int = 0, end: int | None = None) -> bytearray:
        if self.fault == "range":
            return super().read(key)
        data = super().read(key, start, end)
        if self.fault == "get":
            data[-1] ^= 1
        return data

    def put_new(self, key: str, data: bytes) -> bool:
        if self.fault == "conditional put":
            self.path(key).write_bytes(data)
            return True
        return super().put_new(key, data)

    def keys(self, prefix: str) -> list[str]:
        return [] if self.fault == "list" else super().keys(prefix)

    def delete(self, key: str) -> None:
        if self.fault == "refuse":
            raise StorageError("deleting: access denied")
        if self.fault != "delete":
            super().delete(key)


@pytest.mark.parametrize(
    ("fault", "failing"),
    [
        ("get", {"store: get", "store: range", "store: conditional put", "store: multipart"}),
        ("range", {"store: range"}),
        ("conditional put", {"store: conditional put"}),
        ("list", {"store: list"}),
        ("delete", {"store: delete"}),
        ("refuse", {"store: delete"}),
    ],
)
def test_each_fault_is_found(
    fault: str, failing: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken: Store = Broken(tmp_path)
    monkeypatch.setattr(Broken, "fault", fault)
    monkeypatch.setattr(doctor_store, "open_store", lambda url: broken)
    checks = doctor_store.check_store(str(tmp_path))
    assert {check.name for check in checks if check.status == "fail"} == failing
    assert not all_well(checks)


def test_a_clock_that_is_off(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Late(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime.now(tz) + timedelta(minutes=10)

    monkeypatch.setattr(doctor_store, "datetime", Late)
    check = by_name(doctor_store.check_store(f"s3://{bucket}/x"))["store: clock"]
    assert (check.status, check.found) == ("warn", check.found)
    assert "between this clock" in check.found
    assert "NTP" in check.advice
    assert datetime.now(UTC)


def node(gpus: int, *, product: str = "H100", taint: str | None = None) -> Body:
    return {
        "metadata": {"labels": {"nvidia.com/gpu.product": product}},
        "spec": {"taints": [{"key": taint, "effect": "NoSchedule"}] if taint else []},
        "status": {"allocatable": {"cpu": "8", "nvidia.com/gpu": str(gpus)}},
    }


def test_gpu_nodes() -> None:
    (check,) = gpu_checks([node(4), node(4), node(2, product="A10"), node(0)], Needs())
    assert check == Check("gpu: nodes", "ok", "nvidia.com/gpu: 2 of A10, 8 of H100")


def test_no_gpu_nodes_matter_only_when_asked() -> None:
    bare: Body = {"metadata": {}, "spec": {}, "status": {}}
    assert gpu_checks([bare], Needs())[0].status == "warn"
    assert gpu_checks([bare], Needs(gpu=True))[0].status == "fail"


def test_gpus_of_another_product_and_with_a_taint() -> None:
    needs = Needs(gpu=True, node_selector={"nvidia.com/gpu.product": "H200"})
    checks = by_name(gpu_checks([node(1, taint="team")], needs))
    assert checks["gpu: labels"].status == "fail"
    assert checks["gpu: labels"].advice.endswith("that is there: H100.")
    assert "team" in checks["gpu: taints"].found
    tolerated = gpu_checks([node(1, taint="nvidia.com/gpu")], Needs())
    assert tolerated[1] == Check("gpu: taints", "ok", "tolerated: nvidia.com/gpu")


@pytest.mark.parametrize(("driver", "status"), [("570", "fail"), ("580", "ok"), ("", "")])
def test_the_driver_must_be_new_enough_for_vllm_s_image(driver: str, status: str) -> None:
    found = node(1)
    if driver:
        found["metadata"]["labels"]["nvidia.com/cuda.driver.major"] = driver
    checks = by_name(gpu_checks([found], Needs(gpu=True)))
    assert (checks["gpu: driver"].status if driver else "") == status
    assert driver or "gpu: driver" not in checks


@pytest.mark.parametrize(
    ("tolerations", "product", "bad"),
    [
        ([{"key": "spot", "operator": "Exists"}], "H100", []),
        ([{"operator": "Exists"}], "H100", []),
        ([{"key": "nvidia.com/gpu"}], "H100", ["gpu: taints"]),
        ([{"key": "spot"}], "A10", ["gpu: labels"]),
    ],
)
def test_nodes_are_looked_at_as_the_installed_template_chooses_them(
    tolerations: list[Body], product: str, bad: list[str]
) -> None:
    selector = {"nvidia.com/gpu.product": product}
    pod = {"name": "evaluate", "nodeSelector": selector, "tolerations": tolerations}
    template = {"spec": {"templates": [{"name": "plan"}, pod]}}
    known: dict[str, Body] = {
        "/api/v1/nodes": {"items": [node(1, taint="spot")]},
        "/apis/argoproj.io/v1alpha1/namespaces/here/workflowtemplates/svdjobs-sweep": template,
    }
    checks = allowed_to_see(known, Needs(gpu=True))
    about = [
        c for c in checks if c.name.startswith("gpu: ") and c.status not in ("ok", "not checked")
    ]
    assert [check.name for check in about] == bad


def test_what_may_not_be_looked_at_is_no_failure() -> None:
    """As in a pod: the server allows only discovery and reviews of one's own permissions."""

    def respond(method: str, path: str, query: dict[str, str], body: Body) -> Answer:
        if path == "/version":
            return 200, {"gitVersion": "v1.34.4"}
        if path == "/apis":
            return 200, {"groups": [{"name": "argoproj.io"}]}
        if path.endswith("/v1alpha1"):
            names = ("workflows", "workflowtemplates", "cronworkflows", "workflowtaskresults")
            return 200, {"resources": [{"name": name} for name in names]}
        if path.endswith("selfsubjectaccessreviews"):
            return 201, {"status": {"allowed": True}}
        return status(403, "Forbidden", 'User "x" cannot')

    with answering(respond) as server:
        checks = by_name(check_cluster(server.cluster(patience_seconds=1), Needs()))
    assert all_well(list(checks.values()))
    assert checks["gpu: nodes"].status == "not checked"
    assert checks["gpu: nodes"].found == "you may not list nodes"
    assert checks["argo: resources"].status == "ok"


def test_a_cluster_without_argo() -> None:
    def respond(method: str, path: str, query: dict[str, str], body: Body) -> Answer:
        known: dict[str, Body] = {"/version": {"gitVersion": "v1"}, "/apis": {"groups": []}}
        return (200, known[path]) if path in known else (404, "404 page not found")

    with answering(respond) as server:
        checks = by_name(check_cluster(server.cluster(patience_seconds=1), Needs()))
    assert checks["argo: resources"].status == "fail"
    assert "Install Argo Workflows 3.7" in checks["argo: resources"].advice


def controller(namespace: str, *args: str) -> Body:
    container = {"image": "quay.io/argoproj/workflow-controller:v4.0.7", "args": [*args]}
    return {
        "metadata": {"namespace": namespace},
        "spec": {"containers": [container]},
        "status": {"phase": "Running"},
    }


@pytest.mark.parametrize(
    ("args", "found", "words"),
    [
        ((), "ok", "workflow-controller:v4.0.7 in namespace argo"),
        (("--namespaced=false",), "ok", "in namespace argo"),
        (("--namespaced", "--managed-namespace", "here"), "ok", "in namespace argo"),
        (("--namespaced", "--managed-namespace=x"), "fail", "watch x, none watches here"),
        (("--namespaced",), "fail", "watch argo, none watches here"),
    ],
)
def test_a_controller_may_watch_one_namespace_only(
    args: tuple[str, ...], found: str, words: str
) -> None:
    pods = {"items": [controller("argo", *args)]}
    check = by_name(allowed_to_see({"/api/v1/pods": pods}, Needs()))["argo: controller"]
    assert (check.status, words in check.found) == (found, True), check


def test_without_rights_elsewhere_a_controller_of_the_own_namespace_is_found() -> None:
    own = {"/api/v1/namespaces/here/pods": {"items": [controller("here", "--namespaced")]}}
    check = by_name(allowed_to_see(own, Needs()))["argo: controller"]
    assert (check.status, check.found) == ("ok", "workflow-controller:v4.0.7 in namespace here")


def allowed_to_see(known: dict[str, Body], needs: Needs) -> list[Check]:
    """All checks by a user who may read the version and these paths, and nothing else."""

    def respond(method: str, path: str, query: dict[str, str], body: Body) -> Answer:
        found = {"/version": {"gitVersion": "v1"}, **known}.get(path)
        return (200, found) if found else status(403, "Forbidden", "cannot")

    with answering(respond) as server:
        return check_cluster(server.cluster(patience_seconds=1), needs)


@pytest.mark.parametrize(
    ("settings", "container", "found", "advice"),
    [
        ({}, "wait", "ok", ""),
        ({"config": "initlessPod:\n  enabled: false\n"}, "wait", "ok", ""),
        ({"config": "initlessPod:\n  enabled: true\n"}, "wait", "fail", "initlessPods: true"),
        ({"initlessPod": "enabled: true\n"}, "wait", "fail", "initlessPods: true"),
        ({"initlessPod": "enabled: true\n"}, "supervisor", "ok", ""),
        ({}, "supervisor", "fail", "initlessPods: false"),
        ({}, "", "ok", ""),
        ({"initlessPod": "enabled: true\n"}, "", "warn", "initless_pods: true"),
    ],
)
def test_argo_s_layout_of_pods_is_that_of_the_template(
    settings: dict[str, str], container: str, found: str, advice: str
) -> None:
    """Without an installed template, it says what to render."""
    template = {"spec": {"podSpecPatch": argo.executor(initless=container == "supervisor")}}

    def respond(method: str, path: str, query: dict[str, str], body: Body) -> Answer:
        if path == "/version":
            return 200, {"gitVersion": "v1.34.4"}
        if path.endswith("/workflowtemplates/svdjobs-sweep"):
            return (200, template) if container else status(404, "NotFound", "no template")
        if path == "/api/v1/configmaps":
            return 200, {"items": [{"data": settings}]}
        return status(403, "Forbidden", 'User "x" cannot')

    with answering(respond) as server:
        checks = by_name(check_cluster(server.cluster(patience_seconds=1), Needs()))
    layout = checks["argo: pod layout"]
    assert layout.status == found
    assert advice in layout.advice


def test_an_error_is_a_failed_check() -> None:
    def look() -> Check:
        raise StorageError("disk full")

    assert guarded("x", look) == [Check("x", "fail", "disk full")]


def test_summary_and_lines() -> None:
    checks = [Check("a", "ok", "fine"), Check("b", "fail", "no\nuse", "fix it")]
    assert summary(checks) == "1 ok, 1 fail"
    lines = list(plain_lines(checks))
    assert lines[1].split() == ["fail", "b", "no", "use"]
    assert lines[2].strip() == "fix it"


def test_the_command(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "svdjobs.cli.main", "doctor", "--only", "store"]
    done = subprocess.run([*command, "--store", str(tmp_path), "--json"], capture_output=True)
    assert done.returncode == 0
    assert {check["status"] for check in json.loads(done.stdout)} == {"ok"}
    bare = subprocess.run(command, capture_output=True, text=True)
    assert bare.returncode == 2
    assert "--only store needs --store" in bare.stderr
    file = tmp_path / "file"
    file.write_text("")
    bad = subprocess.run([*command, "--store", str(file)], capture_output=True, text=True)
    assert bad.returncode == 4
    assert "1 fail" in bad.stdout
