"""Run one function in several fresh processes that form a torch.distributed process group, and collect the results.

    run_workers(f, 4, arguments=(x,))  ==  [f(x) in rank 0, ..., f(x) in rank 3]

What `torchrun` does for a script this does for a function: benchmarks, demonstrations and tests use it. Nothing here
can hang: collectives give up after `timeout_s`, and so does the parent, which then ends the processes it started. When
one rank fails, the others are ended at once and its traceback is raised.

The processes come from a fork server that has imported torch but used nothing of it, so that each starts in a fraction
of a second. Left out: more than one machine and restarts (torchrun). Read next: `collectives.py`.
"""

from __future__ import annotations

import multiprocessing
import pickle
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

PRELOADED = ["torch", "torch.distributed", "torch._dynamo", "einops", "jaxtyping", "numpy"]
"""what each process would else import by itself; torch.optim imports torch._dynamo when it is first used"""
CAUSE_GRACE_S = 2.0
"""how long a failure is held back for a better one: a rank that dies makes its neighbours fail too"""


class WorkerError(RuntimeError):
    """A rank raised, died, or took too long; the text holds its traceback."""


def run_workers(
    function: Callable[..., Any],
    world_size: int,
    *,
    arguments: Sequence[Any] = (),
    backend: str = "gloo",
    timeout_s: float = 120.0,
) -> list[Any]:
    """Call `function(*arguments)` in `world_size` processes of one group; return what each rank returned.

    Args:
        function: importable by name (no lambda, nothing nested); it finds its rank by `dist.get_rank()`.
        arguments, and the results: anything that pickles; tensors are copied.
        backend: "gloo" (CPU) or "nccl" (one GPU per rank, which becomes the process's current device).
        timeout_s: limit of each collective, and of the whole call.

    Raises:
        ValueError: fewer than one process, or more NCCL ranks than GPUs.
        WorkerError: a rank failed, died or was not done in time.
    """
    _check(world_size, backend)
    context: Any = multiprocessing.get_context("spawn" if sys.platform == "win32" else "forkserver")
    if sys.platform != "win32":
        context.set_forkserver_preload(PRELOADED)
    with tempfile.TemporaryDirectory() as folder:
        task = pickle.dumps((function, tuple(arguments)))
        readers, processes = [], []
        try:
            for rank in range(world_size):
                reader, writer = context.Pipe(duplex=False)
                group = (rank, world_size, backend, f"file://{Path(folder).as_posix()}/rendezvous", timeout_s)
                process = context.Process(target=_work, args=(group, task, writer), daemon=True)
                process.start()
                writer.close()
                readers.append(reader)
                processes.append(process)
            return _collect(readers, time.monotonic() + timeout_s)
        finally:
            for process in processes:
                process.join(timeout=0.0 if sys.exc_info()[0] else 5.0)
                if process.is_alive():
                    process.kill()
                    process.join()


def _check(world_size: int, backend: str) -> None:
    """Refuse what could only fail later."""
    if world_size < 1:
        raise ValueError(f"world_size must be at least 1; got {world_size}")
    if backend not in ("gloo", "nccl"):
        raise ValueError(f"backend must be 'gloo' or 'nccl'; got {backend!r}")
    if backend == "nccl" and torch.cuda.device_count() < world_size:
        raise ValueError(
            f"NCCL needs one GPU per rank; got world_size={world_size} and {torch.cuda.device_count()} GPUs; "
            "use backend='gloo' or fewer ranks"
        )


def _work(group: tuple[int, int, str, str, float], task: bytes, writer: Connection) -> None:
    """The life of one rank: join the group, call the function, send (True, result) or (False, traceback)."""
    rank, world_size, backend, init_method, timeout_s = group
    torch.set_num_threads(1)
    try:
        if backend == "nccl":
            torch.cuda.set_device(rank)
        dist.init_process_group(
            backend, init_method=init_method, rank=rank, world_size=world_size, timeout=timedelta(seconds=timeout_s)
        )
        function, arguments = pickle.loads(task)
        result = pickle.dumps((True, function(*arguments)))
        dist.barrier()  # nobody tears the group down while a neighbour still sends
        writer.send_bytes(result)
        dist.destroy_process_group()
    except BaseException:
        writer.send_bytes(pickle.dumps((False, traceback.format_exc())))


def _collect(readers: list[Connection], deadline: float) -> list[Any]:
    """One answer per rank; the first failure ends the waiting, but a rank that died explains others' failures."""
    answers: dict[int, Any] = {}
    failures: dict[int, str] = {}
    while len(answers) + len(failures) < len(readers):
        open_readers = [r for i, r in enumerate(readers) if i not in answers and i not in failures]
        ready = wait(open_readers, timeout=max(0.0, deadline - time.monotonic()))
        if not ready:
            break
        for reader in ready:
            rank = readers.index(reader)  # type: ignore[arg-type]
            succeeded, value = _receive(reader)  # type: ignore[arg-type]
            (answers if succeeded else failures)[rank] = value
        if failures:
            deadline = min(deadline, time.monotonic() + CAUSE_GRACE_S)
    if failures:
        texts = [f"rank {rank} of {len(readers)}: {text}" for rank, text in sorted(failures.items())]
        raise WorkerError("\n".join(sorted(texts, key=lambda text: " by peer" in text)))
    missing = sorted(set(range(len(readers))) - set(answers))
    if missing:
        raise WorkerError(f"ranks {missing} of {len(readers)} were not done in time; raise timeout_s, or look for a "
                          "collective that not every rank calls")  # fmt: skip
    return [answers[rank] for rank in range(len(readers))]


def _receive(reader: Connection) -> tuple[bool, Any]:
    """(whether it succeeded, result or text)."""
    try:
        return pickle.loads(reader.recv_bytes())
    except EOFError:
        return False, "the process died without a word (killed, or out of memory)"
