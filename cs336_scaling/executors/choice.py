"""The executor and the source that a deployment's settings name; each is imported only when it is chosen.

Read next: `law.py`, `bank.py`, `local.py`, `cluster.py`.
"""

from __future__ import annotations

from cs336_scaling.config import Settings
from cs336_scaling.db.engine import SessionFactory
from cs336_scaling.executors.protocol import Executor, LossSource
from cs336_scaling.scheduler.queue import Job


class NoSource:
    """The source of a deployment that cannot answer the old API."""

    def __init__(self, executor: str) -> None:
        self.executor = executor

    def answer(self, request: object) -> None:
        """Refuse.

        Raises:
            ValueError: always.
        """
        raise ValueError(f"the executor {self.executor} does not answer /loss; choose law, bank or local")


class NoExecutor:
    """Starts nothing; `cs336 scaling serve` of a deployment whose queue another process moves."""

    def start(self, job: Job) -> None:
        """Never called: nothing is claimed.

        Raises:
            ValueError: always.
        """
        raise ValueError("the executor none starts no runs")

    def dead_runs(self) -> list[tuple[int, str]]:
        """None."""
        return []

    def close(self) -> None:
        """Nothing."""


def choose_source(settings: Settings) -> LossSource:
    """Who answers the old API."""
    if settings.executor == "law":
        from cs336_scaling.executors.law import StatedLaw

        return StatedLaw()
    if settings.executor == "bank":
        from cs336_scaling.executors.bank import open_bank

        return open_bank(settings.bank_path or None)
    if settings.executor == "local":
        from cs336_scaling.executors.local import LocalSource

        return LocalSource(settings)
    return NoSource(settings.executor)  # type: ignore[return-value]


def choose_executor(settings: Settings, factory: SessionFactory, source: LossSource) -> Executor:
    """Who runs the queue."""
    if settings.executor in ("law", "bank"):
        from cs336_scaling.executors.answering import AnsweringExecutor

        return AnsweringExecutor(source, factory)
    if settings.executor == "local":
        from cs336_scaling.executors.local import LocalExecutor

        return LocalExecutor(settings)
    if settings.executor == "ray":
        from cs336_scaling.executors.cluster import RayExecutor

        return RayExecutor(settings)
    if settings.executor == "slurm":
        from cs336_scaling.executors.cluster import SlurmExecutor

        return SlurmExecutor(settings)
    return NoExecutor()
