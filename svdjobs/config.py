"""The sections and keys of a sweep config, as frozen models that refuse unknown keys.

The docstring under a field is the documentation of its key, which `svdjobs keys` prints.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from svdjobs.benchmarks import complete
from svdjobs.errors import ConfigError
from svdjobs.settings import Settings, read_as
from svdjobs.variant_config import MapConfig, VariantConfig, one_per_seed

StorageDtype = Literal["float32", "bfloat16", "float16"]


class SelectionConfig(Settings):
    """Which tensors are decomposed and blended."""

    include: tuple[str, ...] = ()
    """Regular expressions. A 2-D tensor is blended if one of them matches its name. Empty: blend
    the attention and MLP weights."""
    exclude: tuple[str, ...] = ()
    """Regular expressions. A tensor whose name one of them matches is not blended but copied: from
    `after`, or from `before` if `direction` is reverse."""
    embeddings: bool = False
    """Also blend the embedding and lm_head matrices; tied ones are blended once."""
    minimum_coverage: float = Field(default=0.8, ge=0, le=1)
    """Smallest fraction of the attention and MLP parameters that must be blended. `plan` refuses a
    sweep that blends less. Tensors that `include` or `exclude` leaves out do not count."""


class ComputeConfig(Settings):
    """Where matrices are decomposed, blended and measured. Results do not depend on it but in their
    last bits."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """cuda: all GPUs that are visible; each matrix is computed on one of them, several at the same
    time. auto: GPUs if torch can use some, and CPUs otherwise, or if a GPU's memory does not hold
    the largest matrix."""


class DecomposeConfig(Settings):
    """How the weight matrices are decomposed."""

    parts: int = Field(default=0, ge=0)
    """Files that the factors of a checkpoint are written to; all take about the same time to
    compute. 0: one file per 0.1 teraflop, at most 256."""
    workers: int = Field(default=0, ge=0)
    """Matrices that one machine decomposes at the same time. 0: one per core, or fewer if they
    would take more than half of the memory; on GPUs up to four on each."""
    shards: int = Field(default=0, ge=0)
    """Pods that decompose each checkpoint on a cluster, at most one per file of factors. 0: one pod
    per 50 teraflops."""
    vectors: Literal["float64", "float32"] = "float64"
    """Dtype in which singular vectors are stored; they are computed in float64. float32 takes half
    the space and costs about 1e-7 of the change that a blend makes. Angles of `rotations` and
    `metrics` below about 1e-6 are then lost in rounding."""


class BlendConfig(Settings):
    """How blended checkpoints are written."""

    storage_dtype: StorageDtype = "float32"
    """Dtype of the blended weights in the weight files. bfloat16 and float16 round away most of a
    blend that is as small as RL's; the report says how much."""
    max_shard_bytes: int = Field(default=5_000_000_000, ge=1)
    """Largest size of a weight file in bytes. A larger checkpoint is written as several files with
    an index; a tensor is never split."""
    write_checkpoints: bool = True
    """Write the weights of every blend. false: evaluate the blends without writing their weights,
    which are computed when they are loaded; this needs `evaluate.reuse_engine`."""
    svd_logs: bool = True
    """Write each tensor's singular values before, after and in the blend to
    `svd_logs/alpha_*/<tensor>.pt`."""


class BenchmarkConfig(Settings):
    """A benchmark is a set of problems with reference answers. A plain string stands for a
    benchmark that svdjobs knows (`svdjobs/benchmarks.py`), a file or a hub dataset. Keys that are
    not given get the values of the known benchmark.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name of the benchmark and of its folder of results. With the name of a known benchmark,
    `data` must hold as many problems as that has, unless `limit` is set."""
    data: str = ""
    """A JSONL or Parquet file (a path or an s3:// URL), or the id of a hub dataset. Default: the
    data of the known benchmark."""
    subset: str | None = None
    """Configuration of a hub dataset that has several."""
    split: str = "test"
    """Split of a hub dataset."""
    revision: str | None = None
    """Commit of a hub dataset. null: the pinned commit of a known benchmark; for another dataset
    the newest, which the run records."""
    problem_field: str = "problem"
    """Field that holds the problem's text."""
    answer_field: str = "answer"
    """Field that holds the reference answer (the gold)."""
    limit: int | None = Field(default=None, ge=1)
    """Number of problems to use, counted from the first one. null: all."""

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, given: object) -> object:
        return complete(given)


