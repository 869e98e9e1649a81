"""The loops of a decoding step, compiled: linear maps of few rows, RMSNorm, rotation, SwiGLU, attention over pages.

    y_ro = sum_i x_ri w_io                      weights stored tile by tile of outputs, inputs by outputs in each

A decoding step multiplies every weight with a handful of rows, so it runs at the speed at which weights arrive from
memory. Three things set it:

- Library products of such shapes repack the weights or read them once per row. Here each weight comes from memory once
  and is multiplied with eight rows at a time (those of further rows find it in the cache of the core).
- A tile is read as eight streams: the inputs i, i + I/8, i + 2I/8 ... together, and then their next neighbours. A core
  fetches ahead along each of them; one stream alone arrives much slower.
- Eight products are added before the sum in the nearest cache is touched.

Every row goes through the same additions in the same order whatever rows stand beside it: no sum runs over rows, and
how a sum is split over vector lanes is fixed when the kernel is compiled. A request's logits are therefore bit for bit
the same alone, in any batch, in prefill and in decoding (on one machine and number of threads); a test holds it.

Keys and values stand in pages of T tokens; a page that holds a whole context is a row of `kv_cache.KVCache`. Whoever
calls a kernel takes it through `tokenization.compilation.stored`, which keeps the machine code on disk.

Legend: R rows, I inputs, O outputs, H query heads, K key heads, P pages, T tokens in a page, D width of a head, F = 2I.
Left out: half precision. Read next: `compiled_decoding.py`.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit, prange

ORDERED = {"contract"}
"""only multiply and add may fuse"""
LANES = {"contract", "reassoc", "nsz"}
"""a sum may be split over vector lanes besides"""
F32 = np.float32
STREAMS = 8
"""inputs that `linear` takes at a time; their number must be a multiple of it"""
ROWS = 8
"""rows whose sums `linear` keeps in the nearest cache"""


@njit(parallel=True, fastmath=ORDERED)
def linear(x_RI, w_TIO, y_RO):
    """y = x w, a task per tile of outputs; more than one row: an even number of them.

    The weights may be int8: they are widened in a register, so a quarter of the bytes arrive.
    """
    rows, (tiles, inputs, outputs) = x_RI.shape[0], w_TIO.shape
    far = inputs // STREAMS
    for task in prange(tiles):
        w_IO = w_TIO[task]
        begin, end = task * outputs, min(task * outputs + outputs, y_RO.shape[1])  # the last tile may be filled up
        for top in range(0, rows, ROWS):
            bottom = min(top + ROWS, rows)
            sums = np.zeros((bottom - top, outputs), np.float32)
            for i0 in range(far):
                i1, i2, i3 = i0 + far, i0 + 2 * far, i0 + 3 * far
                i4, i5, i6, i7 = i0 + 4 * far, i1 + 4 * far, i2 + 4 * far, i3 + 4 * far
                w0, w1, w2, w3, w4, w5, w6, w7 = (
                    w_IO[i0], w_IO[i1], w_IO[i2], w_IO[i3], w_IO[i4], w_IO[i5], w_IO[i6], w_IO[i7],
                )  # fmt: skip
                if rows == 1:
                    a, s = x_RI[0], sums[0]
                    a0, a1, a2, a3, a4, a5, a6, a7 = a[i0], a[i1], a[i2], a[i3], a[i4], a[i5], a[i6], a[i7]
                    for o in range(outputs):
                        s[o] += (
                            a0 * F32(w0[o]) + a1 * F32(w1[o]) + a2 * F32(w2[o]) + a3 * F32(w3[o])
                            + a4 * F32(w4[o]) + a5 * F32(w5[o]) + a6 * F32(w6[o]) + a7 * F32(w7[o])
                        )  # fmt: skip
                else:
                    for r in range(top, bottom, 2):
                        a, b, s, t = x_RI[r], x_RI[r + 1], sums[r - top], sums[r + 1 - top]
                        a0, a1, a2, a3, a4, a5, a6, a7 = a[i0], a[i1], a[i2], a[i3], a[i4], a[i5], a[i6], a[i7]
                        b0, b1, b2, b3, b4, b5, b6, b7 = b[i0], b[i1], b[i2], b[i3], b[i4], b[i5], b[i6], b[i7]
                        for o in range(outputs):
                            v0, v1, v2, v3 = F32(w0[o]), F32(w1[o]), F32(w2[o]), F32(w3[o])
                            v4, v5, v6, v7 = F32(w4[o]), F32(w5[o]), F32(w6[o]), F32(w7[o])
                            s[o] += a0 * v0 + a1 * v1 + a2 * v2 + a3 * v3 + a4 * v4 + a5 * v5 + a6 * v6 + a7 * v7
                            t[o] += b0 * v0 + b1 * v1 + b2 * v2 + b3 * v3 + b4 * v4 + b5 * v5 + b6 * v6 + b7 * v7
            y_RO[top:bottom, begin:end] = sums[:, : end - begin]


@njit(fastmath=LANES)
def add_and_norm(x_RI, update_RI, gain_I, eps, y_RI):
    """x += update in place; y = x / sqrt(mean(x^2) + eps) * gain."""
    rows, width = x_RI.shape
    for r in range(rows):
        x, update, y = x_RI[r], update_RI[r], y_RI[r]
        total = F32(0.0)
        for i in range(width):
            x[i] += update[i]
            total += x[i] * x[i]
        factor = F32(1.0 / math.sqrt(total / width + eps))
        for i in range(width):
            y[i] = x[i] * factor * gain_I[i]


@njit(parallel=True, fastmath=LANES)
def gate(hidden_RF, y_RI):
    """y = SiLU(first half) * second half."""
    rows, width = y_RI.shape
    for r in prange(rows):
        for i in range(width):
            a = hidden_RF[r, i]
            y_RI[r, i] = a / (F32(1.0) + np.exp(-a)) * hidden_RF[r, width + i]


@njit
def rotate_and_store(qkv_RO, cos, sin, halves, position_R, table_RP, keys_PKTD, values_PKTD, num_heads):
    """Turn queries and keys by their row's position, in place, and write keys and values into the row's page.

    Coordinates that turn together are neighbours, or k and k + D/2 if `halves`.
    """
    heads, page_size, width = keys_PKTD.shape[1:]
    step, apart = (1, width // 2) if halves else (2, 1)
    for r in range(position_R.shape[0]):
        position = position_R[r]
        for head in range(num_heads + heads):
            pairs = qkv_RO[r, head * width : (head + 1) * width]
            for k in range(cos.shape[1]):
                first, second = step * k, step * k + apart
                a, b = pairs[first], pairs[second]
                pairs[first] = a * cos[position, k] - b * sin[position, k]
                pairs[second] = a * sin[position, k] + b * cos[position, k]
        page, slot = table_RP[r, position // page_size], position % page_size
        for head in range(heads):
            key, value = (num_heads + head) * width, (num_heads + heads + head) * width
            keys_PKTD[page, head, slot] = qkv_RO[r, key : key + width]
            values_PKTD[page, head, slot] = qkv_RO[r, value : value + width]


@njit(parallel=True, fastmath=LANES)
def attend(qkv_RO, keys_PKTD, values_PKTD, table_RP, position_R, y_RI):
    """softmax(q K^T / sqrt(D)) V per row and head, over the keys up to the row's own position, page by page."""
    heads, page_size, width = keys_PKTD.shape[1:]
    num_heads, scale = y_RI.shape[1] // width, F32(1.0 / math.sqrt(width))
    for task in prange(position_R.shape[0] * num_heads):
        r, head = task // num_heads, task % num_heads
        kv_head, tokens = head * heads // num_heads, position_R[r] + 1
        q, y = qkv_RO[r, head * width : (head + 1) * width], y_RI[r, head * width : (head + 1) * width]
        scores, largest, total = np.empty(tokens, np.float32), F32(-np.inf), F32(0.0)
        for first in range(0, tokens, page_size):
            keys_TD = keys_PKTD[table_RP[r, first // page_size], kv_head]
            for t in range(min(page_size, tokens - first)):
                score = F32(0.0)
                for i in range(width):
                    score += q[i] * keys_TD[t, i]
                scores[first + t] = score * scale
                largest = max(largest, score * scale)
        y[:] = F32(0.0)
        for first in range(0, tokens, page_size):
            values_TD = values_PKTD[table_RP[r, first // page_size], kv_head]
            for t in range(min(page_size, tokens - first)):
                weight = np.exp(scores[first + t] - largest)
                total += weight
                for i in range(width):
                    y[i] += weight * values_TD[t, i]
        for i in range(width):
            y[i] /= total
