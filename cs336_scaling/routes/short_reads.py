"""Where a read of a row or two runs: right here on SQLite, in a thread on PostgreSQL.

A plain `def` endpoint is handed to a thread, which costs locks and wake-ups; a row of a local file is read in less
time than that, and never waits (in WAL mode readers wait for nobody), so the thread would cost more than it saves. A
server on the network may take its time, and other requests must not wait for it. Long reads and all writes stay in
threads on both. Read next: `experiments_api.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

from fastapi import Request
from fastapi.concurrency import run_in_threadpool

P = ParamSpec("P")
T = TypeVar("T")


async def read_shortly(request: Request, read: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """read(*args, **kwargs), wherever that is cheaper."""
    if request.app.state.reads.dialect.name == "sqlite":
        return read(*args, **kwargs)
    return await run_in_threadpool(read, *args, **kwargs)
