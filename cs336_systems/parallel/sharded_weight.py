"""A weight of which each process holds some rows: gather all rows when they are needed, scatter its gradient.

    shard r = rows r R .. (r+1) R - 1,  R = ceil(rows / world_size); the last shards are padded with zeros

`gathered` is a differentiable function: forward is an all-gather (after a cast to the dtype of the computation, so that
half precision sends half as much), backward a reduce-scatter of the mean in the dtype of the shard. The scatter runs
beside the rest of backward and is added to the shard's gradient by `settle`, or before the next one of this weight.

Gathers can be started early (`start_gather`). What was gathered before an update of the shard is never used after it:
the shard's version counter tells. Read next: `fsdp.py`.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from cs336_systems.parallel.process_group import all_gather_rows, reduce_scatter_rows


class ShardedWeight:
    """One weight, shared by all modules it is tied to; `parameter` is what this process keeps and optimizes."""

    def __init__(self, weight: nn.Parameter):
        self.shape, self.world = weight.shape, dist.get_world_size()
        self.rows_per_process = -(-weight.shape[0] // self.world)
        self.parameter = nn.Parameter(self.own_rows(weight.detach()), requires_grad=weight.requires_grad)
        self.needed_in_backward = False  # learnt in forward: a lookup's gradient does not depend on the table
        self._gathering: tuple[tuple[Any, ...], Tensor, Any] | None = None
        self._scattering: tuple[Tensor, Tensor, Any] | None = None

    def own_rows(self, full: Tensor) -> Tensor:
        """A copy of this process's rows of a tensor of the full shape."""
        first = dist.get_rank() * self.rows_per_process
        rows = full.new_zeros((self.rows_per_process, *full.shape[1:]))
        own = full[first : first + self.rows_per_process]
        rows[: len(own)] = own
        return rows

    def all_rows(self, rows: Tensor) -> Tensor:
        """The full tensor of which every process gives its rows (the weight, or a moment of an optimizer)."""
        return all_gather_rows(rows.detach())[0][: self.shape[0]]

    def _key(self, dtype: torch.dtype) -> tuple[Any, ...]:
        return dtype, self.parameter._version, self.parameter.data_ptr()

    def start_gather(self, dtype: torch.dtype) -> None:
        """Begin to gather all rows in `dtype`, unless that is under way or done."""
        if self._gathering is None or self._gathering[0] != self._key(dtype):
            rows = self.parameter.detach().to(dtype)
            self._gathering = (self._key(dtype), *all_gather_rows(rows, async_op=True))

    def full(self, dtype: torch.dtype) -> Tensor:
        """All rows, without gradient; they stay in memory until `release`."""
        self.start_gather(dtype)
        assert self._gathering is not None
        key, rows, work = self._gathering
        if work is not None:
            work.wait()
            self._gathering = (key, rows, None)
        return rows[: self.shape[0]]

    def release(self) -> None:
        """Let go of the gathered rows; one under way is awaited first."""
        if self._gathering is not None and self._gathering[2] is not None:
            self._gathering[2].wait()
        self._gathering = None

    def gathered(self, dtype: torch.dtype) -> Tensor:
        """All rows as a differentiable function of the shard; nothing but the caller keeps them in memory."""
        return _Gather.apply(self.parameter, self, dtype)

    def scatter_gradient(self, grad: Tensor) -> None:
        """Begin to give every process its rows of the mean of `grad` over the processes."""
        self.settle()
        mean = grad.to(self.parameter.dtype).div(self.world)
        missing = self.rows_per_process * self.world - self.shape[0]
        if missing:
            mean = torch.cat((mean, mean.new_zeros((missing, *self.shape[1:]))))
        self._scattering = (mean, *reduce_scatter_rows(mean, async_op=True))

    def settle(self) -> None:
        """Wait for the scatter under way and add what came to the shard's gradient."""
        if self._scattering is None:
            return
        _, rows, work = self._scattering
        work.wait()
        self._scattering = None
        self.parameter.grad = rows if self.parameter.grad is None else self.parameter.grad.add_(rows)


class _Gather(torch.autograd.Function):
    """shard -> full weight; see `ShardedWeight.gathered`."""

    @staticmethod
    def forward(ctx: Any, shard: Tensor, weight: ShardedWeight, dtype: torch.dtype) -> Tensor:
        ctx.weight = weight
        full = weight.full(dtype)
        weight.release()
        return full

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, None, None]:
        ctx.weight.release()
        ctx.weight.scatter_gradient(grads[0])
        return None, None, None
