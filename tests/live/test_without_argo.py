"""The messages on a cluster without Argo Workflows."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import helm_python
import pytest

from tests.helm.chart import CHART, RELEASE
from tests.live.api_without_argo import bare_api_server
from tests.live.cluster_access import Site
from tests.live.sweeps import BLENDS, WORKFLOW

pytestmark = [pytest.mark.cluster, pytest.mark.slow]


@pytest.fixture(scope="module")
def bare(cluster: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    if not cluster.local:
        pytest.skip("NO SECOND API SERVER: only SVDJOBS_CLUSTER's API server can be started twice")
    folder = tmp_path_factory.mktemp("bare")
    with bare_api_server(cluster.kubeconfig, folder) as kubeconfig:
        environment = {**cluster.environment, "KUBECONFIG": str(kubeconfig)}
        yield cluster._replace(kubeconfig=kubeconfig, environment=environment)


def svdjobs(site: Site, *words: str, code: int) -> str:
    return site.run(sys.executable, "-m", "svdjobs.cli.main", *words, code=code)


def test_the_chart_installs_nothing_and_says_why(bare: Site) -> None:
    with (
        helm_python.Config(kubeconfig_path=str(bare.kubeconfig), namespace="default") as helm,
        pytest.raises(helm_python.HelmError, match=r"has no argoproj\.io/v1alpha1: install"),
    ):
        helm.install(CHART, RELEASE, {}, namespace="default")
    there = bare.run("kubectl", "get", "configmaps,secrets,serviceaccounts,roles", "-o", "name")
    assert there.split() == []


def test_doctor_says_what_is_missing(bare: Site) -> None:
    said = svdjobs(bare, "doctor", "--namespace", "default", code=4)
    assert "of argoproj.io/v1alpha1" in said
    assert "Install" in said


def test_submit_and_watch_say_so(bare: Site, tmp_path: Path) -> None:
    config = tmp_path / "sweep.yaml"
    config.write_text(BLENDS)
    wanted = (str(config), "--file", str(WORKFLOW), "--store", "s3://bucket/x")
    for words in (("submit", *wanted), ("watch", "blends")):
        said = svdjobs(bare, "workflow", *words, "--namespace", "default", code=2)
        assert "has no Argo Workflows" in said
