"""One job in a process of its own: train, watch the clock, report. `python -m cs336_scaling.training.job FILE`

    clock      starts with the first update, after data, model and compilation
    timeout    at max_runtime_seconds the run is asked to stop; one that has not after 1.05 max + 10 s is ended
    watcher    a thread that reads the run's log: new validation losses at once, a heartbeat now and then
    lost       told that the run was given up, the process ends at once

A job that is started again in the same folder goes on from its checkpoint. Exit codes: 0 a result was delivered,
3 the run was given up, 75 stopped from outside before its end (it should be started again). Read next:
`../executors/local.py`.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cs336_scaling.schemas.events import (
    CompletedResult,
    FailedResult,
    PreemptedEvent,
    RunHeartbeatEvent,
    RunStartedEvent,
    ValidationLossEvent,
)
from cs336_scaling.schemas.experiment import TimeoutReason, UnexpectedReason
from cs336_scaling.training.reporter import Reporter
from cs336_scaling.training.training_config import TrainingConfig

GIVEN_UP, TRY_AGAIN = 3, 75
POLL_S = 0.1
LOCK_PATIENCE_S = 60.0


@dataclass(frozen=True)
class JobFile:
    """What the executor writes for the process."""

    experiment_id: int
    run_id: str
    config: TrainingConfig
    directory: Path
    api_base_url: str
    train_tokens: str
    valid_tokens: str
    heartbeat_s: float

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> JobFile:
        """From JSON."""
        values = json.loads(Path(path).read_text(encoding="utf-8"))
        config = TrainingConfig.model_validate(values.pop("config"))
        return cls(config=config, directory=Path(values.pop("directory")), **values)

    def reporter(self) -> Reporter:
        """To the service that the file names; the secret comes from INTERNAL_API_KEY."""
        return Reporter(self.api_base_url, os.environ["INTERNAL_API_KEY"], self.experiment_id)


class Watcher:
    """Follows a run's log, reports, and stops the run when its time is over."""

    def __init__(self, job: JobFile, reporter: Reporter, *, stop: Callable[[], None]) -> None:
        self.job, self.reporter, self.stop = job, reporter, stop
        self.val_losses: list[float] = []
        self.timed_out = False
        self._started: float | None = None
        self._ended = threading.Event()
        self._log = job.directory / "log.jsonl"
        self._size_at_start = self._log.stat().st_size if self._log.exists() else 0
        self._thread = threading.Thread(target=self._watch, name="watcher", daemon=True)

    def __enter__(self) -> Watcher:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()
        self.read_log()

    def elapsed(self) -> float:
        """Seconds on the clock."""
        return 0.0 if self._started is None else time.monotonic() - self._started

    def read_log(self) -> None:
        """Take over what the run has written."""
        if not self._log.exists():
            return
        records = [json.loads(line) for line in self._log.read_bytes().split(b"\n")[:-1] if line]
        self.val_losses = [record["validation_loss"] for record in records if "validation_loss" in record]
        if self._started is None and records and self._log.stat().st_size > self._size_at_start:
            self._started = time.monotonic()

    def _watch(self) -> None:
        limit, last_beat, told = self.job.config.max_runtime_seconds, time.monotonic(), 0
        while not self._ended.wait(POLL_S):
            self.read_log()
            now = time.monotonic()
            if len(self.val_losses) > told:
                self._tell(ValidationLossEvent(run_id=self.job.run_id, val_losses=self.val_losses))
                told = len(self.val_losses)
            if now - last_beat >= self.job.heartbeat_s:
                self._tell(RunHeartbeatEvent(run_id=self.job.run_id, elapsed_seconds=self.elapsed()))
                last_beat = now
            if self.elapsed() > limit and not self.timed_out:
                self.timed_out = True
                self.stop()
            if self.elapsed() > 1.05 * limit + 10:
                self.reporter.result(timeout_result(self.job, self.val_losses))
                os._exit(0)

    def _tell(self, event: ValidationLossEvent | RunHeartbeatEvent) -> None:
        if not self.reporter.event(event):
            os._exit(GIVEN_UP)


def timeout_result(job: JobFile, val_losses: list[float]) -> FailedResult:
    """The result of a run that used up its time."""
    return FailedResult(
        used_runtime_seconds=job.config.max_runtime_seconds, run_id=job.run_id, source="run",
        reason=TimeoutReason(partial_val_losses=val_losses),
    )  # fmt: skip


def run_job(job: JobFile) -> int:
    """Train one job and deliver its result; returns the exit code."""
    from cs336_basics.training import Interrupted

    reporter = job.reporter()
    if not reporter.event(RunStartedEvent(run_id=job.run_id)):
        return GIVEN_UP
    failure: str | None = None
    with Watcher(job, reporter, stop=lambda: os.kill(os.getpid(), signal.SIGTERM)) as watcher:
        try:
            _train(job)
        except Interrupted:
            if not watcher.timed_out:
                reporter.event(PreemptedEvent(run_id=job.run_id))
                return TRY_AGAIN
        except Exception as error:  # every failure of training is the experiment's result
            failure = f"{type(error).__name__}: {error}"
        elapsed = watcher.elapsed()
    result: CompletedResult | FailedResult
    if failure is not None:
        reason = UnexpectedReason(failure=failure)
        result = FailedResult(used_runtime_seconds=elapsed, reason=reason, run_id=job.run_id, source="run")
    elif elapsed > job.config.max_runtime_seconds:
        result = timeout_result(job, watcher.val_losses)
    else:
        result = CompletedResult(
            used_runtime_seconds=elapsed, val_losses=watcher.val_losses, run_id=job.run_id, source="run"
        )
    return 0 if reporter.result(result) else GIVEN_UP


def _train(job: JobFile) -> dict[str, Any]:
    """Train, waiting a while for a former process of the same experiment to let go of the folder."""
    from cs336_basics.runs.lock import AlreadyLockedError
    from cs336_basics.training import train
    from cs336_scaling.training.run import train_config

    config = train_config(job.config, train_tokens=job.train_tokens, valid_tokens=job.valid_tokens)
    end = time.monotonic() + LOCK_PATIENCE_S
    while True:
        try:
            return train(config, job.directory, progress=False)
        except AlreadyLockedError:
            if time.monotonic() > end:
                raise
            time.sleep(1)


def run_job_file(path: str) -> int:
    """The whole process, for executors that call a function on another machine."""
    return run_job(JobFile.read(path))


if __name__ == "__main__":
    sys.exit(run_job_file(sys.argv[1]))