AUTO, ALL = "auto", "all"


class EvaluateConfig(Settings):
    """How every checkpoint is evaluated: with the same prompts and the same seeds."""

    benchmarks: tuple[BenchmarkConfig, ...] = Field(min_length=1)
    """Give a list of names, of sections, or of both; the names must differ."""
    engine: Literal["auto", "vllm", "transformers"] = "auto"
    """auto: vLLM if it is installed and can run the checkpoint, else transformers."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Compute dtype of the engine. auto: the dtype of `after`, or float32 if rounding to that dtype
    is not small beside the blends. On a cluster, and with variants or a map, auto is float32."""
    allow_lossy_dtype: bool = False
    """Accept a 16-bit `dtype` even if its rounding noise hides the differences between blends, or
    with variants or a map; otherwise it is refused. On a cluster each pod checks its own alpha
    only, when the baselines have already been evaluated."""
    shards: int = Field(default=1, ge=1)
    """Pods that evaluate one checkpoint on one benchmark on a cluster; each takes a shard of the
    problems."""
    engines: int | None = Field(default=None, ge=1)
    """Pods with one engine each on a cluster, which take checkpoints, benchmarks and shards one
    after another from the run's list until nothing is left; if one dies, the others take what it
    had. null: a pod, and an engine, for each checkpoint, benchmark and shard."""
    reuse_engine: bool = True
    """Start one engine and load the weights of every checkpoint into it. false: start an engine for
    each checkpoint."""
    devices: tuple[str, ...] = ()
    """GPUs to use, named as in CUDA_VISIBLE_DEVICES. Empty: all that are visible. Each GPU, or each
    group of `tensor_parallel_size` GPUs, runs an engine."""
    tensor_parallel_size: int = Field(default=1, ge=1)
    """GPUs per engine (vLLM)."""
    gpu_memory_utilization: float = Field(default=0.95, gt=0, le=1)
    """Fraction of the GPU's memory that vLLM may use."""
    enforce_eager: bool = False
    """Run vLLM without CUDA graphs: it starts faster, uses less memory and generates more
    slowly."""
    prompt: str = "plain"
    """`plain`: the problem, then the instruction to box the answer. `chat`: the same text as a
    user's message in the tokenizer's chat template. Any other text is a template of your own and
    must contain {problem}."""
    tokenizer_of_before: Literal["own", "after"] | None = None
    """Tokenizer and chat template of the prompts for `before`. after: those of all other
    checkpoints, so every checkpoint reads the same token ids. own: its own; the prompts may then be
    other token ids, and `before` gets no likelihoods of after's completions. null: as with after,
    but the sweep is refused if a token id of the prompts is another token to before's tokenizer."""
    n_samples: int = Field(default=4, ge=1)
    """Completions to generate per problem."""
    temperature: float = Field(default=1.0, ge=0)
    """Sampling temperature; 0 is greedy decoding."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Nucleus sampling: sample each token from the most likely ones whose probabilities add up to
    this. 1: sample from all tokens."""
    max_tokens: int = Field(default=1024, ge=1)
    """Most tokens of a completion; one that reaches this number counts as truncated."""
    seed: int = 0
    """Base seed. Each completion's seed is derived from it and is the same for all checkpoints."""
    batch_size: int = Field(default=128, ge=1)
    """Completions that the transformers engine generates together."""
    grade_timeout_seconds: float = Field(default=5.0, gt=0)
    """Longest time for grading one answer; beyond it the outcome is `timeout`."""
    second_grader: Literal["math-verify", "off"] = "math-verify"
    """math-verify: grade every completion again once its first grade is written; the report says
    where the two graders disagree. Accuracies use the first grades only. off: grade once."""
    sampled: tuple[str, ...] = (AUTO,)
    """Checkpoints that draw completions of their own: a list of ids such as [before, alpha-0.5000],
    to which `after` is added. The others only read: their accuracy is estimated from after's graded
    completions and how likely they find these. auto stands for before, after-again, alpha = 0 and
    the gate's checkpoint, or for all checkpoints if after's completions cannot be read (temperature
    0, top_p below 1, or `read` 0). all stands for all checkpoints."""
    read: int | None = Field(default=None, ge=0)
    """Number of after's completions per problem whose likelihood is computed under every
    checkpoint, sampled or not. null: all of them. 0: none."""
    repeat_after: bool = False
    """Also evaluate `after` with other seeds, to see the effect of sampling noise alone (A/A)."""

    @model_validator(mode="before")
    @classmethod
    def _older_name(cls, given: object) -> object:
        """`read` was called teacher_forced, and its default was 1."""
        if isinstance(given, Mapping) and "teacher_forced" in given and "read" not in given:
            return {"read" if k == "teacher_forced" else k: v for k, v in given.items()}
        return given

    @property
    def readable(self) -> bool:
        """Whether a checkpoint's accuracy can be estimated by reading after's completions.

        No token may have the sampling probability 0 that another checkpoint would draw.
        """
        return self.temperature > 0 and self.top_p == 1 and self.read != 0

    @property
    def read_temperature(self) -> float:
        """Temperature of the distribution whose log-probabilities are computed: the one that the
        completions were drawn from, or 1 if they cannot be read."""
        return self.temperature if self.readable else 1.0

    @property
    def read_per_problem(self) -> int:
        """Number of after's completions per problem that are read."""
        return self.n_samples if self.read is None else min(self.read, self.n_samples)

    @model_validator(mode="after")
    def _check(self) -> EvaluateConfig:
        if self.prompt not in ("plain", "chat") and "{problem}" not in self.prompt:
            raise ValueError(
                "prompt must contain {problem}, where the problem's text goes, or be plain or chat"
            )
        names = [benchmark.name for benchmark in self.benchmarks]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"benchmark names must differ; given twice: {', '.join(twice)}")
        return self


