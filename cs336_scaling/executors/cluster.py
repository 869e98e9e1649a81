"""Real runs beyond one machine: a Ray cluster, or Slurm through submitit.

Both call `training.job.run_job_file` on a machine that shares the file system and reaches the service at API_BASE_URL.
The queue in the service stays the only source of truth: neither is allowed to retry by itself, for a run that was lost
is queued again here, under a new run_id. Both packages are imported when an executor is made. Read next: `local.py`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from cs336_scaling.config import Settings
from cs336_scaling.executors.job_files import write_job_file
from cs336_scaling.scheduler.queue import Job
from cs336_scaling.training.job import run_job_file

SETUP_MINUTES = 10


def _run(path: str, internal_key: str) -> int:
    """What happens on the other machine."""
    os.environ["INTERNAL_API_KEY"] = internal_key
    return run_job_file(path)


class RayExecutor:
    """An `Executor` of Ray tasks; RAY_ADDRESS names the cluster, else Ray starts on this machine."""

    def __init__(self, settings: Settings, *, num_cpus: float = 1, num_gpus: float = 0) -> None:
        try:
            import ray
        except ImportError as error:
            raise ImportError("the executor ray needs Ray: pip install 'cs336[ray]'") from error
        if not ray.is_initialized():
            ray.init(log_to_driver=False, include_dashboard=False)
        self.settings, self._ray = settings, ray
        self._task = ray.remote(num_cpus=num_cpus, num_gpus=num_gpus, max_retries=0)(_run)
        self._tasks: dict[tuple[int, str], Any] = {}

    def start(self, job: Job) -> None:
        """Submit a task."""
        path = write_job_file(self.settings, job)
        self._tasks[job.experiment_id, job.run_id] = self._task.remote(str(path), self.settings.internal_api_key)

    def dead_runs(self) -> list[tuple[int, str]]:
        """Runs whose task raised or returned anything but 0."""
        dead = []
        for run, task in list(self._tasks.items()):
            if not self._ray.wait([task], timeout=0)[0]:
                continue
            del self._tasks[run]
            try:
                code = self._ray.get(task)
            except self._ray.exceptions.RayError:
                code = None
            if code != 0:
                dead.append(run)
        return dead

    def close(self) -> None:
        """Leave the cluster."""
        self._ray.shutdown()


class SlurmExecutor:
    """An `Executor` of Slurm jobs; `parameters` are submitit's, such as slurm_partition and gpus_per_node."""

    def __init__(self, settings: Settings, *, cluster: str | None = None, **parameters: Any) -> None:
        try:
            import submitit
        except ImportError as error:
            raise ImportError("the executor slurm needs submitit: pip install 'cs336[slurm]'") from error
        self.settings = settings
        self._executor = submitit.AutoExecutor(folder=Path(settings.runs_dir) / "slurm", cluster=cluster)
        self._parameters = parameters
        self._jobs: dict[tuple[int, str], Any] = {}

    def start(self, job: Job) -> None:
        """Submit a job with a time limit a little above its own."""
        path = write_job_file(self.settings, job)
        minutes = SETUP_MINUTES + -(-job.config.max_runtime_seconds * 21 // 1200)
        self._executor.update_parameters(
            name=f"experiment_{job.experiment_id}", timeout_min=minutes, **self._parameters
        )
        self._jobs[job.experiment_id, job.run_id] = self._executor.submit(
            _run, str(path), self.settings.internal_api_key
        )

    def dead_runs(self) -> list[tuple[int, str]]:
        """Runs whose job has ended with an error or anything but 0."""
        dead = []
        for run, job in list(self._jobs.items()):
            if not job.done():
                continue
            del self._jobs[run]
            if job.exception() is not None or job.result() != 0:
                dead.append(run)
        return dead

    def close(self) -> None:
        """Leave the jobs to Slurm."""
        self._jobs.clear()
