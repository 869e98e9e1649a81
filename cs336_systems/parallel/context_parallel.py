"""Context parallelism by ring attention: every rank holds a part of the sequence; keys and values travel round a ring.

Each rank keeps its queries and meets every rank's keys and values in turn, n-1 sends of K and V in all. A block of
keys gives a partial result O_b with the logsumexp L_b of its scores; two partial results merge exactly:

    L = ln(e^L1 + e^L2);   O = e^(L1-L) O1 + e^(L2-L) O2

Backward (from O and L alone, as FlashAttention-2): P = e^(S-L); dV = P^T dO; dS = P * (dO V^T - rowsum(dO*O));
dQ = dS K / sqrt(d); dK = dS^T Q / sqrt(d). dK and dV travel on with their K and V and arrive at home after n steps.
While a block is worked on, the next K and V are already under way.

Which tokens a rank holds is the layout. "contiguous" gives rank r the r-th n-th of the sequence; under a causal mask
the last rank then works n times as long as the first. "zigzag" cuts 2n pieces and gives rank r the pieces r and
2n-1-r, which is the same work for all.

Liu et al. 2023 (Ring Attention), 2310.01889; zigzag as in Llama 3 (2407.21783, section 3.3.2). Left out: dropout, and
the tiles within a block. Read next: `ring_transformer.py`, which puts it into the model.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
import torch.distributed as dist
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from cs336_systems.parallel.tensor_parallel import Group

Layout = Literal["contiguous", "zigzag"]


def pieces_of_rank(rank: int, world_size: int, seq: int, layout: str) -> list[range]:
    """The runs of positions that a rank holds, in its own order.

    Raises:
        ValueError: the sequence cannot be cut evenly, or an unknown layout.
    """
    if layout not in ("contiguous", "zigzag"):
        raise ValueError(f"layout must be 'contiguous' or 'zigzag'; got {layout!r}")
    num_pieces = world_size if layout == "contiguous" else 2 * world_size
    if seq % num_pieces:
        raise ValueError(
            f"layout {layout!r} over {world_size} ranks cuts the sequence into {num_pieces} equal pieces; got {seq} "
            f"tokens; use {-(-seq // num_pieces) * num_pieces}"
        )
    size = seq // num_pieces
    own = [rank] if layout == "contiguous" else [rank, 2 * world_size - 1 - rank]
    return [range(piece * size, (piece + 1) * size) for piece in own]


def own_positions(seq: int, layout: Layout, *, group: Group = None) -> Int[Tensor, " local"]:
    """Positions in the whole sequence of this rank's tokens, in the order in which it holds them."""
    pieces = pieces_of_rank(dist.get_rank(group), dist.get_world_size(group), seq, layout)
    return torch.cat([torch.arange(piece.start, piece.stop) for piece in pieces])


def attention_work(world_size: int, seq: int, layout: Layout) -> list[int]:
    """Scores that each rank computes under a causal mask (a piece against itself counts in full)."""
    ranks = [pieces_of_rank(rank, world_size, seq, layout) for rank in range(world_size)]
    every_piece = [piece for pieces in ranks for piece in pieces]
    return [sum(len(q) * len(k) for q in own for k in every_piece if k.start <= q.start) for own in ranks]


def ring_attention(
    Q: Float[Tensor, "... local d_k"],
    K: Float[Tensor, "... local d_k"],
    V: Float[Tensor, "... local d_v"],
    *,
    causal: bool = True,
    layout: Layout = "contiguous",
    group: Group = None,
) -> Float[Tensor, "... local d_v"]:
    """softmax(Q K^T / sqrt(d_k)) V over the whole sequence, of which each rank holds the tokens of `layout`.

    Args:
        Q, K, V: this rank's part, of the same shape on all ranks; the sequence has n * local tokens.

    Raises:
        ValueError: Q, K, V of different lengths, or a local length the layout cannot cut.

    Numerics: float32 or better inside; results of blocks merge in ring order, so bits differ from one rank count to
    another.
    """
    if not Q.shape[:-1] == K.shape[:-1] == V.shape[:-1]:
        raise ValueError(
            f"ring attention needs queries, keys and values of the same tokens; got shapes {tuple(Q.shape)}, "
            f"{tuple(K.shape)} and {tuple(V.shape)}"
        )
    return _RingAttention.apply(Q, K, V, _Ring(Q.shape[-2], causal, layout, group))


