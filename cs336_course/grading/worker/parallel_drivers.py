"""Drivers of assignment 2's distributed problems: processes of a gloo group that train with a submission's wrappers.

    data_parallel        get_ddp and its relatives on a small network; every process starts from other weights
    sharded_optimizer    given gradients, the same on every process
    fsdp                 a small language model of the submission's own cs336_basics.model

Each returns one answer per process. The processes are forked from the one that runs the case, meet through a file, and
are killed when the case is over. Read next: `tests/hidden/parallel.py`.
"""

from __future__ import annotations

import builtins
import contextlib
import importlib
import multiprocessing
import multiprocessing.connection
import os
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import numpy as np

from .drivers import Inputs
from .drivers import _array as array

WORLD_SIZE = 2
GROUP_LIMIT_S, COLLECTIVE_LIMIT_S, CAUSE_GRACE_S = 20.0, 10.0, 0.3


def in_processes(work: Callable[..., Any], world_size: int, *arguments: Any) -> list[Any]:
    """What `work(rank, *arguments)` returns in each process of a group, by rank; the first error of one is raised."""
    importlib.import_module(
        "torch._dynamo"
    )  # torch's optimizers import it at their first step: once here, not per process
    context = multiprocessing.get_context("fork")
    meeting = os.path.join(tempfile.mkdtemp(dir=os.getcwd()), "meeting")
    receivers: list[Any] = []
    processes: list[Any] = []
    try:
        for rank in range(world_size):
            receiver, sender = context.Pipe(duplex=False)
            inputs = (work, rank, world_size, meeting, sender, arguments)
            processes.append(context.Process(target=_process, args=inputs))
            processes[-1].start()
            sender.close()
            receivers.append(receiver)
        return _collect(receivers)
    finally:
        for process in processes:
            process.kill()
            process.join()


def _collect(receivers: list[Any]) -> list[Any]:
    results: dict[int, Any] = {}
    failures: dict[int, tuple[str, str]] = {}
    end = time.monotonic() + GROUP_LIMIT_S
    while len(results) + len(failures) < len(receivers):
        waiting = [r for rank, r in enumerate(receivers) if rank not in results and rank not in failures]
        ready = multiprocessing.connection.wait(waiting, timeout=max(0.0, end - time.monotonic()))
        if not ready:
            break
        for receiver in list[Any](ready):
            rank = receivers.index(receiver)
            try:
                good, value = receiver.recv()
            except EOFError:
                good, value = False, ("RuntimeError", f"process {rank} died")
            if good:
                results[rank] = value
            else:
                failures[rank] = value
        if failures:
            end = min(end, time.monotonic() + CAUSE_GRACE_S)
    if failures:
        name, text = min(failures.values(), key=lambda failure: "peer" in failure[1])
        kind = getattr(builtins, name, None)
        if isinstance(kind, type) and issubclass(kind, Exception):
            raise kind(text)
        raise RuntimeError(f"{name}: {text}")
    if len(results) < len(receivers):
        raise TimeoutError("a process waits in a collective that another never calls")
    return [results[rank] for rank in range(len(receivers))]


def _process(work: Callable[..., Any], rank: int, world_size: int, meeting: str, sender: Any, arguments: Any) -> None:
    """One member of the group."""
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo" if sys.platform == "linux" else "lo0")
    try:
        limit = timedelta(seconds=COLLECTIVE_LIMIT_S)
        dist.init_process_group(
            "gloo", init_method=f"file://{meeting}", rank=rank, world_size=world_size, timeout=limit
        )
        sender.send((True, work(rank, world_size, *arguments)))
        with contextlib.suppress(Exception):
            dist.barrier()  # nobody leaves while another still needs it
    except BaseException as error:
        sender.send((False, (type(error).__name__, str(error)[:500])))
    finally:
        sender.close()


def num_collectives() -> int:
    """Collectives that this process has begun, over all groups."""
    from torch.distributed import distributed_c10d

    groups: list[Any] = list(distributed_c10d._world.pg_map)
    return sum(int(group._get_sequence_number_for_group()) for group in groups)


