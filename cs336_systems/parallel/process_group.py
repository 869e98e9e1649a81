"""The group of processes that train together: start and join it, compare what they hold, move tensors between them.

A program is started once per process (by `torchrun`, which sets RANK, WORLD_SIZE and an address to meet); the processes
meet in a group, after which all of them call the same collectives in the same order. gloo carries CPU tensors, NCCL
those of GPUs. Every collective has a time limit: when a process dies, the others get an error and never hang.

torch 2.13 renames `all_gather_into_tensor` and `reduce_scatter_tensor`; the functions here take whichever name this
torch has. Sums are divided before they are added, as gloo lacks a mean in older versions.

Handout: distributed_communication_single_node. Left out: the collectives' own algorithms. Read next: `ddp.py`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous

from cs336_basics.nn_utils import upcast
from cs336_basics.runs.child_processes import training_context

COLLECTIVE_TIMEOUT_S = 600.0


@contextlib.contextmanager
def joined_group(*, device: torch.device, timeout_s: float = COLLECTIVE_TIMEOUT_S) -> Iterator[None]:
    """Be a member of the default group while inside, as torchrun's environment says.

    Args:
        device: where tensors live; for a GPU, the one with this process's LOCAL_RANK becomes the current one.
        timeout_s: how long a collective may take before it is an error.

    Raises:
        ValueError: not started by torchrun, or more processes than GPUs on this machine.
    """
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        raise ValueError(
            "training on several processes is started by torchrun, such as: torchrun --standalone --nproc-per-node 2 "
            "-m cs336_course.cli train --strategy ddp ..."
        )
    backend = "gloo"
    if device.type == "cuda":
        local_rank, gpus = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
        if local_rank >= gpus:
            raise ValueError(f"process {local_rank} of this machine has no GPU, there are {gpus}; start at most {gpus}")
        torch.cuda.set_device(local_rank)
        backend = "cpu:gloo,cuda:nccl"
    timeout = timedelta(seconds=timeout_s)
    store, rank, world_size = next(rendezvous("env://", timeout=timeout))
    # After an elastic restart torchrun may offer the same store, with the addresses of processes that are dead.
    store = dist.PrefixStore(f"attempt {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
    dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=timeout)
    try:
        yield
    finally:
        dist.destroy_process_group()


def launch(function: Callable[..., Any], world_size: int, *arguments: Any) -> list[Any]:
    """What `function(*arguments)` returns in each of `world_size` new processes, as if torchrun had started them.

    Args:
        function: importable by name; it joins the group by `joined_group`, whose time limit lets nobody wait for ever.
        arguments, and the results: anything that pickles.

    Raises:
        ValueError: fewer than one process.
        ChildFailedError: a process failed (with its traceback) or died; the others have been ended.
    """
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    if world_size < 1:
        raise ValueError(f"world_size must be at least 1; got {world_size}")
    config = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=world_size, rdzv_backend="c10d", rdzv_endpoint="localhost:0",
        run_id=function.__name__, max_restarts=0, start_method=training_context().get_start_method(),
    )  # fmt: skip
    results = elastic_launch(config, function)(*arguments)
    return [results[rank] for rank in range(world_size)]


def require_group() -> None:
    """Raise a RuntimeError unless this process is a member of a group."""
    if not (dist.is_available() and dist.is_initialized()):
        raise RuntimeError("no process group; call torch.distributed.init_process_group (or joined_group) first")


def control_device() -> torch.device:
    """Where the group takes small tensors that steer: the CPU, except in a group of NCCL alone."""
    return torch.device("cuda" if dist.get_backend() == "nccl" else "cpu")


def check_same_module(module: nn.Module) -> None:
    """Raise on every process unless all hold a module with the same names, shapes, dtypes and trainable parts.

    Raises:
        ValueError: they differ (told with the first difference), or a tensor has no storage or an unreachable device.
    """
    backend, tensors = str(dist.get_backend()), [*module.named_parameters(), *module.named_buffers()]
    for name, tensor in tensors:
        kind = tensor.device.type
        if kind not in ("cpu", "cuda") or (kind == "cpu" and backend == "nccl"):
            raise ValueError(
                f"{name} is on {tensor.device}, which {backend} cannot send from; move the module to this process's "
                "device"
            )
    mine = [f"{name} {tuple(p.shape)} {p.dtype}{'' if p.requires_grad else ' frozen'}" for name, p in tensors]
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, mine)
    for rank, theirs in enumerate(everyone):
        if theirs != everyone[0]:
            pairs = [(a, b) for a, b in zip(everyone[0], theirs, strict=False) if a != b]
            first, other = pairs[0] if pairs else (f"{len(everyone[0])} tensors", f"{len(theirs)} tensors")
            raise ValueError(f"the processes hold different modules: rank 0 has {first}, rank {rank} has {other}")


@torch.no_grad()
def broadcast_tensors(tensors: Iterable[Tensor], *, source: int = 0) -> None:
    """Overwrite each tensor by its value on process `source`; a tensor may be non-contiguous."""
    started = []
    for tensor in tensors:
        sent = torch.view_as_real(tensor.detach()) if tensor.is_complex() else tensor.detach()
        sent = sent if sent.is_contiguous() else sent.contiguous()
        started.append((tensor, sent, dist.broadcast(sent, src=source, async_op=True)))
    for tensor, sent, work in started:
        work.wait()
        if sent.data_ptr() != tensor.data_ptr():
            tensor.detach().copy_(torch.view_as_complex(sent) if tensor.is_complex() else sent)


def all_gather_into(out: Tensor, rows: Tensor, **options: Any) -> Any:
    """torch's all-gather into one tensor, by the name it has in this torch."""
    gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
    return gather(out, rows, **options)


