"""Which engine evaluates a sweep, in which dtype, and how it comes to hold each checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from svdjobs.checkpoint.sources import open_checkpoint
from svdjobs.config import EvaluateConfig
from svdjobs.errors import EvaluationError
from svdjobs.evaluation.engine_choice import NAMES_AND_DTYPES
from svdjobs.evaluation.engine_weights import is_written, weights_of
from svdjobs.evaluation.engines.protocol import Engine, Weights
from svdjobs.progress import say
from svdjobs.runs import layout
from svdjobs.runs.checkpoints import RunCheckpoints
from svdjobs.storage.store import Store


class Engines:
    """The engine of an evaluation: started when first needed, then given one checkpoint's weights
    after another, or started anew for each."""

    def __init__(
        self,
        checkpoints: RunCheckpoints,
        evaluate: EvaluateConfig,
        store: Store,
        tokenizer_of: Callable[[str], Any],
        longest_prompt: int,
        alone: str | None = None,
    ) -> None:
        self._checkpoints = checkpoints
        self._config = checkpoints.config
        self._evaluate = evaluate
        self._store = store
        self._tokenizer_of = tokenizer_of
        self._longest_prompt = longest_prompt
        self._engine: Engine | None = None
        self._holds: str | None = None
        self._reuse = evaluate.reuse_engine
        self._alone = alone
        self._shared = False
        self._disk = ExitStack()

    def holding(self, checkpoint_id: str) -> Engine:
        """The engine, with that checkpoint in it."""
        if self._engine is not None and self._holds == checkpoint_id:
            return self._engine
        reuse = self._reuse and self._alike(checkpoint_id)
        if self._engine is not None and not (reuse and self._shared):
            self.close()
        if self._engine is None:
            own = checkpoint_id == self._alone and is_written(self._store, checkpoint_id)
            first = "after" if reuse and not own else checkpoint_id
            tokenizer = self._tokenizer_of(first)
            self._engine = self._start(self._weights(first, whole=True), tokenizer)
            self._holds, self._shared = first, reuse and first == "after"
        if self._holds != checkpoint_id:
            self._holds = None  # whatever happens now, it is no longer the last one
            try:
                self._engine.put(self._weights(checkpoint_id, whole=False))
            except EvaluationError as error:
                say(f"{error} Going on with an engine for each checkpoint.")
                self._reuse = False
                return self.holding(checkpoint_id)
            self._holds = checkpoint_id
        return self._engine

    def _weights(self, checkpoint_id: str, *, whole: bool) -> Weights:
        return weights_of(self._checkpoints, self._store, checkpoint_id, self._disk, whole=whole)

    def _alike(self, checkpoint_id: str) -> bool:
        """Whether the checkpoint's weights mean the same under after's config.

        A longer context set by another RoPE, say, lies in the config, and would not be swapped.
        """
        is_blend = checkpoint_id not in layout.baseline_ids(self._config)
        if (self._config.bases_of if is_blend else checkpoint_id) != "before":
            return True
        if self._evaluate.tokenizer_of_before == "own":
            say("before has a tokenizer of its own: it gets an engine of its own")
            return False
        before, after = self._checkpoints.before.config, self._checkpoints.after.config
        keys = sorted({*before, *after} - NAMES_AND_DTYPES)
        differ = [key for key in keys if before.get(key) != after.get(key)]
        if differ:
            say(
                f"before differs from after in {', '.join(differ)}: {checkpoint_id} gets an engine "
                f"of its own"
            )
        return not differ

    def _start(self, weights: Weights, tokenizer: Any) -> Engine:
        # The libraries' own complaints about a cut-off file name neither it nor what to do.
        open_checkpoint(weights.folder, allow_pickle=self._config.allow_pickle)
        if self._evaluate.engine == "vllm":
            from svdjobs.evaluation.engines.vllm import VllmEngine, log_path

            say(f"starting vLLM with {weights.label} (its own messages: {log_path(weights)})")
            return VllmEngine(weights, tokenizer, self._evaluate, self._longest_prompt)
        from svdjobs.evaluation.engines.transformers import TransformersEngine

        return TransformersEngine(weights, tokenizer, self._evaluate)

    def close(self) -> None:
        """Stop the engine, if there is one."""
        if self._engine is not None:
            self._engine.close()
            self._engine = self._holds = None
        self._disk.close()
