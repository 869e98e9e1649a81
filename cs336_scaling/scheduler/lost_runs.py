"""Leases without a trusted clock: a run is lost when its heartbeat counter has stood still for too long.

The watcher remembers when it last saw each (run, heartbeats) change, on its own monotonic clock. A wall clock that
jumps, a worker with a wrong clock, or a service that was down for an hour (its successor starts to observe anew)
therefore ends no lease. Read next: `dispatcher.py`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from sqlalchemy import select

from cs336_scaling.db.engine import SessionFactory
from cs336_scaling.db.tables import ExperimentTable, LossQueryTable

Heartbeat = tuple[int, str, int]
"""row, run, heartbeats so far"""


class LeaseWatcher:
    """Observes heartbeats of one kind of run."""

    def __init__(self, lease_seconds: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.lease_seconds, self.clock = lease_seconds, clock
        self._seen: dict[int, tuple[str, int, float]] = {}

    def expired(self, heartbeats: Iterable[Heartbeat]) -> list[tuple[int, str]]:
        """(row, run) of every run whose counter has not moved for lease_seconds; `heartbeats` lists all that run."""
        now, before = self.clock(), self._seen
        self._seen = {}
        for row, run, beats in heartbeats:
            known = before.get(row)
            since = known[2] if known is not None and known[:2] == (run, beats) else now
            self._seen[row] = (run, beats, since)
        return [(row, run) for row, (run, _, since) in self._seen.items() if now - since >= self.lease_seconds]


def experiment_heartbeats(factory: SessionFactory) -> list[Heartbeat]:
    """Of all running experiments."""
    columns = select(ExperimentTable.id, ExperimentTable.run_id, ExperimentTable.heartbeats)
    with factory() as session:
        return [
            (i, str(run), beats)
            for i, run, beats in session.execute(columns.where(ExperimentTable.status_type == "running"))
        ]


def loss_query_heartbeats(factory: SessionFactory) -> list[Heartbeat]:
    """Of all reserved queries of the old API."""
    columns = select(LossQueryTable.id, LossQueryTable.owner, LossQueryTable.beats)
    with factory() as session:
        return [(i, owner, beats) for i, owner, beats in session.execute(columns.where(LossQueryTable.loss.is_(None)))]
