"""Selective state space (Mamba): a recurrence with a small state in place of attention over all earlier tokens.

    u, z    = W_in x                                   each d_inner = expand * d_model wide
    u       = SiLU(short_convolution(u))
    delta   = softplus(W_delta W_low u + b_delta)      (per channel)     B = W_B u, C = W_C u   (d_state each)
    h_t     = exp(delta_t A) h_{t-1} + delta_t B_t u_t                   A = -exp(A_log), h: (d_inner, d_state)
    y_t     = <C_t, h_t> + D u_t
    out     = W_out (y * SiLU(z))

"Selective": delta, B and C depend on the token, so a channel may keep (delta near 0) or overwrite (delta large) what it
holds. With constant delta, B and C the same map is a convolution with the kernel K_l = <C, exp(delta A)^l delta B>.
Cost grows linearly with the sequence and a decoding step costs the same at any length; in exchange the past has to fit
into d_inner * d_state numbers.

The recurrence is linear, so it can be cut into chunks (`linear_scan`): how a chunk maps its first state to its last is
found for all chunks side by side, the true states are handed from chunk to chunk, then all chunks run again from these:
about 3 sqrt(seq) steps one after the other instead of seq. There is no division by a decay and no exponential of a
positive number, hence no overflow at any length. The states of a whole sequence are d_state times as large as its
activations, so `selective_scan` holds those of BLOCK tokens at a time and computes them again in the backward pass.

Source: Gu & Dao 2023 (2312.00752), algorithm 2, sections 3.3 (recomputation) and 3.6 (initial values). Left out: the
fused kernel, which never writes the states h to memory; Mamba-2's matrix form. Read next: `long_convolution.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from cs336_basics.model import Linear
from cs336_basics.nn_utils import silu, upcast
from cs336_basics.variants.configs import StateSpaceConfig
from cs336_basics.variants.short_convolution import ShortConvolution

BLOCK = 64
"""tokens whose states are in memory at once"""


def _scan(a: Tensor, b: Tensor, initial: Tensor) -> Tensor:
    """h_t = a_t h_{t-1} + b_t along axis 1, in chunks of about sqrt(seq)."""
    seq = b.shape[1]
    size = 2 ** round(math.log2(seq) / 2)
    if seq % size:
        a, b = (torch.cat((x, torch.zeros_like(x[:, : size - seq % size])), dim=1) for x in (a, b))
    a, b = a.unflatten(1, (-1, size)), b.unflatten(1, (-1, size))
    decay, end = a[:, :, 0], b[:, :, 0]
    for t in range(1, size):  # in all chunks at once: the whole chunk's decay, and where it ends if it starts at zero
        decay, end = decay * a[:, :, t], torch.addcmul(b[:, :, t], a[:, :, t], end)
    starts = [initial]
    for chunk in range(a.shape[1] - 1):
        starts.append(torch.addcmul(end[:, chunk], decay[:, chunk], starts[-1]))
    h, state = torch.empty_like(b), torch.stack(starts, dim=1)
    for t in range(size):  # once more, from the true starts
        state = torch.addcmul(b[:, :, t], a[:, :, t], state)
        h[:, :, t] = state
    return h.flatten(1, 2)[:, :seq]


class _LinearScan(torch.autograd.Function):
    """The gradient g_t of h_t is the same scan backwards: g_t = dh_t + a_{t+1} g_{t+1}; db = g, da_t = g_t h_{t-1}."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, initial: Tensor) -> Tensor:
        h = _scan(a, b, initial)
        ctx.save_for_backward(a, h, initial)
        return h

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        a, h, initial = ctx.saved_tensors
        g = _scan(a.roll(-1, dims=1).flip(1), grads[0].flip(1), torch.zeros_like(initial)).flip(1)
        before = torch.cat((initial[:, None], h[:, :-1]), dim=1)
        return g * before, g, g[:, 0] * a[:, 0]


def linear_scan(
    a: Float[Tensor, "batch seq ..."], b: Float[Tensor, "batch seq ..."], initial: Float[Tensor, "batch ..."]
) -> Float[Tensor, "batch seq ..."]:
    """All states of h_t = a_t * h_{t-1} + b_t, from h_{-1} = initial.

    Args:
        a: decays, in [0, 1] for a state that stays bounded; same shape as `b`, at least one token.
        b: inputs.
        initial: the state before the first token.

    Complexity: two passes over a and b in about 3 sqrt(seq) steps one after the other; a and h are kept for backward.
    """
    return _LinearScan.apply(a, b, initial)


def selective_scan(
    u: Float[Tensor, "batch seq d_inner"],
    delta: Float[Tensor, "batch seq d_inner"],
    *,
    A: Float[Tensor, "d_inner d_state"],
    B: Float[Tensor, "batch seq d_state"],
    C: Float[Tensor, "batch seq d_state"],
    initial: Float[Tensor, "batch d_inner d_state"],
) -> tuple[Float[Tensor, "batch seq d_inner"], Float[Tensor, "batch d_inner d_state"]]:
    """h_t = exp(delta_t A) h_{t-1} + delta_t B_t u_t, y_t = <C_t, h_t>; return y and the last state.

    Args:
        u: inputs; delta: step sizes, positive; A: negative rates.
        B, C: what each token writes along and reads along, shared by the channels.
        initial: the state to begin with.

    Complexity: seq * d_inner * d_state; BLOCK * d_inner * d_state numbers in memory, in the backward pass too.
    """
    outputs = []
    for block in zip(*(x.split(BLOCK, dim=1) for x in (u, delta, B, C)), strict=True):
        y, initial = checkpoint(_scan_block, *block, A, initial, use_reentrant=False, preserve_rng_state=False)
        outputs.append(y)
    return torch.cat(outputs, dim=1), initial


