"""The loop that moves the queue: give up lost runs, claim what has its turn, hand it to the executor.

Several processes may run it on one database. A claim is committed before the run is started, so a service killed
between the two leaves a run that never beats; its lease ends and it is queued again. A database that goes away stops
nothing: the loop waits and tries again. Read next: `../executors/protocol.py`.
"""

from __future__ import annotations

import logging
import threading

from sqlalchemy.exc import SQLAlchemyError

from cs336_scaling.config import Settings
from cs336_scaling.db.engine import SessionFactory
from cs336_scaling.executors.protocol import Executor
from cs336_scaling.loss_queries import refund
from cs336_scaling.scheduler.lost_runs import LeaseWatcher, experiment_heartbeats, loss_query_heartbeats
from cs336_scaling.scheduler.queue import claim, give_up

logger = logging.getLogger(__name__)


class Dispatcher:
    """One loop; `tick` is one turn of it."""

    def __init__(
        self, factory: SessionFactory, executor: Executor, settings: Settings, *, watcher: LeaseWatcher | None = None
    ) -> None:
        self.factory, self.executor, self.settings = factory, executor, settings
        self.watcher = watcher or LeaseWatcher(settings.lease_seconds)
        self.loss_watcher = LeaseWatcher(settings.lease_seconds, clock=self.watcher.clock)
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def tick(self) -> int:
        """Give up lost runs and start the next; returns how many were started."""
        lost = [(*run, "its worker died") for run in self.executor.dead_runs()]
        lost += [(*run, "its worker fell silent") for run in self.watcher.expired(experiment_heartbeats(self.factory))]
        for experiment_id, run_id, why in lost:
            give_up(self.factory, experiment_id, run_id, max_attempts=self.settings.max_attempts, why=why)
        for query, owner in self.loss_watcher.expired(loss_query_heartbeats(self.factory)):
            refund(self.factory, query, owner)
        jobs = claim(self.factory, self.settings)
        for job in jobs:
            try:
                self.executor.start(job)
            except Exception as error:  # whatever an executor may throw must not end the loop
                logger.exception("experiment %s could not be started", job.experiment_id)
                give_up(
                    self.factory, job.experiment_id, job.run_id, max_attempts=self.settings.max_attempts,
                    why=f"could not be started: {error}",
                )  # fmt: skip
        return len(jobs)

    def start(self, *, interval_s: float = 0.2) -> None:
        """Run the loop in a thread."""
        self._thread = threading.Thread(target=self._loop, args=(interval_s,), name="dispatcher", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the loop after its turn; runs go on."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=30)

    def _loop(self, interval_s: float) -> None:
        pause = interval_s
        while not self._stop.wait(pause):
            try:
                pause = 0.0 if self.tick() else interval_s
            except SQLAlchemyError:
                logger.exception("the database cannot be used; trying again in 2 s")
                pause = 2.0
