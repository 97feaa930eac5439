"""The frozen records that stages write and read; no I/O, no formulas."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    model_serializer,
    model_validator,
)

from svdjobs.errors import FormatError


class Record(BaseModel):
    """Base of all records: frozen, without unknown fields; field docs are docstrings.

    If a field moves or changes its meaning, raise `FORMAT` and add a function to `MIGRATIONS` that
    reads the previous format. Runs of every earlier version then stay readable. A document of
    format 1 has no `format` field, since records had none at first.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    FORMAT: ClassVar[int] = 1
    MIGRATIONS: ClassVar[Mapping[int, Callable[[dict[str, Any]], dict[str, Any]]]] = {}
    """By format: a function that turns its document into one of the next format."""

    @classmethod
    def read(cls, document: Any) -> Self:
        """Read a record of this or an older format from a JSON document, as text or parsed.

        Raises:
            ValidationError: the document is not such a record.
            FormatError: a newer svdjobs has written the document.
        """
        if isinstance(document, (str, bytes, bytearray)):
            return cls.model_validate_json(document, context=_STORED)
        return cls.model_validate(document, context=_STORED)

    @model_validator(mode="before")
    @classmethod
    def _migrate(cls, document: Any, info: ValidationInfo) -> Any:
        if info.context is not _STORED or not isinstance(document, dict):
            return document  # a new record
        if "format" not in document and not cls.MIGRATIONS:
            return document
        document = dict(document)
        stored = document.pop("format", 1)
        if not isinstance(stored, int) or not stored >= 1:
            raise ValueError(f"format is {stored!r:.80}, expected is a whole number above 0")
        if stored > cls.FORMAT:
            raise FormatError(
                f"a newer svdjobs has written this {cls.__name__} (format {stored}; this version "
                f"reads up to {cls.FORMAT}). Use that version, or another store."
            )
        for older in range(stored, cls.FORMAT):
            document = cls.MIGRATIONS[older](document)
        return document

    @model_serializer(mode="wrap")
    def _with_format(self, fields: SerializerFunctionWrapHandler) -> dict[str, Any]:
        document: dict[str, Any] = fields(self)
        return {"format": self.FORMAT, **document} if self.FORMAT > 1 else document


# Validation context of a stored document; the fields of a new record have none.
_STORED = {"stored": True}


def checked_key(key: str) -> str:
    """Return a key if it names an object below a prefix, in every kind of store and on a disk.

    Raises:
        ValueError: the key leads out of the prefix, or cannot be printed.
    """
    parts = key.split("/")
    if not key.isprintable() or "\\" in key or not {"", ".", ".."}.isdisjoint(parts):
        raise ValueError(
            f"{key!r:.200} is no key; expected is a relative path without empty parts, '.', '..', "
            f"backslashes or control characters"
        )
    return key


class FileRecord(Record):
    """An object that a stage has written."""

    key: Annotated[str, AfterValidator(checked_key)]
    """Key below the prefix of the manifest."""
    bytes: int
    sha256: str


class Manifest(Record):
    """The manifest of an output. It is written last; without it the output does not exist.

    It has no time or host name, so the same work gives the same bytes.
    """

    stage: str
    fingerprint: str
    """sha256 of the stage, its settings, the fingerprints of its inputs and its code version."""
    inputs: dict[str, str]
    """Fingerprint of each input, by name."""
    config: dict[str, Any]
    files: list[FileRecord]
    provenance: dict[str, str]
    """Versions of libraries, and the git commit of svdjobs."""

    def file(self, name: str) -> FileRecord | None:
        """The record of the file with a name; None if the manifest lists no such file."""
        return next((file for file in self.files if file.key == name), None)


SkipReason = Literal[
    "missing_in_before",
    "missing_in_after",
    "ndim!=2",
    "shape_mismatch",
    "embedding",
    "excluded",
    "not_included",
    "not_a_weight",
    "not_attention_or_mlp",
    "not_floating_point",
    "empty",
    "tied",
    "router",
    "linear_attention",
    "state_space",
    "convolution",
    "fused",
]


