"""Select the tensors to blend, and say why each other tensor is skipped."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

from svdjobs.checkpoint.matrices import FUSED, TOWER
from svdjobs.checkpoint.reader import Checkpoint
from svdjobs.checkpoint.safetensors_format import FLOATS
from svdjobs.config import SelectionConfig
from svdjobs.errors import ConfigError
from svdjobs.records import SkipReason, TensorPlan

EMBEDDING = re.compile(
    r"(^|\.)(embed_tokens|embed_positions|wte|wpe|word_embeddings|position_embeddings|embed_in"
    r"|embed_out|lm_head|output_embeddings)\.weight$"
)
TOKEN_EMBEDDING = re.compile(r"(^|\.)(embed_tokens|wte|word_embeddings|embed_in)\.weight$")
LM_HEAD = re.compile(r"(^|\.)(lm_head|embed_out|output_embeddings)\.weight$")
ATTENTION_OR_MLP = re.compile(
    r"\.(self_attn|self_attention|attention|attn|mlp|feed_forward|ffn|block_sparse_moe)\."
)
ROUTER = re.compile(
    r"\.(mlp|block_sparse_moe|feed_forward|ffn)\.(gate|router|router\.\w+|shared_expert_gate)"
    r"(\.(weight|wg\.weight))?$|\.(router|gate)\.(weight|proj\.weight|layer\.weight|scorer\.weight)$"
)
# Layers in place of attention. Their matrices hold several maps that have no names of their own.
HYBRID: tuple[tuple[re.Pattern[str], SkipReason], ...] = (
    (re.compile(r"\.(linear_attn|lightning_attn|linear_attention)\."), "linear_attention"),
    (re.compile(r"\.(mixer|mamba|ssm|mamba_\w+)\."), "state_space"),
    (re.compile(r"\.(conv|short_conv|conv1d)\."), "convolution"),
)
LAYER = re.compile(r"\.(?:layers|h|blocks|block)\.(\d+)\.(.+?)(?:\.weight)?$")
# Left out by the user, or by what the default selection is.
_LEFT_OUT = ("excluded", "not_included", "not_a_weight", "not_attention_or_mlp", "router")
EXPERT = re.compile(r"\.experts\.\d+\.")


def select(before: Checkpoint, after: Checkpoint, rules: SelectionConfig) -> list[TensorPlan]:
    """Return one plan entry per tensor of `after`, sorted by name.

    Raises:
        ConfigError: a pattern is not a regular expression, or matches no tensor.
    """
    include = _patterns(rules.include, "include", after.entries)
    exclude = _patterns(rules.exclude, "exclude", after.entries)
    plans = []
    for name, entry in sorted(after.entries.items()):
        skip = _reason(name, before, after, include, exclude, embeddings=rules.embeddings)
        plans.append(TensorPlan(name=name, shape=entry.shape, dtype=entry.dtype, skip=skip))
    return plans


def _patterns(
    sources: tuple[str, ...], field: str, names: Iterable[str]
) -> tuple[re.Pattern[str], ...]:
    compiled = []
    for source in sources:
        try:
            pattern = re.compile(source)
        except re.error as error:
            raise ConfigError(
                f"selection.{field}: {source!r} is not a regular expression: {error}"
            ) from None
        if not any(pattern.search(name) for name in names):
            raise ConfigError(f"selection.{field}: {source!r} matches no tensor of the checkpoint")
        compiled.append(pattern)
    return tuple(compiled)


def _reason(
    name: str,
    before: Checkpoint,
    after: Checkpoint,
    include: tuple[re.Pattern[str], ...],
    exclude: tuple[re.Pattern[str], ...],
    *,
    embeddings: bool,
) -> SkipReason | None:
    """Return why a tensor is skipped; None if it is blended."""
    entry = after.entries[name]
    embedding = EMBEDDING.search(name) is not None
    named = any(pattern.search(name) for pattern in include)
    if after.tied and LM_HEAD.search(name):
        return "tied"
    if any(pattern.search(name) for pattern in exclude):
        return "excluded"
    if name not in before.entries:
        return "missing_in_before"
    if FUSED.search(name) and len(entry.shape) > 1 and not named:
        return "fused"
    if len(entry.shape) != 2:
        return "ndim!=2"
    if not entry.elements:
        return "empty"
    if entry.dtype not in FLOATS:
        return "not_floating_point"
    if before.entries[name].shape != entry.shape:
        return "shape_mismatch"
    if embedding:
        return None if embeddings else "embedding"
    return None if named else _default_reason(name, any_named=bool(include))


def _default_reason(name: str, *, any_named: bool) -> SkipReason | None:
    """Return why a matrix that no `include` pattern names is skipped; None if it is blended."""
    if any_named:
        return "not_included"
    if not name.endswith(".weight"):
        return "not_a_weight"
    for pattern, reason in ((ROUTER, "router"), *HYBRID):
        if pattern.search(name):
            return reason
    return None if ATTENTION_OR_MLP.search(name) else "not_attention_or_mlp"


def embedding_rows(checkpoint: Checkpoint) -> int | None:
    """Return how many tokens a checkpoint embeds; None if no tensor is named as an embedding."""
    found = [e.shape for name, e in checkpoint.entries.items() if TOKEN_EMBEDDING.search(name)]
    return max((shape[0] for shape in found if len(shape) == 2), default=None)


def layer_and_family(name: str) -> tuple[int | None, str]:
    """`model.layers.3.mlp.up_proj.weight` → (3, "mlp.up_proj"); no layer index → (None, name).

    All experts are one family (`mlp.experts.up_proj`). A family in a tower begins with the tower's
    name (`visual: attn.proj`).
    """
    tower = f"{found[1]}: " if (found := TOWER.search(name)) else ""
    if match := LAYER.search(name):
        return int(match[1]), tower + EXPERT.sub(".experts.", f".{match[2]}")[1:]
    return None, name.removesuffix(".weight")


def part_name(layer: int | None, column: str) -> str:
    """`layer 2 mlp.down_proj`: the name of a part of the map; the column alone without a layer."""
    return column if layer is None else f"layer {layer} {column}"


def coverage(tensors: list[TensorPlan]) -> dict[str, int]:
    """Return the number of parameters by skip reason, with `blended` for the blended tensors."""
    counts: Counter[str] = Counter()
    for tensor in tensors:
        counts[tensor.skip or "blended"] += tensor.elements
    return dict(counts)


def core_coverage(tensors: list[TensorPlan]) -> tuple[float, dict[str, int]]:
    """Return the blended share of the core parameters, and the number of the others by reason.

    The core is attention, the layers in its place, and MLPs. Routers, and tensors that the user has
    left out, do not count.
    """
    counts: Counter[str] = Counter()
    for tensor in tensors:
        matrix = len(tensor.shape) > 1 and not EMBEDDING.search(tensor.name)
        if matrix and tensor.skip not in _LEFT_OUT and _is_core(tensor.name):
            counts[tensor.skip or ""] += tensor.elements
    blended = counts.pop("", 0)
    total = blended + sum(counts.values())
    return (blended / total if total else 1.0), dict(counts)


def _is_core(name: str) -> bool:
    return bool(ATTENTION_OR_MLP.search(name) or any(pattern.search(name) for pattern, _ in HYBRID))


def coverage_line(tensors: list[TensorPlan], verb: str = "blended") -> str:
    """Return `blended 28 of 41 tensors, 87.3 % of 1.54 B parameters; skipped: tied 12.6 %, …`."""
    counts = coverage(tensors)
    total = sum(counts.values()) or 1
    taken = sum(tensor.skip is None for tensor in tensors)
    skipped = sorted((reason for reason in counts if reason != "blended"), key=counts.__getitem__)
    parts = [f"{reason} {100 * counts[reason] / total:.2f} %" for reason in reversed(skipped)]
    share = 100 * counts.get("blended", 0) / total
    return (
        f"{verb} {taken} of {len(tensors)} tensors, {share:.1f} % of {_count(total)} parameters; "
        f"skipped: {', '.join(parts) or 'none'}"
    )


def _count(number: int) -> str:
    for unit, scale in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= scale:
            return f"{number / scale:.2f} {unit}"
    return str(number)
