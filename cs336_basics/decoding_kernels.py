"""The loops of a decoding step, compiled: linear maps of few rows, RMSNorm, rotation, SwiGLU, attention over pages.

    y_ro = sum_i x_ri w_io                      weights stored tile by tile of outputs, inputs by outputs in each

A decoding step multiplies every weight with a handful of rows, so it runs at the speed at which weights arrive from
memory. Three things set it:

- Library products of such shapes repack the weights or read them once per row. Here each weight comes from memory once
  and is multiplied with eight rows at a time (those of further rows find it in the cache of the core).
- A tile is read as eight streams: the inputs i, i + I/8, i + 2I/8 ... together, and then their next neighbours. A core
  fetches ahead along each of them; one stream alone arrives much slower.
- The sums of four rows stay in registers while eight inputs are added, and each weight that was loaded (and widened,
  if it is int8) is used four times there (`compiled_lanes.py`).

Every row goes through the same additions in the same order whatever rows stand beside it: no sum runs over rows, and
how a sum is split over vector lanes is fixed when the kernel is compiled. A request's logits are therefore bit for bit
the same alone, in any batch, in prefill and in decoding (on one machine and number of threads); a test holds it.

Keys and values stand in pages of T tokens; a page that holds a whole context is a row of `kv_cache.KVCache`. Whoever
calls a kernel takes it through `tokenization.compilation.stored`, which keeps the machine code on disk.

Legend: R rows, I inputs, O outputs, H query heads, K key heads, P pages, T tokens in a page, D width of a head, F = 2I.
Left out: half precision. Read next: `compiled_lanes.py`, `compiled_decoding.py`.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit, prange

from cs336_basics.compiled_lanes import LANES, fma, load, store

FREE = {"contract", "reassoc", "nsz"}
"""a sum may be split over vector lanes, and multiply and add may fuse"""
F32 = np.float32
STREAMS = 8
"""inputs that `linear` takes at a time; their number must be a multiple of it"""
ROWS = 8
"""rows whose sums `linear` keeps in the nearest cache; a multiple of 4"""


@njit(parallel=True)
def linear(x_RI, w_TIO, scale_O, y_RO):
    """y = x w scale, a task per tile of outputs; the width of a tile is a multiple of LANES.

    The weights may be int8: they are widened in a register, so a quarter of the bytes arrive. Without scales: size 0.
    """
    rows, (tiles, inputs, outputs) = x_RI.shape[0], w_TIO.shape
    far = inputs // STREAMS
    for task in prange(tiles):
        w = w_TIO[task].ravel()
        begin, end = task * outputs, min(task * outputs + outputs, y_RO.shape[1])  # the last tile may be filled up
        for top in range(0, rows, ROWS):
            last = min(top + ROWS, rows) - 1
            sums = np.zeros(ROWS * outputs, np.float32)
            for i0 in range(far):
                if rows == 1:
                    for o in range(0, outputs, LANES):
                        s = load(sums, o)
                        for i in range(i0, inputs, far):
                            s = fma(x_RI[0, i], load(w, i * outputs + o), s)
                        store(sums, o, s)
                    continue
                for r in range(top, last + 1, 4):  # rows behind the last one repeat it and are dropped
                    a, b, c, d = x_RI[r], x_RI[min(r + 1, last)], x_RI[min(r + 2, last)], x_RI[min(r + 3, last)]
                    for o in range(0, outputs, LANES):
                        at_a = (r - top) * outputs + o
                        at_b, at_c, at_d = at_a + outputs, at_a + 2 * outputs, at_a + 3 * outputs
                        s, t, u, v = load(sums, at_a), load(sums, at_b), load(sums, at_c), load(sums, at_d)
                        for i in range(i0, inputs, far):
                            weights = load(w, i * outputs + o)
                            s, t = fma(a[i], weights, s), fma(b[i], weights, t)
                            u, v = fma(c[i], weights, u), fma(d[i], weights, v)
                        store(sums, at_a, s)
                        store(sums, at_b, t)
                        store(sums, at_c, u)
                        store(sums, at_d, v)
            for r in range(top, last + 1):
                y, scale, total = y_RO[r, begin:end], scale_O[begin:end], sums[(r - top) * outputs :]
                for o in range(end - begin):
                    y[o] = total[o] * scale[o] if scale_O.size else total[o]


@njit(fastmath={"contract"})
def exponential(x):
    """exp(x) for x <= 88 to 1e-7 of its value; a loop over it becomes vector instructions, one over numpy's does not.

    x = n ln 2 + r, |r| <= ln(2) / 2: a polynomial gives exp(r), and n goes into the exponent's bits. ln 2 is taken off
    in two parts, the first with so few bits that n times it is exact. Below -87 the value for -87 is returned.
    """
    x = max(x, F32(-87.0))
    n = np.floor(x * F32(1 / math.log(2)) + F32(0.5))
    r = x - n * F32(0.693359375) - n * F32(math.log(2) - 0.693359375)
    tail = F32(1 / 24) + r * (F32(1 / 120) + r * (F32(1 / 720) + r * F32(1 / 5040)))
    power = F32(1.0) + r * (F32(1.0) + r * (F32(0.5) + r * (F32(1 / 6) + r * tail)))
    return power * np.int32((np.int32(n) + 127) << 23).view(np.float32)


@njit(fastmath=FREE)
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


@njit(fastmath=FREE)
def gate(hidden_RF, y_RI):
    """y = SiLU(first half) * second half."""
    rows, width = y_RI.shape
    for r in range(rows):
        a, b, y = hidden_RF[r, :width], hidden_RF[r, width:], y_RI[r]
        for i in range(width):
            y[i] = a[i] / (F32(1.0) + exponential(min(-a[i], F32(88.0)))) * b[i]


@njit
def rotate(first, second, cos, sin):
    """Turn the pairs (first_k, second_k) by the angle of k, in place."""
    for k in range(len(cos)):
        a, b = first[k], second[k]
        first[k] = a * cos[k] - b * sin[k]
        second[k] = a * sin[k] + b * cos[k]


@njit
def rotate_and_store(qkv_RO, cos, sin, halves, position_R, table_RP, keys_PKTD, values_PKTD, num_heads):
    """Turn queries and keys by their row's position, in place, and write keys and values into the row's page.

    Coordinates that turn together are neighbours, or k and k + D/2 if `halves`.
    """
    heads, page_size, width = keys_PKTD.shape[1:]
    for r in range(position_R.shape[0]):
        position = position_R[r]
        for head in range(num_heads + heads):
            pairs = qkv_RO[r, head * width : (head + 1) * width]
            if halves:
                rotate(pairs[: width // 2], pairs[width // 2 :], cos[position], sin[position])
            else:
                rotate(pairs[::2], pairs[1::2], cos[position], sin[position])
        page, slot = table_RP[r, position // page_size], position % page_size
        for head in range(heads):
            key, value = (num_heads + head) * width, (num_heads + heads + head) * width
            keys_PKTD[page, head, slot] = qkv_RO[r, key : key + width]
            values_PKTD[page, head, slot] = qkv_RO[r, value : value + width]


@njit(parallel=True, fastmath=FREE)
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
        for t in range(tokens):
            scores[t] = exponential(scores[t] - largest)
            total += scores[t]
        y[:] = F32(0.0)
        for first in range(0, tokens, page_size):
            values_TD = values_PKTD[table_RP[r, first // page_size], kv_head]
            for t in range(min(page_size, tokens - first)):
                for i in range(width):
                    y[i] += scores[first + t] * values_TD[t, i]
        for i in range(width):
            y[i] /= total


@njit
def layer(
    x_RI, update_RI, ln1, qkv, qkv_scale, qkv_bias, out, out_scale, ln2, up, up_scale, down, down_scale,
    eps, cos, sin, halves, position_R, table_RP, keys_PKTD, values_PKTD, num_heads,
):  # fmt: skip
    """One layer of the model, in place: x takes the update and attention's, and update is then the feed-forward's.

    One call in place of nine: between two passes over the weights nothing of the interpreter is left in the caches, and
    each call costs several times what it does in a loop of its own.
    """
    rows, heads, width = x_RI.shape[0], keys_PKTD.shape[1], keys_PKTD.shape[3]
    y_RI = np.empty(x_RI.shape, np.float32)
    qkv_RO = np.empty((rows, (num_heads + 2 * heads) * width), np.float32)
    attended_RI = np.empty((rows, num_heads * width), np.float32)
    hidden_RF = np.empty((rows, 2 * down.shape[1]), np.float32)
    gated_RI = np.empty((rows, down.shape[1]), np.float32)
    add_and_norm(x_RI, update_RI, ln1, eps, y_RI)
    linear(y_RI, qkv, qkv_scale, qkv_RO)
    for r in range(rows if qkv_bias.size else 0):
        for o in range(qkv_bias.size):
            qkv_RO[r, o] += qkv_bias[o]
    rotate_and_store(qkv_RO, cos, sin, halves, position_R, table_RP, keys_PKTD, values_PKTD, num_heads)
    attend(qkv_RO, keys_PKTD, values_PKTD, table_RP, position_R, attended_RI)
    linear(attended_RI, out, out_scale, update_RI)
    add_and_norm(x_RI, update_RI, ln2, eps, y_RI)
    linear(y_RI, up, up_scale, hidden_RF)
    gate(hidden_RF, gated_RI)
    linear(gated_RI, down, down_scale, update_RI)


@njit(fastmath=FREE)
def log_probabilities(logits_RV, likeliest_R, chosen_R, found_R):
    """log softmax(logits)[chosen] per row; `likeliest` is where its largest logit stands."""
    for r in range(logits_RV.shape[0]):
        logits, total = logits_RV[r], F32(0.0)
        largest = logits[likeliest_R[r]]
        for v in range(len(logits)):
            total += exponential(logits[v] - largest)
        found_R[r] = logits[chosen_R[r]] - largest - math.log(total)
