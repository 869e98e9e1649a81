"""FlashAttention-2 in Triton: forward, and two forms of the backward pass. The mathematics is in `flash_attention.py`.

Names in the kernels: q, k, v, do: tiles; M, N: rows of a tile of queries and of keys; D: columns of a tile, the head
dimension filled up to a power of two; s_n, p_n ... end in how they are laid out (`_mn`: queries x keys).

- Full tiles first, without any comparison, then those on the diagonal or the edge with a mask; nothing above it.
- exp2 in place of exp: P = exp2(S c - m), c = log2(e) / sqrt(d), which is one multiply-add and one instruction a score.
- Causal: the longest programs (last queries, first keys) start first.
- Backward in two passes (default): one kernel goes along queries for dK and dV, another along keys for dQ. Seven matrix
  products in place of five, but each number has one writer: the same bits in every run.
- Backward in one pass (`FlashAttentionTritonOnePass`): dQ is gathered by float32 atomic additions; five products, and
  the last bits of dQ depend on the order in which programs finish.

float32 inputs: products are exact float32 unless torch.set_float32_matmul_precision allows TF32. Left out: tensor
descriptors, warp specialization, a persistent grid. Tiles: `tile_sizes`; measured choices belong there.
Read next: `cross_entropy.py`.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cs336_systems.kernels.flash_attention import MAX_HEAD_DIM, check_shapes
from cs336_systems.kernels.triton_kernel import check_launch, kernel, launch_on, next_power_of_2, tl


class Tiles(NamedTuple):
    """Shape of one kernel's work."""

    M: int
    N: int
    num_warps: int
    num_stages: int


def tile_sizes(pass_name: str, d: int, element_size: int) -> Tiles:
    """Tiles of "forward", "keys" (dK, dV), "one pass" (these and dQ) and "queries" (dQ) for d in {16, 32, 64, 128}.

    They compile for compute capability 9.0 without spilling registers, and use at most 160 KiB of shared memory.
    """
    if element_size == 4:
        return Tiles(64, 32, 8, 2) if pass_name == "forward" else Tiles(32, 32, 8, 1)
    if d <= 64:
        backward = {"keys": Tiles(32, 128, 8, 2), "one pass": Tiles(32, 128, 8, 2), "queries": Tiles(128, 64, 8, 2)}
        return Tiles(128, 64, 8, 3) if pass_name == "forward" else backward[pass_name]
    backward = {"keys": Tiles(32, 64, 8, 2), "one pass": Tiles(16, 128, 8, 2), "queries": Tiles(64, 64, 8, 2)}
    return Tiles(128, 64, 8, 2) if pass_name == "forward" else backward[pass_name]


@kernel
def load_tile(X, rows, stride, num_rows, WIDTH: tl.constexpr, D: tl.constexpr, EVEN: tl.constexpr):
    """Rows of a matrix with dense columns, as (rows, D); zeros beyond num_rows (unless EVEN) and beyond WIDTH."""
    columns = tl.arange(0, D)
    at = X + rows[:, None] * stride + columns[None, :]
    if EVEN and WIDTH == D:
        return tl.load(at)
    elif WIDTH == D:
        return tl.load(at, mask=(rows < num_rows)[:, None], other=0.0)
    else:
        return tl.load(at, mask=(rows < num_rows)[:, None] & (columns < WIDTH)[None, :], other=0.0)


@kernel
def store_tile(X, tile, rows, stride, num_rows, WIDTH: tl.constexpr, D: tl.constexpr):
    """The reverse of load_tile."""
    columns = tl.arange(0, D)
    inside = (rows < num_rows)[:, None] & (columns < WIDTH)[None, :]
    tl.store(X + rows[:, None] * stride + columns[None, :], tile.to(X.dtype.element_ty), mask=inside)


