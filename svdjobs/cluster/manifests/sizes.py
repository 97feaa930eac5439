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

from svdjobs.config import SweepConfig, alpha_id
from svdjobs.errors import ConfigError
from svdjobs.runs import layout, shards

LIMIT_BYTES = 1 << 20
# Decompose shares of one checkpoint, where plan has not yet counted them.
ASSUMED_SHARES = 16
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
    nodes = list(_nodes(config))
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


def _nodes(config: SweepConfig) -> Iterator[dict[str, Any]]:
    """Nodes of a finished run, as the controller writes them."""
    shares = [share.id for share in shards.evaluate_shares(config)]
    decomposed = [
        f"{target.checkpoint_id}-{number:03d}"
        for target in layout.decomposed(config)
        for number in range(config.decompose.shards or ASSUMED_SHARES)
    ]
    baselines = [i for i in layout.baseline_ids(config) if i != "after"] if shares else []
    yield _node(_NAME, "DAG", "sweep", {})
    for stage in ("plan", "rotations", "report"):
        yield from _pod(f"{_NAME}.{stage}", stage, {})
    yield from _fan_out(f"{_NAME}.decompose", "decompose", [{"unit": unit} for unit in decomposed])
    after = [{"checkpoint": "after", "unit": unit} for unit in shares]
    yield from _fan_out(f"{_NAME}.evaluate-after", "evaluate", after)
    yield _node(f"{_NAME}.baselines", "TaskGroup", "baseline", {})
    for number, checkpoint in enumerate(baselines):
        yield from _chain(
            f"{_NAME}.baselines({number}:{checkpoint})", "baseline", checkpoint, shares
        )
    yield _node(f"{_NAME}.alphas", "TaskGroup", "alpha", {})
    for number, alpha in enumerate(config.alphas):
        name = f"{_NAME}.alphas({number}:{alpha_id(alpha)})"
        yield from _chain(name, "alpha", alpha_id(alpha), shares)
        yield from _pod(f"{name}.blend", "blend", {"alpha": alpha_id(alpha)})
        yield _node(f"{name}.drop-weights", "Skipped", "drop-weights", {})
    if config.gate:
        yield from _pod(f"{_NAME}.gate", "gate", {})
    else:
        yield _node(f"{_NAME}.gate", "Skipped", "gate", {})
    yield from _pod(f"{_NAME}.onExit", "notify", {})


def _chain(
    name: str, template: str, checkpoint: str, shares: list[str]
) -> Iterator[dict[str, Any]]:
    """An inner DAG that evaluates a checkpoint."""
    yield _node(name, "DAG", template, {template: checkpoint, "units": json.dumps(shares)})
    items = [{"checkpoint": checkpoint, "unit": unit} for unit in shares]
    yield from _fan_out(f"{name}.evaluate", "evaluate", items)


def _fan_out(name: str, template: str, items: list[dict[str, str]]) -> Iterator[dict[str, Any]]:
    yield _node(name, "TaskGroup", template, {})
    for number, item in enumerate(items):
        yield from _pod(f"{name}({number}:{list(item.values())[-1]})", template, item)


def _pod(name: str, template: str, inputs: dict[str, str]) -> Iterator[dict[str, Any]]:
    """A pod and the node that would try it again."""
    yield _node(name, "Retry", template, inputs)
    yield _node(f"{name}(0)", "Pod", template, inputs)


def _node(name: str, kind: str, template: str, inputs: dict[str, str]) -> dict[str, Any]:
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