class RotationsConfig(Settings):
    """How the rotation of the singular bases is measured."""

    base: str | None = None
    """First checkpoint of the chain base, rl1, rl2. Default: `before`."""
    rl1: str
    """Checkpoint between base and rl2."""
    rl2: str | None = None
    """Last checkpoint of the chain. Default: `after`."""
    top_k: int = Field(default=16, ge=1)
    """Singular directions in the top-k metrics, at most a quarter of the matrix's smaller side."""
    null_draws: int = Field(default=1, ge=0)
    """Random updates, of the same norm as the real one, with which each matrix is compared."""
    seed: int = 0
    """Seed of the random updates."""


class MetricsConfig(Settings):
    """How the change of every matrix from `before` to `after` is measured (docs/metrics.md)."""

    null_draws: int = Field(default=1, ge=0)
    """Random updates, of the same norm as the real one, with which each matrix is compared."""
    heads: bool = True
    """Also measure each attention head."""
    seed: int = 0
    """Seed of the random updates."""


class ReportConfig(Settings):
    """Options of the report."""

    title: str | None = None
    """Heading of the report. Default: `Singular-value sweep: <name>`."""


class GateConfig(Settings):
    """When a run counts as a regression."""

    baseline: str | None = None
    """Store of an earlier run to compare with: a folder or an s3:// URL. Default: compare with
    `before` of this run."""
    checkpoint: str = "after"
    """Checkpoint to judge: after, before, alpha-0.2000, … With `baseline`, it is compared with the
    checkpoint of the same name in that run."""
    margin: float = Field(default=0.01, ge=0, lt=1)
    """Accuracy that may be lost, as a fraction: 0.01 is one percentage point."""
    inconclusive: Literal["pass", "fail"] = "pass"
    """Result if the data neither show a loss of more than the margin nor rule it out."""


_MOST_ALPHAS = 10_000
"""More alphas come from a mistyped step, and would be more pods than any cluster takes."""
_ALPHAS_LOOK_LIKE = "[0, 0.5, 1], or a range such as {from: 0, to: 1, step: 0.1}"


