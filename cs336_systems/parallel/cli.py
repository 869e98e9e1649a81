"""`cs336 train` with all strategies: the training verb of basics, given what this floor adds.

    torchrun --standalone --nproc-per-node 2 --max-restarts 3 -m cs336_course.cli train --strategy fsdp --out runs/a ...

torchrun starts the processes, and when one dies ends the others and starts all anew, up to --max-restarts times; the
run then goes on from its last checkpoint, as after any kill. GPUs use NCCL, CPUs gloo.

Read next: `strategies.py`, `cs336_basics/cli.py`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from cs336_basics import cli

if TYPE_CHECKING:
    from cs336_basics.training import Strategy
    from cs336_basics.training_config import TrainConfig

NAMES = ("ddp", "zero1", "zero2", "fsdp")


def train(argv: list[str]) -> None:
    """`cs336 train`."""

    def opener(name: str) -> cli.OpenStrategy:
        return lambda config: open_strategy(name, config)

    cli.train(argv, strategies={name: opener(name) for name in ("single", *NAMES)})


@contextlib.contextmanager
def open_strategy(name: str, config: TrainConfig) -> Iterator[Strategy]:
    """The strategy for a run, in the group that torchrun has started.

    Raises:
        ValueError: one process too many for "single", none started by torchrun for the others, or a configuration that
            the strategy cannot run.
    """
    from cs336_basics.runs.machine import choose_device
    from cs336_basics.training import SingleProcess
    from cs336_systems.parallel.strategies import joined_strategy

    if name == "single":
        started = int(os.environ.get("WORLD_SIZE", "1"))
        if started > 1:
            raise ValueError(f"torchrun has started {started} processes; choose --strategy {', '.join(NAMES)}")
        yield SingleProcess()
        return
    if name == "fsdp" and config.compile:
        raise ValueError("strategy fsdp gathers weights inside the forward and cannot be compiled; use --no-compile")
    with joined_strategy(name, device=choose_device(config.device)) as strategy:
        yield strategy