class TensorPlan(Record):
    """The plan for one tensor of `after`, or of `before` in a reversed sweep."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    skip: SkipReason | None = None
    """None: the tensor is decomposed and blended. Otherwise the reason why it is copied instead, or
    left out if it is `tied`."""

    @property
    def elements(self) -> int:
        """Number of parameters."""
        return math.prod(self.shape)


class Estimate(Record):
    """Estimated cost of a sweep, from headers; the same on every machine."""

    decompose_flops: float
    blend_flops: float
    blended_elements: int
    """Elements of all blended matrices, times the number of alphas."""
    bytes_read: int
    bytes_written: int
    vector_bytes: int = 0
    """Of these, singular vectors."""
    checkpoint_bytes: int = 0
    """Of these, weights of blended checkpoints."""
    peak_memory_bytes: int


class RoundingRecord(Record):
    """Effect of storing the matrices of one module family in 16 bits, from a sample."""

    noise: float
    """‖E‖/‖W‖, where E is the rounding error in after − before."""
    weight_rms: float
    """Root mean square of after's weights."""


class Plan(Record):
    """The output of `plan`: the tensors, their parts, and the cost."""

    before: str
    after: str
    architecture: str
    tensors: list[TensorPlan]
    parts: list[list[str]]
    """Tensor names of each decompose part, balanced by cost."""
    only_in_before: list[str]
    notes: list[str] = []
    """Sentences for the user on how the checkpoints are read."""
    rounding: dict[str, RoundingRecord] = {}
    """By module family; families whose weights lie on no 16-bit grid are missing."""
    estimate: Estimate

    @property
    def selected(self) -> list[TensorPlan]:
        """The tensors that will be blended."""
        return [tensor for tensor in self.tensors if tensor.skip is None]

    @property
    def routers(self) -> list[TensorPlan]:
        """The matrices that choose experts. They are measured, but not blended by default."""
        return [tensor for tensor in self.tensors if tensor.skip == "router"]

    @property
    def measured(self) -> list[TensorPlan]:
        """The tensors whose change is measured."""
        return self.selected + self.routers


class FactorRecord(Record):
    """One decomposed tensor and the self-checks it passed."""

    name: str
    shape: tuple[int, int]
    method: Literal["gram", "svd"]
    """`svd` is the direct float64 fallback, used if a self-check of `gram` failed."""
    checks: dict[str, float]
    """Each self-check's relative error, by name."""
    sha256: dict[str, str]
    """sha256 of each tensor, `s` and `basis`, since tensors are read one by one."""


class CastRecord(Record):
    """How much of a blend survives one storage dtype.

    In a reversed sweep W_after is the matrix of `before`.
    """

    projection: float
    """⟨cast(W(alpha)) − W_after, D⟩."""
    signal: float
    """(1−alpha)·‖D‖²."""
    error: float
    """‖[cast(W(alpha)) − cast(W_after)] − (1−alpha)·D‖²."""
    change: float
    """‖(1−alpha)·D‖²."""

    @property
    def fraction(self) -> float | None:
        """Realised fraction of the change; None if there is no signal."""
        return self.projection / self.signal if self.signal else None

    @property
    def relative_error(self) -> float | None:
        """Error of the difference to after, as a fraction of it; None if there is no signal."""
        return math.sqrt(self.error / self.change) if self.change else None


class BlendRecord(Record):
    """One blended tensor at one alpha.

    In a reversed sweep, s_after and W_after are those of `before`, and s_before is that of `after`.
    """

    name: str
    shape: tuple[int, int]
    guarded: int
    """Directions left untouched because s_after is numerically zero there."""
    signal_norm: float
    """‖D‖_F."""
    weight_norm: float
    """‖W_after‖_F."""
    casts: dict[str, CastRecord]
    spectrum_error: float | None
    """max |s(W(0)) − s_before| / s₁ if it was computed, else None. W(alpha) is affine in alpha
    with the same D, so a check of W(0) is enough."""
    log_file: str


class Outcome(StrEnum):
    """The outcome of a graded completion. Only `correct` counts as 1; each failure has its name."""

    CORRECT = "correct"
    WRONG = "wrong"
    NO_ANSWER = "no_answer"
    TRUNCATED = "truncated"
    PARSE_ERROR = "parse_error"
    TIMEOUT = "timeout"
    GOLD_ERROR = "gold_error"


class Problem(Record):
    """A problem of a benchmark."""

    idx: int
    problem: str
    gold: str


class Completion(Record):
    """A generated completion."""

    idx: int
    """Index of the problem."""
    sample_index: int
    seed: int
    text: str
    finish_reason: Literal["stop", "length"]
    completion_tokens: int
    token_ids: tuple[int, ...] = ()
    """The generated tokens, including the stop token."""


class Grade(Record):
    """The grade of a completion."""

    idx: int
    sample_index: int
    outcome: Outcome
    answer: str | None
    """The answer in the completion: the last box if there is one; None without an answer."""
    boxed: bool | None = None
    """Whether the answer was in a complete box, as the prompt asks; None without an answer."""
    answer_class: int | None = None
    """Equal for equivalent answers to one problem, from 0 in order of appearance. None without an
    answer, or if classes were not computed."""


