"""Starts the engine of a session, and puts each checkpoint's weights into it.

checkpoint                                            engine
a pod's only checkpoint, if its weight files exist    an engine started from them
same config as after, reuse_engine: true              one engine, started with after; weights are
                                                      swapped in
other config, e.g. RoPE, or other tokenizer           an engine for this checkpoint only
reuse_engine: false                                   an engine for this checkpoint only

If the engine refuses a swap, this checkpoint gets an engine of its own, and so do all alphas if it
is one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Mapping
from typing import Any

from svdjobs.checkpoint.sources import open_checkpoint
from svdjobs.config import EvaluateConfig, alpha_id
from svdjobs.errors import EvaluationError
from svdjobs.evaluation.engine_choice import NAMES_AND_DTYPES
from svdjobs.evaluation.engine_weights import RunWeights, has_files_to_start_from
from svdjobs.evaluation.engines.protocol import Engine, Weights, engine_kind
from svdjobs.progress import say
from svdjobs.runs import layout
from svdjobs.runs.checkpoints import RunCheckpoints
from svdjobs.runs.logs import RunLogs
from svdjobs.storage.store import Store
from svdjobs.variant_config import VariantConfig
from svdjobs.weights.variants import Variant

_ALPHAS = "alphas"


class EngineHolder:
    """Holds the running engine, and the id of the checkpoint in it."""

    def __init__(
        self,
        checkpoints: RunCheckpoints,
        evaluate: EvaluateConfig,
        store: Store,
        tokenizer_of: Callable[[str], Any],
        longest_prompt: int,
        logs: RunLogs,
        only_checkpoint: str | None = None,
    ) -> None:
        self._checkpoints = checkpoints
        self._config = checkpoints.config
        self._evaluate = evaluate
        self._store = store
        self._tokenizer_of = tokenizer_of
        self._longest_prompt = longest_prompt
        self._logs = logs
        self._engine: Engine | None = None
        self._checkpoint_id: str | None = None
        self._refused: set[str] = set()
        self._only_checkpoint = only_checkpoint
        self._started_for_reuse = False
        self.weights = RunWeights(checkpoints, store)
        self._held: Mapping[str, Hashable] = {}

    def engine_with(self, checkpoint_id: str) -> Engine:
        """The engine, with a checkpoint's weights in it."""
        if self._engine is not None and self._checkpoint_id == checkpoint_id:
            return self._engine
        reuse = (
            self._evaluate.reuse_engine
            and self._kind(checkpoint_id) not in self._refused
            and self._fits_engine_of_after(checkpoint_id)
        )
        if self._engine is not None and not (reuse and self._started_for_reuse):
            self.close()
        if self._engine is None:
            alone = checkpoint_id == self._only_checkpoint
            own_weights = alone and has_files_to_start_from(self._store, checkpoint_id)
            first = "after" if reuse and not own_weights else checkpoint_id
            self._engine = self._start(first)
            self._checkpoint_id, self._started_for_reuse = first, reuse and first == "after"
        if self._checkpoint_id != checkpoint_id:
            self._checkpoint_id = None  # a failed swap leaves weights of two checkpoints
            if refusal := self._why_refused(self._engine, checkpoint_id):
                if checkpoint_id in self._config.variants:
                    raise EvaluationError(
                        f"{refusal} Variants and the map have no weight files, so they need an "
                        f"engine that takes new weights."
                    )
                alphas = self._kind(checkpoint_id) == _ALPHAS
                say(f"{refusal} {'Each alpha' if alphas else checkpoint_id} gets its own engine.")
                self._refused.add(self._kind(checkpoint_id))  # not tried again
                return self.engine_with(checkpoint_id)
            self._checkpoint_id = checkpoint_id
        return self._engine

    def _why_refused(self, engine: Engine, checkpoint_id: str) -> str:
        """Put a checkpoint into the engine. Return why it refuses it; empty if it does not.

        Words, since an exception keeps its frames, and these the engine: another one could not
        start beside it.
        """
        try:
            self._put(engine, self.weights.of(checkpoint_id, with_weight_files=False))
        except EvaluationError as error:
            return str(error)
        return ""

    def _kind(self, checkpoint_id: str) -> str:
        """What the engine's refusal of a checkpoint speaks for: all alphas, or itself."""
        alphas = (alpha_id(alpha) for alpha in self._config.alphas)
        return _ALPHAS if checkpoint_id in alphas else checkpoint_id

    def engine_with_variant(
        self, label: str, spec: VariantConfig, only: Collection[str] | None = None
    ) -> tuple[Engine, Variant]:
        """The engine, with weights in it that are no checkpoint of the run; and these weights,
        which change no other matrices than `only`.

        Raises:
            EvaluationError: the engine does not take new weights.
        """
        engine = self._engine
        if engine is None or not self._started_for_reuse:
            engine = self.engine_with("after")
        weights, variant = self.weights.of_variant(label, spec, only)
        self._checkpoint_id = None
        self._put(engine, weights)
        return engine, variant

    def check_takes_variants(self) -> None:
        """Change one matrix of the engine with after, and change it back.

        Raises:
            EvaluationError: it does not take new weights, so variants and the map cannot be read.
        """
        name = self.weights.sources.plan.selected[0].name
        self.engine_with("after")
        one, label = VariantConfig(before="matrix"), "a change of one matrix"
        engine, _ = self.engine_with_variant(label, one, {name})
        self._put(engine, self.weights.of("after", with_weight_files=False))
        self._checkpoint_id = "after"

    def _put(self, engine: Engine, weights: Weights) -> None:
        """Send the engine the tensors that it does not hold yet."""
        held, self._held = self._held, {}  # a failed swap leaves weights of two checkpoints
        changed = None
        if weights.origins and held.keys() == weights.origins.keys():
            changed = [n for n, origin in weights.origins.items() if held[n] != origin]
        engine.put(weights, changed)
        self._held = weights.origins

    def _fits_engine_of_after(self, checkpoint_id: str) -> bool:
        """Whether an engine that was started with `after` can hold this checkpoint.

        False if the config, e.g. its RoPE scaling, or the tokenizer differs: an engine keeps those
        that it was started with. Reversed blends have before's config and after's tokenizer.
        """
        source = layout.config_source(self._config, checkpoint_id)
        if source == self._config.after:
            return True
        # Only `before` itself reads the prompts of its own tokenizer; blends read after's.
        if checkpoint_id == "before" and self._config.before_has_own_tokenizer:
            say("before has its own tokenizer, so it gets a separate engine")
            return False
        own, after = self._checkpoints.open(source).config, self._checkpoints.after.config
        keys = sorted({*own, *after} - NAMES_AND_DTYPES)
        differ = [key for key in keys if own.get(key) != after.get(key)]
        if differ:
            say(
                f"the configs of {source} and after differ in {', '.join(differ)}, so "
                f"{checkpoint_id} gets a separate engine"
            )
        return not differ

    def _start(self, checkpoint_id: str) -> Engine:
        weights = self.weights.of(checkpoint_id, with_weight_files=True)
        self._held = weights.origins
        tokenizer = self._tokenizer_of(checkpoint_id)
        # Check the files first: an engine's error for a truncated file does not name the file.
        open_checkpoint(weights.folder, allow_pickle=self._config.allow_pickle)
        name, kind = self._evaluate.engine, engine_kind(self._evaluate.engine)
        log = self._logs.path(f"{name}-{checkpoint_id}")
        if kind.writes_log:
            place = self._logs.place(log)
            say(f"starting {kind.title} with {weights.label} (log: {place})")
        return kind.start(
            weights, tokenizer, self._evaluate, longest_prompt=self._longest_prompt, log=log
        )

    def close(self) -> None:
        """Stop the engine, if there is one."""
        if self._engine is not None:
            self._engine.close()
            self._engine = self._checkpoint_id = None
        self.weights.close()
