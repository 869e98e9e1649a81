"""Group commit: transactions that wait for one another share one trip to the disk.

    each caller    lines up its work, then waits for the leader's lock
    the leader     begins one transaction; every waiting work runs in a savepoint of its own; one commit for all
    then           everybody gets the verdict of their own work, but only once the commit is on the disk

A commit waits for the disk (`synchronous=FULL`, 1 to 10 ms), and meanwhile SQLite admits no other writer. So while one
group is being written the next one gathers, and the more callers there are, the larger the groups. What a caller was
told is on the disk: it survives kill -9 of the service, and also a power cut. A work that raises is undone alone. If
the database itself fails, the whole group is undone and everybody is told. PostgreSQL commits in groups by itself.
Paper: DeWitt et al. 1984, which calls it that. Read next: `../scheduler/submissions.py`.
"""

from __future__ import annotations

import functools
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError, IntegrityError

from cs336_scaling.db.engine import SessionFactory, writing

T = TypeVar("T")


@dataclass(frozen=True)
class _Line:
    """Who waits for the next commit of one database."""

    leader: threading.Lock = field(default_factory=threading.Lock)
    waiting: deque[_Caller] = field(default_factory=deque)


@dataclass(frozen=True)
class _Caller:
    work: Callable[[Connection], Any]
    verdict: Future[Any] = field(default_factory=Future)


@functools.cache
def _line(url: str) -> _Line:
    return _Line()


def write_together(factory: SessionFactory, work: Callable[[Connection], T]) -> T:
    """Do `work` in a transaction that may be shared; returns its result when it is committed.

    Args:
        factory: of the database.
        work: reads and writes through the connection it is given; must not commit.

    Raises:
        Exception: whatever `work` raises, its writes undone; or the database's error, nothing of the group written.
    """
    url = factory.kw["bind"].url
    if url.get_backend_name() != "sqlite":
        with writing(factory) as session:
            return work(session.connection())
    line, caller = _line(str(url)), _Caller(work)
    line.waiting.append(caller)
    with line.leader:
        if not caller.verdict.done():  # else the leader before us has done our work too
            _commit([line.waiting.popleft() for _ in range(len(line.waiting))], factory)
    return caller.verdict.result()


def _commit(group: list[_Caller], factory: SessionFactory) -> None:
    verdicts = []
    try:
        with writing(factory) as session:
            connection = session.connection()
            for caller in group:
                verdicts.append(_attempt(connection, caller.work))
    except BaseException as error:  # whatever it is, those who wait have to hear of it
        for caller in group:
            caller.verdict.set_exception(error)
        return
    for caller, (result, refusal) in zip(group, verdicts, strict=True):
        if refusal is None:
            caller.verdict.set_result(result)
        else:
            caller.verdict.set_exception(refusal)


def _attempt(connection: Connection, work: Callable[[Connection], Any]) -> tuple[Any, Exception | None]:
    """(result, None) or (None, why not), with everything undone that this work wrote."""
    try:
        with connection.begin_nested():
            return work(connection), None
    except Exception as error:
        if isinstance(error, DBAPIError) and not isinstance(error, IntegrityError):
            raise  # the database failed, not this work
        return None, error
