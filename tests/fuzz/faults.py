"""Kill sweeps, run two at once and let requests to their store fail, at random: `make faults`.

A small sweep runs without faults. Then it runs many times in new stores: killed a few times at
random writes, in two processes at once, and over an S3 server whose requests fail at random. Each
run must end with the same bytes as the one without faults. A failure names the seed that repeats
it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from svdjobs import local
from svdjobs.config import SweepConfig
from svdjobs.config_file import parse_config
from svdjobs.errors import EXIT_INFRASTRUCTURE, EXIT_TRY_AGAIN, exit_code
from svdjobs.storage.dev_server import BUCKET, serving
from svdjobs.storage.open import open_store
from svdjobs.storage.store import Store
from tests.checkpoints import PROBLEMS, make_checkpoint
from tests.runs import kill_child
from tests.storage.proxy import Kind, Proxy, Traffic, harming

STAGES = ("plan", "factors", "checkpoints", "rotations", "results", "grades", "likelihoods",
          "second_grades", "report")  # fmt: skip
PASSING: tuple[Kind, ...] = (
    "500", "503", "400", "307", "slow", "cut up", "cut down", "lost answer",
)  # fmt: skip
KILLS_OF_A_RUN = 4
HARMED = 0.02
"""Fraction of the requests that fail."""
ATTEMPTS = 6
# These files contain the path or URL of the store, so their bytes differ.
_VOLATILE = ("config.json", "identities.json")


@dataclass
class Tally:
    """Counts of the faults and runs, and a line for each failure."""

    done: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)


class RandomTraffic(Traffic):
    """Lets a random fraction of the requests fail."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__()
        self.rng = rng
        self.harmed = 0

    def fault(self, method: str, text: str) -> str:
        """The fault for a request, or an empty text for none."""
        with self.lock:
            if self.rng.random() >= HARMED:
                return ""
            self.harmed += 1
            return self.rng.choice(PASSING)


def config_over(root: Path, store: str) -> SweepConfig:
    """The config of a sweep in which every stage writes a few files."""
    document: dict[str, Any] = {
        "name": "faults",
        "before": str(root / "base"),
        "after": str(root / "rl2"),
        "store": store,
        "alphas": [0, 1],
        "rotations": {"rl1": str(root / "rl1")},
        "decompose": {"parts": 2, "workers": 1},
        "blend": {"max_shard_bytes": 100_000, "svd_logs": False},
        "evaluate": {
            "benchmarks": [{"name": "sums", "data": str(root / "problems.jsonl")}],
            "engine": "transformers",
            "max_tokens": 3,
            "n_samples": 2,
            "batch_size": 4,
        },
    }
    return parse_config(document, where="faults")


def digests(store: Store) -> dict[str, str]:
    """The sha256 of every file of a run, without its logs and the files that name the store."""
    return {
        key: hashlib.sha256(store.read(key)).hexdigest()
        for key in store.keys("")
        if key not in _VOLATILE and not key.startswith("logs/")
    }


def forked(work: Callable[[], object]) -> int:
    """Start `work` in a silent child that ends with svdjobs' exit code; return its process id."""
    pid = os.fork()
    if pid:
        return pid
    code = 0
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        work()
    except BaseException as error:
        code = exit_code(error)
    os._exit(code)


