"""The TransformerLM with its sequence cut over ranks: ring attention inside, everything else token by token.

Only attention looks at other tokens. So each rank runs the whole model on its own tokens with their true positions,
and attention alone communicates. Every rank holds all weights; each has the gradient of the mean loss over its own
tokens, and since all hold equally many, the mean of these gradients over the ranks is the whole batch's: to the
gradients, a context-parallel group is a data-parallel one.

    local_inputs  = shard_sequence(inputs, layout)
    loss          = cross_entropy(parallel(local_inputs), shard_sequence(targets, layout))
    loss.backward();  ddp.finish_gradient_synchronization()          with ddp = DDPBucketed(parallel)

Left out: dropout, attention variants, decoding with a cache. Read next: `activation_checkpointing.py`.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from cs336_basics import nn_utils
from cs336_basics.model import CausalMultiHeadSelfAttention, TransformerLM
from cs336_systems.parallel.activation_checkpointing import run_plan
from cs336_systems.parallel.checkpointing_plan import plan_none
from cs336_systems.parallel.context_parallel import Layout, own_positions, ring_attention
from cs336_systems.parallel.tensor_parallel import Group, check_plain


def shard_sequence(
    x: Int[Tensor, "batch seq *rest"], layout: Layout = "zigzag", *, group: Group = None
) -> Int[Tensor, "batch local *rest"]:
    """This rank's tokens of a batch."""
    return x[:, own_positions(x.shape[1], layout, group=group).to(x.device)]


def gather_sequence(local: Tensor, layout: Layout = "zigzag", *, group: Group = None) -> Tensor:
    """The inverse of `shard_sequence`: each rank's (batch, local, ...) -> (batch, seq, ...) on all; no gradient."""
    n, local = dist.get_world_size(group), local.detach().contiguous()
    parts = [torch.empty_like(local) for _ in range(n)]
    dist.all_gather(parts, local, group=group)
    positions = own_positions(n * local.shape[1], layout, group=group).to(local.device)
    orders = [torch.empty_like(positions) for _ in range(n)]
    dist.all_gather(orders, positions, group=group)
    return torch.cat(parts, dim=1)[:, torch.cat(orders).argsort()]


class RingSelfAttention(CausalMultiHeadSelfAttention):
    """`CausalMultiHeadSelfAttention` that, while `ring` is set, sees a sequence which the ranks of a group share."""

    ring: tuple[Layout, Group] | None = None

    def forward(
        self,
        x: Float[Tensor, "... seq d_model"],
        token_positions: Int[Tensor, "... seq"] | None = None,
        cache: Any = None,
    ) -> Float[Tensor, "... seq d_model"]:
        """Attend from the own tokens, at their positions in the whole sequence, to all earlier ones."""
        if self.ring is None:
            return super().forward(x, token_positions, cache)
        assert cache is None and token_positions is not None
        layout, group = self.ring
        q, k, v = (
            rearrange(project(x), "... seq (heads d_k) -> ... heads seq d_k", heads=self.num_heads)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        if self.positional_encoder is not None:
            q, k = self.positional_encoder(q, token_positions), self.positional_encoder(k, token_positions)
        heads = ring_attention(q, k, v, layout=layout, group=group)
        return self.output_proj(rearrange(heads, "... heads seq d_k -> ... seq (heads d_k)"))


class _OnTheRing(nn.Module):
    """A block at given positions whose attention goes round the ring, also when it is run again in backward."""

    def __init__(self, layer: Any, positions: Tensor, ring: tuple[Layout, Group]):
        super().__init__()
        self.layer, self.positions, self.ring = layer, positions, ring

    def forward(self, x: Tensor) -> Tensor:
        self.layer.attn.ring = self.ring
        try:
            return self.layer(x, self.positions)
        finally:
            self.layer.attn.ring = None


class ContextParallelLM(nn.Module):
    """A TransformerLM that takes this rank's tokens and gives their logits.

    It holds the model as `.module`, whose names stay; called by itself, the model works on whole sequences as ever.
    A plan for activation checkpointing that the model has is followed.

    Raises:
        ValueError: dropout, or a variant in which more than plain attention looks at other tokens.
    """

    def __init__(self, model: TransformerLM, *, layout: Layout = "zigzag", group: Group = None):
        super().__init__()
        check_plain(model.config, "context parallelism")
        blocks: list[Any] = list(model.layers)
        for layer in blocks:
            layer.attn.__class__ = RingSelfAttention
        self.module, self.layout, self.group = model, layout, group

    def forward(self, token_ids: Int[Tensor, "batch local"]) -> Float[Tensor, "batch local vocab"]:
        """Logits after each of this rank's tokens, as `shard_sequence` picked them.

        Raises:
            ValueError: the sequence of all ranks together is longer than context_length.
        """
        model, seq = self.module, token_ids.shape[1] * dist.get_world_size(self.group)
        if seq > model.config.context_length:
            raise ValueError(
                f"the model sees at most context_length={model.config.context_length} tokens; got {seq} over all ranks"
            )
        positions = own_positions(seq, self.layout, group=self.group).to(token_ids.device)
        layers = [_OnTheRing(layer, positions, (self.layout, self.group)) for layer in model.layers]
        plan = getattr(model, "plan", plan_none(len(layers))) if torch.is_grad_enabled() else plan_none(len(layers))
        x = run_plan(plan, layers, model._embed(token_ids, positions))
        logits, cap = model.lm_head(model.ln_final(x)), model.config.logit_softcap
        return logits if cap is None else nn_utils.softcap(logits, cap)
