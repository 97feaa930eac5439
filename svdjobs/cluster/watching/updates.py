"""Find a run's Workflow, follow it while it changes, stop it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

from svdjobs.cluster.api import WATCH_SECONDS, Cluster, Document, StreamInterruption
from svdjobs.cluster.names import label_value
from svdjobs.cluster.watching.status import ENDED, RUN_LABEL
from svdjobs.errors import ClusterError, ConfigError, RefusedError

_PAUSE_SECONDS = 0.5


def find(cluster: Cluster, run: str) -> Document:
    """The Workflow called `run`, or the latest Workflow of the sweep called `run`.

    Raises:
        ConfigError: there is no such Workflow and no such sweep.
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
    others = cluster.get(cluster.path("workflows"), limit=200)["items"]
    others.sort(key=lambda item: item["metadata"]["creationTimestamp"], reverse=True)
    names = ", ".join(item["metadata"]["name"] for item in others[:8]) or "none"
    return (
        f"no Workflow and no sweep is called {run!r} in namespace {cluster.namespace}. The latest "
        f"Workflows there: {names}. Give another namespace with --namespace. Finished Workflows "
        f"are deleted after a while; their outputs stay in the store."
    )


def changes(cluster: Cluster, name: str) -> Iterator[Document]:
    """Yield the Workflow now and after each change, until it has ended.

    If the watch is cut, it resumes from the last version seen. If the server no longer knows that
    version (410), or the watch brings nothing, the whole document is read again.

    Raises:
        ClusterError: the Workflow was deleted before it ended.
        UnavailableError: the API server does not answer for longer than the cluster's patience.
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
            # A new Workflow of the same name: _still_there raises that the old one was deleted.
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
    """Read the Workflow; `uid` is empty in the first call.

    Raises:
        ClusterError: the Workflow of that uid was deleted.
    """
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
        f"Workflow {name} in namespace {cluster.namespace} was deleted while it was watched. Its "
        f"finished outputs are in its store: submit the sweep again to resume it."
    )


def _events(cluster: Cluster, name: str, version: str) -> Iterator[tuple[str, Document]]:
    """Yield the events of a watch from a version on, over as many connections as it takes.

    Ends if the server no longer knows the version, or if a connection brings no event.
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
                    # Usually 410, a version that is too old. The caller reads the document again.
                    return
                version = event["object"]["metadata"]["resourceVersion"]
                if event["type"] != "BOOKMARK":
                    yield event["type"], event["object"]
        except StreamInterruption:
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
