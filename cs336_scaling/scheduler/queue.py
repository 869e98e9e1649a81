"""The queue in the database, the only source of truth: claim, report, finish, give up.

    claim    queued -> running under a fresh run_id, committed before anything is started
    report   an event counts only for the run that the experiment is in; each one is a heartbeat
    finish   running -> completed | failed, and the charge becomes what was used; a repeated report changes nothing
    give up  a run without a heartbeat goes back to its place in the queue, or fails after max_attempts

A worker that comes back after its run was given up is told so (False) and its result is only noted. Read next:
`lost_runs.py`, `dispatcher.py`.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from cs336_scaling.budget import lock_user, used_ms
from cs336_scaling.config import Settings
from cs336_scaling.db.engine import DISPATCH_LOCK, SessionFactory, lock_until_commit, writing
from cs336_scaling.db.tables import EventLogTable, ExperimentTable
from cs336_scaling.scheduler.experiment_selector import select_experiments_for_dispatch
from cs336_scaling.schemas.events import (
    CompletedEvent,
    CompletedResult,
    DispatchedEvent,
    Event,
    FailedEvent,
    FailedResult,
    QueuedEvent,
    StaleResultEvent,
    ValidationLossEvent,
    WorkerEvent,
)
from cs336_scaling.schemas.experiment import (
    QueuedExperimentStatus,
    RunningExperimentStatus,
    UnexpectedReason,
    completed,
    dispatched,
    failed,
)
from cs336_scaling.training.training_config import TrainingConfig


class UnknownExperiment(ValueError):
    """No experiment has this number."""

    def __init__(self, experiment_id: int) -> None:
        super().__init__(f"no experiment has the number {experiment_id}")


class NotRunning(ValueError):
    """A result arrived for an experiment that is not running."""


@dataclass(frozen=True)
class Job:
    """A claimed experiment."""

    experiment_id: int
    run_id: str
    config: TrainingConfig
    attempt: int


def claim(factory: SessionFactory, settings: Settings) -> list[Job]:
    """Take queued experiments for the free workers, in fair order."""
    with writing(factory) as session:
        lock_until_commit(session, DISPATCH_LOCK)
        chosen = select_experiments_for_dispatch(session, max_concurrent_workers=settings.max_concurrent_workers)
        jobs = []
        for row in chosen.experiments:
            now, run_id = datetime.now(UTC), uuid.uuid4().hex
            row.status = dispatched(row.status, run_id=run_id, now=now)
            row.attempts += 1
            row.heartbeats = 0
            _log(session, row, DispatchedEvent(run_id=run_id))
            jobs.append(Job(row.id, run_id, row.training_config, row.attempts))
        return jobs


def report(factory: SessionFactory, experiment_id: int, event: WorkerEvent) -> bool:
    """Log a worker's event; False tells that its run was given up.

    Raises:
        UnknownExperiment: no such experiment.
    """
    with writing(factory) as session:
        row = _locked(session, experiment_id)
        _log(session, row, event)
        if not isinstance(row.status, RunningExperimentStatus) or row.status.run_id != event.run_id:
            return False
        row.heartbeats += 1
        if isinstance(event, ValidationLossEvent):
            row.status = row.status.model_copy(update={"val_losses": event.val_losses})
        return True


def finish(factory: SessionFactory, experiment_id: int, result: CompletedResult | FailedResult) -> bool:
    """Record a run's result and settle its charge; False if the run was given up or had been recorded before.

    Raises:
        UnknownExperiment: no such experiment.
        NotRunning: it is not running, and the result names no run that could explain it.
    """
    with writing(factory) as session:
        row = _locked(session, experiment_id)
        current = getattr(row.status, "run_id", None)
        running = isinstance(row.status, RunningExperimentStatus)
        if result.run_id is not None and (result.run_id != current or not running):
            if result.run_id != current:
                _log(session, row, StaleResultEvent(run_id=result.run_id))
            return False
        if not running:
            raise NotRunning(f"experiment {experiment_id} is {row.status.status_type}, not running")
        _settle(session, row, result)
        return True


def _settle(session: Session, row: ExperimentTable, result: CompletedResult | FailedResult) -> None:
    now, used = datetime.now(UTC), result.used_runtime_seconds
    row.source = result.source
    if isinstance(result, CompletedResult):
        row.status = completed(row.status, used_runtime_seconds=used, val_losses=result.val_losses, now=now)
        _log(session, row, CompletedEvent())
    else:
        row.status = failed(row.status, used_runtime_seconds=used, reason=result.reason, now=now)
        _log(session, row, FailedEvent(reason=result.reason))


def give_up(factory: SessionFactory, experiment_id: int, run_id: str, *, max_attempts: int, why: str) -> bool:
    """Return a lost run's experiment to its old place in the queue, or fail it, charging nothing, after `max_attempts`.

    Returns:
        False if the run has ended or was given up by somebody else.
    """
    with writing(factory) as session:
        row = _locked(session, experiment_id)
        if not isinstance(row.status, RunningExperimentStatus) or row.status.run_id != run_id:
            return False
        if row.attempts >= max_attempts:
            failure = UnexpectedReason(failure=f"given up after {row.attempts} attempts: {why}")
            _settle(session, row, FailedResult(used_runtime_seconds=0, reason=failure))
        else:
            _requeue(session, row, why)
        return True


def requeue_failed(factory: SessionFactory, experiment_id: int, settings: Settings) -> None:
    """Give a failed experiment another chance, as an administrator; its time is reserved again.

    Raises:
        UnknownExperiment: no such experiment.
        ValueError: it did not fail, or the learner's budget no longer holds its reservation.
    """
    with writing(factory) as session:
        known = session.get(ExperimentTable, experiment_id)
        if known is None:
            raise UnknownExperiment(experiment_id)
        lock_user(session, known.user_sunet_id)
        row = _locked(session, experiment_id)
        if row.status.status_type != "failed":
            raise ValueError(f"only a failed experiment can be queued again; {experiment_id} is {row.status_type}")
        spent = used_ms(session, row.user_sunet_id) - row.charged_ms + 1000 * row.training_config.max_runtime_seconds
        if spent > round(1000 * settings.total_budget_seconds):
            raise ValueError(f"the budget of {row.user_sunet_id} cannot reserve experiment {experiment_id} again")
        row.attempts = 0
        _requeue(session, row, "queued again by an administrator")


def _requeue(session: Session, row: ExperimentTable, why: str) -> None:
    row.status = QueuedExperimentStatus(queued_at=row.status.queued_at)
    _log(session, row, QueuedEvent(note=why))


def _locked(session: Session, experiment_id: int) -> ExperimentTable:
    query = select(ExperimentTable).where(ExperimentTable.id == experiment_id).with_for_update()
    row = session.scalars(query.execution_options(populate_existing=True)).one_or_none()
    if row is None:
        raise UnknownExperiment(experiment_id)
    return row


def _log(session: Session, row: ExperimentTable, event: Event) -> None:
    session.add(EventLogTable(experiment_id=row.id, event=event, created_at=datetime.now(UTC)))
