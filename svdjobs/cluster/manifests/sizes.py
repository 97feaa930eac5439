"""How large a sweep gets as a Workflow: nodes, and bytes of its document in the API server.

Argo keeps the state of every node in the Workflow itself, gzipped and in base64 once it is large,
and fails a Workflow that does not fit 1 MiB even so:
https://argo-workflows.readthedocs.io/en/latest/offloading-large-workflows/
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from svdjobs.cluster.manifests import argo
from svdjobs.cluster.manifests.settings import ClusterSettings
from svdjobs.config import SweepConfig
from svdjobs.errors import ConfigError
from svdjobs.runs import shards

LIMIT_BYTES = 1 << 20
# Argo compresses in blocks and in haste (pgzip): 642,720 bytes where level 6 of zlib makes 579,288
# of the 7,575 nodes of 200 alphas on 16 units.
PGZIP = 1.11
_NAME = "svdjobs-sweep-abcde"


class Size(NamedTuple):
    """What a sweep comes to."""

    nodes: int
    pods: int
    spec_bytes: int
    status_bytes: int
    """Compressed, as it is stored."""

    @property
    def stored_bytes(self) -> int:
        """The whole document."""
        return self.spec_bytes + self.status_bytes


def estimate(config: SweepConfig, spec: str) -> Size:
    """Size of the finished Workflow of a sweep, from a status made up node by node.

    `spec` is the submitted document. It counts twice: Argo keeps a copy in the status where it
    comes from a template, and `kubectl apply` one in an annotation.
    """
    whole = argo.sweep(ClusterSettings(), "").to_dict()
    nodes = list(_nodes(whole["spec"], shards.fan_outs(config, None)))
    pods = sum(node["type"] == "Pod" for node in nodes)
    status = packed({node["id"]: node for node in nodes})
    return Size(len(nodes), pods, 2 * len(spec.encode()), status)


def packed(nodes: Mapping[str, Any]) -> int:
    """Bytes of nodes by id as Argo stores them: by ascending id, so that neighbours have nothing to
    do with each other and compress badly."""
    text = json.dumps(dict(sorted(nodes.items())), separators=(",", ":"))
    return round(PGZIP * len(base64.b64encode(gzip.compress(text.encode(), 6, mtime=0))))


def require_room(config: SweepConfig, size: Size) -> None:
    """Refuse a sweep that Argo could not keep.

    Raises:
        ConfigError: it is too large; says by how much, and what would fit.
    """
    if size.stored_bytes <= LIMIT_BYTES:
        return
    fitting = max(1, len(config.alphas) * LIMIT_BYTES // size.stored_bytes)
    raise ConfigError(
        f"{config.name}: {len(config.alphas)} alphas make a Workflow of {size.nodes:,} nodes and "
        f"about {size.stored_bytes:,} bytes; Argo keeps at most {LIMIT_BYTES:,}. Submit about "
        f"{fitting} alphas at a time into the same store, or lower evaluate.shards (now "
        f"{config.evaluate.shards if config.evaluate else 0}); what is finished is kept."
    )


def _nodes(spec: Mapping[str, Any], fan_outs: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Nodes of a finished run of a Workflow, as the controller writes them."""
    templates = {template["name"]: template for template in spec["templates"]}
    planned = {f"{{{{tasks.plan.outputs.parameters.{name}}}}}": json.dumps(value)
               for name, value in fan_outs.items()}  # fmt: skip
    yield from _template(templates, _NAME, spec["entrypoint"], {}, planned)
    yield from _template(templates, f"{_NAME}.onExit", spec["onExit"], {}, planned)


def _template(
    templates: Mapping[str, Any],
    name: str,
    template: str,
    inputs: Mapping[str, str],
    planned: Mapping[str, str],
) -> Iterator[dict[str, Any]]:
    """A pod, or a DAG and all that is in it."""
    if "dag" not in templates[template]:
        yield from _pod(name, template, inputs)
        return
    yield _node(name, "DAG", template, inputs)
    known = {**planned, **{f"{{{{inputs.parameters.{key}}}}}": v for key, v in inputs.items()}}
    for task in templates[template]["dag"]["tasks"]:
        place, called = f"{name}.{task['name']}", task["template"]
        given = {item["name"]: item["value"]
                 for item in task.get("arguments", {}).get("parameters", [])}  # fmt: skip
        if "when" in task and known.get(task["when"].split(" ")[0]) != "true":
            yield _node(place, "Skipped", called, {})
        elif "withParam" not in task:
            own = {key: known.get(value, value) for key, value in given.items()}
            yield from _template(templates, place, called, own, planned)
        else:
            yield _node(place, "TaskGroup", called, {})
            for number, item in enumerate(json.loads(known[task["withParam"]])):
                found = {**known, "{{item}}": item}
                own = {key: found.get(value, value) for key, value in given.items()}
                yield from _template(templates, f"{place}({number}:{item})", called, own, planned)


def _pod(name: str, template: str, inputs: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """A pod and the node that would try it again."""
    yield _node(name, "Retry", template, inputs)
    yield _node(f"{name}(0)", "Pod", template, inputs)


def _node(name: str, kind: str, template: str, inputs: Mapping[str, str]) -> dict[str, Any]:
    digest = hashlib.sha256(name.encode()).digest()
    second = int.from_bytes(digest[4:6], "little") % 86_400
    clock = f"2026-01-01T{second // 3600:02d}:{second // 60 % 60:02d}:{second % 60:02d}Z"
    node = {
        "id": _id(name),
        "name": name,
        "displayName": name.rpartition(".")[2],
        "type": kind,
        "templateName": template,
        "templateScope": f"local/{_NAME}",
        "phase": "Succeeded",
        "boundaryID": _id(name.rpartition(".")[0]),
        "startedAt": clock,
        "finishedAt": clock[:-3] + f"{digest[6] % 60:02d}Z",
        "progress": "1/1",
        "resourcesDuration": {"cpu": digest[7], "memory": 16 * digest[8]},
        "children": [_id(f"{name}/{digest[9]}")],
        "inputs": {"parameters": [{"name": k, "value": v} for k, v in inputs.items()]},
    }
    if kind == "Pod":
        node |= {"hostNodeName": f"gpu-node-{digest[10] % 64}", "outputs": {"exitCode": "0"},
                 "nodeFlag": {"retried": True}}  # fmt: skip
    return node


def _id(name: str) -> str:
    """Argo's: the workflow's name and a 32-bit hash."""
    return f"{_NAME}-{int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], 'little')}"
