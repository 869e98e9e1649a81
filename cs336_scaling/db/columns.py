"""Column types that mean the same on SQLite and PostgreSQL: UTC times, integers of any size, messages as JSON text.

SQLite has no time zones and no integer beyond 2^63, and PostgreSQL's JSON operators have no twin there; what is
searched for has a plain column of its own. Read next: `tables.py`.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from pydantic import TypeAdapter
from sqlalchemy import DateTime, Dialect, String, Text
from sqlalchemy.types import TypeDecorator


class UTCDateTime(TypeDecorator[datetime]):
    """A time with its zone; stored and returned in UTC."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """To UTC; refuses a time without a zone."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"a time needs its zone; got {value!r}, use datetime.now(UTC)")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """SQLite forgets the zone, PostgreSQL returns the session's."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class ExactInteger(TypeDecorator[int]):
    """An integer of up to 39 digits: 10^19 FLOPs fit in no BIGINT, and a float would round them."""

    impl = String(40)
    cache_ok = True

    def process_bind_param(self, value: int | None, dialect: Dialect) -> str | None:
        """As decimal digits."""
        if value is None:
            return None
        if not isinstance(value, int):
            raise TypeError(f"an exact number of FLOPs is an int; got {value!r}")
        return str(value)

    def process_result_value(self, value: str | None, dialect: Dialect) -> int | None:
        """From decimal digits."""
        return None if value is None else int(value)


class Message(TypeDecorator[Any]):
    """A pydantic message (or union of messages) as JSON text."""

    impl = Text
    cache_ok = True  # an adapter stands for itself; without this SQLAlchemy compiles every statement anew

    def __init__(self, adapter: TypeAdapter[Any]) -> None:
        super().__init__()
        self.adapter = adapter

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:
        """To text."""
        return None if value is None else self.adapter.dump_json(value).decode()

    def process_result_value(self, value: str | None, dialect: Dialect) -> Any:
        """To the message."""
        return None if value is None else self.adapter.validate_json(value)