def _alphas(value: Any) -> Any:
    """The sorted alphas of a list, a range or a single number.

    Raises:
        ValueError: the value is none of these, or an alpha is not finite or is given twice.
    """
    if isinstance(value, Mapping):
        value = _range(value)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        value = [value]
    if not isinstance(value, (list, tuple)):
        raise ValueError(f"expected a list of numbers such as {_ALPHAS_LOOK_LIKE}")
    numbers = []
    for item in value:
        found = read_as(float, item)
        if not isinstance(found, (int, float)):
            raise ValueError(f"alpha {item!r} is not a number; give {_ALPHAS_LOOK_LIKE}")
        if not math.isfinite(found):
            raise ValueError(f"alpha {item!r} is not finite")
        numbers.append(float(found) + 0.0)  # -0.0 and 0 are one alpha
    if twice := sorted(alpha for alpha, count in Counter(numbers).items() if count > 1):
        raise ValueError(f"alpha given twice: {', '.join(map(str, twice))}")
    return sorted(numbers)


def _range(given: Mapping[str, Any]) -> list[float]:
    """The alphas of {from: …, to: …, step: …}, both ends included, in exact decimals."""
    if set(given) != {"from", "to", "step"}:
        raise ValueError(f"expected a list of numbers such as {_ALPHAS_LOOK_LIKE}")
    read = {key: read_as(float, value) for key, value in given.items()}
    for key, value in read.items():
        if not isinstance(value, (int, float)) or not math.isfinite(value):
            raise ValueError(f"{key} of the range is {given[key]!r}; expected a number")
    start, end, step = (Decimal(str(read[key])) for key in ("from", "to", "step"))
    if step <= 0 or end < start:
        raise ValueError(
            f"a range goes up: from {start} to {end} in steps of {step} has no alpha; expected "
            f"from ≤ to and a step above 0"
        )
    if (end - start) / step >= _MOST_ALPHAS:
        raise ValueError(
            f"steps of {step} from {start} to {end} make more than {_MOST_ALPHAS} alphas"
        )
    steps = int((end - start) / step)
    if start + steps * step != end:
        raise ValueError(
            f"steps of {step} from {start} do not end at {end}: the last would be "
            f"{start + steps * step}. Give that as `to`, or another step"
        )
    return [float(start + i * step) for i in range(steps + 1)]


def _selection(value: Any) -> Any:
    """Replace `all` by the rules that select every 2-D tensor, as other blending scripts do."""
    return {"include": ["."], "embeddings": True} if value == "all" else value


