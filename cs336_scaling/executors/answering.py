"""The executor that asks a `LossSource` instead of training, in a thread of the service.

The loss curve of a run is drawn from the source too: the loss at k/n of the tokens is that of a run of so many FLOPs.
These are losses of finished shorter runs, not of one run under way, and only the last one is an answer. Read next:
`law.py`, `bank.py`.
"""

from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor

from cs336_scaling.db.engine import SessionFactory
from cs336_scaling.executors.protocol import LossSource, as_loss_request
from cs336_scaling.scheduler.queue import Job, finish, report
from cs336_scaling.schemas.events import CompletedResult, FailedResult, RunStartedEvent
from cs336_scaling.schemas.experiment import TimeoutReason, UnexpectedReason


class AnsweringExecutor:
    """An `Executor` around a source."""

    def __init__(self, source: LossSource, factory: SessionFactory, *, threads: int = 4) -> None:
        self.source, self.factory = source, factory
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="answering")

    def start(self, job: Job) -> None:
        """Answer in a thread."""
        self._pool.submit(self._run, job)

    def dead_runs(self) -> list[tuple[int, str]]:
        """None: threads die with the service, and then the lease ends."""
        return []

    def close(self) -> None:
        """Finish the answers under way."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _run(self, job: Job) -> None:
        report(self.factory, job.experiment_id, RunStartedEvent(run_id=job.run_id))
        try:
            result = self._result(job)
        except Exception as error:  # any failure of a source is the experiment's result
            failure = UnexpectedReason(failure=f"{type(error).__name__}: {error}")
            result = FailedResult(used_runtime_seconds=0, reason=failure, run_id=job.run_id)
        finish(self.factory, job.experiment_id, result)

    def _result(self, job: Job) -> CompletedResult | FailedResult:
        request, config = as_loss_request(job.config), job.config
        answer = self.source.answer(request)
        done = min(1.0, config.max_runtime_seconds / answer.seconds)
        losses = []
        for k in range(1, config.n_evals):
            part = dataclasses.replace(request, train_flops=max(1, request.train_flops * k // config.n_evals))
            losses.append(self.source.answer(part).loss)
        if done < 1:
            reason = TimeoutReason(partial_val_losses=losses[: int(done * config.n_evals)])
            return FailedResult(
                used_runtime_seconds=config.max_runtime_seconds, reason=reason, run_id=job.run_id, source=answer.source
            )
        return CompletedResult(
            used_runtime_seconds=answer.seconds, val_losses=[*losses, answer.loss], run_id=job.run_id,
            source=answer.source,
        )  # fmt: skip
