"""`argo submit workflows/demo.yaml`, and its outputs in the store."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.live.cluster_access import Site
from tests.live.namespaces import Document, Namespace, phases
from tests.live.node_image import submitted_with
from tests.live.sweeps import SWEEP, WORKFLOW, contents, counted, run_here

pytestmark = [pytest.mark.cluster, pytest.mark.slow]


class Swept(NamedTuple):
    """A finished sweep and its namespace."""

    space: Namespace
    workflow: Document
    pods: list[Document]
    """The pods that exist at the end of the sweep; the cluster removes them later."""


@pytest.fixture(scope="module")
def swept(image: str, make_namespace: Callable[..., Namespace]) -> Swept:
    """Run `argo submit workflows/demo.yaml` to its end."""
    space = make_namespace("svdjobs-sweep")
    options = ["-p", f"config={SWEEP}", "-p", f"store={space.url()}", *submitted_with(image)]
    name = space.argo("submit", str(WORKFLOW), "-o", "name", *options).split()[-1]
    workflow = space.wait(name)
    return Swept(space, workflow, space.objects("pods", "app.kubernetes.io/name=svdjobs"))


def test_every_node_succeeded(swept: Swept, measured: Callable[[str], None]) -> None:
    measured(f"a pod for each evaluation: {counted(swept.workflow, swept.space.store())}")
    found = phases(swept.workflow)
    unlike = {name.rpartition(".")[2] for name in found if found[name] != "Succeeded"}
    # Weights are kept, there is no gate, no engine is shared, and no checkpoint is on the hub.
    assert unlike == {"drop-weights", "gate", "engines", "fetch"}
    for wanted in (".plan", ".alphas(1:alpha-0.5000).blend", ".rotations", ".report"):
        assert wanted in found
    for unit in ("demo-000", "demo-001"):
        assert any(name.endswith(unit + ")") for name in found)


def test_it_comes_to_the_bytes_of_a_sweep_on_one_machine(
    swept: Swept, cluster: Site, tmp_path: Path
) -> None:
    there, here = contents(swept.space.store()), contents(run_here(cluster, SWEEP, tmp_path / "a"))
    assert sorted(there) == sorted(here)
    assert [key for key in here if here[key] != there[key]] == []
    assert "report/report.html" in here
    assert any(key.startswith("checkpoints/alpha-0.5000/model") for key in here)


def test_pods_are_nobody_and_their_roots_are_read_only(swept: Swept) -> None:
    """The restricted level has accepted all pods, too."""
    assert swept.pods
    for pod in swept.pods:
        spec = pod["spec"]
        assert spec["securityContext"]["runAsUser"] == 10001
        assert spec["securityContext"]["runAsNonRoot"] is True
        main = next(one for one in spec["containers"] if one["name"] == "main")
        assert main["securityContext"]["readOnlyRootFilesystem"] is True
