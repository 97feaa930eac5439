"""The result of a workflow: a tree of nodes with their phases, attempts and outputs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.cluster.pods import ERROR, FAILED, SUCCEEDED, Attempt

SKIPPED, OMITTED = "Skipped", "Omitted"
UNSUCCESSFUL = (FAILED, ERROR)
COMPLETED = (SUCCEEDED, FAILED, ERROR)


class UnsupportedError(NotImplementedError):
    """A part of Argo that this interpreter does not model."""


@dataclass
class Node:
    """The result of one task, item or DAG; a leaf has an attempt for each of its pods."""

    name: str
    template: str
    phase: str = ""
    message: str = ""
    seconds: float = 0.0
    outputs: dict[str, str] | None = None
    attempts: list[Attempt] = field(default_factory=list)
    children: list[Node] = field(default_factory=list)
    is_group: bool = False

    @property
    def exit_codes(self) -> list[str]:
        """The exit codes of the attempts, first to last."""
        return [attempt.exit_code for attempt in self.attempts]

    def walk(self) -> Iterator[Node]:
        """Yield this node and all nodes below it."""
        yield self
        for child in self.children:
            yield from child.walk()

    def tree(self, indent: str = "") -> str:
        """The tree as text, a line per node, for the message of a failed test."""
        codes = f" {self.exit_codes}" if self.attempts else ""
        line = f"{indent}{self.name} {self.phase}{codes} {self.message}".rstrip()
        return "\n".join([line, *(child.tree(indent + "  ") for child in self.children)])


@dataclass(frozen=True)
class Run:
    """The result of a workflow."""

    phase: str
    root: Node
    exit_node: Node | None

    def node(self, name: str) -> Node:
        """The node whose name ends in `name`, e.g. `report` or `alpha(1:a0200).blend`."""
        nodes = [node for top in (self.root, self.exit_node) if top for node in top.walk()]
        found = [n for n in nodes if n.name == name or n.name.endswith(f".{name}")]
        if len(found) != 1:
            raise KeyError(f"{len(found)} nodes are called {name}:\n{self.root.tree()}")
        return found[0]


def failures(root: Node) -> list[dict[str, str]]:
    """The nodes that failed, as `workflow.failures` lists them."""
    return [
        {
            "displayName": node.name.rpartition(".")[2],
            "message": node.message,
            "templateName": node.template,
            "phase": node.phase,
        }
        for node in root.walk()
        if node.phase in UNSUCCESSFUL
    ]
