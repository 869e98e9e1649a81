"""Data parallel: every process has the whole model and its own part of the batch, and gradients are averaged.

    grad = sum over processes of grad_r / world_size         (each loss is the mean over a part of equal size)

Four ways to send the gradients, all with the same result:

    NaiveDDP      one all-reduce per parameter, after backward
    FlatDDP       one all-reduce of all gradients glued together, after backward
    DDP           one all-reduce per parameter, started by a hook as soon as backward has finished its gradient
    DDPBucketed   the same for buckets of several parameters: fewer, larger messages, still during backward

All four are buckets of parameters that differ in size and in the moment of launch. Backward finishes the last layers
first, so buckets are filled in reverse order of `parameters()`. They are launched in index order on every process, else
two processes could wait for each other's wrong bucket; a bucket that is ready early waits for its turn. A bucket holds
one dtype on one device. Its gradients become views of one buffer, so that nothing is copied back.

A parameter that no process used keeps the gradient None, as in a single process; one that only some used gets the mean
with zeros. Tied weights are one parameter: their hook fires once, after both uses are added. Frozen parameters and
buffers are sent once, at the start; persistent buffers (running statistics) take rank 0's values after each backward.

Handout: naive_ddp, minimal_ddp_flat_benchmarking, ddp_overlap_individual_parameters, ddp_overlap_bucketed. Left out:
sparse gradients, double backward. Read next: `sharded_optimizer.py`.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from cs336_systems.parallel.process_group import broadcast_tensors, check_same_module, control_device, require_group


class Bucket:
    """Parameters whose gradients travel in one message.

    Args:
        parameters: of one dtype on one device.
        owner: the process that gets the mean; None for all of them.
    """

    def __init__(self, parameters: list[Tensor], owner: int | None = None):
        self.parameters, self.owner = parameters, owner
        self.missing = {id(p) for p in parameters}  # gradients that backward has not finished yet
        self.work: Any = None
        self.launched = False

    def launch(self) -> None:
        """Begin to average; a parameter without gradient counts as zeros."""
        self.launched = True
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters]
        if any(grad.layout != torch.strided for grad in grads):
            raise TypeError("sparse gradients cannot be averaged here; build the embedding with sparse=False")
        if len(grads) == 1:
            buffer = grads[0].contiguous()
            views = [buffer]
        else:
            buffer = torch.cat([g.reshape(-1) for g in grads])
            parts = buffer.split([p.numel() for p in self.parameters])
            views = [part.view(p.shape) for part, p in zip(parts, self.parameters, strict=True)]
        for p, view in zip(self.parameters, views, strict=True):
            p.grad = view
        buffer.div_(dist.get_world_size())
        if self.owner is None:
            self.work = dist.all_reduce(buffer, async_op=True)
        else:
            self.work = dist.reduce(buffer, dst=self.owner, async_op=True)

    def wait(self) -> None:
        """Return when the mean is there, and make ready for the next backward; others than the owner drop theirs."""
        if self.work is not None:
            self.work.wait()
        if self.owner is not None and self.owner != dist.get_rank():
            for p in self.parameters:
                p.grad = None
        self.work, self.launched = None, False
        self.missing = {id(p) for p in self.parameters}


def fill_buckets(
    parameters: Iterable[Tensor], *, bucket_bytes: int | float, owner: Callable[[Tensor], int | None] = lambda p: None
) -> list[Bucket]:
    """Cut the parameters, in reverse order, into buckets of at most `bucket_bytes` and one dtype, device and owner.

    A parameter larger than the limit gets a bucket of its own. With 0 each parameter does.
    """
    filling: dict[tuple[Any, ...], list[Tensor]] = {}
    buckets: list[list[Tensor]] = []
    backward_order = list(reversed(list(parameters)))
    for p in backward_order:
        kind = (p.dtype, p.device, owner(p))
        if kind not in filling or sum(q.nbytes for q in filling[kind]) + p.nbytes > bucket_bytes:
            filling[kind] = []
            buckets.append(filling[kind])
        filling[kind].append(p)
    position = {id(p): index for index, p in enumerate(backward_order)}
    buckets.sort(key=lambda bucket: position[id(bucket[-1])])  # by when they are full
    return [Bucket(bucket, owner(bucket[0])) for bucket in buckets]


def forget_unused(parameters: Sequence[Tensor], used: list[bool]) -> None:
    """Give the parameters that no process has used their None back; `used` says which had a gradient here."""
    if not parameters:
        return
    counts = torch.tensor(used, dtype=torch.int32, device=control_device())
    dist.all_reduce(counts)
    for p, count in zip(parameters, counts.tolist(), strict=True):
        if not count:
            p.grad = None


def persistent_buffers(module: nn.Module) -> list[Tensor]:
    """The buffers that are part of the module's state dict."""
    kept = {id(value) for value in module.state_dict(keep_vars=True).values()}
    return [b for b in module.buffers() if id(b) in kept]


