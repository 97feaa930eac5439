"""What stages hand to each other. Plain frozen records; no I/O, no formula."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    model_serializer,
    model_validator,
)

from svdjobs.errors import FormatError


class Record(BaseModel):
    """Base of all records: frozen, unknown fields refused, docstrings are the field docs.

    A record's format changes when a field moves or changes its meaning: raise `FORMAT`, and say in
    `MIGRATIONS` how the format before is read. Runs of every earlier version then stay readable. A
    record of format 1 does not say so, as no record did before there were formats.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    FORMAT: ClassVar[int] = 1
    MIGRATIONS: ClassVar[Mapping[int, Callable[[dict[str, Any]], dict[str, Any]]]] = {}
    """By older format: makes of a document of it one of the next format."""

    @classmethod
    def read(cls, document: Any) -> Self:
        """The record in a JSON document (its text, or what was parsed), of this format or an older.

        Raises:
            ValidationError: it is not such a record.
            FormatError: a newer svdjobs wrote it.
        """
        if isinstance(document, (str, bytes, bytearray)):
            return cls.model_validate_json(document, context=_STORED)
        return cls.model_validate(document, context=_STORED)

    @model_validator(mode="before")
    @classmethod
    def _migrate(cls, document: Any, info: ValidationInfo) -> Any:
        if info.context is not _STORED or not isinstance(document, dict):
            return document  # a record that is being made
        if "format" not in document and not cls.MIGRATIONS:
            return document
        document = dict(document)
        stored = document.pop("format", 1)
        if not isinstance(stored, int) or not stored >= 1:
            raise ValueError(f"format {stored!r:.80} is no number above 0")
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


# The context that tells a stored document from the fields of a new record.
_STORED = {"stored": True}


def checked_key(key: str) -> str:
    """A key that names one object below a prefix, on every kind of store and on a disk.

    Raises:
        ValueError: it would lead elsewhere, or cannot be printed.
    """
    parts = key.split("/")
    if not key.isprintable() or "\\" in key or not {"", ".", ".."}.isdisjoint(parts):
        raise ValueError(
            f"{key!r:.200} is no key; expected is a relative path without empty parts, '.', '..', "
            f"backslashes and control characters"
        )
    return key


class FileRecord(Record):
    """One object a stage wrote."""

    key: Annotated[str, AfterValidator(checked_key)]
    """Key below the manifest's own prefix."""
    bytes: int
    sha256: str


class Manifest(Record):
    """Says that an output exists. Written last; without it the output does not exist.

    Holds nothing that differs between two runs of the same work (no clock, no host name), so equal
    work gives equal bytes.
    """

    stage: str
    fingerprint: str
    """sha256 over stage, its config, its inputs' fingerprints and the stage's code version."""
    inputs: dict[str, str]
    """Name of each input and its fingerprint."""
    config: dict[str, Any]
    files: list[FileRecord]
    provenance: dict[str, str]
    """Library versions and the git commit that wrote this."""

    def file(self, name: str) -> FileRecord | None:
        """The record of one of its files, None where it lists none of that name."""
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
    """What will happen to one tensor of the after checkpoint, or of before in a reversed sweep."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    skip: SkipReason | None = None
    """None: decomposed and blended. Otherwise copied as it is, for this reason."""

    @property
    def elements(self) -> int:
        """Number of parameters."""
        return math.prod(self.shape)


class Estimate(Record):
    """What a sweep will cost, from headers alone; the same on every machine."""

    decompose_flops: float
    blend_flops: float
    blended_elements: int
    """Of all blended matrices, times the number of alphas."""
    bytes_read: int
    bytes_written: int
    peak_memory_bytes: int


class RoundingRecord(Record):
    """What storing the matrices of one module family in 16 bits alone does, from a sample."""

    noise: float
    """‖E‖/‖W‖, E what rounding adds to after − before."""
    weight_rms: float
    """Root mean square of after's values."""


class Plan(Record):
    """The `plan` stage's output: which tensors, in which parts, at what cost."""

    before: str
    after: str
    architecture: str
    tensors: list[TensorPlan]
    parts: list[list[str]]
    """Tensor names of each decompose part, balanced by cost."""
    only_in_before: list[str]
    notes: list[str] = []
    """What a person should know of how the checkpoints are read, a sentence each."""
    rounding: dict[str, RoundingRecord] = {}
    """By module family; those whose weights lie on no 16-bit grid are not here."""
    estimate: Estimate

    @property
    def selected(self) -> list[TensorPlan]:
        """The tensors that will be blended."""
        return [tensor for tensor in self.tensors if tensor.skip is None]


