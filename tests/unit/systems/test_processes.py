"""The tests' own processes: results by rank, failures told with their cause, no hang."""

from __future__ import annotations

import os
import signal
import time

import pytest
import torch
import torch.distributed as dist

from tests.processes import run_processes


def rank_plus_sum(rank: int, value: int) -> tuple[int, float, torch.Tensor]:
    total = torch.tensor([float(rank + value)])
    dist.all_reduce(total)
    return dist.get_rank(), total.item(), torch.full((2,), float(rank))


def fail_on_rank_one(rank: int) -> None:
    if rank == 1:
        raise KeyError("no such shard")
    dist.all_reduce(torch.ones(1))


def die_on_rank_zero(rank: int) -> None:
    if rank == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    dist.all_reduce(torch.ones(1))


def sleep_on_rank_zero(rank: int) -> None:
    if rank == 0:
        time.sleep(60)


def test_results_come_in_rank_order():
    results = run_processes(rank_plus_sum, 4, 10)
    assert [rank for rank, _, _ in results] == [0, 1, 2, 3]
    assert all(total == 10 + 11 + 12 + 13 for _, total, _ in results)
    assert [tensor.tolist() for _, _, tensor in results] == [[0, 0], [1, 1], [2, 2], [3, 3]]


def test_a_rank_that_raises_is_named_with_its_traceback():
    with pytest.raises(RuntimeError, match="rank 1 of 2(.|\n)*no such shard"):
        run_processes(fail_on_rank_one, 2)


def test_a_rank_that_dies_is_no_hang():
    with pytest.raises(RuntimeError, match="rank 0 of 2: died without a word"):
        run_processes(die_on_rank_zero, 2)


def test_a_rank_that_sleeps_runs_into_the_limit():
    with pytest.raises(TimeoutError, match=r"no result from ranks \[0\] in time"):
        run_processes(sleep_on_rank_zero, 2, limit_s=4)