class _Ring:
    """This rank's place in the ring, and which blocks of scores it has to compute."""

    def __init__(self, local: int, causal: bool, layout: Layout, group: Group):
        self.size, self.rank = dist.get_world_size(group), dist.get_rank(group)
        self.local, self.causal, self.layout, self.group = local, causal, layout, group
        left, right = (self.rank - 1) % self.size, (self.rank + 1) % self.size
        self.left, self.right = (r if group is None else dist.get_global_rank(group, r) for r in (left, right))
        self.pieces = [pieces_of_rank(rank, self.size, local * self.size, layout) for rank in range(self.size)]

    def blocks(self, step: int) -> list[tuple[slice, slice, bool]]:
        """(own queries, visiting keys, whether the block is on the diagonal) for the keys that came `step` ranks."""
        visiting = self.pieces[(self.rank - step) % self.size]
        if not self.causal:
            return [(slice(None), slice(None), False)]
        length = len(visiting[0])
        return [
            (slice(i * length, (i + 1) * length), slice(j * length, (j + 1) * length), own.start == other.start)
            for i, own in enumerate(self.pieces[self.rank])
            for j, other in enumerate(visiting)
            if other.start <= own.start
        ]

    def start_rotation(self, tensors: list[Tensor]) -> tuple[list[dist.Work], list[Tensor]]:
        """Send to the right, receive from the left; the result is there after `finish_rotation`."""
        received = [torch.empty_like(tensor) for tensor in tensors]
        operations = []
        for outgoing, incoming in zip(tensors, received, strict=True):
            operations.append(dist.P2POp(dist.isend, outgoing, self.right, self.group))
            operations.append(dist.P2POp(dist.irecv, incoming, self.left, self.group))
        return dist.batch_isend_irecv(operations), received

    def finish_rotation(self, rotation: tuple[list[dist.Work], list[Tensor]]) -> list[Tensor]:
        """What came from the left."""
        for work in rotation[0]:
            work.wait()
        return rotation[1]


def _scores(Q: Tensor, K: Tensor, diagonal: bool) -> Tensor:
    """Q K^T / sqrt(d), -inf above the diagonal of a diagonal block."""
    scores = (Q / math.sqrt(Q.shape[-1])) @ K.transpose(-2, -1)
    if diagonal:
        hidden = torch.ones(scores.shape[-2:], dtype=torch.bool, device=Q.device).triu(1)
        scores = scores.masked_fill_(hidden, -math.inf)
    return scores


class _RingAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, Q: Tensor, K: Tensor, V: Tensor, ring: _Ring) -> Tensor:
        q, k, v = (_wide(x) for x in (Q, K, V))
        out = torch.zeros((*q.shape[:-1], v.shape[-1]), dtype=q.dtype, device=q.device)
        lse = torch.full((*q.shape[:-1], 1), -math.inf, dtype=q.dtype, device=q.device)
        travelling = [k, v]
        for step in range(ring.size):
            rotation = ring.start_rotation(travelling) if step < ring.size - 1 else None
            for rows, columns, diagonal in ring.blocks(step):
                keys, values = travelling
                _merge_block(q, keys, values, out, lse, rows=rows, columns=columns, diagonal=diagonal)
            if rotation is not None:
                travelling = ring.finish_rotation(rotation)
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.ring, ctx.dtypes = ring, (Q.dtype, K.dtype, V.dtype)
        return out.to(Q.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        q, k, v, out, lse = ctx.saved_tensors
        ring, d_out = ctx.ring, _wide(grads[0])
        delta = (d_out * out).sum(dim=-1, keepdim=True)
        d_q, d_k, d_v = torch.zeros_like(q), torch.zeros_like(k), torch.zeros_like(v)
        travelling = [k, v]
        for step in range(ring.size):
            rotation = ring.start_rotation(travelling) if step < ring.size - 1 else None
            for rows, columns, diagonal in ring.blocks(step):
                queries, d_rows = q[..., rows, :], d_out[..., rows, :]
                keys, values = (x[..., columns, :] for x in travelling)
                p = (_scores(queries, keys, diagonal) - lse[..., rows, :]).exp_()
                d_v[..., columns, :] += p.transpose(-2, -1) @ d_rows
                d_s = (d_rows @ values.transpose(-2, -1) - delta[..., rows, :]).mul_(p).div_(math.sqrt(q.shape[-1]))
                d_q[..., rows, :] += d_s @ keys
                d_k[..., columns, :] += d_s.transpose(-2, -1) @ queries
            if rotation is not None:
                travelling = ring.finish_rotation(rotation)
            if ring.size > 1:  # the gradients follow their keys; the n-th rotation brings them home
                d_k, d_v = ring.finish_rotation(ring.start_rotation([d_k, d_v]))
        d_q, d_k, d_v = (grad.to(dtype) for grad, dtype in zip((d_q, d_k, d_v), ctx.dtypes, strict=True))
        return d_q, d_k, d_v, None


def _wide(x: Tensor) -> Tensor:
    """Contiguous (to be sent), in float32 or better."""
    return (x.float() if x.dtype in (torch.float16, torch.bfloat16) else x).contiguous()


def _merge_block(
    q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, *, rows: slice, columns: slice, diagonal: bool
) -> None:
    """Add a block of keys to the running result, in place."""
    scores = _scores(q[..., rows, :], k[..., columns, :], diagonal)
    block_lse = torch.logsumexp(scores, dim=-1, keepdim=True)
    block_out = (scores - block_lse).exp_() @ v[..., columns, :]
    merged = torch.logaddexp(lse[..., rows, :], block_lse)
    out[..., rows, :] = out[..., rows, :] * (lse[..., rows, :] - merged).exp() + block_out * (block_lse - merged).exp()
    lse[..., rows, :] = merged
