"""Check whether a cluster can run sweeps, with the caller's permissions.

A check that the permissions forbid is `not checked`, not a failure. A pod may look at very little.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from svdjobs import yaml_core
from svdjobs.cluster.api import ARGO, Cluster, Document, in_pod
from svdjobs.cluster.doctor.checks import Check, Status, guarded
from svdjobs.cluster.manifests.settings import ClusterSettings
from svdjobs.errors import RefusedError

NEEDED = ("workflows", "workflowtemplates", "cronworkflows", "workflowtaskresults")
GPU = "nvidia.com/gpu"
PRODUCT = "nvidia.com/gpu.product"
# The label of NVIDIA's GPU feature discovery, and the first driver for the CUDA of vLLM's image:
# https://docs.nvidia.com/cuda/cuda-toolkit-release-notes/
DRIVER = "nvidia.com/cuda.driver.major"
OLDEST_DRIVER = 580
TEMPLATE = "svdjobs-sweep"
# The account of rendered manifests, unless their settings name another.
ACCOUNT = ClusterSettings().service_account
# The rights that the account of a Workflow's pods needs: verb and resource.
POD_RIGHTS = (("create", "workflowtaskresults"), ("patch", "workflowtaskresults"))
# The rights that a person who runs sweeps needs: verb, API group and resource.
USER_RIGHTS = (
    ("create", "argoproj.io", "workflows"), ("get", "argoproj.io", "workflows"),
    ("list", "argoproj.io", "workflows"), ("watch", "argoproj.io", "workflows"),
    ("patch", "argoproj.io", "workflows"), ("list", "", "pods"), ("get", "", "pods"),
    ("get", "", "pods/log"),
)  # fmt: skip


@dataclass(frozen=True)
class Needs:
    """What a sweep needs of the cluster."""

    service_account: str | None = None
    """Account of the Workflow's pods; default: the installed template's, or this pod's, or the
    one of rendered manifests."""
    gpu: bool = False
    """Whether a missing GPU node is a failure instead of a warning."""
    gpu_resource: str = GPU
    node_selector: Mapping[str, str] = field(default_factory=dict)
    tolerated: tuple[str, ...] = (GPU,)
    """Keys of the taints that GPU pods tolerate; "" for all."""
    template: str = TEMPLATE


def check_cluster(cluster: Cluster, needs: Needs) -> list[Check]:
    """Run all checks of a cluster; only the first one if the cluster cannot be reached."""
    checks = guarded("cluster: reachable", lambda: _reachable(cluster))
    if checks[0].status == "fail":
        return checks
    looks: list[tuple[str, Callable[[], Check | list[Check]]]] = [
        ("cluster: namespace", lambda: _namespace(cluster)),
        ("argo: resources", lambda: _resources(cluster)),
        ("argo: controller", lambda: _controller(cluster)),
        ("argo: template", lambda: _template(cluster, needs)),
        ("argo: pod layout", lambda: _layout(cluster, needs)),
        ("pods' account", lambda: _account(cluster, needs)),
        ("your permissions", lambda: _permissions(cluster)),
        ("gpu: nodes", lambda: _gpus(cluster, needs)),
    ]
    for name, look in looks:
        checks += guarded(name, _if_allowed(name, look))
    return checks


def _if_allowed(
    name: str, look: Callable[[], Check | list[Check]]
) -> Callable[[], Check | list[Check]]:
    """Wrap a check: if the server forbids it (403), the result is `not checked`."""

    def guarded_look() -> Check | list[Check]:
        try:
            return look()
        except RefusedError as error:
            if error.status != 403:
                raise
            return Check(name, "not checked", str(error).partition(":")[0])

    return guarded_look


def _reachable(cluster: Cluster) -> Check:
    version = cluster.get("/version").get("gitVersion", "?")
    return Check("cluster: reachable", "ok", f"Kubernetes {version} at {cluster.server}")


def _namespace(cluster: Cluster) -> Check:
    name = "cluster: namespace"
    try:
        found = cluster.get(f"/api/v1/namespaces/{cluster.namespace}")
    except RefusedError as error:
        if error.status != 404:
            raise
        return Check(
            name,
            "fail",
            f"there is no namespace {cluster.namespace}",
            f"kubectl create namespace {cluster.namespace}",
        )
    labels = found["metadata"].get("labels") or {}
    level = labels.get("pod-security.kubernetes.io/enforce", "none enforced")
    return Check(name, "ok", f"{cluster.namespace}, Pod Security level: {level}")


def _resources(cluster: Cluster) -> Check:
    """Check for Argo's resources by API discovery, which every user may read."""
    name = "argo: resources"
    groups = {group["name"]: group for group in cluster.get("/apis").get("groups") or []}
    offered: set[str] = set()
    if "argoproj.io" in groups:
        offered = {resource["name"] for resource in cluster.get(ARGO).get("resources") or []}
    if missing := [resource for resource in NEEDED if resource not in offered]:
        return Check(
            name,
            "fail",
            f"no {', '.join(missing)} of argoproj.io/v1alpha1",
            "Install Argo Workflows 3.7 or newer, with its custom resource definitions.",
        )
    return Check(name, "ok", f"argoproj.io/v1alpha1: {', '.join(NEEDED)}")


