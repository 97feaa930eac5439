"""A sweep's Workflow whose pods are those of a real one, but only sleep: for where they run."""

from __future__ import annotations

import copy
import json
import shlex
from collections.abc import Mapping
from typing import Any

from svdjobs.cluster.manifests.argo import UNITS
from tests.live.namespaces import Document


def hollow(
    document: Document, planned: Mapping[str, Any], seconds: Mapping[str, float]
) -> Document:
    """The same, with a shell in place of svdjobs: plan writes `planned`, and each stage sleeps."""
    made = copy.deepcopy(document)
    for template in made["spec"]["templates"]:
        if "container" not in template:
            continue
        lines = [f"sleep {seconds.get(template['name'], 0)}"]
        if template["name"] == "plan":
            lines += [f"mkdir -p {UNITS}"]
            lines += [
                f"echo {shlex.quote(json.dumps(value))} > {UNITS}/{name}.json"
                for name, value in planned.items()
            ]
        template["container"] |= {"command": ["sh", "-c"], "args": ["\n".join(lines)]}
    return made
