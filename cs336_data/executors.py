"""Where the files are worked on: processes of this machine, a Ray cluster, or a Slurm array. The result is the same.

An executor takes tasks and yields outcomes in any order; each of its workers keeps a `GuardedWorker`, which does all
that concerns documents. What an executor adds is only who runs what:

    local   one thread per worker process; files are taken from one queue
    ray     one actor per worker; an actor or node that dies is replaced and its file begun again
    slurm   an array of jobs through submitit, each with its share of the files; what failed jobs left is sent again

Ray and Slurm need a file system that all machines share. An unreadable file is an outcome, not an error; a full disk or
a missing package is an error and stops the run. Left out: moving code to the machines of a cluster (install cs336
there). Read next: `pipeline.py`.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cs336_data.file_task import FileTask, UnreadableFileError
from cs336_data.guarded_worker import GuardedWorker, WorkerError
from cs336_data.optional_packages import require
from cs336_data.pipeline_config import ExecutionConfig, LimitsConfig

_READ_ATTEMPTS = 2  # of a file whose reading failed; a network file system may recover
_SLURM_ROUNDS = 3
Tick = Callable[[int], None]


@dataclass(frozen=True)
class Outcome:
    """A file's manifest, or why it could not be read."""

    task: FileTask
    manifest: dict[str, Any] | None
    error: str = ""


def run_tasks(
    tasks: Sequence[FileTask],
    execution: ExecutionConfig,
    limits: LimitsConfig,
    *,
    output: Path,
    tick: Tick = lambda records: None,
) -> Iterator[Outcome]:
    """Work through all tasks on the configured executor, yielding each outcome as it comes.

    Args:
        tasks: files, in any order.
        execution: which executor, how wide.
        limits: of each document.
        output: directory of the run; Slurm's logs go there.
        tick: called now and then with the records under way (local executor only), for a progress line.

    Raises:
        WorkerError: the run cannot go on; tasks under way are given up.
        ImportError: ray or submitit is missing.
    """
    workers = min(execution.workers or os.cpu_count() or 1, len(tasks))
    if not tasks:
        return
    if execution.executor == "ray":
        yield from _run_on_ray(tasks, limits, workers, execution.ray_address)
    elif execution.executor == "slurm":
        yield from _run_on_slurm(tasks, limits, workers, execution, output)
    else:
        yield from _run_locally(tasks, limits, workers, tick)


def run_one(worker: GuardedWorker, task: FileTask) -> Outcome:
    """One file by one worker."""
    for attempt in range(_READ_ATTEMPTS):
        try:
            return Outcome(task, worker.run(task))
        except UnreadableFileError as error:
            if attempt + 1 == _READ_ATTEMPTS:
                return Outcome(task, None, str(error))
    raise AssertionError("unreachable")


def _run_locally(tasks: Sequence[FileTask], limits: LimitsConfig, workers: int, tick: Tick) -> Iterator[Outcome]:
    """Threads that only wait for their worker processes."""
    with ExitStack() as stack:
        guards = [stack.enter_context(GuardedWorker(limits)) for _ in range(workers)]
        yield from _run_on_threads(tasks, guards, tick)


def _run_on_threads(tasks: Sequence[FileTask], guards: Sequence[GuardedWorker], tick: Tick) -> Iterator[Outcome]:
    free: queue.SimpleQueue[GuardedWorker] = queue.SimpleQueue()
    for guard in guards:
        free.put(guard)
    stopping = threading.Event()

    def work(task: FileTask) -> Outcome:
        if stopping.is_set():
            raise WorkerError("stopped")
        guard = free.get()
        try:
            return run_one(guard, task)
        finally:
            free.put(guard)

    with ThreadPoolExecutor(len(guards)) as pool:
        running: set[Future[Outcome]] = {pool.submit(work, task) for task in tasks}
        try:
            while running:
                done, running = wait(running, timeout=0.5, return_when=FIRST_COMPLETED)
                tick(sum(guard.ordinal for guard in guards))
                for future in done:
                    yield future.result()
        finally:
            stopping.set()
            for future in running:
                future.cancel()
            for guard in guards:
                guard.kill()


