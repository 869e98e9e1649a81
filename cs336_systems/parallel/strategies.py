"""The training loop's strategies by the names of `--strategy`.

    name                       each process holds                              gradients                  optimizer
    ddp, ddp-naive, ddp-flat,  everything                                      all-reduce (see ddp.py)    the plain one
      ddp-overlapped
    zero1                      weights, gradients, 1/N of the moments          bucketed all-reduce        sharded
    zero2                      weights, 1/N of gradients and moments           bucketed reduce to owners  sharded
    fsdp                       1/N of everything                               reduce-scatter             on shards
    tensor, pipeline           1/N of everything, the batch in common          complete where they arise  on shards
    context                    everything, 1/N of each sequence                bucketed all-reduce        the plain one

Each reads and writes the checkpoints of one process. Read next: `group_strategy.py`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import torch

from cs336_basics.training_strategy import Strategy
from cs336_systems.parallel.group_strategy import DDPStrategy, SingleStrategy
from cs336_systems.parallel.parallel_config import ParallelConfig
from cs336_systems.parallel.process_group import COLLECTIVE_TIMEOUT_S, joined_group
from cs336_systems.parallel.sharded_strategies import FSDPStrategy, ZeRO1Strategy, ZeRO2Strategy
from cs336_systems.parallel.shared_batch_strategies import ContextStrategy, PipelineStrategy, TensorStrategy

STRATEGIES: dict[str, Any] = {
    "ddp-naive": DDPStrategy,
    "ddp-flat": DDPStrategy,
    "ddp-overlapped": DDPStrategy,
    "ddp": DDPStrategy,
    "zero1": ZeRO1Strategy,
    "zero2": ZeRO2Strategy,
    "fsdp": FSDPStrategy,
    "tensor": TensorStrategy,
    "pipeline": PipelineStrategy,
    "context": ContextStrategy,
}


def make_strategy(parallel: ParallelConfig) -> Strategy:
    """The strategy, in the process group that this process has joined; none is needed for "single"."""
    return STRATEGIES.get(parallel.strategy, SingleStrategy)(parallel)


@contextlib.contextmanager
def joined_strategy(
    parallel: ParallelConfig, *, device: torch.device, timeout_s: float = COLLECTIVE_TIMEOUT_S
) -> Iterator[Strategy]:
    """Join the group that torchrun has started and give the strategy for `train`.

    Raises:
        ValueError: not started by torchrun, or started by it for one process's strategy.
    """
    if parallel.strategy == "single":
        started = int(os.environ.get("WORLD_SIZE", "1"))
        if started > 1:
            raise ValueError(f"torchrun has started {started} processes; choose --strategy {', '.join(STRATEGIES)}")
        yield make_strategy(parallel)
        return
    with joined_group(device=device, timeout_s=timeout_s):
        yield make_strategy(parallel)