def ended(pid: int) -> int:
    """Wait for a child; return its exit code, or minus the signal that killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def kills(root: Path, expected: dict[str, str], rng: random.Random, tally: Tally) -> str | None:
    """Kill one run a few times, then let it finish; return what is wrong, or None."""
    config = config_over(root, str(root / "killed"))
    log = root / "writes"
    for _ in range(KILLS_OF_A_RUN):
        moment, stage = rng.choice(("before", "after")), rng.choice(STAGES)
        kill = f"{moment}:{stage}:{rng.randint(1, 4)}"
        code = ended(forked(lambda kill=kill: kill_child.sweep(config, kill, log)))  # type: ignore[misc]
        tally.done["kills"] += code < 0
        if code > 0:
            return f"a sweep to be killed {kill} ended with {code}"
    return _whole(config, expected)


def race(root: Path, expected: dict[str, str], rng: random.Random, tally: Tally) -> str | None:
    """Run two sweeps at once, then one more alone; return what is wrong, or None."""
    config = config_over(root, str(root / "raced"))
    pids = [forked(lambda: local.sweep(config)) for _ in range(2)]
    codes = [ended(pid) for pid in pids]
    tally.done["races"] += 1
    tally.done[f"races that ended with {sorted(codes)}"] += 1
    if not set(codes) <= {0, EXIT_TRY_AGAIN, EXIT_INFRASTRUCTURE}:
        return f"two sweeps at once ended with {codes}"
    return _whole(config, expected)


def over_s3(
    root: Path, expected: dict[str, str], rng: random.Random, tally: Tally, proxy: Proxy
) -> str | None:
    """Run a sweep over a store with faults, again after exit code 75; return what is wrong, or
    None."""
    config = config_over(root, f"s3://{BUCKET}/faults-{rng.getrandbits(48):012x}")
    traffic = proxy.traffic = RandomTraffic(rng)
    codes = []
    for _ in range(ATTEMPTS):
        codes.append(ended(forked(lambda: local.sweep(config))))
        if codes[-1] != EXIT_TRY_AGAIN:
            break
    tally.done["S3 faults"] += traffic.harmed
    tally.done["S3 runs"] += 1
    proxy.traffic = Traffic()
    if codes[-1] != 0:
        return f"sweeps over a failing store ended with {codes}"
    return _compared(digests(open_store(config.store_url)), expected)


def _whole(config: SweepConfig, expected: dict[str, str]) -> str | None:
    """Run the sweep once more without faults; it must succeed and leave the expected bytes."""
    if code := ended(forked(lambda: local.sweep(config))):
        return f"the sweep without faults ended with {code}"
    return _compared(digests(open_store(config.store_url)), expected)


def _compared(found: dict[str, str], expected: dict[str, str]) -> str | None:
    differ = sorted(k for k in {*found, *expected} if found.get(k) != expected.get(k))
    return f"bytes differ from a run without faults: {', '.join(differ[:5])}" if differ else None


def main() -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=5, help="runs of each kind")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    assert set(PASSING) <= set(get_args(Kind))
    import torch

    torch.set_num_threads(1)
    tally = Tally()
    with ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="svdjobs-faults-")))
        for updates, name in enumerate(("base", "rl1", "rl2")):
            make_checkpoint(root / name, updates=updates)
        lines = "".join(f"{json.dumps(problem)}\n" for problem in PROBLEMS)
        (root / "problems.jsonl").write_text(lines)
        server = stack.enter_context(serving(root / "s3"))
        proxy = stack.enter_context(harming(server.endpoint))
        os.environ.update({**server.environment, "AWS_ENDPOINT_URL": proxy.url})
        undisturbed = config_over(root, str(root / "undisturbed"))
        if code := ended(forked(lambda: local.sweep(undisturbed))):
            print(f"the sweep without faults ended with {code}")
            return 1
        expected = digests(open_store(undisturbed.store_url))
        kinds: dict[str, Callable[[random.Random], str | None]] = {
            "kills": lambda rng: kills(root, expected, rng, tally),
            "race": lambda rng: race(root, expected, rng, tally),
            "s3": lambda rng: over_s3(root, expected, rng, tally, proxy),
        }
        for number in range(arguments.count):
            for kind, run in kinds.items():
                problem = run(random.Random(f"{arguments.seed}/{kind}/{number}"))
                if problem:
                    tally.failures.append(f"--seed {arguments.seed}, {kind} {number}: {problem}")
                    print(tally.failures[-1], flush=True)
                for name in ("killed", "raced"):
                    shutil.rmtree(root / name, ignore_errors=True)
    for what, count in sorted(tally.done.items()):
        print(f"{count:6,} {what}")
    print(f"{len(tally.failures):6,} runs that ended differently from the one without faults")
    return 1 if tally.failures else 0


if __name__ == "__main__":
    sys.exit(main())