def _run_on_ray(tasks: Sequence[FileTask], limits: LimitsConfig, workers: int, address: str) -> Iterator[Outcome]:
    """Actors, each with a guarded worker; Ray restarts an actor that dies and calls its method again."""
    ray = require("ray", install="ray")
    started = not ray.is_initialized()
    if started:
        local: dict[str, Any] = {} if address else {"num_cpus": workers, "include_dashboard": False}
        ray.init(address=address or "local", log_to_driver=False, logging_level="error", **local)
    actor_class = ray.remote(num_cpus=1, max_restarts=-1, max_task_retries=-1)(_RayWorker)
    actors: list[Any] = []
    try:
        actors += [actor_class.remote(limits) for _ in range(workers)]
        waiting, running = list(reversed(tasks)), {}
        for actor in actors:
            running[actor.run.remote(waiting.pop())] = actor
        while running:
            ready, _ = ray.wait(list(running), num_returns=1)
            actor = running.pop(ready[0])
            try:
                outcome = ray.get(ready[0])
            except ray.exceptions.RayTaskError as error:
                raise WorkerError(str(error.cause)) from error
            if waiting:
                running[actor.run.remote(waiting.pop())] = actor
            yield outcome
    finally:
        for actor in actors:
            ray.kill(actor)
        if started:
            ray.shutdown()


class _RayWorker:
    """What runs in a Ray actor."""

    def __init__(self, limits: LimitsConfig) -> None:
        self.guard = GuardedWorker(limits)

    def run(self, task: FileTask) -> Outcome:
        return run_one(self.guard, task)


def _run_on_slurm(
    tasks: Sequence[FileTask], limits: LimitsConfig, workers: int, execution: ExecutionConfig, output: Path
) -> Iterator[Outcome]:
    """Arrays of jobs until nothing is missing, or a round brings nothing new."""
    submitit = require("submitit", install="submitit")
    slurm, missing = execution.slurm, list(tasks)
    executor = submitit.AutoExecutor(folder=output / "slurm" / "%j", cluster=slurm.cluster)
    executor.update_parameters(timeout_min=slurm.minutes, mem_gb=slurm.memory_gb, cpus_per_task=1, name="cs336-data")
    if slurm.cluster == "slurm":
        executor.update_parameters(slurm_array_parallelism=slurm.parallel_jobs)
        if slurm.partition:
            executor.update_parameters(slurm_partition=slurm.partition)
    for _ in range(_SLURM_ROUNDS):
        shares = [missing[i::workers] for i in range(min(workers, len(missing)))]
        jobs = executor.map_array(_run_share, shares, [limits] * len(shares))
        failures = []
        for job, share in zip(jobs, shares, strict=True):
            try:
                outcomes = job.result()
            except Exception as error:  # submitit wraps whatever ended the job
                failures.append((error, share))
                continue
            yield from outcomes
        missing = [task for _, share in failures for task in share]
        if not missing:
            return
    raise WorkerError(f"{len(missing)} files failed in {_SLURM_ROUNDS} rounds of Slurm jobs; the last error: "
                      f"{failures[-1][0]}; logs are in {output / 'slurm'}")  # fmt: skip


def _run_share(tasks: Sequence[FileTask], limits: LimitsConfig) -> list[Outcome]:
    """What runs in a Slurm job. Files that an earlier attempt finished are not begun again."""
    from cs336_data.pipeline import finished_manifest

    outcomes = []
    with GuardedWorker(limits) as guard:
        for task in tasks:
            manifest = finished_manifest(task)
            outcomes.append(Outcome(task, manifest) if manifest else run_one(guard, task))
    return outcomes
