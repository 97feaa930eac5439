"""One engine walks the list of a run's evaluations, beside others that walk the same list.

A piece of work is a shard of a checkpoint's completions, a checkpoint's reading of after's
completions, or the map of a benchmark. A worker takes whatever is free, holds it by a lease
(`runs.leases`), and prefers what its engine has in memory. It ends when nothing is left. If it is
killed, the others take what it had, and go on after the completions that it had kept.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from svdjobs.config import VARIANTS, SweepConfig
from svdjobs.errors import (
    BusyError,
    EvaluationError,
    IncompleteError,
    OvertakenError,
    SvdjobsError,
    UnavailableError,
)
from svdjobs.evaluation import drawing, likelihoods, mapping
from svdjobs.evaluation.benchmarks.load import Benchmark
from svdjobs.evaluation.output_keys import evaluation_keys
from svdjobs.evaluation.results import evaluation_order
from svdjobs.evaluation.session import Session
from svdjobs.progress import TimeLeft, say
from svdjobs.runs import layout, shards
from svdjobs.runs.leases import Leases
from svdjobs.runs.outputs import OutputKey, find_manifest

POLL_SECONDS = 2.0


class Piece(NamedTuple):
    """A piece of work."""

    what: Literal["draw", "read", "map"]
    checkpoint: str
    """For a map `after`, which it changes part by part."""
    shard: shards.Shard
    """Of the benchmark's problems; all of them for a reading or a map."""

    @property
    def id(self) -> str:
        """Name of its lease."""
        return f"{self.what}/{self.checkpoint}/{self.shard.id}"

    @property
    def kind(self) -> str:
        """Pieces of one kind take about as long."""
        return f"{self.what} {self.shard.name}"


def pieces(config: SweepConfig, ids: Sequence[str] | None = None) -> list[Piece]:
    """All pieces of a run: first after's completions, for which the others wait.

    With `ids` only those of these checkpoints; the map belongs to the id `variants`.
    """
    sampled, read = layout.sampled_ids(config), layout.read_ids(config)
    chosen = [*layout.evaluated_ids(config), VARIANTS] if ids is None else ids
    order = evaluation_order([i for i in chosen if i != VARIANTS])
    whole = [shards.Shard(benchmark.name, 0, 1) for benchmark in config.benchmarks]
    parts = shards.evaluate_shards(config)
    draws = [Piece("draw", i, shard) for i in order if i in sampled for shard in parts]
    reads = [Piece("read", i, one) for i in order if i in read for one in whole]
    maps = [Piece("map", "after", one) for one in whole if config.map and VARIANTS in chosen]
    return [*draws, *reads, *maps]


def walk(
    session: Session,
    *,
    check: Callable[[Session, Sequence[str]], None],
    ids: Sequence[str] | None = None,
    leases: Leases | None = None,
) -> None:
    """Do pieces of work until none is left, here or with other workers.

    `ids` are as for `pieces`. `check` checks the engine and the prompts of checkpoints before the
    engine starts.

    Raises:
        EvaluationError: pieces failed; all others are done, unless two checkpoints in a row failed.
        UnavailableError: the store or another service does not answer.
    """
    work = _Work(session, pieces(session.config, ids), leases or Leases(session.store))
    if work.left:
        check(session, list(dict.fromkeys(piece.checkpoint for piece in work.left)))
    while work.left:
        if not work.do_one():
            time.sleep(POLL_SECONDS)
    if work.failed:
        raise EvaluationError(
            f"{len(work.failed)} pieces of work failed: "
            + "; ".join(f"{name}: {why}" for name, why in work.failed.items())
        )