def reduce_scatter_into(out: Tensor, rows: Tensor, **options: Any) -> Any:
    """torch's reduce-scatter of one tensor, by the name it has in this torch."""
    scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor
    return scatter(out, rows, **options)


def all_gather_rows(rows: Tensor, *, async_op: bool = False) -> tuple[Tensor, Any]:
    """The equally many `rows` of all processes below each other, in rank order, and the handle (or None)."""
    out = rows.new_empty((dist.get_world_size() * rows.shape[0], *rows.shape[1:]))
    return out, all_gather_into(out, rows.contiguous(), async_op=async_op)


def reduce_scatter_rows(rows: Tensor, *, async_op: bool = False) -> tuple[Tensor, Any]:
    """This process's share of the sum of `rows`, whose number the world size divides, and the handle (or None)."""
    out = rows.new_empty((rows.shape[0] // dist.get_world_size(), *rows.shape[1:]))
    return out, reduce_scatter_into(out, rows.contiguous(), async_op=async_op)


@torch.no_grad()
def clip_sharded_gradients(sharded: Iterable[Tensor], replicated: Iterable[Tensor], max_norm: float) -> Tensor:
    """Clip by the norm of the whole gradient, of which each process holds a part; return that norm.

    Args:
        sharded: parameters whose gradients differ between processes and make up the whole together.
        replicated: parameters whose gradients are the same everywhere.
        max_norm: as in `cs336_basics.nn_utils.clip_gradient`, whose formula this is.
    """
    parts, whole = ([p.grad for p in group if p.grad is not None] for group in (sharded, replicated))
    device = next((g.device for g in [*parts, *whole]), torch.device("cpu"))
    square = torch.zeros((), device=device, dtype=torch.float64)
    for grad in parts:
        square += upcast(grad).square().sum()
    dist.all_reduce(square)
    for grad in whole:
        square += upcast(grad).square().sum()
    norm = square.sqrt()
    if norm > max_norm:
        for grad in [*parts, *whole]:
            grad.mul_(max_norm / (norm + 1e-6))
    return norm
