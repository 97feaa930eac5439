"""One engine that walks a run's list, with short leases. A program of `test_queue`, not a test.

python -m tests.evaluation.queue_child CONFIG_JSON
"""

from __future__ import annotations

import signal
import sys

from svdjobs.cli.main import _terminate
from svdjobs.config import SweepConfig
from svdjobs.evaluation import queue
from svdjobs.evaluation.session import open_session
from svdjobs.runs.leases import Leases
from svdjobs.storage.open import open_store


def main() -> None:
    signal.signal(signal.SIGTERM, _terminate)
    config = SweepConfig.model_validate_json(sys.argv[1])
    store = open_store(config.store_url)
    with open_session(config, store) as session:
        leases = Leases(store, silence=2.0, beat=0.2)
        queue.walk(session, check=lambda *_: None, leases=leases)


if __name__ == "__main__":
    main()
