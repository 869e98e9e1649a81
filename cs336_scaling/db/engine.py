"""The database: engine, sessions, schema, and transactions that write.

SQLite's default is to begin a transaction as a reader, who may be refused when he wants to write; two checks could then
pass on the same old balance. So transactions are begun by us, those that write with BEGIN IMMEDIATE, one at a time per
process. On PostgreSQL a writer locks the row of its learner (`../budget.py`). Read next: `tables.py`.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.orm import Session, sessionmaker

from cs336_scaling.config import settings_from_env

SessionFactory = sessionmaker[Session]
SQLITE_WAIT_MS = 30_000
MIGRATION_LOCK, DISPATCH_LOCK = 336_001, 336_002


def open_engine(url: str) -> Engine:
    """An engine for a SQLite file or a PostgreSQL database.

    Raises:
        ValueError: another kind of database, or SQLite in memory, which threads cannot share.
    """
    parsed = make_url(url)
    kind = parsed.get_backend_name()
    if kind not in ("sqlite", "postgresql"):
        raise ValueError(f"the database must be sqlite or postgresql; got {kind!r}")
    if kind == "postgresql":
        return create_engine(
            parsed.set(drivername="postgresql+psycopg"), pool_pre_ping=True, pool_size=20, max_overflow=20
        )
    if parsed.database in (None, "", ":memory:"):
        raise ValueError("SQLite needs a file: sqlite:///path/to/file.db")
    assert parsed.database is not None
    Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(parsed, pool_size=20, max_overflow=60, connect_args={"timeout": SQLITE_WAIT_MS / 1000})
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: Any, record: Any) -> None:
    connection.isolation_level = None  # the driver begins nothing by itself
    connection.execute("PRAGMA journal_mode=WAL")
    # FULL survives a power cut; NORMAL would survive kill -9 only. `group_commit.py` makes FULL affordable.
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA foreign_keys=ON")


def _begin_sqlite(connection: Connection) -> None:
    options = connection.get_execution_options()
    if not options.get("single", False):
        connection.exec_driver_sql("BEGIN IMMEDIATE" if options.get("writes", False) else "BEGIN")


@functools.cache
def get_engine() -> Engine:
    """The engine of this process's settings."""
    return open_engine(settings_from_env().database_url)


@functools.cache
def get_session_factory() -> SessionFactory:
    """Makes sessions; objects stay readable after a commit."""
    return sessionmaker(get_engine(), expire_on_commit=False)


def for_single_reads(engine: Engine) -> Engine:
    """The same engine for connections that read with one statement: BEGIN is a good part of such a read on SQLite."""
    return engine.execution_options(single=True)


@functools.cache
def _writer_lock(url: str) -> threading.Lock:
    """One writer at a time per process: waiting here is fair, SQLite's own waiting is sleep and try again."""
    return threading.Lock()


@contextlib.contextmanager
def writing(factory: SessionFactory) -> Iterator[Session]:
    """A session whose transaction may write; commits at the end, rolls back on an error."""
    engine: Engine = factory.kw["bind"]
    one_writer = engine.dialect.name == "sqlite"
    with _writer_lock(str(engine.url)) if one_writer else contextlib.nullcontext(), factory() as session:
        session.connection(execution_options={"writes": True})
        yield session
        session.commit()


def lock_until_commit(session: Session, number: int) -> None:
    """Let one transaction at a time pass, across processes; SQLite's writers are alone anyway."""
    if session.get_bind().dialect.name == "postgresql":
        session.execute(text("SELECT pg_advisory_xact_lock(:number)"), {"number": number})


def init_db() -> None:
    """Create the tables, or bring them up to date."""
    migrate(get_engine())


def migrate(engine: Engine, *, revision: str = "head") -> None:
    """Apply the migrations of `migrations/` up to `revision`; a second process that tries waits and finds them done."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    with engine.connect().execution_options(writes=True) as connection, connection.begin():
        if engine.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:number)"), {"number": MIGRATION_LOCK})
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
