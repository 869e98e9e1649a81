"""Who calls: keys to learners, and no more requests than the rate limit allows.

Unknown keys share one bucket per address, so that keys cannot be guessed at speed; nothing writes a key to a log.
Read next: `short_reads.py`, `experiments_api.py`, `loss_api.py`.
"""

from __future__ import annotations

import hmac
import math

from fastapi import HTTPException, Request
from sqlalchemy import bindparam, select

from cs336_scaling.db.tables import UserTable
from cs336_scaling.keys import hash_key
from cs336_scaling.routes.short_reads import read_shortly

LEARNER = select(UserTable.__table__.c.sunet_id).where(UserTable.__table__.c.api_key_hash == bindparam("key_hash"))


class TooManyRequests(Exception):
    """The caller has to wait."""

    def __init__(self, seconds: float) -> None:
        self.retry_after = max(1, math.ceil(seconds))
        super().__init__(f"too many requests; wait {self.retry_after} s")


def learner_of(request: Request, key: str) -> str | None:
    """The learner whose key this is, or None.

    Raises:
        TooManyRequests: of this learner, or of guesses from this address.
    """
    with request.app.state.reads.connect() as connection:
        sunet_id = connection.scalars(LEARNER, {"key_hash": hash_key(key)}).first()
    address = request.client.host if request.client else "unknown"
    wait = request.app.state.limiter.wait_seconds(f"key {sunet_id}" if sunet_id is not None else f"address {address}")
    if wait:
        raise TooManyRequests(wait)
    return sunet_id


async def current_learner(request: Request) -> str:
    """Dependency of the 2026 API: the learner named by X-API-Key.

    Raises:
        HTTPException: 401.
    """
    return await read_shortly(request, learner_of_header, request)


def learner_of_header(request: Request) -> str:
    """What `current_learner` does, for callers in a thread."""
    key = request.headers.get("X-API-Key")
    if key is None:
        raise HTTPException(401, "missing X-API-Key")
    sunet_id = learner_of(request, key)
    if sunet_id is None:
        raise HTTPException(401, "invalid API key")
    return sunet_id


def require_worker(request: Request) -> None:
    """Dependency of the worker API.

    Raises:
        HTTPException: 401.
    """
    given = request.headers.get("X-Internal-Key", "")
    if not hmac.compare_digest(given.encode(), request.app.state.settings.internal_api_key.encode()):
        raise HTTPException(401, "invalid internal key")
