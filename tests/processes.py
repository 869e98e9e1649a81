"""Several processes in one gloo group, for tests: started cheaply, bounded in time, ended one by one.

A server process imports torch once and is forked for each worker; every worker runs on one thread. The processes meet
through a file, so no port is needed. When a worker fails, the group is ended and its error is raised; a group that does
not finish in time is ended and reported.
"""

from __future__ import annotations

import io
import multiprocessing
import multiprocessing.connection
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch

LIMIT_S = 240.0
COLLECTIVE_LIMIT_S = 120.0
CAUSE_GRACE_S = 2.0
PRELOADED = [
    *("torch.distributed", "torch._dynamo", "matplotlib.backends.backend_svg", "rich.progress"),
    *("tests.conftest", "tests.adapters", "cs336_basics.training", "cs336_systems.parallel.strategies"),
]
"""what the server imports once; torch's optimizers import torch._dynamo, seconds of work, when first used"""


def run_processes(work: Callable[..., Any], world_size: int, *arguments: Any, limit_s: float = LIMIT_S) -> list[Any]:
    """What `work(rank, *arguments)` returns in each of `world_size` processes of a group, in order of rank.

    Raises:
        RuntimeError: a worker failed, with its traceback; TimeoutError: the group did not finish.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    with tempfile.TemporaryDirectory() as folder:
        receivers, workers = [], []
        for rank in range(world_size):
            receiver, sender = context.Pipe(duplex=False)
            inputs = (work, rank, world_size, os.path.join(folder, "meeting"), sender, arguments)
            worker = context.Process(target=_worker, args=inputs)
            worker.start()
            sender.close()
            receivers.append(receiver)
            workers.append(worker)
        try:
            return _collect(receivers, time.monotonic() + limit_s)
        finally:
            for worker in workers:
                worker.join(0.0 if sys.exc_info()[0] else 5.0)
                worker.kill()
                worker.join()
                worker.close()


def _collect(receivers: list[Any], end: float) -> list[Any]:
    """The results of all workers; a failure is held back a moment for its cause, since a death makes others fail."""
    results: dict[int, Any] = {}
    failures: dict[int, str] = {}
    while len(results) + len(failures) < len(receivers):
        waiting = [r for rank, r in enumerate(receivers) if rank not in results and rank not in failures]
        ready = multiprocessing.connection.wait(waiting, timeout=max(0.0, end - time.monotonic()))
        if not ready:
            break
        for receiver in ready:
            rank = receivers.index(receiver)
            try:
                succeeded, sent = receiver.recv()
            except EOFError:
                succeeded, sent = False, "died without a word"
            if succeeded:
                results[rank] = torch.load(io.BytesIO(sent), weights_only=False)
            else:
                failures[rank] = f"rank {rank} of {len(receivers)}: {sent}"
        if failures:
            end = min(end, time.monotonic() + CAUSE_GRACE_S)
    if failures:
        raise RuntimeError("\n".join(sorted(failures.values(), key=lambda text: " by peer" in text)))
    missing = sorted(set(range(len(receivers))) - set(results))
    if missing:
        raise TimeoutError(f"no result from ranks {missing} in time; look for a collective that not every rank calls")
    return [results[rank] for rank in range(len(receivers))]


def _worker(
    work: Callable[..., Any], rank: int, world_size: int, meeting: str, sender: Any, arguments: tuple[Any, ...]
) -> None:
    torch.set_num_threads(1)
    try:
        torch.distributed.init_process_group(
            "gloo", init_method=f"file://{meeting}", rank=rank, world_size=world_size,
            timeout=timedelta(seconds=COLLECTIVE_LIMIT_S),
        )  # fmt: skip
        out = io.BytesIO()
        torch.save(work(rank, *arguments), out)
        sender.send((True, out.getvalue()))
        torch.distributed.barrier()  # nobody leaves while another still needs it
        torch.distributed.destroy_process_group()
    except BaseException:
        sender.send((False, traceback.format_exc()))
    finally:
        sender.close()
