"""The image in a pod of a restricted namespace."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.images.build import TAGS, size
from tests.live.cluster_access import Site
from tests.live.namespaces import Namespace
from tests.waiting import until

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

SCRIPT = "id -u; id -g; touch /opt/svdjobs/x /etc/x /x 2>&1 | grep -c 'Read-only'; touch /scratch/x"


def test_it_runs_as_nobody_on_a_root_it_cannot_write(
    image: str,
    make_namespace: Callable[..., Namespace],
    cluster: Site,
    measured: Callable[[str], None],
) -> None:
    """The pod has the manifests' securityContext, which the restricted level accepts."""
    space = make_namespace("svdjobs-image")
    container = {
        "name": "main", "image": image, "command": ["sh", "-c", SCRIPT],
        "securityContext": {
            "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [{"name": "scratch", "mountPath": "/scratch"}],
    }  # fmt: skip
    security = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    spec = {
        "restartPolicy": "Never", "containers": [container], "securityContext": security,
        "automountServiceAccountToken": False, "volumes": [{"name": "scratch", "emptyDir": {}}],
    }  # fmt: skip
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "one"}, "spec": spec}
    space.apply(pod)
    until(lambda: space.object("pods", "one")["status"]["phase"] == "Succeeded", 60, "the pod ends")
    assert space.kubectl("logs", "one").split() == ["10001", "0", "3"]
    if cluster.local:
        for target, tag in TAGS.items():
            measured(f"image {target}: {size(tag)}")