class DataParallel(nn.Module):
    """What the four have in common: call it as the module, then `finish_gradient_synchronization` after each backward.

    Args:
        module: the module; afterwards every process has rank 0's parameters and buffers.
        buckets: makes the buckets from the trainable parameters.
        overlap: launch buckets during backward.

    Raises:
        RuntimeError: there is no process group.
        ValueError: the processes hold different modules, or tensors where the group cannot send them.
    """

    def __init__(self, module: nn.Module, buckets: Callable[[Iterable[Tensor]], list[Bucket]], *, overlap: bool):
        super().__init__()
        require_group()
        check_same_module(module)
        self.module = module
        broadcast_tensors([*module.parameters(), *module.buffers()])
        self._shared_buffers = persistent_buffers(module)
        self._parameters_to_send = [p for p in module.parameters() if p.requires_grad]
        self._buckets = buckets(self._parameters_to_send)
        self._overlap, self._synchronize, self._launched = overlap, True, 0
        bucket_of = {id(p): bucket for bucket in self._buckets for p in bucket.parameters}
        for p in self._parameters_to_send if overlap else []:
            p.register_post_accumulate_grad_hook(functools.partial(self._gradient_ready, bucket_of[id(p)]))

    def forward(self, *inputs: Any, **kwargs: Any) -> Any:
        """The module's own."""
        return self.module(*inputs, **kwargs)

    def __getattr__(self, name: str) -> Any:
        """Whatever the wrapper lacks is the module's."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("module"), name)

    @contextlib.contextmanager
    def no_sync(self) -> Iterator[None]:
        """Backward inside only adds up gradients here; the first backward outside sends the sums."""
        before, self._synchronize = self._synchronize, False
        try:
            yield
        finally:
            self._synchronize = before

    def _gradient_ready(self, bucket: Bucket, p: Tensor) -> None:
        """Called by backward when the gradient of `p` is complete."""
        if not self._synchronize:
            return
        if bucket.launched:
            raise RuntimeError(
                "a second backward changes gradients that are being sent; call finish_gradient_synchronization() after "
                "each backward, or run all but the last inside no_sync()"
            )
        bucket.missing.discard(id(p))
        while self._launched < len(self._buckets) and not self._buckets[self._launched].missing:
            self._buckets[self._launched].launch()
            self._launched += 1

    @torch.no_grad()
    def finish_gradient_synchronization(self) -> None:
        """Send what is left and wait for all; every gradient is then the mean over the processes."""
        used = [p.grad is not None for p in self._parameters_to_send]
        for bucket in self._buckets[self._launched :]:
            bucket.launch()
            if not self._overlap:
                bucket.wait()
        for bucket in self._buckets if self._overlap else []:
            bucket.wait()
        self._launched = 0
        forget_unused(self._parameters_to_send, used)
        broadcast_tensors(self._shared_buffers)

    @torch.no_grad()
    def start_batch(self) -> None:
        """Forget a backward whose gradients were never finished; needed only after an error or an abandoned batch."""
        for bucket in self._buckets:
            bucket.wait()
        self._launched = 0


class NaiveDDP(DataParallel):
    """One all-reduce after the other when backward is done."""

    def __init__(self, module: nn.Module):
        super().__init__(module, lambda ps: fill_buckets(ps, bucket_bytes=0), overlap=False)


class FlatDDP(DataParallel):
    """One all-reduce of everything (per dtype) when backward is done."""

    def __init__(self, module: nn.Module):
        super().__init__(module, lambda ps: fill_buckets(ps, bucket_bytes=float("inf")), overlap=False)


class DDP(DataParallel):
    """One all-reduce per parameter, during backward."""

    def __init__(self, module: nn.Module):
        super().__init__(module, lambda ps: fill_buckets(ps, bucket_bytes=0), overlap=True)


class DDPBucketed(DataParallel):
    """Buckets of at most `bucket_size_mb` (10^6 bytes; None for no limit), during backward."""

    def __init__(self, module: nn.Module, bucket_size_mb: float | None = 25.0):
        if bucket_size_mb is not None and not bucket_size_mb > 0:
            raise ValueError(f"bucket_size_mb must be above 0, or None for one bucket; got {bucket_size_mb}")
        limit = float("inf") if bucket_size_mb is None else bucket_size_mb * 1e6
        super().__init__(module, lambda ps: fill_buckets(ps, bucket_bytes=limit), overlap=True)
