"""Tensor parallelism: every matrix of the model is cut over n ranks, every rank sees every token.

    column-parallel   y_i = x W_i^T            W cut by output rows; x whole, y cut along its last axis
    row-parallel      y = sum_i x_i W_i^T      W cut by input columns; x cut, y whole after an all-reduce

A column-parallel map followed by a row-parallel one needs a single all-reduce, and nothing in between notices the cut
as long as it works element by element or head by head: q, k, v then output_proj (each rank has num_heads / n heads);
w1 and w3 then w2. Two functions that are each other's gradient place the communication (f and g in Megatron-LM):

    copy_to_group       forward: nothing        backward: all-reduce of the input's gradient
    reduce_from_group   forward: all-reduce     backward: nothing

The vocabulary is cut as well: a rank embeds the ids of its own rows (others give zeros, then all-reduce), and its slice
of the head gives its slice of the logits, over which `vocab_parallel_cross_entropy` is exact without gathering them.

Shoeybi et al. 2019 (Megatron-LM), section 3; handout (2026): tp_calcs. Left out: dropout (its random masks would have
to agree on the stream and differ on the heads), attention variants, sequence parallelism of the norms. Read next:
`vocab_parallel.py`, `pipeline_parallel.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn

from cs336_basics.layers import Linear, SwiGLU
from cs336_basics.model import TransformerLM
from cs336_basics.model_config import ModelConfig

Group = dist.ProcessGroup | None
"""None is the group of all ranks"""


class _CopyToGroup(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Group) -> Tensor:
        ctx.group = group
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        grad = grads[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(grad, group=ctx.group)
        return grad, None


class _ReduceFromGroup(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Group) -> Tensor:
        total = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None


def copy_to_group(x: Float[Tensor, "..."], group: Group = None) -> Float[Tensor, "..."]:
    """`x`, the same on all ranks, as input of work that differs by rank: its gradient is the sum over the ranks."""
    return _CopyToGroup.apply(x, group)


def reduce_from_group(x: Float[Tensor, "..."], group: Group = None) -> Float[Tensor, "..."]:
    """Sum of `x` over the ranks, for work that is the same on all of them: the gradient passes through unchanged."""
    return _ReduceFromGroup.apply(x, group)


def own_shard(full: Tensor, dim: int, group: Group = None) -> nn.Parameter:
    """This rank's slice of `full` along `dim`, as a new parameter.

    Raises:
        ValueError: the group's size does not divide that axis.
    """
    n, rank = dist.get_world_size(group), dist.get_rank(group)
    if full.shape[dim] % n:
        raise ValueError(
            f"tensor parallelism over {n} ranks cuts an axis of {full.shape[dim]} (weight of shape "
            f"{tuple(full.shape)}) into equal parts; choose a size that {n} divides, or fewer ranks"
        )
    part = full.detach().chunk(n, dim=dim)[rank].clone(memory_format=torch.contiguous_format)
    return nn.Parameter(part, requires_grad=full.requires_grad)


class ColumnParallelLinear(nn.Module):
    """This rank's output columns of a `Linear`: x (..., d_in) -> (..., d_out / n), in the order of ranks.

    `input_is_copied`: the caller has already passed x through `copy_to_group`, as attention does once for q, k and v.
    """

    shard_dims = {"weight": 0, "bias": 0}

    def __init__(self, linear: Linear, group: Group = None, *, input_is_copied: bool = False):
        super().__init__()
        self.group, self.input_is_copied = group, input_is_copied
        self.weight = own_shard(linear.weight, 0, group)
        self.bias = None if linear.bias is None else own_shard(linear.bias, 0, group)

    def forward(self, x: Float[Tensor, "... d_in"]) -> Float[Tensor, "... d_out_local"]:
        """Multiply the last axis by the own rows of the weight."""
        x = x if self.input_is_copied else copy_to_group(x, self.group)
        y = x @ self.weight.T
        return y if self.bias is None else y + self.bias


class RowParallelLinear(nn.Module):
    """This rank's input columns of a `Linear`: x (..., d_in / n) -> (..., d_out), the sum over all ranks.

    A bias is whole on every rank and is added after the sum.
    """

    shard_dims = {"weight": 1}

    def __init__(self, linear: Linear, group: Group = None):
        super().__init__()
        self.group = group
        self.weight = own_shard(linear.weight, 1, group)
        self.bias = linear.bias

    def forward(self, x: Float[Tensor, "... d_in_local"]) -> Float[Tensor, "... d_out"]:
        """Multiply the own part of the last axis, then add up over the ranks."""
        y = reduce_from_group(x @ self.weight.T, self.group)
        return y if self.bias is None else y + self.bias


def tensor_parallel(model: TransformerLM, group: Group = None) -> TransformerLM:
    """Cut a model over a group, in place: it keeps its names, but holds and updates this rank's shards.

    Every rank calls it with the same weights. The model then returns this rank's slice of the logits, (..., seq,
    vocab / n): take the loss by `vocab_parallel_cross_entropy`, or all logits by `gather_logits`. Each gradient is
    complete after backward, that of a shard on its rank and that of a norm on all ranks. Give the optimizer the
    parameters after this call. Clip by `process_group.clip_sharded_gradients`; save what `gather_parameters` returns.

    Raises:
        ValueError: a size that n does not divide, dropout, or a variant whose parts cannot be cut this way.
    """
    from cs336_systems.parallel.vocab_parallel import VocabParallelEmbedding

    check_can_cut(model.config, dist.get_world_size(group))
    tied = model.config.tie_embeddings
    model.token_embeddings = VocabParallelEmbedding(model.token_embeddings, group)  # type: ignore[assignment]
    model.lm_head = ColumnParallelLinear(model.lm_head, group)  # type: ignore[assignment]
    if tied:
        model.lm_head.weight = model.token_embeddings.weight
    blocks: list[Any] = list(model.layers)
    for layer in blocks:
        attention, ffn = layer.attn, layer.ffn
        attention.num_heads //= dist.get_world_size(group)
        _cut(attention, ("q_proj", "k_proj", "v_proj"), "output_proj", group)
        _cut(ffn, ("w1", "w3") if isinstance(ffn, SwiGLU) else ("w1",), "w2", group)
    return model


def _cut(module: nn.Module, columns: tuple[str, ...], row: str, group: Group) -> None:
    """Cut the linear maps of attention or a feed-forward; its input is copied once for all of them."""
    for name in columns:
        setattr(module, name, ColumnParallelLinear(getattr(module, name), group, input_is_copied=True))
    setattr(module, row, RowParallelLinear(getattr(module, row), group))
    module.register_forward_pre_hook(lambda _, inputs: (copy_to_group(inputs[0], group), *inputs[1:]))


def check_can_cut(config: ModelConfig, n: int) -> None:
    """Raise a ValueError unless a model of this config can be cut over `n` ranks."""
    check_plain(config, "tensor parallelism")
    for name in ("num_heads", "d_ff", "vocab_size"):
        if getattr(config, name) % n:
            raise ValueError(
                f"tensor parallelism over {n} ranks needs {name} to be a multiple of {n}; got {getattr(config, name)}; "
                f"choose {-(-getattr(config, name) // n) * n}, or fewer ranks"
            )


def check_plain(config: ModelConfig, what: str) -> None:
    """Raise a ValueError for configs with dropout, mixtures of experts, or attention that is not model.py's."""
    reasons = {
        "dropout": config.attn_pdrop or config.residual_pdrop,
        "a mixture of experts": config.moe is not None,
        "a feed-forward variant": config.ffn not in ("swiglu", "gelu", "silu", "relu"),
        "an attention variant": not all(map(config.has_plain_attention, range(config.num_layers))),
        "a stream shared between layers": config.changes_the_stream,
    }
    for reason, holds in reasons.items():
        if holds:
            raise ValueError(f"{what} is written for the plain TransformerLM; this config has {reason}; remove it")


