"""What a user may say: frozen models that refuse unknown keys.

A docstring under each field is its documentation.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from svdjobs.benchmarks import complete
from svdjobs.errors import ConfigError
from svdjobs.settings import Settings, read_as

StorageDtype = Literal["float32", "bfloat16", "float16"]


class SelectionConfig(Settings):
    """Which tensors are decomposed and blended."""

    include: tuple[str, ...] = ()
    """Regular expressions; a 2-D tensor is taken if one matches its name. Empty: attention and MLP
    weights."""
    exclude: tuple[str, ...] = ()
    """Regular expressions; a tensor one of them matches is copied from after."""
    embeddings: bool = False
    """Also blend the embedding and lm_head matrices (tied ones once)."""
    minimum_coverage: float = Field(default=0.8, ge=0, le=1)
    """Least share of attention and MLP parameters that has to be blended; a sweep that would
    measure less is refused. What `include` and `exclude` leave out is not counted."""


class DecomposeConfig(Settings):
    """How the weight matrices are decomposed."""

    parts: int = Field(default=0, ge=0)
    """Files the factors are spread over, balanced by cost; 0 chooses."""
    workers: int = Field(default=0, ge=0)
    """Matrices decomposed at a time on one machine; 0 fits them to cores and memory."""
    shards: int = Field(default=0, ge=0)
    """Pods that share the parts of each checkpoint on a cluster; 0 chooses."""


class BlendConfig(Settings):
    """How blended checkpoints are written."""

    storage_dtype: StorageDtype = "float32"
    """bfloat16 and float16 round most of an RL-sized blend away; the report says how much."""
    max_shard_bytes: int = Field(default=5_000_000_000, ge=1)
    """A checkpoint larger than this is written as several files with an index."""
    write_checkpoints: bool = True
    """false: measure the blends without writing their weights; a reused engine computes them."""
    svd_logs: bool = True
    """Write each tensor's spectra as `svd_logs/alpha_*/<tensor>.pt`."""


class BenchmarkConfig(Settings):
    """One set of problems with reference answers; a plain string is the name of a known one.

    Known: `svdjobs/benchmarks.py`. What is known fills the keys that are not given.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Names the result folder. A known name also says how many problems there must be."""
    data: str = ""
    """A local JSONL or Parquet file, or a hub data set id; default: where the known one is."""
    subset: str | None = None
    """Configuration of a hub data set that has several."""
    split: str = "test"
    """Split of a hub data set."""
    revision: str | None = None
    """Commit of a hub data set. Known ones are pinned; of others, the commit found is recorded."""
    problem_field: str = "problem"
    """Field of a row that holds the problem's text."""
    answer_field: str = "answer"
    """Field of a row that holds the reference answer."""
    limit: int | None = Field(default=None, ge=1)
    """Use only the first so many problems."""

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, given: object) -> object:
        return complete(given)