def _controller(cluster: Cluster) -> Check:
    """Look for the controller by its pod's label, then by its lease: the label may differ."""
    name = "argo: controller"
    pods = _in_all_namespaces(cluster, "/api/v1", "pods", labelSelector="app=workflow-controller")
    running = [pod for pod in pods if pod.get("status", {}).get("phase") == "Running"]
    if watching := [pod for pod in running if _watched(pod) in (None, cluster.namespace)]:
        image = watching[0]["spec"]["containers"][0]["image"]
        where = watching[0]["metadata"]["namespace"]
        return Check(name, "ok", f"{image.rpartition('/')[2]} in namespace {where}")
    if running:
        others = ", ".join(sorted({str(_watched(pod)) for pod in running}))
        return Check(
            name,
            "fail",
            f"controllers with --namespaced watch {others}, none watches {cluster.namespace}",
            "Workflows would stay Pending: use that namespace, or install a controller for this "
            "one.",
        )
    leases = _in_all_namespaces(cluster, "/apis/coordination.k8s.io/v1", "leases")
    own = [lease for lease in leases if lease["metadata"]["name"] == "workflow-controller"]
    if own:
        return Check(name, "ok", f"holds its lease in {own[0]['metadata']['namespace']}")
    return Check(
        name,
        "warn",
        "no pod with label app=workflow-controller, and no lease named workflow-controller",
        "If Workflows stay Pending, no controller runs: look at the pods in Argo's namespace.",
    )


def _in_all_namespaces(cluster: Cluster, api: str, resource: str, **query: str) -> list[Document]:
    """Objects of all namespaces; of this one if the caller may not see others. A controller that
    was installed without cluster roles is usually in this one."""
    try:
        found = cluster.get(f"{api}/{resource}", **query)
    except RefusedError as error:
        if error.status != 403:
            raise
        found = cluster.get(cluster.path(resource, api=api), **query)
    items: list[Document] = found["items"]
    return items


def _watched(controller: Document) -> str | None:
    """The namespace that a controller's pod watches; None: all of them.

    https://argo-workflows.readthedocs.io/en/latest/managed-namespace/
    """
    container = controller["spec"]["containers"][0]
    words = " ".join([*(container.get("command") or ()), *(container.get("args") or ())])
    if not re.search(r"--namespaced(?!=false)", words):
        return None
    managed = re.search(r"--managed-namespace[= ](\S+)", words)
    return managed[1] if managed else str(controller["metadata"]["namespace"])


def _template(cluster: Cluster, needs: Needs) -> Check:
    name = "argo: template"
    if _installed(cluster, needs) is None:
        return Check(
            name,
            "warn",
            f"no WorkflowTemplate {needs.template} in {cluster.namespace}",
            "Install the chart helm/svdjobs there, or submit with --file workflows/sweep.yaml.",
        )
    return Check(name, "ok", f"WorkflowTemplate {needs.template} is installed")


