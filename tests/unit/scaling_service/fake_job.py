"""A job that trains nothing: notes that it ran, beats, and reports 2 seconds and its own number as loss."""

from __future__ import annotations

import os
import sys
import time

from cs336_scaling.schemas.events import CompletedResult, RunHeartbeatEvent, RunStartedEvent
from cs336_scaling.training.job import JobFile

SECONDS = 2.0


def main(path: str) -> None:
    job = JobFile.read(path)
    reporter = job.reporter()
    note = os.open(job.directory.parent.parent / "ran.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(note, f"{job.experiment_id} {job.run_id} {os.getpid()}\n".encode())
    wanted = reporter.event(RunStartedEvent(run_id=job.run_id))
    for _ in range(3):
        if not wanted:
            sys.exit(3)
        time.sleep(0.1)
        wanted = reporter.event(RunHeartbeatEvent(run_id=job.run_id, elapsed_seconds=1.0))
    result = CompletedResult(
        used_runtime_seconds=SECONDS, val_losses=[float(job.experiment_id)], run_id=job.run_id, source="run"
    )
    reporter.result(result, patience_s=300)


if __name__ == "__main__":
    main(sys.argv[1])
