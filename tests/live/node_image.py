"""Load the real images onto the node, unless it has them already."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from tests.cluster_script import SCRIPT
from tests.images.build import (
    LOCKS,
    STORE_TAG,
    TAG,
    TAGS,
    build_all,
    build_store,
    find_base,
    output,
)
from tests.live.cluster_access import Site

# There is no image of vLLM here; engines run transformers in the cpu image under its name.
EVALUATE_TAG = TAG.replace("svdjobs:", "svdjobs-evaluate:")
LOADED = (*TAGS.values(), EVALUATE_TAG, STORE_TAG)


def provide(site: Site) -> str:
    """Build and load the images; return the name of the cpu image on the nodes.

    If SVDJOBS_TEST_IMAGE names a cpu image that nodes can pull, nothing is built and loaded. Nodes
    must then be able to pull the images of the stages, too: the same name with -STAGE.
    """
    if given := os.environ.get("SVDJOBS_TEST_IMAGE"):
        return given
    if not site.local:
        pytest.fail("this cluster cannot load images from here: set SVDJOBS_TEST_IMAGE=reference")
    build_all(find_base())
    output("podman", "tag", TAG, EVALUATE_TAG)
    build_store()
    with FileLock(LOCKS / "svdjobs-load.lock"):
        if unlike(site):
            load(site)
            left = unlike(site)
            assert not left, f"after loading, the node has other images: {', '.join(left)}"
    return short(TAG)


def beside(image: str) -> str:
    """The name of the image with an S3 server, which `provide` loads as well.

    With SVDJOBS_TEST_IMAGE, SVDJOBS_TEST_STORE_IMAGE must name it; otherwise the test skips.
    """
    if given := os.environ.get("SVDJOBS_TEST_STORE_IMAGE"):
        return given
    if image != short(TAG):
        pytest.skip(
            f"NO IMAGE: SVDJOBS_TEST_STORE_IMAGE is not set, but SVDJOBS_TEST_IMAGE={image}"
        )
    return short(STORE_TAG)


def parts(image: str) -> dict[str, str]:
    """The settings `images` with which a sweep runs in the images beside a cpu image."""
    repository, _, tag = image.rpartition(":")
    return {"repository": repository, "tag": tag}


def submitted_with(image: str) -> list[str]:
    """The options that submit a Workflow with the images beside a cpu image."""
    given = parts(image)
    return ["-p", f"images={given['repository']}", "-p", f"tag={given['tag']}"]


def short(tag: str) -> str:
    """The short name of an image, as manifests have it."""
    return tag.removeprefix("docker.io/library/")


def unlike(site: Site) -> list[str]:
    """The images that are missing on the node or differ from those of this machine."""
    known = digests(site)
    return [tag for tag in LOADED if on_node(site, known.get(tag)) != here(tag)]


def here(tag: str) -> list[str]:
    """Layers and environment of an image of this machine.

    Its id cannot be compared: it depends on the format of the archive.
    """
    found = json.loads(output("buildah", "inspect", "--type=image", tag))["OCIv1"]
    return content(found)


def on_node(site: Site, manifest: str | None) -> list[str]:
    """Layers and environment of an image on the node, by its manifest's digest; empty for None."""
    if manifest is None:
        return []
    config = stored(site, manifest)["config"]["digest"]
    return content(stored(site, config))


def content(image: dict[str, Any]) -> list[str]:
    return [*image["rootfs"]["diff_ids"], *image["config"]["Env"]]


def digests(site: Site) -> dict[str, str]:
    """The digest of each image on the node, by reference and by id."""
    lines = site.run("ctr", "-n", "k8s.io", "images", "ls").splitlines()[1:]
    return {words[0]: words[2] for words in map(str.split, lines) if len(words) > 2}


def stored(site: Site, digest: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(site.run("ctr", "-n", "k8s.io", "content", "get", digest))
    return document


def load(site: Site) -> None:
    """Load all images from one temporary archive, and remove the images they replace."""
    before = digests(site)
    with tempfile.TemporaryDirectory(prefix="svdjobs-image-") as folder:
        archive = Path(folder) / "svdjobs.tar"
        save = ("podman", "save", "--quiet", "--multi-image-archive", f"--output={archive}")
        site.run(*save, *LOADED, timeout=900)
        site.run(SCRIPT, "load", str(archive), timeout=900)
    now = digests(site)
    replaced = {before.get(tag) for tag in LOADED if now.get(tag) != before.get(tag)}
    for name, digest in before.items():
        if name.startswith("sha256:") and digest in replaced:
            site.run("ctr", "-n", "k8s.io", "images", "rm", name)