def _layout(cluster: Cluster, needs: Needs) -> list[Check]:
    """Compare the containers that the template patches with those that the controller makes."""
    name, known = "argo: pod layout", "workflow-controller-configmap"
    template = _installed(cluster, needs)
    named = f"metadata.name={known}"
    maps = _in_all_namespaces(cluster, "/api/v1", "configmaps", fieldSelector=named)
    if len(maps) != 1:
        return []
    settings = maps[0].get("data") or {}
    settings = {**(yaml_core.load(settings.get("config", ""), known) or {}), **settings}
    layout = settings.get("initlessPod") or {}
    if isinstance(layout, str):
        layout = yaml_core.load(layout, known) or {}
    initless = bool(layout.get("enabled"))
    patches = str(template["spec"].get("podSpecPatch")) if template else ""
    if ("name: supervisor" in patches) == initless:
        return [Check(name, "ok", "initlessPod" if initless else "containers init and wait")]
    if template is None:
        fix = "Render with initless_pods: true in the settings; other pods would be refused."
        return [Check(name, "warn", "the controller has initlessPod", fix)]
    return [
        Check(
            name,
            "fail",
            f"the controller has initlessPod {str(initless).lower()}, and the template not",
            f"Set initlessPods: {str(initless).lower()} in the chart's values (initless_pods in "
            f"settings) and upgrade; pods would be refused.",
        )
    ]


def _installed(cluster: Cluster, needs: Needs) -> Document | None:
    """The installed WorkflowTemplate; None if there is none."""
    try:
        return cluster.get(cluster.path("workflowtemplates", needs.template))
    except RefusedError as error:
        if error.status != 404:
            raise
        return None


def _account(cluster: Cluster, needs: Needs) -> list[Check]:
    """Check that the account of the Workflow's pods exists and may report results to Argo."""
    named = needs.service_account or _template_spec(cluster, needs).get("serviceAccountName")
    account = named or None
    if account is None and in_pod():
        who, subject = "this pod's account", None
    else:
        account = account or ACCOUNT
        who, subject = f"service account {account}", account
        try:
            cluster.get(cluster.path("serviceaccounts", account, api="/api/v1"))
        except RefusedError as error:
            if error.status == 404:
                return [
                    Check(
                        "pods' account",
                        "fail",
                        f"there is no {who} in {cluster.namespace}",
                        f"kubectl -n {cluster.namespace} create serviceaccount {account}, or give "
                        f"another --service-account.",
                    )
                ]
            if error.status != 403:
                raise
    missing = [
        f"{verb} {resource}"
        for verb, resource in POD_RIGHTS
        if not may(cluster, verb, "argoproj.io", resource, account=subject)
    ]
    if missing:
        to = f"{cluster.namespace}:{account or 'ACCOUNT'}"
        return [
            Check(
                "pods' account",
                "fail",
                f"{who} may not {' or '.join(missing)}",
                f"kubectl -n {cluster.namespace} create role svdjobs-pods --verb=create,patch "
                f"--resource=workflowtaskresults.argoproj.io && kubectl -n {cluster.namespace} "
                f"create rolebinding svdjobs-pods --role=svdjobs-pods --serviceaccount={to}",
            )
        ]
    return [Check("pods' account", "ok", f"{who} may create and patch workflowtaskresults")]


def _template_spec(cluster: Cluster, needs: Needs) -> Document:
    """What the installed WorkflowTemplate says; empty if there is none, or it cannot be read."""
    try:
        found = _installed(cluster, needs) or {}
    except RefusedError:
        return {}
    return found.get("spec") or {}


def may(
    cluster: Cluster, verb: str, group: str, resource: str, *, account: str | None = None
) -> bool:
    """Whether an account of this namespace may do something in it; the caller if none is given."""
    name, _, sub = resource.partition("/")
    attributes = {
        "namespace": cluster.namespace,
        "verb": verb,
        "group": group,
        "resource": name,
        "subresource": sub,
    }
    spec: Document = {"resourceAttributes": attributes}
    kind = "SelfSubjectAccessReview"
    if account is not None:
        kind = "SubjectAccessReview"
        spec["user"] = f"system:serviceaccount:{cluster.namespace}:{account}"
        # A role may be bound to one of the groups that every service account belongs to.
        everyone = ("system:serviceaccounts", "system:authenticated")
        spec["groups"] = [*everyone, f"system:serviceaccounts:{cluster.namespace}"]
    api = "authorization.k8s.io/v1"
    body = {"apiVersion": api, "kind": kind, "spec": spec}
    return bool(cluster.create(f"/apis/{api}/{kind.lower()}s", body)["status"]["allowed"])


