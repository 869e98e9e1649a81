"""Optional second homes for log records: TensorBoard and Weights & Biases, each imported only when asked for."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

from cs336_basics.runs.config import config_to_dict


class _Choices(Protocol):
    @property
    def tensorboard(self) -> bool: ...
    @property
    def wandb_project(self) -> str | None: ...


@contextlib.contextmanager
def open_trackers(directory: Path, config: _Choices) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Yield a function that passes a log record's numbers on to what `config` asks for (often nothing).

    Raises:
        ImportError: a tracker is asked for whose package is not installed.
    """
    with contextlib.ExitStack() as stack:
        sinks: list[Callable[[dict[str, float], int], Any]] = []
        if config.tensorboard:
            sinks.append(_tensorboard(directory, stack))
        if config.wandb_project is not None:
            sinks.append(_wandb(directory, config, stack))

        def track(record: dict[str, Any]) -> None:
            numbers = {k: float(v) for k, v in record.items() if isinstance(v, (int, float)) and k != "step"}
            for sink in sinks:
                sink(numbers, record["step"])

        yield track


def _tensorboard(directory: Path, stack: contextlib.ExitStack) -> Callable[[dict[str, float], int], Any]:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ImportError("tensorboard=True needs TensorBoard; install it with: pip install tensorboard") from error
    writer = SummaryWriter(str(directory / "tensorboard"))
    stack.callback(writer.close)

    def add(numbers: dict[str, float], step: int) -> None:
        for name, value in numbers.items():
            writer.add_scalar(name, value, step)

    return add


def _wandb(directory: Path, config: Any, stack: contextlib.ExitStack) -> Callable[[dict[str, float], int], Any]:
    try:
        import wandb
    except ImportError as error:
        raise ImportError("wandb_project needs Weights & Biases; install it with: pip install wandb") from error
    run = wandb.init(project=config.wandb_project, dir=str(directory), config=config_to_dict(config), resume="allow")
    stack.callback(run.finish)
    return lambda numbers, step: run.log(numbers, step=step)
