"""Which way weights take to vLLM's workers. The ways themselves: test_conformance.py."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from svdjobs.errors import EvaluationError
from svdjobs.evaluation.engines import vllm_transfer
from svdjobs.evaluation.engines.vllm_transfer import Workers, chosen, in_files, in_memory, over_ipc

GIB = 1 << 30
TWO = {"tensor_parallel_size": 2, "weight_transfer_config": {"backend": "ipc"}}


class Library:
    """What an LLM on two pretended GPUs answers, and what it was asked."""

    def __init__(self, opens: str = "", refuses: str = "") -> None:
        self.asked: list[str] = []
        self._opens = opens
        self._refuses = refuses

    def __getattr__(self, name: str) -> Any:
        def asked(*_: Any, **__: Any) -> Any:
            self.asked.append(name)
            if name == self._refuses:
                raise ValueError("no such handle")
            return ["", self._opens] if name == "collective_rpc" else None

        return asked


@pytest.fixture(autouse=True)
def pretended(monkeypatch: pytest.MonkeyPatch) -> None:
    """A scheduler in this process, and two GPUs with 4 GiB free."""
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    monkeypatch.setattr(vllm_transfer, "shared", lambda batch, gpus: ([], [{} for _ in batch]))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda gpu: (4 * GIB, 80 * GIB))


def workers(library: Library) -> Workers:
    return Workers(library, nullcontext())


def test_one_worker_takes_tensors_from_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    one = {"tensor_parallel_size": 1}
    assert chosen(workers(Library()), one, GIB) is in_memory
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "1")
    assert chosen(workers(Library()), one, GIB) is in_files


def test_workers_that_open_a_tensor_get_all_so() -> None:
    library = Library()
    way = chosen(workers(library), TWO, GIB)
    assert (way.func, way.args) == (over_ipc, (2,))  # type: ignore[attr-defined]
    assert library.asked == ["collective_rpc", "init_weight_transfer_engine"]
    with way(workers(library)) as send:
        send({"a": torch.zeros(1)})
    assert library.asked[2:] == ["start_weight_update", "update_weights", "finish_weight_update"]


@pytest.mark.parametrize(
    ("library", "batch", "why"),
    [
        (Library(opens="no permission"), GIB, "no permission"),
        (Library(refuses="collective_rpc"), GIB, "no such handle"),
        (Library(), 3 * GIB, "a GPU has 4.0 GiB free"),
    ],
)
def test_where_ipc_does_not_work_they_read_files(
    library: Library, batch: int, why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert chosen(workers(library), TWO, batch) is in_files
    said = capsys.readouterr().err
    assert "in files, and not over CUDA IPC" in said
    assert why in said


def test_a_refused_tensor_ends_the_transfer() -> None:
    library = Library(refuses="update_weights")
    with (
        pytest.raises(EvaluationError, match=r"no such handle.*reuse_engine"),
        over_ipc(2, workers(library)) as send,
    ):
        send({"a": torch.zeros(1)})
    assert library.asked[-1] == "finish_weight_update"


def test_an_interrupted_transfer_asks_workers_nothing_that_may_hang() -> None:
    library = Library()
    with pytest.raises(KeyboardInterrupt), over_ipc(2, workers(library)):
        raise KeyboardInterrupt
    assert library.asked == ["start_weight_update"]


def test_described() -> None:
    """As vLLM's IPCWeightTransferUpdateInfo takes it."""
    seen: list[Any] = []
    library = SimpleNamespace(
        start_weight_update=lambda: None,
        finish_weight_update=lambda: None,
        update_weights=seen.append,
    )
    batch = {"a": torch.zeros(2, 3, dtype=torch.bfloat16), "b": torch.zeros(1)}
    with over_ipc(2, Workers(library, nullcontext())) as send:
        send(batch)
    assert seen == [
        {
            "update_info": {
                "names": ["a", "b"],
                "dtype_names": ["bfloat16", "float32"],
                "shapes": [[2, 3], [1]],
                "ipc_handles": [{}, {}],
            }
        }
    ]