def gather_logits(logits: Float[Tensor, "... vocab_local"], group: Group = None) -> Float[Tensor, "... vocab"]:
    """All logits on every rank; the gradient takes the own slice. For generation and tests."""
    return _GatherLastAxis.apply(logits, group)


class _GatherLastAxis(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Group) -> Tensor:
        ctx.group = group
        return torch.cat(_all_gather(x, group), dim=-1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        n, rank = dist.get_world_size(ctx.group), dist.get_rank(ctx.group)
        return grads[0].chunk(n, dim=-1)[rank].contiguous(), None


def whole_of_shards(shard: Tensor, dim: int, group: Group = None) -> Tensor:
    """The tensor of which each rank gives its slice along `dim`."""
    return torch.cat(_all_gather(shard, group), dim=dim)


def _all_gather(x: Tensor, group: Group) -> list[Tensor]:
    """`x` of every rank, in rank order."""
    parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(dist.get_world_size(group))]
    dist.all_gather(parts, x.contiguous(), group=group)
    return parts


def shard_dims(model: nn.Module) -> dict[str, int]:
    """Name of each cut parameter -> the axis along which it is cut."""
    return {
        f"{prefix}.{name}" if prefix else name: dim
        for prefix, module in model.named_modules()
        for name, dim in getattr(module, "shard_dims", {}).items()
        if getattr(module, name) is not None
    }


@torch.no_grad()
def gather_parameters(
    model: nn.Module, group: Group = None, *, value: Callable[[Tensor], Tensor | None] = lambda p: p
) -> dict[str, Tensor]:
    """Whole parameters by the names of the uncut model's state dict (a tied table under both its names).

    Args:
        model: what `tensor_parallel` made; every rank calls.
        value: what to gather of a parameter, such as its gradient (`lambda p: p.grad`); None is left out, and must be
            None on all ranks.
    """
    dims = shard_dims(model)
    full = {}
    for name, p in model.named_parameters(remove_duplicate=False):
        part = value(p)
        if part is not None:
            full[name] = whole_of_shards(part, dims[name], group) if name in dims else part.clone()
    return full
