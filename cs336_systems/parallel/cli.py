"""`cs336 train` with all strategies: the training verb of basics, given what this floor adds.

    torchrun --standalone --nproc-per-node 2 --max-restarts 3 -m cs336_course.cli train --strategy fsdp --out runs/a ...

torchrun starts the processes, and when one dies ends the others and starts all anew, up to --max-restarts times; the
run then goes on from its last checkpoint, as after any kill. GPUs use NCCL, CPUs gloo.

Read next: `parallel_config.py`, `strategies.py`, `cs336_basics/cli.py`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from cs336_basics import cli
from cs336_systems.parallel.parallel_config import ParallelConfig

if TYPE_CHECKING:
    from cs336_basics.training_config import TrainConfig
    from cs336_basics.training_strategy import Strategy


def train(argv: list[str]) -> None:
    """`cs336 train`."""
    cli.train(argv, parallel=ParallelConfig, open_strategy=open_strategy)


@contextlib.contextmanager
def open_strategy(parallel: ParallelConfig, config: TrainConfig) -> Iterator[Strategy]:
    """The strategy for a run, in the group that torchrun has started.

    Raises:
        ValueError: started by torchrun where it must not be or the other way round, or a configuration that the
            strategy cannot run.
    """
    from cs336_basics.runs.machine import choose_device
    from cs336_systems.parallel.strategies import joined_strategy

    parallel.check_run(config)
    with joined_strategy(parallel, device=choose_device(config.device)) as strategy:
        yield strategy
