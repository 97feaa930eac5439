"""Fixtures of the tests on a real cluster: `make test-cluster`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from svdjobs.storage.dev_server import S3Server, serving
from tests.cluster_script import SCRIPT
from tests.live import cluster_access, node_image
from tests.live.cluster_access import Site
from tests.live.faults import Server
from tests.live.namespaces import Namespace, namespace


@pytest.fixture(scope="session")
def cluster(request: pytest.FixtureRequest) -> Iterator[Site]:
    """A cluster that answers. --cluster-down stops it at the end if these tests started it."""
    found = cluster_access.find()
    yield found
    if found.started and request.config.getoption("--cluster-down"):
        found.run(SCRIPT, "down", timeout=300)


@pytest.fixture(scope="session")
def image(cluster: Site) -> str:
    """The name of the real cpu image on the nodes."""
    return node_image.provide(cluster)


@pytest.fixture(scope="session")
def store_image(image: str) -> str:
    """The name of the cpu image with an S3 server, on the nodes."""
    return node_image.beside(image)


@pytest.fixture(scope="session")
def live_server(cluster: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A real S3 server that pods reach; this process reaches it through the environment."""
    folder = tmp_path_factory.mktemp("live-s3")
    with serving(folder, address=cluster.address) as server, pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        cluster.environment.update(server.environment)
        yield server


@pytest.fixture(scope="session")
def make_namespace(cluster: Site, live_server: S3Server) -> Iterator[Callable[..., Namespace]]:
    """Makes namespaces (options: `namespaces.namespace`), which are deleted after all tests."""
    with ExitStack() as stack:

        def make(prefix: str, *, server: S3Server = live_server, **more: bool) -> Namespace:
            return stack.enter_context(namespace(cluster, server, prefix, **more))

        yield make


@pytest.fixture
def own_server(cluster: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """An S3 server that a test may stop."""
    made = Server(tmp_path / "s3", cluster.address)
    for name, value in made.server.environment.items():
        monkeypatch.setenv(name, value)
    yield made
    made.stop()
