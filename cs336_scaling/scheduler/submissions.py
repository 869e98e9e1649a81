"""Submitting an experiment: budget, duplicate and queue checks and the reservation, in one transaction.

    400 the budget is too small    409 the configuration is known    503 the queue is full    else: queued and reserved

An `Idempotency-Key` makes a repeated request (after a lost connection) return the first one's experiment. Read next:
`queue.py`.
"""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import Connection, bindparam, func, insert, select

from cs336_scaling.budget import LOCKED_USER, USED_MS, budget_summary, summary_of
from cs336_scaling.config import Settings
from cs336_scaling.db.engine import SessionFactory
from cs336_scaling.db.group_commit import write_together
from cs336_scaling.db.tables import Base, ExperimentTable, columns_of
from cs336_scaling.schemas.events import QueuedEvent
from cs336_scaling.schemas.experiment import BudgetSummary, QueuedExperimentStatus, SubmitResponse
from cs336_scaling.training.training_config import TrainingConfig

_MINE = ExperimentTable.user_sunet_id == bindparam("learner")
KNOWN = select(ExperimentTable.id, ExperimentTable.training_config_unique_id).where(
    _MINE, ExperimentTable.idempotency_key == bindparam("key")
)
SAME_CONFIG = select(ExperimentTable.id).where(_MINE, ExperimentTable.training_config_unique_id == bindparam("config"))
QUEUE_LENGTH = select(func.count()).select_from(ExperimentTable).where(ExperimentTable.status_type == "queued")
CHECKS = select(*(part.scalar_subquery() for part in (USED_MS, SAME_CONFIG, QUEUE_LENGTH)))
"""milliseconds used, number of an equal experiment, length of the queue: in one statement instead of three"""

NEW_EXPERIMENT, NEW_EVENT = (insert(Base.metadata.tables[name]) for name in ("experiments", "event_log"))


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

    def reserve(connection: Connection) -> SubmitResponse:
        connection.execute(LOCKED_USER, {"learner": sunet_id}).one()
        known = None
        if idempotency_key is not None:
            known = connection.execute(KNOWN, {"learner": sunet_id, "key": idempotency_key}).first()
        if known is None:
            return _enqueue(connection, settings, sunet_id, config, idempotency_key)
        if known.training_config_unique_id != config.unique_id:
            raise IdempotencyKeyReused
        summary = budget_summary(connection, sunet_id, total_seconds=settings.total_budget_seconds)
        return SubmitResponse(experiment_id=known.id, budget_summary=summary)

    return write_together(factory, reserve)


def _enqueue(
    connection: Connection, settings: Settings, sunet_id: str, config: TrainingConfig, idempotency_key: str | None
) -> SubmitResponse:
    config_id, total_seconds = config.unique_id, settings.total_budget_seconds
    used, same, queued = connection.execute(CHECKS, {"learner": sunet_id, "config": config_id}).one()
    cost = 1000 * config.max_runtime_seconds
    if used + cost > round(1000 * total_seconds):
        raise InsufficientBudget(summary_of(used, total_seconds=total_seconds))
    if same is not None:
        raise DuplicateExperiment
    if queued >= settings.max_queue_length:
        raise QueueFull
    now = datetime.now(UTC)
    status = QueuedExperimentStatus(queued_at=now)
    row = {
        "user_sunet_id": sunet_id, "training_config_unique_id": config_id, "training_config": config, "status": status,
        "idempotency_key": idempotency_key, **columns_of(config, status),
    }  # fmt: skip
    inserted = connection.execute(NEW_EXPERIMENT, row).inserted_primary_key
    assert inserted is not None
    connection.execute(NEW_EVENT, {"experiment_id": inserted.id, "event": QueuedEvent(), "created_at": now})
    return SubmitResponse(
        experiment_id=inserted.id, budget_summary=summary_of(used + cost, total_seconds=total_seconds)
    )