class FactorRecord(Record):
    """One decomposed tensor and the self-checks it passed."""

    name: str
    shape: tuple[int, int]
    method: Literal["gram", "svd"]
    """`svd` is the direct float64 fallback, taken when a self-check of `gram` failed."""
    checks: dict[str, float]
    """Each self-check's relative error, by name."""
    sha256: dict[str, str]
    """Of the bytes of each of its tensors, `s` and `basis`, which are read one by one."""


class CastRecord(Record):
    """How much of a blend survives one storage dtype."""

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
        """Realised fraction; None where there is no signal."""
        return self.projection / self.signal if self.signal else None

    @property
    def relative_error(self) -> float | None:
        """Error of the difference to after as a share of it; None where there is no signal."""
        return math.sqrt(self.error / self.change) if self.change else None


class BlendRecord(Record):
    """One blended tensor at one alpha."""

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
    """max |s(W(0)) − s_before| / s₁ where it was recomputed, else None. W(alpha) is affine in alpha
    with this one D, so W(0) stands for all."""
    log_file: str


class Outcome(StrEnum):
    """What became of one completion. Only `correct` scores 1; nothing is silently wrong."""

    CORRECT = "correct"
    WRONG = "wrong"
    NO_ANSWER = "no_answer"
    TRUNCATED = "truncated"
    PARSE_ERROR = "parse_error"
    TIMEOUT = "timeout"
    GOLD_ERROR = "gold_error"


class Problem(Record):
    """One row of a benchmark."""

    idx: int
    problem: str
    gold: str


class Completion(Record):
    """One drawn answer."""

    idx: int
    """The problem's."""
    sample_index: int
    seed: int
    text: str
    finish_reason: Literal["stop", "length"]
    completion_tokens: int
    token_ids: tuple[int, ...] = ()
    """As drawn, the end-of-text token included."""


class Grade(Record):
    """The outcome of one completion."""

    idx: int
    sample_index: int
    outcome: Outcome
    answer: str | None
    """What the completion gave as its answer (the last box, if any), None where nothing."""
    boxed: bool | None = None
    """Whether that was in a complete box, as asked; None without an answer."""
    answer_class: int | None = None
    """Equal for equivalent answers of one problem, from 0 in order of appearance; None without an
    answer, or where classes were not asked for."""


class SecondGrade(Record):
    """What the second grader says of one completion."""

    idx: int
    sample_index: int
    correct: bool | None
    """None where it took too long or broke down."""


class Disagreement(Record):
    """A completion of which two graders say different things."""

    checkpoint: str
    idx: int
    sample_index: int
    gold: str
    answer: str | None
    outcome: Outcome
    """What the first grader, which scores are made from, says."""
    second_correct: bool


class Agreement(Record):
    """How far two graders agree on the completions of one checkpoint."""

    both_correct: int
    neither: int
    only_first: int
    only_second: int
    undecided: int
    """The second grader took too long or broke down."""
    disagreements: list[Disagreement]

    @property
    def share(self) -> float:
        """Disagreements as a share of what both graded."""
        apart = self.only_first + self.only_second
        return apart / max(1, apart + self.both_correct + self.neither)


class Likelihood(Record):
    """What a checkpoint makes of one trace: an answer that after gave, read and not drawn."""

    idx: int
    """The problem's."""
    sample_index: int
    log_probabilities: list[float]
    """Of each token of the completion, given the prompt and the tokens before it."""


class Interval(Record):
    """A number with its 95 % interval; no interval is None, never zero width."""

    value: float
    low: float | None = None
    high: float | None = None
    standard_error: float | None = None


class Comparison(Record):
    """Two checkpoints on the same problems."""

    difference: Interval
    """Mean over problems of score − reference score."""
    p: float
    """Two-sided sign-flip p of no difference; exact where `changed` is at most 16, else Monte
    Carlo."""
    mcnemar_p: float | None
    """Exact McNemar p where there is one completion per problem, else None."""
    detectable: float | None
    """Smallest true difference this design would have found 80 % of the time; None without
    spread."""
    problems: int
    changed: int
    """Problems whose score differs between the two."""


class Slope(Record):
    """Linear trend of the problem scores over the alphas of a sweep."""

    slope: Interval
    """Mean over problems of the slope on alpha: the change in score from alpha = 0 to 1, were the
    trend a line."""
    p: float
    """Two-sided sign-flip p of no trend, over problems."""
    detectable: float | None
    """Smallest true slope this design would have found 80 % of the time; None without spread."""
    alphas: list[float]
    problems: int


GateOutcome = Literal["passed", "inconclusive", "regression"]


