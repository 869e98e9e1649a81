"""The vocabulary cut over ranks: an embedding and a cross-entropy of which each rank holds vocab / n rows.

    embedding       own rows for own ids, zeros for the others, then all-reduce
    cross-entropy   loss = ln sum_v exp(x_v - m) + m - x_target;   dx = softmax(x) - onehot(target)

The loss needs three all-reduces of one number per token (the maximum m, the sum of exponentials, the target's logit),
however large the vocabulary; its gradient needs none, since a rank's slice of the softmax is made from its own logits.

Shoeybi et al. 2019 (Megatron-LM), section 3. Left out: the head's matrix product (`tensor_parallel.py`). Read next:
`pipeline_parallel.py`.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from cs336_basics.layers import Embedding
from cs336_basics.nn_utils import upcast
from cs336_systems.parallel.tensor_parallel import Group, own_shard, reduce_from_group


class VocabParallelEmbedding(nn.Module):
    """This rank's rows of an `Embedding`; the result is whole on every rank."""

    shard_dims = {"weight": 0}

    def __init__(self, embedding: Embedding, group: Group = None):
        super().__init__()
        self.group, self.num_embeddings = group, embedding.weight.shape[0]
        self.weight = own_shard(embedding.weight, 0, group)

    def forward(self, token_ids: Int[Tensor, "..."]) -> Float[Tensor, "... d_model"]:
        """Look up each id.

        Raises:
            IndexError: an id outside the table (which no rank would own, so that it would give zeros); on a GPU the
                check waits for the device.
        """
        if token_ids.numel() and not (0 <= token_ids.min() and token_ids.max() < self.num_embeddings):
            raise IndexError(
                f"token ids must lie in [0, {self.num_embeddings}); got {int(token_ids.min())}..{int(token_ids.max())}"
            )
        local, owned = _local_index(token_ids, self.weight.shape[0], self.group)
        rows = self.weight[local] * owned.unsqueeze(-1).to(self.weight.dtype)
        return reduce_from_group(rows, self.group)


def _local_index(ids: Tensor, rows: int, group: Group) -> tuple[Tensor, Tensor]:
    """(row on this rank, or 0; whether the id is this rank's)."""
    local = ids - rows * dist.get_rank(group)
    owned = (local >= 0) & (local < rows)
    return torch.where(owned, local, 0), owned


class _VocabParallelCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, group: Group) -> Tensor:
        top = logits.amax(dim=-1, keepdim=True)
        dist.all_reduce(top, op=dist.ReduceOp.MAX, group=group)
        exps = (logits - top).exp_()
        total = exps.sum(dim=-1, keepdim=True)
        dist.all_reduce(total, group=group)
        local, owned = _local_index(targets.unsqueeze(-1), logits.shape[-1], group)
        target_logit = (logits - top).gather(-1, local) * owned
        dist.all_reduce(target_logit, group=group)
        ctx.save_for_backward(exps, total, local, owned)
        return (total.log() - target_logit).squeeze(-1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        exps, total, local, owned = ctx.saved_tensors
        d_loss = grads[0].unsqueeze(-1)
        return (exps * (d_loss / total)).scatter_add_(-1, local, -d_loss * owned), None, None


def vocab_parallel_cross_entropy(
    logits: Float[Tensor, "*batch vocab_local"], targets: Int[Tensor, "*batch"], group: Group = None
) -> Float[Tensor, ""]:
    """Mean negative log-likelihood in nats, the same on every rank, from each rank's slice of the logits.

    Args:
        logits: this rank's slice, in rank order; half precision is computed in float32.
        targets: ids in [0, vocab), the same on all ranks.

    Raises:
        ValueError: shapes that do not belong together, or a target outside the vocabulary.
    """
    if logits.shape[:-1] != targets.shape:
        raise ValueError(
            f"cross-entropy needs targets of shape {tuple(logits.shape[:-1])}, the logits' shape without its last "
            f"(vocab) axis; got {tuple(targets.shape)}"
        )
    vocab = logits.shape[-1] * dist.get_world_size(group)
    if targets.numel() and not (0 <= targets.min() and targets.max() < vocab):
        raise ValueError(f"targets must lie in [0, {vocab}); got {int(targets.min())}..{int(targets.max())}")
    return _VocabParallelCrossEntropy.apply(upcast(logits), targets.long(), group).mean()