class SweepConfig(Settings):
    """A sweep: two checkpoints in, a report out."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name of the run."""
    before: str
    """Checkpoint before RL: a folder, an s3:// URL, a hub id (`owner/name` or
    `owner/name@revision`), or `BASE + ADAPTER` for a LoRA adapter."""
    after: str
    """Checkpoint after RL, given in one of the same forms. Blends have its singular vectors, unless
    `direction` is reverse."""
    store: str | None = None
    """Folder or s3:// URL that the run is written to. Default: `runs/<name>`."""
    tokenizer: str | None = None
    """Checkpoint whose tokenizer is used for all checkpoints (but see
    `evaluate.tokenizer_of_before`). Default: `after`."""
    alphas: Annotated[tuple[float, ...], BeforeValidator(_alphas)] = (0, 0.2, 0.4, 0.6, 0.8, 1.0)
    """Alphas to blend at: a list, or a range {from: 0, to: 1, step: 0.1} that includes both ends.
    At 1 a blend is `after`, at 0 it has before's singular values; outside [0, 1] it extrapolates.
    With `direction` reverse, `before` and `after` change places."""
    direction: Literal["forward", "reverse"] = "forward"
    """forward: blends have after's singular vectors, and singular values that go from before's
    (alpha = 0) to after's (alpha = 1). reverse: blends have before's singular vectors, and singular
    values that go from after's (alpha = 0) to before's (alpha = 1)."""
    allow_pickle: bool = False
    """Read pickled `.bin` weights (with weights_only) if a checkpoint has no safetensors file."""
    selection: Annotated[SelectionConfig, BeforeValidator(_selection)] = SelectionConfig()
    """Give `all` instead of a section to blend every 2-D tensor, embeddings included."""
    compute: ComputeConfig = ComputeConfig()
    decompose: DecomposeConfig = DecomposeConfig()
    blend: BlendConfig = BlendConfig()
    evaluate: EvaluateConfig | None = None
    """null: no evaluation."""
    checkpoints: dict[str, str] = Field(default={})
    """Further checkpoints to evaluate, e.g. the steps of an RL run, by names such as step-50. Each
    is given in one of the forms of `before`."""
    variants: Annotated[dict[str, VariantConfig], BeforeValidator(one_per_seed)] = Field(default={})
    """Weights that are computed from `before` and `after` to be evaluated, by names. They are never
    written. A list as `seed` stands for several variants, NAME-0, NAME-1 and so on."""
    map: MapConfig | None = None
    """null: no map."""
    rotations: RotationsConfig | None = None
    """null: the rotation is not measured."""
    metrics: MetricsConfig | None = None
    """null: the change of the matrices is not measured."""
    report: ReportConfig = ReportConfig()
    gate: GateConfig | None = None
    """null: no verdict on regressions."""

    @model_validator(mode="after")
    def _evaluable(self) -> SweepConfig:
        unwritten = not self.blend.write_checkpoints
        if unwritten and self.evaluate is not None and not self.evaluate.reuse_engine:
            raise ValueError(
                "blend.write_checkpoints false needs evaluate.reuse_engine true: an engine cannot "
                "be started from a blend whose weights are not written"
            )
        return self

    @model_validator(mode="after")
    def _samples_what_it_has(self) -> SweepConfig:
        known = self._evaluated()
        for checkpoint_id in self.evaluate.sampled if self.evaluate else ():
            if checkpoint_id not in (*known, AUTO, ALL):
                raise ValueError(
                    f"evaluate.sampled: no checkpoint {checkpoint_id!r} in this run; it has "
                    f"{', '.join(known)}; {AUTO} and {ALL} stand for several"
                )
        if self.evaluate and not {AUTO, ALL} & {*self.evaluate.sampled}:
            idle = [i for i in known if i not in ("after", *self.evaluate.sampled)]
            idle = [i for i in idle if self.evaluate.read == 0 or self._cannot_read(i)]
            if idle:
                raise ValueError(
                    f"{idle[0]} would neither draw completions nor read after's: add it to "
                    f"evaluate.sampled"
                )
        return self

    def _cannot_read(self, checkpoint_id: str) -> bool:
        return checkpoint_id == REPEAT_ID or (
            checkpoint_id == "before" and self.before_has_own_tokenizer
        )

    def _evaluated(self) -> list[str]:
        again = [REPEAT_ID] if self.evaluate and self.evaluate.repeat_after else []
        alphas = [alpha_id(alpha) for alpha in self.alphas]
        return ["before", "after", *again, *alphas, *self.checkpoints, *self.variants]

    @model_validator(mode="after")
    def _names_are_free(self) -> SweepConfig:
        alphas = [alpha_id(alpha) for alpha in self.alphas]
        taken = {"before", "after", REPEAT_ID, VARIANTS, ENGINES, AUTO, ALL, *alphas}
        for section in ("checkpoints", "variants"):
            for name in getattr(self, section):
                if not _NAME.fullmatch(name) or name.startswith((MAP_PREFIX, "alpha-")):
                    raise ValueError(
                        f"{section}: {name!r} is no name; use letters, digits, ., _ and -, and do "
                        f"not begin with {MAP_PREFIX} or alpha-"
                    )
                if name in taken:
                    raise ValueError(f"{section}: the name {name!r} is taken")
                taken.add(name)
        if (self.variants or self.map) and self.evaluate is None:
            raise ValueError("variants and map need an `evaluate` section")
        if (self.variants or self.map) and self.evaluate and not self.evaluate.reuse_engine:
            raise ValueError(
                "variants and map need evaluate.reuse_engine true: an engine cannot be started "
                "from weights that are not written"
            )
        if (
            (self.variants or self.map)
            and self.evaluate
            and self.evaluate.dtype in ("bfloat16", "float16")
            and not self.evaluate.allow_lossy_dtype
        ):
            raise ValueError(
                f"evaluate.dtype {self.evaluate.dtype} rounds variants and the map, often by more "
                f"than they differ from `after`: use float32, or set evaluate.allow_lossy_dtype"
            )
        if (self.variants or self.map) and self.direction == "reverse":
            raise ValueError("variants and map need direction forward: they change `after`")
        if self.map and self.evaluate and not self.evaluate.readable:
            raise ValueError(
                "map needs completions that can be read: evaluate.temperature above 0, top_p 1, "
                "and `read` not 0"
            )
        return self

    @model_validator(mode="after")
    def _judgeable(self) -> SweepConfig:
        if self.gate is None:
            return self
        if self.evaluate is None:
            raise ValueError("gate needs an `evaluate` section: it compares accuracies")
        known = self._evaluated()
        if self.gate.checkpoint not in known:
            raise ValueError(
                f"gate.checkpoint {self.gate.checkpoint!r} is not in this run; it has "
                f"{', '.join(known)}"
            )
        judged = [self.gate.checkpoint, *(["before"] if self.gate.baseline is None else [])]
        sampled = ("after", *self.evaluate.sampled)
        if lacking := [i for i in judged if i not in sampled and not {AUTO, ALL} & {*sampled}]:
            raise ValueError(
                f"the gate compares completions of {' and '.join(lacking)}, which draws none: add "
                f"it to evaluate.sampled"
            )
        if self.gate.baseline is None and self.evaluate.tokenizer_of_before == "own":
            raise ValueError(
                "evaluate.tokenizer_of_before own gives before other token ids than the checkpoint "
                "that the gate compares it with: set gate.baseline, or set tokenizer_of_before to "
                "after"
            )
        if self.gate.baseline is None and self.gate.checkpoint == "before":
            raise ValueError(
                "gate.checkpoint before would be compared with itself: set gate.baseline to the "
                "store of an earlier run"
            )
        return self

    @property
    def evaluation(self) -> EvaluateConfig:
        """The `evaluate` section.

        Raises:
            ConfigError: the config has none.
        """
        if self.evaluate is None:
            raise ConfigError("this config has no `evaluate` section.")
        return self.evaluate

    @property
    def benchmarks(self) -> tuple[BenchmarkConfig, ...]:
        """The benchmarks of the evaluation; none without one."""
        return self.evaluate.benchmarks if self.evaluate else ()

    @property
    def before_has_own_tokenizer(self) -> bool:
        """Whether `before` is asked with its own tokenizer, all others with another."""
        return self.evaluate is not None and self.evaluate.tokenizer_of_before == "own"

    @property
    def store_url(self) -> str:
        """The path or URL of the store."""
        return self.store or f"runs/{self.name}"

    @property
    def bases_of(self) -> Literal["before", "after"]:
        """The checkpoint that gives a blend its singular vectors and the tensors that are not
        blended: a blend equals it at alpha = 1."""
        return "after" if self.direction == "forward" else "before"

    @property
    def values_of(self) -> Literal["before", "after"]:
        """The checkpoint that gives a blend its singular values at alpha = 0."""
        return "before" if self.direction == "forward" else "after"


VARIANTS = "variants"
"""Stands for all variants where a checkpoint id is expected: they are evaluated together."""
ENGINES = "engines"
"""Stands for all that a run evaluates where a checkpoint id is expected: engines share it."""
MAP_PREFIX = "map-"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
REPEAT_ID = "after-again"
"""Checkpoint id of `after` evaluated with other seeds."""


def alpha_id(alpha: float) -> str:
    """The checkpoint id of a blend: `alpha-0.2000`, with more decimals if the alpha has more."""
    short = f"{alpha:.4f}"
    return f"alpha-{short if float(short) == alpha else repr(alpha)}"