@kernel
def key_range(tile, offset, num_keys, M: tl.constexpr, N: tl.constexpr, CAUSAL: tl.constexpr):
    """Where the keys end that every query of a tile sees (whole tiles of them), and those that any of them sees."""
    end = num_keys
    full = num_keys // N * N
    if CAUSAL:
        end = tl.minimum(end, (tile + 1) * M + offset)
        full = tl.minimum(full, (tile * M + offset + 1) // N * N)
    return full, end


@kernel
def attend(
    q, acc, m, l, K, V, rows, k_row, v_row, begin, end, num_keys, offset, c,
    WIDTH: tl.constexpr, D: tl.constexpr, N: tl.constexpr,
    CAUSAL: tl.constexpr, MASKED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The forward pass's loop over the keys begin..end; m and c are in powers of two."""
    for start in range(begin, end, N):
        columns = start + tl.arange(0, N)
        k = load_tile(K, columns, k_row, num_keys, WIDTH, D, not MASKED)
        s_mn = tl.dot(q, tl.trans(k), input_precision=PRECISION)
        if MASKED:
            seen = (columns < num_keys)[None, :]
            if CAUSAL:
                seen = seen & (columns[None, :] <= rows[:, None] + offset)
            s_mn = tl.where(seen, s_mn, float("-inf"))
        m_new = tl.maximum(m, tl.max(s_mn, 1) * c)
        p_mn = tl.exp2(s_mn * c - m_new[:, None])
        shrink = tl.exp2(m - m_new)
        l = l * shrink + tl.sum(p_mn, 1)
        acc = acc * shrink[:, None]
        v = load_tile(V, columns, v_row, num_keys, WIDTH, D, not MASKED)
        acc = tl.dot(p_mn.to(v.dtype), v, acc, input_precision=PRECISION)
        m = m_new
    return acc, m, l


@kernel
def flash_forward(
    Q, K, V, O, L,
    q_batch, q_head, q_row, k_batch, k_head, k_row, v_batch, v_head, v_row, o_batch, o_head, o_row,
    num_heads, group, num_queries, num_keys, scale,
    WIDTH: tl.constexpr, D: tl.constexpr, M: tl.constexpr, N: tl.constexpr,
    CAUSAL: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """O and L of one tile of queries of one head; grid (tiles of queries, batch * heads)."""
    tile = tl.num_programs(0) - 1 - tl.program_id(0) if CAUSAL else tl.program_id(0)
    batch, head = (tl.program_id(1) // num_heads).to(tl.int64), (tl.program_id(1) % num_heads).to(tl.int64)
    Q += batch * q_batch + head * q_head
    K += batch * k_batch + head // group * k_head
    V += batch * v_batch + head // group * v_head
    O += batch * o_batch + head * o_head
    offset = num_keys - num_queries
    rows = tile * M + tl.arange(0, M)
    full, end = key_range(tile, offset, num_keys, M, N, CAUSAL)
    q = load_tile(Q, rows, q_row, num_queries, WIDTH, D, False)
    m = tl.full((M,), float("-inf"), dtype=tl.float32)
    l = tl.zeros((M,), dtype=tl.float32)
    acc = tl.zeros((M, D), dtype=tl.float32)
    c = scale * 1.4426950408889634
    acc, m, l = attend(
        q, acc, m, l, K, V, rows, k_row, v_row, 0, full, num_keys, offset, c,
        WIDTH, D, N, CAUSAL, False, PRECISION,
    )  # fmt: skip
    acc, m, l = attend(
        q, acc, m, l, K, V, rows, k_row, v_row, full, end, num_keys, offset, c,
        WIDTH, D, N, CAUSAL, True, PRECISION,
    )  # fmt: skip

    store_tile(O, acc / l[:, None], rows, o_row, num_queries, WIDTH, D)
    lse = (m + tl.log2(l)) * 0.6931471805599453
    tl.store(L + tl.program_id(1).to(tl.int64) * num_queries + rows, lse, mask=rows < num_queries)


@kernel
def flash_backward_delta(
    O, DO, DELTA,
    o_batch, o_head, o_row, do_batch, do_head, do_row,
    num_heads, num_queries,
    WIDTH: tl.constexpr, D: tl.constexpr, M: tl.constexpr,
):  # fmt: skip
    """rowsum(dO * O), (batch * heads, queries); grid (tiles of queries, batch * heads)."""
    batch, head = (tl.program_id(1) // num_heads).to(tl.int64), (tl.program_id(1) % num_heads).to(tl.int64)
    rows = tl.program_id(0) * M + tl.arange(0, M)
    o = load_tile(O + batch * o_batch + head * o_head, rows, o_row, num_queries, WIDTH, D, False)
    do = load_tile(DO + batch * do_batch + head * do_head, rows, do_row, num_queries, WIDTH, D, False)
    delta = tl.sum(o.to(tl.float32) * do.to(tl.float32), 1)
    tl.store(DELTA + tl.program_id(1).to(tl.int64) * num_queries + rows, delta, mask=rows < num_queries)


@kernel
def along_queries(
    dk, dv, k, v, Q, DO, DQ, L, DELTA, columns, q_row, do_row, begin, end, num_queries, num_keys, offset, c,
    WIDTH: tl.constexpr, D: tl.constexpr, M: tl.constexpr,
    CAUSAL: tl.constexpr, MASKED: tl.constexpr, EVEN: tl.constexpr, ONE_PASS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The loop of dK and dV over the queries begin..end; scores lie as keys x queries: nothing is transposed."""
    for start in range(begin, end, M):
        rows = start + tl.arange(0, M)
        q = load_tile(Q, rows, q_row, num_queries, WIDTH, D, EVEN)
        # beyond the last query P becomes exp2(0 - inf) = 0
        lse = tl.load(L + rows, mask=rows < num_queries, other=float("inf")) * 1.4426950408889634
        s_nm = tl.dot(k, tl.trans(q), input_precision=PRECISION)
        p_nm = tl.exp2(s_nm * c - lse[None, :])
        if MASKED:
            seen = (columns < num_keys)[:, None]
            if CAUSAL:
                seen = seen & (columns[:, None] <= rows[None, :] + offset)
            p_nm = tl.where(seen, p_nm, 0.0)
        do = load_tile(DO, rows, do_row, num_queries, WIDTH, D, EVEN)
        dv = tl.dot(p_nm.to(do.dtype), do, dv, input_precision=PRECISION)
        dp_nm = tl.dot(v, tl.trans(do), input_precision=PRECISION)
        delta = tl.load(DELTA + rows, mask=rows < num_queries, other=0.0)
        ds_nm = (p_nm * (dp_nm - delta[None, :])).to(q.dtype)
        dk = tl.dot(ds_nm, q, dk, input_precision=PRECISION)
        if ONE_PASS:
            dq = tl.dot(tl.trans(ds_nm), k, input_precision=PRECISION) * (c * 0.6931471805599453)
            at = DQ + rows[:, None] * D + tl.arange(0, D)[None, :]
            tl.atomic_add(at, dq, mask=(rows < num_queries)[:, None], sem="relaxed")
    return dk, dv


@kernel
def flash_backward_keys(
    Q, K, V, DO, DQ, DK, DV, L, DELTA,
    q_batch, q_head, q_row, k_batch, k_head, k_row, v_batch, v_head, v_row, do_batch, do_head, do_row,
    dk_batch, dk_head, dk_row, dv_batch, dv_head, dv_row,
    num_heads, group, num_queries, num_keys, scale,
    WIDTH: tl.constexpr, D: tl.constexpr, M: tl.constexpr, N: tl.constexpr,
    CAUSAL: tl.constexpr, EVEN: tl.constexpr, ONE_PASS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """dK and dV of one tile of keys, summed over the queries' heads of its group; grid (tiles, batch * key heads).

    With ONE_PASS, also adds this tile's part of dQ to DQ, a dense float32 (batch * heads, queries, D) of zeros.
    """
    first = tl.program_id(0) * N
    key_heads = num_heads // group
    batch, key_head = (tl.program_id(1) // key_heads).to(tl.int64), (tl.program_id(1) % key_heads).to(tl.int64)
    columns = first + tl.arange(0, N)
    offset = num_keys - num_queries
    k = load_tile(K + batch * k_batch + key_head * k_head, columns, k_row, num_keys, WIDTH, D, False)
    v = load_tile(V + batch * v_batch + key_head * v_head, columns, v_row, num_keys, WIDTH, D, False)
    dk = tl.zeros((N, D), dtype=tl.float32)
    dv = tl.zeros((N, D), dtype=tl.float32)

    # the first query that sees any of these keys, and the first that sees all of them
    begin = 0
    full = 0
    if CAUSAL:
        begin = tl.maximum(first - offset, 0) // M * M
        full = tl.maximum(first + N - 1 - offset, 0)
    full = tl.where(first + N > num_keys, num_queries, full)
    full = tl.minimum((full + M - 1) // M * M, (num_queries + M - 1) // M * M)
    c = scale * 1.4426950408889634
    for member in range(0, group):
        head = key_head * group + member
        at = batch * num_heads + head
        q_head_at = Q + batch * q_batch + head * q_head
        do_head_at = DO + batch * do_batch + head * do_head
        dq_head_at = DQ + at * num_queries * D
        l_head_at = L + at * num_queries
        delta_head_at = DELTA + at * num_queries
        dk, dv = along_queries(
            dk, dv, k, v, q_head_at, do_head_at, dq_head_at, l_head_at, delta_head_at,
            columns, q_row, do_row, begin, full, num_queries, num_keys, offset, c,
            WIDTH, D, M, CAUSAL, True, EVEN, ONE_PASS, PRECISION,
        )  # fmt: skip
        dk, dv = along_queries(
            dk, dv, k, v, q_head_at, do_head_at, dq_head_at, l_head_at, delta_head_at,
            columns, q_row, do_row, full, num_queries, num_queries, num_keys, offset, c,
            WIDTH, D, M, CAUSAL, False, EVEN, ONE_PASS, PRECISION,
        )  # fmt: skip
    store_tile(DK + batch * dk_batch + key_head * dk_head, dk * scale, columns, dk_row, num_keys, WIDTH, D)
    store_tile(DV + batch * dv_batch + key_head * dv_head, dv, columns, dv_row, num_keys, WIDTH, D)


@kernel
def along_keys(
    dq, q, do, lse, delta, K, V, rows, k_row, v_row, begin, end, num_keys, offset, c,
    WIDTH: tl.constexpr, D: tl.constexpr, N: tl.constexpr,
    CAUSAL: tl.constexpr, MASKED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The loop of dQ over the keys begin..end."""
    for start in range(begin, end, N):
        columns = start + tl.arange(0, N)
        k = load_tile(K, columns, k_row, num_keys, WIDTH, D, not MASKED)
        v = load_tile(V, columns, v_row, num_keys, WIDTH, D, not MASKED)
        s_mn = tl.dot(q, tl.trans(k), input_precision=PRECISION)
        p_mn = tl.exp2(s_mn * c - lse[:, None])
        if MASKED:
            seen = (columns < num_keys)[None, :]
            if CAUSAL:
                seen = seen & (columns[None, :] <= rows[:, None] + offset)
            p_mn = tl.where(seen, p_mn, 0.0)
        dp_mn = tl.dot(do, tl.trans(v), input_precision=PRECISION)
        ds_mn = (p_mn * (dp_mn - delta[:, None])).to(k.dtype)
        dq = tl.dot(ds_mn, k, dq, input_precision=PRECISION)
    return dq


@kernel
def flash_backward_queries(
    Q, K, V, DO, DQ, L, DELTA,
    q_batch, q_head, q_row, k_batch, k_head, k_row, v_batch, v_head, v_row, do_batch, do_head, do_row,
    dq_batch, dq_head, dq_row,
    num_heads, group, num_queries, num_keys, scale,
    WIDTH: tl.constexpr, D: tl.constexpr, M: tl.constexpr, N: tl.constexpr,
    CAUSAL: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """dQ of one tile of queries of one head; grid (tiles of queries, batch * heads)."""
    tile = tl.num_programs(0) - 1 - tl.program_id(0) if CAUSAL else tl.program_id(0)
    batch, head = (tl.program_id(1) // num_heads).to(tl.int64), (tl.program_id(1) % num_heads).to(tl.int64)
    K += batch * k_batch + head // group * k_head
    V += batch * v_batch + head // group * v_head
    offset = num_keys - num_queries
    rows = tile * M + tl.arange(0, M)
    full, end = key_range(tile, offset, num_keys, M, N, CAUSAL)
    q = load_tile(Q + batch * q_batch + head * q_head, rows, q_row, num_queries, WIDTH, D, False)
    do = load_tile(DO + batch * do_batch + head * do_head, rows, do_row, num_queries, WIDTH, D, False)
    at = tl.program_id(1).to(tl.int64) * num_queries + rows
    lse = tl.load(L + at, mask=rows < num_queries, other=float("inf")) * 1.4426950408889634
    delta = tl.load(DELTA + at, mask=rows < num_queries, other=0.0)
    dq = tl.zeros((M, D), dtype=tl.float32)
    c = scale * 1.4426950408889634
    dq = along_keys(
        dq, q, do, lse, delta, K, V, rows, k_row, v_row, 0, full, num_keys, offset, c,
        WIDTH, D, N, CAUSAL, False, PRECISION,
    )  # fmt: skip
    dq = along_keys(
        dq, q, do, lse, delta, K, V, rows, k_row, v_row, full, end, num_keys, offset, c,
        WIDTH, D, N, CAUSAL, True, PRECISION,
    )  # fmt: skip
    store_tile(DQ + batch * dq_batch + head * dq_head, dq * scale, rows, dq_row, num_queries, WIDTH, D)


class FlashAttentionTriton(torch.autograd.Function):
    """apply(Q, K, V, is_causal=False) as FlashAttentionPyTorch; the backward pass in two passes, deterministic."""

    @staticmethod
    def forward(ctx: Any, Q: Tensor, K: Tensor, V: Tensor, is_causal: bool = False) -> Tensor:
        """Keep O and L beside the inputs."""
        check_shapes(Q, K, V, is_causal)
        O, L = torch.ops.cs336.flash_forward(Q, K, V, is_causal)
        ctx.save_for_backward(Q, K, V, O, L)
        ctx.is_causal = is_causal
        return O

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        """dK and dV in one kernel, dQ in another."""
        return *torch.ops.cs336.flash_backward(*ctx.saved_tensors, grads[0], ctx.is_causal, False), None


class FlashAttentionTritonOnePass(torch.autograd.Function):
    """As FlashAttentionTriton, with fewer matrix products backward; the last bits of dQ differ from run to run."""

    forward = FlashAttentionTriton.forward

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        """All gradients in one kernel, dQ by atomic additions."""
        return *torch.ops.cs336.flash_backward(*ctx.saved_tensors, grads[0], ctx.is_causal, True), None


@torch.library.custom_op(
    "cs336::flash_forward", mutates_args=(),
    schema="(Tensor Q, Tensor K, Tensor V, bool is_causal) -> (Tensor, Tensor)",
)  # fmt: skip
def _forward(Q: Tensor, K: Tensor, V: Tensor, is_causal: bool) -> tuple[Tensor, Tensor]:
    check_launch(Q=Q, K=K, V=V)
    if Q.shape[-1] > MAX_HEAD_DIM:
        raise ValueError(f"the kernels take head dimensions up to {MAX_HEAD_DIM}; got {Q.shape[-1]}")
    O, L = _new_like(Q), torch.empty(Q.shape[:-1], dtype=torch.float32, device=Q.device)
    if not Q.numel():
        return O, L
    q, k, v, o = (_four_axes(x) for x in (Q, K, V, O))
    common, columns = _common(q, k)
    tiles = tile_sizes("forward", columns["D"], Q.element_size())
    with launch_on(Q):
        flash_forward[(-(-q.shape[2] // tiles.M), q.shape[0] * q.shape[1])](
            q, k, v, o, L, *_strides(q, k, v, o), *common, **columns, **tiles._asdict(), CAUSAL=is_causal,
            PRECISION=_precision(),
        )  # fmt: skip
    return O, L


@_forward.register_fake
def _(Q: Tensor, K: Tensor, V: Tensor, is_causal: bool) -> tuple[Tensor, Tensor]:
    return _new_like(Q), Q.new_empty(Q.shape[:-1], dtype=torch.float32)


@torch.library.custom_op(
    "cs336::flash_backward", mutates_args=(),
    schema="(Tensor Q, Tensor K, Tensor V, Tensor O, Tensor L, Tensor dO, bool is_causal, bool one_pass)"
    " -> (Tensor, Tensor, Tensor)",
)  # fmt: skip
def _backward(
    Q: Tensor, K: Tensor, V: Tensor, O: Tensor, L: Tensor, dO: Tensor, is_causal: bool, one_pass: bool
) -> tuple[Tensor, Tensor, Tensor]:
    check_launch(Q=Q, K=K, V=V, O=O, L=L, dO=dO)
    dQ, dK, dV = _new_like(Q), _new_like(K), _new_like(V)
    if not Q.numel():
        return dQ, dK.zero_(), dV.zero_()
    q, k, v, o, do, dq, dk, dv = (_four_axes(x) for x in (Q, K, V, O, dO, dQ, dK, dV))
    (batch, heads, queries, _), key_heads, keys = q.shape, k.shape[1], k.shape[2]
    common, columns = _common(q, k)
    D, settings = columns["D"], {**columns, "CAUSAL": is_causal, "PRECISION": _precision()}
    delta, L = torch.empty_like(L), L.contiguous()
    dq_sum = torch.zeros(batch * heads, queries, D, dtype=torch.float32, device=Q.device) if one_pass else dq
    names = ("one pass" if one_pass else "keys", "queries")
    by_keys, by_queries = (tile_sizes(name, D, Q.element_size()) for name in names)
    with launch_on(Q):
        flash_backward_delta[(-(-queries // 64), batch * heads)](
            o, do, delta, *_strides(o, do), heads, queries, **columns, M=64
        )
        flash_backward_keys[(-(-keys // by_keys.N), batch * key_heads)](
            q, k, v, do, dq_sum, dk, dv, L, delta, *_strides(q, k, v, do, dk, dv), *common, **settings,
            **by_keys._asdict(), EVEN=queries % by_keys.M == 0, ONE_PASS=one_pass,
        )  # fmt: skip
        if not one_pass:
            flash_backward_queries[(-(-queries // by_queries.M), batch * heads)](
                q, k, v, do, dq, L, delta, *_strides(q, k, v, do, dq), *common, **settings, **by_queries._asdict()
            )
    if one_pass:
        dq.copy_(dq_sum.view(batch, heads, queries, D)[..., : q.shape[-1]])
    return dQ, dK, dV


@_backward.register_fake
def _(
    Q: Tensor, K: Tensor, V: Tensor, O: Tensor, L: Tensor, dO: Tensor, is_causal: bool, one_pass: bool
) -> tuple[Tensor, Tensor, Tensor]:
    return _new_like(Q), _new_like(K), _new_like(V)


def _new_like(x: Tensor) -> Tensor:
    """An empty tensor with the axes in memory as x has them, if that leaves the columns dense."""
    new = torch.empty_like(x)
    return new if _is_addressable(new) else torch.empty(x.shape, dtype=x.dtype, device=x.device)


def _is_addressable(x: Tensor) -> bool:
    """Whether the kernels can read it: dense columns, and places within a head that fit into 32 bits."""
    return x.stride(-1) == 1 and x.shape[-2] * x.stride(-2) < 2**31


def _four_axes(x: Tensor) -> Tensor:
    """(batch, heads, tokens, d), copied if the kernels could not read it; three axes get one of heads."""
    x = x if _is_addressable(x) else x.contiguous()
    return x.unsqueeze(1) if x.ndim == 3 else x


def _strides(*tensors: Tensor) -> list[int]:
    """Batch, head and row stride of each."""
    return [stride for tensor in tensors for stride in tensor.stride()[:3]]


def _common(q: Tensor, k: Tensor) -> tuple[tuple[int, int, int, int, float], dict[str, int]]:
    """The sizes every kernel takes, and its column settings."""
    heads, queries, width = q.shape[1:]
    sizes = (heads, heads // k.shape[1], queries, k.shape[2], 1 / math.sqrt(width))
    return sizes, {"WIDTH": width, "D": max(16, next_power_of_2(width))}


def _precision() -> str:
    """What torch's own switch says of float32 matrix products."""
    return "ieee" if torch.get_float32_matmul_precision() == "highest" else "tf32"
