"""Wrong sharded optimizers and FSDP wrappers, as deviations (`how`) of a small right one each; "" is right.

Read next: `scaling_fits.py`.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from cs336_course.misconceptions.bank import Misconception, wrong


def bank() -> list[Misconception]:
    """All entries of this file."""
    return [*_optimizers(), *_fsdp()]


class Sharded(torch.optim.Optimizer):
    """Parameter i belongs to process i modulo their number, or not quite."""

    def __init__(self, params: Any, cls: Any, how: str, settings: dict[str, Any]) -> None:
        self.how, self.cls, self.settings = how, cls, settings
        self.owner: dict[int, int] = {}
        self.inner: Any = None
        super().__init__(params, settings)
        shares = [{**group, "params": self._share(group)} for group in self.param_groups]
        if how == "settings-lost":
            shares = [{"params": share["params"]} for share in shares]
        if how == "groups-merged":
            shares = [{"params": [p for share in shares for p in share["params"]]}]
        self.inner = cls(shares, **({} if how == "settings-lost" else settings))

    def add_param_group(self, group: dict[str, Any]) -> None:
        """Give out the parameters of a group."""
        super().add_param_group(group)
        for p in self.param_groups[-1]["params"]:
            self.owner[id(p)] = len(self.owner) % dist.get_world_size()
        if self.inner is not None and self.how != "late-ignored":
            late = self.param_groups[-1]
            share = late["params"] if self.how == "late-everywhere" else self._share(late)
            self.inner.add_param_group({**late, "params": list(share)})

    def _share(self, group: dict[str, Any]) -> list[Tensor]:
        return [p for p in group["params"] if self.how == "not-sharded" or self.owner[id(p)] == dist.get_rank()]

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget gradients."""
        if self.how == "clears-its-own":
            self.inner.zero_grad(set_to_none)
        else:
            super().zero_grad(set_to_none)

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update the own parameters and exchange them."""
        for p in [p for group in self.param_groups for p in group["params"]]:
            if self.how == "missing-is-zero" and p.grad is None:
                p.grad = torch.zeros_like(p)
            if self.how == "gradients-added" and p.grad is not None:
                dist.all_reduce(p.grad)
        if self.how not in ("rates-frozen", "groups-merged", "settings-lost"):
            for group, mine in zip(self.param_groups, self.inner.param_groups, strict=False):
                mine.update({key: value for key, value in group.items() if key != "params"})
        self.inner.step()
        for p in [p for group in self.param_groups for p in group["params"]]:
            wrong_owner = self.how == "from-the-wrong-owner"
            if self.how == "not-sent" or (self.how == "matrices-only" and p.dim() < 2):
                continue
            dist.broadcast(p.data, (self.owner[id(p)] + wrong_owner) % dist.get_world_size())


def _optimizers() -> list[Misconception]:
    def entry(how: str, says: str, example: str) -> Misconception:
        def get_sharded_optimizer(params: Any, optimizer_cls: Any, **settings: Any) -> Sharded:
            return Sharded(params, optimizer_cls, how, settings)

        return wrong("optimizer_state_sharding", how, says, example, get_sharded_optimizer=get_sharded_optimizer)

    return [
        entry("not-sent", "updated parameters are not sent to the other processes", "the parameters of the second process after a step"),
        entry("from-the-wrong-owner", "parameters are sent by a process that has not updated them", "the parameters after a step"),
        entry("matrices-only", "only matrices are sent after the update", "a bias after a step"),
        entry("not-sharded", "every process keeps the state of all parameters: right, and nothing is saved", "the size of the state on each process"),
        entry("rates-frozen", "changes of param_groups do not reach the optimizer inside", "a new lr in param_groups[0]"),
        entry("groups-merged", "the groups are merged into one, and their own settings are lost", "two groups with different lr"),
        entry("settings-lost", "settings given by keyword do not reach the optimizer inside", "lr = 0.05 beside the default"),
        entry("late-ignored", "a group added later is never updated", "add_param_group after two steps"),
        entry("late-everywhere", "a group added later is updated by every process, its state held by all", "add_param_group and the size of the state"),
        entry("clears-its-own", "zero_grad clears the gradients of the own parameters only", "two steps with the same gradients"),
        entry("gradients-added", "step adds the gradients of all processes, though they are averaged already", "SGD with equal gradients on both processes"),
        entry("missing-is-zero", "a missing gradient is taken for a gradient of 0", "a parameter without gradient, with decay"),
    ]  # fmt: skip


class _Gather(torch.autograd.Function):
    """Rows of all processes put together; backward gives each its own rows of the mean gradient, or not quite."""

    @staticmethod
    def forward(ctx: Any, shard: Tensor, rows: int, dtype: Any, how: str, kept: dict[int, Tensor]) -> Tensor:
        ctx.rows, ctx.how, ctx.shape = rows, how, shard.shape
        if how == "not-sharded":
            return shard.to(dtype)
        if how == "gathered-once" and id(shard) in kept:
            return kept[id(shard)].to(dtype)
        full = kept[id(shard)] = whole(shard, rows, how)
        return full.to(dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        grad, size = grads[0].float(), dist.get_world_size()
        if ctx.how != "local-gradients":
            dist.all_reduce(grad)
            grad = grad if ctx.how == "gradients-summed" else grad / size
        if ctx.how != "not-sharded":
            grad = own_rows(grad, ctx.how)
        return grad.reshape(ctx.shape), None, None, None, None


def own_rows(full: Tensor, how: str) -> Tensor:
    """This process's rows, the last ones padded with zeros; or not quite."""
    size = dist.get_world_size()
    rows = full.shape[0] // size if how == "last-row-lost" else -(-full.shape[0] // size)
    padded = torch.cat([full, full.new_zeros(rows * size, *full.shape[1:])])
    return padded[dist.get_rank() * rows :][:rows].clone()


