"""The real image on the node, loaded when it is not that already."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from tests.images.build import CLUSTER, TAG, build, find_base, output
from tests.live.site import Site


def provide(site: Site) -> str:
    """The image's reference on the nodes.

    SVDJOBS_TEST_IMAGE names one that is there already: nothing is built and loaded.
    """
    if given := os.environ.get("SVDJOBS_TEST_IMAGE"):
        return given
    if not site.local:
        pytest.fail("this cluster takes no images from here: say SVDJOBS_TEST_IMAGE=reference")
    build(find_base(required=True))
    with FileLock("/tmp/svdjobs-load.lock"):
        if on_node(site) != here():
            load(site)
            assert on_node(site) == here(), f"the node has another {TAG} than was loaded"
    return TAG.removeprefix("docker.io/library/")


def here() -> list[str]:
    """Layers and settings of the image: its id changes with the format of an archive."""
    found = json.loads(output("buildah", "inspect", "--type=image", TAG))["OCIv1"]
    return content(found)


def on_node(site: Site) -> list[str]:
    """The same of the image on the node; nothing if it has none."""
    manifest = digests(site).get(TAG)
    if manifest is None:
        return []
    config = stored(site, manifest)["config"]["digest"]
    return content(stored(site, config))


def content(image: dict[str, Any]) -> list[str]:
    return [*image["rootfs"]["diff_ids"], *image["config"]["Env"]]


def digests(site: Site) -> dict[str, str]:
    """Digest of each name that the node knows: references, and ids of images."""
    lines = site.run("ctr", "-n", "k8s.io", "images", "ls").splitlines()[1:]
    return {words[0]: words[2] for words in map(str.split, lines) if len(words) > 2}


def stored(site: Site, digest: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(site.run("ctr", "-n", "k8s.io", "content", "get", digest))
    return document


def load(site: Site) -> None:
    """Through an archive of the image's size, which does not stay; nor does the last image."""
    before = digests(site)
    with tempfile.TemporaryDirectory(prefix="svdjobs-image-", dir="/var/tmp") as folder:
        archive = Path(folder) / "svdjobs.tar"
        site.run("buildah", "push", TAG, f"docker-archive:{archive}:{TAG}", timeout=900)
        site.run(str(CLUSTER), "load", str(archive), timeout=900)
    if digests(site)[TAG] != before.get(TAG):
        for name in [name for name, digest in before.items() if digest == before.get(TAG)]:
            if name.startswith("sha256:"):
                site.run("ctr", "-n", "k8s.io", "images", "rm", name)
