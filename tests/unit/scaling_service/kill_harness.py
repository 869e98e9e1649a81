"""A service in a process of its own that is killed and started again while learners submit and jobs run.

Used by test_kill.py and by benchmarks/bench_service_kills.py. After all kills, what must hold is checked against the
database by `problems`: every accepted submission has one completed experiment, charged once.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import requests
from sqlalchemy import select
from sqlalchemy.orm import Session

from cs336_scaling.admin import give_new_key
from cs336_scaling.client import Client
from cs336_scaling.db.engine import migrate, open_engine
from cs336_scaling.db.engine import sessionmaker as factory_of
from cs336_scaling.db.tables import EventLogTable, ExperimentTable
from tests.unit.scaling_service.configs import config_of
from tests.unit.scaling_service.fake_job import SECONDS

ROOT = Path(__file__).parents[3]
LIMIT_S = 240


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def wait_until(done: Callable[[], bool], what: str, *, pause_s: float = 0.1) -> None:
    end = time.monotonic() + LIMIT_S
    while not done():
        if time.monotonic() > end:
            raise TimeoutError(f"waited {LIMIT_S} s for {what}")
        time.sleep(pause_s)


class KillableService:
    """Start, kill, submit."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder, self.url, self.port = folder, url, free_port()
        self.engine = open_engine(url)
        migrate(self.engine)
        self.key = give_new_key(factory_of(self.engine, expire_on_commit=False), "learner")
        self.base = f"http://127.0.0.1:{self.port}"
        self.client = Client(self.base, api_key=self.key)
        self.process: subprocess.Popen[bytes] | None = None
        self.accepted: set[int] = set()

    def start(self) -> None:
        (self.folder / "jobs").mkdir(exist_ok=True)
        environment = {
            **os.environ, "PYTHONPATH": str(ROOT), "DB_ENV": "dev", "DATABASE_URL_DEV": self.url,
            "INTERNAL_API_KEY": "secret", "API_BASE_URL": self.base, "LEASE_SECONDS": "8", "MAX_ATTEMPTS": "1000",
            "RUNS_DIR": str(self.folder / "jobs"), "TRAIN_TOKENS": "unused", "VALID_TOKENS": "unused",
            "MAX_CONCURRENT_WORKERS": "3", "EXECUTOR": "local",
        }  # fmt: skip
        with open(self.folder / "service.txt", "ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.unit.scaling_service.service_process", "--port", str(self.port)],
                cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            )  # fmt: skip
        wait_until(self.answers, f"the service; it said {(self.folder / 'service.txt').read_text()}")

    def answers(self) -> bool:
        assert self.process is not None and self.process.poll() is None, (self.folder / "service.txt").read_text()
        with contextlib.suppress(requests.RequestException):
            return requests.get(f"{self.base}/dashboard/data", timeout=5).ok
        return False

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait(LIMIT_S)

    def workers(self) -> list[int]:
        """Process numbers of jobs that run now."""
        ran = self.folder / "jobs" / "ran.txt"
        numbers = [int(line.split()[2]) for line in ran.read_text().splitlines()] if ran.exists() else []
        return [number for number in numbers if _is_a_job(number)]

    def submit(self, seed: int) -> None:
        """Submit once more until the service has said yes, or that it knows the configuration."""

        def accepted() -> bool:
            try:
                self.accepted.add(self.client.submit_experiment(config_of(10, seed=seed)).experiment_id)
            except RuntimeError as error:
                if "409" not in str(error):
                    return False
            return True

        wait_until(accepted, f"submission {seed}")

    def problems(self, submitted: int) -> list[str]:
        """What is wrong after all jobs should be done."""
        wait_until(lambda: self._unfinished() == 0, "all jobs to end")
        used = self.client.get_budget().used_seconds
        found = [] if used == SECONDS * submitted else [f"{used} s charged for {submitted} jobs of {SECONDS} s"]
        with Session(self.engine) as session:
            rows = session.scalars(select(ExperimentTable)).all()
            events = [(e.experiment_id, e.event.log_type) for e in session.scalars(select(EventLogTable))]
        if len(rows) != submitted:
            found.append(f"{len(rows)} experiments for {submitted} submissions")
        for row in rows:
            if row.status.status_type != "completed" or row.status.val_losses != [float(row.id)]:
                found.append(f"experiment {row.id}: {row.status}")
            if events.count((row.id, "completed")) != 1:
                found.append(f"experiment {row.id} was settled {events.count((row.id, 'completed'))} times")
        return found + [f"accepted {lost}, then lost" for lost in self.accepted - {row.id for row in rows}]

    def _unfinished(self) -> int:
        assert self.process is not None and self.process.poll() is None, (self.folder / "service.txt").read_text()
        with Session(self.engine) as session:
            waiting = ExperimentTable.status_type.in_(["queued", "running"])
            return len(session.scalars(select(ExperimentTable.id).where(waiting)).all())

    def close(self) -> None:
        self.kill()
        for number in self.workers():
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        self.engine.dispose()


def _is_a_job(number: int) -> bool:
    """A number may have been given to another process since."""
    try:
        return b"fake_job" in Path(f"/proc/{number}/cmdline").read_bytes()
    except OSError:
        return False


def kill_at_random(service: KillableService, draw: random.Random, *, kills: int, jobs_per_kill: int) -> int:
    """While jobs are submitted and run, wait a random while and kill the service (and start it again) or a job.

    Half of the waits end within 50 ms, when submissions are under way; the others when jobs start, run and report.
    Returns the jobs submitted.
    """
    submitted = 0
    for _ in range(kills):
        with ThreadPoolExecutor(jobs_per_kill) as learners:
            asked = [learners.submit(service.submit, submitted + number) for number in range(jobs_per_kill)]
            submitted += jobs_per_kill
            time.sleep(draw.uniform(0.0, draw.choice([0.05, 1.5])))
            workers = service.workers()
            if workers and draw.random() < 0.5:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(draw.choice(workers), signal.SIGKILL)
            else:
                service.kill()
                service.start()
        for answer in asked:
            answer.result()
    return submitted