class _Work:
    """What one worker knows of the list."""

    def __init__(self, session: Session, found: Sequence[Piece], leases: Leases) -> None:
        self._session = session
        self._leases = leases
        self._benchmarks: dict[str, Benchmark] = {b.name: b for b in session.benchmarks}
        self._keys: dict[str, dict[str, OutputKey]] = {}
        self._engine_has = "after"
        self._failed_last: str | None = None
        self.failed: dict[str, str] = {}
        """Pieces that failed here, and why. This worker does not try them again."""
        known = [p for p in found if p.shard.name in self.key_of(p.checkpoint)]
        self.left = [piece for piece in known if not self._is_done(piece)]
        self._time_left = TimeLeft(
            "shared pieces of work", {piece.id: piece.kind for piece in self.left}
        )

    def key_of(self, checkpoint_id: str) -> dict[str, OutputKey]:
        """Keys of a checkpoint's evaluations, by benchmark; empty if it was not blended."""
        if checkpoint_id not in self._keys:
            session, found = self._session, {}
            try:
                found = evaluation_keys(
                    session.checkpoints, session.evaluate, session.store, [checkpoint_id],
                    session.benchmarks,
                )  # fmt: skip
            except IncompleteError as error:
                say(f"{checkpoint_id} is not evaluated: {error}")
            self._keys[checkpoint_id] = {name: key for (_, name), key in found.items()}
        return self._keys[checkpoint_id]

    def do_one(self) -> bool:
        """Do the first piece that is free; False if there is none at the moment."""
        # What the engine holds comes first; the sort keeps the order of the rest.
        for piece in sorted(self.left, key=lambda p: p.checkpoint != self._engine_has):
            if self._is_done(piece):
                self.left.remove(piece)
                self._time_left.forget(piece.id)
            elif self._is_ready(piece) and self._tried(piece):
                return True
        return False

    def _tried(self, piece: Piece) -> bool:
        """Whether the piece was free, and so was tried."""
        try:
            with self._leases.held(piece.id) as mine:
                if mine:
                    with self._time_left.one(piece.id):
                        self._do(piece)
        except OvertakenError as error:  # whose lease was taken for dead; its work is tried again
            say(f"{piece.id}: {error}")
            return True
        except (BusyError, UnavailableError):
            raise  # the pod is started again
        except SvdjobsError as error:
            self.failed[piece.id] = str(error)
            self.left.remove(piece)
            if self._failed_last not in (None, piece.checkpoint):  # then it is the engine
                raise
            self._failed_last, self._engine_has = piece.checkpoint, ""
            say(f"{piece.id} failed: {error}")
            return True
        if mine:
            self._failed_last = None
        elif self._leases.is_given_up(piece.id):
            self.failed[piece.id] = "every try ended, here or elsewhere; the pods' logs say why"
            self.left.remove(piece)
        return mine

    def _is_done(self, piece: Piece) -> bool:
        session, benchmark = self._session, piece.shard.name
        key = self.key_of(piece.checkpoint)[benchmark]
        if piece.what == "draw":
            return drawing.shard_is_drawn(session, piece.checkpoint, piece.shard, key)
        if piece.what == "read":
            return likelihoods.is_finished(session, piece.checkpoint, benchmark, key)
        return mapping.current(session.config, session.store, benchmark) is not None

    def _is_ready(self, piece: Piece) -> bool:
        store, benchmark = self._session.store, piece.shard.name
        if piece.what == "read":
            return find_manifest(store, layout.results_prefix("after", benchmark)) is not None
        return piece.what == "draw" or likelihoods.current(store, "after", benchmark) is not None

    def _do(self, piece: Piece) -> None:
        session, benchmark = self._session, self._benchmarks[piece.shard.name]
        key = self.key_of(piece.checkpoint)[benchmark.name]
        self._engine_has = piece.checkpoint
        if piece.what == "map":
            mapping.make(session, benchmark)
        elif piece.what == "read":
            likelihoods.make(session, piece.checkpoint, benchmark, key)
        elif done := drawing.draw_shard(session, piece.checkpoint, benchmark, piece.shard, key):
            drawing.run_second_grader(session, piece.checkpoint, benchmark, done)
