"""The live bar of a training run: step, loss, tokens per second, time left, on standard error."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol

PLAIN_SECONDS = 10.0


class _Run(Protocol):
    config: Any
    step: int


@contextlib.contextmanager
def training_progress(run: _Run, *, shown: bool) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Yield a function that takes each step's log record; where there is no terminal it prints a line now and then."""
    if not shown:
        yield lambda record: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console, total = Console(stderr=True), run.config.num_steps
    columns = (
        TextColumn("training"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"),
        TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
    )  # fmt: skip
    first_step, started, last_line = run.step, time.monotonic(), time.monotonic()
    validation = ""
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=total, completed=run.step)

        def show(record: dict[str, Any]) -> None:
            nonlocal last_line, validation
            done, now = record["step"], time.monotonic()
            if "validation_loss" in record:
                validation = f" valid {record['validation_loss']:.3f}"
            rate = (done - first_step) * run.config.tokens_per_step / max(now - started, 1e-9)
            text = f"loss {record['train_loss']:.3f}{validation} {rate:,.0f} tokens/s"
            bar.update(task, completed=done, description=text)
            if not console.is_terminal and (now - last_line > PLAIN_SECONDS or done == total):
                last_line = now
                left = (total - done) * (now - started) / max(done - first_step, 1)
                console.print(f"step {done}/{total} {text}, {left:.0f} s left", highlight=False)

        yield show