def network(sizes: list[int], *, tied: bool = False, idle: bool = False) -> Any:
    """Linear layers with biases and ReLU between; the first bias is frozen.

    tied: the middle two layers, both square, share their weight. idle: a trainable parameter that forward ignores.
    """
    import torch
    from torch import nn

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in zip(sizes, sizes[1:], strict=False))
            self.layers[0].bias.requires_grad_(False)
            if tied:
                self.layers[2].weight = self.layers[1].weight
            self.idle = nn.Parameter(torch.zeros(3)) if idle else None

        def forward(self, x: Any) -> Any:
            for number, layer in enumerate(self.layers):
                x = layer(torch.relu(x) if number else x)
            return x

    return Network()


def fill(module: Any, values: list[np.ndarray]) -> None:
    """Set the parameters, in order, trainable or not."""
    import torch

    with torch.no_grad():
        for parameter, value in zip(module.parameters(), values, strict=True):
            parameter.copy_(torch.from_numpy(value))


WRAPPERS = {
    "ddp": ("get_ddp", "ddp_on_after_backward"),
    "individual": ("get_ddp_individual_parameters", "ddp_individual_parameters_on_after_backward"),
    "bucketed": ("get_ddp_bucketed", "ddp_bucketed_on_after_backward"),
}


def data_parallel(adapters: Any, inputs: Inputs) -> dict[str, Any]:
    """Train on two processes, each with its half of the rows; what each holds along the way."""
    return {"ranks": in_processes(_train_data_parallel, WORLD_SIZE, adapters, inputs)}


def _train_data_parallel(rank: int, world_size: int, adapters: Any, inputs: Inputs) -> dict[str, Any]:
    import torch

    module = network(inputs["sizes"], tied=inputs["tied"], idle=inputs["idle"])
    fill(module, inputs["start"][rank])
    wrap, finish = WRAPPERS[inputs["kind"]]
    more = {"bucket_size_mb": inputs["bucket_size_mb"]} if inputs["kind"] == "bucketed" else {}
    wrapped = getattr(adapters, wrap)(module, **more)
    held = [array(p) for p in module.parameters()]
    at_last_layer: list[int] = []
    module.layers[0].weight.register_hook(lambda grad: at_last_layer.append(num_collectives()))
    optimizer = torch.optim.SGD(wrapped.parameters(), lr=inputs["lr"])
    answer: dict[str, Any] = {"wrapped": held, "names": [n for n, _ in wrapped.named_parameters()], "after": []}
    for x, y in zip(inputs["x"], inputs["y"], strict=True):
        rows = np.array_split(np.arange(len(x)), world_size)[rank]
        if inputs["kind"] == "bucketed":
            adapters.ddp_bucketed_on_train_batch_start(ddp_model=wrapped, optimizer=optimizer)
        optimizer.zero_grad()
        before = num_collectives()
        torch.nn.functional.mse_loss(wrapped(torch.from_numpy(x[rows])), torch.from_numpy(y[rows])).backward()
        getattr(adapters, finish)(ddp_model=wrapped, optimizer=optimizer)
        answer["messages"] = [at_last_layer[-1] - before, num_collectives() - before]
        optimizer.step()
        answer["after"].append([array(p) for p in module.parameters()])
    return answer


def sharded_optimizer(adapters: Any, inputs: Inputs) -> dict[str, Any]:
    """Steps on given gradients; parameters after each step, and the size of the state on each process."""
    return {"ranks": in_processes(_step_sharded, WORLD_SIZE, adapters, inputs)}


