"""Tables of the training service.

    users                learner, hash of the key, FLOPs spent
    experiments          2026: one row per (learner, configuration); `status` tells its life
    event_log            2026: what happened to an experiment, append only
    final_submissions    2026: one per learner
    loss_queries         2024 and 2025: one row per (learner, query)

An experiment's charge is a column of its row, kept in step with its status before every flush:

    queued, running -> max_runtime_seconds        finished -> min(max(1, used), max_runtime_seconds)
    failed without having run a moment -> 0

so a learner's spending is a sum over rows and cannot drift from them. Read next: `../budget.py`.
"""

from __future__ import annotations

import math
from datetime import datetime
from typing import Any

from pydantic import TypeAdapter
from sqlalchemy import BigInteger, Float, ForeignKey, Index, Integer, String, Text, UniqueConstraint, event
from sqlalchemy.orm import DeclarativeBase, Mapped, Mapper, mapped_column, validates

from cs336_scaling.db.columns import ExactInteger, Message, UTCDateTime
from cs336_scaling.keys import hash_key
from cs336_scaling.schemas.events import EVENT, Event
from cs336_scaling.schemas.experiment import EXPERIMENT_STATUS, ExperimentStatus, FailedExperimentStatus
from cs336_scaling.training.training_config import TrainingConfig

TRAINING_CONFIG: TypeAdapter[TrainingConfig] = TypeAdapter(TrainingConfig)


class Base(DeclarativeBase):
    """The schema."""


class UserTable(Base):
    """A learner. `api_key` can be set, and read back from the object it was set on; the row holds its hash."""

    __tablename__ = "users"
    sunet_id: Mapped[str] = mapped_column(String(200), primary_key=True)
    api_key_hash: Mapped[str] = mapped_column(String(64), unique=True)
    used_flops: Mapped[int] = mapped_column(ExactInteger, default=0)

    @property
    def api_key(self) -> str:
        """The key, as long as this object knows it.

        Raises:
            AttributeError: the object was read from the database, which has only the hash.
        """
        key = self.__dict__.get("plain_key")
        if key is None:
            raise AttributeError(f"the key of {self.sunet_id} is stored as a hash; make a new one if it is lost")
        return key

    @api_key.setter
    def api_key(self, key: str) -> None:
        self.__dict__["plain_key"] = key
        self.api_key_hash = hash_key(key)


class ExperimentTable(Base):
    """A configuration that a learner has submitted."""

    __tablename__ = "experiments"
    __table_args__ = (
        UniqueConstraint("user_sunet_id", "training_config_unique_id", name="one_experiment_per_config"),
        UniqueConstraint("user_sunet_id", "idempotency_key", name="one_experiment_per_idempotency_key"),
        Index("experiments_in_line", "status_type", "queued_at", "id"),
        Index("experiments_charges", "user_sunet_id", "charged_ms"),
    )
    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=True)
    user_sunet_id: Mapped[str] = mapped_column(ForeignKey("users.sunet_id"))
    training_config_unique_id: Mapped[str] = mapped_column(String(40))
    training_config: Mapped[TrainingConfig] = mapped_column(Message(TRAINING_CONFIG))
    status: Mapped[ExperimentStatus] = mapped_column(Message(EXPERIMENT_STATUS))
    idempotency_key: Mapped[str | None] = mapped_column(String(200), default=None)
    status_type: Mapped[str] = mapped_column(String(20))
    queued_at: Mapped[datetime] = mapped_column(UTCDateTime)
    charged_ms: Mapped[int] = mapped_column(BigInteger)
    run_id: Mapped[str | None] = mapped_column(String(40), default=None)
    attempts: Mapped[int] = mapped_column(Integer, default=0)
    heartbeats: Mapped[int] = mapped_column(Integer, default=0)
    source: Mapped[str | None] = mapped_column(String(20), default=None)

    @validates("training_config")
    def _as_config(self, _: str, value: Any) -> TrainingConfig:
        return value if isinstance(value, TrainingConfig) else TRAINING_CONFIG.validate_python(value)

    @validates("status")
    def _as_status(self, _: str, value: Any) -> ExperimentStatus:
        return EXPERIMENT_STATUS.validate_python(value)


def charge_ms(config: TrainingConfig, status: ExperimentStatus) -> int:
    """Milliseconds that an experiment takes from its learner's budget, rounded up."""
    used = getattr(status, "used_runtime_seconds", None)
    if used is None:
        return 1000 * config.max_runtime_seconds
    if used == 0 and isinstance(status, FailedExperimentStatus):
        return 0
    return math.ceil(1000 * min(max(1.0, used), config.max_runtime_seconds))


def columns_of(config: TrainingConfig, status: ExperimentStatus) -> dict[str, Any]:
    """The columns of an experiment that follow from its status."""
    return {
        "status_type": status.status_type, "queued_at": status.queued_at, "run_id": getattr(status, "run_id", None),
        "charged_ms": charge_ms(config, status),
    }  # fmt: skip


@event.listens_for(ExperimentTable, "before_insert")
@event.listens_for(ExperimentTable, "before_update")
def _keep_columns_in_step(mapper: Mapper[Any], connection: Any, row: ExperimentTable) -> None:
    for name, value in columns_of(row.training_config, row.status).items():
        setattr(row, name, value)


class EventLogTable(Base):
    """Something that happened to an experiment."""

    __tablename__ = "event_log"
    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=True)
    experiment_id: Mapped[int] = mapped_column(ForeignKey("experiments.id"), index=True)
    event: Mapped[Event] = mapped_column(Message(EVENT))
    created_at: Mapped[datetime] = mapped_column(UTCDateTime)


class FinalSubmissionTable(Base):
    """A learner's answer to the assignment."""

    __tablename__ = "final_submissions"
    user_sunet_id: Mapped[str] = mapped_column(ForeignKey("users.sunet_id"), primary_key=True)
    training_config: Mapped[TrainingConfig] = mapped_column(Message(TRAINING_CONFIG))
    predicted_final_loss: Mapped[float] = mapped_column(Float)
    submitted_at: Mapped[datetime] = mapped_column(UTCDateTime)


class LossQueryTable(Base):
    """A query of the old API: reserved while it is computed (loss is null), then answered; removed when it failed."""

    __tablename__ = "loss_queries"
    __table_args__ = (UniqueConstraint("user_sunet_id", "query_hash", name="one_charge_per_query"),)
    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=True)
    user_sunet_id: Mapped[str] = mapped_column(ForeignKey("users.sunet_id"))
    query_hash: Mapped[str] = mapped_column(String(40))
    query: Mapped[str] = mapped_column(Text)
    flops: Mapped[int] = mapped_column(ExactInteger)
    owner: Mapped[str] = mapped_column(String(40))
    beats: Mapped[int] = mapped_column(Integer, default=0)
    loss: Mapped[float | None] = mapped_column(Float, default=None)
    source: Mapped[str | None] = mapped_column(String(20), default=None)
