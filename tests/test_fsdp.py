"""Problem fsdp (2026): against one process on the whole batch, in float32 and with float16 inside.

The model's layers are those of `cs336_basics.model`, which FSDP recognises.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cs336_basics.model import Embedding, Linear, RMSNorm

from .assertions import assert_close
from .conftest import load_adapters
from .processes import run_processes

STEPS, ROWS, TOKENS = 3, 24, 8


class ToyLM(nn.Module):
    """Logits for the token after the last one; `compute_dtype` casts weights as FSDP does, for the baseline."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = Embedding(100, 64)
        self.norm1 = RMSNorm(64)
        self.linear1 = Linear(64, 128)
        self.norm2 = RMSNorm(128)
        self.linear2 = Linear(128, 64)
        self.head = Linear(64, 100)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.norm2(torch.relu(self.linear1(self.norm1(self.embedding(ids)))))
        return self.head(self.linear2(x))


class HalfToyLM(ToyLM):
    """The same with float16 weights and activations over float32 masters: what compute_dtype stands for."""

    def forward(self, ids: Tensor) -> Tensor:
        x = self.norm1(self.embedding.weight.half()[ids])
        x = self.norm2(torch.relu(x @ self.linear1.weight.half().T))
        return x @ self.linear2.weight.half().T @ self.head.weight.half().T


def batches() -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(7)
    shapes = ((ROWS, TOKENS), (ROWS,))
    return [tuple(torch.randint(0, 100, shape, generator=generator) for shape in shapes) for _ in range(STEPS)]


def loss_of(logits: Tensor, targets: Tensor) -> Tensor:
    return nn.functional.cross_entropy(logits[:, -1].float(), targets)


def train(rank: int, world_size: int, adapters_name: str, half: bool, deterministic: bool) -> dict[str, Any]:
    """One process's run; its whole parameters at the end and what it has seen of the shards."""
    torch.use_deterministic_algorithms(deterministic)
    adapters = load_adapters(adapters_name)
    torch.manual_seed(0)
    module = ToyLM()
    shapes = {name: p.shape for name, p in module.named_parameters()}
    fsdp = adapters.get_fsdp(module, compute_dtype=torch.float16 if half else None)
    assert [name for name, _ in fsdp.module.named_parameters()] == list(shapes), "names of parameters must stay"
    assert isinstance(fsdp.module.head, Linear) and isinstance(fsdp.module.embedding, Embedding)
    optimizer = torch.optim.SGD(fsdp.parameters(), lr=0.01)
    rows = slice(rank * ROWS // world_size, (rank + 1) * ROWS // world_size)
    replicated = []
    for ids, targets in batches():
        optimizer.zero_grad()
        loss_of(fsdp(ids[rows]), targets[rows]).backward()
        adapters.fsdp_on_after_backward(fsdp_model=fsdp, optimizer=optimizer)
        for name, p in fsdp.module.named_parameters():
            assert p.grad is not None, f"{name} has no gradient after fsdp_on_after_backward"
            assert p.grad.shape == p.shape, f"{name}: the gradient must have the shape of the shard"
            assert p.dtype == p.grad.dtype == torch.float32, f"{name}: shards and their gradients stay float32"
        replicated.append([fsdp.module.norm1.weight.grad.clone(), fsdp.module.norm2.weight.grad.clone()])
        optimizer.step()
    shards = {name: p.numel() for name, p in fsdp.module.named_parameters()}
    full = adapters.fsdp_gather_full_params(fsdp_model=fsdp)
    return {"full": {name: p.detach().clone() for name, p in full.items()}, "shards": shards, "replicated": replicated}


def baseline(half: bool) -> dict[str, Tensor]:
    """One process on whole batches."""
    torch.manual_seed(0)
    module = HalfToyLM() if half else ToyLM()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.01)
    for ids, targets in batches():
        optimizer.zero_grad()
        loss_of(module(ids), targets).backward()
        optimizer.step()
    return {name: p.detach() for name, p in module.named_parameters()}


def check(adapters_name: str, *, world_size: int = 2, half: bool = False, deterministic: bool = False) -> None:
    expected = baseline(half)
    records = run_processes(train, world_size, world_size, adapters_name, half, deterministic)
    for rank, record in enumerate(records):
        assert list(record["full"]) == list(expected), "gathered names are those inside the wrapped module"
        for name, value in record["full"].items():
            where = f"rank {rank}, {name}"
            if "norm" not in name:
                most = -(-expected[name].shape[0] // world_size) * expected[name].shape[1]
                assert record["shards"][name] <= most, f"{where}: a process holds more than its rows"
            if deterministic:
                assert value.shape == expected[name].shape and torch.equal(value, expected[name]), (
                    f"{where} differs from one process by up to {(value - expected[name]).abs().max():.1e}. The mean "
                    "of two products over halves of a batch rounds differently from one product over all of it: under "
                    "deterministic algorithms, gather inputs and output gradients and do that one product"
                )
            else:
                tolerance = 1e-4 if half else 1e-6
                hint = f"{where}: must equal one process that computes in {'float16' if half else 'float32'}"
                assert_close(value, expected[name], atol=tolerance, rtol=tolerance, hint=hint)
        for step, pair in enumerate(record["replicated"]):
            for mine, first in zip(pair, records[0]["replicated"][step], strict=True):
                assert torch.equal(mine, first), "gradients of replicated parameters must be equal on all processes"


@pytest.mark.parametrize("half", [False, True], ids=["float32", "float16"])
def test_fsdp_trains_as_one_process(adapters_name, half):
    check(adapters_name, half=half)


def test_fsdp_with_rows_that_do_not_divide(adapters_name):
    """Three processes and weights of 64, 100 and 128 rows."""
    check(adapters_name, world_size=3)


@pytest.mark.parametrize("world_size", [2, 4])
def test_fsdp_equals_one_process_bit_for_bit(adapters_name, world_size):
    """Under deterministic algorithms."""
    check(adapters_name, deterministic=True, world_size=world_size)
