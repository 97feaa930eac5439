"""Chooses the engine of an evaluation and its compute dtype."""

from __future__ import annotations

from importlib.util import find_spec

from svdjobs.checkpoint.card import BLEND_META
from svdjobs.checkpoint.matrices import Sizes
from svdjobs.checkpoint.reader import Checkpoint
from svdjobs.config import EvaluateConfig, alpha_id
from svdjobs.errors import ConfigError
from svdjobs.evaluation.engines.device import refuse_idle_gpus, vllm_uses_gpus
from svdjobs.evaluation.engines.protocol import engine_kind
from svdjobs.progress import say
from svdjobs.records import BlendRecord
from svdjobs.runs.checkpoints import RunCheckpoints
from svdjobs.statistics import LARGEST_CAST_ERROR, cast_error_total
from svdjobs.storage.objects import try_read_json
from svdjobs.storage.store import Store
from svdjobs.weights.blend_records import shard_records

# Keys of a checkpoint's config that do not change what the weights compute.
NAMES_AND_DTYPES = {
    "_name_or_path", "architectures", "bos_token_id", "dtype", "eos_token_id", "pad_token_id",
    "torch_dtype", "transformers_version", "use_cache",
}  # fmt: skip

# vLLM's attention on a CPU supports no smaller heads.
CPU_HEAD_DIMENSION = 32


def resolve_auto_settings(
    checkpoints: RunCheckpoints, store: Store, *, only_checkpoint: str | None = None
) -> EvaluateConfig:
    """The `evaluate` section with every `auto` resolved, the same for all checkpoints.

    A pod (`only_checkpoint`) does not see the other blends, so there `dtype: auto` is float32.

    Raises:
        ConfigError: the rounding noise of the config's 16-bit dtype is too large for the blends.
    """
    evaluate = checkpoints.config.evaluation
    return evaluate.model_copy(
        update={
            "engine": choose_engine(evaluate, checkpoints.after),
            "dtype": _choose_dtype(checkpoints, store, only_checkpoint),
        }
    )


def choose_engine(evaluate: EvaluateConfig, after: Checkpoint) -> str:
    """The engine of the config; for `auto`, vLLM if it is installed and supports the checkpoint."""
    if evaluate.engine != "auto":
        return evaluate.engine
    if find_spec("vllm") is None:
        return "transformers"
    # 0, from a config that gives no heads, counts as narrow: transformers runs any checkpoint.
    narrow = Sizes.of(after.config).head < CPU_HEAD_DIMENSION
    return "transformers" if narrow and not vllm_uses_gpus() else "vllm"


def check_engine(evaluate: EvaluateConfig) -> None:
    """Check that the engine is installed, and uses the GPUs that this process sees.

    Raises:
        ConfigError: the engine is not installed, or would leave the GPUs idle.
    """
    engine_kind(evaluate.engine).check()
    refuse_idle_gpus(evaluate.engine)


def _choose_dtype(checkpoints: RunCheckpoints, store: Store, only_checkpoint: str | None) -> str:
    """The compute dtype; `auto` is after's dtype if its rounding noise is small, else float32."""
    config, after = checkpoints.config, checkpoints.after
    configured = config.evaluation.dtype
    own = str(after.config.get("dtype") or after.config.get("torch_dtype") or "float32")
    wanted = own if configured == "auto" else configured
    if wanted not in ("bfloat16", "float16"):
        return "float32"
    if configured == "auto" and (config.variants or config.map):
        # A random change, or before's values alone, is no matrix of 16-bit numbers.
        say(f"evaluate.dtype auto: float32, since {wanted} would round the variants and the map")
        return "float32"
    if only_checkpoint and configured == "auto":  # the pods of all blends must choose the same
        return "float32"
    error = _cast_error(checkpoints, store, wanted, only_checkpoint)
    if error is None or error <= LARGEST_CAST_ERROR:
        return wanted
    noise = (
        f"rounding noise in {wanted} is {error:.2g} times the difference between a blend and "
        f"{config.bases_of}"
    )
    if configured == "auto":
        say(f"evaluate.dtype auto: float32, since {noise}")
        return "float32"
    if not config.evaluation.allow_lossy_dtype:
        raise ConfigError(
            f"evaluate.dtype {configured}: {noise} (at most {LARGEST_CAST_ERROR} is allowed), so "
            f"differences between alphas would be those of rounding. Use float32, or set "
            f"evaluate.allow_lossy_dtype to true."
        )
    say(f"evaluate.dtype {configured}, with evaluate.allow_lossy_dtype: {noise}")
    return configured


def _cast_error(
    checkpoints: RunCheckpoints, store: Store, dtype: str, only_checkpoint: str | None
) -> float | None:
    """Largest relative cast error of the blends in a dtype; None if there are no blends.

    If `bases` is itself a blend by svdjobs, its recorded cast error counts, too.
    """
    errors = []
    # Other tools write a file with this name, without cast_error.
    meta = try_read_json(checkpoints.bases.store, BLEND_META)
    recorded = meta.get("cast_error") if isinstance(meta, dict) else None
    if isinstance(recorded, dict) and recorded.get(dtype) is not None:
        errors.append(recorded[dtype])
    for alpha in checkpoints.config.alphas:
        if only_checkpoint and alpha_id(alpha) != only_checkpoint:
            continue
        records: list[BlendRecord] = shard_records(store, alpha)
        error = cast_error_total(records)[dtype] if records else None
        if error is not None:
            errors.append(error)
    return max(errors, default=None)
