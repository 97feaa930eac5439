"""The environment and the limits of a process that runs what others wrote: answers, templates."""

from __future__ import annotations

import os
import resource

# No credentials, proxies or tokens, and no HOME, where the clouds' tools look for credentials.
_VARIABLES = ("PATH", "LANG", "LC_ALL", "PYTHONPATH", "VIRTUAL_ENV", "LD_LIBRARY_PATH")


def environment() -> dict[str, str]:
    """The environment variables that such a process gets."""
    return {name: os.environ[name] for name in _VARIABLES if name in os.environ}


def confine(memory_bytes: int) -> None:
    """Bound this process's memory; no core dumps, no writing to files, no new processes."""
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    for limit in (resource.RLIMIT_CORE, resource.RLIMIT_FSIZE, resource.RLIMIT_NPROC):
        resource.setrlimit(limit, (0, 0))


def limit_seconds(seconds: int) -> None:
    """Have the kernel end this process after so many more seconds of CPU time."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    most = int(used.ru_utime + used.ru_stime) + seconds + 1
    resource.setrlimit(resource.RLIMIT_CPU, (most, most + 1))  # SIGXCPU first, then SIGKILL