def _scan_block(u: Tensor, delta: Tensor, B: Tensor, C: Tensor, A: Tensor, initial: Tensor) -> tuple[Tensor, Tensor]:
    """`selective_scan` over a few tokens, with all their states in memory."""
    a = torch.exp(delta.unsqueeze(-1) * A)
    h = linear_scan(a, (delta * u).unsqueeze(-1) * B.unsqueeze(2), initial)
    return (h @ C.unsqueeze(-1)).squeeze(-1), h[:, -1]


def selective_step(
    u: Float[Tensor, "batch d_inner"],
    delta: Float[Tensor, "batch d_inner"],
    *,
    A: Float[Tensor, "d_inner d_state"],
    B: Float[Tensor, "batch d_state"],
    C: Float[Tensor, "batch d_state"],
    initial: Float[Tensor, "batch d_inner d_state"],
) -> tuple[Float[Tensor, "batch d_inner"], Float[Tensor, "batch d_inner d_state"]]:
    """One token of `selective_scan`, as decoding needs it: the same cost whatever came before."""
    h = torch.exp(delta.unsqueeze(-1) * A) * initial + (delta * u).unsqueeze(-1) * B.unsqueeze(1)
    return (h @ C.unsqueeze(-1)).squeeze(-1), h


@dataclass
class StateSpaceCache:
    """What one layer remembers of the tokens so far: the same few numbers at any length."""

    tail: Tensor
    """last d_conv - 1 inputs of the short convolution, (batch, d_conv - 1, d_inner)"""
    state: Tensor
    """h, (batch, d_inner, d_state)"""
    length: int = 0
    """tokens so far"""


class SelectiveStateSpace(nn.Module):
    """Mamba's block as a mixer: the place of attention; see the module docstring.

    Args:
        d_model: width of the residual stream.
        config: sizes.

    Numerics: projections in the dtype of the weights (or autocast's); delta, the decays and the states in float32 at
    least, since a product of many decays near 1 does not survive bfloat16.
    """

    def __init__(
        self,
        d_model: int,
        config: StateSpaceConfig,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        self.config = config
        d_inner, self.delta_rank = config.expand * d_model, math.ceil(d_model / 16)
        self.in_proj = Linear(d_model, 2 * d_inner, device, dtype)
        self.conv = ShortConvolution(d_inner, config.d_conv, device, dtype)
        self.x_proj = Linear(d_inner, self.delta_rank + 2 * config.d_state, device, dtype)
        self.delta_proj = Linear(self.delta_rank, d_inner, device, dtype)
        self.delta_bias = nn.Parameter(torch.empty(d_inner, device=device, dtype=dtype))
        rates = torch.arange(1, config.d_state + 1, device=device, dtype=dtype).expand(d_inner, -1)
        self.A_log = nn.Parameter(rates.log())
        self.D = nn.Parameter(torch.ones(d_inner, device=device, dtype=dtype))
        self.out_proj = Linear(d_inner, d_model, device, dtype)
        self._reset_delta()

    @torch.no_grad()
    def _reset_delta(self) -> None:
        """Step sizes at the start log-uniform in [0.001, 0.1], varied by the token with a spread of about 1."""
        nn.init.uniform_(self.delta_proj.weight, -(self.delta_rank**-0.5), self.delta_rank**-0.5)
        steps = torch.exp(nn.init.uniform_(torch.empty_like(self.delta_bias), math.log(1e-3), math.log(1e-1)))
        self.delta_bias.copy_(torch.log(torch.expm1(steps)))  # softplus of this is `steps`

    def new_cache(self, batch: int, capacity: int | None = None) -> StateSpaceCache:
        """A cache before the first token; its size is the same for every `capacity`, which other mixers need."""
        state = self.A_log.new_zeros(batch, *self.A_log.shape)
        return StateSpaceCache(self.conv.new_tail(batch), upcast(state))

    def forward(
        self,
        x: Float[Tensor, "... seq d_model"],
        token_positions: Tensor | None = None,
        cache: StateSpaceCache | None = None,
        shared: object | None = None,
    ) -> Float[Tensor, "... seq d_model"]:
        """Mix each token with those before it, in `x` and in the cache, which then holds these tokens too.

        Positions and `shared` are ignored: the order of the tokens is all this layer knows of time.
        """
        rows = x.reshape(-1, *x.shape[-2:])
        memory = self.new_cache(len(rows)) if cache is None else cache
        u, z = self.in_proj(rows).chunk(2, dim=-1)
        u, tail = self.conv(u, memory.tail)
        u = silu(u)
        y, state = self._state_space(u, memory.state)
        if cache is not None:
            cache.tail, cache.state, cache.length = tail, state, cache.length + rows.shape[1]
        return self.out_proj(y.to(z.dtype) * silu(z)).reshape(x.shape)

    def _state_space(self, u: Tensor, initial: Tensor) -> tuple[Tensor, Tensor]:
        """The recurrence with its D term; one token goes through `selective_step`."""
        low, B, C = self.x_proj(u).split([self.delta_rank, self.config.d_state, self.config.d_state], dim=-1)
        low = self.delta_proj(low)
        with torch.autocast(u.device.type, enabled=False):
            u, B, C, delta = upcast(u), upcast(B), upcast(C), upcast(low) + upcast(self.delta_bias)
            delta = torch.logaddexp(delta, torch.zeros_like(delta))  # softplus
            A = -torch.exp(upcast(self.A_log))
            if u.shape[1] == 1:
                y, state = selective_step(u[:, 0], delta[:, 0], A=A, B=B[:, 0], C=C[:, 0], initial=initial)
                y = y.unsqueeze(1)
            else:
                y, state = selective_scan(u, delta, A=A, B=B, C=C, initial=initial)
            return y + upcast(self.D) * u, state