class EvaluateConfig(Settings):
    """How every checkpoint is asked, with identical prompts and seeds."""

    benchmarks: tuple[BenchmarkConfig, ...] = Field(min_length=1)
    """What is asked. Each is a name that svdjobs knows, or a section of its own."""
    engine: Literal["auto", "vllm", "transformers"] = "auto"
    """auto: vLLM where it is installed and can run the checkpoint, transformers elsewhere."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Compute dtype of the engine. auto: after's own where its rounding is small beside the blends,
    else float32; on a cluster, where no pod sees all blends, float32."""
    allow_lossy_dtype: bool = False
    """Evaluate in a 16-bit dtype although its rounding drowns the blends. On a cluster each
    alpha's pod looks for itself whether it does, after the baselines."""
    shards: int = Field(default=1, ge=1)
    """Pods that share each benchmark's problems on a cluster."""
    reuse_engine: bool = True
    """Start one engine and put each checkpoint's weights into it, instead of one engine each."""
    devices: tuple[str, ...] = ()
    """GPUs to use, as CUDA_VISIBLE_DEVICES names them; empty: all. Each gets an engine."""
    tensor_parallel_size: int = Field(default=1, ge=1)
    """GPUs that share one engine (vLLM)."""
    gpu_memory_utilization: float = Field(default=0.95, gt=0, le=1)
    """Share of the GPU's memory that vLLM may take."""
    enforce_eager: bool = False
    """No CUDA graphs (vLLM): slower, starts faster, takes less memory."""
    prompt: str = "plain"
    """`plain`: the problem and the instruction to box the answer; `chat`: the same in the
    tokenizer's chat template; or a template of your own that contains {problem}."""
    tokenizer_of_before: Literal["own", "after"] | None = None
    """With whose tokenizer and chat template `before` is asked. after: with the tokenizer of all
    others, so that every checkpoint is given the same token ids. own: with its own; then the
    questions may be other token ids, and `before` reads none of after's answers. None: after's,
    refused where the two give the same token other ids."""
    n_samples: int = Field(default=4, ge=1)
    """Completions drawn per problem."""
    temperature: float = Field(default=1.0, ge=0)
    """0 is greedy decoding."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Draw each token from the likeliest ones that together have this probability; 1: from all."""
    max_tokens: int = Field(default=1024, ge=1)
    """A completion that reaches this is counted as truncated."""
    seed: int = 0
    """Base of the per-(problem, sample) seeds, which all checkpoints share."""
    batch_size: int = Field(default=128, ge=1)
    """Completions generated together by the transformers engine."""
    grade_timeout_seconds: float = Field(default=5.0, gt=0)
    """Longest time for the grading of one answer, which is then counted as `timeout`."""
    second_grader: Literal["math-verify", "off"] = "math-verify"
    """Grades every completion once more, after the first grades are kept: the report says where the
    two disagree. No score is made from it."""
    teacher_forced: int = Field(default=1, ge=0)
    """Of after's completions per problem, how many every checkpoint's likelihood is taken of."""
    repeat_after: bool = False
    """Also evaluate after with other seeds (an A/A comparison): what noise alone looks like."""

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
    """Start of the chain; default: `before`."""
    rl1: str
    """A checkpoint between base and rl2."""
    rl2: str | None = None
    """End of the chain; default: `after`."""
    top_k: int = Field(default=16, ge=1)
    """Leading directions in the top-k metrics; at most a quarter of the smaller side is used."""
    null_draws: int = Field(default=1, ge=0)
    """Random updates of the same norm that each tensor is compared with."""
    seed: int = 0
    """Of the random updates."""


class ReportConfig(Settings):
    """What the report says."""

    title: str | None = None
    """Heading of the report; default: the run's name."""


class GateConfig(Settings):
    """When a run is a regression."""

    baseline: str | None = None
    """Store of an earlier run, s3://… or a folder; default: this run's own `before`."""
    checkpoint: str = "after"
    """Whose answers are judged: after, before, alpha-0.2000…; the same one of the baseline run."""
    margin: float = Field(default=0.01, ge=0, lt=1)
    """Accuracy that may be lost, as a share of completions: 0.01 is one point."""
    inconclusive: Literal["pass", "fail"] = "pass"
    """What to do where the data show neither a loss beyond the margin nor that there is none."""


_MOST_ALPHAS = 10_000
"""More are a slip of the step, and make more pods than any cluster takes."""
_ALPHAS_LOOK_LIKE = "[0, 0.5, 1], or a range such as {from: 0, to: 1, step: 0.1}"


def _alphas(value: Any) -> Any:
    """Accept a list of numbers or a range, and say which alpha is wrong."""
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
        raise ValueError(f"steps of {step} from {start} to {end} make more than {_MOST_ALPHAS}")
    steps = int((end - start) / step)
    if start + steps * step != end:
        raise ValueError(
            f"steps of {step} from {start} do not come to {end}: the last would be "
            f"{start + steps * step}. Give that as `to`, or another step"
        )
    return [float(start + i * step) for i in range(steps + 1)]


