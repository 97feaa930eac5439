"""Estimate the size of a sweep's Workflow: its nodes, and its bytes in the API server.

Argo keeps the state of every node in the Workflow itself. It compresses a large state (gzip and
base64), and fails a Workflow that is still larger than 1 MiB:
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
# Argo compresses in parallel blocks (pgzip), which makes more bytes than zlib's level 6: 642,720
# instead of 579,288 for the 7,575 nodes of 200 alphas on 16 shards.
PGZIP = 1.11
_NAME = "svdjobs-sweep-abcde"


class Size(NamedTuple):
    """The size of a Workflow."""

    nodes: int
    pods: int
    spec_bytes: int
    status_bytes: int
    """Bytes of the status, compressed as Argo stores it."""

    @property
    def stored_bytes(self) -> int:
        """Bytes of the whole Workflow in the API server."""
        return self.spec_bytes + self.status_bytes


def estimate(config: SweepConfig, spec: str) -> Size:
    """Estimate the size of a sweep's finished Workflow by building its status node by node.

    `spec` is the YAML of the Workflow, or of its spec alone. It counts twice: Argo copies the spec
    of a template into the status, and `kubectl apply` copies a document into an annotation.
    """
    whole = argo.sweep(ClusterSettings(), "")
    nodes = list(_nodes(whole["spec"], shards.fan_outs(config, None)))
    pods = sum(node["type"] == "Pod" for node in nodes)
    status = packed({node["id"]: node for node in nodes})
    return Size(len(nodes), pods, 2 * len(spec.encode()), status)


def packed(nodes: Mapping[str, Any]) -> int:
    """Bytes of nodes as Argo stores them. Argo sorts them by id, a hash, so that neighbours differ
    and compress badly."""
    text = json.dumps(dict(sorted(nodes.items())), separators=(",", ":"))
    return round(PGZIP * len(base64.b64encode(gzip.compress(text.encode(), 6, mtime=0))))


def require_room(config: SweepConfig, size: Size) -> None:
    """Refuse a sweep whose Workflow is too large for Argo.

    Raises:
        ConfigError: it is too large; the message has its size, and how many alphas would fit.
    """
    if size.stored_bytes <= LIMIT_BYTES:
        return
    alphas_that_fit = max(1, len(config.alphas) * LIMIT_BYTES // size.stored_bytes)
    raise ConfigError(
        f"{config.name}: {len(config.alphas)} alphas make a Workflow of {size.nodes:,} nodes and "
        f"about {size.stored_bytes:,} bytes; Argo keeps at most {LIMIT_BYTES:,}. Submit about "
        f"{alphas_that_fit} alphas at a time with the same store, which keeps finished outputs, or "
        f"lower evaluate.shards (now {config.evaluate.shards if config.evaluate else 0})."
    )


def _nodes(spec: Mapping[str, Any], fan_outs: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The nodes of a finished Workflow, as Argo's controller writes them."""
    templates = {template["name"]: template for template in spec["templates"]}
    planned = {
        f"{{{{tasks.plan.outputs.parameters.{name}}}}}": json.dumps(value)
        for name, value in fan_outs.items()
    }
    yield from _template(templates, _NAME, spec["entrypoint"], {}, planned)
    yield from _template(templates, f"{_NAME}.onExit", spec["onExit"], {}, planned)


def _template(
    templates: Mapping[str, Any],
    name: str,
    template: str,
    inputs: Mapping[str, str],
    planned: Mapping[str, str],
) -> Iterator[dict[str, Any]]:
    """The nodes of a template: those of a pod, or a DAG's own node and those of its tasks.

    `planned`: the lists that plan wrote, by Argo's reference to each.
    """
    if "dag" not in templates[template]:
        yield from _pod(name, template, inputs)
        return
    yield _node(name, "DAG", template, inputs)
    values = {**planned, **{f"{{{{inputs.parameters.{key}}}}}": v for key, v in inputs.items()}}
    for task in templates[template]["dag"]["tasks"]:
        node, its_template = f"{name}.{task['name']}", task["template"]
        arguments = {
            item["name"]: item["value"] for item in task.get("arguments", {}).get("parameters", [])
        }
        if "when" in task and values.get(task["when"].split(" ")[0]) != "true":
            yield _node(node, "Skipped", its_template, {})
        elif "withParam" not in task:
            own = {key: values.get(value, value) for key, value in arguments.items()}
            yield from _template(templates, node, its_template, own, planned)
        else:
            yield _node(node, "TaskGroup", its_template, {})
            for number, item in enumerate(json.loads(values[task["withParam"]])):
                with_item = {**values, "{{item}}": item}
                own = {key: with_item.get(value, value) for key, value in arguments.items()}
                yield from _template(
                    templates, f"{node}({number}:{item})", its_template, own, planned
                )


def _pod(name: str, template: str, inputs: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """The two nodes of a pod: its Retry node, and the pod of the first attempt."""
    yield _node(name, "Retry", template, inputs)
    yield _node(f"{name}(0)", "Pod", template, inputs)


def _node(name: str, kind: str, template: str, inputs: Mapping[str, str]) -> dict[str, Any]:
    """One node. A hash of its name varies the times and numbers: equal ones would compress better
    than those of a real Workflow."""
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
        node |= {
            "hostNodeName": f"gpu-node-{digest[10] % 64}",
            "outputs": {"exitCode": "0"},
            "nodeFlag": {"retried": True},
        }
    return node


def _id(name: str) -> str:
    """A node's id, as long as Argo's: the Workflow's name and a 32-bit hash."""
    return f"{_NAME}-{int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], 'little')}"
