"""A progress bar on stderr for the long phases of tokenizer training. Left out: everything else. Read next:
`bpe.py`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Report = Callable[[int, int], None]


@contextmanager
def progress_bar(description: str, *, enabled: bool) -> Iterator[Report]:
    """Show one bar on stderr while the block runs; the block calls `report(done, total)`.

    Args:
        description: the name of the phase.
        enabled: False gives a `report` that does nothing.
    """
    if not enabled:
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    columns = TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn()
    with Progress(*columns, console=Console(stderr=True)) as bars:
        task = bars.add_task(description, total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)
