"""The old API's bookkeeping: reserve, compute, settle; a repeated query is free.

    reserve   under the learner's lock: known? return it. Over budget? refuse. Else write row and charge
    compute   outside any transaction, beating meanwhile if it takes long
    settle    write the loss; on failure remove the row and give the FLOPs back

Of simultaneous equal queries one reserves, the others wait for its answer. A service killed while it computes leaves a
reservation that never beats, which the dispatcher refunds. Read next: `routes/loss_api.py`.
"""

from __future__ import annotations

import contextlib
import json
import math
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from cs336_scaling.budget import lock_user
from cs336_scaling.config import Settings
from cs336_scaling.db.engine import SessionFactory, writing
from cs336_scaling.db.tables import LossQueryTable, UserTable
from cs336_scaling.executors.protocol import LossAnswer, LossRequest, LossSource
from cs336_scaling.loss_rules import query_hash, query_text

POLL_S = 0.05


class OverBudget(Exception):
    """The query would exceed the budget; nothing was charged."""

    def __init__(self, *, needed: int, used: int, total: int) -> None:
        super().__init__(
            f"Budget exceeded: this query needs {needed} FLOPs, but {used} of {total} are used and "
            f"{max(0, total - used)} remain"
        )


class LossFailed(Exception):
    """The run failed; nothing was charged."""


class StillComputing(Exception):
    """Another request's run of the same query has not ended yet; ask again."""


@dataclass(frozen=True)
class Charged:
    """An answer, and what the learner has used so far."""

    loss: float
    source: str
    total_flops_used: int


def query_loss(
    factory: SessionFactory, settings: Settings, source: LossSource, *, sunet_id: str, request: LossRequest
) -> Charged:
    """The loss of a run, charged once per learner and query.

    Raises:
        OverBudget, LossFailed, StillComputing: nothing was charged by this call.
    """
    digest, deadline = query_hash(request), time.monotonic() + settings.loss_wait_seconds
    while True:
        known = _find(factory, sunet_id, digest) or _reserve(factory, settings, sunet_id, digest, request)
        if isinstance(known, Charged):
            return known
        if isinstance(known, str):
            return _compute(factory, settings, source, sunet_id, digest, request, owner=known)
        if time.monotonic() > deadline:
            raise StillComputing("the run of this query has not ended yet; send the same query again later")
        time.sleep(POLL_S)


def total_flops_used(session: Session, sunet_id: str) -> int:
    """FLOPs charged and reserved."""
    return session.scalars(select(UserTable.used_flops).where(UserTable.sunet_id == sunet_id)).one()


def previous_runs(session: Session, sunet_id: str) -> list[dict[str, Any]]:
    """All answered queries, in the order in which they were asked."""
    mine = (LossQueryTable.user_sunet_id == sunet_id) & LossQueryTable.loss.is_not(None)
    columns = select(LossQueryTable.query, LossQueryTable.loss).where(mine).order_by(LossQueryTable.id)
    return [{**json.loads(query), "loss": loss} for query, loss in session.execute(columns)]


def refund(factory: SessionFactory, row_id: int, owner: str) -> bool:
    """Take back a reservation that its owner will not settle; False if it has been settled or taken back."""
    with writing(factory) as session:
        found = session.get(LossQueryTable, row_id)
        if found is None:
            return False
        user = lock_user(session, found.user_sunet_id)
        row = _owned(session, row_id, owner)
        if row is None:
            return False
        user.used_flops -= row.flops
        session.delete(row)
        return True


def _find(factory: SessionFactory, sunet_id: str, digest: str) -> Charged | None:
    """The answer, if the query has one: no lock needed."""
    with factory() as session:
        row = session.scalars(_of_query(sunet_id, digest)).one_or_none()
        return None if row is None or row.loss is None else _charged(session, row)


def _reserve(
    factory: SessionFactory, settings: Settings, sunet_id: str, digest: str, request: LossRequest
) -> Charged | str | None:
    """The answer; or the name under which it was reserved; or None where another request is computing it."""
    with writing(factory) as session:
        user = lock_user(session, sunet_id)
        session.refresh(user)
        row = session.scalars(_of_query(sunet_id, digest)).one_or_none()
        if row is not None:
            return None if row.loss is None else _charged(session, row)
        total, cost = settings.total_budget_flops, request.train_flops
        if user.used_flops + cost > total:
            raise OverBudget(needed=cost, used=user.used_flops, total=total)
        user.used_flops += cost
        owner = uuid.uuid4().hex
        session.add(
            LossQueryTable(
                user_sunet_id=sunet_id, query_hash=digest, query=query_text(request), flops=cost, owner=owner
            )
        )
        return owner


def _compute(
    factory: SessionFactory, settings: Settings, source: LossSource, sunet_id: str, digest: str, request: LossRequest,
    *, owner: str,
) -> Charged:  # fmt: skip
    with factory() as session:
        row_id = session.scalars(_of_query(sunet_id, digest)).one().id
    try:
        with _beating(factory, row_id, settings.lease_seconds / 3):
            answer = source.answer(request)
        if not math.isfinite(answer.loss):
            raise ValueError(f"the loss is {answer.loss}")
    except Exception as error:  # whatever a source may throw, the reservation is given back
        refund(factory, row_id, owner)
        raise LossFailed(f"the run failed and was not charged: {error}") from error
    return _settle(factory, row_id, owner, answer)


def _settle(factory: SessionFactory, row_id: int, owner: str, answer: LossAnswer) -> Charged:
    with writing(factory) as session:
        row = _owned(session, row_id, owner)
        if row is None:
            raise LossFailed("the run was given up because the service stood still; it was not charged, ask again")
        row.loss, row.source = answer.loss, answer.source
        session.flush()
        return _charged(session, row)


@contextlib.contextmanager
def _beating(factory: SessionFactory, row_id: int, every_s: float) -> Iterator[None]:
    """Show that the computation lives."""
    done = threading.Event()

    def beat() -> None:
        while not done.wait(every_s):
            with writing(factory) as session:
                session.execute(
                    update(LossQueryTable).where(LossQueryTable.id == row_id).values(beats=LossQueryTable.beats + 1)
                )

    thread = threading.Thread(target=beat, name=f"beat-{row_id}", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _of_query(sunet_id: str, digest: str) -> Any:
    return select(LossQueryTable).where(LossQueryTable.user_sunet_id == sunet_id, LossQueryTable.query_hash == digest)


def _owned(session: Session, row_id: int, owner: str) -> LossQueryTable | None:
    mine = (LossQueryTable.id == row_id) & (LossQueryTable.owner == owner) & LossQueryTable.loss.is_(None)
    return session.scalars(
        select(LossQueryTable).where(mine).with_for_update().execution_options(populate_existing=True)
    ).one_or_none()


def _charged(session: Session, row: LossQueryTable) -> Charged:
    assert row.loss is not None and row.source is not None
    return Charged(row.loss, row.source, total_flops_used(session, row.user_sunet_id))