def _permissions(cluster: Cluster) -> Check:
    name = "your permissions"
    if in_pod():
        return Check(name, "not checked", "a pod need not submit or watch Workflows")
    missing = [f"{verb} {r}" for verb, g, r in USER_RIGHTS if not may(cluster, verb, g, r)]
    if missing:
        return Check(
            name,
            "warn",
            f"in {cluster.namespace} you may not {', '.join(missing)}",
            "submit, watch, stop and logs need these rights: ask for the chart's submitter role.",
        )
    return Check(name, "ok", f"submit, watch, stop and logs in namespace {cluster.namespace}")


def _gpus(cluster: Cluster, needs: Needs) -> list[Check]:
    """Check the nodes, with the labels and taints that the installed template has for GPU pods."""
    nodes: list[Document] = cluster.get("/api/v1/nodes")["items"]
    pods = {pod["name"]: pod for pod in _template_spec(cluster, needs).get("templates") or []}
    if pod := pods.get("evaluate"):
        tolerated = tuple(item.get("key", "") for item in pod.get("tolerations") or [])
        selector = needs.node_selector or pod.get("nodeSelector") or {}
        needs = replace(needs, tolerated=tolerated, node_selector=selector)
    return gpu_checks(nodes, needs)


def gpu_checks(nodes: list[Document], needs: Needs) -> list[Check]:
    """Check the nodes for GPUs, for the wanted labels, and for taints that pods do not tolerate."""
    bad: Status = "fail" if needs.gpu else "warn"
    with_gpus = [(node, n) for node in nodes if (n := _count(node, needs.gpu_resource)) > 0]
    if not with_gpus:
        found = f"none of {len(nodes)} nodes offers {needs.gpu_resource}"
        advice = "Evaluation needs one: add a GPU node and NVIDIA's device plugin (GPU operator)."
        return [Check("gpu: nodes", bad, found, advice)]
    products: dict[str, int] = {}
    for node, count in with_gpus:
        product = _labels(node).get(PRODUCT, f"no label {PRODUCT}")
        products[product] = products.get(product, 0) + count
    words = ", ".join(f"{count} of {product}" for product, count in sorted(products.items()))
    checks = [Check("gpu: nodes", "ok", f"{needs.gpu_resource}: {words}")]
    selected = [n for n, _ in with_gpus if needs.node_selector.items() <= _labels(n).items()]
    if not selected:
        wanted = ", ".join(f"{k}={v}" for k, v in sorted(needs.node_selector.items()))
        found = f"no GPU node has the labels {wanted}"
        advice = f"Select a product that is there: {', '.join(sorted(products))}."
        checks.append(Check("gpu: labels", bad, found, advice))
    taints = {
        taint["key"]
        for node in selected or [n for n, _ in with_gpus]
        for taint in node["spec"].get("taints") or []
        if taint.get("effect") != "PreferNoSchedule"
    }
    if untolerated := sorted(taints - set(needs.tolerated) if "" not in needs.tolerated else []):
        found = f"GPU nodes have taints that pods must tolerate: {', '.join(untolerated)}"
        checks.append(Check("gpu: taints", "warn", found, "Add them to the chart's tolerations."))
    elif taints:
        checks.append(Check("gpu: taints", "ok", f"tolerated: {', '.join(sorted(taints))}"))
    drivers = {int(_labels(node)[DRIVER]) for node in selected if DRIVER in _labels(node)}
    if drivers and min(drivers) < OLDEST_DRIVER:
        found = f"GPU nodes have NVIDIA's driver {min(drivers)}"
        advice = (
            f"vLLM's image is built with CUDA 13.0, which needs {OLDEST_DRIVER} or newer: update "
            f"the driver, or select other nodes."
        )
        checks.append(Check("gpu: driver", bad, found, advice))
    elif drivers:
        checks.append(Check("gpu: driver", "ok", f"{min(drivers)} or newer"))
    return checks


def _labels(node: Document) -> dict[str, str]:
    return node["metadata"].get("labels") or {}


def _count(node: Document, resource: str) -> int:
    return int((node.get("status", {}).get("allocatable") or {}).get(resource, 0))