def _selection(value: Any) -> Any:
    """`all`: every 2-D tensor, as scripts of the field blend them."""
    return {"include": ["."], "embeddings": True} if value == "all" else value


class SweepConfig(Settings):
    """A whole sweep: two checkpoints in, a report out."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Names the run."""
    before: str
    """The checkpoint before RL: a folder, or a hub id with optional revision:
    `owner/name@revision`."""
    after: str
    """The checkpoint after RL, whose singular vectors every blend keeps; named as `before` is."""
    store: str | None = None
    """Where the run lives; default `runs/<name>`."""
    tokenizer: str | None = None
    """Whose tokenizer is used for every checkpoint; default: `after`."""
    alphas: Annotated[tuple[float, ...], BeforeValidator(_alphas)] = (0, 0.2, 0.4, 0.6, 0.8, 1.0)
    """1 is after, 0 has before's singular values; outside [0, 1] is extrapolation. A list, or a
    range {from: 0, to: 1, step: 0.1} with both its ends."""
    direction: Literal["forward", "reverse"] = "forward"
    """forward: after's singular vectors with values that go from before's to after's. reverse:
    before's singular vectors with values that go from after's (alpha = 0) to before's (alpha = 1,
    which is before bit for bit)."""
    allow_pickle: bool = False
    """Read `.bin` checkpoints (weights only) where there is no safetensors file."""
    selection: Annotated[SelectionConfig, BeforeValidator(_selection)] = SelectionConfig()
    decompose: DecomposeConfig = DecomposeConfig()
    blend: BlendConfig = BlendConfig()
    evaluate: EvaluateConfig | None = None
    """None: no evaluation."""
    rotations: RotationsConfig | None = None
    """None: no rotation measurements."""
    report: ReportConfig = ReportConfig()
    gate: GateConfig | None = None
    """None: no verdict on regressions."""

    @model_validator(mode="after")
    def _evaluable(self) -> SweepConfig:
        unwritten = not self.blend.write_checkpoints
        if unwritten and self.evaluate is not None and not self.evaluate.reuse_engine:
            raise ValueError(
                "blend.write_checkpoints false needs evaluate.reuse_engine true: there is no "
                "checkpoint to start another engine from"
            )
        return self

    @model_validator(mode="after")
    def _judgeable(self) -> SweepConfig:
        if self.gate is None:
            return self
        if self.evaluate is None:
            raise ValueError("gate needs an `evaluate` section: it judges answers")
        again = [REPEAT_ID] if self.evaluate.repeat_after else []
        known = ["before", "after", *again, *map(alpha_id, self.alphas)]
        if self.gate.checkpoint not in known:
            raise ValueError(
                f"gate.checkpoint {self.gate.checkpoint!r} is not in this run; it has "
                f"{', '.join(known)}"
            )
        if self.gate.baseline is None and self.evaluate.tokenizer_of_before == "own":
            raise ValueError(
                "evaluate.tokenizer_of_before own asks before other token ids than the checkpoint "
                "it is compared with: give gate.baseline, or tokenizer_of_before after"
            )
        if self.gate.baseline is None and self.gate.checkpoint == "before":
            raise ValueError(
                "gate.checkpoint before would be compared with itself: give gate.baseline, the "
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
        """Where this run lives."""
        return self.store or f"runs/{self.name}"

    @property
    def bases_of(self) -> Literal["before", "after"]:
        """The checkpoint that a blend is at alpha = 1: it gives the singular vectors, and all that
        is not blended."""
        return "after" if self.direction == "forward" else "before"

    @property
    def values_of(self) -> Literal["before", "after"]:
        """The checkpoint whose singular values a blend has at alpha = 0."""
        return "before" if self.direction == "forward" else "after"


# After once more with other seeds: what noise alone looks like.
REPEAT_ID = "after-again"


def alpha_id(alpha: float) -> str:
    """Name of an alpha's checkpoint: `alpha-0.2000`; more digits where four would lose some."""
    short = f"{alpha:.4f}"
    return f"alpha-{short if float(short) == alpha else repr(alpha)}"