class SecondGrade(Record):
    """The second grader's verdict on a completion."""

    idx: int
    sample_index: int
    correct: bool | None
    """None if the second grader took too long or crashed."""


class Disagreement(Record):
    """A completion on which the two graders disagree."""

    checkpoint: str
    idx: int
    sample_index: int
    gold: str
    answer: str | None
    outcome: Outcome
    """The outcome by the first grader, which accuracies are computed from."""
    second_correct: bool


class Agreement(Record):
    """Agreement of the two graders on the completions of one checkpoint."""

    both_correct: int
    neither: int
    only_first: int
    only_second: int
    undecided: int
    """Completions on which the second grader took too long or crashed."""
    disagreements: list[Disagreement]

    @property
    def share(self) -> float:
        """Disagreements as a fraction of the completions that both graded."""
        disagreements = self.only_first + self.only_second
        return disagreements / max(1, disagreements + self.both_correct + self.neither)


def _compact(values: list[float]) -> Any:
    return array("d", values)


Floats = Annotated[list[float], AfterValidator(_compact), PlainSerializer(list)]
"""Numbers of which a run has millions: 8 bytes each in memory."""


class Likelihood(Record):
    """Log-probabilities of one of after's completions under a checkpoint."""

    idx: int
    """Index of the problem."""
    sample_index: int
    log_probabilities: Floats
    """Of each token of the completion, given the prompt and the previous tokens."""
    unread: Literal["context", "vocabulary"] | None = None
    """Why the checkpoint cannot read the completion: it does not fit the context, or contains a
    token that the checkpoint does not embed. There are no log-probabilities then."""


Refused = Literal["too far", "lacking", "noise", "one grade"]
"""Why a checkpoint is not read. too far: the weights of the completions are too uneven. lacking:
their mean is not 1, so the checkpoint would draw completions that after never drew. noise: it
differs from after by less than the engine's own rounding. one grade: all of after's completions
are right, or all wrong, so their weights say nothing about accuracy."""


class MapReading(Record):
    """What one part of the map carries: how the checkpoint differs from after if the part is
    rewound to before."""

    layer: int | None
    family: str
    change: float
    """‖W′ − W‖/‖W‖ over the matrices of the part."""
    accuracy: Interval | None
    """Accuracy minus after's, for problems like these; None if it is refused."""
    refused: Refused | None = None
    nulls: list[Interval]
    """The same for each random change of the same size that can be read."""
    p: float | None
    """p that the part does no more than a random change of its size, by Holm's method over the map;
    without random changes in the config, that it does nothing."""
    per_problem: dict[int, float] = {}
    """Each problem's difference in accuracy, for all parts together; else empty."""
    nll: Interval
    """NLL of after's completions minus that under after, in nats per token."""
    kl: Interval
    """KL(after ‖ this) in nats per token."""


class VariantChange(Record):
    """How far a variant is from after."""

    matrices: int
    """Matrices that it changes."""
    change: float
    """‖W′ − W‖/‖W‖ over them."""
    defect: float | None
    """Largest ‖QᵀQ − 1‖_F of a mixed basis before it was projected; None if none was."""


class MapCell(Record):
    """What after's completions are to a variant of the map, in which one part is rewound.

    The lists are by problem and sample, for the completions that after has read.
    """

    layer: int | None
    """None: all parts of the map together."""
    family: str
    """The column: a module family, `head 3`, or what is taken from before; `all` for all parts
    together."""
    null: int | None = None
    """Number of a random change of the same size; None: the part is rewound to before."""
    change: float
    """‖W′ − W‖/‖W‖ over the matrices of the part."""
    log_ratios: Floats
    """log p_variant − log p_after of each completion."""
    divergences: Floats
    """e^d − 1 − d, d = log p_variant − log p_after, summed over each completion's tokens."""


class Interval(Record):
    """A number with its 95 % interval; without one, `low` and `high` are None, never equal."""

    value: float
    low: float | None = None
    high: float | None = None
    standard_error: float | None = None


