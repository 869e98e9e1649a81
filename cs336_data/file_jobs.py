"""Jobs over many files: worker processes, progress, and a work folder from which an interrupted job goes on.

    unit        what a worker takes at a time (`units.py`)
    job         stages; a stage is a function applied to every unit, and it leaves one file per unit
    OUT.parts   the work folder beside the output: plan.json and the files of the stages

A stage's file is written under a temporary name and renamed, so it is there whole or not at all, and the same call made
again does only what is missing. The plan holds what the results depend on (names, sizes and times of the inputs and the
settings); another plan starts anew. The folder goes when the job is done. How many processes work changes nothing.

Left out: several machines (`executors.py`). Read next: `deduplication/exact_lines.py`, the smallest job.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import pairwise
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from cs336_basics.runs.atomic import atomic_write, write_json
from cs336_basics.runs.lock import exclusive_lock
from cs336_basics.tokenization.pretoken_counts import available_cpus, check_num_processes
from cs336_basics.tokenization.progress import Report, progress_bar
from cs336_data.units import PathLike, Unit

_Result = TypeVar("_Result")


class Job:
    """The stages of one job.

    Attributes:
        folder: the work folder.
        output: the output folder.
        seconds: wall time of each stage.
    """

    def __init__(self, folder: Path, output: Path, *, num_processes: int, progress: bool):
        self.folder, self.output = folder, output
        self.seconds: dict[str, float] = {}
        self._num_processes, self._progress = num_processes, progress
        self._pool: ProcessPoolExecutor | None = None

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[Report]:
        """Time the block under a progress bar."""
        begin = time.perf_counter()
        with progress_bar(name, enabled=self._progress) as report:
            yield report
        self.seconds[name] = round(time.perf_counter() - begin, 3)

    def run(self, name: str, function: Callable[..., _Result], arguments: Sequence[tuple[Any, ...]]) -> list[_Result]:
        """A stage: the results of `function(*a)` for each `a`, in order.

        Args:
            name: for the progress bar.
            function: a function of a module, so that another process finds it; it returns at once if its file is there.
            arguments: one tuple for each call.

        Raises:
            ChildProcessError: a worker process died. What is done stays done.
            Exception: what `function` raises; calls not yet begun are given up.
        """
        results = []
        with self.stage(name) as report:
            for result in self._results(function, arguments):
                results.append(result)
                report(len(results), len(arguments))
        return results

    def write_selection(self, units: Sequence[Unit], starts: Sequence[int], keep: npt.NDArray[np.bool_]) -> None:
        """The last stage of a job that selects: copy documents byte for byte.

        Args:
            units: as planned.
            starts: the number of documents before each unit, and of all.
            keep: bool of shape (documents,).
        """
        save_array(self.folder / "keep.npy", keep)
        bounds = pairwise(starts)
        arguments = [(unit, *next(bounds), self.folder, self.output) for unit in units]
        self.run("writing", _write_unit, arguments)

    def close(self, *, failed: bool) -> None:
        """End the worker processes; after a failure at once, since a file that is not whole has no final name."""
        if self._pool is None:
            return
        workers = list((self._pool._processes or {}).values())
        self._pool.shutdown(wait=not failed, cancel_futures=True)
        for worker in workers if failed else []:
            worker.terminate()

    def _results(self, function: Callable[..., _Result], arguments: Sequence[tuple[Any, ...]]) -> Iterator[_Result]:
        if self._num_processes == 1 or len(arguments) == 1:
            yield from (function(*one) for one in arguments)
            return
        if self._pool is None:
            # "spawn" is the only start method that is safe in a process with threads.
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(self._num_processes, mp_context=context, initializer=_prepare_worker)
        try:
            for job in [self._pool.submit(function, *one) for one in arguments]:
                yield job.result()
        except BrokenProcessPool as error:
            raise ChildProcessError(
                "a worker process died: killed from outside, or out of memory; give the same command again to go on, "
                "with fewer processes if memory is short (a script needs its call under if __name__ == '__main__':)"
            ) from error


@contextlib.contextmanager
def open_job(
    output_directory: PathLike,
    units: Sequence[Unit],
    *,
    num_processes: int | None,
    progress: bool,
    **settings: Any,
) -> Iterator[Job]:
    """Begin or go on with a job; its work folder is removed when the block ends without an error.

    Args:
        output_directory: made if missing. Its work folder is `<output_directory>.parts`.
        units: from `plan_units`.
        num_processes: 1 works in this process; None takes one per CPU.
        progress: show a bar on stderr for each stage.
        settings: all else that the results depend on, as JSON values.

    Raises:
        AlreadyLockedError: a job with the same output is running.
        ValueError: `num_processes` below 1.
    """
    check_num_processes(num_processes)
    output = Path(output_directory)
    output.mkdir(parents=True, exist_ok=True)
    folder = Path(f"{output.resolve()}.parts")
    lock = Path(f"{folder}.lock")
    with exclusive_lock(lock, what=f"output {output}", remedy="wait for it or choose another", delete_after=True):
        _prepare(folder, units, settings)
        _remove_torn_files(output, units)
        job = Job(folder, output, num_processes=min(num_processes or available_cpus(), len(units)), progress=progress)
        try:
            yield job
        except BaseException:
            job.close(failed=True)
            raise
        job.close(failed=False)
        shutil.rmtree(folder)


def save_array(path: Path, array: npt.NDArray[Any]) -> None:
    """Write a numpy array whole or not at all."""
    with atomic_write(path) as file:
        np.save(file, array)


def _prepare(folder: Path, units: Sequence[Unit], settings: dict[str, Any]) -> None:
    """Keep a work folder of the same plan, else start an empty one."""
    stats = [(str(path.resolve()), path.stat()) for unit in units for path in unit.paths]
    inputs = [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats]
    plan = json.loads(json.dumps({"format": "cs336-job-1", **settings, "inputs": inputs}))
    plan_path = folder / "plan.json"
    with contextlib.suppress(FileNotFoundError, ValueError):
        if json.loads(plan_path.read_text(encoding="utf-8")) == plan:
            return
    if folder.exists():
        shutil.rmtree(folder)
    write_json(plan_path, plan)


def _remove_torn_files(output: Path, units: Sequence[Unit]) -> None:
    """Remove what a killed process left beside the outputs under temporary names."""
    stems = {path.name.split(".")[0] for unit in units for path in unit.paths}
    for path in output.glob(".*.partial"):
        if path.name[1:].split(".")[0] in stems:
            path.unlink()


def _write_unit(unit: Unit, start: int, end: int, folder: Path, output: Path) -> None:
    """Write the kept documents of a unit, unless that has been done."""
    done = folder / f"written-{unit.number:06d}"
    if not done.exists():
        unit.write_kept(np.load(folder / "keep.npy", mmap_mode="r")[start:end], output)
        done.touch()


def _prepare_worker() -> None:
    """Leave Ctrl-C to the parent, and end when the parent has ended in whatever way."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
