"""The transformers engine: batched, left-padded, on any CPU or one GPU.

Each request draws from its own stream of uniform numbers by inverting the cumulative distribution.
So a completion does not depend on its batch, and two checkpoints with nearly equal distributions
give the same tokens except where the difference matters: common random numbers, which is what makes
paired differences between alphas sharp (Glasserman & Yao 1992, doi:10.1287/mnsc.38.6.884).

Shape legend: B requests, T tokens, V vocabulary.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from svdjobs.config import EvaluateConfig
from svdjobs.errors import CheckpointError, EvaluationError, first_line
from svdjobs.evaluation.engines.device import device_name
from svdjobs.evaluation.engines.protocol import Request, Trace, Weights
from svdjobs.evaluation.engines.stop_tokens import stop_tokens
from svdjobs.evaluation.prompts import check_room
from svdjobs.records import Completion

if TYPE_CHECKING:
    import torch


# Tokens read together, and rows of logits made together: 1,024 rows of 150,000 floats are 0.6 GB.
READ_TOKENS = 1 << 15
LOGIT_ROWS = 1 << 10


class TransformersEngine:
    """One checkpoint in memory."""

    def __init__(self, weights: Weights, tokenizer: Any, config: EvaluateConfig) -> None:
        """Load a checkpoint folder; the tokenizer only turns drawn tokens into text.

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
        self._model.generation_config = transformers.GenerationConfig()
        held = next(self._model.parameters())
        self.description = f"transformers {transformers.__version__} on {device_name(held)}"

    @property
    def settings(self) -> dict[str, Any]:
        """What decides its numbers, besides the request."""
        return {
            "engine": self.description,
            "dtype": self._config.dtype,
            "batch_size": self._config.batch_size,
        }

    def put(self, weights: Weights) -> None:
        """Copy another checkpoint's tensors over the model's own.

        Raises:
            EvaluationError: a tensor the model has no place for, or one it was not given.
        """
        import torch

        self._stop = stop_tokens(weights.folder, self._tokenizer)
        held: dict[str, torch.Tensor] = self._model.state_dict(keep_vars=False)
        storages = {name: tensor.data_ptr() for name, tensor in held.items()}
        filled: set[int] = set()
        with torch.inference_mode():
            for name, tensor in weights.tensors():
                if name not in held or held[name].shape != tensor.shape:
                    raise EvaluationError(
                        f"{weights.label}: the running model has no {list(tensor.shape)} tensor "
                        f"{name!r}. Set evaluate.reuse_engine to false."
                    )
                held[name].copy_(tensor)
                filled.add(storages[name])
        if left := sorted(name for name, place in storages.items() if place not in filled):
            raise EvaluationError(
                f"{weights.label} has no {left[0]!r}, which would keep the last checkpoint's "
                f"values. Set evaluate.reuse_engine to false."
            )

    def generate(
        self, requests: Sequence[Request], done: AbstractSet[tuple[int, int]] = frozenset()
    ) -> Iterator[Completion]:
        """Completions, batch by batch. Batches are cut from all requests, whatever is done.

        So a resumed run draws in the company an undisturbed one would have drawn in, and rounds
        alike.

        Raises:
            BenchmarkError: a prompt that leaves no room for max_tokens in the context.
            CheckpointError: a token of a prompt that the checkpoint does not have.
            EvaluationError: out of memory.
        """
        size = self._config.batch_size
        for start in range(0, len(requests), size):
            batch = requests[start : start + size]
            if any(request.key not in done for request in batch):
                drawn = self._generate(batch)
                yield from (c for c in drawn if (c.idx, c.sample_index) not in done)

    def _generate(self, requests: Sequence[Request]) -> list[Completion]:
        """One batch."""
        import torch
        from transformers import GenerationConfig, LogitsProcessorList

        config = self._config
        lengths = {request.idx: len(request.prompt_ids) for request in requests}
        check_room(lengths, self.context, config.max_tokens)
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
        drawn = tokens_BT[:, prompt_length:].tolist()
        return [self._completion(r, t) for r, t in zip(requests, drawn, strict=True)]

    def log_probabilities(self, traces: Sequence[Trace]) -> Iterator[list[float]]:
        """Log-probability of each completion token of each trace, in order."""
        longest = max((len(t.prompt_ids) + len(t.completion_ids) for t in traces), default=1)
        size = max(1, min(self._config.batch_size, READ_TOKENS // longest))
        for start in range(0, len(traces), size):
            yield from self._log_probabilities(traces[start : start + size])

    def _log_probabilities(self, traces: Sequence[Trace]) -> Iterator[list[float]]:
        import torch

        whole = [trace.prompt_ids + trace.completion_ids for trace in traces]
        ids_BT, mask_BT = self._padded(whole, left=False)
        head = self._model.get_output_embeddings()
        with _memory_errors(len(traces)), torch.inference_mode():
            hidden_BTH = self._model.base_model(
                input_ids=ids_BT, attention_mask=mask_BT
            ).last_hidden_state
            for hidden_TH, trace, ids in zip(hidden_BTH, traces, whole, strict=True):
                row: list[float] = []
                for start in range(len(trace.prompt_ids), len(ids), LOGIT_ROWS):
                    stop = min(start + LOGIT_ROWS, len(ids))
                    log_p_TV = head(hidden_TH[start - 1 : stop - 1]).float().log_softmax(dim=-1)
                    targets_T = torch.tensor(ids[start:stop], device=log_p_TV.device)
                    row += log_p_TV.gather(1, targets_T[:, None])[:, 0].tolist()
                yield row

    def close(self) -> None:
        """Give the model's memory back."""
        del self._model

    def _completion(self, request: Request, tokens: list[int]) -> Completion:
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

        rows = self._model.get_input_embeddings().num_embeddings
        if (largest := max(map(max, sequences))) >= rows:
            raise CheckpointError(
                f"the tokenizer gives token {largest}, but the checkpoint embeds {rows} tokens "
                f"only. Set `tokenizer` to the checkpoint this one was trained from."
            )
        length = max(map(len, sequences))
        # Padding is masked out, so any token of the model does; a tokenizer need not have its own.
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
    """Chooses tokens by u < cdf, one pre-drawn uniform number per request and position.

    Given to `generate` as a logits processor: it returns 0 for the chosen token and −inf for all
    others, and greedy decoding does the rest.
    """

    def __init__(self, seeds: list[int], start: int, config: EvaluateConfig, device: str) -> None:
        import torch

        draws = []
        for seed in seeds:
            generator = torch.Generator().manual_seed(seed)
            draws.append(torch.rand(config.max_tokens, generator=generator, dtype=torch.float64))
        self._uniform_BT = torch.stack(draws).to(device)
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

    top_p keeps the smallest set of most likely tokens that holds at least that much (Holtzman et
    al. 2020, arXiv:1904.09751); tokens stay in vocabulary order, so close distributions agree.
    """
    import torch

    if top_p < 1:
        sorted_BV, order_BV = p_BV.sort(dim=-1, descending=True, stable=True)
        preceding_BV = sorted_BV.cumsum(dim=-1) - sorted_BV
        kept_BV = (preceding_BV < top_p).scatter(1, order_BV, preceding_BV < top_p)
        p_BV = torch.where(kept_BV, p_BV, 0.0)
    cdf_BV = p_BV.cumsum(dim=-1)
    scaled_B1 = uniform_B1 * cdf_BV[:, -1:]
    found_B1 = torch.searchsorted(cdf_BV, scaled_B1, right=True)
    return found_B1.clamp(max=p_BV.shape[1] - 1)


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
            f"{checkpoint} lacks {len(missing)} weights of its architecture, e.g. {missing[0]}; "
            f"they would be random. The checkpoint is incomplete."
        )
    return model.eval()
