"""What workers report, and what the service writes into its log of events.

Every event of a worker names its run, so that a late report of a run that was given up changes nothing. A result's
`run_id` is optional only because the course's protocol has none there. Read next: `../routes/worker_api.py`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, TypeAdapter

from cs336_scaling.frozen_model import FrozenModel
from cs336_scaling.schemas.experiment import FailureReason


class QueuedEvent(FrozenModel):
    """Submitted, or returned to the queue."""

    log_type: Literal["queued"] = "queued"
    note: str | None = None


class DispatchedEvent(FrozenModel):
    """Given to a worker."""

    log_type: Literal["dispatched"] = "dispatched"
    run_id: str


class CompletedEvent(FrozenModel):
    """Finished."""

    log_type: Literal["completed"] = "completed"


class FailedEvent(FrozenModel):
    """Ended without a result."""

    log_type: Literal["failed"] = "failed"
    reason: FailureReason


class StaleResultEvent(FrozenModel):
    """A result of a run that the service had given up; not used."""

    log_type: Literal["stale_result"] = "stale_result"
    run_id: str


class RunStartedEvent(FrozenModel):
    """The worker has begun."""

    log_type: Literal["run_started"] = "run_started"
    run_id: str
    wandb_path: str | None = None


class ValidationLossEvent(FrozenModel):
    """All validation losses so far."""

    log_type: Literal["validation_loss"] = "validation_loss"
    run_id: str
    val_losses: list[float]


class RunHeartbeatEvent(FrozenModel):
    """The worker lives."""

    log_type: Literal["run_heartbeat"] = "run_heartbeat"
    run_id: str
    elapsed_seconds: NonNegativeFloat


class PreemptedEvent(FrozenModel):
    """The cluster took the machine away; the run will start again."""

    log_type: Literal["preempted"] = "preempted"
    run_id: str


WorkerEvent = Annotated[
    RunStartedEvent | ValidationLossEvent | RunHeartbeatEvent | PreemptedEvent, Field(discriminator="log_type")
]
Event = Annotated[
    QueuedEvent | DispatchedEvent | CompletedEvent | FailedEvent | StaleResultEvent
    | RunStartedEvent | ValidationLossEvent | RunHeartbeatEvent | PreemptedEvent,
    Field(discriminator="log_type"),
]  # fmt: skip
EVENT: TypeAdapter[Event] = TypeAdapter(Event)


class CompletedResult(FrozenModel):
    """A run that reached its end."""

    result_type: Literal["completed"] = "completed"
    used_runtime_seconds: NonNegativeFloat
    val_losses: Annotated[list[float], Field(min_length=1)]
    run_id: str | None = None
    source: str | None = None


class FailedResult(FrozenModel):
    """A run that did not."""

    result_type: Literal["failed"] = "failed"
    used_runtime_seconds: NonNegativeFloat
    reason: FailureReason
    run_id: str | None = None
    source: str | None = None


Result = Annotated[CompletedResult | FailedResult, Field(discriminator="result_type")]
