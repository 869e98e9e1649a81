"""Budgets that cannot be overdrawn: check and charge under the lock of the learner's row.

    lock learner -> sum what is spent and reserved -> refuse, or write the new charge -> commit

Two requests of one learner pass one after the other (PostgreSQL: FOR UPDATE; SQLite: one writer at a time), so the
second sees the first's charge. Milliseconds and FLOPs are integers, compared exactly. Read next:
`scheduler/submissions.py`, `loss_queries.py`.
"""

from __future__ import annotations

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from cs336_scaling.db.tables import ExperimentTable, UserTable
from cs336_scaling.schemas.experiment import BudgetSummary


def lock_user(session: Session, sunet_id: str) -> UserTable:
    """The learner's row, held against other writers until the transaction ends."""
    return session.scalars(select(UserTable).where(UserTable.sunet_id == sunet_id).with_for_update()).one()


def used_ms(session: Session, sunet_id: str) -> int:
    """Milliseconds of training spent or reserved."""
    total = select(func.coalesce(func.sum(ExperimentTable.charged_ms), 0))
    return int(session.scalars(total.where(ExperimentTable.user_sunet_id == sunet_id)).one())


def budget_summary(session: Session, sunet_id: str, *, total_seconds: float) -> BudgetSummary:
    """Seconds used, left (never below 0), and granted."""
    used, total = used_ms(session, sunet_id), round(1000 * total_seconds)
    return BudgetSummary(
        used_seconds=used / 1000, remaining_seconds=max(0, total - used) / 1000, total_budget_seconds=total / 1000
    )
