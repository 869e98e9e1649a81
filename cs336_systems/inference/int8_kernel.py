"""The product with int8 weights, compiled: a quarter of the bytes of float32 arrive, and are widened in a register.

    y_ro = scale_o sum_i x_ri q_oi              stored outputs by inputs, four rows' dot products at once

Like the float kernels of `cs336_basics/decoding_kernels.py` (whose legend holds here), it adds each row's products in
the same order whatever rows stand beside it.

Read next: `fused_model.py`.
"""

from __future__ import annotations

from collections.abc import Sequence as Ordered

import numpy as np
import torch
from numba import njit, prange
from torch import Tensor

from cs336_basics.compiled_decoding import Array
from cs336_basics.decoding_kernels import LANES
from cs336_basics.tokenization.compilation import stored
from cs336_systems.inference.quantization import quantize_rows

BLOCK = 4
"""rows that `linear_int8` takes at a time; their number must be a multiple of it"""


@njit(parallel=True, fastmath=LANES)
def linear_int8(x_RI, q_OI, scale_O, y_RO, tile):
    """y = x (q scale)^T, `tile` outputs per task; each weight is widened in a register, sums are float32."""
    outputs, inputs = q_OI.shape
    for task in prange((outputs + tile - 1) // tile):
        for r in range(0, x_RI.shape[0], BLOCK):
            a, b, c, d = x_RI[r], x_RI[r + 1], x_RI[r + 2], x_RI[r + 3]
            for o in range(task * tile, min(task * tile + tile, outputs)):
                q, scale = q_OI[o], scale_O[o]
                s0 = s1 = s2 = s3 = np.float32(0.0)
                for i in range(inputs):
                    w = np.float32(q[i])
                    s0 += a[i] * w
                    s1 += b[i] * w
                    s2 += c[i] * w
                    s3 += d[i] * w
                y_RO[r, o], y_RO[r + 1, o] = s0 * scale, s1 * scale
                y_RO[r + 2, o], y_RO[r + 3, o] = s2 * scale, s3 * scale


class PackedInt8:
    """Matrices side by side as int8 with a scale per output; a `compiled_decoding.PackedMatrix`."""

    block = BLOCK

    def __init__(self, parts: Ordered[Tensor]):
        self.kernel = stored(linear_int8)
        quantized, scales = quantize_rows(torch.cat([part.detach() for part in parts]))
        self.weight, self.scales = quantized.numpy(), scales.numpy()
        self.num_bytes = self.weight.nbytes + self.scales.nbytes

    def __call__(self, x: Array) -> Array:
        """See PackedMatrix."""
        y = np.empty((len(x), len(self.weight)), np.float32)
        self.kernel(x, self.weight, self.scales, y, 32)
        return y
