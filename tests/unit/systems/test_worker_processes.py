"""Workers: results by rank, failures told, no hang."""

from __future__ import annotations

import os
import signal
import time

import pytest
import torch
import torch.distributed as dist

from cs336_systems.parallel.worker_processes import WorkerError, run_workers


def rank_plus_sum(value: int) -> tuple[int, float, torch.Tensor]:
    total = torch.tensor([float(dist.get_rank() + value)])
    dist.all_reduce(total)
    return dist.get_rank(), total.item(), torch.full((2,), float(dist.get_rank()))


def fail_on_rank_one() -> None:
    if dist.get_rank() == 1:
        raise KeyError("no such shard")
    dist.all_reduce(torch.ones(1))


def die_on_rank_zero() -> None:
    if dist.get_rank() == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    dist.all_reduce(torch.ones(1))


def sleep_on_rank_zero() -> None:
    if dist.get_rank() == 0:
        time.sleep(60)


def test_results_come_in_rank_order():
    results = run_workers(rank_plus_sum, 4, arguments=(10,))
    assert [rank for rank, _, _ in results] == [0, 1, 2, 3]
    assert all(total == 10 + 11 + 12 + 13 for _, total, _ in results)
    assert [tensor.tolist() for _, _, tensor in results] == [[0, 0], [1, 1], [2, 2], [3, 3]]


def test_a_rank_that_raises_is_named_with_its_traceback():
    with pytest.raises(WorkerError, match="rank 1 of 2(.|\n)*no such shard"):
        run_workers(fail_on_rank_one, 2, timeout_s=30)


def test_a_rank_that_dies_is_no_hang():
    with pytest.raises(WorkerError, match="rank 0 of 2: the process died"):
        run_workers(die_on_rank_zero, 2, timeout_s=60)


def test_a_rank_that_sleeps_runs_into_the_limit():
    with pytest.raises(WorkerError, match="not done in time"):
        run_workers(sleep_on_rank_zero, 2, timeout_s=8)


@pytest.mark.parametrize(
    ("world_size", "backend", "message"),
    [(0, "gloo", "at least 1"), (2, "mpi", "gloo"), (10_000, "nccl", "one GPU per rank")],
)
def test_bad_requests(world_size, backend, message):
    with pytest.raises(ValueError, match=message):
        run_workers(rank_plus_sum, world_size, backend=backend)
