"""Data parallel at its edges: what is unused, frozen, mixed, strided, accumulated, wrong, or dies."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from cs336_systems.parallel.ddp import DDP, DataParallel, DDPBucketed, FlatDDP, NaiveDDP, fill_buckets
from cs336_systems.parallel.gradient_sharding import GradientShardedDDP
from cs336_systems.parallel.process_group import clip_sharded_gradients
from cs336_systems.parallel.sharded_optimizer import ShardedOptimizer
from tests.processes import run_processes

KINDS = (NaiveDDP, FlatDDP, DDP, DDPBucketed)


class Awkward(nn.Module):
    """Used by rank 0 only, used by nobody, another dtype, a strided gradient, a buffer that changes."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.randn(6, 4))
        self.sometimes = nn.Parameter(torch.randn(4))
        self.never = nn.Parameter(torch.randn(4))
        self.wide = nn.Parameter(torch.randn(4, dtype=torch.float64))
        self.strided = nn.Parameter(torch.randn(4, 6).T)
        self.frozen = nn.Parameter(torch.randn(4), requires_grad=False)
        self.register_buffer("count", torch.zeros(2))
        self.register_buffer("turns", torch.ones(2, dtype=torch.complex64), persistent=False)

    def forward(self, x: Tensor, use: bool) -> Tensor:
        self.count += x.sum().detach()
        y = x @ self.first + x @ self.strided
        return (y * self.sometimes if use else y) * self.wide + self.frozen


def awkward_inputs(rank: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(rank)
    return [torch.randn(3, 6, generator=generator) for _ in range(2)]


def awkward_run(rank: int) -> list[dict[str, Any]]:
    found = []
    for kind in KINDS:
        torch.manual_seed(rank)
        ddp = kind(Awkward())
        with ddp.no_sync():
            ddp(awkward_inputs(rank)[0], use=rank == 0).square().sum().backward()
        ddp(awkward_inputs(rank)[1], use=False).square().sum().backward()
        ddp.finish_gradient_synchronization()
        grads = {name: None if p.grad is None else p.grad.clone() for name, p in ddp.module.named_parameters()}
        found.append({"grads": grads, "count": ddp.module.count.clone()})
    return found


def test_awkward_parameters_get_the_mean_of_accumulated_gradients():
    records = run_processes(awkward_run, 2)
    torch.manual_seed(0)
    model, counts = Awkward(), []
    for rank in (0, 1):
        model.count.zero_()
        for number, x in enumerate(awkward_inputs(rank)):
            (model(x, use=rank == 0 and number == 0).square().sum() / 2).backward()
        counts.append(model.count.clone())
    for record in records:
        for kind, found in zip(KINDS, record, strict=True):
            for name, p in model.named_parameters():
                grad = found["grads"][name]
                assert (grad is None) == (p.grad is None), (kind, name)
                if grad is not None:
                    torch.testing.assert_close(grad, p.grad, msg=f"{kind.__name__} {name}")
            assert torch.equal(found["count"], counts[0]), "the running buffer is rank 0's"


def test_buckets_hold_one_dtype_and_keep_the_order_of_backward():
    shapes = [((4,), torch.float32), ((4,), torch.float16), ((8,), torch.float32), ((4,), torch.float32)]
    parameters = [torch.zeros(shape, dtype=dtype) for shape, dtype in shapes]
    buckets = [[id(p) for p in b.parameters] for b in fill_buckets(parameters, bucket_bytes=48)]
    a, b, c, d = map(id, parameters)
    assert buckets == [[d, c], [b], [a]]


def misuse(rank: int) -> list[str]:
    said = []

    def refused(action: Any) -> None:
        try:
            action()
        except (RuntimeError, ValueError, TypeError) as error:
            said.append(str(error))

    refused(lambda: DDP(nn.Linear(3, 2 + rank)))
    refused(lambda: DDP(nn.Linear(3, 2, device="meta")))
    refused(lambda: DDPBucketed(nn.Linear(3, 2), 0))
    refused(lambda: ShardedOptimizer(nn.Linear(3, 2).parameters(), torch.optim.LBFGS))
    refused(lambda: ShardedOptimizer(nn.ReLU().parameters(), torch.optim.AdamW))
    ddp = DDP(nn.Linear(3, 2))
    ddp(torch.ones(1, 3)).sum().backward()
    refused(lambda: ddp(torch.ones(1, 3)).sum().backward())
    ddp.start_batch()
    sparse = NaiveDDP(nn.Embedding(3, 2, sparse=True))
    sparse(torch.tensor([1])).sum().backward()
    refused(sparse.finish_gradient_synchronization)
    nothing = DDPBucketed(nn.ReLU())
    assert nothing(torch.ones(1)).item() == 1
    nothing.finish_gradient_synchronization()
    return said


def test_misuse_is_refused_on_every_process():
    for said in run_processes(misuse, 2):
        for words, text in zip(
            (
                "rank 1 has weight (3, 3)",
                "move the module",
                "above 0",
                "LBFGS",
                "empty parameter list",
                "no_sync",
                "sparse",
            ),
            said,
            strict=True,
        ):
            assert words in text


def test_without_a_group_the_error_names_the_remedy():
    with pytest.raises(RuntimeError, match="init_process_group"):
        DDP(nn.Linear(2, 2))


def sharded_gradients(rank: int) -> dict[str, Any]:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 1))
    optimizer = ShardedOptimizer(module.parameters(), torch.optim.AdamW, lr=0.1)
    ddp = GradientShardedDDP(module, optimizer, bucket_size_mb=0.0001)
    held, norms = [], []
    for step in range(4):
        optimizer.zero_grad()
        x = torch.randn(8, 6, generator=torch.Generator().manual_seed(step))[rank * 4 : rank * 4 + 4]
        ddp(x).square().mean().backward()
        ddp.finish_gradient_synchronization()
        held.append([p.grad is not None for p in module.parameters()])
        norms.append(float(clip_sharded_gradients(module.parameters(), [], 0.1)))
        optimizer.step()
    moments = sum(t.numel() for state in optimizer.inner.state.values() for t in state.values() if t.dim())
    return {
        "weights": module.state_dict(),
        "held": held,
        "norms": norms,
        "moments": moments,
        "state": optimizer.state_dict(),
    }


