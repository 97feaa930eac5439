"""Find a run's Workflow, follow it while it changes, stop it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

from svdjobs.cluster.api import WATCH_SECONDS, Cluster, Cut, Document
from svdjobs.cluster.names import label_value
from svdjobs.cluster.watching.status import ENDED, RUN_LABEL
from svdjobs.errors import ClusterError, ConfigError, RefusedError

_PAUSE_SECONDS = 0.5


def find(cluster: Cluster, run: str) -> Document:
    """The Workflow of a name, or the latest one of the sweep of that name.

    Raises:
        ConfigError: there is neither.
    """
    try:
        return cluster.get(cluster.path("workflows", run))
    except RefusedError as error:
        if error.status != 404:
            raise
    query = {"labelSelector": f"{RUN_LABEL}={label_value(run)}"}
    found = cluster.get(cluster.path("workflows"), **query)["items"]
    if not found:
        raise ConfigError(_not_found(cluster, run))
    latest: Document = max(found, key=lambda item: item["metadata"]["creationTimestamp"])
    return latest


def _not_found(cluster: Cluster, run: str) -> str:
    there = cluster.get(cluster.path("workflows"), limit=200)["items"]
    there.sort(key=lambda item: item["metadata"]["creationTimestamp"], reverse=True)
    names = ", ".join(item["metadata"]["name"] for item in there[:8]) or "none"
    return (
        f"no Workflow {run!r} in namespace {cluster.namespace}, and none of a sweep of that name. "
        f"Latest there: {names}. Another namespace is given with --namespace; finished Workflows "
        f"are deleted after a while, what they made stays in their store."
    )


def changes(cluster: Cluster, name: str) -> Iterator[Document]:
    """The Workflow now, and again whenever it changes, until it has ended.

    The watch is taken up where it was cut; what the server no longer remembers (410), and what was
    missed while it was away, is made up for by asking for the whole document.

    Raises:
        ClusterError: it was deleted meanwhile.
        UnavailableError: the API server is away for longer than the cluster's patience.
    """
    uid = ""
    while True:
        workflow = _still_there(cluster, name, uid)
        uid = workflow["metadata"]["uid"]
        yield workflow
        if has_ended(workflow):
            return
        version = workflow["metadata"]["resourceVersion"]
        for kind, seen in _events(cluster, name, version):
            if kind == "DELETED":
                raise _deleted(cluster, name)
            if seen["metadata"]["uid"] != uid:
                break
            yield seen
            if has_ended(seen):
                return
        time.sleep(_PAUSE_SECONDS)


def has_ended(workflow: Document) -> bool:
    """Whether a Workflow is over."""
    return (workflow.get("status") or {}).get("phase") in ENDED


def _still_there(cluster: Cluster, name: str, uid: str) -> Document:
    try:
        workflow = cluster.get(cluster.path("workflows", name))
    except RefusedError as error:
        if error.status == 404 and uid:
            raise _deleted(cluster, name) from None
        raise
    if uid and workflow["metadata"]["uid"] != uid:
        raise _deleted(cluster, name)
    return workflow


def _deleted(cluster: Cluster, name: str) -> ClusterError:
    return ClusterError(
        f"Workflow {name} in namespace {cluster.namespace} was deleted while it was watched. What "
        f"it finished is in its store: submit the sweep again and it goes on from there."
    )


def _events(cluster: Cluster, name: str, version: str) -> Iterator[tuple[str, Document]]:
    """What a watch says from a version on, over as many connections as it takes.

    Ends when the server has forgotten that version, or a connection brought nothing at all.
    """
    while True:
        began = version
        query: dict[str, Any] = {
            "watch": "true",
            "fieldSelector": f"metadata.name={name}",
            "resourceVersion": version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": WATCH_SECONDS,
        }
        try:
            for line in cluster.stream(cluster.path("workflows"), **query):
                event = json.loads(line)
                if event["type"] == "ERROR":
                    return  # 410: too old; whatever it is, the whole document is asked for anew
                version = event["object"]["metadata"]["resourceVersion"]
                if event["type"] != "BOOKMARK":
                    yield event["type"], event["object"]
        except Cut:
            pass
        except RefusedError as error:
            if error.status != 410:
                raise
            return
        if version == began:
            return
        time.sleep(_PAUSE_SECONDS)


def stop(cluster: Cluster, name: str, *, terminate: bool) -> None:
    """Ask Argo to end a Workflow and its pods; the exit handler runs unless `terminate`."""
    how = "Terminate" if terminate else "Stop"
    cluster.patch(cluster.path("workflows", name), {"spec": {"shutdown": how}})
