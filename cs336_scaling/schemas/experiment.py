"""The life of an experiment: queued -> running -> completed | failed, one frozen message per state.

    queued ----------> running ----------> completed(val_losses)
                          |
                          +--------------> failed(timeout | unexpected)

The functions at the end are the only legal moves (besides the queue's own step back from a lost run). Times are those
of the service's clock, in UTC; a worker's clock is never trusted. Read next: `events.py`, `../scheduler/queue.py`.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import AwareDatetime, Field, NonNegativeFloat, PositiveFloat, TypeAdapter

from cs336_scaling.frozen_model import FrozenModel
from cs336_scaling.training.training_config import TrainingConfig


class TimeoutReason(FrozenModel):
    """The run reached max_runtime_seconds."""

    reason: Literal["timeout"] = "timeout"
    partial_val_losses: list[float]


class UnexpectedReason(FrozenModel):
    """Anything else: divergence, out of memory, a lost machine."""

    reason: Literal["unexpected"] = "unexpected"
    failure: str


FailureReason = Annotated[TimeoutReason | UnexpectedReason, Field(discriminator="reason")]


class QueuedExperimentStatus(FrozenModel):
    """Waiting for a worker."""

    status_type: Literal["queued"] = "queued"
    queued_at: AwareDatetime


class RunningExperimentStatus(FrozenModel):
    """A worker has it."""

    status_type: Literal["running"] = "running"
    queued_at: AwareDatetime
    dispatched_at: AwareDatetime
    run_id: str
    val_losses: list[float] = []


class CompletedExperimentStatus(FrozenModel):
    """Done; the last validation loss is the result."""

    status_type: Literal["completed"] = "completed"
    queued_at: AwareDatetime
    dispatched_at: AwareDatetime
    run_id: str
    used_runtime_seconds: NonNegativeFloat
    val_losses: list[float]
    completed_at: AwareDatetime


class FailedExperimentStatus(FrozenModel):
    """Ended without a result."""

    status_type: Literal["failed"] = "failed"
    queued_at: AwareDatetime
    dispatched_at: AwareDatetime
    run_id: str
    used_runtime_seconds: NonNegativeFloat
    reason: FailureReason
    failed_at: AwareDatetime


ExperimentStatus = Annotated[
    QueuedExperimentStatus | RunningExperimentStatus | CompletedExperimentStatus | FailedExperimentStatus,
    Field(discriminator="status_type"),
]
EXPERIMENT_STATUS: TypeAdapter[ExperimentStatus] = TypeAdapter(ExperimentStatus)


class ExperimentResponse(FrozenModel):
    """An experiment as the API shows it."""

    experiment_id: int
    training_config: TrainingConfig
    status: ExperimentStatus


class BudgetSummary(FrozenModel):
    """Seconds of training: spent or reserved, left, and granted."""

    used_seconds: float
    remaining_seconds: float
    total_budget_seconds: float


class SubmitResponse(FrozenModel):
    """What an accepted submission returns."""

    experiment_id: int
    budget_summary: BudgetSummary


class FinalSubmissionRequest(FrozenModel):
    """The configuration for the target budget, and the loss it is expected to reach."""

    training_config: TrainingConfig
    predicted_final_loss: PositiveFloat


class FinalSubmissionResponse(FinalSubmissionRequest):
    """The same with the time of its arrival."""

    submitted_at: AwareDatetime


def dispatched(status: ExperimentStatus, *, run_id: str, now: datetime) -> RunningExperimentStatus:
    """queued -> running.

    Raises:
        ValueError: not queued.
    """
    if not isinstance(status, QueuedExperimentStatus):
        raise ValueError(f"only a queued experiment can be dispatched; this one is {status.status_type}")
    return RunningExperimentStatus(queued_at=status.queued_at, dispatched_at=now, run_id=run_id)


def completed(
    status: ExperimentStatus, *, used_runtime_seconds: float, val_losses: list[float], now: datetime
) -> CompletedExperimentStatus:
    """running -> completed.

    Raises:
        ValueError: not running.
    """
    running = _running(status, "completed")
    return CompletedExperimentStatus(
        queued_at=running.queued_at, dispatched_at=running.dispatched_at, run_id=running.run_id,
        used_runtime_seconds=used_runtime_seconds, val_losses=val_losses, completed_at=now,
    )  # fmt: skip


def failed(
    status: ExperimentStatus, *, used_runtime_seconds: float, reason: TimeoutReason | UnexpectedReason, now: datetime
) -> FailedExperimentStatus:
    """running -> failed.

    Raises:
        ValueError: not running.
    """
    running = _running(status, "failed")
    return FailedExperimentStatus(
        queued_at=running.queued_at, dispatched_at=running.dispatched_at, run_id=running.run_id,
        used_runtime_seconds=used_runtime_seconds, reason=reason, failed_at=now,
    )  # fmt: skip


def _running(status: ExperimentStatus, target: str) -> RunningExperimentStatus:
    if not isinstance(status, RunningExperimentStatus):
        raise ValueError(f"only a running experiment can become {target}; this one is {status.status_type}")
    return status
