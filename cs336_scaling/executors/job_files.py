"""The file that hands a job to the process that runs it, on this machine or on a shared file system.

Read next: `local.py`, `cluster.py`, `../training/job.py`.
"""

from __future__ import annotations

from pathlib import Path

from cs336_basics.runs.atomic import write_json
from cs336_scaling.config import Settings
from cs336_scaling.scheduler.queue import Job

LONGEST_SILENCE_S = 60.0


def write_job_file(settings: Settings, job: Job) -> Path:
    """Write what `JobFile.read` reads; the experiment's folder is the same for every attempt, so that it resumes.

    Raises:
        ValueError: the settings name no token files.
    """
    if not (settings.train_tokens and settings.valid_tokens):
        raise ValueError("real runs need data: set TRAIN_TOKENS and VALID_TOKENS to token files")
    folder = Path(settings.runs_dir).absolute() / f"experiment_{job.experiment_id}"
    path = folder / f"job_{job.run_id}.json"
    write_json(path, {
        "experiment_id": job.experiment_id, "run_id": job.run_id, "config": job.config.model_dump(mode="json"),
        "directory": str(folder / "run"), "api_base_url": settings.api_base_url,
        "train_tokens": str(Path(settings.train_tokens).absolute()),
        "valid_tokens": str(Path(settings.valid_tokens).absolute()),
        "heartbeat_s": min(LONGEST_SILENCE_S, settings.lease_seconds / 4),
    })  # fmt: skip
    return path