class GateSide(Record):
    """One of the two that a gate compares on a benchmark."""

    avg_at_n: Interval
    completions: int
    truncated: int
    """Completions that hit max_tokens."""
    unscored: int
    """Completions whose answer could not be graded; they count as not correct."""


class GateRow(Record):
    """A gate's judgement on one benchmark."""

    benchmark: str
    outcome: GateOutcome
    n: int
    """Completions per problem."""
    judged: GateSide
    baseline: GateSide
    comparison: Comparison
    """Judged minus baseline, same problems and seeds."""
    loss_p: float
    """One-sided p of "no more than the margin was lost"."""
    loss_p_adjusted: float
    """The same by Holm's method over all benchmarks; at most 0.05 is a regression."""
    passing_margin: float
    """The margin above which these data show that no more was lost; below 0 a gain is shown."""
    problems_needed: int | None
    """Problems that would tell a loss of the margin from none, 4 times in 5; None: no number."""
    same_checkpoint: bool
    """Whether both sides are the same weights."""


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
    """The worst of all benchmarks'."""
    failed: bool
    """Whether whoever asked is to be stopped."""
    rows: list[GateRow]
    notes: list[str]
    """What differs between the two runs without making them incomparable."""


class Summary(Record):
    """One checkpoint on one benchmark."""

    checkpoint: str
    benchmark: str
    benchmark_sha256: str
    benchmark_revision: str | None = None
    """Commit of the hub data set; None for a file."""
    prompts_sha256: str
    """Of all prompts' token ids; differs where checkpoints were not asked alike."""
    engine: str
    dtype: str
    n: int
    """Completions per problem."""
    problems: int
    avg_at_n: Interval
    """Mean of the problems' mean scores; standard error clustered by problem."""
    avg_at_n_boxed: Interval | None = None
    """The same where only answers in a box count as correct; earlier versions did not tell."""
    not_boxed: int = 0
    """Completions whose answer was read elsewhere than in a box, right or wrong."""
    pass_at: dict[int, Interval] = Field(default_factory=dict)
    """Unbiased pass@k for k = 1, 2, 4 … n."""
    maj_at_n: Interval | None = None
    """Majority vote over all n completions, by equivalence class of answers."""
    gold_errors: list[int] = Field(default_factory=list)
    """Problems whose reference answer cannot be read: no answer could be graded, so they are left
    out of all estimates."""
    engine_settings: list[dict[str, Any]] = Field(default_factory=list)
    """Every argument the engine ran with; several where a resumed evaluation ran with others."""
    outcomes: dict[Outcome, int]
    truncated: int
    """Completions that hit max_tokens, whatever their outcome."""
    completion_tokens_mean: float
    completion_tokens_median: float | None = None
    problem_scores: list[float]
    """Mean score of each problem with a readable gold, in benchmark order (what paired differences
    are made of)."""


Side = Literal["u", "vh"]


class SideMetrics(Record):
    """How the singular vectors of one side, u or vh, moved along base → rl1 → rl2."""

    mse: float | None = None
    """MSE(R1·R2, R3) over all directions kept."""
    mse_top: float | None = None
    """The same over the leading k directions."""
    angle_max: float | None = None
    """Largest principal angle between the leading-k subspaces of base and rl2, in radians."""
    angle_rms: float | None = None
    """Root mean square of these angles."""


class RotationMetrics(Record):
    """Metrics of one tensor in base, rl1, rl2. None: the matrices give no such number."""

    nss: float | None = None
    """‖s_rl2 − s_base‖ / ‖s_base‖."""
    touchable_share: float | None = None
    """Share of ‖ΔW‖² that a blend of singular values can touch."""
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
    """The same metrics with each update replaced by a random one of the same norm: their mean over
    the draws. Beside them, what theory says."""

    haar_mse: float | None = None
    """`mse` of unrelated bases."""
    nss_formula: float | None = None
    touchable_formula: float | None = None


def _sides_apart(row: dict[str, Any]) -> dict[str, Any]:
    """Format 1 held `angle_rms_u` where format 2 holds `u.angle_rms`."""
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
    """How one tensor's singular bases moved along base → rl1 → rl2, beside the nulls."""

    FORMAT = 2
    MIGRATIONS = {1: _sides_apart}

    name: str
    layer: int | None
    family: str
    """The tensor name without its layer index, e.g. `self_attn.q_proj`."""
    shape: tuple[int, int]
    rank: int
    """Directions kept: s above the rank guard in all three."""
    metrics: RotationMetrics
    null: RotationNull = RotationNull()
    trivial_side: Literal["u", "vh", "both"]
    """Side on which R1·R2 ≡ R3 by algebra, so that its MSE is rounding noise."""