def test_gradient_sharding_trains_as_one_process_and_holds_a_part():
    records = run_processes(sharded_gradients, 2)
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 1))
    optimizer, norms = torch.optim.AdamW(module.parameters(), lr=0.1), []
    for step in range(4):
        optimizer.zero_grad()
        module(torch.randn(8, 6, generator=torch.Generator().manual_seed(step))).square().mean().backward()
        norms.append(float(nn.utils.clip_grad_norm_(module.parameters(), 0.1)))
        optimizer.step()
    for record in records:
        torch.testing.assert_close(record["norms"], norms, rtol=1e-5, atol=0)
        for name, value in module.state_dict().items():
            torch.testing.assert_close(record["weights"][name], value, rtol=1e-4, atol=1e-5)
        fresh = torch.optim.AdamW(module.parameters(), lr=0.1)
        fresh.load_state_dict(record["state"])  # the layout of one process
        for place, state in optimizer.state_dict()["state"].items():
            torch.testing.assert_close(
                record["state"]["state"][place]["exp_avg"], state["exp_avg"], rtol=1e-3, atol=1e-6
            )
    for mine, other in zip(records[0]["held"], records[1]["held"], strict=True):
        assert all(a != b for a, b in zip(mine, other, strict=True)), "each gradient is with its owner alone"
    total = 2 * sum(p.numel() for p in module.parameters())
    assert sum(record["moments"] for record in records) == total
    assert max(record["moments"] for record in records) < 0.7 * total


def more_ranks_than_parameters(rank: int) -> dict[str, Tensor]:
    torch.manual_seed(0)
    module = nn.Linear(3, 2, bias=False)
    optimizer = ShardedOptimizer(module.parameters(), torch.optim.AdamW, lr=0.1)
    module(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    optimizer.load_state_dict(optimizer.state_dict())
    optimizer.step()
    return module.state_dict()


def test_a_process_may_own_nothing():
    torch.manual_seed(0)
    module = nn.Linear(3, 2, bias=False)
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.1)
    module(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    optimizer.step()
    for state in run_processes(more_ranks_than_parameters, 3):
        assert torch.equal(state["weight"], module.weight)


def dies(rank: int) -> float:
    ddp: DataParallel = DDP(nn.Linear(3, 2))
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    started = time.monotonic()
    ddp(torch.ones(1, 3)).sum().backward()
    try:
        ddp.finish_gradient_synchronization()
    except RuntimeError:
        raise RuntimeError(f"noticed after {time.monotonic() - started:.0f} s") from None
    return 0.0


def test_a_process_that_dies_gives_an_error_to_the_other():
    with pytest.raises(RuntimeError, match="died without a word|noticed after"):
        run_processes(dies, 2)


def hangs(rank: int) -> str:
    """Rank 1 never calls the collective; a group with a short time limit gives rank 0 an error."""
    from datetime import timedelta

    group = dist.new_group(timeout=timedelta(seconds=2))
    if rank == 1:
        return ""
    try:
        dist.all_reduce(torch.ones(2), group=group)
    except RuntimeError as error:
        return str(error)
    return "no error"


def test_a_collective_that_others_never_join_times_out():
    assert "imed out" in run_processes(hangs, 2)[0]
