"""The real image on the node, loaded when it is not that already."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

import pytest
from filelock import FileLock

from tests.images.build import CLUSTER, TAG, build, find_base
from tests.live.site import Site


def provide(site: Site) -> str:
    """The image's reference on the nodes.

    SVDJOBS_TEST_IMAGE names one that is there already: nothing is built and loaded.
    """
    if given := os.environ.get("SVDJOBS_TEST_IMAGE"):
        return given
    if not site.local:
        pytest.fail("this cluster takes no images from here: say SVDJOBS_TEST_IMAGE=reference")
    began = time.monotonic()
    image_id = build(find_base(make=True))
    built = time.monotonic()
    with FileLock("/tmp/svdjobs-load.lock"):
        fresh = not on_node(site, image_id)
        if fresh:
            load(site)
        assert on_node(site, image_id), f"the node has another {TAG} than {image_id}"
    print(
        f"built in {built - began:.0f} s, "
        + (f"loaded in {time.monotonic() - built:.0f} s" if fresh else "on the node already")
    )
    return TAG.removeprefix("docker.io/library/")


def on_node(site: Site, image_id: str) -> bool:
    """Whether the node's tag and this id (the digest of a config) are one image."""
    lines = site.run("ctr", "-n", "k8s.io", "images", "ls").splitlines()
    digests = {line.split()[0]: line.split()[2] for line in lines[1:] if len(line.split()) > 2}
    return TAG in digests and digests.get(f"sha256:{image_id}") == digests[TAG]


def load(site: Site) -> None:
    """Through an archive of the image's size, which does not stay."""
    with tempfile.TemporaryDirectory(prefix="svdjobs-image-", dir="/var/tmp") as folder:
        archive = Path(folder) / "svdjobs.tar"
        site.run("buildah", "push", TAG, f"docker-archive:{archive}:{TAG}", timeout=900)
        print(f"archive for the node: {archive.stat().st_size / 1e9:.2f} GB")
        site.run(str(CLUSTER), "load", str(archive), timeout=900)
