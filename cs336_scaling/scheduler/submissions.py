"""Submitting an experiment: budget, duplicate and queue checks and the reservation, in one transaction.

    400 the budget is too small    409 the configuration is known    503 the queue is full    else: queued and reserved

An `Idempotency-Key` makes a repeated request (after a lost connection) return the first one's experiment. Read next:
`queue.py`.
"""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from cs336_scaling.budget import budget_summary, lock_user, used_ms
from cs336_scaling.config import Settings
from cs336_scaling.db.engine import SessionFactory
from cs336_scaling.db.group_commit import write_together
from cs336_scaling.db.tables import EventLogTable, ExperimentTable
from cs336_scaling.schemas.events import QueuedEvent
from cs336_scaling.schemas.experiment import BudgetSummary, QueuedExperimentStatus, SubmitResponse
from cs336_scaling.training.training_config import TrainingConfig


class InsufficientBudget(Exception):
    """The reservation would exceed the budget; nothing was charged."""

    def __init__(self, summary: BudgetSummary) -> None:
        super().__init__("insufficient budget")
        self.summary = summary


class DuplicateExperiment(Exception):
    """The learner has submitted this configuration before."""


class IdempotencyKeyReused(Exception):
    """The key belongs to another configuration."""


class QueueFull(Exception):
    """No place in the queue; nothing was charged."""


def submit(
    factory: SessionFactory,
    settings: Settings,
    *,
    sunet_id: str,
    config: TrainingConfig,
    idempotency_key: str | None = None,
) -> SubmitResponse:
    """Queue `config` and reserve its max_runtime_seconds.

    Raises:
        InsufficientBudget, DuplicateExperiment, IdempotencyKeyReused, QueueFull: in this order; nothing was charged.
    """

    def reserve(session: Session) -> SubmitResponse:
        lock_user(session, sunet_id)
        known = _of_idempotency_key(session, sunet_id, idempotency_key)
        if known is not None and known.training_config_unique_id != config.unique_id:
            raise IdempotencyKeyReused
        experiment = known or _enqueue(session, settings, sunet_id, config, idempotency_key)
        summary = budget_summary(session, sunet_id, total_seconds=settings.total_budget_seconds)
        return SubmitResponse(experiment_id=experiment.id, budget_summary=summary)

    return write_together(factory, reserve)


def _enqueue(
    session: Session, settings: Settings, sunet_id: str, config: TrainingConfig, idempotency_key: str | None
) -> ExperimentTable:
    cost = 1000 * config.max_runtime_seconds
    if used_ms(session, sunet_id) + cost > round(1000 * settings.total_budget_seconds):
        raise InsufficientBudget(budget_summary(session, sunet_id, total_seconds=settings.total_budget_seconds))
    same = (ExperimentTable.user_sunet_id == sunet_id) & (ExperimentTable.training_config_unique_id == config.unique_id)
    if session.scalars(select(ExperimentTable.id).where(same)).first() is not None:
        raise DuplicateExperiment
    queued = select(func.count()).select_from(ExperimentTable).where(ExperimentTable.status_type == "queued")
    if session.scalars(queued).one() >= settings.max_queue_length:
        raise QueueFull
    now = datetime.now(UTC)
    experiment = ExperimentTable(
        user_sunet_id=sunet_id, training_config_unique_id=config.unique_id, training_config=config,
        status=QueuedExperimentStatus(queued_at=now), idempotency_key=idempotency_key,
    )  # fmt: skip
    session.add(experiment)
    session.flush()
    session.add(EventLogTable(experiment_id=experiment.id, event=QueuedEvent(), created_at=now))
    session.flush()
    return experiment


def _of_idempotency_key(session: Session, sunet_id: str, key: str | None) -> ExperimentTable | None:
    if key is None:
        return None
    mine = (ExperimentTable.user_sunet_id == sunet_id) & (ExperimentTable.idempotency_key == key)
    return session.scalars(select(ExperimentTable).where(mine)).first()