def whole(shard: Tensor, rows: int, how: str) -> Tensor:
    """All rows from the shards."""
    parts = [torch.zeros_like(shard) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, shard.detach().contiguous())
    if how == "rows-in-another-order":
        parts = parts[::-1]
    full = torch.cat(parts)
    if how == "last-row-lost":
        return torch.cat([full, full.new_zeros(rows - full.shape[0], *full.shape[1:])])
    return full[:rows]


class Sharding(nn.Module):
    """FSDP of Linear and Embedding layers without any overlap, or not quite."""

    def __init__(self, module: nn.Module, dtype: torch.dtype | None, how: str) -> None:
        super().__init__()
        self.module, self.how = module, how
        self.dtype = torch.float32 if dtype is None or how == "dtype-ignored" else dtype
        self.rows: dict[int, int] = {}
        self.kept: dict[int, Tensor] = {}
        for layer in module.modules():
            if type(layer).__name__ in ("Linear", "Embedding"):
                self._shard(layer)

    def _shard(self, layer: Any) -> None:
        full = layer.weight.detach()
        shard = full.clone() if self.how == "not-sharded" else own_rows(full, self.how)
        layer.weight = nn.Parameter(
            shard.half() if self.how == "half-shards" and self.dtype != torch.float32 else shard
        )
        self.rows[id(layer.weight)] = len(full)
        linear = type(layer).__name__ == "Linear"

        def forward(x: Tensor) -> Tensor:
            weight = _Gather.apply(layer.weight, len(full), self.dtype, self.how, self.kept)
            return x.to(self.dtype) @ weight.T if linear else weight[x]

        layer.forward = forward

    def forward(self, x: Tensor) -> Tensor:
        """The module's own."""
        return self.module(x)

    def finish(self) -> None:
        """Average the gradients of what is not sharded."""
        for p in self.module.parameters():
            if id(p) not in self.rows and p.grad is not None and self.how != "norms-forgotten":
                dist.all_reduce(p.grad)
                p.grad /= 1 if self.how == "norms-summed" else dist.get_world_size()

    def full(self) -> dict[str, Tensor]:
        """All parameters in full."""
        found: dict[str, Tensor] = {}
        for name, p in self.module.named_parameters():
            rows, shown = self.rows.get(id(p)), f"module.{name}" if self.how == "names-prefixed" else name
            if rows is None or self.how == "not-sharded":
                found[shown] = p
            else:
                found[shown] = whole(p, rows + 1 if self.how == "padding-kept" else rows, self.how)
        return found


def _fsdp() -> list[Misconception]:
    def entry(how: str, says: str, example: str) -> Misconception:
        def get_fsdp(module: nn.Module, compute_dtype: torch.dtype | None = None) -> Sharding:
            return Sharding(module, compute_dtype, how)

        return wrong("fsdp", how, says, example, get_fsdp=get_fsdp,
                     fsdp_on_after_backward=lambda fsdp_model, optimizer: fsdp_model.finish(),
                     fsdp_gather_full_params=lambda fsdp_model: fsdp_model.full())  # fmt: skip

    return [
        entry("gradients-summed", "gradients of shards are summed over the processes, not averaged", "two processes with gradient 1: the mean is 1"),
        entry("local-gradients", "each process uses its own rows of its own gradient, without the others' (no reduce-scatter)", "two processes with different rows of the batch"),
        entry("norms-forgotten", "parameters that are not sharded (norms) are not averaged", "the gradient of a norm on both processes"),
        entry("norms-summed", "gradients of norms are summed, not averaged", "the gradient of a norm"),
        entry("not-sharded", "every process holds whole weights: right, and nothing is saved", "the size of a weight on each process"),
        entry("gathered-once", "weights are gathered once and not again after a step", "two steps"),
        entry("half-shards", "the shards themselves are cast to compute_dtype, so that small updates are lost", "the dtype of the parameters"),
        entry("dtype-ignored", "compute_dtype is not used", "the dtype of the logits"),
        entry("rows-in-another-order", "the gathered rows are in the order of the last process first", "fsdp_gather_full_params before any step"),
        entry("padding-kept", "rows added to make the weight divide are not cut off again", "21 rows on two processes"),
        entry("last-row-lost", "rows are divided with rounding down, and the last ones are lost", "21 rows on two processes"),
        entry("names-prefixed", "gathered parameters have the wrapper's prefix `module.`", "the names of fsdp_gather_full_params"),
    ]  # fmt: skip
