"""Budgets that cannot be overdrawn: check and charge under the lock of the learner's row.

    lock learner -> sum what is spent and reserved -> refuse, or write the new charge -> commit

Two requests of one learner pass one after the other (PostgreSQL: FOR UPDATE; SQLite: one writer at a time), so the
second sees the first's charge. Milliseconds and FLOPs are integers, compared exactly. Read next:
`scheduler/submissions.py`, `loss_queries.py`.
"""

from __future__ import annotations

from sqlalchemy import Connection, bindparam, func, select
from sqlalchemy.orm import Session

from cs336_scaling.db.tables import ExperimentTable, UserTable
from cs336_scaling.schemas.experiment import BudgetSummary

LOCKED_USER = select(UserTable).where(UserTable.sunet_id == bindparam("learner")).with_for_update()
_ROW = ExperimentTable.__table__.c
USED_MS = select(func.coalesce(func.sum(_ROW.charged_ms), 0)).where(_ROW.user_sunet_id == bindparam("learner"))


def lock_user(session: Session, sunet_id: str) -> UserTable:
    """The learner's row, held against other writers until the transaction ends."""
    return session.scalars(LOCKED_USER, {"learner": sunet_id}).one()


def used_ms(session: Session | Connection, sunet_id: str) -> int:
    """Milliseconds of training spent or reserved."""
    return int(session.scalars(USED_MS, {"learner": sunet_id}).one())


def budget_summary(session: Session | Connection, sunet_id: str, *, total_seconds: float) -> BudgetSummary:
    """Seconds used, left (never below 0), and granted."""
    return summary_of(used_ms(session, sunet_id), total_seconds=total_seconds)


def summary_of(used: int, *, total_seconds: float) -> BudgetSummary:
    """The same for a number of milliseconds that is known already."""
    total = round(1000 * total_seconds)
    return BudgetSummary(
        used_seconds=used / 1000, remaining_seconds=max(0, total - used) / 1000, total_budget_seconds=total / 1000
    )
