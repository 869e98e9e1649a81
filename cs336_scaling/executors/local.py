"""Real runs on this machine: one process per job, one thread each.

On a small machine two threads on one job are slower than one. The processes form sessions of their own: they outlive
the service, keep training while it is away, and deliver their results when it is back. Read next:
`../training/job.py`, `../training/loss_run.py`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

from cs336_basics.runs.atomic import write_json
from cs336_scaling.config import Settings
from cs336_scaling.executors.job_files import write_job_file
from cs336_scaling.executors.protocol import LossAnswer, LossRequest
from cs336_scaling.loss_rules import query_hash, query_text
from cs336_scaling.scheduler.queue import Job

JOB_MODULE = "cs336_scaling.training.job"
LOSS_MODULE = "cs336_scaling.training.loss_run"
LOSS_TIME_LIMIT_S = 3600.0


def child_environment(settings: Settings) -> dict[str, str]:
    """One thread, and the secret."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "INTERNAL_API_KEY": settings.internal_api_key}


class LocalExecutor:
    """An `Executor` of subprocesses."""

    def __init__(self, settings: Settings, *, module: str = JOB_MODULE) -> None:
        self.settings, self.module = settings, module
        self._children: dict[tuple[int, str], subprocess.Popen[bytes]] = {}

    def start(self, job: Job) -> None:
        """Start a process."""
        path = write_job_file(self.settings, job)
        with open(path.with_suffix(".txt"), "wb") as output:
            self._children[job.experiment_id, job.run_id] = subprocess.Popen(
                [sys.executable, "-m", self.module, str(path)], stdin=subprocess.DEVNULL, stdout=output,
                stderr=subprocess.STDOUT, start_new_session=True, env=child_environment(self.settings),
            )  # fmt: skip

    def dead_runs(self) -> list[tuple[int, str]]:
        """Runs whose process has ended with anything but success."""
        codes = {run: child.poll() for run, child in self._children.items()}
        for run in [run for run, code in codes.items() if code is not None]:
            del self._children[run]
        return [run for run, code in codes.items() if code not in (None, 0)]

    def close(self) -> None:
        """Leave the processes to themselves."""
        for child in self._children.values():
            child.returncode = child.poll() or 0  # ours no longer: no warning about a child still running
        self._children.clear()


class LocalSource:
    """A `LossSource` that trains; a run is made once and then serves every learner who asks for it."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._slots = threading.Semaphore(settings.max_concurrent_workers)
        self._locks: dict[str, threading.Lock] = {}
        self._guard = threading.Lock()

    def answer(self, request: LossRequest) -> LossAnswer:
        """Train, or read what was trained before.

        Raises:
            ValueError: no data, or the run failed.
        """
        if not (self.settings.train_tokens and self.settings.valid_tokens):
            raise ValueError("real runs need data: set TRAIN_TOKENS and VALID_TOKENS to token files")
        digest = query_hash(request)
        folder = Path(self.settings.runs_dir) / f"loss_{digest}"
        with self._guard:
            one_at_a_time = self._locks.setdefault(digest, threading.Lock())
        with one_at_a_time, self._slots:
            if not (folder / "answer.json").is_file():
                self._train(request, folder)
        found = json.loads((folder / "answer.json").read_text(encoding="utf-8"))
        return LossAnswer(found["loss"], "run", found["seconds"])

    def _train(self, request: LossRequest, folder: Path) -> None:
        write_json(folder / "request.json", {
            "request": json.loads(query_text(request)),
            "train_tokens": self.settings.train_tokens, "valid_tokens": self.settings.valid_tokens,
        })  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-m", LOSS_MODULE, str(folder)], stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=LOSS_TIME_LIMIT_S, env=child_environment(self.settings),
        )  # fmt: skip
        if done.returncode:
            raise ValueError(f"the run ended with {done.returncode}: {done.stderr.strip()[-300:]}")