def _step_sharded(rank: int, world_size: int, adapters: Any, inputs: Inputs) -> dict[str, Any]:
    import torch

    made = []

    class Watched(getattr(torch.optim, inputs["optimizer"])):  # type: ignore[misc]
        def __init__(self, *arguments: Any, **settings: Any) -> None:
            super().__init__(*arguments, **settings)
            made.append(self)

    parameters = [torch.nn.Parameter(torch.from_numpy(value.copy())) for value in inputs["start"]]
    late = [parameters[number] for number in inputs["late"]]
    groups = [{"params": [parameters[n] for n in numbers], **more} for numbers, more in inputs["groups"]]
    optimizer = adapters.get_sharded_optimizer(groups, Watched, **inputs["settings"])
    answer: dict[str, Any] = {"after": [], "cleared": True}
    for step, gradients in enumerate(inputs["gradients"]):
        if late and step == inputs["late_step"]:
            optimizer.add_param_group({"params": late, "lr": inputs["late_rate"]})
        if inputs["rates"]:
            optimizer.param_groups[0]["lr"] = inputs["rates"][step]
        optimizer.zero_grad()
        seen = parameters if step >= inputs["late_step"] else [p for p in parameters if not any(p is q for q in late)]
        answer["cleared"] &= all(p.grad is None or not p.grad.any() for p in seen)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = None if gradient is None else torch.from_numpy(gradient.copy())
        optimizer.step()
        answer["after"].append([array(p) for p in parameters])
    answer["state"] = sum(_numbers_in(optimizer.state) for optimizer in made)
    return answer


def _numbers_in(state: Any) -> int:
    """Numbers held per parameter in the state of an optimizer; the counts of steps aside."""
    values = [value for entry in state.values() for value in entry.values()]
    return sum(int(value.numel()) for value in values if hasattr(value, "numel") and value.dim() > 0)


def fsdp(adapters: Any, inputs: Inputs) -> dict[str, Any]:
    """Train sharded; the whole parameters at the end, what each process holds, its gradients' types."""
    return {"ranks": in_processes(_train_fsdp, WORLD_SIZE, adapters, inputs)}


def language_model(model: Any, vocab: int, width: int, hidden: int) -> Any:
    """Embedding, norm, two linear layers and a head, of the classes of a module like cs336_basics.model."""
    import torch

    class Small(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = model.Embedding(vocab, width)
            self.norm = model.RMSNorm(width)
            self.up = model.Linear(width, hidden)
            self.down = model.Linear(hidden, width)
            self.head = model.Linear(width, vocab)

        def forward(self, ids: Any) -> Any:
            x = self.norm(self.table(ids))
            return self.head(x + self.down(torch.relu(self.up(x))))

    return Small()


def _train_fsdp(rank: int, world_size: int, adapters: Any, inputs: Inputs) -> dict[str, Any]:
    import torch

    module = language_model(importlib.import_module("cs336_basics.model"), *inputs["sizes"])
    fill(module, inputs["start"])
    half = inputs["half"]
    wrapped = adapters.get_fsdp(module, compute_dtype=torch.float16 if half else None)
    optimizer = torch.optim.SGD(wrapped.parameters(), lr=inputs["lr"])
    answer: dict[str, Any] = {"names": [name for name, _ in module.named_parameters()], "kinds": [], "logits": ""}
    for ids, targets in zip(inputs["ids"], inputs["targets"], strict=True):
        rows = np.array_split(np.arange(len(ids)), world_size)[rank]
        optimizer.zero_grad()
        logits = wrapped(torch.from_numpy(ids[rows]))
        answer["logits"] = str(logits.dtype)
        loss = torch.nn.functional.cross_entropy(
            logits.float().flatten(0, -2), torch.from_numpy(targets[rows]).flatten()
        )
        loss.backward()
        adapters.fsdp_on_after_backward(fsdp_model=wrapped, optimizer=optimizer)
        answer["kinds"] += [f"{p.dtype} {None if p.grad is None else p.grad.dtype}" for p in module.parameters()]
        optimizer.step()
    answer["held"] = [int(p.numel()) for p in module.parameters()]
    full = adapters.fsdp_gather_full_params(fsdp_model=wrapped)
    answer["full"] = {name: array(value) for name, value in full.items()}
    answer["kinds"] = sorted(set(answer["kinds"]))
    return answer


DRIVERS: dict[str, Callable[[Any, Inputs], dict[str, Any]]] = {
    function.__name__: function for function in (data_parallel, sharded_optimizer, fsdp)
}