class Reading(Record):
    """What a checkpoint would score on a benchmark, read from after's graded completions.

    Differences are of shares of completions, the checkpoint's minus after's. They are None if
    `refused`.
    """

    completions: int
    """Completions that both after and the checkpoint have read."""
    unread: int
    """Completions of after that the checkpoint cannot read, or has not read."""
    refused: Refused | None = None
    accuracy: Interval | None = None
    """For problems like these: the problems count as a sample."""
    accuracy_here: Interval | None = None
    """For these very problems: without an interval if each has one completion."""
    truncated: Interval | None = None
    """Completions that are cut off before they give an answer, for problems like these."""
    no_answer: Interval | None = None
    """Completions that end without an answer, for problems like these."""
    minus_sampled: Interval | None = None
    """The difference as read minus as sampled, paired by problem; None without samples."""
    minus_sampled_p: float | None = None
    """Two-sided p of no such difference."""
    effective_share: float
    """Effective sample size as a share of the completions."""
    largest_share: float
    """The largest weight as a share of their sum."""
    pareto_k: float | None
    mean_weight: Interval
    """Its expectation is 1."""
    spread: float
    """Root mean square of the log weights."""
    noise: float | None
    """The same between two readings of after; None in older runs, which read it once."""
    per_problem: dict[int, float] = {}
    """Each problem's difference in accuracy."""
    engine_error: float = 0.0
    """Standard error that the engine's rounding alone gives the difference."""


class Comparison(Record):
    """Two checkpoints on the same problems."""

    difference: Interval
    """Mean over problems of the score minus the baseline's score."""
    p: float
    """Two-sided sign-flip p of no difference; exact if `changed` is at most 16, else Monte
    Carlo."""
    mcnemar_p: float | None
    """Exact McNemar p if there is one completion per problem, else None."""
    detectable: float | None
    """Smallest true difference that this design finds with probability 0.8; None without
    spread."""
    problems: int
    changed: int
    """Problems whose score differs between the two."""


class Slope(Record):
    """Linear trend of problem scores over the alphas of a sweep."""

    slope: Interval
    """Mean over problems of the slope on alpha: the change in score from alpha = 0 to 1 along a
    straight line."""
    p: float
    """Two-sided sign-flip p of no trend, over problems."""
    detectable: float | None
    """Smallest true slope that this design finds with probability 0.8; None without spread."""
    alphas: list[float]
    problems: int


GateOutcome = Literal["passed", "inconclusive", "regression"]


class GateSide(Record):
    """One side of a gate's comparison on a benchmark: the judged checkpoint, or the baseline."""

    avg_at_n: Interval
    completions: int
    truncated: int
    """Completions that hit max_tokens."""
    unscored: int
    """Completions whose answer could not be graded; they count as not correct."""


class GateRow(Record):
    """A gate's result on one benchmark."""

    benchmark: str
    outcome: GateOutcome
    n: int
    """Completions per problem."""
    judged: GateSide
    baseline: GateSide
    comparison: Comparison
    """Judged minus baseline, on the same problems and seeds."""
    loss_p: float
    """One-sided p of the null hypothesis that the loss is at most the margin."""
    loss_p_adjusted: float
    """`loss_p` adjusted by Holm's method over all benchmarks; a regression if at most 0.05."""
    passing_margin: float
    """The benchmark passes with any larger margin; a negative value shows a gain."""
    problems_needed: int | None
    """Problems that tell a loss of the margin from none with probability 0.8; else None."""
    same_checkpoint: bool
    """Whether both sides have the same weights."""


class Gate(Record):
    """A gate's verdict on a run."""

    name: str
    checkpoint: str
    baseline: str
    """Store of the baseline run, or `this run`."""
    baseline_checkpoint: str
    margin: float
    inconclusive: Literal["pass", "fail"]
    outcome: GateOutcome
    """The worst outcome of all benchmarks."""
    failed: bool
    """Whether `svdjobs gate` ends with the code of a regression."""
    rows: list[GateRow]
    notes: list[str]
    """Differences between the two runs that do not make them incomparable."""


class Summary(Record):
    """Results of one checkpoint on one benchmark."""

    checkpoint: str
    benchmark: str
    benchmark_sha256: str
    benchmark_revision: str | None = None
    """Commit of the benchmark on the hub; None for a file."""
    prompts_sha256: str
    """sha256 of the token ids of all prompts; different for other prompts."""
    engine: str
    dtype: str
    n: int
    """Completions per problem."""
    problems: int
    avg_at_n: Interval
    """Mean of the problem scores; the standard error is clustered by problem."""
    avg_at_n_boxed: Interval | None = None
    """avg@n if only answers in a box count as correct; None in summaries of older versions."""
    not_boxed: int = 0
    """Completions whose answer, right or wrong, was not in a box."""
    pass_at: dict[int, Interval] = Field(default_factory=dict)
    """Unbiased pass@k for k = 1, 2, 4 … n."""
    maj_at_n: Interval | None = None
    """Majority vote over all n completions, by equivalence class of answers."""
    gold_errors: list[int] = Field(default_factory=list)
    """Problems whose gold cannot be read. No completion of them can be graded, so they are left out
    of all estimates."""
    engine_settings: list[dict[str, Any]] = Field(default_factory=list)
    """All arguments of the engine; several entries if a resumed evaluation had other arguments."""
    outcomes: dict[Outcome, int]
    truncated: int
    """Completions that hit max_tokens, whatever their outcome."""
    completion_tokens_mean: float
    completion_tokens_median: float | None = None
    problem_scores: list[float]
    """Mean score of each problem with a readable gold, in benchmark order. Paired differences are
    computed from these."""


