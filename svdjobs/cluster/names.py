"""Turn the names of sweeps into names that Kubernetes accepts."""

from __future__ import annotations

import re
import secrets

# A Workflow's name is a label on its pods, and a label has at most 63 characters.
NAME_LENGTH = 63
_STEM_LENGTH = 40
_SUFFIX_LENGTH = 5
# As in Kubernetes' own suffixes: no vowels, which could make words, and no 0, 1 or 3.
_LETTERS = "bcdfghjklmnpqrstvwxz2456789"


def label_value(name: str) -> str:
    """A sweep's name as the value of a label: at most 63 characters, the last a letter or digit."""
    return name[:NAME_LENGTH].rstrip("._-")


def stem(sweep: str, length: int) -> str:
    """A sweep's name as part of a Kubernetes name: lower-case letters, digits and dashes."""
    plain = re.sub(r"[^a-z0-9]+", "-", sweep.lower()).strip("-")
    return plain[:length].strip("-") or "sweep"


def workflow_name(sweep: str) -> str:
    """A new name for a sweep's Workflow: the sweep's name and a short random suffix."""
    suffix = "".join(secrets.choice(_LETTERS) for _ in range(_SUFFIX_LENGTH))
    return f"{stem(sweep, _STEM_LENGTH)}-{suffix}"


def is_workflow_name(name: str) -> bool:
    """Whether `name` is a valid name of a Workflow."""
    valid = re.fullmatch(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?", name) is not None
    return valid and len(name) <= NAME_LENGTH
