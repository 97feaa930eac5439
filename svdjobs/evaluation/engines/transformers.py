"""The transformers engine: batched, left-padded, on any CPU or one GPU.

Each request has its own stream of uniform numbers; inverting the cumulative distribution turns them
into tokens. So a completion does not depend on its batch, and two checkpoints with nearly equal
distributions give the same tokens except where the difference matters. These common random numbers
make paired differences between alphas sharp (Glasserman & Yao 1992, doi:10.1287/mnsc.38.6.884).

Shape legend: B requests, T tokens, V vocabulary.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from svdjobs.config import EvaluateConfig
from svdjobs.errors import CheckpointError, EvaluationError, first_line
from svdjobs.evaluation.engines.device import device_name
from svdjobs.evaluation.engines.protocol import (
    EngineKind,
    Request,
    Trace,
    Weights,
    chosen_tensors,
)
from svdjobs.evaluation.engines.stop_tokens import stop_tokens
from svdjobs.evaluation.prompts import check_context_length
from svdjobs.records import Completion

if TYPE_CHECKING:
    import torch


# Most tokens per forward pass. Most rows of logits at once; 1,024 rows of 150,000 floats are
# 0.6 GB.
MAX_TOKENS_PER_PASS = 1 << 15
MAX_LOGIT_ROWS = 1 << 10


class TransformersEngine:
    """Generates with transformers on one device."""

    def __init__(
        self,
        weights: Weights,
        tokenizer: Any,
        config: EvaluateConfig,
        *,
        longest_prompt: int = 0,
        log: Path | None = None,
    ) -> None:
        """Load a checkpoint folder; the tokenizer only turns generated tokens into text.

        The context is the checkpoint's and nothing is printed, so `longest_prompt` and `log` are
        not used.

        Raises:
            CheckpointError: transformers cannot load it, or weights are missing.
        """
        import torch
        import transformers

        transformers.utils.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
        self._config = config
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._tokenizer = tokenizer
        self._stop = stop_tokens(weights.folder, tokenizer)
        self._model = _load_model(weights.folder, config.dtype).to(self._device)
        self.context: int | None = getattr(
            self._model.config.get_text_config(), "max_position_embeddings", None
        )
        self.vocabulary: int = self._model.get_input_embeddings().num_embeddings
        # Empty: the sampling defaults of a checkpoint must not apply.
        self._model.generation_config = transformers.GenerationConfig()
        self.head_gives_logits = self._head_gives_logits()
        weight = next(self._model.parameters())
        self.description = f"transformers {transformers.__version__} on {device_name(weight)}"

    @property
    def settings(self) -> dict[str, Any]:
        """What decides its completions, besides the request."""
        return {
            "engine": self.description,
            "dtype": self._config.dtype,
            "batch_size": self._config.batch_size,
        }

    def put(self, weights: Weights, changed: Collection[str] | None = None) -> None:
        """Copy another checkpoint's tensors over the model's own, or load all of them anew.

        Raises:
            EvaluationError: one of the model's tensors is missing, or cannot be loaded.
        """
        self._stop = stop_tokens(weights.folder, self._tokenizer)
        if not self._copy(weights, changed):
            self._load(weights)

    def _copy(self, weights: Weights, changed: Collection[str] | None) -> bool:
        """Copy tensors that the model has by the same name. False if it lacks a name, e.g. since
        transformers joins the experts of a layer: then the model holds parts of both."""
        import torch

        own: dict[str, torch.Tensor] = self._model.state_dict(keep_vars=False)
        # By address: tied tensors share one, and a checkpoint may store only one of their names.
        storages = {name: tensor.data_ptr() for name, tensor in own.items()}
        filled: set[int] = set()
        with torch.inference_mode():
            for name, tensor in chosen_tensors(weights, changed):
                if name not in own:
                    return False
                if own[name].shape != tensor.shape:
                    raise EvaluationError(
                        f"{weights.label}: the running model has no {list(tensor.shape)} tensor "
                        f"{name!r}. Set evaluate.reuse_engine to false."
                    )
                own[name].copy_(tensor)
                filled.add(storages[name])
        missing = sorted(name for name, place in storages.items() if place not in filled)
        if missing and changed is None:
            raise EvaluationError(
                f"{weights.label} has no {missing[0]!r}, which would keep the last checkpoint's "
                f"values. Set evaluate.reuse_engine to false."
            )
        return True

    def _load(self, weights: Weights) -> None:
        """Make the model anew from all tensors, which transformers converts as it does those of
        files. As there, tensors that the model does not have are left out.

        Raises:
            EvaluationError: transformers cannot load them, or tensors are missing.
        """
        import torch

        try:
            model, info = type(self._model).from_pretrained(
                None,
                config=self._model.config,
                # Copies, since the model keeps these as its own and later swaps write into them.
                state_dict={name: tensor.clone() for name, tensor in weights.tensors()},
                dtype=getattr(torch, self._config.dtype),
                output_loading_info=True,
                trust_remote_code=False,
            )
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            raise EvaluationError(
                f"{weights.label}: transformers cannot load it into the running model "
                f"({first_line(error)}). Set evaluate.reuse_engine to false."
            ) from None
        if missing := sorted(info["missing_keys"]):
            raise EvaluationError(
                f"{weights.label} has no {missing[0]!r}, which would be random. Set "
                f"evaluate.reuse_engine to false."
            )
        generation_config = self._model.generation_config
        self._model = model.eval().to(self._device)
        self._model.generation_config = generation_config

    def generate(
        self, requests: Sequence[Request], done: AbstractSet[tuple[int, int]] = frozenset()
    ) -> Iterator[Completion]:
        """Yield completions batch by batch, for all requests whose key is not in `done`.

        Batches are cut from all requests, done or not. A resumed run generates the same batches as
        an uninterrupted one, so rounding is identical.

        Raises:
            BenchmarkError: a prompt and max_tokens do not fit the context.
            CheckpointError: the checkpoint does not embed a token of a prompt.
            EvaluationError: out of memory.
        """
        size = self._config.batch_size
        for start in range(0, len(requests), size):
            batch = requests[start : start + size]
            if any(request.key not in done for request in batch):
                completions = self._generate(batch)
                yield from (c for c in completions if (c.idx, c.sample_index) not in done)

    def _generate(self, requests: Sequence[Request]) -> list[Completion]:
        """The completions of one batch."""
        import torch
        from transformers import GenerationConfig, LogitsProcessorList

        config = self._config
        lengths = {request.idx: len(request.prompt_ids) for request in requests}
        check_context_length(lengths, self.context, config.max_tokens)
        ids_BT, mask_BT = self._padded([request.prompt_ids for request in requests], left=True)
        prompt_length = ids_BT.shape[1]
        choose = _InverseCdf(
            [request.seed for request in requests], prompt_length, config, self._device
        )
        settings = GenerationConfig(
            do_sample=False,
            max_new_tokens=config.max_tokens,
            eos_token_id=self._stop,
            pad_token_id=self._stop[0],
        )
        with _memory_errors(len(requests)), torch.inference_mode(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tokens_BT = self._model.generate(
                input_ids=ids_BT,
                attention_mask=mask_BT,
                generation_config=settings,
                logits_processor=LogitsProcessorList([choose]),
            )
        rows = tokens_BT[:, prompt_length:].tolist()
        return [self._completion(r, t) for r, t in zip(requests, rows, strict=True)]

    def log_probabilities(
        self, traces: Sequence[Trace], temperature: float = 1.0
    ) -> Iterator[list[float]]:
        """Yield, for each trace, the log-probability of each of its completion tokens."""
        longest = max((len(t.prompt_ids) + len(t.completion_ids) for t in traces), default=1)
        size = max(1, min(self._config.batch_size, MAX_TOKENS_PER_PASS // longest))
        for start in range(0, len(traces), size):
            yield from self._log_probabilities(traces[start : start + size], temperature)

    def _log_probabilities(
        self, traces: Sequence[Trace], temperature: float
    ) -> Iterator[list[float]]:
        import torch

        with _memory_errors(len(traces)), torch.inference_mode():
            for pieces, trace in zip(self._logits(traces), traces, strict=True):
                row: list[float] = []
                for logits_TV in pieces:
                    log_p_TV = (logits_TV.float() / temperature).log_softmax(dim=-1)
                    targets = trace.completion_ids[len(row) : len(row) + len(log_p_TV)]
                    targets_T = torch.tensor(targets, device=log_p_TV.device)
                    row += log_p_TV.gather(1, targets_T[:, None])[:, 0].tolist()
                yield row

    def _logits(self, traces: Sequence[Trace]) -> Iterator[Iterator[torch.Tensor]]:
        """For each trace, pieces of the logits that predict its completion tokens, T×V."""
        if self.head_gives_logits:
            for states_TH in self.states(traces):
                yield (
                    self.head(states_TH[start : start + MAX_LOGIT_ROWS])
                    for start in range(0, len(states_TH), MAX_LOGIT_ROWS)
                )
            return
        for trace in traces:  # one at a time: these are the logits of all its tokens
            ids_1T, _ = self._padded([trace.prompt_ids + trace.completion_ids], left=False)
            logits_TV = self._model(input_ids=ids_1T).logits[0]
            yield iter([logits_TV[len(trace.prompt_ids) - 1 : -1]])

    def _head_gives_logits(self) -> bool:
        """Whether the model's logits are what its head gives: some scale or cap them afterwards.

        The head's output is made a hundred times as large for the test, since a soft cap hardly
        changes small logits.
        """
        import torch

        # Not padding, whose embedding may be 0.
        ids_1T = torch.arange(1, min(9, self.vocabulary), device=self._device)[None]
        amplified = self.head.register_forward_hook(lambda _module, _inputs, out: 100 * out)
        try:
            with torch.inference_mode():
                hidden_1TH = self._model.base_model(input_ids=ids_1T).last_hidden_state
                expected = self.head(hidden_1TH).float()
                found = self._model(input_ids=ids_1T).logits.float()
        finally:
            amplified.remove()
        largest = float(expected.abs().max())
        return bool(torch.allclose(found, expected, rtol=1e-2, atol=1e-2 * largest))

    @property
    def head(self) -> torch.nn.Module:
        """The map from hidden states to logits, as the checkpoint in the engine has it."""
        head: torch.nn.Module = self._model.get_output_embeddings()
        return head

    def states(self, traces: Sequence[Trace]) -> Iterator[torch.Tensor]:
        """Yield, for each trace, the hidden states that predict its completion tokens, T×H. All
        traces go through the model together."""
        import torch

        sequences = [trace.prompt_ids + trace.completion_ids for trace in traces]
        ids_BT, mask_BT = self._padded(sequences, left=False)
        with torch.inference_mode():
            hidden_BTH = self._model.base_model(
                input_ids=ids_BT, attention_mask=mask_BT
            ).last_hidden_state
        for hidden_TH, trace, ids in zip(hidden_BTH, traces, sequences, strict=True):
            # The state at t - 1 predicts token t.
            yield hidden_TH[len(trace.prompt_ids) - 1 : len(ids) - 1]

    def close(self) -> None:
        """Free the model's memory."""
        del self._model

    def _completion(self, request: Request, tokens: list[int]) -> Completion:
        """`token_ids` includes the stop token, `completion_tokens` and the text do not. After the
        stop token a row has padding, since `generate` runs until the whole batch has ended."""
        end = next((i for i, token in enumerate(tokens) if token in self._stop), None)
        kept = tokens if end is None else tokens[:end]
        return Completion(
            idx=request.idx,
            sample_index=request.sample_index,
            seed=request.seed,
            text=self._tokenizer.decode(kept, skip_special_tokens=True),
            finish_reason="length" if end is None else "stop",
            completion_tokens=len(kept),
            token_ids=tuple(tokens if end is None else tokens[: end + 1]),
        )

    def _padded(
        self, sequences: Sequence[tuple[int, ...]], *, left: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Sequences of different lengths as one batch: token ids and attention mask, both B×T."""
        import torch

        if (largest := max(map(max, sequences))) >= self.vocabulary:
            raise CheckpointError(
                f"the tokenizer gives token {largest}, but the checkpoint embeds {self.vocabulary} "
                f"tokens only. Set `tokenizer` to the checkpoint this one was trained from."
            )
        length = max(map(len, sequences))
        # Padding is masked out, so any token will do; a tokenizer need not have a padding token.
        ids_BT = torch.full((len(sequences), length), self._stop[0])
        mask_BT = torch.zeros_like(ids_BT)
        for row, ids in enumerate(sequences):
            place = slice(length - len(ids), length) if left else slice(0, len(ids))
            ids_BT[row, place] = torch.tensor(ids)
            mask_BT[row, place] = 1
        return ids_BT.to(self._device), mask_BT.to(self._device)


@contextmanager
def _memory_errors(count: int) -> Iterator[None]:
    import torch

    try:
        yield
    except torch.OutOfMemoryError:
        raise EvaluationError(
            f"out of GPU memory with {count} completions at a time; lower evaluate.batch_size or "
            f"evaluate.max_tokens. Finished completions are kept."
        ) from None


class _InverseCdf:
    """Chooses tokens by u < cdf, with one uniform number per request and position.

    It is a logits processor of `generate`: it returns 0 for the chosen token and −inf for all
    others, so greedy decoding takes the chosen one.
    """

    def __init__(self, seeds: list[int], start: int, config: EvaluateConfig, device: str) -> None:
        import torch

        streams = []
        for seed in seeds:
            generator = torch.Generator().manual_seed(seed)
            streams.append(torch.rand(config.max_tokens, generator=generator, dtype=torch.float64))
        self._uniform_BT = torch.stack(streams).to(device)
        self._start = start
        self._temperature = config.temperature
        self._top_p = config.top_p

    def __call__(self, input_ids_BT: torch.Tensor, scores_BV: torch.Tensor) -> torch.Tensor:
        import torch

        if bool(scores_BV.isnan().any()):
            raise EvaluationError(
                "the model's logits are NaN, so its answers would be noise. With 16-bit arithmetic "
                "activations can overflow: set evaluate.dtype to float32."
            )
        position = input_ids_BT.shape[1] - self._start
        if self._temperature == 0:
            chosen_B1 = scores_BV.argmax(dim=-1, keepdim=True)
        else:
            p_BV = (scores_BV.double() / self._temperature).softmax(dim=-1)
            chosen_B1 = inverse_cdf(p_BV, self._uniform_BT[:, position, None], self._top_p)
        return torch.full_like(scores_BV, float("-inf")).scatter(1, chosen_B1, 0.0)


def inverse_cdf(p_BV: torch.Tensor, uniform_B1: torch.Tensor, top_p: float) -> torch.Tensor:
    """Index of the first token whose cumulative probability exceeds u, B×1.

    Only the smallest set of most likely tokens with a total probability of at least top_p is used
    (Holtzman et al. 2020, arXiv:1904.09751). Tokens stay in vocabulary order, so close
    distributions agree.
    """
    import torch

    if top_p < 1:
        sorted_BV, order_BV = p_BV.sort(dim=-1, descending=True, stable=True)
        preceding_BV = sorted_BV.cumsum(dim=-1) - sorted_BV
        # Back from sorted to vocabulary order: every position is overwritten.
        kept_BV = (preceding_BV < top_p).scatter(1, order_BV, preceding_BV < top_p)
        p_BV = torch.where(kept_BV, p_BV, 0.0)
    cdf_BV = p_BV.cumsum(dim=-1)
    scaled_B1 = uniform_B1 * cdf_BV[:, -1:]
    index_B1 = torch.searchsorted(cdf_BV, scaled_B1, right=True)
    # u < 1, but its product with the last entry may round up to that entry.
    return index_B1.clamp(max=p_BV.shape[1] - 1)


def _load_model(checkpoint: str, dtype: str) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            checkpoint,
            dtype=getattr(torch, dtype),
            output_loading_info=True,
            local_files_only=True,
            trust_remote_code=False,
        )
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise CheckpointError(
            f"transformers cannot load {checkpoint}: {first_line(error)}"
        ) from None
    missing = sorted(info["missing_keys"])
    if missing:
        raise CheckpointError(
            f"{checkpoint} is incomplete: {len(missing)} weights of its architecture are missing, "
            f"e.g. {missing[0]}; they would be random."
        )
    return model.eval()


# svdjobs does not run without transformers, so there is nothing to check.
ENGINE = EngineKind("transformers", TransformersEngine, lambda: None)