Side = Literal["u", "vh"]


class TrajectoryRecord(Record):
    """The way of a matrix through the checkpoints of a list (`kernels.metrics.trajectories`)."""

    from_first: list[float]
    from_previous: list[float]
    cosines: list[list[float | None]]
    straightness: float | None
    affinity_first: list[float | None]
    affinity_previous: list[float | None]


class UpdateSpectrumRecord(Record):
    """The spectrum of an update beside the edges of noise (`kernels.metrics.updates`)."""

    places: list[int]
    values: list[float]
    permuted: list[float]
    lower_edge: float
    noise_edge: float


class MetricsRow(Record):
    """The metrics of a matrix, or of one attention head of it, from before to after."""

    name: str
    layer: int | None
    family: str
    """The tensor name without its layer index, e.g. `self_attn.q_proj`."""
    shape: tuple[int, int]
    head: int | None = None
    """None: the whole matrix."""
    weight_norm: float
    """‖W_before‖_F."""
    values: dict[str, float]
    """Metric of the catalogue (docs/metrics.md), or `metric.suffix` → its value."""
    null: dict[str, float]
    """The same, as the mean over random updates of the same norm."""
    trajectory: TrajectoryRecord | None = None
    spectrum: UpdateSpectrumRecord | None = None
    """With further checkpoints between before and after."""


class SideMetrics(Record):
    """Rotation of the singular vectors of one side, u or vh, along base → rl1 → rl2."""

    mse: float | None = None
    """MSE(R1·R2, R3) over all singular directions that are kept."""
    mse_top: float | None = None
    """MSE(R1·R2, R3) over the leading k directions."""
    angle_max: float | None = None
    """Largest principal angle between the leading-k subspaces of base and rl2, in radians."""
    angle_rms: float | None = None
    """Root mean square of these angles."""


class RotationMetrics(Record):
    """Metrics of one tensor in base, rl1, rl2; None if a metric is not defined."""

    nss: float | None = None
    """‖s_rl2 − s_base‖ / ‖s_base‖."""
    touchable_share: float | None = None
    """Fraction of ‖ΔW‖² that a blend of singular values can change."""
    stable_rank_base: float | None = None
    stable_rank_rl2: float | None = None
    update_norm: float | None = None
    """‖W_rl2 − W_base‖ / ‖W_base‖."""
    u: SideMetrics = SideMetrics()
    vh: SideMetrics = SideMetrics()

    def side(self, name: Side) -> SideMetrics:
        """The metrics of a side."""
        return self.u if name == "u" else self.vh


class RotationNull(RotationMetrics):
    """Means of the same metrics over random updates of the same norms, and values from theory."""

    haar_mse: float | None = None
    """Expected `mse` of unrelated (Haar) bases."""
    nss_formula: float | None = None
    touchable_formula: float | None = None


def _sides_apart(row: dict[str, Any]) -> dict[str, Any]:
    """Turn format 1, with `angle_rms_u`, into format 2, with `u.angle_rms`."""
    for name in ("metrics", "null"):
        flat = row.get(name, {})
        nested: dict[str, Any] = {}
        for key, value in flat.items() if isinstance(flat, dict) else ():
            metric, _, side = key.rpartition("_")
            if side in ("u", "vh"):
                nested.setdefault(side, {})[metric] = value
            else:
                nested[key] = value
        row[name] = nested
    return row


class RotationRow(Record):
    """Rotation of one tensor's singular bases along base → rl1 → rl2, and under random updates."""

    FORMAT = 2
    MIGRATIONS = {1: _sides_apart}

    name: str
    layer: int | None
    family: str
    """The tensor name without its layer index, e.g. `self_attn.q_proj`."""
    shape: tuple[int, int]
    rank: int
    """Number of directions that are kept: s is above the rank guard in all three."""
    metrics: RotationMetrics
    null: RotationNull = RotationNull()
    trivial_side: Literal["u", "vh", "both"]
    """Side on which R1·R2 ≡ R3 by algebra, so that its MSE is rounding noise."""
