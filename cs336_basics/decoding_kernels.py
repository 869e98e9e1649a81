"""The loops of a decoding step, compiled: linear maps of few rows, RMSNorm, rotation, SwiGLU, attention over pages.

    y_ro = sum_i x_ri w_io                      weights stored inputs by outputs

A decoding step multiplies every weight with a handful of rows, so it runs at the speed at which weights arrive from
memory. Library products of such shapes repack the weights or read them once per row; here each weight is read once for
all rows, and eight inputs at a time are added to a tile of sums in the nearest cache.

Every row goes through the same additions in the same order whatever rows stand beside it: no sum runs over rows, and
how a sum is split over vector lanes is fixed when the kernel is compiled. A request's logits are therefore bit for bit
the same alone, in any batch, in prefill and in decoding (on one machine and number of threads); a test holds it.

Keys and values stand in pages of T tokens; a page that holds a whole context is a row of `kv_cache.KVCache`. Whoever
calls a kernel takes it through `tokenization.compilation.stored`, which keeps the machine code on disk.

Legend: R rows, I inputs, O outputs, H query heads, K key heads, P pages, T tokens in a page, D width of a head, F = 2I.
Left out: half precision, int8 (`cs336_systems/inference`). Read next: `compiled_decoding.py`.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit, prange

ORDERED = {"contract"}
"""only multiply and add may fuse"""
LANES = {"contract", "reassoc", "nsz"}
"""a sum may be split over vector lanes besides"""
STRIP = 8
"""inputs that `linear` takes at a time; their number must be a multiple of it"""


@njit(parallel=True, fastmath=ORDERED)
def linear(x_RI, w_IO, y_RO, tile):
    """y = x w, `tile` outputs per task; more than one row have to be an even number."""
    rows, (inputs, outputs) = x_RI.shape[0], w_IO.shape
    for task in prange((outputs + tile - 1) // tile):
        first, last = task * tile, min(task * tile + tile, outputs)
        sums = np.zeros((rows, last - first), np.float32)
        for i in range(0, inputs, STRIP):
            w0, w1, w2, w3 = (
                w_IO[i, first:last],
                w_IO[i + 1, first:last],
                w_IO[i + 2, first:last],
                w_IO[i + 3, first:last],
            )
            i4 = i + 4
            w4, w5, w6, w7 = (
                w_IO[i4, first:last],
                w_IO[i4 + 1, first:last],
                w_IO[i4 + 2, first:last],
                w_IO[i4 + 3, first:last],
            )
            if rows == 1:
                a, s = x_RI[0, i : i + STRIP], sums[0]
                a0, a1, a2, a3, a4, a5, a6, a7 = a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7]
                for o in range(last - first):
                    s[o] += (
                        a0 * w0[o] + a1 * w1[o] + a2 * w2[o] + a3 * w3[o]
                        + a4 * w4[o] + a5 * w5[o] + a6 * w6[o] + a7 * w7[o]
                    )  # fmt: skip
            else:
                for r in range(0, rows, 2):
                    a, b, s, t = x_RI[r, i : i + STRIP], x_RI[r + 1, i : i + STRIP], sums[r], sums[r + 1]
                    a0, a1, a2, a3, a4, a5, a6, a7 = a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7]
                    b0, b1, b2, b3, b4, b5, b6, b7 = b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]
                    for o in range(last - first):
                        s[o] += (
                            a0 * w0[o] + a1 * w1[o] + a2 * w2[o] + a3 * w3[o]
                            + a4 * w4[o] + a5 * w5[o] + a6 * w6[o] + a7 * w7[o]
                        )  # fmt: skip
                        t[o] += (
                            b0 * w0[o] + b1 * w1[o] + b2 * w2[o] + b3 * w3[o]
                            + b4 * w4[o] + b5 * w5[o] + b6 * w6[o] + b7 * w7[o]
                        )  # fmt: skip
        y_RO[:, first:last] = sums


@njit(fastmath=LANES)
def add_and_norm(x_RI, update_RI, gain_I, eps, y_RI):
    """x += update in place; y = x / sqrt(mean(x^2) + eps) * gain."""
    rows, width = x_RI.shape
    for r in range(rows):
        x, update, y = x_RI[r], update_RI[r], y_RI[r]
        total = np.float32(0.0)
        for i in range(width):
            x[i] += update[i]
            total += x[i] * x[i]
        factor = np.float32(1.0 / math.sqrt(total / width + eps))
        for i in range(width):
            y[i] = x[i] * factor * gain_I[i]


@njit(parallel=True, fastmath=LANES)
def gate(hidden_RF, y_RI):
    """y = SiLU(first half) * second half."""
    rows, width = y_RI.shape
    for r in prange(rows):
        for i in range(width):
            a = hidden_RF[r, i]
            y_RI[r, i] = a / (np.float32(1.0) + np.exp(-a)) * hidden_RF[r, width + i]


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
    """softmax(q K^T / sqrt(D)) V per row and head, over the keys up to the row's own position."""
    heads, page_size, width = keys_PKTD.shape[1:]
    num_heads = y_RI.shape[1] // width
    for task in prange(position_R.shape[0] * num_heads):
        r, head = task // num_heads, task % num_heads
        kv_head, tokens = head * heads // num_heads, position_R[r] + 1
        q, y = qkv_RO[r, head * width : (head + 1) * width], y_RI[r, head * width : (head + 1) * width]
        weights = np.empty(tokens, np.float32)
        largest, scale = np.float32(-np.inf), np.float32(1.0 / math.sqrt(width))
        for t in range(tokens):
            key, score = keys_PKTD[table_RP[r, t // page_size], kv_head, t % page_size], np.float32(0.0)
            for i in range(width):
                score += q[i] * key[i]
            weights[t] = score * scale
            largest = max(largest, weights[t])
        total = np.float32(0.0)
        for t in range(tokens):
            weights[t] = np.exp(weights[t] - largest)
            total += weights[t]
        y[:] = np.float32(0.0)
        for t in range(tokens):
            value, weight = values_PKTD[table_RP[r, t // page_size], kv_head, t % page_size], weights[t] / total
            for i in range(width):
                y[i] += weight * value[i]
