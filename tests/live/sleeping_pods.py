"""A sweep's Workflow whose pods only sleep, for tests of where and when pods run."""

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
    """A copy of a Workflow with a shell instead of svdjobs: stages sleep, plan writes `planned`."""
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
